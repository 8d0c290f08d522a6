//! The command line of `trivet-backup`, which `trivet backup` and `trivet restore` run.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::restore::Target;
use crate::tables::Table;

/// Backups of the cluster: base copies and the binary log as it is written, proven by restoring them.
#[derive(Debug, Parser)]
#[command(name = "trivet-backup", version)]
pub struct Cli {
    /// The configuration.
    #[arg(long, global = true, default_value = "/etc/trivet/backup.json")]
    pub config: PathBuf,
    /// Checks the configuration, and does nothing else.
    #[arg(long)]
    pub check: bool,
    /// What to do; without one it runs as the service.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What an operator does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Takes a base copy now.
    Now,
    /// Shows the base copies, and how far the log reaches.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows how backups are doing on this node and in the repositories.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Restores the latest backup into a scratch server, and compares it with a living member.
    Verify,
    /// Takes away what the retention no longer keeps.
    Prune,
    /// Restores the database as it was at a moment.
    Restore(Restore),
}

/// `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// A time with its zone (2026-01-02T15:04:05Z), one transaction (UUID:4711), or latest.
    #[arg(long)]
    pub to: Target,
    /// Where: a directory that is new; `scratch` runs a server beside the cluster until it is interrupted; `cluster` forms the group anew
    /// from it (docs/disaster.md).
    #[arg(long, default_value = "scratch")]
    pub into: String,
    /// Single tables (DATABASE.TABLE, several with commas), which come back beside the living ones: into a database of their own on the
    /// primary, trivet_restored_….
    #[arg(long, value_delimiter = ',', conflicts_with = "into")]
    pub tables: Vec<Table>,
    /// The site's files of this node, in place of the database: the last copy before the moment. `--into` names a directory that is new,
    /// where they stand below their whole paths.
    #[arg(long, value_name = "NODE", conflicts_with = "tables", requires = "into")]
    pub files: Option<String>,
    /// What the copy knows of its repositories is taken out of it: a group that is formed from it goes its own way.
    #[arg(long, hide = true, conflicts_with_all = ["tables", "files"])]
    pub new_history: bool,
    /// Which repository; the first that is configured when none is named.
    #[arg(long)]
    pub repository: Option<String>,
    /// A file with the recovery key, when the cluster's own key is gone.
    #[arg(long)]
    pub recovery_key: Option<PathBuf>,
}
