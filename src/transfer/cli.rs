//! The command line of `trivet-transfer`, which `trivet database import` and `trivet database export` run.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

/// Moves a database into the cluster, and writes a dump of it.
#[derive(Debug, Parser)]
#[command(name = "trivet-transfer", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What an operator does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copies databases of another MySQL server, follows it, and takes its place. To be run on the primary's node. Exit status: 0 when it is
    /// done, 1 when it is not.
    Import(Box<Import>),
    /// Writes a dump that any MySQL reads. Exit status: 0 when it is whole, 1 when it is not.
    Export(Export),
}

/// This node's member of the database, and MySQL's programs.
#[derive(Debug, Clone, Args)]
pub struct Member {
    /// The socket of this node's mysqld.
    #[arg(long, value_name = "SOCKET", default_value = "/run/mysqld/mysqld.sock")]
    pub socket: PathBuf,
    /// The account there, which the socket lets in.
    #[arg(long, value_name = "USER", default_value = "root")]
    pub user: String,
    /// The folder with mysqldump and mysql. Without it: where the shell finds them.
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
}

/// `import`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("step").args(["report", "status", "pause", "cut_over", "back", "abort"])))]
#[allow(clippy::struct_excessive_bools, reason = "they are options of a command line")]
pub struct Import {
    /// The source: `mysql://USER@HOST[:PORT]/[DATABASE,…]`. Without databases: all of its own.
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// A file with the password of the account at the source.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The CA that the source's certificate must come from; mysqld on this node must be able to read the file, too. Without it TLS is used, and
    /// whom it leads to is not verified.
    #[arg(long, value_name = "FILE")]
    pub source_ca: Option<PathBuf>,
    /// The source has no TLS, and what is read from it may be seen and changed on the way.
    #[arg(long, conflicts_with = "source_ca")]
    pub without_tls: bool,
    /// Tables without a primary key get an invisible one here (my_row_id).
    #[arg(long)]
    pub generate_keys: bool,
    /// End as soon as the cluster has all that the source had then; without it the lag is shown until it is interrupted. The cluster goes on
    /// following in either case.
    #[arg(long)]
    pub until_caught_up: bool,
    /// Say what stands in the way, and do nothing else. Exit status 1 when something does.
    #[arg(long)]
    pub report: bool,
    /// Show how far it is.
    #[arg(long)]
    pub status: bool,
    /// Stop following until the command is run again: for `trivet switchover`, which MySQL refuses meanwhile.
    #[arg(long)]
    pub pause: bool,
    /// Take the source's place: it is made read-only, everything is applied and compared, the channel is removed, events are enabled. One that was
    /// interrupted goes on when it is run again.
    #[arg(long)]
    pub cut_over: bool,
    /// Nobody writes to the source any more: for an account there that may not make it read-only.
    #[arg(long, requires = "cut_over")]
    pub source_is_stopped: bool,
    /// Databases that were made at the source after the copy and that nobody needs in the cluster.
    #[arg(long, value_name = "DATABASE,…", value_delimiter = ',', requires = "cut_over")]
    pub leave_out: Vec<String>,
    /// How the tables are compared before the source's place is taken.
    #[arg(long, value_enum, default_value = "count")]
    pub compare: Compare,
    /// After --cut-over: the source follows the cluster, so that one can return to it.
    #[arg(long)]
    pub back: bool,
    /// Where the source reaches the primary, HOST:PORT. Without it: as the members reach one another.
    #[arg(long, value_name = "ADDRESS", requires = "back")]
    pub address: Option<String>,
    /// Ends the import: before --cut-over the channel and what was copied are removed, afterwards the way back alone. Asks first.
    #[arg(long)]
    pub abort: bool,
    /// Do not ask.
    #[arg(long, requires = "abort")]
    pub yes: bool,
    /// JSON, as docs/moving.md describes it: of --report and --status.
    #[arg(long)]
    pub json: bool,
    /// Where the cluster is.
    #[command(flatten)]
    pub member: Member,
}

/// How tables are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compare {
    /// Rows are counted.
    Count,
    /// CHECKSUM TABLE, which reads all of both. Servers of different versions may have different sums of the same rows.
    Checksum,
    /// Not at all.
    None,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Only these.
    #[arg(long, value_name = "DATABASE", value_delimiter = ',')]
    pub database: Vec<String>,
    /// Where to; - is standard output. A file appears under this name once it is whole.
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Another server than this node's: `HOST[:PORT]` of a replica. Takes --user, --password-file and --ca.
    #[arg(long, value_name = "ADDRESS", requires = "password_file", requires = "ca")]
    pub host: Option<String>,
    /// A file with the password of the account there.
    #[arg(long, value_name = "FILE", requires = "host")]
    pub password_file: Option<PathBuf>,
    /// The cluster's CA.
    #[arg(long, value_name = "FILE", requires = "host")]
    pub ca: Option<PathBuf>,
    /// Leave the accounts that views and routines are defined by as they are. Without it whoever loads the dump becomes their definer.
    #[arg(long)]
    pub keep_definers: bool,
    /// Where the cluster is.
    #[command(flatten)]
    pub member: Member,
}
