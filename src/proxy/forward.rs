//! A request's way to a back end and its answer's way to the client.
//!
//! ```text
//! a back end (Pool::lease) → a connection → request out, head of the answer in (attempt) ─┬→ relay, or tunnel
//!       ↑                                                                                 │
//!       └────────────── another one, or the same once more, where it may (retry) ─────────┘
//! ```

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use metrics::counter;
use tokio::time::Instant;

use crate::downstream::{After, Downstream, Ending};
use crate::exchange::{Exchange, Outcome};
use crate::forward::upload::Upload;
use crate::serve::{fail, refuse, unavailable};
use crate::tunnel::tunnel;
use crate::upstream::http2::NoHead;
use crate::upstream::{Checkout, HttpBackend, Upstream, UpstreamIo, is_local, is_out_of_ports};
use crate::{Destination, Engine, Service};
use trivet_http::refusal::Refusal;
use trivet_http::request::Request;
use trivet_http::response::{BadResponse, Response};
use trivet_http::steps;
use trivet_pool::{Passage, Tried, Unavailable};

mod attempt;
mod buffered;
mod relay;
mod upload;

/// Why there is no answer from a back end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    #[error("the client has gone")]
    ClientGone,
    #[error("{0}")]
    Refused(Refusal),
    #[error("the back end closed the connection without an answer: {0}")]
    Broken(io::Error),
    #[error("the back end closed the connection or took the request back, unread")]
    Unprocessed,
    #[error("the request cannot be sent again: what was read of its body is not kept")]
    NotKept,
    #[error("the back end's answer ended within its head")]
    CutShort,
    #[error("the back end says nothing, to its checks or to anybody's requests")]
    Silent,
    #[error("the back end did not answer in time")]
    Late,
    #[error("{0}")]
    Bad(#[from] BadResponse),
    #[error("more interim answers than anyone needs")]
    Interim,
    #[error("the request took longer than request_timeout")]
    RequestTimeout,
}

impl From<NoHead> for Failure {
    fn from(e: NoHead) -> Self {
        match e {
            NoHead::Unprocessed => Self::Unprocessed,
            NoHead::Broken(e) => Self::Broken(e),
            NoHead::Bad(e) => Self::Bad(e),
        }
    }
}

/// A request on its way, and what its attempts have in common.
struct Forwarding<'a, S, C> {
    engine: Arc<Engine<S>>,
    client: &'a mut C,
    request: &'a Request,
    exchange: &'a mut Exchange,
    destination: &'a Destination,
    /// Whether it may be sent again after it has been sent (RFC 9110 section 9.2.2).
    repeatable: bool,
    has_body: bool,
    /// `request_timeout`.
    until: Instant,
    tried: Tried<Upstream>,
    upload: Option<Upload>,
    /// Its leave to go to the pool, which wants to know what became of it.
    passage: Option<Passage<Upstream>>,
    /// Whether it is not sent again for want of a budget for that.
    budget_spent: bool,
}

/// Why there is no connection to a back end.
enum NoConnection {
    /// Nobody can be connected to.
    Local(io::Error),
    /// Another one may be.
    There(io::Error),
}

/// Sends `request` to a back end, to another if that fails and may be tried, and the answer to the client.
pub(super) async fn forward<S: Service, C: Downstream<S>>(
    client: &mut C,
    request: &Request,
    exchange: &mut Exchange,
    destination: &Destination,
) -> After {
    let engine = client.common().engine.clone();
    let mut forwarding = Forwarding {
        until: exchange.started()
            + destination.terms.request_timeout.unwrap_or(engine.limits.request_timeout),
        engine,
        client,
        request,
        exchange,
        destination,
        repeatable: steps::is_repeatable(request) && !request.upgrade,
        has_body: request.has_body(),
        tried: Tried::default(),
        upload: None,
        passage: None,
        budget_spent: false,
    };
    destination.pool.count_request(forwarding.exchange.started());
    forwarding.run().await
}

impl<S: Service, C: Downstream<S>> Forwarding<'_, S, C> {
    /// Attempt after attempt.
    async fn run(&mut self) -> After {
        let length = self.exchange.admitted.as_ref().and_then(|admitted| admitted.content_length);
        if length.is_some_and(|n| n > self.max_body_size()) {
            return self.no_answer(Failure::Refused(Refusal::BodyTooLarge)).await;
        }
        if let Some(most) = self.destination.terms.buffer_request.filter(|_| self.has_body)
            && let Err(failure) = Box::pin(self.buffer(most)).await
        {
            return self.no_answer(failure).await;
        }
        match self.destination.pool.admit(Instant::now()) {
            Ok(passage) => self.passage = passage,
            Err(wait) => return self.left_alone(wait).await,
        }
        let mut last = String::new();
        // The back end that is asked once more, on a new connection.
        let mut same: Option<Arc<HttpBackend>> = None;
        loop {
            let is_second = same.is_some();
            let backend = match same.take() {
                Some(same) => same,
                None => match self.choose().await {
                    Ok(backend) => backend,
                    Err(failure) => return self.nobody(failure, &last).await,
                },
            };
            if self.exchange.backend.is_some() {
                self.exchange.retries += 1;
                counter!("trivet_http_retries_total", "pool" => self.destination.pool.name().to_owned(), "backend" => backend.name().to_owned())
                    .increment(1);
            }
            self.exchange.backend = Some(backend.clone());
            let (mut checkout, connected) = match self.connect(&backend, is_second).await {
                Ok(connected) => connected,
                Err(NoConnection::Local(e)) => {
                    return self
                        .fail(StatusCode::SERVICE_UNAVAILABLE, format!("no connection can be made: {e}"))
                        .await;
                }
                Err(NoConnection::There(e)) => {
                    self.tried.add(&backend);
                    last = e.to_string();
                    continue;
                }
            };
            self.exchange.connected = Some(connected - self.exchange.started());
            let failure = match self.attempt(&backend, &mut checkout, connected).await {
                Ok(response) => {
                    let answered = Instant::now();
                    let goes_on = self.is_asked_of_another(&backend, response.status);
                    self.note(response.status, connected, answered, goes_on);
                    if goes_on {
                        last = format!("it answers {}", response.status);
                        // What is left of the answer goes with its connection, or its stream.
                        self.client.common().fields = response.recycle();
                        continue;
                    }
                    match self.deliver(&backend, checkout, response, answered).await {
                        Ok(after) => return after,
                        Err(failure) => return self.no_answer(failure).await,
                    }
                }
                Err(failure) => failure,
            };
            self.note_failure(&failure, checkout.reused);
            if let (Failure::Silent | Failure::Late, UpstreamIo::Http2(session)) = (&failure, &checkout.io) {
                session.give_up();
            }
            if !self.may_go_again(&backend, &failure, checkout.reused) {
                return self.no_answer(failure).await;
            }
            last = failure.to_string();
            same = (!self.tried.has(&backend)).then_some(backend);
        }
    }

    /// The back end to try next, in whose hands the request is from now on. While all are busy it waits for one.
    async fn choose(&mut self) -> Result<Arc<HttpBackend>, Failure> {
        let Destination { pool, scope, retries, .. } = self.destination;
        if self.tried.len() > *retries {
            return Err(Unavailable::None.into());
        }
        self.exchange.lease = None;
        let mut waits_since = None;
        let lease = {
            let waited = self.exchange.queued.unwrap_or_default();
            let mut lease = pin!(pool.lease(*scope, &self.tried, waited));
            let client = &mut *self.client;
            poll_fn(|cx| match lease.as_mut().poll(cx) {
                Poll::Ready(lease) => Poll::Ready(Ok(lease)),
                Poll::Pending if client.poll_gone(cx) => Poll::Ready(Err(Failure::ClientGone)),
                Poll::Pending => {
                    waits_since.get_or_insert_with(Instant::now);
                    Poll::Pending
                }
            })
            .await
        };
        let lease = lease?;
        if let Some(since) = waits_since {
            *self.exchange.queued.get_or_insert_default() += since.elapsed();
        }
        let lease = lease?;
        let backend = lease.backend().clone();
        self.exchange.lease = Some(lease);
        Ok(backend)
    }

    /// A way to the back end, and since when it is there. A kept connection may be closed by its other side just now. What may be sent twice is then sent
    /// again; for the rest only a new connection leaves no doubt.
    async fn connect(
        &mut self,
        backend: &Arc<HttpBackend>,
        is_second: bool,
    ) -> Result<(Checkout, Instant), NoConnection> {
        let (upstream, now) = (backend.transport(), Instant::now());
        let kept = match is_second || !self.repeatable {
            true => None,
            false if upstream.is_personal() => self.client.common().connection.personal.take(backend),
            false => upstream.kept(now),
        };
        if let Some(checkout) = kept {
            return Ok((checkout, now));
        }
        // A handshake's state is large, and seldom needed: on its own, it is no part of every connection's.
        match Box::pin(upstream.connect(self.client.common().connection.endpoints, is_second)).await {
            Ok(checkout) => Ok((checkout, Instant::now())),
            Err(e) if is_local(&e) => {
                counter!("trivet_local_errors_total").increment(1);
                Err(NoConnection::Local(e))
            }
            // Ports towards this one have run out (TIME_WAIT, tcp(7)); towards another there may be some.
            Err(e) if is_out_of_ports(&e) => Err(NoConnection::There(e)),
            Err(e) => {
                // Nothing was sent, so any request may go to another. This one is not used until its next good check.
                backend.eject(&e.to_string());
                Err(NoConnection::There(e))
            }
        }
    }

    fn max_body_size(&self) -> u64 {
        let most = self.engine.policy.max_body_size;
        self.destination.terms.max_body_size.map_or(most, |own| own.min(most))
    }

    fn response_timeout(&self, backend: &HttpBackend) -> Duration {
        self.destination.terms.response_timeout.unwrap_or(backend.transport().config().response_timeout)
    }

    /// What an answer says about its back end, and about the pool unless another one is asked for.
    fn note(&mut self, status: u16, asked: Instant, answered: Instant, goes_on: bool) {
        // What it cannot do is no fault of its (RFC 9110 sections 15.6.2 and 15.6.6).
        let is_error = status >= 500 && !matches!(status, 501 | 505);
        if let Some(passage) = self.passage.as_mut().filter(|_| !goes_on) {
            passage.ended(is_error, answered);
        }
        let Some(lease) = &self.exchange.lease else { return };
        match status {
            501 | 505 => {}
            _ if is_error => lease.failed("errors", &format!("it answers {status}")),
            _ => lease.answered(answered - asked, answered),
        }
    }

    /// What the lack of one says about it.
    fn note_failure(&self, failure: &Failure, reused: bool) {
        let Some(lease) = &self.exchange.lease else { return };
        match failure {
            // A kept connection that was closed says nothing about its back end.
            Failure::Broken(_) if reused => {}
            Failure::Broken(_) | Failure::CutShort | Failure::Bad(_) | Failure::Interim => {
                lease.failed("broken", &failure.to_string());
            }
            Failure::Late => lease.failed("late", &failure.to_string()),
            _ => {}
        }
    }

    /// Gives the client what the back end answers. An error is an answer that cannot be given.
    async fn deliver(
        &mut self,
        backend: &Arc<HttpBackend>,
        checkout: Checkout,
        response: Response,
        answered: Instant,
    ) -> Result<After, Failure> {
        self.exchange.set_cookie = self.destination.session.as_ref().and_then(|s| s.served_by(backend));
        if response.status == 101 {
            return Ok(tunnel(self.client, self.request, self.exchange, checkout, response).await);
        }
        // RFC 8441 section 5: any 2xx would tell the client that its WebSocket is open.
        if self.request.websocket().is_some() && (200..300).contains(&response.status) {
            self.client.common().fields = response.recycle();
            return Err(BadResponse::WebSocket.into());
        }
        Ok(self.relay(backend, checkout, response, answered).await)
    }

    /// Whether the request is sent once more after `failure`, and to whom: to another, or, where `backend` is not among those
    /// that were tried, to it.
    fn may_go_again(&mut self, backend: &Arc<HttpBackend>, failure: &Failure, reused: bool) -> bool {
        let may = match failure {
            Failure::Broken(_) | Failure::Silent => self.repeatable,
            // Whatever it is, it was not done.
            Failure::Unprocessed => true,
            _ => false,
        };
        if !may {
            return false;
        }
        // A kept connection that was closed says nothing about its back end, which may have it once more.
        let same = reused && !matches!(failure, Failure::Silent);
        if !same {
            self.tried.add(backend);
        }
        let Destination { pool, scope, retries, .. } = self.destination;
        let can = !self.has_body || self.upload.as_ref().is_none_or(|u| u.pump.can_go_again());
        if !can || !(same || (self.tried.len() <= *retries && pool.has_other(*scope, &self.tried))) {
            return false;
        }
        // What met the end of a kept connection has cost no back end anything.
        self.budget_spent = !same && !pool.may_retry(Instant::now());
        !self.budget_spent
    }

    /// Whether another back end is asked for an answer in the place of `backend`'s, which has one of the statuses in `retry_on`.
    /// With no other at hand an answer is better than none.
    fn is_asked_of_another(&mut self, backend: &Arc<HttpBackend>, status: u16) -> bool {
        let retry_on = &backend.transport().config().retry_on;
        if !self.repeatable || !retry_on.iter().any(|range| range.contains(&status)) {
            return false;
        }
        let Destination { pool, scope, retries, .. } = self.destination;
        self.tried.add(backend);
        let can = !self.has_body || self.upload.as_ref().is_none_or(|u| u.pump.can_go_again());
        can && self.tried.len() <= *retries
            && pool.has_usable(*scope, &self.tried)
            && pool.may_retry(Instant::now())
    }

    /// There is no back end for it; the `last` one that was tried failed for this reason.
    async fn nobody(&mut self, failure: Failure, last: &str) -> After {
        match failure {
            Failure::Unavailable(Unavailable::None) if last.is_empty() => {}
            Failure::Unavailable(Unavailable::None) => {
                if let Some(passage) = &mut self.passage {
                    passage.ended(true, Instant::now());
                }
                let reason = format!("no back end could be reached; the last: {last}");
                return self.fail(StatusCode::SERVICE_UNAVAILABLE, reason).await;
            }
            Failure::Unavailable(why) => {
                let label = if why == Unavailable::QueueFull { "queue_full" } else { "queue_timeout" };
                counter!("trivet_http_refused_total", "reason" => label).increment(1);
            }
            _ => {}
        }
        self.no_answer(failure).await
    }

    /// Most requests to the pool fail, and none goes there for now.
    async fn left_alone(&mut self, wait: Duration) -> After {
        counter!("trivet_http_refused_total", "reason" => "circuit_open").increment(1);
        let reason = "most requests to the pool fail (circuit_breaker)".to_owned();
        unavailable(self.client, self.exchange, self.request, reason, wait).await
    }

    /// Answers in the place of a back end.
    async fn no_answer(&mut self, failure: Failure) -> After {
        let status = match &failure {
            Failure::ClientGone => {
                self.exchange.reason = Some(failure.to_string());
                self.exchange.finish(Outcome { aborted: true, ..Outcome::default() });
                self.client.ended(Ending::Cut);
                return After::Cut;
            }
            Failure::Refused(refusal) => {
                return refuse(self.client, self.exchange, refusal, Some(self.request)).await;
            }
            Failure::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Late | Failure::Silent | Failure::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Failure::Broken(_)
            | Failure::Unprocessed
            | Failure::NotKept
            | Failure::CutShort
            | Failure::Bad(_)
            | Failure::Interim => StatusCode::BAD_GATEWAY,
        };
        // What was not sent to anybody, or took its client too long, says nothing.
        let says_something = !matches!(failure, Failure::Unavailable(_) | Failure::RequestTimeout);
        if let Some(passage) = self.passage.as_mut().filter(|_| says_something) {
            passage.ended(true, Instant::now());
        }
        let why = if self.budget_spent { "; not sent again: the pool's retry_budget is spent" } else { "" };
        self.fail(status, format!("{failure}{why}")).await
    }

    async fn fail(&mut self, status: StatusCode, reason: String) -> After {
        fail(self.client, self.exchange, self.request, status, reason).await
    }
}
