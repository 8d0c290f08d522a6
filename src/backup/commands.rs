//! What an operator does, each in this process, under the lease where it changes anything.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mysql_async::prelude::Queryable;

use trivet_base::process::{Failure, Shutdown};
use trivet_lease::{Asked, Held};

use crate::base::{self, Description, LABEL, Turn};
use crate::cli::{Command, Restore};
use crate::cluster::{Cluster, WORK_LEASE};
use crate::config::Config;
use crate::files;
use crate::keys::Keys;
use crate::log::catalog;
use crate::mysqld::{MysqldError, Scratch};
use crate::progress::{self, Watcher};
use crate::prune;
use crate::repository::{Repository, blocking, recovery_object};
use crate::restore::{Unfinished, Wanted, clock, restore};
use crate::tables;
use crate::verify;

/// Runs a command.
pub async fn run(config: Config, command: Command) -> Result<(), Failure> {
    let cluster = match &command {
        // Tables come back over the cluster's account.
        Command::Restore(Restore { recovery_key: Some(file), tables, .. }) if tables.is_empty() => {
            Cluster::without_secrets(config, Keys::of_safe(file).map_err(Failure::run)?)
        }
        _ => Cluster::new(config)?,
    };
    let watcher = Watcher::default();
    let shown = tokio::spawn(progress::show(watcher.clone()));
    let mut interrupted = Shutdown::of_a_command()?;
    let outcome = tokio::select! {
        // What ends in order by a signal says so itself.
        biased;
        outcome = dispatch(&cluster, command, &watcher, interrupted.clone()) => outcome,
        () = interrupted.wait() => Err(Failure::run("interrupted; what was begun is taken away again")),
    };
    watcher.end();
    shown.abort();
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    outcome
}

async fn dispatch(
    cluster: &Cluster,
    command: Command,
    watcher: &Watcher,
    interrupted: Shutdown,
) -> Result<(), Failure> {
    match command {
        Command::Now => now(cluster, watcher).await,
        Command::List { json } => list(cluster, json, watcher).await,
        Command::Status { json } => crate::status::show(cluster, json, watcher).await,
        Command::Verify => {
            let held = lease(cluster, "a trial restore").await?;
            let mut failed = None;
            for name in cluster.names() {
                match verify::verify(cluster, &name, watcher).await {
                    Ok(proof) => println!("{name}: {proof}"),
                    Err(e) => {
                        eprintln!("trivet-backup: {name}: {e}");
                        failed = Some(name);
                    }
                }
            }
            held.release().await;
            failed.map_or(Ok(()), |name| {
                Err(Failure::run(format_args!("the backups in {name} are not proven")))
            })
        }
        Command::Prune => {
            let held = lease(cluster, "taking old copies away").await?;
            for name in cluster.names() {
                let done = prune::prune(cluster, &name, watcher).await.map_err(Failure::run)?;
                println!("{name}: {done}");
            }
            held.release().await;
            Ok(())
        }
        Command::Restore(options) => restored(cluster, options, watcher, interrupted).await,
    }
}

async fn lease(cluster: &Cluster, work: &str) -> Result<Held, Failure> {
    match cluster.lease(WORK_LEASE).ask(work).await {
        Ok(Asked::Held(held)) => Ok(held),
        Ok(Asked::Other { holder, work }) => Err(Failure::run(format_args!(
            "{holder} is at it: {work}. Wait until it is done (trivet backup status)"
        ))),
        Err(e) => Err(Failure::run(e)),
    }
}

async fn now(cluster: &Cluster, watcher: &Watcher) -> Result<(), Failure> {
    let held = lease(cluster, "a base copy").await?;
    let mut repositories = Vec::new();
    let mut failed = None;
    for name in cluster.names() {
        match cluster.open_or_make(&name, &held, watcher).await {
            Ok(repository) => repositories.push(repository),
            Err(e) => failed = Some(e),
        }
    }
    if repositories.is_empty()
        && let Some(e) = failed
    {
        return Err(Failure::run(e));
    }
    let lost = held.lost();
    let taken = tokio::select! {
        taken = base::take(&cluster.config, &cluster.access, repositories, watcher) => taken.map_err(Failure::run),
        () = lost.cancelled() => Err(Failure::run("the lease was lost: another node goes on")),
    };
    held.release().await;
    let (description, kept) = taken?;
    for (name, copy) in kept {
        match copy {
            Ok(copy) => println!(
                "{name}: base copy {} of {}, whole at {}: {}, of which {} are new",
                copy.id,
                description.donor,
                description.consistent,
                bytesize::ByteSize(copy.size),
                bytesize::ByteSize(copy.added)
            ),
            Err(e) => {
                eprintln!("trivet-backup: {e}");
                failed = Some(e);
            }
        }
    }
    failed.map_or(Ok(()), |e| Err(Failure::run(e)))
}

async fn list(cluster: &Cluster, json: bool, watcher: &Watcher) -> Result<(), Failure> {
    let mut all = serde_json::Map::new();
    for name in cluster.names() {
        let repository = cluster.open(&name, cluster.keys.clone(), watcher).await.map_err(Failure::run)?;
        let (storage, (copies, unfinished)) = repository.into_all(LABEL).await.map_err(Failure::run)?;
        let last = catalog::last(&storage).await.map_err(Failure::run)?;
        if json {
            let copies: Vec<_> = copies
                .iter()
                .map(|c| serde_json::json!({"id": c.id, "size": c.size, "added": c.added, "description": Description::of(c)}))
                .collect();
            all.insert(name, serde_json::json!({"base": copies, "log_until": last.map(|l| clock(l.last))}));
            continue;
        }
        println!("{}", storage.place());
        for copy in &copies {
            let Some(description) = Description::of(copy) else { continue };
            println!(
                "  {}  {}  {:>10}  new {:>10}  of {}",
                copy.id,
                description.consistent,
                bytesize::ByteSize(copy.size).to_string(),
                bytesize::ByteSize(copy.added).to_string(),
                description.donor
            );
        }
        for copy in &unfinished {
            println!("  {}  {}  not known to be whole, and never restored", copy.id, copy.time);
        }
        match last {
            Some(last) => println!("  the log reaches to {}", clock(last.last)),
            None => println!("  there is no log yet"),
        }
    }
    if json {
        println!("{}", serde_json::Value::Object(all));
    }
    Ok(())
}

async fn restored(
    cluster: &Cluster,
    options: Restore,
    watcher: &Watcher,
    mut interrupted: Shutdown,
) -> Result<(), Failure> {
    let name = match &options.repository {
        Some(name) => name.clone(),
        None => cluster.names().into_iter().next().unwrap_or_default(),
    };
    let keys = match &options.recovery_key {
        None => cluster.keys.clone(),
        Some(file) => recovered(cluster, &name, file).await?,
    };
    if options.into == "cluster" {
        return Err(Failure::run(
            "--into cluster: `trivet restore` does that, as root on a node with the role database",
        ));
    }
    let repository = cluster.open(&name, keys.clone(), watcher).await.map_err(Failure::run)?;
    if let Some(node) = &options.files {
        return files_restored(repository, node, &options).await;
    }
    let turn = Arc::new(Turn::take(&cluster.config.state_directory).map_err(Failure::run)?);
    let is_scratch = options.into == "scratch";
    let data = if is_scratch { turn.work.join("restored") } else { PathBuf::from(&options.into) };
    if !data.is_absolute() {
        return Err(Failure::run(format_args!("--into {}: give an absolute path, or scratch", options.into)));
    }
    // Taken away when it is not finished: when this fails, and when it is interrupted.
    let unfinished = Arc::new(Unfinished::new(&data));
    let wanted = Wanted {
        target: &options.to,
        skip: 0,
        data: &data,
        turn: &turn,
        unfinished: &unfinished,
        programs: &cluster.config.mysql.programs,
    };
    let (mut scratch, summary) = restore(repository, &keys, &wanted, watcher).await.map_err(Failure::run)?;
    watcher.end();
    println!("{summary}");
    if !options.tables.is_empty() {
        let database = tables::database_for(&summary.restored_to);
        let brought = tables::bring_back(cluster, &scratch, &options.tables, &database, watcher)
            .await
            .map_err(Failure::run)?;
        for (table, rows) in brought {
            println!("{table} is back as {database}.{}, {rows} rows", table.name);
        }
        return Ok(());
    }
    if is_scratch {
        println!(
            "a server with it is running; Ctrl-C ends it and takes it away:\n  mysql --socket={} --user={}",
            scratch.socket().display(),
            scratch.account()
        );
        return tokio::select! {
            biased;
            () = interrupted.wait() => Ok(()),
            ended = scratch.ended() => Err(Failure::run(format_args!("the scratch server ended: {ended:?}: {}", scratch.said()))),
        };
    }
    if options.new_history {
        forget_repositories(&scratch).await.map_err(Failure::run)?;
    }
    scratch.stop(true).await.map_err(Failure::run)?;
    unfinished.is_finished();
    println!("the data directory is {}", data.display());
    Ok(())
}

/// The group's own list of repositories is emptied, so that none of them is taken for one of the group that is formed from this; and its
/// leases are nobody's, so that a service that had one at that moment, and still runs, asks anew.
async fn forget_repositories(scratch: &Scratch) -> Result<(), MysqldError> {
    let mut conn = scratch.connect().await?;
    let tables: Vec<String> = conn
        .query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'trivet_cluster'")
        .await?;
    for (table, statement) in [
        ("repository", "DELETE FROM trivet_cluster.repository"),
        ("lease", "UPDATE trivet_cluster.lease SET holder = '', expires = '2000-01-01', token = token + 1"),
    ] {
        if tables.iter().any(|there| there == table) {
            conn.query_drop(statement).await?;
        }
    }
    Ok(())
}

/// The last copy of a node's files that is not later than the moment.
async fn files_restored(repository: Repository, node: &str, options: &Restore) -> Result<(), Failure> {
    let into = PathBuf::from(&options.into);
    if !into.is_absolute() {
        return Err(Failure::run(format_args!(
            "--into {}: give the absolute path of a directory that is new",
            options.into
        )));
    }
    let place = repository.storage.place().to_owned();
    let (to, node) = (options.to.clone(), node.to_owned());
    let copy = blocking(&place, move || {
        let copies = repository.copies(files::LABEL)?;
        let copy = files::choose(repository.storage.place(), copies, &node, &to)?;
        repository.fetch(&copy, &into).map(|()| copy)
    })
    .await
    .map_err(Failure::run)?;
    println!("files of {} as they were copied at {} are in {}", copy.host, copy.time, options.into);
    Ok(())
}

/// The cluster's key, by the recovery key.
async fn recovered(cluster: &Cluster, name: &str, file: &Path) -> Result<Keys, Failure> {
    let safe = Keys::of_safe(file).map_err(Failure::run)?;
    let storage = cluster.storage(name).map_err(Failure::run)?;
    let sealed = match storage.read(&recovery_object(&safe.public())).await {
        Err(e) if e.is_no_object() => {
            return Err(Failure::run(format_args!(
                "{}: {} was not sealed for this recovery key ({})",
                file.display(),
                storage.place(),
                safe.public()
            )));
        }
        sealed => sealed.map_err(Failure::run)?,
    };
    safe.recover(&sealed).map_err(|e| Failure::run(format_args!("{}: {e}", file.display())))
}
