//! Writing: the one function that every change of the site passes through.

use metrics::counter;
use sqlx::pool::PoolConnection;
use sqlx::{Acquire, MySql, MySqlConnection};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

use super::pause::Pause;
use super::{Db, DbError, Freshness, Kind, Pool, Write, Written};

/// For reading the GTID set after a commit; when it takes longer the client's next reads go to the primary instead.
const GTID_READ: Duration = Duration::from_secs(1);
/// For the ROLLBACK of what a deadlock left; when it takes longer the connection is closed instead.
const ROLLBACK: Duration = Duration::from_secs(1);

/// Why one attempt to write did not succeed.
enum Missed {
    /// Certainly nothing happened.
    NothingDone(Kind, String),
    /// COMMIT was sent and not answered, or answered in a way that leaves doubt.
    Unknown(Kind, String),
    /// Another attempt would meet the same.
    Permanent(sqlx::Error),
}

impl Db {
    /// Runs `write` in a transaction on the primary, again and again until it is committed or `write_timeout` is over:
    /// through a failover, a primary that has just become read-only, deadlocks, failed certification, and commits that
    /// were not answered, since [a write may be run twice](Write).
    ///
    /// [`DbError::UnknownOutcome`] is left for a commit that was not answered when no primary came after it in time.
    pub async fn write<W: Write>(&self, write: &W) -> Result<Written<W::Out>, DbError> {
        let give_up = Instant::now() + self.limits.write_timeout;
        let mut pause = Pause::default();
        let mut doubt = None;
        loop {
            let (kind, reason) = match self.attempt(write, give_up).await {
                Ok(written) => return Ok(written),
                Err(Missed::Permanent(e)) => {
                    self.count_error(Pool::Write, Kind::Permanent.label());
                    return Err(DbError::Query(e));
                }
                Err(Missed::Unknown(kind, reason)) => {
                    self.count_error(Pool::Write, "unknown_outcome");
                    tracing::warn!(reason, "a commit was not answered; the write is run again under its key");
                    doubt = Some(reason.clone());
                    (kind, reason)
                }
                Err(Missed::NothingDone(kind, reason)) => {
                    self.count_error(Pool::Write, kind.label());
                    (kind, reason)
                }
            };
            if !pause.before(give_up, kind).await {
                tracing::warn!(reason, "a write is given up");
                return Err(match doubt {
                    Some(doubt) => DbError::UnknownOutcome(doubt),
                    None => DbError::Unavailable(reason),
                });
            }
            counter!("trivet_app_write_retries_total", "kind" => kind.label()).increment(1);
            tracing::debug!(reason, "a write is tried again");
        }
    }

    async fn attempt<W: Write>(&self, write: &W, give_up: Instant) -> Result<Written<W::Out>, Missed> {
        let none = |reason: String| Missed::NothingDone(Kind::Lost, reason);
        // First come, first served; kept until the connection is given back.
        let Ok(Ok(_turn)) = timeout_at(give_up, self.turns.acquire()).await else {
            return Err(none("every connection is in use".into()));
        };
        let mut connection = match timeout_at(give_up, self.write.acquire()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return Err(none(e.to_string())),
            Err(_) => return Err(none("no connection in time".into())),
        };
        match transact(&mut connection, write, give_up).await {
            Ok(value) => {
                let freshness = freshness_after(connection).await;
                Ok(Written { value, freshness })
            }
            Err(missed) => {
                let clean = matches!(missed, Missed::Permanent(_) | Missed::NothingDone(Kind::Conflict, _));
                if !clean {
                    drop(connection.detach());
                }
                Err(missed)
            }
        }
    }
}

async fn transact<W: Write>(
    connection: &mut MySqlConnection,
    write: &W,
    give_up: Instant,
) -> Result<W::Out, Missed> {
    // Until COMMIT is sent every failure means rollback: the server undoes what a lost connection left open.
    let lost = |e: sqlx::Error| match Kind::of(&e) {
        Kind::Permanent => Missed::Permanent(e),
        kind => Missed::NothingDone(kind, format!("{}: {e}", kind.label())),
    };
    let late = || Missed::NothingDone(Kind::Lost, "the statements took too long".into());
    let mut tx = timeout_at(give_up, connection.begin()).await.map_err(|_| late())?.map_err(lost)?;
    let value = match timeout_at(give_up, write.run(&mut tx)).await {
        Ok(Ok(value)) => value,
        Ok(Err(e)) => {
            let missed = lost(e);
            // A lock wait that took too long undoes its statement only; the transaction's locks must go, too, before
            // anybody tries again.
            if matches!(missed, Missed::NothingDone(Kind::Conflict, _) | Missed::Permanent(_))
                && !matches!(timeout(ROLLBACK, tx.rollback()).await, Ok(Ok(())))
                && let Missed::NothingDone(_, reason) = missed
            {
                return Err(Missed::NothingDone(Kind::Lost, reason));
            }
            return Err(missed);
        }
        Err(_) => return Err(late()),
    };
    match timeout_at(give_up, tx.commit()).await {
        Ok(Ok(())) => Ok(value),
        Ok(Err(e)) => Err(match Kind::of(&e) {
            kind if Kind::rolls_back_at_commit(&e) => Missed::NothingDone(kind, e.to_string()),
            kind => Missed::Unknown(kind, e.to_string()),
        }),
        Err(_) => Err(Missed::Unknown(Kind::Lost, "no answer to COMMIT in time".into())),
    }
}

async fn freshness_after(mut connection: PoolConnection<MySql>) -> Freshness {
    let query = sqlx::query_scalar::<_, String>("SELECT @@global.gtid_executed").fetch_one(&mut *connection);
    match timeout(GTID_READ, query).await {
        Ok(Ok(set)) => Freshness::from_gtid_executed(&set),
        Ok(Err(_)) | Err(_) => {
            drop(connection.detach());
            Freshness::Primary
        }
    }
}
