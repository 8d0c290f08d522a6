//! HTTP balancing: what a balancer adds to the engine.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};

use super::config::Web;
use trivet_base::config::ConfigError;
use trivet_http::head::RequestHead as _;
use trivet_http::request::Request;
use trivet_http::steps::{self, Admitted};
use trivet_pool::{NewBackend, Pool, PoolLimits, Scope, Spec};
use trivet_proxy::check::HttpCheck;
use trivet_proxy::config::Protocol;
use trivet_proxy::exchange::Exchange;
use trivet_proxy::upstream::{HttpPool, Upstream, UpstreamConfig};
use trivet_proxy::{Answer, Content, Destination, Route, Service};
use trivet_tls as tls;

/// What the balancer does with a request.
pub struct Balancer {
    pool: Arc<HttpPool>,
    retries: usize,
    redirect: Option<u16>,
}

impl Balancer {
    /// Sends requests to `pool`, `retries` times more when that fails. Plain HTTP is redirected to the HTTPS port in `redirect`, or served without one.
    pub fn new(pool: Arc<HttpPool>, retries: usize, redirect: Option<u16>) -> Self {
        Self { pool, retries, redirect }
    }

    /// Where a request in plain text is sent, unless it is served.
    fn redirect(
        &self,
        method: &Method,
        admitted: &Admitted,
    ) -> Option<(StatusCode, Vec<(HeaderName, HeaderValue)>)> {
        let port = self.redirect.filter(|_| admitted.scheme == "http")?;
        let (status, location) = steps::redirect_to_https(method, &admitted.host, port, &admitted.target);
        let location = HeaderValue::from_str(&location).ok()?;
        Some((status, vec![(LOCATION, location), (CACHE_CONTROL, HeaderValue::from_static("no-store"))]))
    }
}

impl Service for Balancer {
    async fn route(&self, request: &Request, exchange: &mut Exchange) -> Route {
        match exchange.admitted.as_ref().and_then(|a| self.redirect(request.method(), a)) {
            // What a client sends in plain text beside the head is not read.
            Some((status, fields)) => {
                Route::Answer(Answer { status, fields, content: Content::Memory(Bytes::new()), close: true })
            }
            None => Route::Forward(Destination {
                pool: self.pool.clone(),
                scope: Scope::ANY,
                retries: self.retries,
            }),
        }
    }
}

/// The pool of `[web]`: its back ends reached by mutual TLS, each under its own name, or in plain text, with every time-out
/// set. Reads the certificate files.
pub fn pool(web: &Web) -> Result<Arc<HttpPool>, ConfigError> {
    let client =
        web.tls.as_ref().map(|files| tls::client_config(files, &[web.protocol.alpn()])).transpose()?;
    let most_idle = web.max_idle_connections / web.backends.len().max(1);
    let mut backends = Vec::new();
    for b in &web.backends {
        let tls = match &client {
            None => None,
            Some(client) => Some((client.clone(), tls::verified_name(b.tls_name())?)),
        };
        let check = HttpCheck::new(b.address.to_string(), &web.health.path, tls.clone());
        let config = UpstreamConfig {
            address: b.address,
            tls,
            connect_timeout: web.connect_timeout,
            response_timeout: web.response_timeout,
            send_proxy_protocol: web.send_proxy_protocol,
            idle_timeout: web.idle_timeout,
            http2: web.protocol == Protocol::Http2,
            trusted_framing: web.trusted_framing,
        };
        backends.push(NewBackend {
            spec: Spec { max_in_flight: web.max_in_flight_per_backend, ..Spec::new(&b.name, b.address) },
            check: Arc::new(check.with_proxy_protocol(web.send_proxy_protocol).with_protocol(web.protocol)),
            transport: Upstream::new(&b.name, config, most_idle),
        });
    }
    let limits = PoolLimits {
        max_in_flight: web.max_in_flight,
        max_queued: web.max_queued,
        queue_timeout: web.queue_timeout,
    };
    Ok(Pool::new("web", backends, limits))
}
