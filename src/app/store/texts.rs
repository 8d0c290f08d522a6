//! What articles say without their markup: for excerpts and the time that reading takes.

use std::time::Duration;

use sqlx::MySqlConnection;

use super::super::db::{Db, DbError, Write};
use crate::text::markdown::Plain;

/// Texts that are made in one transaction: of the longest articles, a few megabytes.
const AT_ONCE: usize = 20;
/// Between two such transactions, for the writes of visitors.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps the text of an article's present version.
pub(super) async fn keep(db: &mut MySqlConnection, article_id: u64, plain: &Plain) -> sqlx::Result<()> {
    sqlx::query(
        "REPLACE INTO article_texts (article_id, version, words, plain)
         SELECT id, version, ?, ? FROM articles WHERE id = ?",
    )
    .bind(plain.words)
    .bind(&plain.text)
    .bind(article_id)
    .execute(db)
    .await?;
    Ok(())
}

/// Makes some of the texts that an older app did not write.
struct Complete;

impl Write for Complete {
    /// How many.
    type Out = usize;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<usize> {
        // Without locks: on all articles they would hold up every edit.
        let missing: Vec<u64> = sqlx::query_scalar(
            "SELECT a.id FROM articles a
             WHERE NOT EXISTS (SELECT 1 FROM article_texts x WHERE x.article_id = a.id AND x.version = a.version)
             ORDER BY a.id LIMIT ?",
        )
        .bind(AT_ONCE as u64)
        .fetch_all(&mut *db)
        .await?;
        for id in &missing {
            // With one, so that what is kept is the text of the version that is found.
            let body: String = sqlx::query_scalar("SELECT body FROM articles WHERE id = ? FOR UPDATE")
                .bind(id)
                .fetch_one(&mut *db)
                .await?;
            let plain = tokio::task::spawn_blocking(move || Plain::of(&body));
            let plain = plain.await.map_err(|e| sqlx::Error::Protocol(e.to_string()))?;
            keep(db, *id, &plain).await?;
        }
        Ok(missing.len())
    }
}

/// Makes the texts that an older app did not write, and says how many those were.
pub async fn complete(db: &Db) -> Result<usize, DbError> {
    let mut made = 0;
    loop {
        let now = db.write(&Complete).await?.value;
        made += now;
        if now < AT_ONCE {
            return Ok(made);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
