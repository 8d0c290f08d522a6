//! One database connection: find the member, connect, copy both ways, end with the role.

use std::time::Duration;

use metrics::{counter, histogram};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::route::{Choice, Role};
use super::{Gateway, prepare_stream};
use crate::pool::Tried;

/// A MySQL packet of a usual query or row set; larger ones take several turns.
const BUFFER: usize = 16 * 1024;

/// Between two attempts to connect to the one primary.
const PAUSE: Duration = Duration::from_millis(100);

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
            Self::Closed | Self::ClientLeft | Self::Stopping => {}
        }
    }
}

/// Runs a connection to its end.
pub(super) async fn run(gateway: &Gateway, role: Role, mut client: TcpStream) -> End {
    prepare_stream(&client);
    let began = Instant::now();
    let found = tokio::select! {
        found = connect(gateway, role, began + gateway.config.wait_for_primary) => found,
        () = left(&client) => return End::ClientLeft,
    };
    histogram!("trivet_gateway_wait_seconds", "listener" => role.name())
        .record(began.elapsed().as_secs_f64());
    let Some((choice, mut member)) = found else {
        return End::NoMember;
    };
    let name = choice.member.name().to_owned();
    counter!("trivet_gateway_connections_total", "listener" => role.name(), "backend" => name.clone())
        .increment(1);
    tokio::select! {
        // Half-closes are passed on: each direction ends on its own.
        copied = copy_bidirectional_with_sizes(&mut client, &mut member, BUFFER, BUFFER) => {
            if let Ok((sent, received)) = copied {
                counter!("trivet_gateway_bytes_total", "listener" => role.name(), "direction" => "to_member").increment(sent);
                counter!("trivet_gateway_bytes_total", "listener" => role.name(), "direction" => "to_client").increment(received);
            }
            End::Closed
        }
        // Dropping both sockets is abrupt, and meant to be: what was not acknowledged did not happen.
        () = gateway.role_lost(&choice) => End::RoleLost(name),
    }
}

/// A connection to a member that has the role, found before `deadline`.
async fn connect(gateway: &Gateway, role: Role, deadline: Instant) -> Option<(Choice, TcpStream)> {
    let mut tried = Tried::default();
    loop {
        // Subscribed before looking, so that a change between looking and waiting is not missed.
        let change = gateway.any_change();
        let Some(choice) = gateway.choose(role, &tried) else {
            tokio::select! {
                () = change => {}
                () = tokio::time::sleep_until(deadline) => return None,
            }
            tried = Tried::default();
            continue;
        };
        let address = choice.member.address();
        match tokio::time::timeout(gateway.config.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                prepare_stream(&stream);
                return Some((choice, stream));
            }
            failed => {
                let why = match failed {
                    Ok(Err(e)) => e.to_string(),
                    _ => "no answer in time".into(),
                };
                counter!("trivet_gateway_connect_failures_total", "backend" => choice.member.name().to_owned()).increment(1);
                tracing::warn!(member = choice.member.name(), %address, error = %why, "cannot connect to the member");
                let again = choice.is_primary() || tried.has(&choice.member);
                tried.add(&choice.member);
                // There is only one primary: the next attempt would meet the same member at once.
                if again {
                    if Instant::now() + PAUSE >= deadline {
                        return None;
                    }
                    tokio::time::sleep(PAUSE).await;
                    tried = Tried::default();
                }
            }
        }
    }
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
