//! One connection of a client: request after request, until one of both sides has had enough.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{Method, Version};
use tokio::io::{AsyncReadExt as _, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use crate::answer::{End, Head as AnswerHead};
use crate::downstream::{After, ClientConnection, Common, Downstream, Ending, Interim, Started};
use crate::exchange::{self, Exchange};
use crate::personal::Most;
use crate::serve;
use crate::server::Drain;
use crate::timer::Timer;
use crate::upstream::Io;
use crate::{Engine, Service};
use trivet_http::body::Framing;
use trivet_http::field::Field;
use trivet_http::head::RequestHead as _;
use trivet_http::refusal::Refusal;
use trivet_http::request::{self, Request};
use trivet_http::response::BadResponse;
use trivet_http::scan::Scan;
use trivet_http::steps::{Endpoints, Peer};
use trivet_http::strict::is_token;

/// Room for a request head; most fit.
const HEAD_ROOM: usize = 4096;
/// How HTTP/2 begins (RFC 9113 section 3.4), as far as it looks like a head of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// How long, and for how many octets, a client that was answered early is listened to before the connection ends: closed
/// with octets unread, it would be reset, and the client might never see the answer (RFC 9112 section 9.6).
pub(super) const LINGER: Duration = Duration::from_secs(2);
pub(super) const LINGER_OCTETS: usize = 1024 * 1024;

pub(super) struct Connection<S, D> {
    common: Common<S>,
    io: D,
    /// Whether the preface of HTTP/2 ends the engine's part.
    pub(super) hands_over: bool,
    /// What was read and not yet used.
    buffer: BytesMut,
    fields: Vec<Field>,
    /// Interim answers that are not yet sent.
    interim: Vec<u8>,
    going_away: CancellationToken,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
}

enum Head {
    Request(Request),
    Refused(Refusal, BytesMut),
    Over,
}

impl<S: Service, D: Io> Connection<S, D> {
    pub(super) fn new(engine: Arc<Engine<S>>, io: D, peer: Peer, endpoints: Endpoints, drain: Drain) -> Self {
        let limits = &engine.limits;
        let step = limits.idle_timeout.min(limits.header_timeout).min(limits.client_timeout);
        let timer = Timer::new(step.max(Duration::from_millis(1)));
        let connection = ClientConnection::new(peer, endpoints, Most::One);
        Self {
            common: Common { engine, connection, timer, fields: Vec::new() },
            io,
            hands_over: false,
            buffer: BytesMut::new(),
            fields: Vec::new(),
            interim: Vec::new(),
            going_away: drain.going_away,
            closing: Box::pin(drain.closing.cancelled_owned()),
        }
    }

    /// Serves until the connection ends, or is another protocol's.
    pub(super) async fn serve(mut self) -> Option<(D, Vec<u8>)> {
        let after = loop {
            let after = match self.head().await {
                Head::Request(request) => {
                    let after = serve::serve(&mut self, &request).await;
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
        let limits = self.common.engine.limits;
        let mut scan = Scan::default();
        let (mut skipped, mut checked) = (false, false);
        let mut began = None;
        self.common.timer.set(Instant::now() + limits.idle_timeout);
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
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Head::Over),
                    Poll::Pending => {
                        // From its first octets on the head has its own deadline, which no further octet moves.
                        if began.is_none() && (skipped || !self.buffer.is_empty()) {
                            let now = Instant::now();
                            began = Some(now);
                            self.common.timer.set(now + limits.header_timeout);
                        }
                        if self.common.timer.poll(cx).is_ready() {
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
        let mut exchange = Exchange::start(method, None, Some(self.common.connection.peer.address));
        exchange.path = exchange::shown(words.next().unwrap_or_default());
        match serve::refuse(self, &mut exchange, &refusal, None).await {
            After::Cut => After::Cut,
            _ => After::Linger,
        }
    }

    /// Whether the server was asked to stop, or the connection to end: then every answer is its connection's last.
    pub(super) fn is_ending(&self) -> bool {
        self.common.engine.shutdown.is_stopping() || self.going_away.is_cancelled()
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

impl<S: Service, D: Io> Downstream<S> for Connection<S, D> {
    type Content = D;
    type Sink = D;

    fn common(&mut self) -> &mut Common<S> {
        &mut self.common
    }

    fn content(&mut self) -> (&mut D, &mut BytesMut) {
        (&mut self.io, &mut self.buffer)
    }

    fn sink(&mut self) -> &mut D {
        &mut self.io
    }

    /// Reads what the client sends ahead (pipelining).
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        while self.buffer.len() < self.common.engine.limits.max_header_size {
            match poll_read(&mut self.io, cx, &mut self.buffer) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    fn tell(&mut self, request: &Request, interim: Interim) {
        // RFC 9110 section 15.2: HTTP/1.0 has none.
        let has = request.version() == Version::HTTP_11;
        match interim {
            Interim::Continue if has => self.interim.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Interim::Continue => {}
            Interim::Of(response) => {
                if has {
                    response.forward(Framing::None, |_| false, &mut self.interim);
                    self.interim.extend_from_slice(b"\r\n");
                }
                self.common.fields = response.recycle();
            }
        }
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

    fn start(
        &mut self,
        request: Option<&Request>,
        exchange: &Exchange,
        head: AnswerHead<'_>,
    ) -> Result<Started, BadResponse> {
        let version = request.map_or(Version::HTTP_11, |r| r.version());
        let may_keep = request.is_some_and(|r| r.keep_alive) && !self.is_ending();
        let (framing, after) = match &head {
            AnswerHead::Relayed { response, early } => {
                let framing = response.framing_for(version);
                // An answer that does not wait for its request's end is the last: where the next request begins is not yet
                // known.
                let early = *early && response.status >= 300;
                let keep = may_keep && framing != Framing::Close && !early;
                (framing, if keep { After::Next } else { After::Close })
            }
            AnswerHead::Switch(_) => (Framing::None, After::Close),
            AnswerHead::Own(answer) => {
                let len = if answer.is_bodiless(request) { 0 } else { answer.content.len() };
                let has_body = request.is_some_and(Request::has_body);
                let after = match may_keep && !answer.close && !has_body {
                    true => After::Next,
                    false if has_body => After::Linger,
                    false => After::Close,
                };
                (Framing::Length(len), after)
            }
        };
        let end = match (&head, after) {
            (AnswerHead::Switch(_), _) => End::Upgrade,
            (_, After::Next) => End::KeepAlive(version),
            _ => End::Close,
        };
        let head = head.to_http1(framing, exchange, &self.common.engine.policy, end);
        Ok(Started { head, framing, after })
    }

    fn ended(&mut self, _: Ending) {}
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
