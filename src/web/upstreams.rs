//! Who can answer what no file answers: the app beside this web tier, and the other nodes' web tiers.
//!
//! One pool: the app is its first tier, the peers, whose health is the health of the app beside them, are its second.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;

use super::config::Config;
use crate::config::ConfigError;
use crate::http::engine::upstream::{Reach, Upstreams as Links};
use crate::pool::config::{Protocol, Timing};
use crate::pool::{Backend, Check, HttpCheck, Pool, Spec, Tried};
use crate::process::Heartbeats;
use crate::tls;

/// A path on a web tier that is 200 while the app beside it is healthy, and 503 otherwise.
pub const APP_HEALTH: &str = "/healthz/app";

/// The name of the app in its pool. Nodes cannot have it: theirs stand beside it.
pub const APP: &str = "app";

/// How long an unused connection is kept. Below what servers usually allow (Node.js closes after 5 s, our own web tier
/// after 90), so that it is us who close, and no request meets a connection that is going away.
const IDLE: Duration = Duration::from_secs(4);

/// Unused connections kept, all together.
const MAX_IDLE: usize = 256;

/// The app and the peers.
pub struct Upstreams {
    pool: Arc<Pool>,
    app: Arc<Backend>,
    links: Links,
    timing: Timing,
}

impl Upstreams {
    /// From the configuration; nothing is checked yet. `client` is how the peers are checked.
    pub fn new(config: &Config, client: &Arc<ClientConfig>) -> Result<Self, ConfigError> {
        let app = &config.app;
        let reach = |address, tls| Reach {
            address,
            tls,
            connect_timeout: app.connect_timeout,
            response_timeout: app.response_timeout,
            send_proxy_protocol: None,
            idle_timeout: IDLE,
            http2: false,
            trusted_framing: true,
        };
        let spec = Spec { name: APP.into(), address: app.address, tier: 0 };
        let check: Arc<dyn Check> = Arc::new(
            HttpCheck::new(app.address.to_string(), &app.health.path, None).with_protocol(app.protocol),
        );
        let mut backends = vec![(spec, check)];
        let http2 = app.protocol == Protocol::Http2;
        let trusted_framing = app.trusted_framing;
        let mut reaches = vec![Reach { http2, trusted_framing, ..reach(app.address, None) }];
        for b in &config.peers.backends {
            let tls = Some((client.clone(), tls::verified_name(b.tls_name())?));
            let send_proxy_protocol = config.peers.send_proxy_protocol;
            reaches.push(Reach { send_proxy_protocol, ..reach(b.address, tls.clone()) });
            let check = HttpCheck::new(b.address.to_string(), APP_HEALTH, tls)
                .with_proxy_protocol(send_proxy_protocol);
            backends.push((Spec { name: b.name.clone(), address: b.address, tier: 1 }, Arc::new(check)));
        }
        let pool = Pool::new("app", backends);
        let app = pool.backends()[0].clone();
        let links = Links::new(reaches, MAX_IDLE);
        Ok(Self { pool, app, links, timing: config.app.health.timing() })
    }

    /// Checks everyone once, and goes on checking; closes connections that have been unused for too long.
    pub async fn watch(self: &Arc<Self>, heartbeats: &Heartbeats) {
        self.pool.first_round(self.timing).await;
        self.pool.run_checks(self.timing, heartbeats);
        let upstreams = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                upstreams.links.sweep();
            }
        });
    }

    /// The connections to them.
    pub fn links(&self) -> &Links {
        &self.links
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

    /// Whether [`next`](Self::next) would find one.
    pub fn has_next(&self, tried: &Tried, hop: bool) -> bool {
        !tried.has(&self.app) || (!hop && self.pool.has_any(tried))
    }

    /// Whether it would find one that is known to be up.
    pub fn has_usable(&self, tried: &Tried, hop: bool) -> bool {
        if hop { self.app.is_usable() && !tried.has(&self.app) } else { self.pool.has_usable(tried) }
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
