//! Accept loops: TLS, limits, deadlines, graceful stop; what is accepted goes to the protocol that the client speaks.
//!
//! Pingora runs the threads and keeps the sockets ([`trivet_base::process::server`]); its listening service has no connection limit, no
//! even spread and no way to go on accepting while it drains, so sockets are accepted here:
//!
//! ```text
//! accept → connections of this address → max_connections → the worker with the fewest connections
//!        → PROXY header, TLS handshake (handshake_timeout, together)
//!        → engine: HTTP/2 as ALPN says, or as the client begins without TLS; else HTTP/1
//! ```
//!
//! One loop accepts for all workers. With a socket for each (`SO_REUSEPORT`) the kernel would choose by chance, a worker that is
//! busy would keep its clients waiting, and whoever waits in a socket that closes would be refused.
//!
//! A stop has three parts: for `drain_delay` connections are still accepted while health checks say "draining", every answer
//! says `Connection: close`, and connections of HTTP/2 are told GOAWAY: once the virtual address has moved, whatever is said on
//! them is acknowledged to another node, which resets them. Then the listeners close and idle connections with them; then what
//! is in flight has the rest of `shutdown_timeout`.
//!
//! The same is told to the connections of virtual addresses alone that an operator has move to another node ([`Connections::drain`]).
//!
//! Once another process has taken over, nothing more is accepted, and what is open has `drain_timeout`: connections end as after
//! a stop, but no idle one is closed before its time, since a request may be on its way.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, ConnectionPermit};
use crate::{Engine, Service};
use arrival::{Acceptor, Arrived};
pub use drain::Drain;
use drain::Drains;
use trivet_base::process::register::{Open, Register};
use trivet_base::process::server::Listener;
use trivet_base::process::sockets::{Entry, Listening};
use trivet_base::process::workers::Workers;
use trivet_base::process::{Failure, Phase, Shutdown};
use trivet_http::frames::FrameRates;
use trivet_http::proxy_protocol::Trust;

mod arrival;
mod drain;

/// What one server allows its clients, as its configuration says.
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
    /// How long a server that was asked to stop finishes what it has.
    pub shutdown_timeout: Duration,
    /// The same, for one whose place another process has taken.
    pub drain_timeout: Duration,
}

/// A bound address, with or without TLS.
pub struct Endpoint {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    trust: Option<Trust>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    address: SocketAddr,
    entry: Entry,
}

impl Endpoint {
    /// Accepts from a socket. With `tls` (its ALPN names the protocols) the endpoint speaks HTTPS, without it plain HTTP.
    pub fn new(socket: &Listener, tls: Option<Arc<ServerConfig>>) -> Result<Self, Failure> {
        let Listening { listener, address, entry, .. } = socket.take()?;
        Ok(Self { listener, tls, trust: None, verifier: None, address, entry })
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

/// The connections that are open.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    arrived: Arc<Register<Seen>>,
    drains: Drains,
}

/// One that has arrived.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    pub client: IpAddr,
    /// `HTTP/2` or `HTTP/1`.
    pub protocol: &'static str,
    /// `TLSv1.3`; none in plain text.
    pub tls: Option<&'static str>,
    /// The name that was asked for in the handshake.
    pub server_name: Option<String>,
}

impl Connections {
    /// None yet; those to `virtual_addresses` can be [drained](Self::drain).
    pub fn drainable(virtual_addresses: Vec<IpAddr>) -> Self {
        Self { drains: Drains::with_moving(virtual_addresses), ..Self::default() }
    }

    /// Whether the virtual addresses are to be on another node. Then connections to them are told GOAWAY, or `Connection: close` with
    /// their next answer, and `drain_delay` later what waits for a request is closed. True when that is new.
    pub fn drain(&self, drained: bool) -> bool {
        self.drains.drain(drained)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Those that have arrived, the oldest first.
    pub fn list(&self) -> Vec<Open<Seen>> {
        self.arrived.list()
    }
}

struct Counted(Arc<Connections>);

impl Counted {
    fn new(connections: &Arc<Connections>) -> Self {
        connections.open.fetch_add(1, Ordering::Relaxed);
        gauge!("trivet_connections").increment(1.0);
        counter!("trivet_connections_total").increment(1);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        gauge!("trivet_connections").decrement(1.0);
    }
}

/// Whom connections are served by, and with which limits.
pub struct Serving<S> {
    /// The application.
    pub engine: Arc<Engine<S>>,
    /// Of one connection, and of all.
    pub limits: Limits,
    /// Of one client.
    pub admission: Arc<Admission>,
    /// The threads.
    pub workers: Arc<Workers>,
    /// Counts them where others can read it.
    pub connections: Arc<Connections>,
}

/// Serves until `shutdown`, and then until everything in flight is done or the time for it is over.
pub async fn serve<S: Service>(
    endpoints: Vec<Endpoint>,
    serving: Serving<S>,
    started: impl FnOnce(),
    mut shutdown: Shutdown,
) -> Result<(), Failure> {
    let limits = serving.limits;
    let Limits { shutdown_timeout, drain_timeout, .. } = limits;
    let server = Arc::new(Server {
        slots: Arc::new(Semaphore::new(limits.max_connections)),
        tasks: TaskTracker::new(),
        cut: CancellationToken::new(),
        serving,
    });
    let accepting = CancellationToken::new();
    let loops = TaskTracker::new();
    let mut begun = Vec::new();
    for (number, endpoint) in endpoints.into_iter().enumerate() {
        let (begins, begin) = oneshot::channel();
        begun.push(begin);
        let accept = accept_loop(server.clone(), endpoint, accepting.clone(), begins);
        // On a worker: for its share of the connections nobody needs to be woken up.
        server.serving.workers.spawn(number, loops.track_future(accept));
    }
    loops.close();
    for begin in begun {
        begin.await.unwrap_or_else(|_| Err(Failure::run("a listener has ended before it began")))?;
    }
    started();

    let drains = &server.serving.connections.drains;
    tokio::select! { () = shutdown.wait() => {}, () = drains.close_idle(limits.drain_delay) => {} }
    drains.all.going_away.cancel();
    let mut deadline = Instant::now() + shutdown_timeout;
    match shutdown.phase() {
        Phase::HandedOver => {
            accepting.cancel();
            server.tasks.close();
            tokio::select! {
                () = server.tasks.wait() => return Ok(()),
                () = shutdown.wait_for_stop() => deadline = Instant::now() + shutdown_timeout,
                () = tokio::time::sleep(drain_timeout) => deadline = Instant::now(),
            }
        }
        Phase::Serving | Phase::Stopping => {
            tokio::time::sleep(limits.drain_delay.min(shutdown_timeout)).await;
            accepting.cancel();
        }
    }
    let _ = tokio::time::timeout_at(deadline.min(Instant::now() + LOOPS), loops.wait()).await;
    // Connections of HTTP/1 that wait for a request are closed.
    drains.all.closing.cancel();
    server.tasks.close();
    let open = server.serving.connections.open();
    tracing::info!(connections = open, "no longer listening; finishing what is in flight");
    if tokio::time::timeout_at(deadline, server.tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = server.serving.connections.open(),
            ?shutdown_timeout,
            ?drain_timeout,
            "cut off: its time to finish is over"
        );
        server.cut.cancel();
        let _ = tokio::time::timeout(CUT, server.tasks.wait()).await;
    }
    Ok(())
}

/// What accept loops get to notice that they end: one may wait for a slot, and a thread that stands still keeps nobody.
const LOOPS: Duration = Duration::from_secs(1);
/// What connections that are cut off get to notice it.
const CUT: Duration = Duration::from_secs(1);

struct Server<S> {
    serving: Serving<S>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    cut: CancellationToken,
}

async fn accept_loop<S: Service>(
    server: Arc<Server<S>>,
    endpoint: Endpoint,
    accepting: CancellationToken,
    begins: oneshot::Sender<Result<(), Failure>>,
) {
    let Endpoint { listener, tls, trust, verifier, address, entry: _entry } = endpoint;
    let Serving { admission, workers, .. } = &server.serving;
    let acceptor = Arc::new(Acceptor { tls, trust, verifier });
    let failed = |e: std::io::Error| {
        counter!("trivet_accept_errors_total").increment(1);
        tracing::warn!(error = %e, %address, "cannot accept a connection");
    };
    let (listener, result) = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => (Some(listener), Ok(())),
        Err(e) => (None, Err(Failure::run(format_args!("cannot listen on {address}: {e}")))),
    };
    // Whoever waited for it may be gone: the process ends.
    let _ = begins.send(result);
    let Some(listener) = listener else { return };
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    failed(e);
                    // Out of descriptors: accepting again at once would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = accepting.cancelled() => return,
        };
        // Before a slot is waited for: one client alone cannot take them all.
        let Ok(permit) = acceptor.admit(admission, from) else { continue };
        // Without a free slot this connection waits here and the next ones in the kernel's queue, where they cost
        // nothing. (Were the slot taken before the accept, an idle endpoint would keep one from the busy ones.) It is served also
        // when nothing more is accepted: it was accepted.
        let counts = server.tasks.token();
        let slot = tokio::select! {
            slot = server.slots.clone().acquire_owned() => match slot {
                Ok(slot) => slot,
                Err(_) => return,
            },
            () = server.cut.cancelled() => return,
        };
        let (server_of_task, acceptor) = (server.clone(), acceptor.clone());
        workers.place().serve(stream, move |stream| async move {
            let (_slot, _counts) = (slot, counts);
            let _counted = Counted::new(&server_of_task.serving.connections);
            let cut = server_of_task.cut.clone();
            tokio::select! {
                () = connection(server_of_task, &acceptor, stream, from, permit) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

async fn connection<S: Service>(
    server: Arc<Server<S>>,
    acceptor: &Acceptor,
    tcp: TcpStream,
    from: SocketAddr,
    permit: Option<ConnectionPermit>,
) {
    let Serving { engine, limits, admission, .. } = &server.serving;
    // What is needed for a while only has room of its own: a connection that waits holds little.
    let arriving = Box::pin(acceptor.accept(admission, tcp, from, permit, limits.handshake_timeout));
    let Some(arrived) = arriving.await else { return };
    let Arrived { stream, peer, local, endpoints, permit } = arrived;
    let is_http2 = stream.alpn() == Some(b"h2");
    let _arrival = server.serving.connections.arrived.enter(Seen {
        client: peer.address,
        protocol: if is_http2 { "HTTP/2" } else { "HTTP/1" },
        tls: peer.handshake.as_ref().map(|h| h.version),
        server_name: peer.handshake.as_ref().and_then(|h| h.server_name.clone()),
    });
    let (engine, drain) = (engine.clone(), server.serving.connections.drains.of(local));
    if is_http2 {
        Box::pin(engine.serve_http2(stream, peer, endpoints, drain, Vec::new())).await;
    } else if peer.tls {
        engine.serve(stream, peer, endpoints, drain).await;
    } else {
        let begun = engine.clone().serve_or_hand_over(stream, peer.clone(), endpoints, drain.clone()).await;
        if let Some((stream, begun)) = begun {
            Box::pin(engine.serve_http2(stream, peer, endpoints, drain, begun)).await;
        }
    }
    drop(permit);
}
