//! HTTP balancing: what a balancer adds to the shared steps, for the engine (HTTP/1.1) and for Pingora's proxy (HTTP/2).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use metrics::counter;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::{ALPN, Digest};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use super::config::Web;
use crate::config::ConfigError;
use crate::http::connection::{ConnectionState, Endpoints};
use crate::http::engine::request::Request;
use crate::http::engine::upstream::Reach;
use crate::http::engine::{self, Route};
use crate::http::exchange::Exchange;
use crate::http::front::{Front, Visit};
use crate::http::head::RequestHead as _;
use crate::http::proxy_protocol;
use crate::http::steps::{self, Admitted};
use crate::pool::{Backend, Pool, Tried};
use crate::tls;

/// What the balancer does with a request, whatever its protocol.
pub struct Balancer {
    front: Front,
    pool: Arc<Pool>,
    upstreams: Upstreams,
    redirect: Option<u16>,
}

/// HTTP/1.1: the engine asks.
pub struct Http1(pub Arc<Balancer>);

impl engine::Service for Http1 {
    async fn route(&self, request: &Request, exchange: &mut Exchange) -> Route {
        match exchange.admitted.as_ref().and_then(|a| self.0.redirect(request.method(), a)) {
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
        self.0.pool.pick_any(tried)
    }

    fn upstreams(&self) -> &engine::upstream::Upstreams {
        &self.0.upstreams.links
    }

    fn retries(&self) -> usize {
        self.0.upstreams.retries
    }
}

/// HTTP/2: the hooks of Pingora's proxy.
pub struct Http2(pub Arc<Balancer>);

impl std::ops::Deref for Http2 {
    type Target = Balancer;

    fn deref(&self) -> &Balancer {
        &self.0
    }
}

/// What is kept about one request.
#[derive(Default)]
pub struct Context {
    visit: Visit,
    tried: Tried,
    backend: Option<Arc<Backend>>,
}

impl Balancer {
    /// Hooks that send requests to `pool`. Plain HTTP is redirected to the HTTPS port in `redirect`, or served without one.
    pub fn new(front: Front, pool: Arc<Pool>, upstreams: Upstreams, redirect: Option<u16>) -> Self {
        Self { front, pool, upstreams, redirect }
    }

    /// Whether another back end may be tried after the one in `ctx` failed.
    fn may_retry(&self, ctx: &Context) -> bool {
        ctx.tried.len() <= self.upstreams.retries && self.pool.pick_any(&ctx.tried).is_some()
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

    /// Closes connections to back ends that have been unused for too long, for ever.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            self.upstreams.links.sweep();
        }
    }

    fn note_retry(ctx: &mut Context, why: &Error) {
        let failed = ctx.backend.as_ref().map_or("-", |b| b.name()).to_owned();
        if let Some(exchange) = ctx.visit.exchange() {
            exchange.retries += 1;
            tracing::debug!(request_id = exchange.id(), backend = %failed, error = %why, "trying another back end");
        }
        counter!("trivet_http_retries_total", "backend" => failed).increment(1);
    }
}

#[async_trait]
impl ProxyHttp for Http2 {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<()> {
        self.front.admit(session, &mut ctx.visit)
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<bool> {
        let redirect = ctx.visit.admitted().and_then(|a| self.redirect(&session.req_header().method, a));
        let Some((status, fields)) = redirect else { return Ok(false) };
        self.front.answer(session, &mut ctx.visit, status, &fields, Bytes::new()).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        let Some(backend) = self.pool.pick_any(&ctx.tried) else {
            return Err(unreachable("no back end is up"));
        };
        let state = ConnectionState::of(session.digest());
        let peer = self.upstreams.peer(&backend, session.is_upgrade_req(), state.map(|s| s.endpoints()));
        ctx.backend = Some(backend);
        peer
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _reused: bool,
        _: &HttpPeer,
        _: std::os::fd::RawFd,
        _: Option<&Digest>,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        let backend = ctx.backend.clone();
        if let Some(exchange) = ctx.visit.exchange() {
            exchange.connected = Some(exchange.elapsed());
            exchange.backend = backend;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.front.body(&mut ctx.visit, body.as_ref())
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.front.forward(request, &ctx.visit);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.front.respond(session, response, &mut ctx.visit);
        Ok(())
    }

    /// Nothing was sent, so any request may go to another back end. This one is not used until its next good check.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut e: Box<Error>,
    ) -> Box<Error> {
        if let Some(backend) = &ctx.backend {
            backend.eject(&e.to_string());
            ctx.tried.add(backend);
        }
        if !self.may_retry(ctx) {
            return unreachable(&format!("no back end could be reached; the last: {e}"));
        }
        e.set_retry(true);
        Balancer::note_retry(ctx, &e);
        e
    }

    /// The connection was there and broke. What may have been acted upon is repeated only when repeating is harmless
    /// ([`steps::is_repeatable`]), the body is still at hand, and the client has seen nothing of an answer.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        // A kept connection may simply have been closed: that says nothing about its back end.
        if !reused && let Some(backend) = &ctx.backend {
            ctx.tried.add(backend);
        }
        let broken = matches!(
            e.etype(),
            ErrorType::ConnectionClosed
                | ErrorType::ReadError
                | ErrorType::WriteError
                | ErrorType::SocketError
        );
        let repeatable = steps::is_repeatable(session.req_header())
            && !session.as_ref().retry_buffer_truncated()
            && !session.is_upgrade_req()
            && session.response_written().is_none();
        let retry = broken && *e.esource() == ErrorSource::Upstream && repeatable && self.may_retry(ctx);
        e.set_retry(retry);
        if retry {
            Balancer::note_retry(ctx, &e);
        }
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Context) -> FailToProxy {
        self.front.fail(session, e, &mut ctx.visit).await
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Context) {
        self.front.done(session, e, &mut ctx.visit);
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

/// 503, as HAProxy says it: nobody was there to be asked. (502: somebody was, and broke off or spoke nonsense. 504: somebody
/// was, and did not answer in time.)
fn unreachable(why: &str) -> Box<Error> {
    Error::explain(ErrorType::HTTPStatus(StatusCode::SERVICE_UNAVAILABLE.as_u16()), why.to_owned()).into_up()
}

/// How the back ends are reached: mutual TLS, each under its own name, or plain text; with every time-out set (Pingora's are
/// none).
pub struct Upstreams {
    peers: Vec<HttpPeer>,
    links: engine::upstream::Upstreams,
    tunnel_timeout: Duration,
    retries: usize,
    proxy_protocol: Option<proxy_protocol::Version>,
}

impl Upstreams {
    /// Reads the certificate files of `[web]`.
    pub fn new(web: &Web, tunnel_timeout: Duration) -> Result<Self, ConfigError> {
        let identity = web.tls.as_ref().map(tls::identity).transpose()?;
        let client = web.tls.as_ref().map(|files| tls::client_config(files, &[b"http/1.1"])).transpose()?;
        let (mut peers, mut reaches) = (Vec::new(), Vec::new());
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
            });
            // A name, never empty: without one Pingora verifies nothing.
            let mut peer = HttpPeer::new(b.address, identity.is_some(), b.tls_name().to_owned());
            peer.client_cert_key.clone_from(&identity);
            let options = &mut peer.options;
            options.alpn = ALPN::H1;
            options.connection_timeout = Some(web.connect_timeout);
            // TCP connect and TLS handshake have connection_timeout each.
            options.total_connection_timeout = Some(web.connect_timeout * 2);
            options.read_timeout = Some(web.response_timeout);
            options.write_timeout = Some(web.response_timeout);
            options.idle_timeout = Some(web.idle_timeout);
            peers.push(peer);
        }
        let links = engine::upstream::Upstreams::new(reaches, web.max_idle_connections);
        let (retries, proxy_protocol) = (web.retries, web.send_proxy_protocol);
        Ok(Self { peers, links, tunnel_timeout, retries, proxy_protocol })
    }

    fn peer(
        &self,
        backend: &Backend,
        upgrade: bool,
        client: Option<Endpoints>,
    ) -> pingora::Result<Box<HttpPeer>> {
        let Some(peer) = self.peers.get(backend.index()) else {
            return Err(Error::explain(ErrorType::InternalError, "a back end without a peer"));
        };
        let mut peer = Box::new(peer.clone());
        if upgrade {
            peer.options.read_timeout = Some(self.tunnel_timeout);
            peer.options.write_timeout = Some(self.tunnel_timeout);
        }
        if let (Some(version), Some(client)) = (self.proxy_protocol, client) {
            proxy_protocol::dial(&mut peer, version, client);
        }
        Ok(peer)
    }
}
