//! Signing in, for pages and API alike.

use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

use metrics::counter;

use super::auth::SessionToken;
use super::db::Freshness;
use super::error::Error;
use super::request::Client;
use super::site::Site;
use super::store::sessions::{Begin, Viewer};
use super::store::users::ByName;
use super::text::rules;

/// Longer passwords are not hashed: argon2 would take them, but nobody types them.
const LONGEST_PASSWORD: usize = 1024;

/// A session that has begun.
pub struct Begun {
    /// For the client.
    pub token: SessionToken,
    pub viewer: Viewer,
    /// When it ends, in seconds since 1970.
    pub expires: i64,
    /// Reads that see it.
    pub freshness: Freshness,
}

/// Checks name and password, and begins a session.
pub async fn sign_in(site: &Site, client: &Client, name: &str, password: String) -> Result<Begun, Error> {
    let count =
        |outcome: &'static str| counter!("trivet_app_sign_ins_total", "outcome" => outcome).increment(1);
    let name = name.trim();
    if let Err(wait) = site.throttle.attempt(name, client.address, Instant::now()) {
        count("throttled");
        tracing::warn!(address = %client.address, "too many sign-in attempts");
        return Err(Error::TooManyAttempts(wait));
    }
    let possible = rules::name_is_good(name).is_ok() && password.len() <= LONGEST_PASSWORD;
    // From the primary: a password that was just changed must not still be valid on a replica.
    let account = match possible {
        true => site.db.read(&Freshness::Primary, &ByName(name)).await?,
        false => None,
    };
    let stored = account.as_ref().and_then(|a| a.password_hash.clone());
    let password = if possible { password } else { String::new() };
    let right = site.passwords.verify(stored, password).await;
    let Some(account) = account.filter(|_| right) else {
        count("wrong");
        tracing::info!(address = %client.address, "a sign-in failed");
        return Err(Error::WrongPassword);
    };
    let token = SessionToken::random();
    let lifetime = site.config.session.lifetime;
    let begin = Begin { token: token.hash(), user_id: account.id, lifetime };
    let written = site.db.write(&begin).await?;
    site.throttle.succeeded(name, client.address);
    count("right");
    let expires = SystemTime::now() + lifetime;
    Ok(Begun {
        token,
        viewer: Viewer { id: account.id, name: account.name, editor: account.editor },
        expires: expires.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed()),
        freshness: written.freshness,
    })
}
