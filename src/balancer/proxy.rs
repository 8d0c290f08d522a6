//! HTTP balancing: what a balancer adds to the engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};

use super::config::Web;
use crate::config::ConfigError;
use crate::http::engine::request::Request;
use crate::http::engine::upstream::{self, Reach};
use crate::http::engine::{self, Route};
use crate::http::exchange::Exchange;
use crate::http::head::RequestHead as _;
use crate::http::steps::{self, Admitted};
use crate::pool::config::Protocol;
use crate::pool::{Backend, Pool, Tried};
use crate::tls;

/// What the balancer does with a request.
pub struct Balancer {
    pool: Arc<Pool>,
    upstreams: Arc<Upstreams>,
    redirect: Option<u16>,
}

impl Balancer {
    /// Sends requests to `pool`. Plain HTTP is redirected to the HTTPS port in `redirect`, or served without one.
    pub fn new(pool: Arc<Pool>, upstreams: Arc<Upstreams>, redirect: Option<u16>) -> Self {
        Self { pool, upstreams, redirect }
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

impl engine::Service for Balancer {
    async fn route(&self, request: &Request, exchange: &mut Exchange) -> Route {
        match exchange.admitted.as_ref().and_then(|a| self.redirect(request.method(), a)) {
            // What a client sends in plain text beside the head is not read.
            Some((status, fields)) => Route::Answer(engine::Answer {
                status,
                fields,
                content: engine::Content::Memory(Bytes::new()),
                close: true,
            }),
            None => Route::Forward,
        }
    }

    fn next(&self, _: &Admitted, tried: &Tried) -> Option<Arc<Backend>> {
        self.pool.pick_any(tried)
    }

    fn has_next(&self, _: &Admitted, tried: &Tried) -> bool {
        self.pool.has_any(tried)
    }

    fn has_usable(&self, _: &Admitted, tried: &Tried) -> bool {
        self.pool.has_usable(tried)
    }

    fn upstreams(&self) -> &upstream::Upstreams {
        &self.upstreams.links
    }

    fn retries(&self) -> usize {
        self.upstreams.retries
    }
}

/// How the back ends are reached: mutual TLS, each under its own name, or plain text; with every time-out set.
pub struct Upstreams {
    links: upstream::Upstreams,
    retries: usize,
}

impl Upstreams {
    /// Reads the certificate files of `[web]`.
    pub fn new(web: &Web) -> Result<Self, ConfigError> {
        let http2 = web.protocol == Protocol::Http2;
        let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        let client = web.tls.as_ref().map(|files| tls::client_config(files, &[alpn])).transpose()?;
        let mut reaches = Vec::new();
        for b in &web.backends {
            let tls = match &client {
                None => None,
                Some(client) => Some((client.clone(), tls::verified_name(b.tls_name())?)),
            };
            reaches.push(Reach {
                address: b.address,
                tls,
                connect_timeout: web.connect_timeout,
                response_timeout: web.response_timeout,
                send_proxy_protocol: web.send_proxy_protocol,
                idle_timeout: web.idle_timeout,
                http2,
                trusted_framing: web.trusted_framing,
            });
        }
        let links = upstream::Upstreams::new(reaches, web.max_idle_connections);
        Ok(Self { links, retries: web.retries })
    }

    /// Closes connections to back ends that have been unused for too long, for ever.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            self.links.sweep();
        }
    }
}
