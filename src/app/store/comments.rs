//! Comments under articles.

use serde::{Deserialize, Serialize};
use sqlx::{MySqlConnection, Row};

use super::idempotency::UserWrite;
use super::sessions::Viewer;
use super::{Moment, PageRequest, seconds};

#[derive(Debug, Clone, Serialize)]
pub struct Comment {
    /// Its number, the anchor on the page.
    pub id: u64,
    pub author: String,
    pub body: String,
    pub created_at: Moment,
}

pub(super) async fn of_article(
    db: &mut MySqlConnection,
    article_id: u64,
    page: PageRequest,
) -> sqlx::Result<Vec<Comment>> {
    let rows = sqlx::query(concat!(
        "SELECT c.id, u.name, c.body, ",
        seconds!("c.created_at"),
        " FROM comments c JOIN users u ON u.id = c.author_id WHERE c.article_id = ? ORDER BY c.id LIMIT ? OFFSET ?"
    ))
    .bind(article_id)
    .bind(page.size)
    .bind(page.offset())
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|r| {
            Ok(Comment {
                id: r.try_get(0)?,
                author: r.try_get(1)?,
                body: r.try_get(2)?,
                created_at: Moment::from_seconds(r.try_get(3)?),
            })
        })
        .collect()
}

pub struct Add<'a> {
    pub slug: &'a str,
    pub body: &'a str,
}

/// What became of a comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Added {
    /// Its number, and how many the article now has.
    As {
        id: u64,
        /// Comments of the article, this one included.
        count: i64,
    },
    NotFound,
}

impl UserWrite for Add<'_> {
    type Out = Added;

    async fn run(&self, db: &mut MySqlConnection, viewer: &Viewer) -> sqlx::Result<Added> {
        let article: Option<u64> = sqlx::query_scalar("SELECT id FROM articles WHERE slug = ?")
            .bind(self.slug)
            .fetch_optional(&mut *db)
            .await?;
        let Some(article) = article else { return Ok(Added::NotFound) };
        let done = sqlx::query(
            "INSERT INTO comments (article_id, author_id, body, created_at) VALUES (?, ?, ?, UTC_TIMESTAMP(6))",
        )
        .bind(article)
        .bind(viewer.id)
        .bind(self.body)
        .execute(&mut *db)
        .await?;
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM comments WHERE article_id = ?")
            .bind(article)
            .fetch_one(db)
            .await?;
        Ok(Added::As { id: done.last_insert_id(), count })
    }
}
