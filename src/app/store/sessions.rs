//! Sign-ins that are valid on every node.

use std::time::Duration;

use serde::Serialize;
use sqlx::{MySqlConnection, Row};

use super::super::auth::TokenHash;
use super::super::db::{Read, Write};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Viewer {
    #[serde(skip)]
    pub id: u64,
    pub name: String,
    /// May edit everybody's articles.
    pub editor: bool,
}

impl Viewer {
    /// Authors edit their own articles, editors all of them.
    pub fn may_edit(&self, author_id: u64) -> bool {
        self.editor || self.id == author_id
    }
}

/// The owner of a session that has not expired.
pub async fn viewer(db: &mut MySqlConnection, token: &TokenHash) -> sqlx::Result<Option<Viewer>> {
    let row = sqlx::query(
        "SELECT u.id, u.name, u.is_editor FROM sessions s JOIN users u ON u.id = s.user_id
         WHERE s.token_hash = ? AND s.expires_at > UTC_TIMESTAMP(6)",
    )
    .bind(&token.0[..])
    .fetch_optional(db)
    .await?;
    row.map(|r| Ok(Viewer { id: r.try_get(0)?, name: r.try_get(1)?, editor: r.try_get(2)? })).transpose()
}

/// Whatever a page reads, with the visitor's session on the same connection.
pub struct Viewed<'a, Q> {
    /// The session, when the visitor brought one.
    pub token: Option<TokenHash>,
    /// The rest of the page.
    pub query: &'a Q,
}

impl<Q: Read> Read for Viewed<'_, Q> {
    type Out = (Option<Viewer>, Q::Out);

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let viewer = match &self.token {
            Some(token) => viewer(db, token).await?,
            None => None,
        };
        Ok((viewer, self.query.run(db).await?))
    }
}

/// Nothing but the visitor.
pub struct Nothing;

impl Read for Nothing {
    type Out = ();

    async fn run(&self, _: &mut MySqlConnection) -> sqlx::Result<()> {
        Ok(())
    }
}

/// Begins a session. A repeat finds the row of the first run, which nobody else can have made: the token is random.
pub struct Begin {
    pub token: TokenHash,
    pub user_id: u64,
    pub lifetime: Duration,
}

impl Write for Begin {
    type Out = ();

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO sessions (token_hash, user_id, created_at, expires_at)
             VALUES (?, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL ? SECOND)
             ON DUPLICATE KEY UPDATE user_id = user_id",
        )
        .bind(&self.token.0[..])
        .bind(self.user_id)
        .bind(self.lifetime.as_secs())
        .execute(db)
        .await?;
        Ok(())
    }
}

pub struct End(pub TokenHash);

impl Write for End {
    type Out = ();

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM sessions WHERE token_hash = ?").bind(&self.0.0[..]).execute(db).await?;
        Ok(())
    }
}
