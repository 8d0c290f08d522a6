//! A lease: who does a work of which there must be one in the cluster, for how long yet, and with which fencing number.
//!
//! It is a row of a table in the database group: taking it is one conditional update on the primary, which a majority has to accept. So a
//! cluster that is cut in two has one holder, and one without a primary has none. Time is the primary's clock for everybody who wants
//! it, and the holder's own monotonic clock for the holder, who stops before anybody else may begin.
//!
//! The number grows with every new holder. What a holder writes elsewhere carries it, so that a late write of a former holder is known
//! for what it is.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Long enough for a change of the primary (7 s), short enough that another goes on within a minute.
pub const TTL: Duration = Duration::from_secs(30);

/// Between two tries to renew.
const RETRY: Duration = Duration::from_millis(500);

/// Why nobody could be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaseError {
    /// No primary, or it refused.
    #[error("the lease {name} could not be asked for: {reason}")]
    Database {
        /// The lease's name.
        name: String,
        /// The database's words.
        reason: String,
    },
    /// No answer. Whether it was taken is not known; if it was, it ends by itself.
    #[error("the lease {name} could not be asked for: the primary has not answered within {within:?}")]
    Timeout {
        /// The lease's name.
        name: String,
        /// For how long was waited.
        within: Duration,
    },
}

/// What came of asking.
#[derive(Debug)]
pub enum Asked {
    /// It is ours, as long as this lives.
    Held(Held),
    /// Another has it.
    Other {
        /// Who.
        holder: String,
        /// What they said that they do.
        work: String,
    },
}

/// A lease that one can ask for.
#[derive(Debug, Clone)]
pub struct Lease {
    options: MySqlConnectOptions,
    name: String,
    holder: String,
    ttl: Duration,
}

/// How the primary is reached: over TLS, with a certificate of the cluster's CA.
#[derive(Debug, Clone)]
pub struct Primary<'a> {
    /// The database gateway, or the primary itself.
    pub address: std::net::SocketAddr,
    /// An account that may read and write `trivet_cluster.lease`, which the keeper makes on the primary.
    pub user: &'a str,
    /// Its password.
    pub password: &'a str,
    /// The cluster's CA. The name is not looked at: the gateway has another than the member behind it.
    pub ca: &'a std::path::Path,
}

impl Lease {
    /// `name` has at most 64 characters and is that of the work; `holder` names the process that asks.
    pub fn new(primary: &Primary<'_>, name: &str, holder: &str) -> Self {
        let options = MySqlConnectOptions::new()
            .host(&primary.address.ip().to_string())
            .port(primary.address.port())
            .username(primary.user)
            .password(primary.password)
            .ssl_mode(MySqlSslMode::VerifyCa)
            .ssl_ca(primary.ca)
            .disable_statement_logging();
        Self { options, name: name.into(), holder: holder.chars().take(128).collect(), ttl: TTL }
    }

    /// Asks for it once. `work` is told to others who ask.
    pub async fn ask(&self, work: &str) -> Result<Asked, LeaseError> {
        let asked = Instant::now();
        let work: String = work.chars().take(255).collect();
        match self.within(self.ttl / 3, self.take(&work)).await? {
            Ok(token) => {
                let lost = CancellationToken::new();
                let (lease, until) = (self.clone(), lost.clone());
                let renewing = tokio::spawn(async move {
                    keep(&lease.name, lease.ttl, asked, &until, || lease.extend(token)).await
                });
                Ok(Asked::Held(Held { lease: Box::new(self.clone()), token, lost, renewing: Some(renewing) }))
            }
            Err((holder, work)) => Ok(Asked::Other { holder, work }),
        }
    }

    /// Who has it now, and at what; `None` when nobody has.
    pub async fn holder(&self) -> Result<Option<(String, String)>, LeaseError> {
        self.within(self.ttl / 3, async {
            let mut connection = self.options.connect().await?;
            let row: Option<(String, String)> = sqlx::query_as(
                "SELECT holder, work FROM trivet_cluster.lease WHERE name = ? AND expires > UTC_TIMESTAMP(6)",
            )
            .bind(&self.name)
            .fetch_optional(&mut connection)
            .await?;
            let _ = connection.close().await;
            Ok(row)
        })
        .await
    }

    async fn within<T>(
        &self,
        within: Duration,
        ask: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, LeaseError> {
        match tokio::time::timeout(within, ask).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(LeaseError::Database { name: self.name.clone(), reason: e.to_string() }),
            Err(_) => Err(LeaseError::Timeout { name: self.name.clone(), within }),
        }
    }

    /// The fencing number, or who has the lease.
    async fn take(&self, work: &str) -> Result<Result<u64, (String, String)>, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let taken = self.try_take(&mut connection, work).await;
        let _ = connection.close().await;
        taken
    }

    async fn try_take(
        &self,
        connection: &mut MySqlConnection,
        work: &str,
    ) -> Result<Result<u64, (String, String)>, sqlx::Error> {
        // Whether it is there is looked up first: an INSERT IGNORE of each who asks would be a transaction of the group each time.
        // By itself, as all who insert at once and then update would wait for one another.
        let there: Option<i64> = sqlx::query_scalar("SELECT 1 FROM trivet_cluster.lease WHERE name = ?")
            .bind(&self.name)
            .fetch_optional(&mut *connection)
            .await?;
        if there.is_none() {
            sqlx::query(
                "INSERT IGNORE INTO trivet_cluster.lease (name, holder, token, expires, work) VALUES (?, '', 0, '2000-01-01', '')",
            )
            .bind(&self.name)
            .execute(&mut *connection)
            .await?;
        }
        let mut transaction = connection.begin().await?;
        let micros = i64::try_from(self.ttl.as_micros()).unwrap_or(i64::MAX);
        let updated = sqlx::query(
            "UPDATE trivet_cluster.lease \
             SET token = token + 1, holder = ?, work = ?, \
                 expires = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
             WHERE name = ? AND (holder = ? OR expires <= UTC_TIMESTAMP(6))",
        )
        .bind(&self.holder)
        .bind(work)
        .bind(micros)
        .bind(&self.name)
        .bind(&self.holder)
        .execute(&mut *transaction)
        .await?;
        let (token, holder, work): (u64, String, String) =
            sqlx::query_as("SELECT token, holder, work FROM trivet_cluster.lease WHERE name = ?")
                .bind(&self.name)
                .fetch_one(&mut *transaction)
                .await?;
        transaction.commit().await?;
        Ok(if updated.rows_affected() == 1 { Ok(token) } else { Err((holder, work)) })
    }

    /// Moves the end of the lease that `token` is for. `false`: it has become another's since, even if that one has given it back.
    async fn extend(&self, token: u64) -> Result<bool, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let micros = i64::try_from(self.ttl.as_micros()).unwrap_or(i64::MAX);
        let extended = sqlx::query(
            "UPDATE trivet_cluster.lease SET expires = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
             WHERE name = ? AND holder = ? AND token = ?",
        )
        .bind(micros)
        .bind(&self.name)
        .bind(&self.holder)
        .bind(token)
        .execute(&mut connection)
        .await;
        let _ = connection.close().await;
        Ok(extended?.rows_affected() == 1)
    }

    /// Without a holder nothing that is late can extend it.
    async fn give_back(&self, token: u64) {
        let give = async {
            let mut connection = self.options.connect().await?;
            sqlx::query(
                "UPDATE trivet_cluster.lease SET holder = '', expires = UTC_TIMESTAMP(6) \
                 WHERE name = ? AND holder = ? AND token = ?",
            )
            .bind(&self.name)
            .bind(&self.holder)
            .bind(token)
            .execute(&mut connection)
            .await?;
            connection.close().await
        };
        // Otherwise it ends by itself.
        let _ = tokio::time::timeout(Duration::from_secs(3), give).await;
    }
}

/// Extends a lease that was asked for at `since`, a third of `ttl` after each time, until `lost` is cancelled. Cancels `lost` itself when
/// the lease is another's, and before another may have it when nobody answers.
async fn keep<E: std::fmt::Display, F: Future<Output = Result<bool, E>>>(
    name: &str,
    ttl: Duration,
    mut since: Instant,
    lost: &CancellationToken,
    extend: impl Fn() -> F,
) {
    loop {
        // A sixth is for clocks that run at different speeds, and for whoever has to stop.
        let ends = since + ttl - ttl / 6;
        tokio::select! {
            () = lost.cancelled() => return,
            () = tokio::time::sleep_until(since + ttl / 3) => {}
        }
        loop {
            let asked = Instant::now();
            // An answer that is there already would be taken whatever the time.
            let answer = if asked < ends { tokio::time::timeout_at(ends, extend()).await.ok() } else { None };
            match answer {
                Some(Ok(true)) => {
                    since = asked;
                    break;
                }
                Some(Ok(false)) => {
                    tracing::warn!(lease = name, "the lease is another's");
                    lost.cancel();
                    return;
                }
                Some(Err(e)) => {
                    tracing::debug!(lease = name, error = %e, "the lease is not renewed yet");
                    tokio::select! {
                        () = lost.cancelled() => return,
                        () = tokio::time::sleep_until(ends.min(asked + RETRY)) => {}
                    }
                }
                None => {
                    tracing::warn!(lease = name, "the lease could not be renewed in time");
                    lost.cancel();
                    return;
                }
            }
        }
    }
}

/// A lease that is held. Dropped, it ends by itself; [`release`](Self::release) gives it back at once.
#[derive(Debug)]
pub struct Held {
    lease: Box<Lease>,
    token: u64,
    lost: CancellationToken,
    renewing: Option<JoinHandle<()>>,
}

impl Held {
    /// The fencing number.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Cancelled as soon as the lease may be another's: whatever is done under it has to stop.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives it back, after all work under it.
    pub async fn release(mut self) {
        let was_held = !self.lost.is_cancelled();
        self.lost.cancel();
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.await;
        }
        if was_held {
            self.lease.give_back(self.token).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}
