//! The two pools and the rules of using them: reads go to a replica that is fresh enough, or else to the primary;
//! writes go to the primary and are repeated only when it is certain that nothing happened.

mod error;
mod freshness;
pub mod migrate;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{counter, histogram};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Acquire, MySql, MySqlConnection, MySqlPool};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::config;
pub use error::{DbError, Kind, is_duplicate};
pub use freshness::{Freshness, LIFETIME as FRESHNESS_LIFETIME};

/// The longest single wait inside sqlx's pool. It retries a refused connection with a growing pause of up to a fifth of
/// this, so a short time, asked for again and again, finds a returning gateway within 200 ms.
const POOL_WAIT: Duration = Duration::from_secs(1);
/// How long a read waits for a connection to a replica before the primary is asked: long enough for a busy pool, short
/// enough when the read port has just been closed.
const READ_ACQUIRE: Duration = Duration::from_millis(500);
/// Between two attempts of a write that found no primary.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// For reading the GTID set after a commit; when it takes longer the client's next reads go to the primary instead.
const GTID_READ: Duration = Duration::from_secs(1);

/// A question to the database that can be asked twice.
pub trait Read: Sync {
    /// The answer.
    type Out: Send;
    /// Asks on one connection.
    fn run(&self, db: &mut MySqlConnection) -> impl Future<Output = sqlx::Result<Self::Out>> + Send;
}

/// A change, run inside one transaction. It may be run again after a rollback, so it must have no effect elsewhere.
pub trait Write: Sync {
    /// What the change led to.
    type Out: Send;
    /// Runs the statements; the caller commits.
    fn run(&self, db: &mut MySqlConnection) -> impl Future<Output = sqlx::Result<Self::Out>> + Send;
}

/// The result of a committed write.
#[derive(Debug)]
pub struct Written<T> {
    /// What the write led to.
    pub value: T,
    /// What a read must have seen to see it.
    pub freshness: Freshness,
}

/// Which of the two pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Through the gateway's write port, to the primary.
    Write,
    /// Through its read port, to a replica.
    Read,
}

impl Pool {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// Why one attempt to read did not give an answer.
enum Miss {
    Behind,
    /// No connection: another attempt at the same pool would wait as long again.
    NoConnection(String),
    Failed(Kind, sqlx::Error),
    TimedOut,
}

/// Why one attempt to write did not.
enum Missed {
    NothingDone(String),
    Unknown(String),
    Permanent(sqlx::Error),
}

/// The database as the site sees it.
#[derive(Debug)]
pub struct Db {
    write: MySqlPool,
    read: MySqlPool,
    limits: config::Database,
    /// What the last probe of the read pool said; spares requests a wait for a read port that nobody answers.
    read_works: AtomicBool,
}

impl Db {
    /// Two pools that connect when they are first used.
    pub fn new([write, read]: [MySqlConnectOptions; 2], limits: config::Database) -> Self {
        let pool = |size| {
            MySqlPoolOptions::new()
                .max_connections(size)
                .acquire_timeout(POOL_WAIT)
                // A ping per use costs a round trip to a neighbour, and finds the connections that a failover closed.
                .test_before_acquire(true)
                .idle_timeout(Duration::from_secs(600))
                // Old connections end up unevenly spread over the replicas; new ones are spread anew.
                .max_lifetime(Duration::from_secs(1800))
        };
        Self {
            write: pool(limits.write_pool).connect_lazy_with(write),
            read: pool(limits.read_pool).connect_lazy_with(read),
            limits,
            read_works: AtomicBool::new(true),
        }
    }

    /// Asks a replica, once more on another connection when the first was lost, and then the primary.
    pub async fn read<Q: Read>(&self, freshness: &Freshness, query: &Q) -> Result<Q::Out, DbError> {
        let mut reason = "wanted";
        let mut primary_first = *freshness == Freshness::Primary;
        if !primary_first && !self.read_works.load(Ordering::Relaxed) {
            (primary_first, reason) = (true, "read_pool_down");
        }
        let order = if primary_first {
            [Pool::Write, Pool::Read, Pool::Read]
        } else {
            [Pool::Read, Pool::Read, Pool::Write]
        };
        let mut last = String::new();
        let mut no_replica = *freshness == Freshness::Primary;
        for pool in order {
            // A replica that is behind stays behind for a while, and "the primary only" allows no replica.
            if pool == Pool::Read && no_replica {
                continue;
            }
            if pool == Pool::Write {
                counter!("trivet_app_db_fallbacks_total", "reason" => reason).increment(1);
            }
            match self.read_once(pool, freshness, query).await {
                Ok(answer) => return Ok(answer),
                Err(Miss::Behind) => (no_replica, reason) = (true, "behind"),
                Err(Miss::NoConnection(why)) => {
                    self.count_error(pool, "no_connection");
                    (no_replica, reason, last) = (no_replica || pool == Pool::Read, "no_connection", why);
                }
                Err(Miss::TimedOut) => {
                    self.count_error(pool, "timeout");
                    last = format!("no answer within {:?}", self.limits.read_timeout);
                    reason = "timeout";
                }
                Err(Miss::Failed(kind, e)) => {
                    self.count_error(pool, kind.label());
                    if kind == Kind::Permanent {
                        return Err(DbError::Query(e));
                    }
                    tracing::warn!(pool = pool.label(), error = %e, "a read failed; asking elsewhere");
                    last = e.to_string();
                    reason = "lost";
                }
            }
        }
        Err(DbError::Unavailable(last))
    }

    async fn read_once<Q: Read>(&self, pool: Pool, freshness: &Freshness, query: &Q) -> Result<Q::Out, Miss> {
        let deadline = Instant::now() + self.limits.read_timeout;
        let failed = |e| Miss::Failed(Kind::of(&e), e);
        let patience =
            if pool == Pool::Read { READ_ACQUIRE.min(self.limits.read_timeout) } else { POOL_WAIT };
        let mut connection = match timeout(patience, self.pool(pool).acquire()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return Err(Miss::NoConnection(e.to_string())),
            Err(_) => return Err(Miss::NoConnection("no connection in time".into())),
        };
        let asked = timeout_at(deadline, async {
            if let (Pool::Read, Freshness::AtLeast(set)) = (pool, freshness)
                && !self.wait_for(&mut connection, set).await.map_err(failed)?
            {
                return Err(Miss::Behind);
            }
            query.run(&mut connection).await.map_err(failed)
        })
        .await
        .unwrap_or(Err(Miss::TimedOut));
        // A connection in an unknown state must not go back to the pool.
        if matches!(asked, Err(Miss::TimedOut | Miss::Failed(Kind::Lost | Kind::ReadOnly, _))) {
            drop(connection.detach());
        }
        asked
    }

    /// False when the replica did not catch up in time.
    async fn wait_for(&self, connection: &mut MySqlConnection, set: &str) -> sqlx::Result<bool> {
        let start = Instant::now();
        let timed_out: i64 = sqlx::query_scalar("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)")
            .bind(set)
            .bind(self.limits.gtid_wait.as_secs_f64())
            .fetch_one(connection)
            .await?;
        histogram!("trivet_app_gtid_wait_seconds").record(start.elapsed());
        let outcome = if timed_out == 0 { "reached" } else { "timeout" };
        counter!("trivet_app_gtid_waits_total", "outcome" => outcome).increment(1);
        Ok(timed_out == 0)
    }

    /// Runs `write` in a transaction on the primary. An attempt that certainly changed nothing is repeated until
    /// `acquire_timeout` is over; one whose commit was not answered is reported as [`DbError::UnknownOutcome`].
    pub async fn write<W: Write>(&self, write: &W) -> Result<Written<W::Out>, DbError> {
        let start = Instant::now();
        let give_up = start + self.limits.acquire_timeout;
        let deadline = start + self.limits.write_timeout;
        loop {
            let reason = match self.write_once(write, give_up, deadline).await {
                Ok(written) => return Ok(written),
                Err(Missed::Permanent(e)) => {
                    self.count_error(Pool::Write, Kind::Permanent.label());
                    return Err(DbError::Query(e));
                }
                Err(Missed::Unknown(reason)) => {
                    self.count_error(Pool::Write, "unknown_outcome");
                    tracing::error!(reason, "a commit was not answered");
                    return Err(DbError::UnknownOutcome(reason));
                }
                Err(Missed::NothingDone(reason)) => reason,
            };
            self.count_error(Pool::Write, "nothing_done");
            if Instant::now() + RETRY_PAUSE >= give_up {
                tracing::warn!(reason, "a write found no primary");
                return Err(DbError::Unavailable(reason));
            }
            tracing::debug!(reason, "a write is tried again");
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn write_once<W: Write>(
        &self,
        write: &W,
        give_up: Instant,
        deadline: Instant,
    ) -> Result<Written<W::Out>, Missed> {
        let mut connection = match timeout_at(give_up, self.write.acquire()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return Err(Missed::NothingDone(e.to_string())),
            Err(_) => return Err(Missed::NothingDone("no connection in time".into())),
        };
        let done = Self::transact(&mut connection, write, deadline).await;
        match done {
            Ok(value) => {
                let freshness = Self::freshness_after(connection).await;
                Ok(Written { value, freshness })
            }
            Err(missed) => {
                if !matches!(missed, Missed::Permanent(_)) {
                    drop(connection.detach());
                }
                Err(missed)
            }
        }
    }

    async fn transact<W: Write>(
        connection: &mut MySqlConnection,
        write: &W,
        deadline: Instant,
    ) -> Result<W::Out, Missed> {
        // Until COMMIT is sent every failure means rollback: the server undoes what a lost connection left open.
        let before_commit = |e: sqlx::Error| match Kind::of(&e) {
            Kind::Permanent => Missed::Permanent(e),
            kind => Missed::NothingDone(format!("{}: {e}", kind.label())),
        };
        let run = timeout_at(deadline, async {
            let mut tx = connection.begin().await?;
            let value = write.run(&mut tx).await?;
            Ok((tx, value))
        });
        let (tx, value) = match run.await {
            Ok(ran) => ran.map_err(before_commit)?,
            Err(_) => return Err(Missed::NothingDone("the statements took too long".into())),
        };
        match timeout_at(deadline, tx.commit()).await {
            Ok(Ok(())) => Ok(value),
            Ok(Err(e)) => Err(match Kind::of(&e) {
                Kind::ReadOnly | Kind::RolledBack => Missed::NothingDone(e.to_string()),
                Kind::Permanent | Kind::Lost => Missed::Unknown(e.to_string()),
            }),
            Err(_) => Err(Missed::Unknown("no answer to COMMIT in time".into())),
        }
    }

    async fn freshness_after(mut connection: PoolConnection<MySql>) -> Freshness {
        let query =
            sqlx::query_scalar::<_, String>("SELECT @@global.gtid_executed").fetch_one(&mut *connection);
        match timeout(GTID_READ, query).await {
            Ok(Ok(set)) => Freshness::from_gtid_executed(&set),
            Ok(Err(_)) | Err(_) => {
                drop(connection.detach());
                Freshness::Primary
            }
        }
    }

    /// Asks each pool for a sign of life; a writable primary and a readable replica, in this order.
    pub async fn probe(&self, limit: Duration) -> (bool, bool) {
        let (write, read) = tokio::join!(
            self.probe_pool(Pool::Write, "SELECT NOT @@global.super_read_only", limit),
            self.probe_pool(Pool::Read, "SELECT 1", limit)
        );
        self.read_works.store(read, Ordering::Relaxed);
        (write, read)
    }

    async fn probe_pool(&self, pool: Pool, question: &'static str, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let Ok(Ok(mut connection)) = timeout_at(deadline, self.pool(pool).acquire()).await else {
            return false;
        };
        let answer = sqlx::query_scalar::<_, i64>(question).fetch_one(&mut *connection);
        if let Ok(Ok(answer)) = timeout_at(deadline, answer).await
            && answer == 1
        {
            return true;
        }
        drop(connection.detach());
        false
    }

    /// Connections of a pool: all, and those not in use.
    pub fn connections(&self, pool: Pool) -> (u32, usize) {
        let pool = self.pool(pool);
        (pool.size(), pool.num_idle())
    }

    /// Ends all connections politely, as far as `limit` allows.
    pub async fn close(&self, limit: Duration) {
        let _ = timeout(limit, async { tokio::join!(self.write.close(), self.read.close()) }).await;
    }

    fn pool(&self, pool: Pool) -> &MySqlPool {
        match pool {
            Pool::Write => &self.write,
            Pool::Read => &self.read,
        }
    }

    fn count_error(&self, pool: Pool, kind: &'static str) {
        counter!("trivet_app_db_errors_total", "pool" => pool.label(), "kind" => kind).increment(1);
    }
}
