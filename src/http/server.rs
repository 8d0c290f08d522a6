//! Accept loops: TLS, limits, deadlines, graceful stop; what is accepted goes to the protocol that the client speaks.
//!
//! Pingora's own listeners have no deadline for the TLS handshake, no connection limit and no way to finish early once
//! the last request is done, so sockets are accepted here and handed to the application as streams:
//!
//! ```text
//! accept → connections of this address → max_connections → PROXY header, TLS handshake (handshake_timeout, together)
//!        ─┬→ HTTP/1: engine
//!         └→ HTTP/2, as ALPN says: Pingora's HttpProxy inside Connection (idle and header deadlines, frames)
//! ```
//!
//! A stop has three parts: for `drain_delay` connections are still accepted while health checks say "draining" and every
//! answer says `Connection: close`; then the listeners close and idle connections with them; then what is in flight has
//! the rest of `shutdown_timeout`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use metrics::{counter, gauge};
use pingora::apps::{HttpServerApp as _, HttpServerOptions, ServerApp as _};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::configuration::ServerConf;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, ConnectionPermit};
use super::connection::{Allowance, Connection};
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
            drain_delay: Duration::ZERO,
        }
    }
}

/// How a proxy application reaches its back ends.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    /// The authorities that back ends' certificates must lead to. Set it here and not per peer: Pingora builds a new
    /// client configuration at each connect for a peer with an own CA, and keeps its connections under a key without it.
    pub ca_file: Option<std::path::PathBuf>,
    /// Back ends tried for one request, the first included.
    pub attempts: usize,
    /// Unused connections kept, all back ends together.
    pub max_idle: usize,
}

/// Makes a Pingora proxy out of its hooks, with our limits applied.
pub fn proxy<P>(hooks: P, limits: &Limits, upstream: &Upstream) -> Arc<dyn Http2>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    let conf = ServerConf {
        ca_file: upstream.ca_file.as_ref().map(|p| p.to_string_lossy().into_owned()),
        max_retries: upstream.attempts.max(1),
        // Pingora multiplies this by its number of threads, which is left at 1 because the runtime is ours.
        upstream_keepalive_pool_size: upstream.max_idle.max(1),
        threads: 1,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(hooks, Arc::new(conf));
    proxy.handle_init_modules();
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(limits.idle_timeout);
    // Without TLS, for a client that begins with the preface (prior knowledge).
    options.h2c = true;
    proxy.server_options = Some(options);
    proxy.h2_options = Some(http2_options(limits));
    Arc::new(Proxied(Arc::new(proxy)))
}

/// What one HTTP/2 connection may hold. What it may do is counted by [`super::frames`].
fn http2_options(limits: &Limits) -> H2Options {
    let mut h2 = default_h2_options();
    // RFC 9113 section 6.5.2. More than four times as much ends the connection (HPACK bombs), as do more CONTINUATION
    // frames than such a list needs.
    h2.max_header_list_size(u32::try_from(limits.max_header_size).unwrap_or(u32::MAX));
    h2.max_concurrent_streams(limits.max_streams);
    // Body bytes that came and were not taken: all streams together, and one. The larger, the faster a lone upload over a
    // long way; the product with max_connections is what an attacker can fill.
    h2.initial_connection_window_size(256 * 1024);
    h2.initial_window_size(128 * 1024);
    // Requests reset before they were taken up (CVE-2023-44487), and errors of the client's that made us reset: above,
    // GOAWAY. A client that does not know max_streams yet may have some hundred streams refused at its start.
    h2.max_pending_accept_reset_streams(20);
    h2.max_local_error_reset_streams(Some(1024));
    // What is remembered about streams that we reset, so that late frames on them are no error.
    h2.max_concurrent_reset_streams(50);
    h2.reset_stream_duration(Duration::from_secs(1));
    // Answers wait for the client's window at the back end, not here.
    h2.max_send_buffer_size(64 * 1024);
    h2
}

/// What carries the requests of one server, by protocol.
pub struct Protocols<S> {
    /// HTTP/1.0 and 1.1.
    pub http1: Arc<Engine<S>>,
    /// HTTP/2, when it is offered.
    pub http2: Option<Arc<dyn Http2>>,
}

/// HTTP/2 on one connection.
#[async_trait]
pub trait Http2: Send + Sync {
    /// Serves a connection until it ends. Once `closed` is true, it says GOAWAY.
    async fn serve(&self, stream: Stream, closed: &watch::Receiver<bool>);
    /// Called when the listeners are closed.
    async fn cleanup(&self);
}

struct Proxied<P>(Arc<HttpProxy<P>>);

#[async_trait]
impl<P> Http2 for Proxied<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn serve(&self, stream: Stream, closed: &watch::Receiver<bool>) {
        self.0.process_new(stream, closed).await;
    }

    async fn cleanup(&self) {
        self.0.http_cleanup().await;
    }
}

/// A bound address, with or without TLS.
pub struct Endpoint {
    key: String,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    trust: Option<Trust>,
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
        let listener = listen(address).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { key: key.to_owned(), listener, tls, trust: None, address })
    }

    /// Every connection begins with a PROXY header from one of these proxies; others are closed.
    pub fn behind(mut self, trust: Option<Trust>) -> Self {
        self.trust = trust;
        self
    }

    /// Where it listens; the port that the system chose when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
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
    protocols: Protocols<S>,
    limits: Limits,
    admission: Arc<Admission>,
    mut shutdown: Shutdown,
    shutdown_timeout: Duration,
    connections: Arc<Connections>,
) {
    let (closing, closed) = watch::channel(false);
    let server = Arc::new(Server {
        protocols,
        limits,
        admission,
        slots: Arc::new(Semaphore::new(limits.max_connections)),
        tasks: TaskTracker::new(),
        cut: CancellationToken::new(),
        closed,
        closing: CancellationToken::new(),
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
    tokio::time::sleep(limits.drain_delay.min(shutdown_timeout)).await;
    accepting.cancel();
    loops.wait().await;
    // HTTP/2 connections say GOAWAY; HTTP/1 connections that wait for a request are closed.
    server.closing.cancel();
    let _ = closing.send(true);
    if let Some(http2) = &server.protocols.http2 {
        http2.cleanup().await;
    }
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
    protocols: Protocols<S>,
    limits: Limits,
    admission: Arc<Admission>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    cut: CancellationToken,
    closed: watch::Receiver<bool>,
    closing: CancellationToken,
    connections: Arc<Connections>,
}

async fn accept_loop<S: Service>(server: Arc<Server<S>>, endpoint: Endpoint, accepting: CancellationToken) {
    let acceptor = endpoint.tls.map(Acceptor::from_server_config);
    let door = Arc::new(Door { acceptor, trust: endpoint.trust });
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
    let Server { protocols, limits, admission, .. } = &*server;
    let Some(arrived) = door.enter(admission, tcp, from, permit, limits.handshake_timeout).await else {
        return;
    };
    let Arrived { stream, peer, endpoints, permit } = arrived;
    let by_alpn = stream.selected_alpn_proto() == Some(ALPN::H2);
    let http1 = &protocols.http1;
    let http2 = match &protocols.http2 {
        Some(http2) if by_alpn => Some((http2, stream, Vec::new())),
        Some(http2) if !peer.tls => http1
            .serve_or_hand_over(stream, peer.clone(), endpoints, server.closing.clone())
            .await
            .map(|(stream, begun)| (http2, stream, begun)),
        _ => {
            http1.serve(stream, peer.clone(), endpoints, server.closing.clone()).await;
            None
        }
    };
    if let Some((http2, stream, begun)) = http2 {
        let allowance = Allowance {
            idle: limits.idle_timeout,
            header: limits.header_timeout,
            frames: limits.http2_frames,
        };
        match Connection::new(stream, peer, endpoints, allowance, begun) {
            Ok(stream) => http2.serve(Box::new(stream), &server.closed).await,
            Err(e) => tracing::error!(error = %e, "a connection could not be prepared"),
        }
    }
    drop(permit);
}
