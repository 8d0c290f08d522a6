//! The command line of `trivet`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::cluster::{self, Cluster};
use super::control::{self, Socket};
use super::{backup, database, failover, restore, route, secrets, status, switchover, top, transfer};
use trivet_balancer_api::{Command as Order, Target};
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
    /// Pools with their back ends, and what operators have ordered.
    List(List),
    /// Nothing new for a node (its requests, its reads of the database, the virtual addresses) or for one back end; what it has is
    /// finished. Remembered over restarts, on all nodes.
    Drain(Drain),
    /// Use a drained or disabled node or back end again.
    Ready(Aim),
    /// Nothing at all for one back end, not even for the sessions that are bound to it.
    Disable(Aim),
    /// How much a back end gets in comparison with others.
    Weight(Weight),
    /// Tell a site's visitors that it is closed.
    #[command(subcommand)]
    Maintenance(Maintenance),
    /// Move the virtual addresses to another node, for planned work. Exit status: 0 when they are there, 1 when they are not.
    Failover(Failover),
    /// What is going on, live: sites, routes, back ends, their rates, latencies and errors, of all balancers together.
    Top(Top),
    /// Who is connected to this node's balancer.
    Connections(Connections),
    /// What this node's database gateway and its balancer carry over TCP.
    Sessions(List),
    /// The last requests that came to nothing at this node's balancer, the latest first.
    Errors(List),
    /// Which route would answer a request, and why.
    Route(Route),
    /// This node's member of the database group.
    #[command(subcommand)]
    Database(Database),
    /// Backups: now, list, status, verify, prune (trivet backup --help).
    #[command(disable_help_flag = true)]
    Backup(Passed),
    /// The database as it was at a moment (trivet restore --help).
    #[command(disable_help_flag = true)]
    Restore(Passed),
    /// Certificates and passwords of the cluster.
    #[command(subcommand)]
    Secrets(Secrets),
}

/// What another program takes.
#[derive(Debug, Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Where commands for balancers go.
#[derive(Debug, Args)]
struct Control {
    /// The control socket of this node's balancer, or gateway; without it, the first of the two that is there.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    control: Control,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Aim {
    /// A node, or POOL/BACKEND.
    target: String,
    #[command(flatten)]
    control: Control,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Drain {
    #[command(flatten)]
    aim: Aim,
    /// Wait until it has no requests in hand any more, so long at most.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "5m", require_equals = true,
          value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

#[derive(Debug, Args)]
struct Weight {
    /// POOL/BACKEND.
    backend: String,
    /// 0 to 256, or "default" for what the configuration says.
    #[arg(value_parser = weight)]
    weight: Share,
    #[command(flatten)]
    control: Control,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

/// A weight; none for that of the configuration.
#[derive(Debug, Clone, Copy)]
struct Share(Option<u32>);

fn weight(text: &str) -> Result<Share, String> {
    match text {
        "default" => Ok(Share(None)),
        number => {
            number.parse().map(|n| Share(Some(n))).map_err(|_| "write a number, or \"default\"".to_owned())
        }
    }
}

#[derive(Debug, Subcommand)]
enum Maintenance {
    /// Close it: 503 with its own page, on all balancers, until it is opened.
    On(Close),
    /// Open it again.
    Off(Open),
}

#[derive(Debug, Args)]
struct Close {
    /// A site of the configuration; "main" is that of `domain`.
    #[arg(default_value = "main")]
    site: String,
    /// When it opens by itself: 30m, 2h, or "2026-11-28 22:00:00" (UTC). Visitors are told to come back then.
    #[arg(long, value_name = "TIME", value_parser = control::until)]
    until: Option<u64>,
    /// A network, or an address, whose clients are served as before. May be given more than once.
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    allow: Vec<ipnet::IpNet>,
    #[command(flatten)]
    control: Control,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Open {
    /// A site of the configuration; "main" is that of `domain`.
    #[arg(default_value = "main")]
    site: String,
    #[command(flatten)]
    control: Control,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

fn network(text: &str) -> Result<ipnet::IpNet, String> {
    config::network(text)
}

#[derive(Debug, Args)]
struct Top {
    /// Between two looks.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// One look, and no more.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    control: Control,
    /// A line of JSON for each look, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Connections {
    /// Each by itself, the oldest first, in place of how many each client has.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    control: Control,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Route {
    /// `https://www.foobar.com/path?query`, or without its scheme.
    #[arg(value_parser = route::url)]
    url: String,
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// Where it comes from.
    #[arg(long, value_name = "IP", default_value_t = route::ANYBODY)]
    client: std::net::IpAddr,
    /// A field of it, "Accept: text/html". May be given more than once.
    #[arg(long = "field", value_name = "FIELD")]
    fields: Vec<String>,
    #[command(flatten)]
    control: Control,
    /// JSON, as docs/trivet.md describes it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Failover {
    /// The node that is to have them. Without it: the next balancer that is fit.
    node: Option<String>,
    #[command(flatten)]
    control: Control,
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
    /// This node's part of `trivet restore --into cluster`, which another node carries out: mysqld stops, its data directory is kept
    /// aside, and it starts again, empty, when the group has been formed anew. Asks for the node's name to be typed.
    SetAside(restore::SetAside),
    /// Move the databases of another MySQL server into the cluster (trivet database import --help).
    #[command(disable_help_flag = true)]
    Import(Passed),
    /// A dump of the cluster that any MySQL reads (trivet database export --help).
    #[command(disable_help_flag = true)]
    Export(Passed),
}

#[derive(Debug, Args)]
struct ForceBootstrap {
    /// This node, which should be the one with the most transactions (`trivet status --json`: gtid_executed).
    node: String,
    /// The node's name once more, in place of typing it.
    #[arg(long, value_name = "NODE")]
    yes_i_lose_data: Option<String>,
    /// These members cannot be reached and are off, in place of typing it. If one runs a group, there will be two.
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    unreachable_are_off: Vec<String>,
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
        Command::List(args) => {
            let socket = Socket(args.control.control);
            process::finish("trivet", process::block_on(control::list(&socket, args.json)))
        }
        Command::Drain(args) => process::finish("trivet", drain(args)),
        Command::Ready(aim) => {
            let target = Target::parse(&aim.target);
            let what = format!("{target} is used again, as its checks say");
            command(aim.control, &Order::Ready { target }, &what, aim.json)
        }
        Command::Disable(aim) => {
            let target = Target::parse(&aim.target);
            let what = format!("{target} is disabled");
            command(aim.control, &Order::Disable { target }, &what, aim.json)
        }
        Command::Weight(args) => {
            let target = Target::parse(&args.backend);
            let what = match args.weight.0 {
                Some(weight) => format!("{target} has the weight {weight}"),
                None => format!("{target} has the weight of the configuration"),
            };
            let order = Order::Weight { target, weight: args.weight.0 };
            command(args.control, &order, &what, args.json)
        }
        Command::Maintenance(Maintenance::On(args)) => {
            let what = format!("the site {} is in maintenance", args.site);
            let order = Order::Maintenance { site: args.site, until: args.until, allow: args.allow };
            command(args.control, &order, &what, args.json)
        }
        Command::Maintenance(Maintenance::Off(args)) => {
            let what = format!("the site {} is open", args.site);
            command(args.control, &Order::MaintenanceOff { site: args.site }, &what, args.json)
        }
        Command::Top(args) => {
            let socket = Socket(args.control.control);
            process::finish(
                "trivet",
                process::block_on(top::run(&socket, args.interval, args.once, args.json)),
            )
        }
        Command::Connections(args) => {
            let socket = Socket(args.control.control);
            process::finish("trivet", process::block_on(control::connections(&socket, args.all, args.json)))
        }
        Command::Sessions(args) => {
            let socket = Socket(args.control.control);
            process::finish("trivet", process::block_on(control::sessions(&socket, args.json)))
        }
        Command::Errors(args) => {
            let socket = Socket(args.control.control);
            process::finish("trivet", process::block_on(control::errors(&socket, args.json)))
        }
        Command::Route(args) => {
            let question = trivet_balancer_api::Question {
                url: args.url,
                method: args.method,
                client: args.client,
                fields: args.fields,
            };
            let socket = Socket(args.control.control);
            process::finish("trivet", process::block_on(route::run(&socket, &question, args.json)))
        }
        Command::Failover(args) => {
            let socket = Socket(args.control.control);
            process::finish("trivet", process::block_on(failover::run(&socket, args.node)))
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
        Command::Database(Database::SetAside(args)) => {
            process::finish("trivet", process::block_on(restore::set_aside(args)))
        }
        Command::Database(Database::Import(args)) => {
            process::finish("trivet", transfer::run("import", &args.arguments))
        }
        Command::Database(Database::Export(args)) => {
            process::finish("trivet", transfer::run("export", &args.arguments))
        }
        Command::Backup(args) => process::finish("trivet", backup::run(&args.arguments)),
        Command::Restore(args) if restore::is_into_cluster(&args.arguments) => {
            let words = std::iter::once("trivet restore".into()).chain(args.arguments);
            match process::parse_args_from(words) {
                Ok(options) => process::finish("trivet", process::block_on(restore::into_cluster(options))),
                Err(code) => code,
            }
        }
        Command::Restore(args) => process::finish("trivet", backup::restore(&args.arguments)),
        Command::Secrets(Secrets::Init(args)) => process::finish("trivet", secrets_init(&args)),
    }
}

fn command(control: Control, order: &Order, what: &str, json: bool) -> ExitCode {
    let socket = Socket(control.control);
    process::finish("trivet", process::block_on(control::run(&socket, order, what, json)))
}

fn drain(args: Drain) -> Result<(), Failure> {
    let target = Target::parse(&args.aim.target);
    let what = format!("{target} is drained: it gets nothing new");
    let socket = Socket(args.aim.control.control);
    process::block_on(async {
        let order = Order::Drain { target: target.clone() };
        control::run(&socket, &order, &what, args.aim.json).await?;
        match args.wait {
            Some(longest) => control::wait_until_idle(&socket, &target, longest).await,
            None => Ok(()),
        }
    })
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
