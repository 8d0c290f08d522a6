//! The command line of `trivet`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::cluster::{self, Cluster};
use super::secrets;
use crate::config;
use crate::process::{self, Failure};

/// Operates a Trivet cluster.
#[derive(Debug, Parser)]
#[command(name = "trivet", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Certificates and passwords of the cluster.
    #[command(subcommand)]
    Secrets(Secrets),
}

#[derive(Debug, Subcommand)]
enum Secrets {
    /// Make the cluster's CA, every node's certificates, and the passwords.
    Init(SecretsInit),
}

#[derive(Debug, Args)]
struct SecretsInit {
    /// The cluster file.
    #[arg(long, value_name = "FILE", default_value = cluster::DEFAULT_FILE)]
    cluster: PathBuf,
    /// Where to write: one folder per node, and ca/. Not below /nix/store.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Add what is absent and leave the rest: for a new node, or to renew a certificate that was deleted.
    #[arg(long)]
    missing: bool,
}

/// Reads the command line, does what it says, and returns the exit status.
pub fn main() -> ExitCode {
    let cli: Cli = match process::parse_args() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.command {
        Command::Secrets(Secrets::Init(args)) => process::finish("trivet", secrets_init(&args)),
    }
}

fn secrets_init(args: &SecretsInit) -> Result<(), Failure> {
    let cluster: Cluster = config::load(&args.cluster)?;
    let report = secrets::init(&cluster, &args.out, args.missing)?;
    print!("{report}");
    Ok(())
}
