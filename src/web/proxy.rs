//! A request's way through the web tier: health, static files, the app beside it, another node's web tier.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use metrics::counter;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};
use serde_json::json;

use super::files::{self, Decision};
use super::send;
use super::site::Site;
use super::upstreams::{APP_HEALTH, Upstreams};
use crate::http::forwarded::{TRIVET_HOP, X_FORWARDED_FOR};
use crate::http::front::{Front, Visit};
use crate::http::steps;
use crate::pool::{Backend, Tried};

/// Attempts for one request: the app and two peers, and each once more when a kept connection turns out to be dead.
pub const ATTEMPTS: usize = 6;

/// The hooks of Pingora's proxy.
pub struct Web {
    front: Front,
    site: Arc<Site>,
    upstreams: Arc<Upstreams>,
    node: String,
}

/// What is kept about one request.
#[derive(Default)]
pub struct Context {
    visit: Visit,
    backend: Option<Arc<Backend>>,
    tried: Tried,
    /// A kept connection was dead: the same back end again, over a new one.
    again: bool,
}

impl Web {
    /// The hooks of the web tier of `node`.
    pub fn new(node: String, front: Front, site: Arc<Site>, upstreams: Arc<Upstreams>) -> Self {
        Self { front, site, upstreams, node }
    }

    fn next(&self, ctx: &Context) -> Option<Arc<Backend>> {
        self.upstreams.next(&ctx.tried, ctx.visit.admitted().is_none_or(|a| a.hop))
    }

    /// May another be tried after this one failed?
    fn retry(&self, ctx: &mut Context, mut e: Box<Error>, retry: bool) -> Box<Error> {
        e.set_retry(retry);
        if retry && let Some(exchange) = ctx.visit.exchange() {
            exchange.retries += 1;
            let backend = ctx.backend.as_ref().map_or("-", |b| b.name());
            tracing::debug!(request_id = %exchange.request_id, backend, error = %e, "trying again");
        }
        e
    }

    async fn health(&self, session: &mut Session, ctx: &mut Context, about_app: bool) -> pingora::Result<()> {
        if let Some(exchange) = ctx.visit.exchange() {
            exchange.is_check = true;
        }
        let stopping = self.front.is_stopping();
        let good = !stopping && (self.upstreams.app_is_usable() || !about_app);
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        // What a visitor of the site gets to see is no more than the status.
        let public = session.req_header().headers.contains_key(X_FORWARDED_FOR);
        let body = if public {
            json!({"ok": good})
        } else {
            let reason = if stopping { "draining" } else { "the app is down" };
            json!({
                "ok": good,
                "node": self.node,
                "stopping": stopping,
                "reason": if good { None } else { Some(reason) },
                "app": self.upstreams.app_status(),
            })
        };
        let fields = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        self.front.answer(session, &mut ctx.visit, status, &fields, Bytes::from(format!("{body}\n"))).await
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
        let again = std::mem::take(&mut ctx.again);
        let same = ctx.backend.take().filter(|_| again);
        let Some(backend) = same.or_else(|| self.next(ctx)) else {
            return Err(Error::explain(ErrorType::HTTPStatus(503), "no app answers").into_up());
        };
        // A kept connection may be closed by the other side just now. What may be sent twice is then sent again; for
        // the rest only a new connection leaves no doubt.
        let new_connection = again || !steps::is_repeatable(session.req_header());
        let peer = self.upstreams.peer(&backend, new_connection);
        if let Some(exchange) = ctx.visit.exchange() {
            exchange.backend = Some(backend.name().to_owned());
        }
        if !self.upstreams.is_app(&backend) {
            counter!("trivet_web_handed_over_total").increment(1);
        }
        ctx.backend = Some(backend);
        peer.ok_or_else(|| Error::explain(ErrorType::InternalError, "a back end without a peer"))
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
        e: Box<Error>,
    ) -> Box<Error> {
        if let Some(backend) = &ctx.backend {
            backend.eject(&e.to_string());
            ctx.tried.add(backend);
        }
        // Nothing was sent, so any request may be sent to another.
        if self.next(ctx).is_some() {
            return self.retry(ctx, e, true);
        }
        Error::because(ErrorType::HTTPStatus(503), "no app answers", e).into_up()
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let safe = steps::is_repeatable(session.req_header())
            && !session.as_ref().retry_buffer_truncated()
            && !session.is_upgrade_req()
            && session.response_written().is_none();
        // Who waited for response_timeout once shall not wait again.
        let broke = *e.esource() == ErrorSource::Upstream && !matches!(e.etype(), ErrorType::ReadTimedout);
        ctx.again = safe && broke && client_reused;
        if !ctx.again
            && let Some(backend) = &ctx.backend
        {
            ctx.tried.add(backend);
        }
        let retry = ctx.again || (safe && broke && self.next(ctx).is_some());
        self.retry(ctx, e, retry)
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.front.forward(request, &ctx.visit);
        if ctx.backend.as_ref().is_some_and(|b| !self.upstreams.is_app(b)) {
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
