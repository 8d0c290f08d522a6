//! The service: on every member of the database, one of which has the lease and does the work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use mysql_async::Conn;
use parking_lot::Mutex;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use trivet_base::config::ConfigError;
use trivet_base::process::{self, Failure, Heartbeats, Shutdown};
use trivet_base::telemetry::{self, MetricsServer};
use trivet_keeper_api::gtid::GtidSet;
use trivet_lease::{Asked, Held};

use crate::base::{self, Description, LABEL};
use crate::cluster::{Cluster, LOG_LEASE, WORK_LEASE};
use crate::config::Config;
use crate::files;
use crate::log::archive::{Archive, Progress};
use crate::progress::Watcher;
use crate::prune;
use crate::repository::{RepositoryError, blocking};
use crate::sql;
use crate::storage::Storage;
use crate::verify::{self, Proof};

/// A lease that another has is asked for again after this: with its 30 s, another goes on within a minute.
const ASK: Duration = Duration::from_secs(5);

/// How often is looked whether there is something to do.
const LOOK: Duration = Duration::from_secs(20);

/// From a failed piece of work to the next attempt, and then twice as long each time up to the second: a copy takes the whole database from
/// a member, and a trial restore loads the node for as long as it takes.
const AGAIN: (Duration, Duration) = (Duration::from_mins(5), Duration::from_hours(6));

/// The primary is asked this often how far it is.
const SAMPLE: Duration = Duration::from_secs(1);

/// Of libraries: one tells of every step of every command, the others of every attempt; what comes of it is in our own lines.
const QUIET: &str = ",rustic_core=warn,opendal=error,openssh=warn,openssh_sftp_client=warn";

/// What `/status` and the metrics show.
#[derive(Default)]
struct Board {
    logs: BTreeMap<String, Arc<Progress>>,
    state: Mutex<State>,
    waits: Mutex<BTreeMap<(&'static str, String), Wait>>,
}

/// Until when a piece of work waits that has failed.
struct Wait {
    failures: u32,
    until: Instant,
}

#[derive(Default, Clone, serde::Serialize)]
struct State {
    streams: bool,
    works: bool,
    repositories: BTreeMap<String, Holding>,
}

#[derive(Default, Clone, serde::Serialize)]
struct Holding {
    /// It was made.
    is_there: bool,
    last_base: Option<i64>,
    last_files: Option<i64>,
    last_verified: Option<i64>,
    /// Base copies that are not known to be whole.
    unfinished: usize,
    error: Option<String>,
}

/// Runs until it is told to stop.
pub async fn run(config: Config) -> Result<(), Failure> {
    let mut log = config.log.clone();
    if !log.level.contains("rustic") {
        log.level.push_str(QUIET);
    }
    telemetry::init_log(&log);
    let metrics = telemetry::init_metrics("trivet-backup")?;
    std::fs::create_dir_all(&config.state_directory)
        .map_err(|e| ConfigError::at(&config.state_directory, "state_directory", e))?;
    let cluster = Cluster::new(config)?;
    let metrics_server = MetricsServer::bind(&cluster.config.metrics).await?;
    let shutdown = Shutdown::on_signals()?;
    let logs = cluster.names().into_iter().map(|name| (name, Arc::default())).collect();
    let board = Arc::new(Board { logs, state: Mutex::default(), waits: Mutex::default() });
    let watcher = Watcher::default();

    let mut tasks = JoinSet::new();
    let (shown, doing) = (board.clone(), watcher.clone());
    tasks.spawn(metrics_server.serve(metrics, Arc::new(move || shown.status(&doing)), shutdown.clone()));
    let stop = CancellationToken::new();
    tasks.spawn(sample(cluster.clone(), board.clone(), stop.clone()));
    tasks.spawn(stream(cluster.clone(), board.clone(), stop.clone()));
    tasks.spawn(work(cluster.clone(), board.clone(), watcher, stop.clone()));
    tracing::info!(node = cluster.config.node, repositories = ?cluster.names(), "keeping backups");
    process::notify_ready_while(Heartbeats::default());
    process::until_stopped("service", &mut tasks, shutdown).await?;
    stop.cancel();
    if !process::all_end_within(cluster.config.shutdown_timeout, &mut tasks).await {
        tracing::warn!(
            "work was still in progress when shutdown_timeout ended; what it leaves is swept at the next start"
        );
    }
    Ok(())
}

impl Board {
    fn status(&self, watcher: &Watcher) -> serde_json::Value {
        let logs: BTreeMap<_, _> =
            self.logs.iter().map(|(name, progress)| (name, progress.report())).collect();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": *self.state.lock(),
            "log": logs,
            "doing": watcher.to_string(),
        })
    }

    fn streams(&self, streams: bool) {
        self.state.lock().streams = streams;
        for progress in self.logs.values() {
            progress.is_streaming(streams);
        }
    }

    fn holding(&self, name: &str, change: impl FnOnce(&mut Holding)) {
        let mut state = self.state.lock();
        let holding = state.repositories.entry(name.into()).or_default();
        change(holding);
        #[allow(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let seconds = |t: Option<i64>| t.map_or(f64::NAN, |t| t as f64);
        let repository = name.to_owned();
        gauge!("trivet_backup_last_base_timestamp_seconds", "repository" => repository.clone())
            .set(seconds(holding.last_base));
        gauge!("trivet_backup_last_files_timestamp_seconds", "repository" => repository.clone())
            .set(seconds(holding.last_files));
        gauge!("trivet_backup_last_verified_timestamp_seconds", "repository" => repository)
            .set(seconds(holding.last_verified));
    }

    /// A piece of work went well or failed: when it is tried again.
    fn outcome(&self, what: &'static str, name: &str, is_well: bool) {
        let mut waits = self.waits.lock();
        if is_well {
            waits.remove(&(what, name.to_owned()));
            return;
        }
        let wait =
            waits.entry((what, name.to_owned())).or_insert(Wait { failures: 0, until: Instant::now() });
        wait.until = Instant::now() + after(wait.failures);
        wait.failures = wait.failures.saturating_add(1);
    }

    fn waits(&self, what: &'static str, name: &str) -> bool {
        self.waits.lock().get(&(what, name.to_owned())).is_some_and(|w| w.until > Instant::now())
    }

    fn failed(&self, what: &'static str, name: &str, error: impl std::fmt::Display) {
        let error = error.to_string();
        tracing::error!(repository = name, what, error, "a backup has failed");
        counter!("trivet_backup_failures_total", "what" => what, "repository" => name.to_owned())
            .increment(1);
        self.holding(name, |h| h.error = Some(format!("{what}: {error}")));
    }
}

/// For how long is waited after so many failures before this one.
fn after(failures: u32) -> Duration {
    AGAIN.0.saturating_mul(1 << failures.min(16)).min(AGAIN.1)
}

/// Asks the primary how far it is, so that the log's lag is known.
async fn sample(cluster: Cluster, board: Arc<Board>, stop: CancellationToken) {
    let mut conn: Option<Conn> = None;
    let mut ticks = tokio::time::interval(SAMPLE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = stop.cancelled() => return }
        // Whoever does not stream knows nothing of the log.
        let streams = board.state.lock().streams;
        for (name, progress) in &board.logs {
            gauge!("trivet_backup_log_behind_seconds", "repository" => name.clone())
                .set(progress.report().behind_seconds);
        }
        let asked = tokio::time::timeout(Duration::from_secs(3), async {
            if conn.is_none() {
                conn = Some(cluster.access.primary().await.ok()?);
            }
            sql::executed(conn.as_mut()?).await.ok()
        });
        match asked.await {
            Ok(Some(executed)) if streams => {
                for progress in board.logs.values() {
                    progress.primary_has(executed.clone());
                }
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => conn = None,
        }
    }
}

/// Streams the log for as long as the lease is held.
async fn stream(cluster: Cluster, board: Arc<Board>, stop: CancellationToken) {
    let lease = cluster.lease(LOG_LEASE);
    let mut told = String::new();
    while !stop.is_cancelled() {
        gauge!("trivet_backup_is_holder", "lease" => LOG_LEASE).set(0.0);
        match lease.ask("the binary log").await {
            Ok(Asked::Held(held)) => {
                tracing::info!(token = held.token(), "this node streams the binary log");
                gauge!("trivet_backup_is_holder", "lease" => LOG_LEASE).set(1.0);
                board.streams(true);
                let lost = held.lost();
                let ends = stop.child_token();
                let mut tasks = JoinSet::new();
                for (number, (name, progress)) in board.logs.iter().enumerate() {
                    tasks.spawn(one_log(
                        cluster.clone(),
                        name.clone(),
                        progress.clone(),
                        number,
                        held.token(),
                        ends.clone(),
                        lost.clone(),
                    ));
                }
                tokio::select! { () = lost.cancelled() => {}, () = stop.cancelled() => {} }
                ends.cancel();
                while tasks.join_next().await.is_some() {}
                board.streams(false);
                held.release().await;
            }
            Ok(Asked::Other { holder, .. }) => {
                if told != holder {
                    tracing::info!(holder, "another node streams the binary log");
                    told = holder;
                }
            }
            Err(e) => tracing::debug!(error = %e, "no lease"),
        }
        tokio::select! { () = tokio::time::sleep(ASK) => {}, () = stop.cancelled() => {} }
    }
}

async fn one_log(
    cluster: Cluster,
    name: String,
    progress: Arc<Progress>,
    number: usize,
    token: u64,
    stop: CancellationToken,
    lost: CancellationToken,
) {
    let watcher = Watcher::default();
    let mut told = String::new();
    // This node first, then the others.
    let mut members = cluster.config.mysql.members.clone();
    members.sort_by_key(|m| m.name != cluster.config.node);
    let node = cluster.config.mysql.members.iter().position(|m| m.name == cluster.config.node).unwrap_or(0);
    while !stop.is_cancelled() && !lost.is_cancelled() {
        // The repository is made, or known as ours, before anything is written there.
        match begin(&cluster, &name, &watcher).await {
            Ok((id, storage, begin_after)) => {
                told.clear();
                let archive = Archive {
                    repository: name.clone(),
                    id,
                    storage,
                    keys: cluster.keys.clone(),
                    access: cluster.access.clone(),
                    members: members.clone(),
                    limits: cluster.config.stream.clone(),
                    token,
                    begin_after,
                    number: u32::try_from(node * 64 + number).unwrap_or(0),
                    progress: progress.clone(),
                };
                archive.run(stop.clone(), lost.clone()).await;
            }
            // Whoever has the lease for copies makes it, at once.
            Err(e @ RepositoryError::Empty { .. }) => {
                tracing::debug!(repository = name, error = %e, "the binary log is not archived yet");
            }
            Err(e) => {
                let e = e.to_string();
                if told != e {
                    tracing::error!(repository = name, error = e, "the binary log is not archived");
                    told.clone_from(&e);
                }
                counter!("trivet_backup_failures_total", "what" => "log", "repository" => name.clone())
                    .increment(1);
            }
        }
        tokio::select! { () = tokio::time::sleep(ASK) => {}, () = stop.cancelled() => {}, () = lost.cancelled() => {} }
    }
}

/// A repository's id and storage, and what its last base copy has.
async fn begin(
    cluster: &Cluster,
    name: &str,
    watcher: &Watcher,
) -> Result<(String, Storage, Option<GtidSet>), RepositoryError> {
    let repository = cluster.open_to_write(name, watcher).await?;
    let id = repository.id().to_owned();
    let (storage, copies) = repository.into_copies(LABEL).await?;
    Ok((id, storage, copies.iter().rev().find_map(Description::of).map(|d| d.gtid_executed)))
}

/// Copies, trial restores and taking away, each when it is due.
async fn work(cluster: Cluster, board: Arc<Board>, watcher: Watcher, stop: CancellationToken) {
    let lease = cluster.lease(WORK_LEASE);
    // Nodes that start together do not ask together.
    let first = cluster.config.mysql.members.iter().position(|m| m.name == cluster.config.node).unwrap_or(0);
    let mut pause = Duration::from_secs(5 + 3 * first as u64);
    loop {
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => return }
        pause = LOOK;
        let mut due = false;
        for name in cluster.names() {
            match look(&cluster, &name, &board).await {
                Ok(()) => due |= is_due(&cluster, &name, &board),
                // Without a primary there is nothing to copy, and that is not the repository's trouble.
                Err(RepositoryError::Unknown { .. }) => {}
                Err(e) => {
                    // What another history has is no backup of this one.
                    if matches!(e, RepositoryError::OtherHistory { .. } | RepositoryError::GivenUp { .. }) {
                        board.holding(&name, |h| *h = Holding::default());
                    }
                    board.failed("repository", &name, e);
                }
            }
        }
        for name in cluster.names() {
            if files_due(&cluster, &name, &board) {
                match files::take(&cluster, &name, &watcher).await {
                    Ok(_) => board
                        .holding(&name, |h| h.last_files = Some(OffsetDateTime::now_utc().unix_timestamp())),
                    Err(e) => board.failed("files", &name, e),
                }
            }
        }
        if !due || stop.is_cancelled() {
            continue;
        }
        let held = match lease.ask("copies on schedule").await {
            Ok(Asked::Held(held)) => held,
            Ok(Asked::Other { .. }) => continue,
            Err(e) => {
                tracing::debug!(error = %e, "no lease");
                continue;
            }
        };
        gauge!("trivet_backup_is_holder", "lease" => WORK_LEASE).set(1.0);
        board.state.lock().works = true;
        let lost = held.lost();
        let all_well = tokio::select! {
            well = round(&cluster, &board, &held, &watcher) => well,
            () = lost.cancelled() => false,
            () = stop.cancelled() => true,
        };
        watcher.end();
        board.state.lock().works = false;
        gauge!("trivet_backup_is_holder", "lease" => WORK_LEASE).set(0.0);
        held.release().await;
        if !all_well {
            pause = AGAIN.0;
        }
    }
}

/// Reads from a repository when what was done last.
async fn look(cluster: &Cluster, name: &str, board: &Board) -> Result<(), RepositoryError> {
    let watcher = Watcher::default();
    let repository = match cluster.open_to_write(name, &watcher).await {
        Ok(repository) => repository,
        // Whoever has the lease makes it.
        Err(RepositoryError::Empty { .. }) => {
            board.holding(name, |h| h.is_there = false);
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    repository.seal(&cluster.keys).await?;
    let storage = repository.storage.clone();
    let node = cluster.config.node.clone();
    let (base, files, unfinished) = blocking(storage.place(), move || {
        let (base, unfinished) = repository.all(LABEL)?;
        let files = repository.copies(files::LABEL)?;
        Ok::<_, RepositoryError>((
            base.iter().rev().find(|c| Description::of(c).is_some()).map(|c| c.time.unix_timestamp()),
            files.iter().rev().find(|c| c.host == node).map(|c| c.time.unix_timestamp()),
            unfinished.len(),
        ))
    })
    .await?;
    let proof = Proof::last(&storage).await?;
    let verified =
        proof.and_then(|p| OffsetDateTime::parse(&p.at, &Rfc3339).ok()).map(|t| t.unix_timestamp());
    board.holding(name, |h| {
        if unfinished > h.unfinished {
            tracing::warn!(
                repository = name,
                unfinished,
                "there are base copies that are not known to be whole; they are never restored"
            );
        }
        (h.is_there, h.unfinished) = (true, unfinished);
        (h.last_base, h.last_files, h.last_verified) = (base, files, verified);
    });
    Ok(())
}

fn is_past(last: Option<i64>, every: Duration) -> bool {
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
    last.is_none_or(|last| OffsetDateTime::now_utc().unix_timestamp().saturating_sub(last) >= every)
}

fn base_due(cluster: &Cluster, name: &str, board: &Board) -> bool {
    let state = board.state.lock();
    // A log with a gap goes on after a base copy that is newer than that.
    let gap = board.logs.get(name).and_then(|log| log.purged_at());
    state.repositories.get(name).is_some_and(|h| {
        is_past(h.last_base, cluster.config.base.every) || gap.is_some_and(|gap| h.last_base < Some(gap))
    })
}

fn verify_due(cluster: &Cluster, name: &str, board: &Board) -> bool {
    let state = board.state.lock();
    state
        .repositories
        .get(name)
        .is_some_and(|h| h.last_base.is_some() && is_past(h.last_verified, cluster.config.verify.every))
}

fn files_due(cluster: &Cluster, name: &str, board: &Board) -> bool {
    let state = board.state.lock();
    !cluster.config.files.paths.is_empty()
        && state
            .repositories
            .get(name)
            .is_some_and(|h| h.is_there && is_past(h.last_files, cluster.config.files.every))
}

fn is_due(cluster: &Cluster, name: &str, board: &Board) -> bool {
    (base_due(cluster, name, board) && !board.waits("base", name))
        || (verify_due(cluster, name, board) && !board.waits("verify", name))
}

/// One round of work under the lease. Whether all went well.
async fn round(cluster: &Cluster, board: &Board, held: &Held, watcher: &Watcher) -> bool {
    let mut well = true;
    // Another may have done it between the look and the lease.
    let mut repositories = Vec::new();
    for name in cluster.names() {
        if look(cluster, &name, board).await.is_ok()
            && base_due(cluster, &name, board)
            && !board.waits("base", &name)
        {
            match cluster.open_or_make(&name, held, watcher).await {
                Ok(repository) => repositories.push(repository),
                Err(e) => {
                    board.failed("base", &name, e);
                    board.outcome("base", &name, false);
                    well = false;
                }
            }
        }
    }
    if !repositories.is_empty() {
        let names: Vec<String> = repositories.iter().map(|r| r.name().to_owned()).collect();
        match base::take(&cluster.config, &cluster.access, repositories, watcher).await {
            Ok((description, kept)) => {
                for (name, copy) in kept {
                    match copy {
                        Ok(copy) => {
                            tracing::info!(
                                repository = name,
                                id = copy.id,
                                donor = description.donor,
                                size = copy.size,
                                added = copy.added,
                                "base copy"
                            );
                            board.outcome("base", &name, true);
                            board.holding(&name, |h| h.error = None);
                            match prune::prune(cluster, &name, watcher).await {
                                Ok(pruned) => tracing::info!(repository = name, %pruned, "retention"),
                                Err(e) => board.failed("prune", &name, e),
                            }
                        }
                        Err(e) => {
                            board.failed("base", &name, e);
                            board.outcome("base", &name, false);
                            well = false;
                        }
                    }
                }
            }
            Err(e) => {
                let e = e.to_string();
                for name in &names {
                    board.failed("base", name, &e);
                    board.outcome("base", name, false);
                }
                well = false;
            }
        }
    }
    for name in cluster.names() {
        let _ = look(cluster, &name, board).await;
        if verify_due(cluster, &name, board) && !board.waits("verify", &name) {
            match verify::verify(cluster, &name, watcher).await {
                Ok(proof) => {
                    tracing::info!(repository = name, %proof, "a restore was proven");
                    board.outcome("verify", &name, true);
                    board.holding(&name, |h| {
                        h.last_verified = Some(OffsetDateTime::now_utc().unix_timestamp())
                    });
                }
                Err(e) => {
                    board.failed("verify", &name, e);
                    board.outcome("verify", &name, false);
                    well = false;
                }
            }
        }
    }
    well
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_tried_more_and_more_seldom() {
        assert_eq!([after(0), after(1), after(2)], [5, 10, 20].map(Duration::from_mins));
        assert_eq!([after(10), after(u32::MAX)], [Duration::from_hours(6); 2]);
    }
}
