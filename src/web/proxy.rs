//! A request's way through the web tier: health, static files, the app beside it, another node's web tier.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use metrics::counter;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::CertKey;
use pingora::{Error, ErrorSource, ErrorType};
use serde_json::json;

use super::config::Config;
use super::files::{self, Decision};
use super::send;
use super::site::Site;
use super::upstreams::{APP_HEALTH, Upstream, Upstreams};
use crate::http::forwarded::{TRIVET_HOP, X_FORWARDED_FOR};
use crate::http::front::{Front, Visit};

/// Attempts for one request: the app and a peer, each once more when a kept connection turns out to be dead.
pub const ATTEMPTS: usize = 4;

/// How long an unused connection to the app or a peer is kept. Below what servers usually allow (hyper and Node.js
/// close after 5 s at the earliest, our own web tier after 90 s), so that it is us who close.
const IDLE: Duration = Duration::from_secs(4);

/// The hooks of Pingora's proxy.
pub struct Web {
    front: Front,
    site: Arc<Site>,
    upstreams: Arc<Upstreams>,
    node: String,
    identity: Arc<CertKey>,
    connect_timeout: Duration,
    response_timeout: Duration,
    fresh: AtomicU64,
}

/// What is kept about one request.
#[derive(Default)]
pub struct Context {
    visit: Visit,
    current: Option<Arc<Upstream>>,
    app: Tried,
    peer: Tried,
    /// A kept connection was dead: take a new one.
    fresh: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Tried {
    #[default]
    No,
    Yes,
}

impl Web {
    /// The hooks for `config`; `identity` is shown to the peers.
    pub fn new(
        config: &Config,
        front: Front,
        site: Arc<Site>,
        upstreams: Arc<Upstreams>,
        identity: Arc<CertKey>,
    ) -> Self {
        Self {
            front,
            site,
            upstreams,
            node: config.node.clone(),
            identity,
            connect_timeout: config.app.connect_timeout,
            response_timeout: config.app.response_timeout,
            // 0 is the group of all connections that may be used again.
            fresh: AtomicU64::new(1),
        }
    }

    /// Whom to ask next. The app beside us is asked first unless it is known to be down and somebody else is not; when
    /// nobody is known to be up, it is asked all the same, because its own error page says more than ours.
    fn next(&self, ctx: &Context) -> Option<Arc<Upstream>> {
        let app = || (ctx.app == Tried::No).then(|| self.upstreams.app.clone());
        // A request that came from a peer goes no further: two nodes whose apps are down must not play ball with it.
        let hop = ctx.visit.admitted().is_none_or(|a| a.hop);
        let peer = || if hop || ctx.peer == Tried::Yes { None } else { self.upstreams.peer().cloned() };
        if self.upstreams.app.is_healthy() { app().or_else(peer) } else { peer().or_else(app) }
    }

    fn is_app(&self, upstream: &Arc<Upstream>) -> bool {
        Arc::ptr_eq(upstream, &self.upstreams.app)
    }

    fn peer_of(&self, upstream: &Upstream, new_connection: bool) -> HttpPeer {
        let mut peer = match &upstream.tls_name {
            None => HttpPeer::new(upstream.address, false, String::new()),
            Some(name) => HttpPeer::new_mtls(upstream.address, name.clone(), self.identity.clone()),
        };
        peer.options.connection_timeout = Some(self.connect_timeout);
        // TLS is three round trips at most, and a few milliseconds of computing on a busy node.
        peer.options.total_connection_timeout = Some(self.connect_timeout * 3);
        peer.options.read_timeout = Some(self.response_timeout);
        peer.options.write_timeout = Some(self.response_timeout);
        peer.options.idle_timeout = Some(IDLE);
        if new_connection {
            // A group of its own holds no connection that was used before, and is given up afterwards.
            peer.group_key = self.fresh.fetch_add(1, Ordering::Relaxed);
            peer.options.idle_timeout = Some(Duration::from_millis(1));
        }
        peer
    }

    async fn health(&self, session: &mut Session, ctx: &mut Context, about_app: bool) -> pingora::Result<()> {
        let app = self.upstreams.app.is_healthy();
        let good = !self.front.is_stopping() && (app || !about_app);
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        // What a visitor of the site gets to see is no more than the status.
        let public = session.req_header().headers.contains_key(X_FORWARDED_FOR);
        let body = if public {
            json!({"ok": good})
        } else {
            json!({
                "ok": good,
                "node": self.node,
                "state": if self.front.is_stopping() { "draining" } else { "serving" },
                "app": self.upstreams.app.report(),
            })
        };
        let fields = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        self.front.answer(session, &mut ctx.visit, status, &fields, Bytes::from(format!("{body}\n"))).await
    }

    /// An error for the case that nobody can be asked.
    fn nobody(&self) -> Box<Error> {
        let mut e = Error::explain(ErrorType::HTTPStatus(503), "no app answers");
        e.as_up();
        e
    }
}

#[async_trait]
impl ProxyHttp for Web {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<()> {
        self.front.admit(session, &mut ctx.visit)
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<bool> {
        let Some(target) = ctx.visit.admitted().map(|a| a.target.clone()) else { return Ok(false) };
        let method = session.req_header().method.clone();
        if matches!(method, Method::GET | Method::HEAD) {
            match target.as_str() {
                "/healthz" => return self.health(session, ctx, false).await.map(|()| true),
                APP_HEALTH => return self.health(session, ctx, true).await.map(|()| true),
                _ => {}
            }
        }
        let store = self.site.store();
        match files::answer(
            &store,
            self.site.cache_control(),
            &method,
            &target,
            &session.req_header().headers,
        ) {
            Decision::App => Ok(false),
            Decision::Reply(reply) => {
                counter!("trivet_web_static_total").increment(1);
                send::reply(&self.front, &self.site, session, &mut ctx.visit, reply).await?;
                Ok(true)
            }
            Decision::Refuse(why) => {
                let (status, reason) = (StatusCode::BAD_REQUEST, why.to_string());
                self.front.answer_error(session, &mut ctx.visit, status, &reason).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        let again = ctx.fresh.then(|| ctx.current.clone()).flatten();
        let upstream = again.or_else(|| self.next(ctx)).ok_or_else(|| self.nobody())?;
        if self.is_app(&upstream) {
            ctx.app = Tried::Yes;
        } else {
            ctx.peer = Tried::Yes;
            counter!("trivet_web_handed_over_total").increment(1);
        }
        if let Some(exchange) = ctx.visit.exchange() {
            if exchange.backend.is_some() {
                exchange.retries += 1;
            }
            exchange.backend = Some(upstream.name.clone());
        }
        // A kept connection may be closed by the other side just now. What may be sent twice is then sent again; for
        // the rest only a new connection leaves no doubt.
        let new_connection = ctx.fresh || !session.req_header().method.is_idempotent();
        let peer = self.peer_of(&upstream, new_connection);
        ctx.fresh = false;
        ctx.current = Some(upstream);
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&pingora::protocols::Digest>,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        if let Some(exchange) = ctx.visit.exchange() {
            exchange.connected = Some(exchange.elapsed());
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut e: Box<Error>,
    ) -> Box<Error> {
        if let Some(upstream) = &ctx.current {
            upstream.refused(&format!("cannot connect: {}", e.etype().as_str()));
        }
        // Nothing was sent, so any request may be sent to another.
        if self.next(ctx).is_some() {
            e.set_retry(true);
            return e;
        }
        let mut last = Error::because(ErrorType::HTTPStatus(503), "no app answers", e);
        last.as_up();
        last
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let mut e = e.more_context(format!("Peer: {peer}"));
        let safe = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        // Who waited for response_timeout once shall not wait again.
        let died = *e.esource() == ErrorSource::Upstream && !matches!(e.etype(), ErrorType::ReadTimedout);
        ctx.fresh = safe && died && client_reused;
        e.set_retry(ctx.fresh || (safe && died && self.next(ctx).is_some()));
        e
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.front.forward(request, &ctx.visit);
        if ctx.current.as_ref().is_some_and(|u| !self.is_app(u)) {
            request.insert_header(TRIVET_HOP, "1")?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.front.body(&mut ctx.visit, body.as_ref())
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

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Context) -> FailToProxy {
        self.front.fail(session, e, &mut ctx.visit).await
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _e: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        _e: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        // A retry is counted in the request's own line.
        true
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Context) {
        self.front.done(session, e, &mut ctx.visit);
    }
}
