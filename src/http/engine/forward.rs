//! A request's way to a back end and its answer's way to the client.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, StatusCode};
use metrics::counter;
use tokio::time::Instant;

use super::super::exchange::{Exchange, Outcome};
use super::super::head::RequestHead as _;
use super::super::refusal::Refusal;
use super::super::steps;
use super::Service;
use super::body::{BadBody, Framing};
use super::client::{After, Begun, Client, fail, refuse};
use super::pace::{Late, Pace};
use super::pump::{Pump, PumpError, Side, Source as _};
use super::request::Request;
use super::response::{BadResponse, Response};
use super::scan::Scan;
use super::tunnel::tunnel;
use super::upstream::http2::NoHead;
use super::upstream::{Carrier, Link, is_local, is_out_of_ports};
use crate::pool::{Backend, Tried};

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

/// Why there is no answer from a back end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the client has gone")]
    ClientGone,
    #[error("{0}")]
    Refused(Refusal),
    #[error("the back end closed the connection without an answer: {0}")]
    Broken(io::Error),
    #[error("the back end closed the connection or took the request back, unread")]
    Unprocessed,
    #[error("the back end's answer ended within its head")]
    CutShort,
    #[error("the back end is down: it answers neither this nor its checks")]
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

/// The request on its way to the back end.
struct Upload {
    pump: Pump,
    pace: Pace,
    done: bool,
    /// The back end no longer takes it; it may still answer.
    refused: Option<io::Error>,
}

impl Upload {
    fn new(pump: Pump, now: Instant) -> Self {
        Self { pump, pace: Pace::new(Side::Source, now), done: false, refused: None }
    }

    /// Moves what can be moved of the request.
    fn poll<S: Service>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Client<S>,
        to: &mut Carrier,
    ) -> Result<(), Failure> {
        if self.done || self.refused.is_some() {
            return Ok(());
        }
        match client.poll_upload(cx, &mut self.pump, to) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.done = true,
            // It may have answered before it closed.
            Poll::Ready(Err(PumpError::Sink(e))) => self.refused = Some(e),
            Poll::Ready(Err(PumpError::Source(_) | PumpError::Body(BadBody::Incomplete))) => {
                return Err(Failure::ClientGone);
            }
            Poll::Ready(Err(PumpError::Body(e))) => return Err(Failure::Refused(Refusal::Body(e))),
            Poll::Ready(Err(PumpError::TooLarge)) => return Err(Failure::Refused(Refusal::BodyTooLarge)),
        }
        Ok(())
    }
}

/// Sends `request` to a back end, to another if that fails and may be tried, and the answer to the client.
pub(super) async fn forward<S: Service, C: Client<S>>(
    client: &mut C,
    request: &Request,
    exchange: &mut Exchange,
) -> After {
    let engine = client.engine().clone();
    let service = &engine.service;
    let repeatable = steps::is_repeatable(request) && !request.upgrade;
    let until = Instant::now() + engine.limits.request_timeout;
    let has_body = request.has_body();
    let mut tried = Tried::default();
    let mut again: Option<Arc<Backend>> = None;
    let mut upload: Option<Upload> = None;
    let mut last = String::new();
    loop {
        let Some(admitted) = &exchange.admitted else { return After::Cut };
        let same = again.take();
        // A kept connection may be closed by its other side just now. What may be sent twice is then sent again; for the
        // rest only a new connection leaves no doubt.
        let (second, new) = (same.is_some(), same.is_some() || !repeatable);
        let next = match same {
            Some(same) => Some(same),
            None if tried.len() <= service.retries() => service.next(admitted, &tried),
            None => None,
        };
        let Some(backend) = next else {
            let reason = if last.is_empty() {
                "no back end is up".into()
            } else {
                format!("no back end could be reached; the last: {last}")
            };
            return fail(client, exchange, request, StatusCode::SERVICE_UNAVAILABLE, reason).await;
        };
        if exchange.backend.is_some() {
            exchange.retries += 1;
            counter!("trivet_http_retries_total", "backend" => backend.name().to_owned()).increment(1);
        }
        exchange.backend = Some(backend.clone());
        let upstreams = service.upstreams();
        let kept = match new {
            true => None,
            false if upstreams.is_personal(backend.index()) => client.own_link(backend.index()),
            false => upstreams.kept(backend.index()),
        };
        let mut link = match kept {
            Some(link) => link,
            // A handshake's state is large, and seldom needed: on its own, it is no part of every connection's.
            None => match Box::pin(upstreams.connect(backend.index(), client.endpoints(), second)).await {
                Ok(link) => link,
                Err(e) if is_local(&e) => {
                    counter!("trivet_local_errors_total").increment(1);
                    let reason = format!("no connection can be made: {e}");
                    return fail(client, exchange, request, StatusCode::SERVICE_UNAVAILABLE, reason).await;
                }
                // Ports towards this one have run out (TIME_WAIT, tcp(7)); towards another there may be some.
                Err(e) if is_out_of_ports(&e) => {
                    tried.add(&backend);
                    last = e.to_string();
                    continue;
                }
                Err(e) => {
                    // Nothing was sent, so any request may go to another. This one is not used until its next good check.
                    backend.eject(&e.to_string());
                    tried.add(&backend);
                    last = e.to_string();
                    continue;
                }
            },
        };
        exchange.connected = Some(exchange.elapsed());
        let mut head = Vec::new();
        let more = |add: &mut dyn FnMut(&[u8], &[u8])| service.add_fields(&backend, add);
        let (to, sent) = match &mut link.carrier {
            Carrier::Stream(_) => {
                // What it leaves of a body would be the next request to it: of someone else's making, or of this client's,
                // past all that is checked here.
                let closes = has_body && !upstreams.frames_surely(backend.index());
                request.forward(admitted, &engine.policy, closes, &mut head, more);
                (request.framing, Ok(()))
            }
            Carrier::Http2(session) => {
                // RFC 8441: where the back end takes no WebSockets, the upgrade is not asked for.
                let mut challenge = request.challenge();
                if challenge.is_some() && !session.takes_extended_connect().await {
                    challenge = None;
                }
                let connects = challenge.is_some();
                let head = request.forward_http2(admitted, &engine.policy, session.scheme(), connects, more);
                let sent = match (head, challenge) {
                    // It is the request that cannot be said so, whoever would be asked.
                    (Err(_), _) => Err(Failure::Refused(Refusal::Target)),
                    (Ok(head), Some(challenge)) => {
                        session.send_connect(head, challenge).await.map_err(Failure::from)
                    }
                    (Ok(head), None) => session.send(head, !has_body).await.map_err(Failure::from),
                };
                // RFC 9113 section 8.1: the frames are the framing.
                (if has_body { Framing::Close } else { Framing::None }, sent)
            }
        };
        let now = Instant::now();
        let ready = match &mut upload {
            None => {
                let from = client.framing(request);
                let mut pump = Pump::new(head, from, to, engine.policy.max_body_size);
                // What HTTP/2 takes back unprocessed may be sent again, whatever it is (RFC 9113 section 8.7).
                if has_body && (repeatable || matches!(link.carrier, Carrier::Http2(_))) {
                    pump.keep(KEEP_FOR_RETRY);
                }
                upload = Some(Upload::new(pump, now));
                true
            }
            Some(upload) if has_body => {
                upload.done = false;
                upload.refused = None;
                upload.pace = Pace::new(Side::Source, now);
                client.again(&mut upload.pump, head, to)
            }
            Some(upload) => {
                *upload = Upload::new(Pump::new(head, Framing::None, Framing::None, 0), now);
                true
            }
        };
        let Some(sending) = upload.as_mut().filter(|_| ready) else {
            return fail(client, exchange, request, StatusCode::BAD_GATEWAY, last).await;
        };
        let head = match sent {
            Ok(()) => {
                if matches!(link.carrier, Carrier::Http2(_)) && request.expects_continue() {
                    client.tell_continue(request);
                }
                // A node that lost its power closes nothing. What may go elsewhere does not wait for it; but only where
                // somebody is known to be up: a busy back end, whose checks wait as well, is better than a dead one.
                let lost = || {
                    repeatable && backend.is_silent() && {
                        let mut others = tried.clone();
                        others.add(&backend);
                        service.has_usable(admitted, &others)
                    }
                };
                answer_head(client, request, exchange, &mut link, sending, until, lost).await
            }
            Err(failure) => Err(failure),
        };
        let failure = match head {
            Ok(response) if response.status == 101 => {
                return tunnel(client, request, exchange, link, response).await;
            }
            // RFC 8441 section 5: any 2xx would tell the client that its WebSocket is open.
            Ok(response) if request.websocket().is_some() && (200..300).contains(&response.status) => {
                *client.room() = response.recycle();
                Failure::Bad(BadResponse::WebSocket)
            }
            Ok(response) => {
                return relay(client, request, exchange, &backend, link, response, sending, until).await;
            }
            Err(failure) => failure,
        };
        last = failure.to_string();
        if let (Failure::Silent | Failure::Late, Carrier::Http2(session)) = (&failure, &link.carrier) {
            session.give_up();
        }
        let may = match failure {
            Failure::Broken(_) | Failure::Silent => repeatable,
            // Whatever it is, it was not done.
            Failure::Unprocessed => true,
            _ => false,
        };
        if may {
            // A kept connection that was closed says nothing about its back end, which may have it once more.
            let same = link.reused && !matches!(failure, Failure::Silent);
            if !same {
                tried.add(&backend);
            }
            let can = !has_body || sending.pump.can_go_again();
            if can && (same || service.has_next(admitted, &tried)) {
                again = same.then_some(backend);
                continue;
            }
        }
        return no_answer(client, request, exchange, failure).await;
    }
}

fn response_timeout<S: Service>(engine: &super::Engine<S>, exchange: &Exchange) -> Duration {
    let reach = exchange.backend.as_ref().and_then(|b| engine.service.upstreams().reach(b.index()));
    reach.map_or(engine.limits.client_timeout, |r| r.response_timeout)
}

/// Sends the request and waits for the head of its answer; interim answers go to the client on the way.
async fn answer_head<S: Service, C: Client<S>>(
    client: &mut C,
    request: &Request,
    exchange: &Exchange,
    link: &mut Link,
    upload: &mut Upload,
    until: Instant,
    is_lost: impl Fn() -> bool,
) -> Result<Response, Failure> {
    let engine = client.engine().clone();
    let limits = &engine.limits;
    let response_timeout = response_timeout(&engine, exchange);
    let (mut scan, mut told) = (Scan::default(), 0);
    poll_fn(|cx| {
        ready!(client.poll_told(cx)).map_err(|_| Failure::ClientGone)?;
        upload.poll(cx, client, &mut link.carrier)?;
        // While the body is read for the back end, that reading notices the client's end.
        if upload.pump.has_read_all() && client.poll_gone(cx) {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        loop {
            let response = match poll_head(cx, link, &mut scan, request, client.room(), upload, told > 0) {
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
            client.tell(request, response);
            scan = Scan::default();
            ready!(client.poll_told(cx)).map_err(|_| Failure::ClientGone)?;
        }
        let now = Instant::now();
        upload.pace.note(&upload.pump, now);
        if upload.pace.is_too_slow(upload.pump.content, limits.min_rate) {
            return Poll::Ready(Err(Failure::Refused(Refusal::BodyTooSlow)));
        }
        let (deadline, late) = if upload.pump.has_read_all() || upload.refused.is_some() {
            (upload.pace.since() + response_timeout, Late::Backend)
        } else {
            upload.pace.deadline(limits.client_timeout, response_timeout)
        };
        if is_lost() {
            return Poll::Ready(Err(Failure::Silent));
        }
        client.timer().set_and_wake(deadline.min(until), LOOK);
        ready!(client.timer().poll(cx));
        Poll::Ready(Err(if until <= deadline {
            Failure::RequestTimeout
        } else if late == Late::Backend {
            Failure::Late
        } else {
            Failure::Refused(Refusal::BodyTimeout)
        }))
    })
    .await
}

/// The next head that the back end sends.
fn poll_head(
    cx: &mut Context<'_>,
    link: &mut Link,
    scan: &mut Scan,
    request: &Request,
    room: &mut Vec<super::field::Field>,
    upload: &mut Upload,
    told: bool,
) -> Poll<Result<Response, Failure>> {
    let method = request.method();
    if let Carrier::Http2(session) = &mut link.carrier {
        return session.poll_head(cx, method).map_err(Failure::from);
    }
    loop {
        match scan.end(&link.buffer) {
            Err(_) => return Poll::Ready(Err(BadResponse::BareLf.into())),
            Ok(Some(n)) => {
                let raw = link.buffer.split_to(n);
                return Poll::Ready(Ok(Response::parse(raw, method, std::mem::take(room))?));
            }
            Ok(None) if link.buffer.len() > ANSWER_HEAD => {
                return Poll::Ready(Err(BadResponse::TooLarge.into()));
            }
            Ok(None) => {}
        }
        link.buffer.reserve(ANSWER_ROOM);
        match ready!(link.carrier.poll_fill(cx, &mut link.buffer)) {
            Ok(1..) => {}
            _ if !link.buffer.is_empty() || told => return Poll::Ready(Err(Failure::CutShort)),
            Ok(_) => {
                let e = upload.refused.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                return Poll::Ready(Err(Failure::Broken(e)));
            }
            Err(e) => return Poll::Ready(Err(Failure::Broken(e))),
        }
    }
}

/// Sends the answer to the client, while the rest of the request still goes to the back end.
#[allow(clippy::too_many_arguments)] // every part of one exchange
async fn relay<S: Service, C: Client<S>>(
    client: &mut C,
    request: &Request,
    exchange: &mut Exchange,
    backend: &Backend,
    mut link: Link,
    mut response: Response,
    upload: &mut Upload,
    until: Instant,
) -> After {
    let engine = client.engine().clone();
    let limits = &engine.limits;
    exchange.first_byte = Some(exchange.elapsed());
    // An answer that does not wait for its request's end is the last: where the next request begins is not yet known.
    let early = !upload.pump.has_read_all();
    let from = match link.carrier {
        Carrier::Http2(_) if response.framing != Framing::None => Framing::Close,
        _ => response.framing,
    };
    let Begun { head, framing: to, after } = client.begin(request, exchange, &mut response, early);
    let mut download = Pump::new(head, from, to, u64::MAX);
    // What is wrong with the beginning can still be told.
    if let Err(e) = download.look(&mut link.buffer) {
        *client.room() = response.recycle();
        return fail(client, exchange, request, StatusCode::BAD_GATEWAY, e.to_string()).await;
    }
    let (status, is_stream) = (response.status, response.is_stream());
    if client.commit().is_err() {
        exchange.reason = Some(Failure::ClientGone.to_string());
        exchange.finish(Outcome { status, received: upload.pump.content, sent: 0, aborted: true });
        client.ended(true, false);
        return After::Cut;
    }
    // A stream of events rests for as long as nothing happens, and ends when one side wants.
    let (response_timeout, until) = match is_stream {
        true => (limits.stream_timeout, None),
        false => (response_timeout(&engine, exchange), Some(until)),
    };
    let mut pace = Pace::new(Side::Sink, Instant::now());
    let mut stalled = false;
    let result: Result<(), String> = poll_fn(|cx| {
        match client.poll_download(cx, &mut download, &mut link) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(PumpError::Sink(_))) => {
                return Poll::Ready(Err(Failure::ClientGone.to_string()));
            }
            Poll::Ready(Err(e)) => {
                return Poll::Ready(Err(format!("the back end's answer broke off: {e}")));
            }
            Poll::Pending => {}
        }
        if let Err(e) = upload.poll(cx, client, &mut link.carrier) {
            return Poll::Ready(Err(e.to_string()));
        }
        let mut now = Instant::now();
        pace.note(&download, now);
        if pace.is_too_slow(download.content, limits.min_rate) {
            stalled = true;
            return Poll::Ready(Err("the client takes the answer too slowly".into()));
        }
        if !upload.pump.has_read_all() && upload.refused.is_none() {
            upload.pace.note(&upload.pump, now);
        } else if download.waiting == Side::Source && client.poll_gone(cx) {
            return Poll::Ready(Err(Failure::ClientGone.to_string()));
        }
        loop {
            let (mut deadline, mut late) = pace.deadline(limits.client_timeout, response_timeout);
            let mut is_download = true;
            if !upload.pump.has_read_all() && upload.refused.is_none() {
                let (other, who) = upload.pace.deadline(limits.client_timeout, response_timeout);
                // While one direction moves, the other may rest.
                if other > deadline {
                    (deadline, late, is_download) = (other, who, false);
                }
            }
            let end = until.map_or(deadline, |until| deadline.min(until));
            client.timer().set(end);
            ready!(client.timer().poll(cx));
            now = Instant::now();
            return Poll::Ready(Err(match late {
                _ if end < deadline => Failure::RequestTimeout.to_string(),
                Late::Backend => "the back end's answer paused for too long".into(),
                Late::Client if !is_download => "the body paused for too long".to_owned(),
                Late::Client
                    if pace.excuses(
                        client.peer().acknowledged(),
                        limits.min_rate,
                        limits.client_timeout,
                        now,
                    ) =>
                {
                    continue;
                }
                Late::Client => {
                    stalled = true;
                    "the client does not take the answer".to_owned()
                }
            }));
        }
    })
    .await;
    let complete = upload.pump.has_read_all();
    if let Err(why) = &result {
        exchange.reason = Some(why.clone());
    }
    exchange.finish(Outcome {
        status,
        sent: download.content,
        received: upload.pump.content,
        aborted: result.is_err(),
    });
    client.ended(result.is_err(), stalled);
    let upstreams = engine.service.upstreams();
    // An answer without content by rule (RFC 9112 section 6.3) that has some after all, and late, would be the next one's.
    let is_sure = upstreams.frames_surely(backend.index())
        || !(request.has_body() || *request.method() == Method::HEAD || matches!(response.status, 204 | 304));
    if result.is_ok() && response.keep_alive && upload.done && link.buffer.is_empty() && is_sure {
        if upstreams.is_personal(backend.index()) {
            client.keep_own_link(backend.index(), link);
        } else {
            upstreams.keep(backend.index(), link);
        }
    }
    *client.room() = response.recycle();
    match result {
        Err(_) => After::Cut,
        Ok(()) if complete => after,
        Ok(()) => After::Linger,
    }
}

/// Answers in the place of a back end.
async fn no_answer<S: Service, C: Client<S>>(
    client: &mut C,
    request: &Request,
    exchange: &mut Exchange,
    failure: Failure,
) -> After {
    let status = match &failure {
        Failure::ClientGone => {
            exchange.reason = Some(failure.to_string());
            exchange.finish(Outcome { aborted: true, ..Outcome::default() });
            client.ended(true, false);
            return After::Cut;
        }
        Failure::Refused(refusal) => return refuse(client, exchange, refusal, Some(request)).await,
        Failure::Late | Failure::Silent | Failure::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
        Failure::Broken(_)
        | Failure::Unprocessed
        | Failure::CutShort
        | Failure::Bad(_)
        | Failure::Interim => StatusCode::BAD_GATEWAY,
    };
    fail(client, exchange, request, status, failure.to_string()).await
}
