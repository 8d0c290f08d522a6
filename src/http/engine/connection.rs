//! One connection of a client: request after request, until one of both sides has had enough.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::header::{DATE, STRICT_TRANSPORT_SECURITY};
use http::{Method, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::super::exchange::{self, Exchange, Outcome};
use super::super::head::RequestHead as _;
use super::super::refusal::Refusal;
use super::super::steps::{Endpoints, Peer};
use super::super::strict::is_token;
use super::answer::{self, End};
use super::body::Framing;
use super::client::{self, After, Begun, Client};
use super::field::Field;
use super::pace::{Late, Pace};
use super::pump::{Pump, PumpError, Side};
use super::request::{self, Request};
use super::response::{BadResponse, Response};
use super::scan::Scan;
use super::timer::Timer;
use super::upstream::{Carrier, HttpBackend, Io, Link, is_quiet};
use super::{Answer, Content, Engine, Service};

/// Room for a request head; most fit.
const HEAD_ROOM: usize = 4096;
/// How HTTP/2 begins (RFC 9113 section 3.4), as far as it looks like a head of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// How long, and for how many octets, a client that was answered early is listened to before the connection ends: closed
/// with octets unread, it would be reset, and the client might never see the answer (RFC 9112 section 9.6).
pub(super) const LINGER: Duration = Duration::from_secs(2);
pub(super) const LINGER_OCTETS: usize = 1024 * 1024;

pub(super) struct Connection<S, D> {
    pub(super) engine: Arc<Engine<S>>,
    pub(super) io: D,
    pub(super) peer: Peer,
    pub(super) endpoints: Endpoints,
    /// A connection to a back end that speaks for this client alone.
    pub(super) own_link: Option<(Arc<HttpBackend>, Link)>,
    /// Whether the preface of HTTP/2 ends the engine's part.
    pub(super) hands_over: bool,
    /// What was read and not yet used.
    pub(super) buffer: BytesMut,
    pub(super) timer: Timer,
    answer_fields: Vec<Field>,
    fields: Vec<Field>,
    /// Interim answers that are not yet sent.
    interim: Vec<u8>,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
}

enum Head {
    Request(Request),
    Refused(Refusal, BytesMut),
    Over,
}

impl<S: Service, D: Io> Connection<S, D> {
    pub(super) fn new(
        engine: Arc<Engine<S>>,
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
            interim: Vec::new(),
            closing: Box::pin(closing.cancelled_owned()),
        }
    }

    /// Serves until the connection ends, or is another protocol's.
    pub(super) async fn serve(mut self) -> Option<(D, Vec<u8>)> {
        let after = loop {
            let after = match self.head().await {
                Head::Request(request) => {
                    let after = client::serve(&mut self, &request).await;
                    self.fields = request.recycle();
                    after
                }
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
            if self.buffer.is_empty() {
                // A connection that waits has nothing of its own.
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
        let limits = self.engine.limits;
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
                match poll_read(&mut self.io, cx, &mut self.buffer) {
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

    /// Refuses what could not be read as a head.
    async fn refuse_head(&mut self, refusal: Refusal, raw: &[u8]) -> After {
        let line = raw.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
        let mut words = line.split(|b| *b == b' ');
        let method = words.next().and_then(|m| Method::from_bytes(m).ok());
        let mut exchange = Exchange::start(method, None, Some(self.peer.address));
        exchange.path = exchange::shown(words.next().unwrap_or_default());
        match client::refuse(self, &mut exchange, &refusal, None).await {
            After::Cut => After::Cut,
            _ => After::Linger,
        }
    }

    /// Whether the server was asked to stop: then every answer is its connection's last.
    pub(super) fn is_stopping(&self) -> bool {
        self.engine.shutdown.is_stopping()
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
            loop {
                // A disk has no deadline here.
                let (deadline, late) = pace.deadline(limits.client_timeout, limits.request_timeout);
                self.timer.set(deadline);
                ready!(self.timer.poll(cx));
                return Poll::Ready(Err(match late {
                    Late::Client
                        if pace.excuses(
                            self.peer.acknowledged(),
                            limits.min_rate,
                            limits.client_timeout,
                            Instant::now(),
                        ) =>
                    {
                        continue;
                    }
                    Late::Client => "the client does not take the answer".to_owned(),
                    Late::Backend => "the file could not be read in time".to_owned(),
                }));
            }
        })
        .await;
        (pump.content, result)
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

impl<S: Service, D: Io> Client<S> for Connection<S, D> {
    fn engine(&self) -> &Arc<Engine<S>> {
        &self.engine
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn own_link(&mut self, backend: &Arc<HttpBackend>) -> Option<Link> {
        let (of, mut link) = self.own_link.take()?;
        link.reused = true;
        (Arc::ptr_eq(&of, backend) && is_quiet(&mut link.carrier)).then_some(link)
    }

    fn keep_own_link(&mut self, backend: &Arc<HttpBackend>, link: Link) {
        self.own_link = Some((backend.clone(), link));
    }

    fn framing(&self, request: &Request) -> Framing {
        request.framing
    }

    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        pump: &mut Pump,
        to: &mut Carrier,
    ) -> Poll<Result<(), PumpError>> {
        pump.poll(cx, &mut self.io, &mut self.buffer, to)
    }

    fn again(&mut self, pump: &mut Pump, head: Vec<u8>, to: Framing) -> bool {
        pump.again(head, to, &mut self.buffer)
    }

    /// Reads what the client sends ahead (pipelining).
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        while self.buffer.len() < self.engine.limits.max_header_size {
            match poll_read(&mut self.io, cx, &mut self.buffer) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    fn tell(&mut self, request: &Request, interim: Response) {
        // RFC 9110 section 15.2: HTTP/1.0 has none.
        if request.version() == Version::HTTP_11 {
            interim.forward(Framing::None, |_| false, &mut self.interim);
            self.interim.extend_from_slice(b"\r\n");
        }
        self.answer_fields = interim.recycle();
    }

    fn tell_continue(&mut self, _: &Request) {
        self.interim.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.interim.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.interim))?;
            self.interim.drain(..n);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn begin(
        &mut self,
        request: &Request,
        exchange: &Exchange,
        response: &mut Response,
        early: bool,
    ) -> Begun {
        let policy = &self.engine.policy;
        let to = response.framing_for(request.version());
        let early = early && response.status >= 300;
        let keep = request.keep_alive && to != Framing::Close && !early && !self.is_stopping();
        let mut head = Vec::new();
        response.forward(to, |_| false, &mut head);
        if !response.has(&DATE) {
            answer::write_date(&mut head);
        }
        let end = if keep { End::KeepAlive(request.version()) } else { End::Close };
        let has_hsts = response.has(&STRICT_TRANSPORT_SECURITY);
        answer::finish(exchange.admitted.as_ref(), exchange.id(), policy, has_hsts, end, &mut head);
        Begun { head, framing: to, after: if keep { After::Next } else { After::Close } }
    }

    fn commit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        pump: &mut Pump,
        link: &mut Link,
    ) -> Poll<Result<(), PumpError>> {
        pump.poll(cx, &mut link.carrier, &mut link.buffer, &mut self.io)
    }

    fn ended(&mut self, _cut: bool, _stalled: bool) {}

    fn room(&mut self) -> &mut Vec<Field> {
        &mut self.answer_fields
    }

    fn switch(
        &mut self,
        _: &Request,
        exchange: &Exchange,
        response: &mut Response,
    ) -> Result<(Vec<u8>, u16), BadResponse> {
        let mut head = Vec::new();
        response.forward(Framing::None, |_| false, &mut head);
        let policy = &self.engine.policy;
        let has_hsts = response.has(&STRICT_TRANSPORT_SECURITY);
        answer::finish(exchange.admitted.as_ref(), exchange.id(), policy, has_hsts, End::Upgrade, &mut head);
        Ok((head, response.status))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The other direction may go on; whether it does is seen there.
        Pin::new(&mut self.io).poll_shutdown(cx).map(|_| ())
    }

    async fn answer(&mut self, exchange: &mut Exchange, answer: Answer, request: Option<&Request>) -> After {
        let has_body = request.is_some_and(Request::has_body);
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
}

/// Reads what is there of a head. Nothing is allocated to wait: an idle connection is cheap.
fn poll_read(io: &mut impl Io, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
    if !buffer.is_empty() {
        // What is left of a buffer whose start is in use (by a request's head) is used up before another is made.
        if buffer.capacity() - buffer.len() < HEAD_ROOM / 4 {
            buffer.reserve(HEAD_ROOM);
        }
        return poll_read_buf(Pin::new(io), cx, buffer);
    }
    let mut room = [MaybeUninit::uninit(); HEAD_ROOM];
    let mut room = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut room))?;
    buffer.extend_from_slice(room.filled());
    Poll::Ready(Ok(room.filled().len()))
}
