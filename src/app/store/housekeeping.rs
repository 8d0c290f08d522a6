//! What is swept up: sessions that are over, answers that nobody will ask for again.

use std::time::Duration;

use sqlx::MySqlConnection;

use super::super::db::{Db, DbError, Write};

/// How long an idempotency key is remembered.
pub const KEY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Rows of one table that are deleted in one transaction: a large one would hold up the whole group.
const AT_ONCE: u64 = 1000;
/// Between two such transactions, for the writes of visitors.
const PAUSE: Duration = Duration::from_millis(100);

/// Deletes at most [`AT_ONCE`] rows of each table.
struct Sweep;

impl Write for Sweep {
    /// Sessions and idempotency keys that were deleted.
    type Out = (u64, u64);

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let sessions = sqlx::query(
            "DELETE FROM sessions WHERE expires_at < UTC_TIMESTAMP(6) ORDER BY expires_at LIMIT ?",
        )
        .bind(AT_ONCE)
        .execute(&mut *db)
        .await?;
        let keys = sqlx::query(
            "DELETE FROM idempotency WHERE created_at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND
             ORDER BY created_at LIMIT ?",
        )
        .bind(KEY_LIFETIME.as_secs())
        .bind(AT_ONCE)
        .execute(db)
        .await?;
        Ok((sessions.rows_affected(), keys.rows_affected()))
    }
}

/// Deletes everything that is over, however much it is, and says how many rows that were.
pub async fn sweep(db: &Db) -> Result<u64, DbError> {
    let mut rows = 0;
    loop {
        let (sessions, keys) = db.write(&Sweep).await?.value;
        rows += sessions + keys;
        if sessions < AT_ONCE && keys < AT_ONCE {
            return Ok(rows);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The key that the apps of all nodes sign with.
pub struct SigningKey;

impl super::super::db::Read for SigningKey {
    type Out = Option<Vec<u8>>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        sqlx::query_scalar("SELECT value FROM site_keys WHERE name = 'signing'").fetch_optional(db).await
    }
}
