//! A client connection with deadlines that hold across reads.
//!
//! Pingora's time-outs are per read: a client that sends one byte in time, for ever, is never late. Around the stream
//! this type therefore keeps what the connection is doing, [`ConnectionState`], and ends a wait for a request head when
//! its deadline passes, however many bytes dripped in.

use std::any::Any;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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

use super::steps::Peer;

/// The deadlines of a connection between its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Without a byte of a request.
    pub idle: Duration,
    /// From the first byte of a request head to its last.
    pub header: Duration,
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
}

/// What a connection is doing, shared by the stream and by the requests on it.
#[derive(Debug)]
pub struct ConnectionState {
    deadlines: Deadlines,
    peer: Peer,
    endpoints: Endpoints,
    http2: bool,
    phase: Mutex<Phase>,
}

impl ConnectionState {
    fn new(peer: Peer, endpoints: Endpoints, http2: bool, deadlines: Deadlines) -> Self {
        let phase = Mutex::new(Phase::Idle { until: Instant::now() + deadlines.idle });
        Self { deadlines, peer, endpoints, http2, phase }
    }

    /// The other side.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The addresses to tell a back end that wants a PROXY header.
    pub fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    /// A request's head is complete.
    pub fn request_started(&self) {
        *self.phase.lock() = Phase::Busy;
    }

    /// A request is over and the connection waits for the next. HTTP/2 has a time-out of its own, because its requests
    /// overlap.
    pub fn request_ended(&self) {
        if !self.http2 {
            *self.phase.lock() = Phase::Idle { until: Instant::now() + self.deadlines.idle };
        }
    }

    /// The state of the connection that `digest` describes.
    pub fn of(digest: Option<&Digest>) -> Option<&Arc<Self>> {
        digest?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Arc<Self>>()
    }

    fn deadline(&self) -> Option<Instant> {
        match *self.phase.lock() {
            Phase::Idle { until } | Phase::Head { until } => Some(until),
            Phase::Busy => None,
            Phase::Late => Some(Instant::now()),
        }
    }

    fn bytes_came(&self) {
        let mut phase = self.phase.lock();
        if let Phase::Idle { .. } = *phase {
            *phase = Phase::Head { until: Instant::now() + self.deadlines.header };
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

    /// Whether the head came too late; true once.
    fn take_late(&self) -> bool {
        let mut phase = self.phase.lock();
        let late = matches!(*phase, Phase::Late);
        if late {
            *phase = Phase::Busy;
        }
        late
    }
}

/// A stream with its state.
#[derive(Debug)]
pub struct Connection {
    inner: Stream,
    state: Arc<ConnectionState>,
    digest: Arc<ProxyDigest>,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    /// Wraps an accepted stream, after its TLS handshake if it has one.
    pub fn new(inner: Stream, peer: Peer, endpoints: Endpoints, deadlines: Deadlines) -> io::Result<Self> {
        let http2 = matches!(inner.selected_alpn_proto(), Some(ALPN::H2));
        let state = Arc::new(ConnectionState::new(peer, endpoints, http2, deadlines));
        // Pingora hands a connection's digests to every request on it; this is the one that carries data of ours.
        let response = ResponseHeader::build(200, Some(0)).map_err(io::Error::other)?;
        let data: Box<dyn Any + Send + Sync> = Box::new(state.clone());
        let digest = Arc::new(ProxyDigest::new(Box::new(response), Some(data)));
        let timer = Box::pin(tokio::time::sleep(deadlines.idle));
        Ok(Self { inner, state, digest, timer })
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
        let before = buf.filled().len();
        match Pin::new(&mut *this.inner).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                // Looked at on data too: one byte before each deadline must not move it.
                if this.state.deadline().is_some_and(|d| d <= Instant::now()) {
                    return Poll::Ready(Err(this.state.passed()));
                }
                if buf.filled().len() > before {
                    this.state.bytes_came();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => match this.poll_deadline(cx) {
                Poll::Ready(()) => Poll::Ready(Err(this.state.passed())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    /// Tells a client whose head came too late, as far as it can be told without waiting: a client that sends slowly may
    /// also read slowly.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state.take_late() && !this.state.http2 {
            let _ = Pin::new(&mut *this.inner).poll_write(cx, LATE);
        }
        Pin::new(&mut *this.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// RFC 9110 section 15.5.9.
const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

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
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buf).await
    }
}

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
