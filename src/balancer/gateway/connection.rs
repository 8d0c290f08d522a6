//! One database connection: find the member, connect, copy both ways, end with the role.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use rand::RngExt;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::opening::{Entering, LONGEST_ENTRY, Opened, Place, open};
use super::route::Role;
use super::{Gateway, ending, mysql, prepare_stream};
use crate::tcp::flow::{Counted, Flow, Side};
use crate::tcp::sessions::Session;
use trivet_pool::Tried;

/// A MySQL packet of a usual query or row set; larger ones take several turns.
const BUFFER: usize = 16 * 1024;

/// Between two attempts to connect to the one primary; half as long or half as long again, so that those who failed
/// together do not come back together.
const PAUSE: Duration = Duration::from_millis(100);

/// An error that a client should hear must not wait for one that does not listen.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Either side closed it.
    Closed,
    /// The client gave up while it waited.
    ClientLeft,
    /// No member had the role for as long as a connection may wait.
    NoMember,
    /// The member lost the role.
    RoleLost(String),
    /// The member is about to lose the role, and nothing was in progress.
    Drained(String),
    /// An operator has ordered that this member gets nothing new.
    TakenOut(String),
    /// The gateway is stopping.
    Stopping,
}

impl End {
    pub(super) fn write_down(&self, role: Role) {
        let reason = match self {
            Self::Closed => "closed",
            Self::ClientLeft => "client_left",
            Self::NoMember => "no_member",
            Self::RoleLost(_) => "role_lost",
            Self::Drained(_) | Self::TakenOut(_) => "drained",
            Self::Stopping => "stopping",
        };
        counter!("trivet_gateway_closed_total", "listener" => role.name(), "reason" => reason).increment(1);
        match self {
            Self::NoMember => {
                tracing::warn!(listener = role.name(), "connection closed: no member serves this role");
            }
            Self::RoleLost(member) => {
                tracing::info!(listener = role.name(), %member, "connection closed: the member lost its role");
            }
            Self::Drained(member) => {
                tracing::info!(listener = role.name(), %member, "connection closed: the member is about to give its role away");
            }
            Self::TakenOut(member) => {
                tracing::info!(listener = role.name(), %member, "connection closed between two statements: the member was taken out of use");
            }
            Self::Closed | Self::ClientLeft | Self::Stopping => {}
        }
    }
}

/// Runs a connection to its end.
pub(super) async fn run(gateway: &Gateway, role: Role, client: TcpStream) -> End {
    prepare_stream(&client);
    let began = Instant::now();
    let found = {
        let _waiting = Waiting::new(role);
        tokio::select! {
            found = connect(gateway, role, began + gateway.config.wait_for_primary) => found,
            () = left(&client) => return End::ClientLeft,
            () = gateway.gate.ending.cancelled() => {
                refuse(client, mysql::SHUTDOWN, "Server shutdown in progress (the database gateway is stopping)").await;
                return End::Stopping;
            }
        }
    };
    histogram!("trivet_gateway_wait_seconds", "listener" => role.name())
        .record(began.elapsed().as_secs_f64());
    let Some(opened) = found else {
        let why = match role {
            Role::Write => "no member of the database group takes writes",
            Role::Read => "no member of the database group can be read",
        };
        let waited = humantime::format_duration(gateway.config.wait_for_primary);
        refuse(client, mysql::NO_SERVER, &format!("Can't connect to MySQL server: {why} (waited {waited})"))
            .await;
        return End::NoMember;
    };
    let Opened { choice, stream, first, place } = opened;
    let _carried = gateway.carried();
    let name = choice.member.name().to_owned();
    let _listed = client
        .peer_addr()
        .ok()
        .map(|from| gateway.gate.sessions.enter(Session::new(role.name(), from, &name)));
    counter!("trivet_gateway_connections_total", "listener" => role.name(), "backend" => name).increment(1);
    let flow = Arc::new(Flow::with_unanswerable(mysql::closes_statements));
    flow.begun(Side::Server, &first);
    let mut client = Counted::new(client, Side::Client, &flow);
    let mut member = Counted::new(Entering::new(stream, place.clone()), Side::Server, &flow);
    let carry = async {
        client.write_all(&first).await?;
        // Half-closes are passed on: each direction ends on its own.
        let (sent, received) =
            copy_bidirectional_with_sizes(&mut client, &mut member, BUFFER, BUFFER).await?;
        Ok::<_, std::io::Error>((sent, received + first.len() as u64))
    };
    tokio::pin!(carry);
    let due = ending::due(gateway, &choice, &flow);
    tokio::pin!(due);
    let mut entering = true;
    let entry = tokio::time::sleep(LONGEST_ENTRY);
    tokio::pin!(entry);
    loop {
        tokio::select! {
            // In this order: what comes most is asked first, and nothing is drawn by lot for each packet.
            biased;
            carried = &mut carry => {
                if let Ok((sent, received)) = carried {
                    counter!("trivet_gateway_bytes_total", "listener" => role.name(), "direction" => "to_member").increment(sent);
                    counter!("trivet_gateway_bytes_total", "listener" => role.name(), "direction" => "to_client").increment(received);
                }
                return End::Closed;
            }
            // Dropping both sockets is abrupt, and meant to be: what was not acknowledged did not happen.
            end = &mut due => return end,
            () = &mut entry, if entering => {
                entering = false;
                place.give_up();
            }
        }
    }
}

/// A connection to a member that has the role, found before `deadline`.
async fn connect(gateway: &Gateway, role: Role, deadline: Instant) -> Option<Opened> {
    let searching = search(gateway, role);
    tokio::time::timeout_at(deadline, searching).await.ok()
}

async fn search(gateway: &Gateway, role: Role) -> Opened {
    let mut tried = Tried::default();
    let mut refused: Option<Opened> = None;
    loop {
        // Subscribed before looking, so that a change between looking and waiting is not missed.
        let change = gateway.any_change();
        let Some(choice) = gateway.choose(role, &tried) else {
            if let Some(refused) = refused.take() {
                return refused;
            }
            // Those that were tried may answer in a moment although nothing is said about them.
            let _ = tokio::time::timeout(if tried.is_empty() { Duration::MAX } else { PAUSE }, change).await;
            tried = Tried::default();
            continue;
        };
        let place = tokio::select! {
            place = Place::queue(choice.member.transport()) => place,
            // While it queued, the role went elsewhere.
            () = gateway.role_lost(&choice) => continue,
        };
        let again = choice.is_primary() || tried.has(&choice.member);
        let member = choice.member.clone();
        let opened = tokio::select! {
            opened = open(&gateway.config, choice.clone(), place) => opened,
            () = gateway.role_lost(&choice) => continue,
        };
        let why = match opened {
            Ok(opened) => match opened.refusal() {
                // "Too many connections" on one replica need not be so on another. The primary's word is final.
                Some(number) if !again && role == Role::Read => {
                    refused = Some(opened);
                    format!("refused with error {number}")
                }
                _ => return opened,
            },
            Err(why) => why,
        };
        counter!("trivet_gateway_connect_failures_total", "backend" => member.name().to_owned()).increment(1);
        tracing::warn!(member = member.name(), address = %member.address(), error = %why, "cannot connect to the member");
        tried.add(&member);
        // There is only one primary: the next attempt would meet the same member at once.
        if again {
            let pause = PAUSE.mul_f64(rand::rng().random_range(0.5..1.5));
            tokio::time::sleep(pause).await;
            tried = Tried::default();
        }
    }
}

/// Says why, and closes.
pub(super) async fn refuse(mut client: TcpStream, number: u16, message: &str) {
    let packet = mysql::error_packet(number, message);
    let said = async {
        client.write_all(&packet).await?;
        client.shutdown().await
    };
    let _ = tokio::time::timeout(LAST_WORD, said).await;
}

/// Waits until the client is gone. MySQL's server speaks first, so a client that waits sends nothing; one that does is
/// still there, and waited for no longer.
async fn left(client: &TcpStream) {
    let mut byte = [0; 1];
    match client.peek(&mut byte).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Counts a connection for as long as it has no member.
struct Waiting(Role);

impl Waiting {
    fn new(role: Role) -> Self {
        gauge!("trivet_gateway_waiting", "listener" => role.name()).increment(1.0);
        Self(role)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        gauge!("trivet_gateway_waiting", "listener" => self.0.name()).decrement(1.0);
    }
}
