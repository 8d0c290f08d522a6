//! `/healthz`, and the probes behind it.
//!
//! Healthy means: this process serves and can read the database. The web tier sends requests elsewhere when it is not,
//! so a moment's failure must not count (all nodes would see it at once): the last good read may be some seconds old.
//! Writes are not asked for: while there is no primary the site is readable, and no other node could write either.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use metrics::gauge;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::auth::SiteKey;
use super::db::{Db, Freshness, Pool};
use super::error::Error;
use super::site::{Shared, Site};
use super::store::housekeeping::{self, SigningKey};
use super::store::texts;
use trivet_base::process::{Shutdown, notify_status};

/// Between two probes.
const PERIOD: Duration = Duration::from_millis(250);
/// The longest that one probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How long after the last good probe the database still counts as reachable.
const GRACE: Duration = Duration::from_secs(3);
/// Between two attempts to find a primary and migrate.
const MIGRATION_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Between two sweeps; with a random part, so that the nodes do not sweep together.
const SWEEP_PERIOD: Duration = Duration::from_secs(3600);

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    write: Option<Instant>,
    read: Option<Instant>,
}

/// When each pool was last good.
#[derive(Debug, Default)]
pub struct Health {
    seen: Mutex<Seen>,
}

impl Health {
    fn record(&self, (write, read): (bool, bool)) {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        if write {
            seen.write = Some(now);
        }
        if read {
            seen.read = Some(now);
        }
        gauge!("trivet_app_database_reachable", "pool" => "write").set(f64::from(u8::from(write)));
        gauge!("trivet_app_database_reachable", "pool" => "read").set(f64::from(u8::from(read)));
    }

    /// Whether the primary, and a replica, have answered lately.
    pub fn reachable(&self) -> (bool, bool) {
        let seen = *self.seen.lock();
        let lately = |t: Option<Instant>| t.is_some_and(|t| t.elapsed() < GRACE);
        (lately(seen.write), lately(seen.read))
    }
}

/// What `/healthz` and `/status` say, and whether it is good.
pub fn report(site: &Site) -> (bool, Value) {
    let (write, read) = site.health.reachable();
    let (open, draining) = (site.is_open(), site.is_draining());
    let reason = if draining {
        "stopping"
    } else if !(read || write) {
        "no database can be read"
    } else if !open {
        "waiting for a primary to prepare the database"
    } else {
        "ok"
    };
    let connections = |pool| {
        let (size, idle) = site.db.connections(pool);
        json!({"open": size, "idle": idle})
    };
    let value = json!({
        "status": reason,
        "node": site.config.node,
        "reads": read || write,
        "writes": write,
        "replica": read,
        "prepared": open,
        "connections": {"write": connections(Pool::Write), "read": connections(Pool::Read)},
    });
    (reason == "ok", value)
}

/// The handler of `/healthz`.
pub async fn healthz(State(site): State<Shared>) -> (StatusCode, Json<Value>) {
    let (good, value) = report(&site);
    (if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(value))
}

/// Probes for as long as the program runs.
pub async fn watch(site: Shared) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        let now = site.db.probe(PROBE_LIMIT).await;
        site.health.record(now);
        for pool in [Pool::Write, Pool::Read] {
            let (size, idle) = site.db.connections(pool);
            gauge!("trivet_app_db_connections", "pool" => pool.label(), "state" => "open")
                .set(f64::from(size));
            gauge!("trivet_app_db_connections", "pool" => pool.label(), "state" => "idle").set(idle as f64);
        }
        if before.replace(now) != Some(now) {
            let (write, read) = now;
            tracing::info!(primary = write, replica = read, "database reachability changed");
            notify_status(&format!("primary {}, replica {}", word(write), word(read)));
        }
    }
}

fn word(reachable: bool) -> &'static str {
    if reachable { "reachable" } else { "unreachable" }
}

/// Waits for a usable schema: one that is there, or a primary on which it can be made. The database may come minutes
/// after the app.
pub async fn open(site: Shared, mut shutdown: Shutdown) {
    let (mut pause, longest) = MIGRATION_PAUSE;
    let mut said = String::new();
    while !shutdown.is_stopping() {
        match prepare(&site.db).await {
            Ok(key) => {
                site.open(key);
                tracing::info!("the site is open");
                complete_texts(&site).await;
                return;
            }
            // The same reason every few seconds would drown the log.
            Err(reason) if reason != said => {
                tracing::info!(reason, "waiting for the database");
                said = reason;
            }
            Err(_) => {}
        }
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.wait() => {} }
        pause = (pause * 2).min(longest);
        if site.health.reachable().0 {
            // There is a primary: somebody else's migration, or a moment's failure.
            pause = MIGRATION_PAUSE.0;
        }
    }
}

/// Makes the schema current where it is not, and fetches the site's key.
pub async fn prepare(db: &Db) -> Result<SiteKey, String> {
    if db.schema_is_current().await.map_err(|e| e.to_string())?
        && let Some(key) = db.read(&Freshness::Any, &SigningKey).await.map_err(|e| e.to_string())?
    {
        return Ok(SiteKey::new(key));
    }
    // Also when the app that made the schema went away before it made the key.
    db.migrate().await.map_err(|e| e.to_string())?;
    tracing::info!("the database's schema is current");
    // The primary: no replica may have it yet.
    let key = db.read(&Freshness::Primary, &SigningKey).await.map_err(|e| e.to_string())?;
    key.map(SiteKey::new).ok_or_else(|| "the site's key is missing".into())
}

async fn complete_texts(site: &Site) {
    match texts::complete(&site.db).await {
        Ok(0) => {}
        Ok(articles) => tracing::info!(articles, "made texts to search in"),
        // Until the next sweep, excerpts of these articles are their beginnings.
        Err(e) => tracing::info!(error = %Error::from(e), "texts to search in were not made"),
    }
}

/// Deletes what is over, now and then, and makes up for what an older app beside this one left out.
pub async fn sweep(site: Arc<Site>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD + SWEEP_PERIOD.mul_f64(rand::random::<f64>())).await;
        match housekeeping::sweep(&site.db).await {
            Ok(rows) => tracing::debug!(rows, "swept"),
            Err(e) => tracing::info!(error = %Error::from(e), "not swept"),
        }
        complete_texts(&site).await;
    }
}
