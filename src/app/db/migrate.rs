//! The schema: brought up to date by whichever app first holds the lock on the primary.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, MySqlConnection, Row};
use tokio::time::timeout;

use super::{Db, DbError, Freshness, Read};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Serialises the apps of all nodes; the lock lives on the primary, as long as the connection that took it.
const LOCK: &str = "trivet-app-migrations";
/// Longer than any other node's migrations should take; after it the caller tries again.
const LOCK_WAIT_SECONDS: i64 = 30;
/// For all of it together.
const LIMIT: Duration = Duration::from_secs(600);

/// Why the schema is not current yet.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No primary, or it went away: try again.
    #[error("the primary cannot be reached: {0}")]
    Database(#[from] sqlx::Error),
    /// Another app is at it.
    #[error("another app holds the migration lock")]
    Locked,
    /// A migration does not work here.
    #[error("{0}")]
    Migration(#[from] MigrateError),
    /// It took longer than ten minutes.
    #[error("migrations took too long")]
    TooLong,
}

/// Versions that have been applied completely.
struct Applied;

impl Read for Applied {
    type Out = Vec<i64>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Vec<i64>> {
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(db).await
    }
}

impl Db {
    /// True when a database that can be read has at least the schema this program was built for. A newer one is fine:
    /// during an upgrade old and new apps serve side by side.
    pub async fn schema_is_current(&self) -> Result<bool, DbError> {
        match self.read(&Freshness::Any, &Applied).await {
            Ok(applied) => Ok(MIGRATIONS.iter().all(|m| applied.contains(&m.version))),
            // ER_NO_SUCH_TABLE: nothing was ever migrated.
            Err(DbError::Query(sqlx::Error::Database(e))) if e.code().as_deref() == Some("42S02") => {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Brings the schema up to date on the primary and makes the key that all apps share.
    pub async fn migrate(&self) -> Result<(), Failure> {
        let mut connection = self.write.acquire().await?.detach();
        let done = timeout(LIMIT, migrate(&mut connection)).await.unwrap_or(Err(Failure::TooLong));
        // Closing the connection gives the lock back, whatever state it is in.
        let _ = timeout(Duration::from_secs(1), connection.close()).await;
        done
    }
}

async fn migrate(connection: &mut MySqlConnection) -> Result<(), Failure> {
    let got = sqlx::query("SELECT GET_LOCK(?, ?)")
        .bind(LOCK)
        .bind(LOCK_WAIT_SECONDS)
        .fetch_one(&mut *connection)
        .await?
        .try_get::<Option<i64>, _>(0)?;
    if got != Some(1) {
        return Err(Failure::Locked);
    }
    forget_half_done(connection).await?;
    let mut migrator = Migrator::with_migrations(MIGRATIONS.migrations.to_vec());
    // Our own lock is held (sqlx's waits for ever), and a newer app may have been here before.
    migrator.set_locking(false).set_ignore_missing(true);
    migrator.run_direct(None, connection, false).await?;
    sqlx::query("INSERT IGNORE INTO site_keys (name, value) VALUES ('signing', RANDOM_BYTES(32))")
        .execute(connection)
        .await?;
    Ok(())
}

/// A migration that a dying primary left half done is marked so, and sqlx then refuses to go on. Ours may run twice.
async fn forget_half_done(connection: &mut MySqlConnection) -> sqlx::Result<()> {
    let exists: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '_sqlx_migrations'",
    )
    .fetch_optional(&mut *connection)
    .await?;
    if exists.is_some() {
        let undone =
            sqlx::query("DELETE FROM _sqlx_migrations WHERE NOT success").execute(connection).await?;
        if undone.rows_affected() > 0 {
            tracing::warn!("a migration was left half done; running it again");
        }
    }
    Ok(())
}
