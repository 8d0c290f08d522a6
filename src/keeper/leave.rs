//! Before mysqld is stopped on purpose: the primary role goes to another member, and gateways stop sending reads here.
//!
//! The unit of mysqld asks for it before each stop. Whatever goes wrong, the stop goes on: the worst that can happen then is
//! what happens when a primary dies.

use std::time::Duration;
use tokio::time::Instant;

use super::board::Board;
use super::report::MemberState;
use super::switchover::{Outcome, Switchover, leads};
use super::verdict::Leaving;

/// MySQL's part of the switchover; a stop does not wait longer.
const MOVE: Duration = Duration::from_secs(8);
/// A gateway asks every 150 ms, believes a no at once, and ends its connections between two statements within 0.4 s.
const NOTICE: Duration = Duration::from_millis(700);

/// Prepares for a stop of mysqld; the text says what was done.
pub async fn prepare(board: &Board, switchover: &Switchover) -> String {
    let now = Instant::now();
    let local = match board.fresh(now) {
        Ok(local) => local,
        Err(why) => return format!("mysqld does not answer ({why}): there is nothing to hand over"),
    };
    board.leave(now, Leaving::Reads);
    if local.member_state != MemberState::Online {
        return format!("the member is {}: there is nothing to hand over", local.member_state.as_str());
    }
    let said = if leads(&local) {
        match switchover.run(None, MOVE).await {
            Ok(Outcome::Moved(moved)) => format!("{} is the primary now", moved.to),
            Ok(Outcome::Nothing(primary)) => format!("{primary} is the primary"),
            Err(e) => format!("the primary role was not handed over: {e}"),
        }
    } else {
        "the primary is elsewhere".into()
    };
    // Once more: the minute that this is believed begins with the end of the preparations.
    board.leave(Instant::now(), Leaving::Everything);
    if local.view.len() > 1 {
        tokio::time::sleep(NOTICE.saturating_sub(now.elapsed())).await;
    }
    said
}
