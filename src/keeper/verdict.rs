//! The answers that gateways act on: is this member the primary, is it a replica? False when in doubt.

use std::sync::Arc;
use std::time::Duration;

use super::report::{MemberState, Observation, Role};

/// Clocks that differ by more, in seconds, are told about, and no lag is believed that was measured by them. A clock kept by
/// NTP is a hundred times better.
pub const CLOCKS_AGREE: f64 = 1.0;

/// What is known at the moment of the question.
#[derive(Debug, Clone)]
pub struct Facts {
    /// A fresh observation of the local member, or why there is none.
    pub local: Result<Arc<Observation>, String>,
    /// Fresh observations by the peers of the same group.
    pub peers: Vec<(String, Observation)>,
    /// How far the clocks of the peers are ahead of ours, in seconds.
    pub ahead: Vec<(String, f64)>,
    /// Every peer was asked, with or without success, since the last pause of mysqld or of this machine.
    pub asked_since_pause: bool,
    /// mysqld is about to be stopped on purpose.
    pub leaving: Option<Leaving>,
    /// The primary role is about to be moved away from here on purpose.
    pub moving: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// Why.
    pub reason: String,
    /// The member could still be used, but is about to give away what it has: what was begun may be finished.
    pub draining: bool,
}

impl From<String> for No {
    fn from(reason: String) -> Self {
        Self { reason, draining: false }
    }
}

impl From<&str> for No {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

/// How far a member has come that is about to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leaving {
    /// It gets no new reads. While it is the primary it goes on taking writes: the role is on its way to another.
    Reads,
    /// It gets nothing any more.
    Everything,
}

/// `/primary`: writes may be sent here. The error is the reason against it.
pub fn primary(facts: &Facts) -> Result<(), No> {
    let local = in_group(facts)?;
    stays(facts, Leaving::Everything)?;
    if local.role != Role::Primary {
        return Err(format!("role {}", local.role.as_str()).into());
    }
    if local.super_read_only {
        return Err("super_read_only is ON".into());
    }
    // A primary that was frozen, or whose machine was, says ONLINE and PRIMARY for some seconds after it thawed, although
    // the others have elected another. They know better; ask them before believing it.
    if !facts.asked_since_pause {
        return Err("mysqld has paused, and not all peers have been asked since".into());
    }
    for (name, peer) in &facts.peers {
        let other = peer.is_healthy() && peer.role == Role::Primary && peer.server_uuid != local.server_uuid;
        if other && !without(local, peer) {
            return Err(format!(
                "{name} is primary, too, in view {} (here: {})",
                peer.view_id, local.view_id
            )
            .into());
        }
        let expelled = peer.is_healthy() && !peer.view.iter().any(|m| m.uuid == local.server_uuid);
        if expelled && !without(local, peer) {
            return Err(format!("{name} is in view {} without this member", peer.view_id).into());
        }
    }
    // Gateways let go of their connections before MySQL moves the role, so that no statement meets the move.
    if facts.moving {
        return Err(draining("the primary role is about to move"));
    }
    Ok(())
}

/// `/replica`: reads may be sent here, if it is at most `max_lag` behind.
pub fn replica(facts: &Facts, max_lag: Option<Duration>) -> Result<(), No> {
    let local = in_group(facts)?;
    stays(facts, Leaving::Reads)?;
    if local.role != Role::Secondary {
        return Err(format!("role {}", local.role.as_str()).into());
    }
    if let Some(limit) = max_lag {
        match local.lag_seconds {
            None => return Err("the lag is not known".into()),
            Some(lag) if lag > limit.as_secs_f64() => {
                return Err(format!("{lag:.1} s behind the primary").into());
            }
            Some(_) => {}
        }
        // The lag is the difference of two clocks. One that is behind the primary's makes an old member look fresh.
        let primary = facts.ahead.iter().find(|(name, _)| local.primary.as_ref() == Some(name));
        if let Some((name, ahead)) = primary.filter(|(_, ahead)| ahead.abs() > CLOCKS_AGREE) {
            return Err(format!(
                "the lag is not known: the clocks here and on {name} differ by {:.1} s",
                ahead.abs()
            )
            .into());
        }
    }
    Ok(())
}

/// `/health`: the member is in the group and the group works.
pub fn health(facts: &Facts) -> Result<(), No> {
    in_group(facts).map(drop)
}

fn stays(facts: &Facts, bar: Leaving) -> Result<(), No> {
    if facts.leaving >= Some(bar) { Err(draining("mysqld is about to stop")) } else { Ok(()) }
}

fn draining(reason: &str) -> No {
    No { reason: reason.to_owned(), draining: true }
}

fn in_group(facts: &Facts) -> Result<&Observation, No> {
    let local = facts.local.as_ref().map_err(|why| format!("mysqld: {why}"))?;
    if local.member_state != MemberState::Online {
        return Err(format!("member state {}", local.member_state.as_str()).into());
    }
    if !local.majority {
        return Err("most of the group is out of reach".into());
    }
    Ok(local)
}

/// Whether the group has gone on without the peer: the local view is newer than the peer's, and the peer is not in it. One that
/// is in it will soon say that it is, and until then is right in doubt.
fn without(local: &Observation, peer: &Observation) -> bool {
    newer_view(local, peer) && !local.view.iter().any(|m| m.uuid == peer.server_uuid)
}

/// Whether the local view follows the peer's: same incarnation of the group, higher number (`prefix:number`).
fn newer_view(local: &Observation, peer: &Observation) -> bool {
    let split = |id: &str| {
        let (prefix, number) = id.rsplit_once(':')?;
        Some((prefix.to_owned(), number.parse::<u64>().ok()?))
    };
    match (split(&local.view_id), split(&peer.view_id)) {
        (Some((a, n)), Some((b, m))) => a == b && n > m,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
