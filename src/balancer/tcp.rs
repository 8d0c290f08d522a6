//! Services of any protocol over TCP: `[tcp.NAME]`. A connection is given to a back end of a pool, by the server name that its client
//! asks for where the service has such ([`router`]), and its bytes are passed on unread, both ways.
//!
//! ```text
//! accept → clients, connections of this address → max_connections → PROXY header → ClientHello → pool → connect, next back end
//!        → PROXY header → bytes, until either side ends or nothing passes for idle_timeout
//! ```
//!
//! What does not depend on the protocol is shared with the [gateway](super::gateway): sockets and hand-over ([`listeners`],
//! [`accept`]), and the bytes of a connection ([`flow`]).

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};
use serde_json::{Value, json};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::admin::{Administered, Whole};
use super::config::{Tcp, TcpPool, TcpServer};
use super::resolver::Dns;
use accept::{Carrier, Full, Gate, Times, Why};
use connection::End;
use listeners::{Passed, Wanted};
use router::Router;
use sessions::Sessions;
use trivet_base::address::Address;
use trivet_base::process::Heartbeats;
use trivet_base::process::server::Server as Process;
use trivet_http::proxy_protocol::Version;
use trivet_pool::names::Named;
use trivet_pool::timing::Timing;
use trivet_pool::{NewBackend, Pool, PoolLimits, Spec};
use trivet_proxy::admission::{Admission, ConnectionPermit, Rules};
use trivet_proxy::config::{Checked, Protocol, ServerAddress};
use trivet_proxy::log_limiter::LogLimiter;

pub mod accept;
mod connection;
pub(crate) mod flow;
pub mod listeners;
mod router;
pub mod sessions;

/// Whoever is gone without a word is noticed after about two minutes, also where nothing is said for hours.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// A pool of a service, and how its back ends are reached.
pub(super) struct Target {
    pool: Arc<Pool<()>>,
    timing: Timing,
    connect_timeout: Duration,
    retries: usize,
    send_proxy_protocol: Option<Version>,
    close_when_down: bool,
}

impl Target {
    /// Of the pool `name`. Beside it are the names whose addresses are to be its back ends, too; what is known of them is kept in the
    /// folder `addresses`.
    fn new(name: &str, config: &TcpPool, addresses: Option<&Path>) -> (Arc<Self>, Vec<ByName>) {
        let (mut backends, mut names) = (Vec::new(), Vec::new());
        for server in &config.backends {
            match &server.address {
                ServerAddress::Fixed(address) => {
                    backends.push(backend(&server.name, address.clone(), config, server));
                }
                ServerAddress::Name(host, port) => names.push((server, (&**host, *port))),
            }
        }
        let limits = PoolLimits {
            // The service's own limit holds for all of them together.
            max_in_flight: usize::MAX,
            max_queued: config.max_queued,
            queue_timeout: config.queue_timeout,
        };
        let pool = Pool::balanced(name, backends, limits, config.algorithm());
        pool.watch_outliers(config.outliers.limits());
        if let Some(breaker) = &config.circuit_breaker {
            pool.break_circuit(breaker.limits());
        }
        let resolver = Arc::new(Dns::new(&config.resolving()));
        let named = |(server, place): (&TcpServer, _)| {
            let (limits, of) = (config.resolving().limits(), (config.clone(), server.clone()));
            let make = move |name: &str, address: SocketAddr| backend(name, address.into(), &of.0, &of.1);
            let names =
                Named::new(pool.clone(), &server.name, place, limits, resolver.clone(), Box::new(make));
            let names = match addresses {
                Some(folder) => names.remembered_in(folder),
                None => names,
            };
            (names, config.resolve_timeout)
        };
        let names = names.into_iter().map(named).collect();
        let target = Self {
            pool,
            timing: config.health.timing(),
            connect_timeout: config.connect_timeout,
            retries: config.retries,
            send_proxy_protocol: config.send_proxy_protocol,
            close_when_down: config.close_when_down,
        };
        (Arc::new(target), names)
    }
}

/// A back end at one address of one server of a pool.
fn backend(name: &str, address: Address, config: &TcpPool, server: &TcpServer) -> NewBackend<()> {
    NewBackend {
        check: config.health.check(Checked {
            address: address.clone(),
            host: server.address.host(),
            tls: None,
            protocol: Protocol::Http1,
            proxy_protocol: config.send_proxy_protocol,
            tell: None,
        }),
        spec: Spec {
            weight: server.weight,
            tier: u8::from(server.backup),
            max_in_flight: server.max_in_flight.unwrap_or(config.max_in_flight_per_backend),
            slow_start: config.slow_start,
            ..Spec::new(name, address)
        },
        transport: (),
    }
}

/// A name that is asked for again and again, and how long an answer may take.
pub type ByName = (Named<()>, Duration);

/// One service.
pub struct Service {
    name: String,
    config: Tcp,
    gate: Gate,
    admission: Arc<Admission>,
    open: AtomicUsize,
    /// All pools.
    targets: Vec<Arc<Target>>,
    /// Where a connection goes for which no name decides.
    default: Option<Arc<Target>>,
    by_name: Router<Target>,
}

impl Service {
    /// The one of this name, and the names whose addresses are to be back ends of its pools; what is known of them is kept in the
    /// folder `addresses`. Nothing runs yet.
    pub fn new(name: &str, config: &Tcp, addresses: Option<&Path>) -> (Arc<Self>, Vec<ByName>) {
        // No other pool's name has a colon, and operators write a slash between pool and back end.
        let pool_name = |of: Option<&str>| match of {
            None => format!("tcp:{name}"),
            Some(of) => format!("tcp:{name}:{of}"),
        };
        let mut names = Vec::new();
        let mut target = |of: Option<&str>, pool: &TcpPool| {
            let (target, of_pool) = Target::new(&pool_name(of), pool, addresses);
            names.extend(of_pool);
            target
        };
        let default = config.pool.as_ref().map(|pool| target(None, pool));
        let mut targets: Vec<_> = default.iter().cloned().collect();
        let mut by_name = Router::default();
        for sni in &config.sni {
            let target = target(sni.names().next().as_deref(), &sni.pool);
            sni.names().for_each(|name| by_name.add(&name, target.clone()));
            targets.push(target);
        }
        let service = Self {
            name: name.to_owned(),
            gate: Gate::new(config.max_connections),
            admission: Admission::new(&Rules {
                connections: config.max_connections_per_address,
                ..Rules::default()
            }),
            open: AtomicUsize::new(0),
            config: config.clone(),
            targets,
            default,
            by_name,
        };
        (Arc::new(service), names)
    }

    /// Checks every back end once, so that the first connection finds those that are up.
    pub async fn first_round(&self) {
        let rounds = self.targets.iter().map(|t| t.pool.first_round(t.timing));
        futures_util::future::join_all(rounds).await;
    }

    /// Goes on checking them, as `heartbeats` expects.
    pub fn run_checks(&self, heartbeats: &Heartbeats) {
        for target in &self.targets {
            target.pool.run_checks(target.timing, heartbeats);
        }
    }

    /// What it carries, for operators.
    pub fn sessions(&self) -> Arc<Sessions> {
        self.gate.sessions.clone()
    }

    /// Its pools, for operators.
    pub fn administered(&self) -> impl Iterator<Item = Arc<dyn Administered>> {
        self.targets.iter().map(|t| Arc::new(Whole(t.pool.clone(), false)) as Arc<dyn Administered>)
    }

    /// Has `server` listen for it.
    pub fn listen(&self, server: &mut Process, passed: &mut Passed) -> Vec<Wanted<()>> {
        passed.listen(server, &format!("tcp.{}.listen", self.name), &self.config.listen, ())
    }

    /// As its section is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        let pools = self.targets.iter().map(|t| (t.pool.name().to_owned(), t.pool.status()));
        json!({ "connections": self.open(), "pools": Value::Object(pools.collect()) })
    }

    /// Whether a client of this address is served at all.
    fn serves(&self, client: IpAddr) -> bool {
        let (nets, client) = (&self.config.clients, client.to_canonical());
        nets.is_empty() || nets.iter().any(|net| net.contains(&client))
    }

    /// Lets a client in whose address is known.
    fn permit(&self, client: IpAddr) -> Result<ConnectionPermit, End> {
        if !self.serves(client) {
            return Err(End::NotAllowed);
        }
        self.admission.connection(client).map_err(|_| End::PerAddress)
    }
}

impl Carrier for Service {
    type Door = ();
    /// None behind a proxy, before whose header the client is not known.
    type Permit = Option<ConnectionPermit>;

    fn name(&self, (): ()) -> &str {
        &self.name
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn admit(&self, (): (), from: SocketAddr) -> Option<Self::Permit> {
        if self.config.proxy_protocol.is_some() {
            return Some(None);
        }
        match self.permit(from.ip()) {
            Ok(permit) => Some(Some(permit)),
            Err(end) => {
                end.write_down(&self.name, from.ip());
                None
            }
        }
    }

    fn full(&self, (): (), _: &TcpStream) -> Full {
        static LIMITER: LogLimiter = LogLimiter::new();
        counter!("trivet_tcp_waited_total", "service" => self.name.clone()).increment(1);
        if let Some(left_out) = LIMITER.ask() {
            let limit = self.config.max_connections;
            tracing::warn!(service = self.name, limit, left_out, "connections wait: max_connections reached");
        }
        Full::Waits
    }

    async fn carry(self: Arc<Self>, (): (), client: TcpStream, from: SocketAddr, permit: Self::Permit) {
        let _open = Open::new(&self);
        connection::serve(&self, client, from, permit).await;
    }

    async fn last_orders(&self, why: Why, times: Times) -> Duration {
        match why {
            Why::Stop => {
                let delay = times.delay.min(times.shutdown);
                tokio::time::sleep(delay).await;
                times.shutdown.saturating_sub(delay)
            }
            Why::StopAfterHandover => times.shutdown,
            Why::TimeIsOver => Duration::ZERO,
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a Service);

impl<'a> Open<'a> {
    fn new(service: &'a Service) -> Self {
        service.open.fetch_add(1, Ordering::Relaxed);
        gauge!("trivet_tcp_connections", "service" => service.name.clone()).increment(1.0);
        Self(service)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        gauge!("trivet_tcp_connections", "service" => self.0.name.clone()).decrement(1.0);
    }
}

/// Options of either side. None is worth a connection, so errors are passed over.
fn prepare_stream(stream: &TcpStream) {
    // Nagle's algorithm would hold back what a side has sent already.
    let _ = stream.set_nodelay(true);
    let (time, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
