//! The steps of [`super::steps`] as calls for the hooks of Pingora's `ProxyHttp`, which carries HTTP/2.
//!
//! A program's hooks call these, in this order, and add what is their own between:
//!
//! | hook | call |
//! |---|---|
//! | `new_ctx` | [`Visit::default`], as part of the program's own context |
//! | `early_request_filter` | [`Front::admit`] |
//! | `request_body_filter` | [`Front::body`] |
//! | `upstream_request_filter` | [`Front::forward`] |
//! | `response_filter` | [`Front::respond`] |
//! | `fail_to_proxy` | [`Front::fail`] |
//! | `suppress_error_log` | `true`: [`Front::done`] writes the line |
//! | `logging` | [`Front::done`] |
//!
//! An answer that does not come from upstream is sent with [`Front::answer`], an error page with [`Front::answer_error`];
//! `request_filter` then returns `Ok(true)`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, COOKIE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use metrics::counter;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorSource, ErrorType};

use super::admission::Admission;
use super::connection::ConnectionState;
use super::engine::{Answer, Content, answer};
use super::exchange::{self, Exchange, Outcome};
use super::forwarded;
use super::head::RequestHead as _;
use super::refusal::Refusal;
use super::server::Limits;
use super::steps::{self, Admitted, Peer, Policy};
use crate::process::Shutdown;
use crate::tls::clients::ClientVerified;

/// One server's rules.
pub struct Front {
    policy: Policy,
    limits: Limits,
    admission: Arc<Admission>,
    shutdown: Shutdown,
}

/// What is kept about one request; a part of the program's `CTX`.
#[derive(Default)]
pub struct Visit {
    refusal: Option<Refusal>,
    exchange: Option<Exchange>,
    upgraded: bool,
    answered: bool,
    body: u64,
    body_since: Option<Instant>,
}

impl Visit {
    /// What [`Front::admit`] found out. Present in every hook after it; `None` only in `fail_to_proxy` and `logging` of
    /// a request that was refused.
    pub fn admitted(&self) -> Option<&Admitted> {
        self.exchange.as_ref().and_then(|e| e.admitted.as_ref())
    }

    /// The request's record, to note the back end, retries and times in.
    pub fn exchange(&mut self) -> Option<&mut Exchange> {
        self.exchange.as_mut()
    }

    fn request_id(&self) -> &str {
        self.exchange.as_ref().map_or("-", Exchange::id)
    }
}

impl Front {
    /// Rules for one server.
    pub fn new(policy: Policy, limits: Limits, admission: Arc<Admission>, shutdown: Shutdown) -> Self {
        Self { policy, limits, admission, shutdown }
    }

    /// Whether the server was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.shutdown.is_stopping()
    }

    /// The steps before a request is served. An error is a refusal, which [`Front::fail`] turns into an answer.
    pub fn admit(&self, session: &mut Session, visit: &mut Visit) -> pingora::Result<()> {
        let state = ConnectionState::of(session.digest()).cloned();
        if let Some(state) = &state {
            state.request_started();
        }
        let peer = state.map(|s| s.peer().clone()).or_else(|| peer_of(session));
        let head = session.req_header();
        let mut exchange =
            Exchange::start(Some(head.method.clone()), Some(head.version), peer.as_ref().map(|p| p.address));
        // For a request that is refused: what it was, as far as it can be told, and a number to ask about.
        exchange.request_id = steps::new_request_id();
        exchange.path = exchange::shown(head.raw_path());
        visit.exchange = Some(exchange);

        session.set_read_timeout(Some(self.limits.client_timeout));
        session.set_write_timeout(Some(self.limits.client_timeout));
        session.set_min_send_rate(usize::try_from(self.limits.min_rate).ok().filter(|r| *r > 0));
        session.set_total_drain_timeout(Some(self.limits.client_timeout));
        // Pingora waits for the next request without end unless told; the connection's own deadline is the finer one.
        let keep = if self.is_stopping() { None } else { Some(self.limits.idle_timeout.as_secs().max(1)) };
        if session.get_keepalive().is_some() || keep.is_none() {
            session.set_keepalive(keep);
        }

        let Some(peer) = peer else {
            return Err(Error::explain(ErrorType::InternalError, "a connection without an address"));
        };
        // Before the head is looked at: a refused request must cost less than a served one.
        if let Err(wait) = self.admission.request(peer.address) {
            return Err(refuse(visit, Refusal::TooManyRequests(wait)));
        }
        match steps::admit(session.req_header(), &peer, &self.policy) {
            Ok(admitted) => {
                // A proxy of ours in front is exempt; the client it speaks for is not.
                if admitted.client != peer.address
                    && let Err(wait) = self.admission.request(admitted.client)
                {
                    return Err(refuse(visit, Refusal::TooManyRequests(wait)));
                }
                if let Some(exchange) = &mut visit.exchange {
                    exchange.admitted = Some(admitted);
                }
                Ok(())
            }
            Err(refusal) => Err(refuse(visit, refusal)),
        }
    }

    /// Counts a piece of the request's body and holds it to size and rate.
    pub fn body(&self, visit: &mut Visit, piece: Option<&Bytes>) -> pingora::Result<()> {
        visit.body += piece.map_or(0, |b| b.len() as u64);
        // What flows after an upgrade is no body: it has no length, and it may be silent for long.
        if visit.upgraded {
            return Ok(());
        }
        if visit.body > self.policy.max_body_size {
            return Err(refuse(visit, Refusal::BodyTooLarge));
        }
        let took = visit.body_since.get_or_insert_with(Instant::now).elapsed();
        if too_slow(visit.body, took, self.limits.min_rate) {
            return Err(refuse(visit, Refusal::BodyTooSlow));
        }
        Ok(())
    }

    /// The steps before a request goes upstream.
    pub fn forward(&self, request: &mut RequestHeader, visit: &Visit) {
        let Some(admitted) = visit.admitted() else { return };
        let policy = &self.policy;
        let behind: Vec<HeaderName> = request
            .headers
            .keys()
            .filter(|name| steps::stays_behind(name.as_str().as_bytes(), policy))
            .cloned()
            .collect();
        for name in behind {
            request.remove_header(&name);
        }
        // RFC 9113 section 8.2.3: HTTP/2 may cut a cookie list into fields, which HTTP/1.1 servers expect in one.
        let crumbs: Vec<&[u8]> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if crumbs.len() > 1
            && let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
        {
            let _ = request.insert_header(COOKIE, cookie);
        }
        // Names and values are well formed; the only error left is a map of more than 32768 fields.
        steps::forward(admitted, |name, value| {
            let _ = request.insert_header(name.clone(), value);
        });
        let (name, value) = forwarded::via(admitted.version);
        let _ = request.append_header(name, value);
    }

    /// The steps before an answer's head goes to the client.
    pub fn respond(&self, session: &mut Session, response: &mut ResponseHeader, visit: &mut Visit) {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // Only now: a request that merely asks for an upgrade gets no more time than others.
            visit.upgraded = true;
            session.set_read_timeout(Some(self.limits.tunnel_timeout));
            session.set_write_timeout(Some(self.limits.tunnel_timeout));
        }
        if response.status.is_informational() {
            return;
        }
        if let Some(exchange) = &mut visit.exchange
            && exchange.backend.is_some()
        {
            let elapsed = exchange.elapsed();
            exchange.first_byte.get_or_insert(elapsed);
        }
        steps::respond(visit.admitted(), visit.request_id(), &self.policy, |name, value| {
            // What is set here is always a field value.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                let _ = response.insert_header(name, value);
            }
        });
        if self.is_stopping() && !session.is_http2() {
            session.set_keepalive(None);
        }
    }

    /// Sends an answer of our own. For HEAD the body is left out and its length told.
    pub async fn answer(
        &self,
        session: &mut Session,
        visit: &mut Visit,
        status: StatusCode,
        fields: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> pingora::Result<()> {
        let mut response = ResponseHeader::build(status, Some(fields.len() + 6))?;
        for (name, value) in fields {
            response.append_header(name.clone(), value.clone())?;
        }
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !bodiless {
            response.insert_header(CONTENT_LENGTH, body.len())?;
        }
        self.respond(session, &mut response, visit);
        if session.get_keepalive().is_none() && !session.is_http2() {
            response.insert_header(CONNECTION, "close")?;
        }
        let empty = bodiless || body.is_empty() || session.req_header().method == Method::HEAD;
        session.write_response_header(Box::new(response), empty).await?;
        if !empty {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }

    /// Sends the error page of `status` and notes `reason` for the log.
    pub async fn answer_error(
        &self,
        session: &mut Session,
        visit: &mut Visit,
        status: StatusCode,
        reason: &str,
    ) -> pingora::Result<()> {
        if let Some(exchange) = &mut visit.exchange {
            exchange.reason.get_or_insert_with(|| reason.to_owned());
        }
        let page = answer::error(status, visit.request_id(), session.req_header().first(&ACCEPT));
        let Answer { mut fields, content, .. } = page;
        // RFC 6585 section 4.
        if let Some(Refusal::TooManyRequests(wait)) = &visit.refusal {
            fields.push((RETRY_AFTER, HeaderValue::from(wait.seconds())));
        }
        let body = match content {
            Content::Memory(body) => body,
            Content::File(..) => Bytes::new(),
        };
        self.answer(session, visit, status, &fields, body).await
    }

    /// Turns an error into an answer, when one can still be sent.
    pub async fn fail(&self, session: &mut Session, e: &Error, visit: &mut Visit) -> FailToProxy {
        let status = visit.refusal.as_ref().map(Refusal::status).or_else(|| status_of(e));
        if let Some(exchange) = &mut visit.exchange {
            exchange.reason.get_or_insert_with(|| match &visit.refusal {
                Some(refusal) => refusal.to_string(),
                None => one_line(e),
            });
        }
        let Some(status) = status else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        if session.response_written().is_none() {
            // After an error nothing is certain about where the next request would begin.
            session.set_keepalive(None);
            match self.answer_error(session, visit, status, "").await {
                Ok(()) => visit.answered = true,
                Err(e) => tracing::debug!(error = %e, "an error page could not be sent"),
            }
        }
        FailToProxy { error_code: status.as_u16(), can_reuse_downstream: false }
    }

    /// Writes the access log line and the metrics, and lets the connection wait for its next request.
    pub fn done(&self, session: &mut Session, e: Option<&Error>, visit: &mut Visit) {
        let stalled = e.is_some_and(|e| {
            *e.etype() == ErrorType::WriteTimedout && *e.esource() == ErrorSource::Downstream
        });
        if let Some(state) = ConnectionState::of(session.digest()).filter(|_| stalled) {
            state.answer_stalled();
        }
        let outcome = Outcome {
            status: session.response_written().map_or(0, |r| r.status.as_u16()),
            sent: session.body_bytes_sent() as u64,
            received: session.body_bytes_read() as u64,
            aborted: e.is_some() && !visit.answered,
        };
        if let Some(exchange) = &mut visit.exchange {
            if let Some(e) = e {
                exchange.reason.get_or_insert_with(|| one_line(e));
            }
            exchange.finish(outcome);
        }
    }
}

fn refuse(visit: &mut Visit, refusal: Refusal) -> Box<Error> {
    counter!("trivet_http_refused_total", "reason" => refusal.label()).increment(1);
    let status = refusal.status().as_u16();
    visit.refusal = Some(refusal);
    let mut e = Error::new(ErrorType::HTTPStatus(status));
    e.as_down();
    e
}

/// The first ten seconds are free: a body may begin with a pause.
fn too_slow(bytes: u64, took: Duration, min_rate: u64) -> bool {
    took > Duration::from_secs(10) && (bytes as f64) < min_rate as f64 * took.as_secs_f64()
}

fn peer_of(session: &Session) -> Option<Peer> {
    let address = session.client_addr()?.as_inet()?.ip().to_canonical();
    let tls = session.digest().is_some_and(|d| d.ssl_digest.is_some());
    Some(Peer { address, tls, client_certificate: ClientVerified::NotAsked })
}

/// The one place where an error becomes a status; `None` when nobody is left to tell.
fn status_of(e: &Error) -> Option<StatusCode> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, HTTPStatus, InvalidHTTPHeader, ReadError, ReadTimedout,
        WriteError, WriteTimedout,
    };
    match (e.etype(), e.esource()) {
        (HTTPStatus(code), _) => StatusCode::from_u16(*code).ok(),
        (WriteError | ReadError | ConnectionClosed | WriteTimedout, ErrorSource::Downstream) => None,
        (ReadTimedout, ErrorSource::Downstream) => Some(StatusCode::REQUEST_TIMEOUT),
        (InvalidHTTPHeader, ErrorSource::Downstream) => Some(StatusCode::BAD_REQUEST),
        (_, ErrorSource::Downstream) => Some(StatusCode::BAD_REQUEST),
        (ReadTimedout | WriteTimedout | ConnectTimedout, ErrorSource::Upstream) => {
            Some(StatusCode::GATEWAY_TIMEOUT)
        }
        (_, ErrorSource::Upstream) => Some(StatusCode::BAD_GATEWAY),
        (_, ErrorSource::Internal | ErrorSource::Unset) => Some(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn one_line(e: &Error) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
