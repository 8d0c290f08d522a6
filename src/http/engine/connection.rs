//! One connection of a client: request after request, until one of both sides has had enough.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::header::{ACCEPT, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode, Version};
use metrics::counter;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::super::connection::Endpoints;
use super::super::exchange::{self, Exchange, Outcome};
use super::super::head::RequestHead as _;
use super::super::refusal::Refusal;
use super::super::steps::{self, Admitted, Peer};
use super::super::strict::is_token;
use super::answer::{self, End};
use super::body::Framing;
use super::field::Field;
use super::pace::{Late, Pace};
use super::pump::{Pump, PumpError, Side};
use super::request::{self, Request};
use super::scan::Scan;
use super::timer::Timer;
use super::upstream::{Io, Link};
use super::{Answer, Content, Engine, Route, Service};

/// Room for a request head; most fit.
const HEAD_ROOM: usize = 4096;
/// A buffer that grew beyond this for a body is not kept while the connection waits.
const KEPT_ROOM: usize = 16 * 1024;
/// How HTTP/2 begins (RFC 9113 section 3.4), as far as it looks like a head of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// How long, and for how many octets, a client that was answered early is listened to before the connection ends: closed
/// with octets unread, it would be reset, and the client might never see the answer (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: usize = 1024 * 1024;

/// Whether the connection can carry another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Yes.
    Next,
    /// No; it is closed in order.
    Close,
    /// No, and the client may still be sending.
    Linger,
    /// No, and the client must not take what it has got for the whole.
    Cut,
}

pub(super) struct Connection<'e, S, D> {
    pub(super) engine: &'e Engine<S>,
    pub(super) io: D,
    pub(super) peer: Peer,
    pub(super) endpoints: Endpoints,
    /// A connection to a back end that speaks for this client alone.
    pub(super) own_link: Option<(usize, Link)>,
    /// Whether the preface of HTTP/2 ends the engine's part.
    pub(super) hands_over: bool,
    /// What was read and not yet used.
    pub(super) buffer: BytesMut,
    pub(super) timer: Timer,
    pub(super) answer_fields: Vec<Field>,
    fields: Vec<Field>,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
}

enum Head {
    Request(Request),
    Refused(Refusal, BytesMut),
    Over,
}

impl<'e, S: Service, D: Io> Connection<'e, S, D> {
    pub(super) fn new(
        engine: &'e Engine<S>,
        io: D,
        peer: Peer,
        endpoints: Endpoints,
        closing: CancellationToken,
    ) -> Self {
        let limits = &engine.limits;
        let step = limits.idle_timeout.min(limits.header_timeout).min(limits.client_timeout);
        Self {
            engine,
            io,
            peer,
            endpoints,
            own_link: None,
            hands_over: false,
            buffer: BytesMut::new(),
            timer: Timer::new(step.max(Duration::from_millis(1))),
            answer_fields: Vec::new(),
            fields: Vec::new(),
            closing: Box::pin(closing.cancelled_owned()),
        }
    }

    /// Serves until the connection ends, or is another protocol's.
    pub(super) async fn serve(mut self) -> Option<(D, Vec<u8>)> {
        let after = loop {
            let after = match self.head().await {
                Head::Request(request) => self.request(request).await,
                Head::Refused(Refusal::Version, raw) if self.hands_over && raw[..] == *PREFACE => {
                    return Some((self.io, [&raw[..], &self.buffer[..]].concat()));
                }
                Head::Refused(refusal, raw) => self.refuse_head(refusal, &raw).await,
                Head::Over => After::Close,
            };
            if after != After::Next {
                break after;
            }
            self.hands_over = false;
            if self.buffer.is_empty() && self.buffer.capacity() > KEPT_ROOM {
                self.buffer = BytesMut::new();
            }
        };
        match after {
            After::Next | After::Cut => {}
            // Sends close_notify over TLS: the client can tell the end from an attack (RFC 8446 section 6.1).
            After::Close => self.shut().await,
            After::Linger => self.linger().await,
        }
        None
    }

    /// Waits for the head of a request.
    async fn head(&mut self) -> Head {
        let limits = &self.engine.limits;
        let mut scan = Scan::default();
        let (mut skipped, mut checked) = (false, false);
        let mut began = None;
        self.timer.set(Instant::now() + limits.idle_timeout);
        poll_fn(|cx| {
            loop {
                if self.buffer.first().is_some_and(|b| !is_token(*b) && *b != b'\r' && *b != b'\n') {
                    // No request begins like this; its sender, of TLS perhaps, need not wait for a time-out to hear so.
                    return Poll::Ready(self.refused(Refusal::RequestLine));
                }
                match scan.end(&self.buffer) {
                    Err(refusal) => return Poll::Ready(self.refused(refusal)),
                    // RFC 9112 section 2.2: one empty line before a request line is overlooked.
                    Ok(Some(2)) if !skipped => {
                        self.buffer.advance(2);
                        (scan, skipped) = (Scan::default(), true);
                        continue;
                    }
                    Ok(Some(n)) if n > limits.max_header_size => {
                        return Poll::Ready(self.refused(Refusal::HeadTooLarge));
                    }
                    Ok(Some(n)) => {
                        let raw = self.buffer.split_to(n);
                        let room = std::mem::take(&mut self.fields);
                        return Poll::Ready(match Request::parse(raw, limits.max_header_fields, room) {
                            Ok(request) => Head::Request(request),
                            Err((refusal, raw)) => Head::Refused(refusal, raw),
                        });
                    }
                    Ok(None) if self.buffer.len() > limits.max_header_size => {
                        return Poll::Ready(self.refused(if scan.first_line().is_some() {
                            Refusal::HeadTooLarge
                        } else {
                            Refusal::TargetTooLong
                        }));
                    }
                    Ok(None) => {
                        let line = scan.first_line().filter(|n| *n > 0 && !checked);
                        if let Some(Err(refusal)) = line.map(|n| request::check_line(&self.buffer[..n]))
                            && !(self.hands_over && PREFACE.starts_with(&self.buffer[..]))
                        {
                            return Poll::Ready(self.refused(refusal));
                        }
                        checked |= line.is_some();
                    }
                }
                make_room(&mut self.buffer);
                match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer) {
                    Poll::Ready(Ok(1..)) => {
                        // From the first octet on the head has its own deadline, which no further octet moves.
                        if began.is_none() {
                            let now = Instant::now();
                            began = Some(now);
                            self.timer.set(now + limits.header_timeout);
                        }
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Head::Over),
                    Poll::Pending => {
                        if began.is_none() && !self.buffer.is_empty() {
                            let now = Instant::now();
                            began = Some(now);
                            self.timer.set(now + limits.header_timeout);
                        }
                        if self.timer.poll(cx).is_ready() {
                            return Poll::Ready(if began.is_some() {
                                self.refused(Refusal::HeaderTimeout)
                            } else {
                                Head::Over
                            });
                        }
                        if began.is_none() && self.closing.as_mut().poll(cx).is_ready() {
                            return Poll::Ready(Head::Over);
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    fn refused(&mut self, refusal: Refusal) -> Head {
        Head::Refused(refusal, std::mem::take(&mut self.buffer))
    }

    /// The steps of one request.
    async fn request(&mut self, request: Request) -> After {
        let method = Some(request.method().clone());
        let mut exchange = Exchange::start(method, Some(request.version()), Some(self.peer.address));
        match self.admit(&request) {
            Ok(admitted) => exchange.admitted = Some(admitted),
            Err(refusal) => {
                exchange.path = exchange::shown(request.target());
                return self.refuse(&mut exchange, &refusal, request.first(&ACCEPT), &request).await;
            }
        }
        let after = match self.engine.service.route(&request, &mut exchange).await {
            Route::Forward => self.forward(&request, &mut exchange).await,
            Route::Answer(answer) => self.answer(&mut exchange, answer, Some(&request)).await,
            Route::Error(status, reason) => {
                exchange.reason.get_or_insert(reason);
                let page = answer::error(status, exchange.id(), request.first(&ACCEPT));
                self.answer(&mut exchange, page, Some(&request)).await
            }
        };
        self.fields = request.recycle();
        after
    }

    fn admit(&self, request: &Request) -> Result<Admitted, Refusal> {
        let Engine { admission, policy, .. } = self.engine;
        // Before the head is looked at: a refused request must cost less than a served one.
        admission.request(self.peer.address).map_err(Refusal::TooManyRequests)?;
        let admitted = steps::admit(request, &self.peer, policy)?;
        // A proxy of ours in front is exempt; the client it speaks for is not.
        if admitted.client != self.peer.address {
            admission.request(admitted.client).map_err(Refusal::TooManyRequests)?;
        }
        Ok(admitted)
    }

    /// Refuses a request whose head was read.
    pub(super) async fn refuse(
        &mut self,
        exchange: &mut Exchange,
        refusal: &Refusal,
        accept: Option<&[u8]>,
        request: &Request,
    ) -> After {
        let mut page = self.refusal_page(exchange, refusal, accept);
        // After a refusal it is not certain what the next octets are meant to be, but for those that are none of a
        // question of form.
        page.close = !refusal.leaves_connection();
        self.answer(exchange, page, Some(request)).await
    }

    /// Refuses what could not be read as a head.
    async fn refuse_head(&mut self, refusal: Refusal, raw: &[u8]) -> After {
        let line = raw.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
        let mut words = line.split(|b| *b == b' ');
        let method = words.next().and_then(|m| Method::from_bytes(m).ok());
        let mut exchange = Exchange::start(method, None, Some(self.peer.address));
        exchange.path = exchange::shown(words.next().unwrap_or_default());
        let mut page = self.refusal_page(&mut exchange, &refusal, None);
        page.close = true;
        match self.answer(&mut exchange, page, None).await {
            After::Cut => After::Cut,
            _ => After::Linger,
        }
    }

    fn refusal_page(&self, exchange: &mut Exchange, refusal: &Refusal, accept: Option<&[u8]>) -> Answer {
        counter!("trivet_http_refused_total", "reason" => refusal.label()).increment(1);
        exchange.reason.get_or_insert_with(|| refusal.to_string());
        if exchange.id().is_empty() {
            exchange.request_id = steps::new_request_id();
        }
        let mut page = answer::error(refusal.status(), exchange.id(), accept);
        if let Refusal::TooManyRequests(wait) = refusal {
            // RFC 6585 section 4.
            page.fields.push((RETRY_AFTER, HeaderValue::from(wait.seconds())));
        }
        page
    }

    /// Sends an error page when a request could not be forwarded.
    pub(super) async fn fail(
        &mut self,
        exchange: &mut Exchange,
        request: &Request,
        status: StatusCode,
        reason: String,
    ) -> After {
        exchange.reason = Some(reason);
        let page = answer::error(status, exchange.id(), request.first(&ACCEPT));
        self.answer(exchange, page, Some(request)).await
    }

    /// Whether the server was asked to stop: then every answer is its connection's last.
    pub(super) fn is_stopping(&self) -> bool {
        self.engine.shutdown.is_stopping()
    }

    /// Sends an answer of our own; `request` is what it answers, when that could be read.
    pub(super) async fn answer(
        &mut self,
        exchange: &mut Exchange,
        answer: Answer,
        request: Option<&Request>,
    ) -> After {
        let has_body = request.is_some_and(|r| !matches!(r.framing, Framing::None | Framing::Length(0)));
        let keep = request.is_some_and(|r| r.keep_alive) && !answer.close && !has_body && !self.is_stopping();
        let version = request.map_or(Version::HTTP_11, |r| r.version());
        let end = if keep { End::KeepAlive(version) } else { End::Close };
        let head = answer::head(&answer, exchange.admitted.as_ref(), exchange.id(), &self.engine.policy, end);
        let bodiless = request.is_some_and(|r| *r.method() == Method::HEAD)
            || matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let len = if bodiless { 0 } else { answer.content.len() };
        let sent = match answer.content {
            Content::Memory(bytes) => self.send(head, &mut &bytes[..], len).await,
            Content::File(mut file, _) => self.send(head, &mut file, len).await,
        };
        let (content, result) = sent;
        if let Err(why) = &result {
            exchange.reason.get_or_insert_with(|| why.clone());
        }
        exchange.finish(Outcome {
            status: answer.status.as_u16(),
            sent: content,
            received: 0,
            aborted: result.is_err(),
        });
        match result {
            Err(_) => After::Cut,
            Ok(()) if keep => After::Next,
            Ok(()) if has_body => After::Linger,
            Ok(()) => After::Close,
        }
    }

    /// Sends `head` and `len` octets of `source`; how many were sent, and why it ended early.
    async fn send(
        &mut self,
        head: Vec<u8>,
        source: &mut (impl AsyncRead + Unpin),
        len: u64,
    ) -> (u64, Result<(), String>) {
        let limits = &self.engine.limits;
        let mut pump = Pump::new(head, Framing::Length(len), Framing::Length(len), u64::MAX);
        let mut pace = Pace::new(Side::Sink, Instant::now());
        let mut buffer = BytesMut::new();
        let result = poll_fn(|cx| {
            match pump.poll(cx, source, &mut buffer, &mut self.io) {
                Poll::Ready(result) => return Poll::Ready(result.map_err(|e: PumpError| e.to_string())),
                Poll::Pending => {}
            }
            pace.note(&pump, Instant::now());
            if pace.is_too_slow(pump.content, limits.min_rate) {
                return Poll::Ready(Err("the client takes the answer too slowly".into()));
            }
            // A disk has no deadline here.
            let (deadline, late) = pace.deadline(limits.client_timeout, limits.request_timeout);
            self.timer.set(deadline);
            self.timer.poll(cx).map(|()| {
                Err(match late {
                    Late::Client => "the client does not take the answer".to_owned(),
                    Late::Backend => "the file could not be read in time".to_owned(),
                })
            })
        })
        .await;
        (pump.content, result)
    }

    /// Listens to the client while it is served, for its end and for what it sends ahead (pipelining). True when it has
    /// gone.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        while self.buffer.len() < self.engine.limits.max_header_size {
            make_room(&mut self.buffer);
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    async fn shut(&mut self) {
        use tokio::io::AsyncWriteExt as _;
        // An error here means that the other side has gone, which is what was asked for.
        let _ = tokio::time::timeout(LINGER, self.io.shutdown()).await;
    }

    /// Ends the connection without losing the answer on its way.
    async fn linger(&mut self) {
        let listen = async {
            self.shut().await;
            let mut waste = vec![0; 16 * 1024];
            let mut most = LINGER_OCTETS;
            while let Ok(n @ 1..) = self.io.read(&mut waste).await {
                match most.checked_sub(n) {
                    Some(rest) => most = rest,
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, listen).await;
    }
}

/// Room for octets to be read: what is left of a buffer whose start is in use (by a request's head) is used up before
/// another is made.
fn make_room(buffer: &mut BytesMut) {
    if buffer.capacity() - buffer.len() < HEAD_ROOM / 4 {
        buffer.reserve(HEAD_ROOM);
    }
}
