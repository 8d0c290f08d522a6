//! The command line of `trivet`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::cluster::{self, Cluster};
use super::{database, secrets, status, switchover};
use trivet_base::config;
use trivet_base::process::{self, Failure};
use trivet_keeper_api as api;

/// Operates a Trivet cluster.
#[derive(Debug, Parser)]
#[command(name = "trivet", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who holds the virtual addresses, what is healthy, what is not. Exit status: 0 healthy, 1 degraded, 2 nothing
    /// answers.
    Status(Status),
    /// Move the database's primary role to another node, for planned work. Exit status: 0 when the new primary takes
    /// writes, 1 when it does not.
    Switchover(Switchover),
    /// This node's member of the database group.
    #[command(subcommand)]
    Database(Database),
    /// Certificates and passwords of the cluster.
    #[command(subcommand)]
    Secrets(Secrets),
}

#[derive(Debug, Args)]
struct Status {
    /// The cluster file.
    #[arg(long, value_name = "FILE", default_value = cluster::DEFAULT_FILE)]
    cluster: PathBuf,
    /// Folder with this node's ca.pem, node.pem and node.key, without which the keepers tell nothing.
    #[arg(long, value_name = "DIR", default_value = status::DEFAULT_SECRETS)]
    secrets: PathBuf,
    /// How long any one answer may take.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// JSON, as docs/trivet.md describes it, instead of a table.
    #[arg(long)]
    json: bool,
    /// Show it again and again, with this pause.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", require_equals = true,
          value_parser = humantime::parse_duration, conflicts_with = "json")]
    watch: Option<Duration>,
}

#[derive(Debug, Args)]
struct Switchover {
    /// The node whose member is to become the primary. Without it: the best other member.
    node: Option<String>,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
    /// The control socket of this node's keeper.
    #[arg(long, value_name = "SOCKET", default_value = api::DEFAULT_SOCKET)]
    keeper: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Database {
    /// Before mysqld stops: hand the primary role over, and take the member out of the gateways' reads. The unit of mysqld
    /// runs this at every stop. Always exits with 0, so that no stop is blocked.
    PrepareStop(PrepareStop),
    /// After a complete outage with a disk or a machine lost: let the group go on with what this node has. Says what may be
    /// lost, and asks for the node's name to be typed.
    ForceBootstrap(ForceBootstrap),
}

#[derive(Debug, Args)]
struct ForceBootstrap {
    /// This node, which should be the one with the most transactions (`trivet status --json`: gtid_executed).
    node: String,
    /// The node's name once more, in place of typing it.
    #[arg(long, value_name = "NODE")]
    yes_i_lose_data: Option<String>,
    /// All members that cannot be reached are off, in place of typing it. If one runs a group, there will be two.
    #[arg(long)]
    unreachable_are_off: bool,
    /// The control socket of this node's keeper.
    #[arg(long, value_name = "SOCKET", default_value = api::DEFAULT_SOCKET)]
    keeper: PathBuf,
}

#[derive(Debug, Args)]
struct PrepareStop {
    /// The longest that a stop may be delayed.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The control socket of this node's keeper.
    #[arg(long, value_name = "SOCKET", default_value = api::DEFAULT_SOCKET)]
    keeper: PathBuf,
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
        Command::Status(args) => show_status(&args),
        Command::Switchover(args) => {
            process::finish("trivet", process::block_on(switchover::run(&args.keeper, args.node, args.json)))
        }
        Command::Database(Database::PrepareStop(args)) => process::finish(
            "trivet",
            process::block_on(async {
                database::prepare_stop(&args.keeper, args.timeout).await;
                Ok(())
            }),
        ),
        Command::Database(Database::ForceBootstrap(args)) => {
            let force = database::Force {
                node: args.node,
                consent: args.yes_i_lose_data,
                off: args.unreachable_are_off,
            };
            process::finish("trivet", process::block_on(database::force_bootstrap(&args.keeper, force)))
        }
        Command::Secrets(Secrets::Init(args)) => process::finish("trivet", secrets_init(&args)),
    }
}

fn show_status(args: &Status) -> ExitCode {
    let options = status::Options {
        secrets: args.secrets.clone(),
        timeout: args.timeout,
        json: args.json,
        watch: args.watch,
    };
    let mut code = 0;
    let outcome = config::load::<Cluster>(&args.cluster).map_err(Failure::from).and_then(|cluster| {
        process::block_on(async {
            code = status::run(&cluster, &options).await?;
            Ok(())
        })
    });
    match outcome {
        Ok(()) => ExitCode::from(code),
        failed => process::finish("trivet", failed),
    }
}

fn secrets_init(args: &SecretsInit) -> Result<(), Failure> {
    let cluster: Cluster = config::load(&args.cluster)?;
    let report = secrets::init(&cluster, &args.out, args.missing)?;
    print!("{report}");
    Ok(())
}
