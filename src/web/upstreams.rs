//! Who can answer what no file answers: the app beside this web tier, and the other nodes' web tiers.
//!
//! One pool: the app is its first tier, the peers, whose health is the health of the app beside them, are its second.

use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;

use super::config::Config;
use trivet_base::config::ConfigError;
use trivet_base::process::Heartbeats;
use trivet_pool::timing::Timing;
use trivet_pool::{NewBackend, Pool, PoolLimits, Scope, Spec};
use trivet_proxy::config::{Checked, HealthConfig, Protocol, ServerAddress};
use trivet_proxy::upstream::{HttpBackend, HttpPool, IdleLimit, Upstream, UpstreamConfig};
use trivet_tls as tls;

/// A path on a web tier that is 200 while the app beside it is healthy, and 503 otherwise.
pub const APP_HEALTH: &str = "/healthz/app";

/// The name of the app in its pool. Nodes cannot have it: theirs stand beside it.
pub const APP: &str = "app";

/// The name of the pool of both.
const POOL: &str = "app";

/// The app and the peers.
pub struct Upstreams {
    pool: Arc<HttpPool>,
    app: Arc<HttpBackend>,
    timing: Timing,
    retries: usize,
}

impl Upstreams {
    /// From the configuration; nothing is checked yet. `client` is how the peers are checked.
    pub fn new(config: &Config, client: &Arc<ClientConfig>) -> Result<Self, ConfigError> {
        let app = &config.app;
        let reach = |address, tls| UpstreamConfig {
            address,
            tls,
            connect_timeout: app.connect_timeout,
            response_timeout: app.response_timeout,
            retry_on: Arc::default(),
            send_proxy_protocol: None,
            idle_timeout: app.idle_timeout,
            http2: false,
            trusted_framing: true,
        };
        let ServerAddress::Fixed(address) = app.address.clone() else {
            return Err(ConfigError::at("", "app.address", "is no address of this node"));
        };
        let check = app.health.check(Checked {
            address: address.clone(),
            host: app.address.host(),
            tls: None,
            protocol: app.protocol,
            proxy_protocol: None,
            tell: None,
        });
        let http2 = app.protocol == Protocol::Http2;
        let idle = IdleLimit::new(app.max_idle_connections);
        let reached =
            UpstreamConfig { http2, trusted_framing: app.trusted_framing, ..reach(address.clone(), None) };
        let mut backends = vec![NewBackend {
            // Its own error page says more than ours.
            spec: Spec { fallback: true, ..Spec::new(APP, address) },
            check,
            transport: Upstream::new(POOL, APP, reached, &idle),
        }];
        for b in &config.peers.backends {
            let tls = Some((client.clone(), tls::verified_name(b.tls_name())?));
            let send_proxy_protocol = config.peers.send_proxy_protocol;
            let health = HealthConfig { path: APP_HEALTH.into(), ..HealthConfig::default() };
            let check = health.check(Checked {
                address: b.address.into(),
                host: b.address.to_string(),
                tls: tls.clone(),
                protocol: Protocol::Http1,
                proxy_protocol: send_proxy_protocol,
                tell: None,
            });
            let reached = UpstreamConfig { send_proxy_protocol, ..reach(b.address.into(), tls) };
            backends.push(NewBackend {
                spec: Spec { tier: 1, ..Spec::new(&b.name, b.address) },
                check,
                transport: Upstream::new(POOL, &b.name, reached, &idle),
            });
        }
        let limits = PoolLimits {
            max_in_flight: app.max_in_flight,
            max_queued: app.max_queued,
            queue_timeout: app.queue_timeout,
        };
        let pool = Pool::new(POOL, backends, limits);
        let app = pool.backends()[0].clone();
        Ok(Self { pool, app, timing: config.app.health.timing(), retries: config.app.retries })
    }

    /// Checks everyone once, and goes on checking.
    pub async fn watch(self: &Arc<Self>, heartbeats: &Heartbeats) {
        self.pool.first_round(self.timing).await;
        self.pool.run_checks(self.timing, heartbeats);
    }

    /// Who is asked for one request after the first.
    pub fn retries(&self) -> usize {
        self.retries
    }

    /// All of them.
    pub fn pool(&self) -> &Arc<HttpPool> {
        &self.pool
    }

    /// Whether the app beside us can be used.
    pub fn app_is_usable(&self) -> bool {
        self.app.is_usable()
    }

    /// Whether `backend` is the app beside us.
    pub fn is_app(&self, backend: &HttpBackend) -> bool {
        std::ptr::eq(backend, &raw const *self.app)
    }

    /// Who may get a request; one that came from a peer (`hop`) goes no further, or two nodes whose apps are down would play
    /// ball with it. Last of all comes a peer that is silent: it may be us who are slow to hear.
    pub fn scope(hop: bool) -> Scope {
        if hop { Scope::FIRST_TIER } else { Scope::ANY }
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
