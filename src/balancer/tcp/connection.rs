//! One connection: who is it, where does it go, connect, copy both ways.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_util::either::Either;

use super::flow::{Counted, Flow, Side};
use super::sessions::Session;
use super::{Service, Target, prepare_stream};
use trivet_base::address::Address;
use trivet_http::proxy_protocol::{self, Header};
use trivet_pool::balance::hash_of_client;
use trivet_pool::{Backend, Health, Lease, Scope, Tried, Unavailable};
use trivet_proxy::admission::ConnectionPermit;
use trivet_proxy::log_limiter::LogLimiter;
use trivet_proxy::upstream::{is_local, is_out_of_ports};
use trivet_tls::hello::{self, Hello};

/// Of one direction of one connection, as HAProxy's `tune.bufsize`.
const BUFFER: usize = 16 * 1024;

/// An alert must not wait for a client that does not listen.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("either side closed it")]
    Closed,
    #[error("a side broke off: {0}")]
    Broken(io::Error),
    #[error("nothing passed for idle_timeout")]
    Idle,
    #[error("its back end's checks have failed")]
    BackendDown,
    #[error("the client left before it had a back end")]
    ClientLeft,
    #[error("not from one of the networks in clients")]
    NotAllowed,
    #[error("max_connections_per_address are open from there already")]
    PerAddress,
    #[error("PROXY protocol: not from one of the networks in proxy_protocol.from")]
    ProxyUntrusted,
    #[error("PROXY protocol: {0}")]
    ProxyMalformed(proxy_protocol::ReadError),
    #[error("no complete PROXY header within handshake_timeout")]
    ProxyTimeout,
    #[error("no complete ClientHello within handshake_timeout")]
    HelloTimeout,
    #[error("no ClientHello, and there is no pool for anything else")]
    NoHello,
    #[error("there is no pool for the name \"{0}\"")]
    UnknownName(String),
    #[error("the ClientHello names no host, and there is no pool for that")]
    Unnamed,
    #[error("{0}")]
    NoBackend(#[from] Unavailable),
    #[error("most connections of its pool reach no back end (circuit_breaker)")]
    CircuitOpen,
    #[error("no back end could be reached: {0}")]
    Unreachable(String),
    #[error("no connection could be made here: {0}")]
    Local(io::Error),
    #[error("cut off: the time to finish is over")]
    Stopping,
}

impl End {
    /// The value of the metric's label `reason`.
    fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken(_) => "broken",
            Self::Idle => "idle",
            Self::BackendDown => "backend_down",
            Self::ClientLeft => "client_left",
            Self::NotAllowed => "not_allowed",
            Self::PerAddress => "per_address",
            Self::ProxyUntrusted => "proxy_untrusted",
            Self::ProxyMalformed(_) => "proxy_malformed",
            Self::ProxyTimeout => "proxy_timeout",
            Self::HelloTimeout => "hello_timeout",
            Self::NoHello => "no_hello",
            Self::UnknownName(_) => "unknown_name",
            Self::Unnamed => "unnamed",
            Self::NoBackend(_) => "no_backend",
            Self::CircuitOpen => "circuit_open",
            Self::Unreachable(_) => "unreachable",
            Self::Local(_) => "local",
            Self::Stopping => "stopping",
        }
    }

    /// Whether the client got what it came for, as far as it is known here.
    fn is_usual(&self) -> bool {
        use End::{BackendDown, Broken, ClientLeft, Closed, Idle, Stopping};
        matches!(self, Closed | Broken(_) | Idle | BackendDown | ClientLeft | Stopping)
    }

    /// In a metric, and in the log where the client was refused.
    pub(super) fn write_down(&self, service: &str, client: IpAddr) {
        static LIMITER: LogLimiter = LogLimiter::new();
        counter!("trivet_tcp_closed_total", "service" => service.to_owned(), "reason" => self.reason())
            .increment(1);
        if !self.is_usual()
            && let Some(left_out) = LIMITER.ask()
        {
            tracing::warn!(service, client = %client.to_canonical(), left_out, "connection refused: {self}");
        }
    }
}

/// A connection to a back end.
type Server = Either<TcpStream, UnixStream>;

/// A connection whose client is known.
struct Arrived {
    client: TcpStream,
    /// The client.
    source: SocketAddr,
    /// Where it connected to.
    destination: SocketAddr,
    /// What was read of it and belongs to the back end.
    first: Vec<u8>,
    /// The host that it asks for, where that was looked at.
    server_name: Option<String>,
}

/// What is told of a connection when it has ended.
struct Record<'a> {
    service: &'a Service,
    began: Instant,
    client: SocketAddr,
    server_name: Option<String>,
    backend: Option<String>,
    flow: Arc<Flow>,
}

impl Record<'_> {
    fn write(&self, end: &End) {
        let service = self.service.name();
        end.write_down(service, self.client.ip());
        let (received, sent) = (self.flow.read_from(Side::Client), self.flow.read_from(Side::Server));
        for (direction, bytes) in [("to_backend", received), ("to_client", sent)] {
            counter!("trivet_tcp_bytes_total", "service" => service.to_owned(), "direction" => direction)
                .increment(bytes);
        }
        // Those without a back end were told above, some of them.
        let Some(backend) = &self.backend else { return };
        tracing::info!(
            target: "trivet::access",
            service,
            client = %self.client.ip().to_canonical(),
            server_name = self.server_name.as_deref(),
            backend,
            received,
            sent,
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            end = end.reason(),
            "connection"
        );
    }
}

/// Serves a connection to its end, and writes down how it ended.
pub(super) async fn serve(
    service: &Service,
    client: TcpStream,
    from: SocketAddr,
    permit: Option<ConnectionPermit>,
) {
    let mut record = Record {
        service,
        began: Instant::now(),
        client: from,
        server_name: None,
        backend: None,
        flow: Arc::default(),
    };
    let end = tokio::select! {
        end = run(&mut record, client, from, permit) => end.unwrap_or_else(|end| end),
        () = service.gate.cut.cancelled() => End::Stopping,
    };
    record.write(&end);
}

async fn run(
    record: &mut Record<'_>,
    client: TcpStream,
    from: SocketAddr,
    permit: Option<ConnectionPermit>,
) -> Result<End, End> {
    let service = record.service;
    prepare_stream(&client);
    let deadline = record.began + service.config.handshake_timeout;
    let destination = client.local_addr().map_err(End::Broken)?;
    let mut arrived = Arrived { client, source: from, destination, first: Vec::new(), server_name: None };
    arrived.read_proxy_header(service, deadline).await?;
    record.client = arrived.source;
    // Behind a proxy the client is known only now.
    let _permit = match permit {
        Some(permit) => permit,
        None => service.permit(arrived.source.ip())?,
    };
    let target = arrived.target(service, deadline).await;
    record.server_name.clone_from(&arrived.server_name);
    let target = target?;
    let (lease, server) = reach(service, &target, &arrived).await?;
    let reached = Instant::now();
    record.backend = Some(lease.name().to_owned());
    let _listed = service.gate.sessions.enter(Session::new(&service.name, record.client, lease.name()));
    counter!("trivet_tcp_connections_total", "service" => service.name.clone(), "backend" => lease.name().to_owned())
        .increment(1);
    let Arrived { client, first, .. } = arrived;
    record.flow.begun(Side::Client, &first);
    let mut client = Counted::new(client, Side::Client, &record.flow);
    let mut server = Counted::new(server, Side::Server, &record.flow);
    let carry = async {
        server.write_all(&first).await?;
        // Half-closes are passed on: each direction ends on its own.
        copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await
    };
    // That a connection was made says little: the kernel makes it for a program that hangs, and a proxy for a server that is not there.
    let first_word = async {
        record.flow.server_speaks().await;
        let now = Instant::now();
        lease.answered(now - reached, now);
        std::future::pending().await
    };
    let end = tokio::select! {
        biased;
        carried = carry => carried.map(|_| End::Closed).map_err(End::Broken),
        end = first_word => end,
        () = idle(&record.flow, service.config.idle_timeout) => Ok(End::Idle),
        () = down(&target, &lease), if target.close_when_down => Ok(End::BackendDown),
    };
    match &end {
        Err(End::Broken(e)) if is_fault_of_server(&record.flow) => {
            lease.failed("broken", &format!("a connection broke before it said anything: {e}"));
        }
        Ok(End::Closed) => lease.answered(reached.elapsed(), Instant::now()),
        _ => {}
    }
    end
}

/// Whether a connection broke on the back end's side, which had said nothing.
fn is_fault_of_server(flow: &Flow) -> bool {
    flow.is_broken_by_server() && flow.read_from(Side::Server) == 0
}

/// As [`connect`], unless the pool is left alone; what became of it is counted.
async fn reach(service: &Service, target: &Target, arrived: &Arrived) -> Result<(Lease<()>, Server), End> {
    let mut passage = target.pool.admit(Instant::now()).map_err(|_| End::CircuitOpen)?;
    let reached = connect(service, target, arrived).await;
    let failed = match &reached {
        Ok(_) => Some(false),
        Err(End::Unreachable(_)) => Some(true),
        // Full queues, clients that leave and what is missing here say nothing about back ends.
        Err(_) => None,
    };
    if let (Some(passage), Some(failed)) = (&mut passage, failed) {
        passage.ended(failed, Instant::now());
    }
    reached
}

impl Arrived {
    /// Takes the header of the proxy in front off the connection, where there is one.
    async fn read_proxy_header(&mut self, service: &Service, deadline: Instant) -> Result<(), End> {
        let Some(trust) = &service.config.proxy_protocol else { return Ok(()) };
        if !trust.covers(self.source.ip()) {
            return Err(End::ProxyUntrusted);
        }
        match timeout_at(deadline, proxy_protocol::read(&mut self.client)).await {
            Ok(Ok(Header::Direct)) => Ok(()),
            Ok(Ok(Header::Proxied { source, destination })) => {
                (self.source, self.destination) = (source, destination);
                Ok(())
            }
            Ok(Err(e)) => Err(End::ProxyMalformed(e)),
            Err(_) => Err(End::ProxyTimeout),
        }
    }

    /// Where it goes: by the name in its ClientHello, where the service has names.
    async fn target(&mut self, service: &Service, deadline: Instant) -> Result<Arc<Target>, End> {
        let default = || service.default.clone();
        if service.by_name.is_empty() {
            return default().ok_or(End::NoHello);
        }
        let read = timeout_at(deadline, hello::read(&mut self.client)).await;
        let (hello, bytes) = read.map_err(|_| End::HelloTimeout)?.map_err(End::Broken)?;
        self.first = bytes;
        match hello {
            Hello::Named(name) => {
                self.server_name = Some(name.clone());
                match service.by_name.find(&name).cloned().or_else(default) {
                    Some(target) => Ok(target),
                    None => {
                        self.refuse(&hello::UNRECOGNIZED_NAME).await;
                        Err(End::UnknownName(name))
                    }
                }
            }
            Hello::Unnamed => match default() {
                Some(target) => Ok(target),
                None => {
                    self.refuse(&hello::MISSING_EXTENSION).await;
                    Err(End::Unnamed)
                }
            },
            Hello::Other => default().ok_or(End::NoHello),
            Hello::Ended => Err(End::ClientLeft),
        }
    }

    /// Says so, and closes.
    async fn refuse(&mut self, alert: &[u8]) {
        let said = async {
            self.client.write_all(alert).await?;
            self.client.shutdown().await
        };
        let _ = tokio::time::timeout(LAST_WORD, said).await;
    }
}

/// A connection to one of the back ends, on which the client's address was told where it is to be.
async fn connect(service: &Service, target: &Target, arrived: &Arrived) -> Result<(Lease<()>, Server), End> {
    let scope = Scope { hash: Some(hash_of_client(arrived.source.ip())), ..Scope::ANY };
    let header = target
        .send_proxy_protocol
        .map(|version| proxy_protocol::write(version, arrived.source, arrived.destination))
        .unwrap_or_default();
    let (mut tried, mut queued, mut last) = (Tried::default(), Duration::ZERO, None);
    loop {
        let asked = Instant::now();
        let leased = tokio::select! {
            // Who has said all it has to say, and waits for an answer, looks as one who has left: it is that only in a queue.
            biased;
            leased = target.pool.lease(scope, &tried, queued) => leased,
            () = left(&arrived.client) => return Err(End::ClientLeft),
        };
        queued += asked.elapsed();
        let lease = match leased {
            Ok(lease) => lease,
            Err(unavailable) => return Err(last.map_or(End::NoBackend(unavailable), End::Unreachable)),
        };
        let (why, is_at_fault) = match open(target, &lease, &header).await {
            Ok(stream) => return Ok((lease, stream)),
            // No back end could be reached.
            Err(e) if is_local(&e) => {
                counter!("trivet_local_errors_total").increment(1);
                return Err(End::Local(e));
            }
            Err(e) => (e.to_string(), !is_out_of_ports(&e)),
        };
        counter!("trivet_tcp_connect_failures_total", "service" => service.name.clone(), "backend" => lease.name().to_owned())
            .increment(1);
        if is_at_fault {
            lease.eject(&why);
            lease.failed("unreachable", &why);
        }
        tried.add(lease.backend());
        last = Some(format!("{}: {why}", lease.name()));
        if tried.len() > target.retries {
            return Err(End::Unreachable(last.unwrap_or_default()));
        }
    }
}

/// A connection to one back end, on which `header` has been said.
async fn open(target: &Target, lease: &Lease<()>, header: &[u8]) -> io::Result<Server> {
    let opening = async {
        let mut stream = match lease.address() {
            Address::Ip(address) => {
                let tcp = TcpStream::connect(address).await?;
                prepare_stream(&tcp);
                Either::Left(tcp)
            }
            Address::Unix(path) => Either::Right(UnixStream::connect(path).await?),
        };
        stream.write_all(header).await?;
        Ok(stream)
    };
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within connect_timeout"));
    tokio::time::timeout(target.connect_timeout, opening).await.unwrap_or_else(late)
}

/// Waits until the client is gone. One that has sent something is still there, and waited for no longer.
async fn left(client: &TcpStream) {
    let mut byte = [0; 1];
    match client.peek(&mut byte).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Returns when the checks of a back end have failed.
async fn down(target: &Target, backend: &Backend<()>) {
    let mut changes = target.pool.subscribe();
    while backend.health() != Health::Down && changes.changed().await.is_ok() {}
}

/// Returns when nothing has passed for `timeout`, to a quarter more.
async fn idle(flow: &Flow, timeout: Duration) {
    let (mut total, mut since) = (flow.total(), Instant::now());
    loop {
        tokio::time::sleep(timeout / 4).await;
        let now = flow.total();
        if now != total {
            (total, since) = (now, Instant::now());
        } else if since.elapsed() >= timeout {
            return;
        }
    }
}
