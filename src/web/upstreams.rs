//! Who can answer what no file answers: the app beside this web tier, and the other nodes' web tiers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::gauge;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::config::Config;
use crate::http::client::{Client, Target};
use crate::pool::config::HealthConfig;
use crate::process::Shutdown;

/// A path on a web tier that is 200 while the app beside it is healthy, and 503 otherwise.
pub const APP_HEALTH: &str = "/healthz/app";

/// One back end and what is known about it.
pub struct Upstream {
    /// `app`, or the name of a node.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// The name in its certificate; `None` for the app, which speaks plain HTTP.
    pub tls_name: Option<String>,
    healthy: AtomicBool,
    streak: AtomicU32,
    reason: Mutex<String>,
    health: HealthConfig,
}

impl Upstream {
    fn new(name: String, address: SocketAddr, tls_name: Option<String>, health: HealthConfig) -> Self {
        Self {
            name,
            address,
            tls_name,
            healthy: AtomicBool::new(false),
            streak: AtomicU32::new(0),
            reason: Mutex::new("not checked yet".into()),
            health,
        }
    }

    /// Whether it passed its checks.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// A request found that it does not even accept connections: waiting for the next check would send more after it.
    pub fn refused(&self, reason: &str) {
        self.set(false, reason);
        self.streak.store(0, Ordering::Relaxed);
    }

    fn set(&self, healthy: bool, reason: &str) {
        *self.reason.lock() = reason.to_owned();
        gauge!("trivet_web_upstream_up", "upstream" => self.name.clone()).set(if healthy {
            1.0
        } else {
            0.0
        });
        if self.healthy.swap(healthy, Ordering::Relaxed) != healthy {
            if healthy {
                tracing::info!(upstream = self.name, "up");
            } else {
                tracing::warn!(upstream = self.name, reason, "down");
            }
        }
    }

    /// Takes in the result of a check. `rise` or `fall` in a row change the state; the first check decides alone.
    fn checked(&self, result: Result<(), String>, first: bool) {
        let healthy = self.is_healthy();
        if result.is_ok() == healthy && !first {
            self.streak.store(0, Ordering::Relaxed);
            return;
        }
        let streak = self.streak.fetch_add(1, Ordering::Relaxed) + 1;
        let needed = if result.is_ok() { self.health.rise } else { self.health.fall };
        if first || streak >= needed {
            self.streak.store(0, Ordering::Relaxed);
            let reason = result.as_ref().err().map_or("", String::as_str);
            self.set(result.is_ok(), reason);
        }
    }

    async fn check(&self, client: &Client) -> Result<(), String> {
        let answer = client.get(&self.health.path, self.health.timeout).await.map_err(|e| e.to_string())?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(format!("GET {}: {}", self.health.path, answer.status))
        }
    }

    /// For `/status` and `/healthz`.
    pub fn report(&self) -> Value {
        let reason = Some(self.reason.lock().clone()).filter(|r| !r.is_empty());
        json!({"name": self.name, "address": self.address, "healthy": self.is_healthy(), "reason": reason})
    }
}

/// The app and the peers.
pub struct Upstreams {
    /// The app beside this web tier.
    pub app: Arc<Upstream>,
    /// The other nodes' web tiers; healthy means that the app beside them is.
    pub peers: Vec<Arc<Upstream>>,
    next: AtomicUsize,
}

impl Upstreams {
    /// From the configuration; nothing is checked yet.
    pub fn new(config: &Config) -> Self {
        let peer_health = HealthConfig { path: APP_HEALTH.into(), ..config.app.health.clone() };
        Self {
            app: Arc::new(Upstream::new("app".into(), config.app.address, None, config.app.health.clone())),
            peers: config
                .peers
                .backends
                .iter()
                .map(|b| {
                    let tls_name = Some(b.tls_name().to_owned());
                    Arc::new(Upstream::new(b.name.clone(), b.address, tls_name, peer_health.clone()))
                })
                .collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// A healthy peer, in turn.
    pub fn peer(&self) -> Option<&Arc<Upstream>> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        (0..self.peers.len()).map(|i| &self.peers[(start + i) % self.peers.len()]).find(|p| p.is_healthy())
    }

    /// Checks everyone once, and then each at its interval, until stopping.
    pub async fn watch(self: &Arc<Self>, tls: &Arc<ClientConfig>, shutdown: &Shutdown) {
        let mut first = Vec::new();
        for upstream in std::iter::once(&self.app).chain(&self.peers) {
            let tls = upstream
                .tls_name
                .as_deref()
                .and_then(crate::tls::server_name)
                .map(|name| (tls.clone(), name));
            let host = upstream.tls_name.clone().unwrap_or_else(|| upstream.address.to_string());
            let client = Client::new(Target { address: upstream.address.to_string(), host, tls });
            let (upstream, mut shutdown) = (upstream.clone(), shutdown.clone());
            let (done, is_done) = tokio::sync::oneshot::channel();
            first.push(is_done);
            tokio::spawn(async move {
                upstream.checked(upstream.check(&client).await, true);
                let _ = done.send(());
                loop {
                    tokio::select! {
                        () = tokio::time::sleep(spread(upstream.health.interval)) => {}
                        () = shutdown.wait() => return,
                    }
                    upstream.checked(upstream.check(&client).await, false);
                }
            });
        }
        for is_done in first {
            let _ = is_done.await;
        }
    }
}

/// An interval ± 10 %, so that nodes that started together do not check in lockstep.
fn spread(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.9..1.1))
}
