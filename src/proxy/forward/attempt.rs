//! One attempt: the request goes out, and the head of its answer comes in.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::Service;
use crate::downstream::{Downstream, Interim};
use crate::forward::upload::Upload;
use crate::forward::{Failure, Forwarding};
use crate::sticky::Session;
use crate::transfer_timeout::{Late, TransferTimeout};
use crate::upstream::{Checkout, HttpBackend, UpstreamIo};
use trivet_http::body::Framing;
use trivet_http::field::Field;
use trivet_http::head::RequestHead as _;
use trivet_http::pump::{Pump, Side, Source as _};
use trivet_http::refusal::Refusal;
use trivet_http::request::{Edits, Request};
use trivet_http::response::{BadResponse, Response};
use trivet_http::scan::Scan;
use trivet_http::steps::Admitted;

/// Content of a request that is kept, so that the request can be sent once more.
const KEEP_FOR_RETRY: usize = 64 * 1024;
/// Octets of an answer's head.
const ANSWER_HEAD: usize = 64 * 1024;
/// Octets read at a time while an answer's head is waited for.
const ANSWER_ROOM: usize = 8 * 1024;
/// Interim answers to one request; more is a back end gone mad.
const MOST_INTERIM: u32 = 100;
/// How often a request that waits for its answer looks at the back end's health.
const LOOK: Duration = Duration::from_millis(250);

impl<S: Service, C: Downstream<S>> Forwarding<'_, S, C> {
    /// Sends the request over `checkout`, and waits for what comes back.
    pub(super) async fn attempt(
        &mut self,
        backend: &Arc<HttpBackend>,
        checkout: &mut Checkout,
        now: Instant,
    ) -> Result<Response, Failure> {
        let (head, to) = self.head(backend, checkout).await?;
        // Towards HTTP/2 the back end's settings may have been waited for.
        let now = if matches!(checkout.io, UpstreamIo::Http2(_)) { Instant::now() } else { now };
        self.prepare(head, to, checkout, now)?;
        if matches!(checkout.io, UpstreamIo::Http2(_)) && self.request.expects_continue() {
            self.client.tell(self.request, Interim::Continue);
        }
        self.answer_head(backend, checkout).await
    }

    /// The head for this back end, where it is part of the octets to come, and how the content is framed. Towards HTTP/2 it
    /// is sent.
    async fn head(
        &mut self,
        backend: &Arc<HttpBackend>,
        checkout: &mut Checkout,
    ) -> Result<(Vec<u8>, Framing), Failure> {
        let Self { engine, request, destination, .. } = self;
        let Some(admitted) = &self.exchange.admitted else { return Err(Failure::ClientGone) };
        let rewritten = destination.target.clone().map(|target| Admitted { target, ..admitted.clone() });
        let admitted = rewritten.as_ref().unwrap_or(admitted);
        let edits = Edits {
            changes: destination.fields.as_deref(),
            hidden_cookie: destination.session.as_ref().map(Session::cookie_name),
        };
        let more = |add: &mut dyn FnMut(&[u8], &[u8])| engine.service.add_fields(backend, add);
        let session = match &mut checkout.io {
            UpstreamIo::Stream(_) => {
                // What it leaves of a body would be the next request to it: of someone else's making, or of this client's,
                // past all that is checked here.
                let closes = self.has_body && !backend.transport().frames_surely();
                let mut head = Vec::new();
                request.forward(admitted, &engine.policy, closes, edits, &mut head, more);
                return Ok((head, request.framing));
            }
            UpstreamIo::Http2(session) => session,
        };
        // RFC 8441: where the back end takes no WebSockets, the upgrade is not asked for.
        let mut challenge = request.challenge();
        if challenge.is_some() && !session.takes_extended_connect().await {
            challenge = None;
        }
        let head = request.forward_http2(
            admitted,
            &engine.policy,
            session.scheme(),
            challenge.is_some(),
            edits,
            more,
        );
        // It is the request that cannot be said so, whoever would be asked.
        let head = head.map_err(|_| Failure::Refused(Refusal::Target))?;
        match challenge {
            Some(challenge) => session.send_connect(head, challenge).await?,
            None => session.send(head, !self.has_body).await?,
        }
        // RFC 9113 section 8.1: the frames are the framing.
        Ok((Vec::new(), if self.has_body { Framing::Close } else { Framing::None }))
    }

    /// Has the upload begin, or begin again.
    fn prepare(
        &mut self,
        head: Vec<u8>,
        to: Framing,
        checkout: &Checkout,
        now: Instant,
    ) -> Result<(), Failure> {
        match &mut self.upload {
            None => {
                let from = self.request.content;
                let mut pump = Pump::new(head, from, to, self.max_body_size());
                // What HTTP/2 takes back unprocessed may be sent again, whatever it is (RFC 9113 section 8.7).
                if self.has_body && (self.repeatable || matches!(checkout.io, UpstreamIo::Http2(_))) {
                    pump.keep(KEEP_FOR_RETRY);
                }
                self.upload = Some(Upload::new(pump, now));
            }
            Some(upload) if self.has_body => {
                upload.done = false;
                upload.refused = None;
                upload.timeout = TransferTimeout::new(Side::Source, now);
                if !upload.pump.again(head, to, self.client.content().1) {
                    return Err(Failure::NotKept);
                }
            }
            Some(upload) => *upload = Upload::new(Pump::new(head, Framing::None, Framing::None, 0), now),
        }
        Ok(())
    }

    /// Sends the request and waits for the head of its answer; interim answers go to the client on the way.
    async fn answer_head(
        &mut self,
        backend: &Arc<HttpBackend>,
        checkout: &mut Checkout,
    ) -> Result<Response, Failure> {
        let response_timeout = self.response_timeout(backend);
        let Self { engine, client, request, exchange, destination, tried, repeatable, until, .. } = self;
        let Some(upload) = &mut self.upload else { return Err(Failure::NotKept) };
        let limits = &engine.limits;
        let (mut scan, mut told) = (Scan::default(), 0);
        poll_fn(|cx| {
            ready!(client.poll_told(cx)).map_err(|_| Failure::ClientGone)?;
            upload.poll(cx, *client, &mut checkout.io)?;
            // While the body is read for the back end, that reading notices the client's end.
            if upload.pump.has_read_all() && client.poll_gone(cx) {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            loop {
                let response = match poll_head(
                    cx,
                    checkout,
                    &mut scan,
                    request,
                    &mut client.common().fields,
                    upload,
                    told > 0,
                ) {
                    Poll::Ready(head) => head?,
                    Poll::Pending => break,
                };
                if response.status == 101 && !request.upgrade {
                    return Poll::Ready(Err(BadResponse::Upgrade.into()));
                }
                if !response.is_interim() {
                    return Poll::Ready(Ok(response));
                }
                told += 1;
                if told > MOST_INTERIM {
                    return Poll::Ready(Err(Failure::Interim));
                }
                client.tell(request, Interim::Of(response));
                scan = Scan::default();
                ready!(client.poll_told(cx)).map_err(|_| Failure::ClientGone)?;
            }
            let now = Instant::now();
            upload.timeout.note(&upload.pump, now);
            if upload.timeout.is_too_slow(upload.pump.content, limits.min_rate) {
                return Poll::Ready(Err(Failure::Refused(Refusal::BodyTooSlow)));
            }
            let (deadline, late) = if upload.pump.has_read_all() || upload.refused.is_some() {
                (upload.timeout.since() + response_timeout, Late::Backend)
            } else {
                upload.timeout.deadline(limits.client_timeout, response_timeout)
            };
            // A node that lost its power closes nothing, and a program that hangs says nothing. What may go elsewhere does not wait for it; but only where somebody is
            // known to be up: a busy back end, whose checks wait as well, is better than a dead one.
            let in_vain = upload.pump.has_read_all()
                && exchange.lease.as_ref().is_some_and(|l| l.waits_in_vain(upload.timeout.since(), now));
            if *repeatable && (in_vain || backend.is_silent()) {
                let mut others = tried.clone();
                others.add(backend);
                let may_try = others.len() <= destination.retries;
                if may_try && destination.pool.has_usable(destination.scope, &others) {
                    return Poll::Ready(Err(Failure::Silent));
                }
            }
            client.common().timer.set_and_wake(deadline.min(*until), now, LOOK);
            ready!(client.common().timer.poll(cx));
            Poll::Ready(Err(if *until <= deadline {
                Failure::RequestTimeout
            } else if late == Late::Backend {
                Failure::Late
            } else {
                Failure::Refused(Refusal::BodyTimeout)
            }))
        })
        .await
    }
}

/// The next head that the back end sends.
fn poll_head(
    cx: &mut Context<'_>,
    checkout: &mut Checkout,
    scan: &mut Scan,
    request: &Request,
    room: &mut Vec<Field>,
    upload: &mut Upload,
    told: bool,
) -> Poll<Result<Response, Failure>> {
    let method = request.method();
    if let UpstreamIo::Http2(session) = &mut checkout.io {
        return session.poll_head(cx, method).map_err(Failure::from);
    }
    loop {
        match scan.end(&checkout.buffer) {
            Err(_) => return Poll::Ready(Err(BadResponse::BareLf.into())),
            Ok(Some(n)) => {
                let raw = checkout.buffer.split_to(n);
                return Poll::Ready(Ok(Response::parse(raw, method, std::mem::take(room))?));
            }
            Ok(None) if checkout.buffer.len() > ANSWER_HEAD => {
                return Poll::Ready(Err(BadResponse::TooLarge.into()));
            }
            Ok(None) => {}
        }
        checkout.buffer.reserve(ANSWER_ROOM);
        match ready!(checkout.io.poll_fill(cx, &mut checkout.buffer)) {
            Ok(1..) => {}
            _ if !checkout.buffer.is_empty() || told => return Poll::Ready(Err(Failure::CutShort)),
            Ok(_) => {
                let e = upload.refused.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                return Poll::Ready(Err(Failure::Broken(e)));
            }
            Err(e) => return Poll::Ready(Err(Failure::Broken(e))),
        }
    }
}
