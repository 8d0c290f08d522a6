//! The database gateway: two local addresses behind which the group's members change.
//!
//! * A connection to a **write** listener goes to the one member whose keeper answers `/primary` with 200. While none
//!   does, or two do, it waits ([`Database::wait_for_primary`](config::Database::wait_for_primary)).
//! * A connection to a **read** listener goes to the next member whose keeper answers `/replica?max_lag=…` with 200, or to
//!   the primary when there is no such replica.
//!
//! A connection lives no longer than the role it was made for: when the member's keeper says no, or says nothing `fall`
//! times, both sides are closed at once; when it says that the role is about to move, between two statements ([`ending`]). The application reconnects and meets the member that has the role now; a few at a
//! time ([`opening`]), since a server that was just promoted has enough to do.
//!
//! A client that waited in vain is told so by an ERR packet, as MySQL Router does it ([`mysql`]).
//!
//! The election is not made here. It stands in the group itself; the gateway only follows, and rather serves nobody than
//! the wrong member.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::admin::{Administered, Whole};
use super::config;
use super::tcp::accept::{Carrier, Full, Gate, Times, Why};
use super::tcp::listeners::{Passed, Wanted};
use super::tcp::sessions::Sessions;
use trivet_base::config::ConfigError;
use trivet_base::process::Heartbeats;
use trivet_base::process::server::Server as Process;
use trivet_http::client::{Ask, Client, Target};
use trivet_pool::timing::Timing;
use trivet_pool::{Backend, NewBackend, Pool, PoolLimits, Spec};
use trivet_proxy::check::{Expected, HttpCheck};
use trivet_tls as tls;

mod connection;
mod ending;
mod mysql;
mod opening;
mod route;

pub use route::Role;

/// What the last connections get to come to the end of a statement, once nothing new is taken any more.
const LAST: Duration = Duration::from_millis(500);

/// What is kept with a member: the queue of those who are on the way to it, for whatever it is to be.
pub struct Entrance(Arc<Semaphore>);

/// A member of the group, as a pool of the gateway has it.
pub type Server = Backend<Entrance>;
type Members = Pool<Entrance>;

/// The gateway of one node.
pub struct Gateway {
    config: config::Database,
    timing: Timing,
    write: Arc<Members>,
    read: Arc<Members>,
    gate: Gate,
    open: [AtomicUsize; 2],
    /// A stop was asked for: connections end between two statements, and new ones are still served.
    draining: CancellationToken,
    /// The connections that had a member when the stop was asked for.
    before: TaskTracker,
}

impl Gateway {
    /// Reads the certificate files of `[database]`.
    pub fn prepare(config: &config::Database) -> Result<Arc<Self>, ConfigError> {
        let client = tls::client_config(&config.tls, &[b"http/1.1"])?;
        let mut entrances = Vec::new();
        for member in &config.members {
            let name = tls::verified_name(&member.name)?;
            entrances.push((member, name, Arc::new(Semaphore::new(config.max_connecting))));
        }
        let pool = |name: &str, path: &str| {
            let members = entrances.iter().map(|(m, tls_name, entrance)| NewBackend {
                spec: Spec::new(&m.name, m.address),
                check: Arc::new(HttpCheck::new(
                    Client::new(Target {
                        address: m.keeper.to_string(),
                        host: m.name.clone(),
                        tls: Some((client.clone(), tls_name.clone())),
                    }),
                    Ask::get(path),
                    Expected::default(),
                )),
                transport: Entrance(entrance.clone()),
            });
            Pool::new(name, members.collect(), PoolLimits::NONE)
        };
        let replica = match config.max_lag {
            Duration::ZERO => "/replica".into(),
            lag => format!("/replica?max_lag={}", lag.as_secs_f64()),
        };
        Ok(Self::new(config.clone(), pool("database-write", "/primary"), pool("database-read", &replica)))
    }

    /// A gateway over pools made elsewhere.
    pub fn new(config: config::Database, write: Arc<Members>, read: Arc<Members>) -> Arc<Self> {
        let gate = Gate::new(config.max_connections);
        let timing = config.health.timing();
        Arc::new(Self {
            config,
            timing,
            write,
            read,
            gate,
            open: [AtomicUsize::new(0), AtomicUsize::new(0)],
            draining: CancellationToken::new(),
            before: TaskTracker::new(),
        })
    }

    /// What it carries, for operators.
    pub fn sessions(&self) -> Arc<Sessions> {
        self.gate.sessions.clone()
    }

    /// Those who are read from, each on its node.
    pub fn readers(&self) -> Arc<dyn Administered> {
        Arc::new(Whole(self.read.clone(), true))
    }

    /// Asks every keeper once, so that the first connection finds its member.
    pub async fn first_round(&self) {
        tokio::join!(self.write.first_round(self.timing), self.read.first_round(self.timing));
    }

    /// Goes on checking them, as `heartbeats` expects.
    pub fn run_checks(&self, heartbeats: &Heartbeats) {
        self.write.run_checks(self.timing, heartbeats);
        self.read.run_checks(self.timing, heartbeats);
    }

    /// Takes every listener that systemd passes, by its address, and has `server` bind the others.
    pub fn listen(&self, server: &mut Process, passed: &mut Passed) -> Vec<Wanted<Role>> {
        let both = [(Role::Write, &self.config.write_listen), (Role::Read, &self.config.read_listen)];
        both.into_iter().flat_map(|(role, list)| passed.listen(server, role.key(), list, role)).collect()
    }

    /// Follows who is primary, for logs and metrics.
    pub async fn watch_claims(self: Arc<Self>) {
        route::watch_claims(self.write.clone()).await;
    }

    /// Counts a connection that has a member, for those who wait for the former ones to end.
    fn carried(&self) -> Option<TaskTrackerToken> {
        (!self.draining.is_cancelled()).then(|| self.before.token())
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        json!({
            "primary": self.write.only().map(|b| b.name().to_owned()),
            "write": self.write.status(),
            "read": self.read.status(),
            "connections": {
                "write": self.open[Role::Write as usize].load(Ordering::Relaxed),
                "read": self.open[Role::Read as usize].load(Ordering::Relaxed),
            },
        })
    }
}

impl Carrier for Gateway {
    type Door = Role;
    type Permit = ();

    fn name(&self, role: Role) -> &str {
        role.name()
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn admit(&self, _: Role, _: SocketAddr) -> Option<()> {
        Some(())
    }

    fn full(&self, role: Role, client: &TcpStream) -> Full {
        counter!("trivet_gateway_closed_total", "listener" => role.name(), "reason" => "max_connections")
            .increment(1);
        tracing::warn!(
            listener = role.name(),
            limit = self.config.max_connections,
            "connection closed: max_connections reached"
        );
        // The socket is new, so its buffer takes this at once, or it does not matter.
        let packet = mysql::error_packet(mysql::TOO_MANY_CONNECTIONS, "Too many connections");
        let _ = SockRef::from(client).send(&packet);
        Full::Refused
    }

    async fn carry(self: Arc<Self>, role: Role, client: TcpStream, _: SocketAddr, (): ()) {
        let _open = Open::new(&self, role);
        let end = tokio::select! {
            end = connection::run(&self, role, client) => end,
            () = self.gate.cut.cancelled() => connection::End::Stopping,
        };
        end.write_down(role);
    }

    /// New connections are served for as long as any of the former ones is: a process that stops refuses nobody until its last
    /// moment, and where systemd holds the sockets, not even then.
    async fn last_orders(&self, _: Why, times: Times) -> Duration {
        self.draining.cancel();
        self.before.close();
        let _ = tokio::time::timeout(times.shutdown.saturating_sub(LAST), self.before.wait()).await;
        LAST
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a AtomicUsize, Role);

impl<'a> Open<'a> {
    fn new(gateway: &'a Gateway, role: Role) -> Self {
        let count = &gateway.open[role as usize];
        count.fetch_add(1, Ordering::Relaxed);
        gauge!("trivet_gateway_connections", "listener" => role.name()).increment(1.0);
        Self(count, role)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        gauge!("trivet_gateway_connections", "listener" => self.1.name()).decrement(1.0);
    }
}

fn prepare_stream(stream: &TcpStream) {
    // Queries are small and answered at once; Nagle's algorithm would hold them back.
    let _ = stream.set_nodelay(true);
}
