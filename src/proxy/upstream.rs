//! Connections to back ends: made under a deadline, kept for the next request, and looked at before they are used again.

use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

use bytes::BytesMut;
use metrics::Counter;
use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::exchange;
use crate::upstream::http2::{Http2, Session};
use crate::upstream::idle::IdleConnections;
pub use crate::upstream::idle::IdleLimit;
use trivet_base::address::Address;
use trivet_base::process::workers;
use trivet_http::proxy_protocol;
use trivet_http::pump::{Sink, Source};
use trivet_http::steps::Endpoints;
use trivet_pool::{Backend, Pool};
use trivet_tls::stream::Stream;

pub(super) mod http2;
mod idle;

/// A stream of octets in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> Io for T {}

/// How one back end is reached.
#[derive(Clone)]
pub struct UpstreamConfig {
    /// Where it listens.
    pub address: Address,
    /// How its certificate is verified, and under which name; `None` for plain text. Not over a unix socket.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// For the connect and for the TLS handshake, each.
    pub connect_timeout: Duration,
    /// From the last octet of a request to the first of its answer, and between any two parts of the answer.
    pub response_timeout: Duration,
    /// Statuses of an answer in whose place another back end's is given, where one can be had.
    pub retry_on: Arc<[RangeInclusive<u16>]>,
    /// Whether a new connection begins with a PROXY header. It then serves one client only.
    pub send_proxy_protocol: Option<proxy_protocol::Version>,
    /// How long a connection is kept unused. Below the back end's own idle time-out.
    pub idle_timeout: Duration,
    /// Whether it is spoken to in HTTP/2: over TLS when it agrees to (`tls` offers it), else by prior knowledge.
    pub http2: bool,
    /// Whether it is known to see the same ends of messages as we do, on HTTP/1.1: it reads or discards the body of every
    /// request (RFC 9112 section 9.3), and sends none where there is none (section 6.3). Where it is not, a connection is
    /// used again only after messages that leave no doubt.
    pub trusted_framing: bool,
}

impl UpstreamConfig {
    /// A new connection, which begins with what tells the back end of `client` if it is to be told.
    async fn dial(&self, client: Endpoints) -> io::Result<Stream> {
        let Self { address, tls, connect_timeout, send_proxy_protocol, .. } = self;
        let late = |what: &str| {
            io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {connect_timeout:?}"))
        };
        let mut stream = tokio::time::timeout(*connect_timeout, reach(address))
            .await
            .map_err(|_| late("the connect"))??;
        if let Some(version) = send_proxy_protocol {
            stream.write_all(&proxy_protocol::write(*version, client.source, client.destination)).await?;
        }
        let (config, name, tcp) = match (tls, stream) {
            (Some((config, name)), Stream::Plain(tcp)) => (config, name, tcp),
            (_, stream) => return Ok(stream),
        };
        let handshake = Stream::connect(tcp, config.clone(), name.clone());
        let stream = tokio::time::timeout(*connect_timeout, handshake)
            .await
            .map_err(|_| late("the TLS handshake"))??;
        // RFC 9113 section 3.2.
        if self.http2 && stream.alpn() != Some(b"h2") {
            return Err(io::Error::other("the back end does not speak HTTP/2"));
        }
        Ok(stream)
    }
}

async fn reach(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok(Stream::Plain(tcp))
        }
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}

/// What carries a request to a back end.
pub(super) enum UpstreamIo {
    /// A connection of its own: HTTP/1.1.
    Stream(Stream),
    /// A stream of a shared connection: HTTP/2.
    Http2(Box<Session>),
}

impl Source for UpstreamIo {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Stream(io) => io.poll_fill(cx, buffer),
            Self::Http2(session) => session.poll_fill(cx, buffer),
        }
    }

    fn trailer(&mut self) -> Vec<u8> {
        match self {
            Self::Stream(_) => Vec::new(),
            Self::Http2(session) => session.trailer(),
        }
    }
}

impl Sink for UpstreamIo {
    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Stream(io) => io.poll_put(cx, bytes),
            Self::Http2(session) => session.poll_put(cx, bytes),
        }
    }

    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        n: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Stream(io) => io.poll_take(cx, buffer, n),
            Self::Http2(session) => session.poll_take(cx, buffer, n),
        }
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(io) => io.poll_push(cx),
            Self::Http2(session) => session.poll_push(cx),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, trailer: &[u8]) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(io) => io.poll_end(cx, trailer),
            Self::Http2(session) => session.poll_end(cx, trailer),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Stream(io) => io.poll_close(cx),
            Self::Http2(session) => session.poll_close(cx),
        }
    }
}

/// A way to a back end, for one request at a time.
pub struct Checkout {
    pub(super) io: UpstreamIo,
    pub(super) buffer: BytesMut,
    /// Whether a request has gone over it before.
    pub(super) reused: bool,
}

/// What is kept with a back end: how it is reached, and the connections to it that wait for their next request.
pub struct Upstream {
    config: UpstreamConfig,
    idle: IdleConnections,
    most_idle: usize,
    /// The connections of HTTP/2, where that is spoken.
    http2: Option<Http2>,
    answers: [Counter; 6],
}

/// A back end of HTTP.
pub type HttpBackend = Backend<Upstream>;
/// Those that do the same work.
pub type HttpPool = Pool<Upstream>;

impl Upstream {
    /// Of the back end with this name in this pool. What the pool keeps of unused connections is within `limit`.
    pub fn new(pool: &str, name: &str, config: UpstreamConfig, limit: &IdleLimit) -> Self {
        Self {
            http2: config.http2.then(|| Http2::new(config.clone())),
            idle: IdleConnections::new(limit.clone(), config.idle_timeout),
            config,
            most_idle: limit.most(),
            answers: exchange::answers_by_class(pool, name),
        }
    }

    pub(super) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// Counters of the answers that came from it, by class of status.
    pub(super) fn answers(&self) -> &[Counter; 6] {
        &self.answers
    }

    /// Whether this back end certainly sees the messages on a connection end where we do; HTTP/2 frames each (RFC 9113
    /// section 8.1).
    pub(super) fn frames_surely(&self) -> bool {
        self.config.trusted_framing || self.config.http2
    }

    /// Whether a connection to this back end may carry requests of one client only.
    pub(super) fn is_personal(&self) -> bool {
        self.config.send_proxy_protocol.is_some()
    }

    /// A kept connection that its other side has not closed, as far as can be known.
    pub(super) fn kept(&self, now: Instant) -> Option<Checkout> {
        self.idle.take(workers::here(), now)
    }

    /// A way that is not kept: a new connection, or, for HTTP/2, a stream; of a `new` connection, too, when that is asked
    /// for.
    pub(super) async fn connect(&self, client: Endpoints, new: bool) -> io::Result<Checkout> {
        let (io, reused) = match &self.http2 {
            Some(http2) => {
                let (session, reused) = http2.open(client, new).await?;
                (UpstreamIo::Http2(Box::new(session)), reused)
            }
            None => (UpstreamIo::Stream(self.config.dial(client).await?), false),
        };
        Ok(Checkout { io, buffer: BytesMut::new(), reused })
    }

    /// Keeps a connection for the next request. (Those of HTTP/2 are kept where they are shared.)
    pub(super) fn keep(&self, checkout: Checkout, now: Instant) {
        self.idle.keep(checkout, workers::here(), now);
    }

    /// Closes what has been unused for too long.
    fn sweep(&self) {
        self.idle.sweep();
        if let Some(http2) = &self.http2 {
            http2.sweep(self.most_idle);
        }
    }
}

/// Closes connections to back ends that have been unused for too long, for ever: a site at rest makes no calls of its own.
pub async fn sweep(pool: Arc<HttpPool>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        for backend in pool.backends().iter() {
            backend.transport().sweep();
        }
    }
}

/// Whether a connection could not be made for want of something here, of which no back end knows: descriptors, memory
/// (socket(2)).
pub fn is_local(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Whether there is no port left for another connection to this address, or no room in the backlog of a unix socket (connect(2)).
/// Neither says that the back end is down.
pub fn is_out_of_ports(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::ADDRNOTAVAIL | Errno::AGAIN))
}

/// Whether an unused connection is open and silent. What speaks unasked, or has closed, is of no use.
pub(super) fn is_quiet(io: &mut UpstreamIo) -> bool {
    let UpstreamIo::Stream(io) = io else { return false };
    let mut room = [0; 1];
    let mut room = ReadBuf::new(&mut room);
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(io).poll_read(&mut cx, &mut room), Poll::Pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_here_is_no_back_ends_fault() {
        let os = |e: Errno| io::Error::from_raw_os_error(e.raw_os_error());
        for e in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_local(&os(e)) && !is_out_of_ports(&os(e)), "{e}");
        }
        for e in [Errno::ADDRNOTAVAIL, Errno::AGAIN] {
            assert!(is_out_of_ports(&os(e)) && !is_local(&os(e)), "{e}");
        }
        for e in [Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::CONNRESET] {
            assert!(!is_local(&os(e)) && !is_out_of_ports(&os(e)), "{e}");
        }
    }
}
