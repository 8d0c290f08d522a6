//! A client's HTTP/2 connection with deadlines that hold across reads.
//!
//! Pingora's time-outs are per read: a client that sends one byte in time, for ever, is never late. Around the stream
//! this type therefore keeps what the connection is doing, [`ConnectionState`], and ends a wait for a request head when
//! its deadline passes, however many bytes dripped in. An HTTP/2 connection is ended, too, when its client abuses it
//! ([`super::frames`]).

use std::any::Any;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::frames::{FrameRates, FrameWatch};
use super::quiet::Quiet;
use super::steps::Peer;

/// What a connection may do beside its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Without a byte of a request.
    pub idle: Duration,
    /// From the first byte of a request head to its last.
    pub header: Duration,
    /// HTTP/2 frames that are no requests.
    pub frames: FrameRates,
}

/// The two ends of a connection, as the client sees it: with a PROXY protocol in front, the proxy's client and the
/// proxy's address. IPv4 may be mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nothing of the next request has come.
    Idle { until: Instant },
    /// A part of the next request's head has come.
    Head { until: Instant },
    /// A request is being served: its own time-outs apply.
    Busy,
    /// The head did not come in time.
    Late,
    /// The client abuses the connection: nothing more is read from it.
    Abused,
}

/// HTTP/2 requests of one connection whose answer the client did not take in time, after which the connection ends. A
/// paused download is one; more at a time are a client that opens streams without a window to hold what they cost us.
const MOST_STALLED: usize = 8;

/// What a connection is doing, shared by the stream and by the requests on it.
#[derive(Debug)]
pub struct ConnectionState {
    allowance: Allowance,
    peer: Peer,
    endpoints: Endpoints,
    phase: Mutex<Phase>,
    stalled: AtomicUsize,
    reading: Mutex<Option<Waker>>,
}

impl ConnectionState {
    fn new(peer: Peer, endpoints: Endpoints, allowance: Allowance) -> Self {
        let phase = Mutex::new(Phase::Idle { until: Instant::now() + allowance.idle });
        Self { allowance, peer, endpoints, phase, stalled: AtomicUsize::new(0), reading: Mutex::new(None) }
    }

    /// The other side.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The addresses to tell a back end that wants a PROXY header.
    pub fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    /// A request's head is complete.
    pub fn request_started(&self) {
        self.turn(Phase::Busy);
    }

    /// Nothing becomes of an abused connection but its end.
    fn turn(&self, to: Phase) {
        let mut phase = self.phase.lock();
        if !matches!(*phase, Phase::Abused) {
            *phase = to;
        }
    }

    /// The client did not take an answer in time. Too many of them end an HTTP/2 connection.
    pub fn answer_stalled(&self) {
        if self.stalled.fetch_add(1, Ordering::Relaxed) + 1 == MOST_STALLED {
            self.abused("slow_reader", "the answers of too many requests are not taken");
            if let Some(reader) = self.reading.lock().take() {
                reader.wake();
            }
        }
    }

    fn abused(&self, kind: &'static str, why: &str) {
        static QUIET: Quiet = Quiet::new();
        *self.phase.lock() = Phase::Abused;
        counter!("trivet_http2_floods_total", "kind" => kind).increment(1);
        if let Some(left_out) = QUIET.speak() {
            tracing::warn!(client = %self.peer.address, left_out, "HTTP/2 connection ended: {why}");
        }
    }

    fn is_abused(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Abused)
    }

    /// The state of the connection that `digest` describes.
    pub fn of(digest: Option<&Digest>) -> Option<&Arc<Self>> {
        digest?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Arc<Self>>()
    }

    fn deadline(&self) -> Option<Instant> {
        match *self.phase.lock() {
            Phase::Idle { until } | Phase::Head { until } => Some(until),
            Phase::Busy | Phase::Abused => None,
            Phase::Late => Some(Instant::now()),
        }
    }

    fn bytes_came(&self) {
        let mut phase = self.phase.lock();
        if let Phase::Idle { .. } = *phase {
            *phase = Phase::Head { until: Instant::now() + self.allowance.header };
        }
    }

    fn passed(&self) -> io::Error {
        let mut phase = self.phase.lock();
        if let Phase::Head { .. } = *phase {
            *phase = Phase::Late;
            counter!("trivet_http_refused_total", "reason" => "header_timeout").increment(1);
        }
        io::Error::new(io::ErrorKind::TimedOut, "no complete request head in time")
    }
}

/// A stream with its state.
#[derive(Debug)]
pub struct Connection {
    inner: Stream,
    state: Arc<ConnectionState>,
    digest: Arc<ProxyDigest>,
    timer: Pin<Box<Sleep>>,
    frames: FrameWatch,
    /// What was read to find out the protocol, and is to be read again.
    begun: Vec<u8>,
    begun_at: usize,
}

impl Connection {
    /// Wraps a stream that speaks HTTP/2. `begun` is what was read of it to find that out.
    pub fn new(
        inner: Stream,
        peer: Peer,
        endpoints: Endpoints,
        allowance: Allowance,
        begun: Vec<u8>,
    ) -> io::Result<Self> {
        let state = Arc::new(ConnectionState::new(peer, endpoints, allowance));
        // Pingora hands a connection's digests to every request on it; this is the one that carries data of ours.
        let response = ResponseHeader::build(200, Some(0)).map_err(io::Error::other)?;
        let data: Box<dyn Any + Send + Sync> = Box::new(state.clone());
        let digest = Arc::new(ProxyDigest::new(Box::new(response), Some(data)));
        let timer = Box::pin(tokio::time::sleep(allowance.idle));
        let frames = FrameWatch::new(allowance.frames);
        Ok(Self { inner, state, digest, timer, frames, begun, begun_at: 0 })
    }

    fn wrote(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &wrote {
            self.frames.sent(*n);
        }
        wrote
    }

    /// Bytes that nobody has seen.
    fn poll_fresh(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut *self.inner).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                // Looked at on data too: one byte before each deadline must not move it.
                if self.state.deadline().is_some_and(|d| d <= Instant::now()) {
                    return Poll::Ready(Err(self.state.passed()));
                }
                if buf.filled().len() > before {
                    self.state.bytes_came();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => match self.poll_deadline(cx) {
                Poll::Ready(()) => Poll::Ready(Err(self.state.passed())),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    /// What was read before and not by the application; true when there was some.
    fn read_again(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.begun[self.begun_at..];
        if rest.is_empty() {
            return false;
        }
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        self.begun_at += n;
        if self.begun_at == self.begun.len() {
            self.begun = Vec::new();
            self.begun_at = 0;
        }
        true
    }

    /// Holds an HTTP/2 client to its rates of frames.
    fn watch(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(flood) = self.frames.received(bytes, Instant::now()) {
            self.state.abused(flood.0, &flood.to_string());
            return Err(abuse());
        }
        Ok(())
    }

    /// Whether the wait for a request head is over time; registers for being woken at its end otherwise.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.state.deadline() else {
            return Poll::Pending;
        };
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The order matters: who ends the connection sets the state before it looks for whom to wake.
        *this.state.reading.lock() = Some(cx.waker().clone());
        if this.state.is_abused() {
            return Poll::Ready(Err(abuse()));
        }
        let before = buf.filled().len();
        if !this.read_again(buf) {
            ready!(this.poll_fresh(cx, buf))?;
        }
        Poll::Ready(this.watch(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut *self.inner).poll_write(cx, buf);
        self.wrote(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut *self.inner).poll_write_vectored(cx, bufs);
        self.wrote(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// RFC 9113 section 10.5: the connection is ended without more ado. The library answers no read error with GOAWAY, and a
/// client that floods would not read it.
fn abuse() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the client abuses the connection")
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // An error here means that the other side has gone, which is what was asked for.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Connection {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

#[async_trait]
impl Peek for Connection {
    /// Pingora asks whether a connection begins with the preface of HTTP/2. That is known by then, although the whole of it
    /// may not have come; whether the rest is right is seen when it is read.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let n = PREFACE.len().min(buf.len());
        buf[..n].copy_from_slice(&PREFACE[..n]);
        Ok(true)
    }
}

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner.get_write_pending_time()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}
