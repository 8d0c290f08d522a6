//! Accept loops: TLS, limits, deadlines, graceful stop; what is accepted goes to the protocol that the client speaks.
//!
//! Pingora's own listeners have no deadline for the TLS handshake, no connection limit and no way to finish early once
//! the last request is done, so sockets are accepted here and handed to the application as streams:
//!
//! ```text
//! accept → connections of this address → max_connections → PROXY header, TLS handshake (handshake_timeout, together)
//!         → engine: HTTP/2 as ALPN says, or as the client begins without TLS; else HTTP/1
//! ```
//!
//! A stop has three parts: for `drain_delay` connections are still accepted while health checks say "draining", every answer
//! says `Connection: close`, and connections of HTTP/2 are told GOAWAY: once the virtual address has moved, whatever is said on
//! them is acknowledged to another node, which resets them. Then the listeners close and idle connections with them; then what
//! is in flight has the rest of `shutdown_timeout`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::ALPN;
use rustix::io::Errno;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, ConnectionPermit};
use super::engine::{Engine, Service};
use super::frames::FrameRates;
use super::proxy_protocol::Trust;
use crate::process::{Failure, Shutdown};
use arrival::{Arrived, Door};

mod arrival;

/// What one server allows its clients. The defaults are those of docs/balancer.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its last; then 408 and close.
    pub header_timeout: Duration,
    /// Without a request; then close.
    pub idle_timeout: Duration,
    /// A pause while a body is sent or an answer is taken; then close.
    pub client_timeout: Duration,
    /// As `client_timeout`, for a connection that was upgraded (WebSocket).
    pub tunnel_timeout: Duration,
    /// Bytes a second below which a body (408) or an answer (close) is given up, from the tenth second on.
    pub min_rate: u64,
    /// Connections at a time, all endpoints together; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub max_streams: u32,
    /// HTTP/2 frames that are no requests.
    pub http2_frames: FrameRates,
    /// Bytes of a request head.
    pub max_header_size: usize,
    /// Field lines of a request head.
    pub max_header_fields: usize,
    /// From a request's head to the last byte of its answer.
    pub request_timeout: Duration,
    /// How long an answer that is a stream (events, gRPC) may rest; `request_timeout` does not apply to it.
    pub stream_timeout: Duration,
    /// How long a server that was asked to stop goes on accepting.
    pub drain_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            client_timeout: Duration::from_secs(30),
            tunnel_timeout: Duration::from_secs(3600),
            min_rate: 500,
            max_connections: 10_000,
            max_streams: 100,
            http2_frames: FrameRates::default(),
            max_header_size: 32 * 1024,
            max_header_fields: 100,
            request_timeout: Duration::from_secs(3600),
            stream_timeout: Duration::from_secs(3600),
            drain_delay: Duration::ZERO,
        }
    }
}

/// A bound address, with or without TLS.
pub struct Endpoint {
    key: String,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    trust: Option<Trust>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    address: SocketAddr,
}

impl Endpoint {
    /// Binds `address`; `key` is the configuration's key, for the error. With `tls` (its ALPN names the protocols) the
    /// endpoint speaks HTTPS, without it plain HTTP/1.
    pub async fn bind(
        key: &str,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self, Failure> {
        let fail = |e: std::io::Error| Failure::run(format_args!("{key}: cannot listen on {address}: {e}"));
        let listener = or_ipv4(key, address, listen).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { key: key.to_owned(), listener, tls, trust: None, verifier: None, address })
    }

    /// Every connection begins with a PROXY header from one of these proxies; others are closed.
    pub fn behind(mut self, trust: Option<Trust>) -> Self {
        self.trust = trust;
        self
    }

    /// A certificate that a client shows is verified once more after the handshake: a resumed session's was when it began.
    pub fn verified_by(mut self, verifier: Option<Arc<dyn ClientCertVerifier>>) -> Self {
        self.verifier = verifier;
        self
    }

    /// Where it listens; the port that the system chose when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Where a machine has no IPv6 (turned off in the kernel, or kept from the unit), `[::]` is IPv4 alone: a site that half of
/// the world can reach is better than none. An address of IPv6 that was asked for by itself is still missed.
fn or_ipv4<T>(
    key: &str,
    address: SocketAddr,
    listen: impl Fn(SocketAddr) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let is_any = address.is_ipv6() && address.ip().is_unspecified();
    listen(address).or_else(|e| {
        let missing = matches!(Errno::from_io_error(&e), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL));
        if !(is_any && missing) {
            return Err(e);
        }
        tracing::warn!(key, %address, "this machine has no IPv6; listening on IPv4 alone: {e}");
        listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
    })
}

/// `[::]` takes IPv4 as well, whatever the system's `bindv6only` says.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for connections of the process before to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // The kernel takes the lesser of this and net.core.somaxconn, whose default it is.
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// Numbers of open connections, for `/status`.
#[derive(Debug, Default)]
pub struct Connections(AtomicUsize);

impl Connections {
    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counted(Arc<Connections>);

impl Counted {
    fn new(connections: &Arc<Connections>) -> Self {
        connections.0.fetch_add(1, Ordering::Relaxed);
        gauge!("trivet_connections").increment(1.0);
        counter!("trivet_connections_total").increment(1);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
        gauge!("trivet_connections").decrement(1.0);
    }
}

/// Serves until `shutdown`, and then until everything in flight is done or `shutdown_timeout` is over. `connections` are
/// counted where others can read them.
pub async fn serve<S: Service>(
    endpoints: Vec<Endpoint>,
    engine: Arc<Engine<S>>,
    limits: Limits,
    admission: Arc<Admission>,
    mut shutdown: Shutdown,
    shutdown_timeout: Duration,
    connections: Arc<Connections>,
) {
    let server = Arc::new(Server {
        engine,
        limits,
        admission,
        slots: Arc::new(Semaphore::new(limits.max_connections)),
        tasks: TaskTracker::new(),
        cut: CancellationToken::new(),
        closing: CancellationToken::new(),
        going_away: CancellationToken::new(),
        connections,
    });
    let accepting = CancellationToken::new();
    let loops = TaskTracker::new();
    for endpoint in endpoints {
        tracing::info!(key = %endpoint.key, address = %endpoint.address, tls = endpoint.tls.is_some(), "listening");
        loops.spawn(accept_loop(server.clone(), endpoint, accepting.clone()));
    }
    loops.close();

    shutdown.wait().await;
    let deadline = tokio::time::Instant::now() + shutdown_timeout;
    server.going_away.cancel();
    tokio::time::sleep(limits.drain_delay.min(shutdown_timeout)).await;
    accepting.cancel();
    loops.wait().await;
    // Connections of HTTP/1 that wait for a request are closed.
    server.closing.cancel();
    server.tasks.close();
    let open = server.connections.open();
    tracing::info!(connections = open, "no longer listening; finishing what is in flight");
    if tokio::time::timeout_at(deadline, server.tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = server.connections.open(),
            ?shutdown_timeout,
            "cut off at shutdown_timeout"
        );
        server.cut.cancel();
        server.tasks.wait().await;
    }
}

struct Server<S> {
    engine: Arc<Engine<S>>,
    limits: Limits,
    admission: Arc<Admission>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    cut: CancellationToken,
    closing: CancellationToken,
    going_away: CancellationToken,
    connections: Arc<Connections>,
}

async fn accept_loop<S: Service>(server: Arc<Server<S>>, endpoint: Endpoint, accepting: CancellationToken) {
    let acceptor = endpoint.tls.map(Acceptor::from_server_config);
    let door = Arc::new(Door { acceptor, trust: endpoint.trust, verifier: endpoint.verifier });
    loop {
        let (stream, from) = tokio::select! {
            accepted = endpoint.listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    counter!("trivet_accept_errors_total").increment(1);
                    tracing::warn!(error = %e, address = %endpoint.address, "cannot accept a connection");
                    // Out of descriptors: accepting again at once would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = accepting.cancelled() => return,
        };
        // Before a slot is waited for: one client alone cannot take them all.
        let Ok(permit) = door.knock(&server.admission, from) else { continue };
        // Without a free slot this connection waits here and the next ones in the kernel's queue, where they cost
        // nothing. (Were the slot taken before the accept, an idle endpoint would keep one from the busy ones.)
        let slot = tokio::select! {
            slot = server.slots.clone().acquire_owned() => match slot {
                Ok(slot) => slot,
                Err(_) => return,
            },
            () = accepting.cancelled() => return,
        };
        let (server_of_task, door) = (server.clone(), door.clone());
        server.tasks.spawn(async move {
            let _slot = slot;
            let _counted = Counted::new(&server_of_task.connections);
            let cut = server_of_task.cut.clone();
            tokio::select! {
                () = connection(server_of_task, &door, stream, from, permit) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

async fn connection<S: Service>(
    server: Arc<Server<S>>,
    door: &Door,
    tcp: TcpStream,
    from: SocketAddr,
    permit: Option<ConnectionPermit>,
) {
    let Server { engine, limits, admission, .. } = &*server;
    // What is needed for a while only has room of its own: a connection that waits holds little.
    let arriving = Box::pin(door.enter(admission, tcp, from, permit, limits.handshake_timeout));
    let Some(arrived) = arriving.await else { return };
    let Arrived { stream, peer, endpoints, permit } = arrived;
    let (engine, closing, going_away) = (engine.clone(), server.closing.clone(), server.going_away.clone());
    if stream.selected_alpn_proto() == Some(ALPN::H2) {
        Box::pin(engine.serve_http2(stream, peer, endpoints, going_away, Vec::new())).await;
    } else if peer.tls {
        engine.serve(stream, peer, endpoints, closing).await;
    } else {
        let begun = engine.clone().serve_or_hand_over(stream, peer.clone(), endpoints, closing).await;
        if let Some((stream, begun)) = begun {
            Box::pin(engine.serve_http2(stream, peer, endpoints, going_away, begun)).await;
        }
    }
    drop(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_any_address_is_any_of_ipv4() {
        let without_ipv6 = |address: SocketAddr| match address.is_ipv6() {
            true => Err(std::io::Error::from_raw_os_error(Errno::AFNOSUPPORT.raw_os_error())),
            false => Ok(address),
        };
        let bound = |address: &str| or_ipv4("https.listen", address.parse().unwrap(), without_ipv6).ok();
        assert_eq!(bound("[::]:443"), Some("0.0.0.0:443".parse().unwrap()));
        assert_eq!(bound("192.0.2.1:443"), Some("192.0.2.1:443".parse().unwrap()));
        assert_eq!(bound("[2001:db8::1]:443"), None, "that one was asked for");
        let taken = |_| Err::<(), _>(std::io::Error::from_raw_os_error(Errno::ADDRINUSE.raw_os_error()));
        assert!(or_ipv4("https.listen", "[::]:443".parse().unwrap(), taken).is_err());
    }
}
