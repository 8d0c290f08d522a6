//! A trial restore: the newest base copy and the log, restored into a scratch server to exactly what a living replica has, and compared
//! with it table by table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use trivet_keeper_api::gtid::GtidSet;

use crate::base::{self, BaseError, Turn};
use crate::cluster::Cluster;
use crate::log::catalog::{self, LogError};
use crate::progress::Watcher;
use crate::repository::RepositoryError;
use crate::restore::{RestoreError, Target, Unfinished, Wanted, restore};
use crate::sql;
use crate::storage::{Storage, StorageError};

/// The folder of what was proven.
const FOLDER: &str = "proof/";

/// The log reaches what a member had a moment ago within this.
const CATCH_UP: Duration = Duration::from_mins(2);

/// Why nothing was proven.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The restored tables are not the living ones.
    #[error(
        "what was restored differs from {member} at {gtid}: {differences}. Take a new base copy (trivet backup now) and look for the cause"
    )]
    Differs {
        /// The member it was compared with.
        member: String,
        /// What both had executed.
        gtid: GtidSet,
        /// Table by table.
        differences: String,
    },
    /// The log lags.
    #[error(
        "the log has not reached what {member} has within {CATCH_UP:?}: is it archived (trivet backup status)?"
    )]
    Behind {
        /// The member.
        member: String,
    },
    /// The member.
    #[error("{member}: {reason}")]
    Member {
        /// The member.
        member: String,
        /// What is wrong.
        reason: String,
    },
    /// No member, no room, or somebody else at it.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The restore.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What was proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When it was done, RFC 3339.
    pub at: String,
    /// By which node.
    pub node: String,
    /// Compared with which member.
    pub member: String,
    /// What both had executed.
    pub gtid_executed: GtidSet,
    /// The base copy.
    pub base: String,
    /// Transactions from the log.
    pub replayed: u64,
    /// How many tables were compared.
    pub tables: usize,
    /// How long it took, in seconds.
    pub seconds: u64,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "proven: {} tables restored from {} and {} transactions of the log are those of {} ({} s)",
            self.tables, self.base, self.replayed, self.member, self.seconds
        )
    }
}

impl Proof {
    /// The last one in a storage.
    pub async fn last(storage: &Storage) -> Result<Option<Self>, StorageError> {
        let Some(object) = storage.list(FOLDER).await?.pop() else { return Ok(None) };
        let text = storage.read(&object.path).await?;
        Ok(serde_json::from_slice(&text).ok())
    }
}

/// Restores, compares and writes down that it was right.
pub async fn verify(cluster: &Cluster, name: &str, watcher: &Watcher) -> Result<Proof, VerifyError> {
    let began = std::time::SystemTime::now();
    let turn = Arc::new(Turn::wait_for(&cluster.config.state_directory).await?);
    let repository = cluster.open_to_write(name, watcher).await?;
    let storage = repository.storage.clone();
    // The living side first, so that the log has reached it when it is asked for.
    let member = base::donors(&cluster.config, &cluster.access).await?.remove(0);
    watcher.begin(&format!("adding up the tables of {}", member.name), 0, false);
    let of_member = |reason: String| VerifyError::Member { member: member.name.clone(), reason };
    let mut conn = cluster.access.member(&member).await.map_err(|e| of_member(e.to_string()))?;
    let gtid = snapshot(&mut conn).await.map_err(|e| of_member(e.to_string()))?;
    let living = checksums(&mut conn, watcher).await.map_err(|e| of_member(e.to_string()))?;
    drop(conn);

    if !reached(cluster, &storage, &gtid).await? {
        return Err(VerifyError::Behind { member: member.name });
    }
    let data = turn.work.join("restored");
    let target = Target::Set(gtid.clone());
    let programs = &cluster.config.mysql.programs;
    // From the copy before the last, so that the log is tried as well; from the last when the log has a gap before it.
    let unfinished = Arc::new(Unfinished::new(&data));
    let wanted =
        Wanted { target: &target, skip: 1, data: &data, unfinished: &unfinished, turn: &turn, programs };
    // As whoever has the password alone would open it.
    drop(repository);
    let repository = cluster.open(name, cluster.keys.afresh(), watcher).await?;
    let restored = match restore(repository, &cluster.keys, &wanted, watcher).await {
        Err(RestoreError::Log(gap @ LogError::Gap { .. })) => {
            tracing::warn!(repository = name, %gap, "the log before the last base copy is of no use");
            let _ = std::fs::remove_dir_all(&data);
            let repository = cluster.open(name, cluster.keys.afresh(), watcher).await?;
            restore(repository, &cluster.keys, &Wanted { skip: 0, ..wanted }, watcher).await
        }
        restored => restored,
    };
    let (scratch, summary) = restored?;
    watcher.begin("adding up what was restored", living.len() as u64, false);
    let compared = async {
        let mut conn = scratch.connect().await.map_err(|e| of_member(e.to_string()))?;
        checksums(&mut conn, watcher).await.map_err(|e| of_member(format!("the scratch server: {e}")))
    };
    let restored = compared.await?;
    drop(scratch);

    if living.is_empty() {
        return Err(of_member("it has no tables, so that nothing can be compared".into()));
    }
    let differences = differences(&living, &restored);
    if !differences.is_empty() {
        return Err(VerifyError::Differs { member: member.name, gtid, differences: differences.join(", ") });
    }
    let now = OffsetDateTime::now_utc();
    let proof = Proof {
        at: now.format(&Rfc3339).unwrap_or_default(),
        node: cluster.config.node.clone(),
        member: member.name,
        gtid_executed: gtid,
        base: summary.base,
        replayed: summary.replayed,
        tables: living.len(),
        seconds: began.elapsed().unwrap_or_default().as_secs(),
    };
    let object = format!("{FOLDER}{}-{}.json", catalog::day(now), now.unix_timestamp());
    storage.write(&object, Bytes::from(serde_json::to_vec_pretty(&proof).unwrap_or_default())).await?;
    watcher.end();
    Ok(proof)
}

/// Opens a transaction that sees exactly what the member has executed. Writing waits for a moment, on this member alone.
async fn snapshot(conn: &mut Conn) -> Result<GtidSet, mysql_async::Error> {
    conn.query_drop("SET SESSION lock_wait_timeout = 5, SESSION transaction_isolation = 'REPEATABLE-READ'")
        .await?;
    conn.query_drop("FLUSH TABLES WITH READ LOCK").await?;
    conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let gtid = sql::executed(conn).await?;
    conn.query_drop("UNLOCK TABLES").await?;
    Ok(gtid)
}

/// `database.table` → its checksum, for all tables but MySQL's own.
async fn checksums(
    conn: &mut Conn,
    watcher: &Watcher,
) -> Result<BTreeMap<String, Option<u64>>, mysql_async::Error> {
    let tables: Vec<(String, String)> = conn
        .query(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' \
             AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1, 2",
        )
        .await?;
    watcher.set_total(tables.len() as u64);
    let mut found = BTreeMap::new();
    for (schema, table) in tables {
        let statement = format!("CHECKSUM TABLE {}.{}", sql::identifier(&schema), sql::identifier(&table));
        let row: Option<(String, Option<u64>)> = conn.query_first(statement).await?;
        found.insert(format!("{schema}.{table}"), row.and_then(|r| r.1));
        watcher.add(1);
    }
    Ok(found)
}

fn differences(
    living: &BTreeMap<String, Option<u64>>,
    restored: &BTreeMap<String, Option<u64>>,
) -> Vec<String> {
    let mut said = Vec::new();
    for (table, sum) in living {
        match restored.get(table) {
            None => said.push(format!("{table} was not restored")),
            // NULL is what a table has that cannot be read.
            _ if sum.is_none() => said.push(format!("{table} cannot be read on the living member")),
            Some(other) if other != sum => said.push(format!("{table} has another content")),
            Some(_) => {}
        }
    }
    said.extend(restored.keys().filter(|t| !living.contains_key(*t)).map(|t| format!("{t} is not alive")));
    said
}

/// Waits until the log has these.
async fn reached(cluster: &Cluster, storage: &Storage, wanted: &GtidSet) -> Result<bool, VerifyError> {
    let until = tokio::time::Instant::now() + CATCH_UP;
    let mut last = None;
    loop {
        let name = catalog::last(storage).await?;
        if name != last
            && let Some(name) = name
        {
            last = Some(name);
            let (_, after) = catalog::read(storage, &cluster.keys, &name).await?;
            if wanted.is_subset(&after) {
                return Ok(true);
            }
        }
        if tokio::time::Instant::now() > until {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
