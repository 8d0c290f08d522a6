//! Reading: a replica that is fresh enough, or else the primary.

use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics::{counter, histogram};
use sqlx::MySqlConnection;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::lacks_schema;
use super::pause::Pause;
use super::{Db, DbError, Freshness, Kind, POOL_WAIT, Pool, Read};

/// How long a read waits for a connection to a replica before the primary is asked: long enough for a busy pool, short
/// enough when the read port has just been closed.
const READ_ACQUIRE: Duration = Duration::from_millis(500);

/// A read together with what the server that answered had executed afterwards: all that the answer may show.
pub struct Dated<'a, Q>(pub &'a Q);

impl<Q: Read> Read for Dated<'_, Q> {
    type Out = (Q::Out, Freshness);

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let answer = self.0.run(db).await?;
        let (executed, owned): (String, String) =
            sqlx::query_as("SELECT @@global.gtid_executed, @@global.gtid_owned").fetch_one(db).await?;
        Ok((answer, Freshness::from_all_visible(&executed, &owned)))
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

impl Db {
    /// Asks a replica, once more on another connection when the first was lost, and then the primary; all of that again
    /// until `acquire_timeout` is over, since a failover may just have closed every connection there was.
    pub async fn read<Q: Read>(&self, freshness: &Freshness, query: &Q) -> Result<Q::Out, DbError> {
        let give_up = Instant::now() + self.limits.acquire_timeout;
        let mut pause = Pause::default();
        loop {
            let unavailable = match self.read_round(freshness, query).await {
                Err(DbError::Unavailable(reason)) => reason,
                other => return other,
            };
            if !pause.before(give_up, Kind::Lost).await {
                return Err(DbError::Unavailable(unavailable));
            }
        }
    }

    async fn read_round<Q: Read>(&self, freshness: &Freshness, query: &Q) -> Result<Q::Out, DbError> {
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
            query.run(&mut connection).await.map_err(|e| match pool {
                Pool::Read if lacks_schema(&e) => Miss::Behind,
                _ => failed(e),
            })
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
}
