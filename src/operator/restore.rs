//! `trivet restore --into cluster`: the group formed anew from a backup; and `trivet database set-aside`, its part on the other nodes.
//!
//! `trivet-backup` restores while the cluster goes on; only then, and only when no other member has a database that runs, the directories
//! change places, and the keeper forms the group by force. Nothing is deleted: the old data directories are kept aside on every node.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

use trivet_base::config;
use trivet_base::process::{Failure, Shutdown};
use trivet_keeper_api as api;

use super::backup;
use super::cluster::{self, Cluster, Node, Role};
use super::database::{self, Consent};
use super::datadir::{self, DataDirectory};
use super::socket::CommandError;
use super::status::{self, Member, Report};

/// Debian's and NixOS' unit of mysqld.
const UNIT: &str = "mysql.service";

/// Where mysqld listens for members.
const MYSQL: u16 = 3306;

/// How long one look at the nodes may take.
const LOOK: Duration = Duration::from_secs(2);

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// The keeper sees a mysqld that has just started within this.
const SEEN: Duration = Duration::from_mins(2);

/// What `trivet restore` takes with `--into cluster`.
#[derive(Debug, Parser)]
#[command(name = "trivet restore --into cluster")]
pub struct IntoCluster {
    /// The moment: a time with its zone (2026-01-02T15:04:05Z), one transaction (UUID:4711), or latest.
    #[arg(long)]
    to: String,
    /// `cluster`.
    #[arg(long)]
    into: String,
    /// Which repository; the first that is configured when none is named.
    #[arg(long)]
    repository: Option<String>,
    /// A file with the recovery key, when the cluster's own key is gone.
    #[arg(long, value_name = "FILE")]
    recovery_key: Option<PathBuf>,
    /// The configuration of trivet-backup.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The cluster's name, in place of typing it.
    #[arg(long, value_name = "NAME")]
    yes_replace: Option<String>,
    /// These members cannot be reached and are off, in place of typing it. If one runs a group, there will be two.
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    unreachable_are_off: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// The control socket of this node's keeper.
    #[arg(long, value_name = "SOCKET", default_value = api::DEFAULT_SOCKET)]
    keeper: PathBuf,
}

/// This node, as both commands need it.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// mysqld's data directory.
    #[arg(long, value_name = "DIR", default_value = datadir::DEFAULT)]
    data_directory: PathBuf,
    /// The cluster file.
    #[arg(long, value_name = "FILE", default_value = cluster::DEFAULT_FILE)]
    cluster: PathBuf,
    /// Folder with this node's ca.pem, node.pem and node.key, without which the keepers tell nothing.
    #[arg(long, value_name = "DIR", default_value = status::DEFAULT_SECRETS)]
    secrets: PathBuf,
}

/// What `trivet database set-aside` takes.
#[derive(Debug, clap::Args)]
pub struct SetAside {
    /// This node's name, in place of typing it.
    #[arg(long, value_name = "NODE")]
    yes: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Held while this node's data directory changes places.
const LOCK: &str = "/run/trivet-data-directory.lock";

/// Both commands' view of the cluster.
struct Site {
    _lock: File,
    cluster: Cluster,
    me: Node,
    data: DataDirectory,
    secrets: PathBuf,
}

impl Site {
    fn open(place: &Place) -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::run("only root may stop mysqld and move its data: nothing was done"));
        }
        let cluster: Cluster = config::load(&place.cluster)?;
        let me = cluster.here().cloned().ok_or_else(|| {
            Failure::run(format_args!("this machine has no address of a node in {}", place.cluster.display()))
        })?;
        if !me.is(Role::Database) {
            return Err(Failure::run(format_args!(
                "{} has no role database: run this on a node that has it",
                me.name
            )));
        }
        let data = DataDirectory::at(&place.data_directory).map_err(Failure::run)?;
        data.has_all().map_err(Failure::run)?;
        let lock = File::create(LOCK).map_err(|e| io_failure(Path::new(LOCK), &e))?;
        if lock.try_lock().is_err() {
            return Err(Failure::run(
                "another restore into the cluster, or set-aside, runs on this node: nothing was done",
            ));
        }
        Ok(Self { _lock: lock, cluster, me, data, secrets: place.secrets.clone() })
    }

    async fn look(&self) -> Report {
        status::gather(&self.cluster, &self.secrets, LOOK).await
    }

    /// Stops mysqld and puts its data directory aside; where that is now.
    async fn put_aside(&self) -> Result<PathBuf, Failure> {
        let stopped = |e: Failure| {
            Failure::run(format_args!(
                "{e}\nNothing was moved, and mysqld may be stopped: systemctl start mysql starts it as it was"
            ))
        };
        systemctl("stop").await.map_err(stopped)?;
        let aside = self.data.set_aside(OffsetDateTime::now_utc());
        aside.map_err(|e| stopped(io_failure(self.data.path(), &e)))
    }

    fn others(&self) -> impl Iterator<Item = &Node> {
        self.cluster.with(Role::Database).filter(|n| n.name != self.me.name)
    }
}

/// Whether these are arguments for [`into_cluster`].
pub fn is_into_cluster(arguments: &[std::ffi::OsString]) -> bool {
    arguments.iter().any(|a| a == "--into=cluster")
        || arguments.windows(2).any(|pair| pair[0] == "--into" && pair[1] == "cluster")
}

/// `trivet restore --to MOMENT --into cluster`.
pub async fn into_cluster(options: IntoCluster) -> Result<(), Failure> {
    let site = Site::open(&options.place)?;
    if let Some(name) =
        options.unreachable_are_off.iter().find(|name| !site.others().any(|n| n.name == **name))
    {
        return Err(Failure::run(format_args!(
            "--unreachable-are-off: {name} is no other node with role database: nothing was done"
        )));
    }
    keeper_forms_groups(&site, &options.keeper).await?;
    let name = &site.cluster.name;
    println!(
        "The database of {name} ({}) becomes what it was at {}, on all nodes. What was written since is given up; the data \
         directories of now are kept aside on each node.",
        site.cluster.domain, options.to
    );
    Consent {
        question: "Type the cluster's name to go on: ".into(),
        expected: name,
        flag: "--yes-replace NAME",
    }
    .ask(options.yes_replace.as_deref())?;

    // Not before: at the prompt Ctrl-C ends it.
    let mut shutdown = Shutdown::of_a_command()?;
    let staging = site.data.staging();
    if !staging.clear().map_err(|e| io_failure(&staging.path, &e))? {
        return Err(Failure::run(format_args!(
            "{} is there, and is no rest of a restore into the cluster: move it elsewhere. Nothing was done",
            staging.path.display()
        )));
    }
    staging.mark().map_err(|e| io_failure(&staging.path, &e))?;
    let outcome = restored(&options, &staging.path, &mut shutdown).await;
    let outcome = match outcome {
        Ok(()) => nobody_else_runs(&site, &options.unreachable_are_off, &mut shutdown).await,
        failed => failed,
    };
    let ready =
        outcome.and_then(|()| site.data.hand_over(&staging.path).map_err(|e| io_failure(&staging.path, &e)));
    if let Err(e) = ready {
        let _ = staging.clear();
        return Err(e);
    }
    // From here on it is not interrupted.
    let outcome = swap(&site, &staging.path, &options.keeper).await;
    if !staging.path.exists() {
        let _ = staging.clear();
    }
    outcome
}

/// The restore takes hours; without a keeper that can form the group it would be for nothing.
async fn keeper_forms_groups(site: &Site, keeper: &Path) -> Result<(), Failure> {
    match database::plan(keeper, &site.me.name).await {
        // It refuses while a group runs, and while mysqld does not: neither is so when its turn comes.
        Ok(_) | Err(CommandError::Refused(_)) => {}
        Err(e) => return Err(Failure::run(format_args!("{e}\nNothing was done"))),
    }
    let report = site.look().await;
    match member(&report, &site.me.name) {
        Some(member) if member.phase == "misconfigured" => Err(Failure::run(format_args!(
            "this node's keeper would form no group: {}. Nothing was done",
            member.reason
        ))),
        _ => Ok(()),
    }
}

/// Lets `trivet-backup` do its part, with its own progress and summary.
async fn restored(options: &IntoCluster, staging: &Path, shutdown: &mut Shutdown) -> Result<(), Failure> {
    let program = backup::program();
    let mut command = Command::new(&program);
    command.arg("restore").arg("--to").arg(&options.to).arg("--into").arg(staging).arg("--new-history");
    for (flag, value) in [
        ("--repository", options.repository.as_ref().map(|r| r.as_ref())),
        ("--recovery-key", options.recovery_key.as_ref().map(|p| p.as_os_str())),
        ("--config", options.config.as_ref().map(|p| p.as_os_str())),
    ] {
        if let Some(value) = value {
            command.arg(flag).arg::<&std::ffi::OsStr>(value);
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::run(format_args!("{}: cannot be run: {e}", program.display())))?;
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = shutdown.wait() => {
            // A terminal tells it by itself; others are told by us. It takes away what it has begun.
            if let Some(id) = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
            }
            child.wait().await
        }
    };
    match ended {
        Ok(status) if status.success() && !shutdown.is_stopping() => Ok(()),
        Ok(_) if shutdown.is_stopping() => Err(Failure::run("interrupted: the cluster is as it was")),
        Ok(_) => Err(Failure::run("the cluster is as it was")),
        Err(e) => Err(Failure::run(e)),
    }
}

/// Waits until no other member has a mysqld that runs: a group that goes on would take the restored member in, and with it what was to be
/// given up.
async fn nobody_else_runs(site: &Site, are_off: &[String], shutdown: &mut Shutdown) -> Result<(), Failure> {
    let mut told = BTreeSet::new();
    let mut off = are_off.to_vec();
    loop {
        let report = site.look().await;
        let (mut running, mut silent) = (BTreeSet::new(), BTreeSet::new());
        for node in site.others() {
            match what_runs(&report, node).await {
                Runs::Yes => running.insert(node.name.clone()),
                Runs::Unknown => silent.insert(node.name.clone()),
                Runs::No => false,
            };
        }
        let silent = database::not_said(&silent, &off);
        if running.is_empty() && silent.is_empty() {
            return Ok(());
        }
        if running.is_empty() {
            println!(
                "mysqld of {} neither answers nor refuses connections: it may hang, or the machine is off",
                silent.join(" and ")
            );
            database::ask_about(&silent)?;
            off.extend(silent);
            continue;
        }
        if running != told {
            let names: Vec<&str> = running.iter().map(String::as_str).collect();
            println!(
                "Restored. The database still runs on {}. On each of them, as root: trivet database set-aside. Waiting for it …",
                names.join(" and ")
            );
            told = running;
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.wait() => return Err(Failure::run(
                "interrupted: what was restored is taken away, and this node is as it was. Where the database was set aside: \
                 systemctl start mysql, and it is cloned from the group",
            )),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Runs {
    Yes,
    No,
    Unknown,
}

async fn what_runs(report: &Report, node: &Node) -> Runs {
    let address = SocketAddr::new(node.address, MYSQL);
    let connected = tokio::time::timeout(LOOK, TcpStream::connect(address)).await;
    runs(member(report, &node.name), connected.ok().map(|c| c.map(drop).map_err(|e| e.kind())))
}

/// By what its keeper says and what came of a connection, `None` when nothing did. Only a refusal, which is the kernel's, says that
/// nothing listens: a mysqld that hangs gives its keeper no answer either.
fn runs(seen: Option<&Member>, connected: Option<Result<(), io::ErrorKind>>) -> Runs {
    match connected {
        _ if seen.is_some_and(|member| member.state.is_some()) => Runs::Yes,
        Some(Ok(())) => Runs::Yes,
        Some(Err(io::ErrorKind::ConnectionRefused)) => Runs::No,
        Some(Err(_)) | None => Runs::Unknown,
    }
}

/// The directories change places, and the keeper forms the group.
async fn swap(site: &Site, staging: &Path, keeper: &Path) -> Result<(), Failure> {
    let aside = site.put_aside().await.map_err(|e| {
        Failure::run(format_args!(
            "{e}\nWhat was restored is in {}; nodes where the database was set aside are cloned from here once mysqld runs again",
            staging.display()
        ))
    })?;
    println!("The data directory of before is {}", aside.display());
    site.data.take(staging).map_err(|e| {
        Failure::run(format_args!(
            "{}: {e}\nmysqld is stopped, and must not be started so: a part of what was restored is still in {}. Move that to {}, or put {} in \
             its place",
            site.data.path().display(),
            staging.display(),
            site.data.path().display(),
            aside.display()
        ))
    })?;
    let Err(e) = form(site, keeper).await else {
        println!(
            "{} has formed the group with the restored database and takes writes; nodes whose database was set aside follow by themselves: \
             trivet status. The backups need a repository of their own from now on (docs/disaster.md). Delete {} when nothing of it is \
             needed.",
            site.me.name,
            aside.display()
        );
        return Ok(());
    };
    // Whether the keeper has begun is not known in every case, so nothing is moved back without being looked at.
    Err(Failure::run(format_args!(
        "{e}\nThe group was not formed. What was restored is in {}, the data directory of before is {}. When the cause is mended: \
         systemctl start mysql, and trivet database force-bootstrap {}. To go back to before: systemctl stop mysql, put {} in its place, \
         and start it.",
        site.data.path().display(),
        aside.display(),
        site.me.name,
        aside.display()
    )))
}

async fn form(site: &Site, keeper: &Path) -> Result<(), Failure> {
    systemctl("start").await?;
    let begun = Instant::now();
    // The keeper sees the new mysqld a moment later.
    let plan = loop {
        match database::plan(keeper, &site.me.name).await {
            Ok(plan) => break plan,
            Err(e) if begun.elapsed() > SEEN => return Err(Failure::run(e)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    database::carry_out(keeper, &plan).await.map_err(Failure::run)
}

/// `trivet database set-aside`: this node's part of a restore that another node makes. mysqld stops, its data is kept aside, and when the
/// group has been formed anew it starts empty, and is cloned.
pub async fn set_aside(options: SetAside) -> Result<(), Failure> {
    let site = Site::open(&options.place)?;
    println!(
        "mysqld of {} stops, and its data directory is kept aside. It starts again, empty, when another node has formed the group anew \
         (trivet restore --into cluster), and gets everything from there.",
        site.me.name
    );
    Consent {
        question: "Type this node's name to go on: ".into(),
        expected: &site.me.name,
        flag: "--yes NODE",
    }
    .ask(options.yes.as_deref())?;
    let mut shutdown = Shutdown::of_a_command()?;
    let report = site.look().await;
    let Some(known) = member(&report, &site.me.name).and_then(|m| m.forks) else {
        return Err(Failure::run(
            "this node's keeper does not tell which groups it has been part of, so that the one that is formed anew could not be known: see \
             systemctl status trivet-keeper. Nothing was done",
        ));
    };
    let aside = site.put_aside().await?;
    println!(
        "The data directory is {}. Waiting for the primary of a group that was formed anew by force, more often than the {known} times that \
         the keeper of {} remembers …",
        aside.display(),
        site.me.name
    );
    let mut told = None;
    loop {
        let seen = Group::seen(&site.look().await, &site.me.name, known);
        if let Group::New(_) = seen {
            break;
        }
        if told.as_ref() != Some(&seen) {
            println!("{seen}");
            told = Some(seen);
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.wait() => return Err(Failure::run(format_args!(
                "interrupted: mysqld stays stopped, its data is {}. systemctl start mysql starts it empty; it is then cloned from \
                 the group that runs",
                aside.display()
            ))),
        }
    }
    systemctl("start").await?;
    println!(
        "The group has been formed anew; this node is cloned from it: trivet status. Delete {} when nothing of it is needed.",
        aside.display()
    );
    Ok(())
}

fn member<'a>(report: &'a Report, node: &str) -> Option<&'a Member> {
    report.nodes.iter().find(|n| n.name == node).and_then(|n| n.database.as_ref())
}

/// The group that runs, as a node sees it that has left it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Group {
    /// Formed by force since; its primary.
    New(String),
    /// The one that the node knows; its primary.
    Before(String),
    /// No primary answers.
    Nobody,
}

impl Group {
    /// Without what `me` says. `known` is how many times the group was formed by force, as far as `me` has been part of it: a group
    /// that was formed anew counts one more, whether that was before or after `me` was asked.
    fn seen(report: &Report, me: &str, known: usize) -> Self {
        let primaries = report.nodes.iter().filter(|n| n.name != me).filter_map(|n| {
            let member = n.database.as_ref()?;
            let is_primary = member.state.as_deref() == Some("ONLINE")
                && member.role.as_deref() == Some("PRIMARY")
                && member.majority;
            is_primary.then(|| (member.forks.unwrap_or(0), n.name.clone()))
        });
        match primaries.max() {
            Some((forks, name)) if forks > known => Self::New(name),
            Some((_, name)) => Self::Before(name),
            None => Self::Nobody,
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New(primary) => write!(f, "{primary} is the primary of the group that was formed anew"),
            Self::Before(primary) => write!(f, "{primary} is the primary of the group of before"),
            Self::Nobody => f.write_str("no primary answers"),
        }
    }
}

async fn systemctl(verb: &str) -> Result<(), Failure> {
    // In a group of its own: Ctrl-C is not for it.
    let mut systemctl = Command::new("systemctl");
    let done = systemctl.arg(verb).arg(UNIT).stdin(Stdio::null()).process_group(0).status().await;
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => {
            Err(Failure::run(format_args!("systemctl {verb} {UNIT} failed: journalctl -u {UNIT} says why")))
        }
        Err(e) => Err(Failure::run(format_args!("systemctl: cannot be run: {e}"))),
    }
}

fn io_failure(path: &Path, e: &io::Error) -> Failure {
    Failure::run(format_args!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::NodeReport;

    fn silent(name: &str) -> NodeReport {
        NodeReport {
            name: name.into(),
            address: "127.0.0.1".parse().unwrap(),
            roles: vec![Role::Database],
            programs: [].into(),
            database: None,
            certificates: [].into(),
            warnings: Vec::new(),
            held: Vec::new(),
        }
    }

    fn offline(name: &str, forks: Option<usize>) -> NodeReport {
        let member = Member {
            state: Some("OFFLINE".into()),
            role: Some(String::new()),
            primary: None,
            view_id: None,
            majority: false,
            forks,
            lag_seconds: None,
            phase: "waiting-for-members".into(),
            reason: String::new(),
            version: None,
            gtid_executed: None,
            warnings: Vec::new(),
            leaving: false,
        };
        NodeReport { database: Some(member), ..silent(name) }
    }

    fn primary(name: &str, forks: Option<usize>) -> NodeReport {
        let mut node = offline(name, forks);
        let member = node.database.as_mut().unwrap();
        (member.state, member.role, member.majority) = (Some("ONLINE".into()), Some("PRIMARY".into()), true);
        node
    }

    fn report(nodes: Vec<NodeReport>) -> Report {
        Report {
            cluster: "site".into(),
            domain: "example.org".into(),
            time: String::new(),
            verdict: status::Verdict::Degraded,
            site_down: false,
            problems: Vec::new(),
            virtual_addresses: Vec::new(),
            nodes,
        }
    }

    #[test]
    fn a_mysqld_that_hangs_is_not_taken_for_one_that_is_stopped() {
        let stopped = |node: NodeReport| {
            let member = node.database.map(|m| Member { state: None, ..m });
            move |connected| runs(member.as_ref(), connected)
        };
        for judged in [stopped(silent("node1")), stopped(offline("node1", None))] {
            assert_eq!(judged(Some(Err(io::ErrorKind::ConnectionRefused))), Runs::No);
            assert_eq!(judged(Some(Ok(()))), Runs::Yes);
            assert_eq!(judged(None), Runs::Unknown);
            assert_eq!(judged(Some(Err(io::ErrorKind::HostUnreachable))), Runs::Unknown);
        }
        let answers = offline("node1", None).database;
        assert_eq!(runs(answers.as_ref(), Some(Err(io::ErrorKind::ConnectionRefused))), Runs::Yes);
    }

    #[test]
    fn a_node_that_was_set_aside_waits_for_a_group_that_was_formed_by_force_and_for_no_other() {
        let seen = |nodes| Group::seen(&report(nodes), "node2", 1);
        assert_eq!(seen(vec![silent("node1")]), Group::Nobody, "its keeper is silent");
        assert_eq!(seen(vec![offline("node1", Some(2))]), Group::Nobody, "it is not formed yet");
        // The primary was not to be seen for a moment, and is again.
        assert_eq!(seen(vec![primary("node1", Some(1))]), Group::Before("node1".into()));
        // Whether it was there before the command was given or not.
        assert_eq!(seen(vec![primary("node1", Some(2))]), Group::New("node1".into()));
        let both = vec![primary("node3", Some(1)), primary("node1", Some(2))];
        assert_eq!(seen(both), Group::New("node1".into()));
        assert_eq!(seen(vec![primary("node2", Some(2))]), Group::Nobody, "what it says itself");
        assert_eq!(seen(vec![primary("node1", None)]), Group::Before("node1".into()), "an older keeper");
        let mut cut_off = primary("node1", Some(2));
        cut_off.database.as_mut().unwrap().majority = false;
        assert_eq!(seen(vec![cut_off]), Group::Nobody);
    }

    #[test]
    fn the_words_for_the_cluster_are_told_from_those_for_a_directory() {
        let words = |line: &str| line.split(' ').map(std::ffi::OsString::from).collect::<Vec<_>>();
        assert!(is_into_cluster(&words("--to latest --into cluster")));
        assert!(is_into_cluster(&words("--into=cluster --to latest")));
        assert!(!is_into_cluster(&words("--to latest --into /srv/cluster")));
        assert!(!is_into_cluster(&words("--into scratch --to cluster")));
        let parsed =
            IntoCluster::try_parse_from(words("x --to latest --into cluster --recovery-key /k")).unwrap();
        assert_eq!(parsed.place.data_directory, Path::new("/var/lib/mysql"));
        let off = "x --to latest --into cluster --unreachable-are-off node2,node3";
        assert_eq!(IntoCluster::try_parse_from(words(off)).unwrap().unreachable_are_off, ["node2", "node3"]);
        IntoCluster::try_parse_from(words("x --to latest --into cluster --unreachable-are-off")).unwrap_err();
        // Single tables come back beside the living ones, not in the place of all.
        IntoCluster::try_parse_from(words("x --to latest --into cluster --tables a.b")).unwrap_err();
    }
}
