//! A base copy: all data of a replica, cloned into a directory of ours by MySQL itself, and from there into the repositories.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use trivet_base::disk::Space;
use trivet_keeper_api::gtid::GtidSet;

use crate::config::{Config, Member};
use crate::mysqld::{MysqldError, Options, Shape};
use crate::progress::Watcher;
use crate::repository::{Copy, Repository, RepositoryError};
use crate::sql::{self, Access, DEADLINE};

/// The label of base copies.
pub const LABEL: &str = "base";

/// Why there is no base copy. The members were not changed, and nothing stays of it.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// No member can give one.
    #[error("no member can be copied: {0}")]
    NoDonor(String),
    /// Too little room.
    #[error(
        "{directory}: the database has {needed} and {free} are free: make room, or give another state_directory"
    )]
    Room {
        /// Where the copy is made.
        directory: String,
        /// The size of the data.
        needed: bytesize::ByteSize,
        /// What is free.
        free: bytesize::ByteSize,
    },
    /// Another process is at it.
    #[error(
        "{0}: another backup or restore is running on this node: wait for it, or see trivet backup status"
    )]
    Busy(String),
    /// The member's or the scratch server's trouble.
    #[error(transparent)]
    Mysqld(#[from] MysqldError),
    /// The clone failed.
    #[error("cloning {donor} failed: {reason}")]
    Clone {
        /// The member.
        donor: String,
        /// MySQL's words.
        reason: String,
    },
    /// A repository's trouble.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Files.
    #[error("{0}")]
    Files(String),
}

/// What is written beside a base copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Every transaction that the copy has.
    pub gtid_executed: GtidSet,
    /// What opens it.
    pub shape: Shape,
    /// Who was copied, and by whom.
    pub donor: String,
    /// The node that did the work.
    pub node: String,
    /// When it was begun, and when the data was whole; RFC 3339.
    pub started: String,
    /// See `started`.
    pub consistent: String,
}

impl Description {
    /// Reads what stands beside a copy.
    pub fn of(copy: &Copy) -> Option<Self> {
        serde_json::from_str(copy.description.as_deref()?).ok()
    }
}

/// The one piece of heavy work on this node, as long as it lives.
pub struct Turn {
    _lock: File,
    /// An empty folder for it, removed afterwards.
    pub work: PathBuf,
}

/// How long who has the lease waits for the last work on this node to be put away, or for a restore of an operator's.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

impl Turn {
    /// As [`take`](Self::take), but waits for [`PATIENCE`] where another has the turn.
    pub async fn wait_for(state_directory: &Path) -> Result<Self, BaseError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match Self::take(state_directory) {
                Err(BaseError::Busy(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                taken => return taken,
            }
        }
    }

    /// Takes the turn, and sweeps what an interrupted one has left.
    pub fn take(state_directory: &Path) -> Result<Self, BaseError> {
        let files = |e: std::io::Error| BaseError::Files(format!("{}: {e}", state_directory.display()));
        std::fs::create_dir_all(state_directory).map_err(files)?;
        let lock =
            File::options().create(true).append(true).open(state_directory.join("lock")).map_err(files)?;
        // What root does here must not stand in the way of the folder's owner afterwards.
        let owner = std::fs::metadata(state_directory).map_err(files)?;
        let own = rustix::process::geteuid().as_raw();
        if own == 0 {
            std::os::unix::fs::fchown(&lock, Some(owner.uid()), Some(owner.gid())).map_err(files)?;
        }
        if lock.try_lock().is_err() {
            return Err(BaseError::Busy(state_directory.display().to_string()));
        }
        let work = state_directory.join(if own == owner.uid() { "work" } else { "work-of-root" });
        match std::fs::remove_dir_all(&work) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let place = work.display();
                return Err(BaseError::Files(format!(
                    "{place}: what an interrupted run has left cannot be taken away ({e}); remove it as root: rm -r {place}"
                )));
            }
            _ => {}
        }
        std::fs::create_dir_all(&work).map_err(files)?;
        Ok(Self { _lock: lock, work })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.work);
    }
}

/// What a member is, seen by itself.
struct Seen {
    member: Member,
    is_primary: bool,
}

/// The members that can be copied, the best first: replicas, this node's own before others; the primary when there is no replica.
pub async fn donors(config: &Config, access: &Access) -> Result<Vec<Member>, BaseError> {
    let mut seen = Vec::new();
    let mut refused = Vec::new();
    for member in &config.mysql.members {
        match tokio::time::timeout(DEADLINE, look(access, member)).await {
            Ok(Ok(Ok(is_primary))) => seen.push(Seen { member: member.clone(), is_primary }),
            Ok(Ok(Err(state))) => refused.push(format!("{} is {state}", member.name)),
            Ok(Err(e)) => refused.push(format!("{}: {e}", member.name)),
            Err(_) => refused.push(format!("{} has not answered within {DEADLINE:?}", member.name)),
        }
    }
    if seen.is_empty() {
        return Err(BaseError::NoDonor(refused.join("; ")));
    }
    Ok(in_order(seen, &config.node))
}

/// A replica that cannot be copied now is no reason to burden the primary: the next attempt is near.
fn in_order(mut seen: Vec<Seen>, node: &str) -> Vec<Member> {
    if seen.iter().any(|s| !s.is_primary) {
        seen.retain(|s| !s.is_primary);
    }
    seen.sort_by_key(|s| s.member.name != node);
    seen.into_iter().map(|s| s.member).collect()
}

async fn look(access: &Access, member: &Member) -> Result<Result<bool, String>, mysql_async::Error> {
    sql::role(&mut access.member(member).await?).await
}

/// What became of a copy in each repository, by its name.
pub type Kept = Vec<(String, Result<Copy, RepositoryError>)>;

/// Takes a base copy into every repository, and says what it holds.
pub async fn take(
    config: &Config,
    access: &Access,
    repositories: Vec<Repository>,
    watcher: &Watcher,
) -> Result<(Description, Kept), BaseError> {
    let turn = Turn::wait_for(&config.state_directory).await?;
    let started = OffsetDateTime::now_utc();
    let candidates = donors(config, access).await?;
    let mut last = None;
    for donor in &candidates {
        match clone(config, access, donor, &turn.work, watcher).await {
            Ok((shape, gtid_executed, data)) => {
                let description = Description {
                    gtid_executed,
                    shape,
                    donor: donor.name.clone(),
                    node: config.node.clone(),
                    started: started.format(&Rfc3339).unwrap_or_default(),
                    consistent: latest_clock(access).await.format(&Rfc3339).unwrap_or_default(),
                };
                let copies = keep(config, turn, data, &description, repositories).await?;
                return Ok((description, copies));
            }
            // A member that is just being cloned by another takes one at a time; so may the next.
            Err(e @ BaseError::Clone { .. }) => {
                tracing::warn!(donor = donor.name, error = %e, "this member could not be copied");
                last = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    Err(last.unwrap_or_else(|| BaseError::NoDonor("there is no member".into())))
}

/// Now, by this node's clock or the primary's, whichever is later: no commit in the copy says that it was later than that.
async fn latest_clock(access: &Access) -> OffsetDateTime {
    let asked = tokio::time::timeout(DEADLINE, async {
        let mut conn = access.primary().await.ok()?;
        conn.query_first::<i64, _>("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)").await.ok()?
    });
    let theirs = asked.await.ok().flatten();
    let theirs =
        theirs.and_then(|micros| OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok());
    OffsetDateTime::now_utc().max(theirs.unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

async fn keep(
    config: &Config,
    turn: Turn,
    data: PathBuf,
    description: &Description,
    repositories: Vec<Repository>,
) -> Result<Kept, BaseError> {
    let text = serde_json::to_string(description).unwrap_or_default();
    let cluster = config.cluster.clone();
    tokio::task::spawn_blocking(move || {
        // A caller that gives up, as when the lease is lost, does not end this thread. rustic passes over files that vanish beneath it:
        // the folder stays until it has read them all.
        let _turn = turn;
        // One that fails keeps no other from having its copy.
        let copy = |r: &Repository| r.copy(std::slice::from_ref(&data), LABEL, &cluster, text.clone(), true);
        repositories.iter().map(|r| (r.name().to_owned(), copy(r))).collect()
    })
    .await
    .map_err(|e| BaseError::Files(e.to_string()))
}

/// Clones a member into `work`: its shape, what it had executed, and the directory.
async fn clone(
    config: &Config,
    access: &Access,
    donor: &Member,
    work: &Path,
    watcher: &Watcher,
) -> Result<(Shape, GtidSet, PathBuf), BaseError> {
    let failed = |reason: String| BaseError::Clone { donor: donor.name.clone(), reason };
    let mut conn = access.member(donor).await.map_err(|e| failed(e.to_string()))?;
    let shape = Shape::of(&mut conn).await.map_err(|e| failed(e.to_string()))?;
    let size: Option<u64> = conn
        .query_first("SELECT CAST(SUM(file_size) AS UNSIGNED) FROM information_schema.innodb_tablespaces")
        .await
        .map_err(|e| failed(e.to_string()))?;
    let needed = size.unwrap_or(0);
    if let Some(Space { free, .. }) = Space::of(work).ok().filter(|space| space.free < needed + needed / 10) {
        return Err(BaseError::Room {
            directory: work.display().to_string(),
            needed: bytesize::ByteSize(needed),
            free: bytesize::ByteSize(free),
        });
    }
    drop(conn);

    watcher.begin("preparing a scratch server", 0, false);
    let options = Options {
        programs: config.mysql.programs.clone(),
        shape: shape.clone(),
        buffer_pool_mib: 16,
        more: vec![
            format!("--clone-max-data-bandwidth={}", config.base.bandwidth.as_u64() >> 20),
            // One thread leaves the member and this node alone best.
            "--clone-autotune-concurrency=OFF".into(),
            "--clone-max-concurrency=1".into(),
            format!("--clone-ssl-ca={}", config.mysql.ca.display()),
            format!("--clone-valid-donor-list={}", donor.address),
        ],
    };
    let empty = work.join("empty");
    options.initialise(&empty).await?;
    let scratch = options.start(&empty, &work.join("run")).await?;
    let data = work.join("copy");
    let mut conn = scratch.connect().await?;
    let mut beside = scratch.connect().await?;
    watcher.begin(&format!("copying {}", donor.name), needed, true);
    let statement = access.clone_statement(donor, &data);
    {
        let cloning = conn.query_drop(statement);
        tokio::pin!(cloning);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                done = &mut cloning => {
                    done.map_err(|e| failed(e.to_string()))?;
                    break;
                }
                _ = ticks.tick() => {
                    let sum = "SELECT CAST(COALESCE(SUM(data), 0) AS UNSIGNED), CAST(COALESCE(SUM(estimate), 0) AS UNSIGNED) \
                               FROM performance_schema.clone_progress";
                    if let Ok(Some((copied, estimate))) = beside.query_first::<(u64, u64), _>(sum).await {
                        watcher.set_total(estimate);
                        watcher.set(copied);
                    }
                }
            }
        }
    }
    let gtids: Option<Option<String>> = conn
        .query_first("SELECT gtid_executed FROM performance_schema.clone_status")
        .await
        .map_err(MysqldError::from)?;
    drop((conn, beside));
    scratch.stop(false).await?;
    let _ = std::fs::remove_dir_all(&empty);
    let gtids = match gtids.flatten().filter(|g| !g.is_empty()) {
        Some(gtids) => gtids.parse().map_err(|e| failed(format!("{e}")))?,
        None => {
            // The copy knows it itself.
            watcher.begin("reading what the copy has", 0, false);
            let options = Options { more: Vec::new(), ..options };
            let scratch = options.start(&data, &work.join("run")).await?;
            let gtids = sql::executed(&mut scratch.connect().await?).await.map_err(MysqldError::from)?;
            scratch.stop(true).await?;
            gtids
        }
    };
    Ok((shape, gtids, data))
}
