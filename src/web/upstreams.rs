//! Who can answer what no file answers: the app beside this web tier, and the other nodes' web tiers.
//!
//! One pool: the app is its first tier, the peers, whose health is the health of the app beside them, are its second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pingora::upstreams::peer::HttpPeer;
use rustls::ClientConfig;
use serde_json::Value;

use super::config::Config;
use crate::config::ConfigError;
use crate::pool::config::Timing;
use crate::pool::{Backend, Check, HttpCheck, Pool, Spec, Tried};
use crate::tls;

/// A path on a web tier that is 200 while the app beside it is healthy, and 503 otherwise.
pub const APP_HEALTH: &str = "/healthz/app";

/// The name of the app in its pool. Nodes cannot have it: theirs stand beside it.
pub const APP: &str = "app";

/// How long an unused connection is kept. Below what servers usually allow (Node.js closes after 5 s, our own web tier
/// after 90), so that it is us who close, and no request meets a connection that is going away.
const IDLE: Duration = Duration::from_secs(4);

/// The app and the peers.
pub struct Upstreams {
    pool: Arc<Pool>,
    app: Arc<Backend>,
    /// By [`Backend::index`].
    peers: Vec<HttpPeer>,
    timing: Timing,
    fresh: AtomicU64,
}

impl Upstreams {
    /// From the configuration; nothing is checked yet. `client` is how the peers are checked.
    pub fn new(config: &Config, client: &Arc<ClientConfig>) -> Result<Self, ConfigError> {
        let identity = tls::identity(&config.tls)?;
        let app = &config.app;
        let spec = Spec { name: APP.into(), address: app.address, tier: 0 };
        let check: Arc<dyn Check> = Arc::new(HttpCheck::new(app.address.to_string(), &app.health.path, None));
        let mut backends = vec![(spec, check)];
        let mut peers = vec![HttpPeer::new(app.address, false, String::new())];
        for b in &config.peers.backends {
            let Some(name) = tls::server_name(b.tls_name()) else { continue };
            let check = HttpCheck::new(b.address.to_string(), APP_HEALTH, Some((client.clone(), name)));
            backends.push((Spec { name: b.name.clone(), address: b.address, tier: 1 }, Arc::new(check)));
            // The name is never empty: without one Pingora verifies nothing.
            peers.push(HttpPeer::new_mtls(b.address, b.tls_name().to_owned(), identity.clone()));
        }
        for peer in &mut peers {
            let options = &mut peer.options;
            options.connection_timeout = Some(app.connect_timeout);
            // TCP connect and TLS handshake have connection_timeout each.
            options.total_connection_timeout = Some(app.connect_timeout * 2);
            options.read_timeout = Some(app.response_timeout);
            options.write_timeout = Some(app.response_timeout);
            options.idle_timeout = Some(IDLE);
        }
        let pool = Pool::new("app", backends);
        let app = pool.backends()[0].clone();
        // 0 is the group of all connections that may be used again.
        Ok(Self { pool, app, peers, timing: config.app.health.timing(), fresh: AtomicU64::new(1) })
    }

    /// Checks everyone once, and goes on checking.
    pub async fn watch(&self) {
        self.pool.first_round(self.timing).await;
        self.pool.run_checks(self.timing);
    }

    /// Whether the app beside us can be used.
    pub fn app_is_usable(&self) -> bool {
        self.app.is_usable()
    }

    /// Whether `backend` is the app beside us.
    pub fn is_app(&self, backend: &Backend) -> bool {
        backend.index() == self.app.index()
    }

    /// Whom to ask next; a request that came from a peer (`hop`) goes no further, or two nodes whose apps are down would
    /// play ball with it. When nobody is known to be up, the app beside us is asked all the same: its own error page
    /// says more than ours. Last of all comes a peer that is silent: it may be us who are slow to hear.
    pub fn next(&self, tried: &Tried, hop: bool) -> Option<Arc<Backend>> {
        let app = || (!tried.has(&self.app)).then(|| self.app.clone());
        if hop { app() } else { self.pool.pick(tried).or_else(app).or_else(|| self.pool.pick_any(tried)) }
    }

    /// How to reach `backend`; over a connection that nobody used before when `new_connection`.
    pub fn peer(&self, backend: &Backend, new_connection: bool) -> Option<Box<HttpPeer>> {
        let mut peer = Box::new(self.peers.get(backend.index())?.clone());
        if new_connection {
            // A group of its own holds no used connection, and this one is given up afterwards.
            peer.group_key = self.fresh.fetch_add(1, Ordering::Relaxed);
            peer.options.idle_timeout = Some(Duration::from_millis(1));
        }
        Some(peer)
    }

    /// Of the app beside us, for `/healthz`.
    pub fn app_status(&self) -> Value {
        self.app.status()
    }

    /// Of everyone, for `/status`.
    pub fn status(&self) -> Value {
        self.pool.status()
    }
}
