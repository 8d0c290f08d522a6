//! The octets of a client's HTTP/2 connection, with an eye on what they are ([`trivet_http::frames`]).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::StreamId;
use http::Version;
use metrics::counter;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::admission::Admission;
use crate::exchange::{Exchange, Outcome};
use crate::http1::{LINGER, LINGER_OCTETS};
use crate::log_limiter::LogLimiter;
use crate::timer::Timer;
use crate::upstream::Io;
use trivet_http::frames::{FrameRates, FrameWatch, ResetWatch};
use trivet_http::steps::Peer;

/// What a connection waits for, as far as its octets tell.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// Since when a request's head has been coming.
    pub(super) head_since: Option<Instant>,
    /// Since when the client takes nothing of what is written.
    pub(super) stuck_since: Option<Instant>,
}

/// Streams that are reset for errors of the client's: five a second, and fifty at once. A proxy in front brings those of many
/// clients.
const EACH_FAULT: Duration = Duration::from_millis(200);
const MOST_FAULTS: Duration = Duration::from_secs(10);

/// What is gathered before it is written.
const GATHER: usize = 64 * 1024;

thread_local! {
    /// Room to gather in. Nearly always what was gathered is written before the next connection's turn.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The octets of a connection, between its stream and the library.
///
/// The library writes and flushes every frame by itself. What it writes is gathered here, and leaves when the connection
/// has nothing more to do ([`pushed`]): in few system calls, and few TLS records (RFC 8446 section 5.1).
pub(super) struct Wire<D> {
    inner: D,
    peer: Peer,
    frames: FrameWatch,
    resets: ResetWatch,
    /// The highest stream that was taken up.
    accepted: u32,
    /// When nothing of the errors that were reset counts any more.
    faults_until: Instant,
    admission: Arc<Admission>,
    signs: Signs,
    /// What was read to find out the protocol, and is to be read again.
    begun: Vec<u8>,
    begun_at: usize,
    /// What is to be written, from `out_at` on. It grows to [`GATHER`], and is empty again when all is written.
    out: Vec<u8>,
    out_at: usize,
    unflushed: bool,
    /// From when our side is closed.
    lingering: Option<Lingering>,
    /// How long a client may take nothing of what it has not taken yet.
    patience: Duration,
}

/// How long the client is listened to once our side is closed.
struct Lingering {
    timer: Timer,
    /// Octets more.
    left: usize,
    /// What it had acknowledged when it was looked at last, and since when it has not acknowledged more.
    taken: Option<u64>,
    since: Instant,
}

impl Lingering {
    fn new() -> Self {
        let now = Instant::now();
        let mut timer = Timer::new(LINGER);
        timer.set(now + LINGER);
        Self { timer, left: LINGER_OCTETS, taken: None, since: now }
    }

    /// Whether the client still takes what is on its way: a slow one may have megabytes before it.
    fn goes_on(&mut self, peer: &Peer, patience: Duration) -> bool {
        let (now, taken) = (Instant::now(), peer.is_taking());
        if taken != self.taken {
            (self.taken, self.since) = (taken, now);
        }
        self.timer.set(now + LINGER);
        taken.is_some() && now - self.since < patience
    }
}

impl<D: Io> Wire<D> {
    pub(super) fn signs(&self) -> Signs {
        self.signs
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

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.read_again(buf) {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        }
        let now = Instant::now();
        if let Err(flood) = self.frames.received(&buf.filled()[before..], now) {
            abused(&self.peer, flood.0, &flood.to_string());
            // RFC 9113 section 10.5: the connection is ended without more ado. The library answers no read error with
            // GOAWAY, and a client that floods would not read it.
            let why = io::Error::new(io::ErrorKind::ConnectionAborted, "the client abuses the connection");
            return Poll::Ready(Err(why));
        }
        match (self.frames.is_in_head(), self.signs.head_since) {
            (true, None) => self.signs.head_since = Some(now),
            (false, Some(_)) => self.signs.head_since = None,
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// A request has been taken up: its stream tells what becomes of it.
    pub(super) fn accepted(&mut self, stream: StreamId) {
        self.accepted = self.accepted.max(stream.into());
    }

    /// Looks for streams that the library has reset by itself. Each costs it a little, and the client nothing
    /// (CVE-2025-8671).
    fn resets(&mut self, sent: &[u8]) -> io::Result<()> {
        let mut faults = 0;
        let mut malformed = 0;
        let accepted = self.accepted;
        self.resets.sent(sent, |stream, is_malformed| {
            faults += 1;
            malformed += u32::from(is_malformed && stream > accepted);
        });
        for _ in 0..malformed {
            self.malformed();
        }
        if faults == 0 {
            return Ok(());
        }
        let now = Instant::now();
        self.faults_until = self.faults_until.max(now) + EACH_FAULT * faults;
        if self.faults_until - now <= MOST_FAULTS {
            return Ok(());
        }
        abused(&self.peer, "reset", "too many streams had to be reset for errors of the client's");
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client abuses the connection"))
    }

    /// The library has reset a malformed request, of which it tells nobody.
    fn malformed(&self) {
        counter!("trivet_http_refused_total", "reason" => "malformed").increment(1);
        let mut exchange = Exchange::start(None, Some(Version::HTTP_2), Some(self.peer.address));
        exchange.reason = Some("malformed HTTP/2 request, reset with PROTOCOL_ERROR".into());
        exchange.finish(Outcome { aborted: true, ..Outcome::default() });
        self.admission.malformed(self.peer.address);
    }

    /// Takes what there is room for; some.
    fn poll_gather(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.out.len() >= GATHER {
            ready!(self.poll_write_out(cx))?;
        }
        if self.out.capacity() == 0 {
            self.out = ROOM.take();
            self.out.reserve_exact(GATHER);
        }
        let n = buf.len().min(GATHER - self.out.len());
        self.resets(&buf[..n])?;
        self.out.extend_from_slice(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            match Pin::new(&mut self.inner).poll_write(cx, &self.out[self.out_at..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.out_at += n;
                    self.unflushed = true;
                    self.frames.sent(n);
                    self.signs.stuck_since = None;
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.signs.stuck_since.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        if self.out_at > 0 {
            self.out_at = 0;
            self.out.clear();
            ROOM.set(std::mem::take(&mut self.out));
        }
        Poll::Ready(Ok(()))
    }

    /// Closes our side, and listens until the client has closed its own: closed with octets on their way to us, the connection
    /// would be reset, and the client might never read the GOAWAY that tells it why (RFC 9113 section 6.8).
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_push(cx))?;
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        }
        let lingering = self.lingering.get_or_insert_with(Lingering::new);
        let mut waste = [MaybeUninit::uninit(); 4096];
        loop {
            let mut waste = ReadBuf::uninit(&mut waste);
            match Pin::new(&mut self.inner).poll_read(cx, &mut waste) {
                Poll::Pending => {
                    ready!(lingering.timer.poll(cx));
                    if !lingering.goes_on(&self.peer, self.patience) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Ok(())) if (1..=lingering.left).contains(&waste.filled().len()) => {
                    lingering.left -= waste.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what was gathered, as far as the client takes it.
    pub(super) fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream that is watched: the library's end of a [`Wire`].
pub(super) struct Watched<D>(Arc<Mutex<Wire<D>>>);

impl<D: Io> Watched<D> {
    /// `begun` is what was read of the stream already; `patience`, how long a client may take nothing before the end.
    pub(super) fn new(
        inner: D,
        peer: Peer,
        (rates, patience): (FrameRates, Duration),
        begun: Vec<u8>,
        admission: Arc<Admission>,
    ) -> (Self, Arc<Mutex<Wire<D>>>) {
        let (frames, signs) = (FrameWatch::new(rates), Signs::default());
        let out = Vec::new();
        let wire = Wire {
            inner,
            peer,
            frames,
            resets: ResetWatch::default(),
            accepted: 0,
            faults_until: Instant::now(),
            admission,
            signs,
            begun,
            begun_at: 0,
            out,
            out_at: 0,
            unflushed: false,
            lingering: None,
            patience,
        };
        let wire = Arc::new(Mutex::new(wire));
        (Self(wire.clone()), wire)
    }
}

/// Does `work` on a connection, and lets go of what it writes whenever it comes to rest; `None` when that is no longer
/// possible.
pub(super) async fn pushed<D: Io, T>(wire: &Mutex<Wire<D>>, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => match wire.lock().poll_push(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => Poll::Pending,
        },
    })
    .await
}

/// Counts a connection that is ended for what its client does, and says so.
pub(super) fn abused(peer: &Peer, kind: &'static str, why: &str) {
    static LIMITER: LogLimiter = LogLimiter::new();
    counter!("trivet_http2_floods_total", "kind" => kind).increment(1);
    if let Some(left_out) = LIMITER.ask() {
        tracing::warn!(client = %peer.address, left_out, "HTTP/2 connection ended: {why}");
    }
}

impl<D: Io> AsyncRead for Watched<D> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl<D: Io> AsyncWrite for Watched<D> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_gather(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.lock();
        let mut taken = 0;
        for buf in bufs.iter().filter(|b| !b.is_empty()) {
            match wire.poll_gather(cx, buf) {
                Poll::Ready(Ok(n)) => {
                    taken += n;
                    if n < buf.len() {
                        break;
                    }
                }
                _ if taken > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use trivet_tls::clients::ClientVerified;

    fn wire(room: usize) -> (Watched<DuplexStream>, Arc<Mutex<Wire<DuplexStream>>>, DuplexStream) {
        let (near, far) = duplex(room);
        let peer = Peer {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tls: false,
            client_certificate: ClientVerified::default(),
            socket: None,
            handshake: None,
        };
        let (watched, wire) =
            Watched::new(near, peer, (FrameRates::default(), LINGER), Vec::new(), Admission::unlimited());
        (watched, wire, far)
    }

    #[tokio::test]
    async fn frames_leave_together_when_the_connection_rests() {
        let (mut watched, wire, mut far) = wire(1024);
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let work = async {
            for frame in ["one ", "two ", "three"] {
                watched.write_all(frame.as_bytes()).await.unwrap();
                watched.flush().await.unwrap();
            }
            wait.await.unwrap();
        };
        let client = async {
            let mut got = [0; 100];
            let n = far.read(&mut got).await.unwrap();
            assert_eq!(&got[..n], b"one two three");
            go.send(()).unwrap();
        };
        let (done, ()) = tokio::join!(pushed(&wire, work), client);
        assert!(done.is_some());
    }

    #[tokio::test]
    async fn nothing_is_lost_on_a_client_that_takes_little_at_a_time_and_it_is_seen_to_be_stuck() {
        let (mut watched, wire, mut far) = wire(1000);
        let content: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let sent = async {
            watched.write_all(&content).await.unwrap();
            watched.shutdown().await.unwrap();
        };
        let client = async {
            while wire.lock().signs().stuck_since.is_none() {
                tokio::task::yield_now().await;
            }
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            drop(far);
            got
        };
        let (done, got) = tokio::join!(pushed(&wire, sent), client);
        assert!(done.is_some());
        assert_eq!(got, content);
        assert!(wire.lock().signs().stuck_since.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_sends_when_we_close_is_listened_to_and_not_for_ever() {
        let (mut watched, wire, mut far) = wire(100);
        let began = Instant::now();
        let closing = pushed(&wire, async { watched.shutdown().await.unwrap() });
        let client = async {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            // More than there is room for: it goes only when somebody takes it.
            far.write_all(&[0; 1000]).await.unwrap();
            drop(far);
        };
        let (done, ()) = tokio::join!(closing, client);
        assert!(done.is_some() && began.elapsed() < LINGER);

        let (mut watched, wire, _far) = self::wire(100);
        assert!(pushed(&wire, async { watched.shutdown().await.unwrap() }).await.is_some());
        assert!(began.elapsed() >= LINGER);
    }

    #[tokio::test]
    async fn work_on_a_connection_that_is_broken_ends() {
        let (mut watched, wire, far) = wire(10);
        drop(far);
        let work = async {
            watched.write_all(b"more than goes").await.unwrap();
            std::future::pending::<()>().await;
        };
        assert!(pushed(&wire, work).await.is_none());
    }
}
