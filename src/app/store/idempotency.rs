//! Writes that happen at most once per idempotency key, however often they are run.
//!
//! Session check, change and remembered answer share one transaction: a repeat after an unanswered commit either finds
//! the first answer or finds nothing, and then nothing had happened. That holds across a failover, too: the new primary
//! takes writes only when it has applied everything that the group had agreed on, and a commit of the old one that would
//! still arrive fails certification, because the key's row was written by both.
//!
//! Every write has a key. Where the client sent none, the app makes one up, so that it can repeat the write itself.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use sqlx::{MySqlConnection, Row};

use super::sessions::{self, Viewer};
use crate::auth::{TokenHash, random_text};
use crate::db::Write;

/// A change that a signed-in user makes.
pub trait UserWrite: Sync {
    /// What it led to; kept as JSON for a repeat.
    type Out: Serialize + DeserializeOwned + Send + Sync;
    /// Runs the statements inside a transaction.
    fn run(
        &self,
        db: &mut MySqlConnection,
        viewer: &Viewer,
    ) -> impl Future<Output = sqlx::Result<Self::Out>> + Send;
}

/// A change by the operator, with nobody signed in.
pub trait Change: Sync {
    /// What it led to; kept as JSON for a repeat.
    type Out: Serialize + DeserializeOwned + Send + Sync;
    /// Runs the statements inside a transaction.
    fn run(&self, db: &mut MySqlConnection) -> impl Future<Output = sqlx::Result<Self::Out>> + Send;
}

/// The client's name for one attempt to change something, and what the change is.
#[derive(Debug, Clone)]
pub struct OnceKey {
    key: String,
    fingerprint: [u8; 32],
}

impl OnceKey {
    /// `what` says which request it is for, down to the contents.
    pub fn new(key: &str, what: &impl Serialize) -> Self {
        let what = serde_json::to_vec(what).unwrap_or_default();
        Self { key: key.to_owned(), fingerprint: Sha256::digest(&what).into() }
    }

    /// For a write that came without one.
    pub fn own() -> Self {
        Self::new(&random_text::<16>(), &())
    }

    /// Keys are scoped by user, 0 being the operator: nobody can find out, or block, another's.
    fn hash(&self, user: u64) -> [u8; 32] {
        Sha256::new().chain_update(user.to_be_bytes()).chain_update(self.key.as_bytes()).finalize().into()
    }
}

/// A [`UserWrite`] with its user and its key.
pub struct Signed<'a, W> {
    /// The user's session.
    pub token: Option<TokenHash>,
    /// The client's key, or [our own](OnceKey::own).
    pub once: OnceKey,
    pub write: &'a W,
}

/// What became of a [`Signed`] write.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It ran, now or (`replayed`) when the key was first used.
    Done {
        value: T,
        /// True when this is the first answer again.
        replayed: bool,
    },
    /// The session is over.
    SignedOut,
    /// The key was used for another request; this is what that one led to.
    KeyReused(T),
}

impl<W: UserWrite> Write for Signed<'_, W> {
    type Out = Outcome<W::Out>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let viewer = match &self.token {
            Some(token) => sessions::viewer(db, token).await?,
            None => None,
        };
        let Some(viewer) = viewer else { return Ok(Outcome::SignedOut) };
        let key = self.once.hash(viewer.id);
        if let Some((fingerprint, value)) = take(db, &key, &self.once.fingerprint).await? {
            return Ok(if fingerprint == self.once.fingerprint {
                Outcome::Done { value, replayed: true }
            } else {
                Outcome::KeyReused(value)
            });
        }
        let value = self.write.run(db, &viewer).await?;
        keep(db, &key, &value).await?;
        Ok(Outcome::Done { value, replayed: false })
    }
}

/// A [`Change`] with a key of its own.
pub struct Keyed<'a, W> {
    once: OnceKey,
    write: &'a W,
}

impl<'a, W: Change> Keyed<'a, W> {
    /// To be run once, by this value.
    pub fn new(write: &'a W) -> Self {
        Self { once: OnceKey::own(), write }
    }
}

impl<W: Change> Write for Keyed<'_, W> {
    type Out = W::Out;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<W::Out> {
        let key = self.once.hash(0);
        if let Some((_, value)) = take(db, &key, &self.once.fingerprint).await? {
            return Ok(value);
        }
        let value = self.write.run(db).await?;
        keep(db, &key, &value).await?;
        Ok(value)
    }
}

/// Takes the key, or tells the fingerprint and the answer of the one who did.
async fn take<T: DeserializeOwned>(
    db: &mut MySqlConnection,
    key: &[u8; 32],
    fingerprint: &[u8; 32],
) -> sqlx::Result<Option<(Vec<u8>, T)>> {
    // Waits for a transaction in flight that has the same key.
    let taken = sqlx::query(
        "INSERT IGNORE INTO idempotency (key_hash, fingerprint, created_at) VALUES (?, ?, UTC_TIMESTAMP(6))",
    )
    .bind(&key[..])
    .bind(&fingerprint[..])
    .execute(&mut *db)
    .await?;
    if taken.rows_affected() == 0 { first_answer(db, key).await } else { Ok(None) }
}

/// Keeps the answer for repeats.
async fn keep<T: Serialize>(db: &mut MySqlConnection, key: &[u8; 32], value: &T) -> sqlx::Result<()> {
    let answer = serde_json::to_string(value).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
    sqlx::query("UPDATE idempotency SET answer = ? WHERE key_hash = ?")
        .bind(answer)
        .bind(&key[..])
        .execute(db)
        .await?;
    Ok(())
}

/// `None` when another program wrote an answer that this one cannot read.
async fn first_answer<T: DeserializeOwned>(
    db: &mut MySqlConnection,
    key: &[u8],
) -> sqlx::Result<Option<(Vec<u8>, T)>> {
    // A locking read sees what was committed after this transaction's snapshot was taken.
    let row = sqlx::query("SELECT fingerprint, answer FROM idempotency WHERE key_hash = ? FOR UPDATE")
        .bind(key)
        .fetch_one(db)
        .await?;
    let answer: Option<String> = row.try_get(1)?;
    let value = answer.and_then(|a| serde_json::from_str(&a).ok());
    value.map(|v| Ok((row.try_get(0)?, v))).transpose()
}
