//! What is swept up: sessions that are over, answers that nobody will ask for again.

use std::time::Duration;

use sqlx::MySqlConnection;

use super::super::db::Write;

/// How long an idempotency key is remembered.
pub const KEY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Deletes a bounded number of rows: a large transaction would hold up the whole group.
pub struct Sweep;

impl Write for Sweep {
    /// Rows deleted.
    type Out = u64;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<u64> {
        let sessions = sqlx::query(
            "DELETE FROM sessions WHERE expires_at < UTC_TIMESTAMP(6) ORDER BY expires_at LIMIT 1000",
        )
        .execute(&mut *db)
        .await?;
        let keys = sqlx::query(
            "DELETE FROM idempotency WHERE created_at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND
             ORDER BY created_at LIMIT 1000",
        )
        .bind(KEY_LIFETIME.as_secs())
        .execute(db)
        .await?;
        Ok(sessions.rows_affected() + keys.rows_affected())
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
