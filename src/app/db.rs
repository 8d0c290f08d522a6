//! The two pools and the rules of using them: reads go to a replica that is fresh enough, or else to the primary;
//! writes go to the primary. Both wait out a failover.

mod error;
mod freshness;
pub mod migrate;
mod pause;
mod read;
mod write;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::counter;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{MySqlConnection, MySqlPool};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::config;
pub use error::{DbError, Kind, is_duplicate};
pub use freshness::{Freshness, LIFETIME as FRESHNESS_LIFETIME};
pub use read::Dated;

/// The longest single wait inside sqlx's pool. It retries a refused connection with a growing pause of up to a fifth of
/// this, so a returning gateway is found within 600 ms, and a primary under load still has time to let us in.
const POOL_WAIT: Duration = Duration::from_secs(3);

/// A question to the database that can be asked twice.
pub trait Read: Sync {
    type Out: Send;
    /// Asks on one connection.
    fn run(&self, db: &mut MySqlConnection) -> impl Future<Output = sqlx::Result<Self::Out>> + Send;
}

/// A change, run inside one transaction on the primary.
///
/// It is run again after a rollback, and also after a commit that was not answered and may have happened. So it has no
/// effect elsewhere, and running it a second time changes nothing more and leads to the same answer: by its nature
/// (deleting a session), or by a key whose first answer is kept ([`Signed`], [`Keyed`]).
///
/// [`Signed`]: super::store::idempotency::Signed
/// [`Keyed`]: super::store::idempotency::Keyed
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

/// The database as the site sees it.
#[derive(Debug)]
pub struct Db {
    write: MySqlPool,
    read: MySqlPool,
    limits: config::Database,
    /// Writes at a time: the others wait here, in turn, and not at a primary that has just been promoted.
    turns: Semaphore,
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
            turns: Semaphore::new(limits.write_pool as usize),
            // Reads that find no replica come to the primary beside the writes.
            write: pool(limits.write_pool + limits.read_pool)
                // A lock that is held for longer is somebody's who hangs; the locks of who waits for it should not wait, too.
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        sqlx::query("SET SESSION innodb_lock_wait_timeout = 5").execute(connection).await?;
                        Ok(())
                    })
                })
                .connect_lazy_with(write),
            read: pool(limits.read_pool).connect_lazy_with(read),
            limits,
            read_works: AtomicBool::new(true),
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
