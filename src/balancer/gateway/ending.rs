//! When a connection ends that neither side has closed: at once when its member has lost the role, and between two
//! statements when the member is about to lose it, or when the gateway stops.

use std::time::Duration;

use tokio::time::Instant;

use super::Gateway;
use super::connection::End;
use super::route::{Choice, Standing};
use crate::tcp::flow::Flow;

/// Between two looks at a connection that should end.
const LOOK: Duration = Duration::from_millis(10);
/// A member that goes on saying that it is about to give the role away is not believed for longer: it waits for the gateways,
/// and not for so long.
const LONGEST_DRAIN: Duration = Duration::from_secs(3);

/// What a connection is given to finish what it has begun.
struct Patience {
    /// Between two statements it is when the client has been answered and then nothing has passed for so long. An application
    /// thinks for less between the statements of most transactions.
    quiet: Duration,
    /// From then on nothing more is taken from the client, so that one that never pauses comes to an end, too.
    hold_after: Duration,
}

/// The role is about to move: everybody's writes wait until the last connection has ended.
const MOVE: Patience = Patience { quiet: Duration::from_millis(50), hold_after: Duration::from_millis(300) };
/// The gateway drains, or an operator has taken the member out: nobody waits, since new connections are served.
const STOP: Patience = Patience { quiet: Duration::from_millis(250), hold_after: Duration::MAX };
/// The gateway has done what it could.
const LAST: Patience = Patience { quiet: Duration::from_millis(20), hold_after: Duration::ZERO };

/// Returns when the connection must end, or may and should.
pub(super) async fn due(gateway: &Gateway, choice: &Choice, flow: &Flow) -> End {
    loop {
        tokio::select! {
            () = gateway.role_lost(choice) => {}
            () = gateway.draining.cancelled() => {}
        }
        if let Some(end) = between_statements(gateway, choice, flow).await {
            return end;
        }
    }
}

/// Looks for a moment between two statements; `None` when there is no reason to end any more.
async fn between_statements(gateway: &Gateway, choice: &Choice, flow: &Flow) -> Option<End> {
    let began = Instant::now();
    let (mut quiet_since, mut total) = (began, flow.total());
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let name = || choice.member.name().to_owned();
        let (patience, end) = match gateway.standing(choice) {
            Standing::Lost => return Some(End::RoleLost(name())),
            Standing::Draining if began.elapsed() > LONGEST_DRAIN && !gateway.draining.is_cancelled() => {
                return Some(End::RoleLost(name()));
            }
            Standing::Draining => (MOVE, End::Drained(name())),
            Standing::TakenOut => (STOP, End::TakenOut(name())),
            Standing::Kept if gateway.gate.ending.is_cancelled() => (LAST, End::Stopping),
            Standing::Kept if gateway.draining.is_cancelled() => (STOP, End::Stopping),
            // The role stays after all.
            Standing::Kept => {
                flow.release();
                return None;
            }
        };
        if began.elapsed() >= patience.hold_after {
            flow.hold();
        }
        let now = flow.total();
        if now != total {
            (quiet_since, total) = (Instant::now(), now);
        }
        if flow.is_idle() && quiet_since.elapsed() >= patience.quiet {
            return Some(end);
        }
    }
}
