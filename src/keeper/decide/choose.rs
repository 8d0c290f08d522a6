//! Who may get the primary role when it is moved on purpose, and why not.

use std::time::Duration;

use crate::model::Cluster;
use crate::report::{MemberState, Observation, Peers};

/// A member further behind than this would keep writers waiting for longer than a switchover is meant to take.
pub const MAX_LAG: Duration = Duration::from_secs(1);

/// The role can go to this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The primary now.
    pub from: String,
    /// The primary to be.
    pub to: String,
    /// Its server UUID.
    pub uuid: String,
}

/// Why the role stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// mysqld does not answer its keeper.
    #[error("{0}'s own mysqld does not answer ({1}): run the command on a node whose member is ONLINE")]
    Blind(String, String),
    /// The local member is in no group.
    #[error(
        "{0}'s member is {1}, so nothing can be asked of the group here: run the command on a node whose member is ONLINE"
    )]
    NotInGroup(String, &'static str),
    /// No quorum.
    #[error("most of the group is out of {0}'s reach ({1}): without a majority no role can move")]
    NoMajority(String, String),
    /// The view has no primary: an election is under way.
    #[error("the group has no primary at this moment: an election is under way, try again in a few seconds")]
    NoPrimary,
    /// Not a name of the configuration.
    #[error("\"{0}\" is no member of this database; the members are {1}")]
    Unknown(String, String),
    /// It has the role.
    #[error("{0} is the primary already")]
    AlreadyPrimary(String),
    /// In another state, or in none.
    #[error("{0} is {1}, and only an ONLINE member can become the primary")]
    NotOnline(String, &'static str),
    /// MySQL would do it, but the gateways, which ask its keeper, would not follow.
    #[error("the keeper of {0} does not answer ({1}), so the gateways would not find the primary there")]
    NoKeeper(String, String),
    /// Too far behind.
    #[error(
        "{0} {1}, and writes would have to wait for it: let it catch up (`trivet status` shows the lag) or choose another member"
    )]
    Lagging(String, String),
    /// It would be the next to hand the role over.
    #[error("the disk of {0} is nearly full")]
    DiskLow(String),
    /// Its mysqld is about to stop.
    #[error("{0} is about to stop")]
    Leaving(String),
    /// Nobody was named, and nobody can.
    #[error("no other member can take over: {0}")]
    Nobody(String),
}

impl Refusal {
    /// Whether it may be gone in a moment.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Lagging(..) | Self::NoPrimary)
    }
}

/// Whether, and to whom, the role can move. `wanted`: a name, or nobody in particular, which means the other member with
/// the most transactions, of the lowest version (a newer one cannot lead older ones), in the configuration's order.
pub fn choose(
    cluster: &Cluster,
    local: Result<&Observation, &str>,
    peers: &Peers,
    wanted: Option<&str>,
) -> Result<Move, Refusal> {
    let me = &cluster.me;
    let local = local.map_err(|why| Refusal::Blind(me.clone(), why.to_owned()))?;
    if let Some(name) = wanted
        && !cluster.members.iter().any(|m| m == name)
    {
        return Err(Refusal::Unknown(name.to_owned(), cluster.members.join(", ")));
    }
    if local.member_state != MemberState::Online {
        return Err(Refusal::NotInGroup(me.clone(), local.member_state.as_str()));
    }
    if !local.majority {
        let gone = local.view.iter().filter(|m| m.state == MemberState::Unreachable);
        let gone: Vec<&str> = gone.map(|m| m.name.as_deref().unwrap_or(&m.address)).collect();
        return Err(Refusal::NoMajority(me.clone(), gone.join(", ")));
    }
    let primary = local.primary.clone().ok_or(Refusal::NoPrimary)?;
    let fits = |name: &str| fits(cluster, local, peers, &primary, name);
    if let Some(name) = wanted {
        let (to, seen) = (name.to_owned(), fits(name)?);
        return Ok(Move { from: primary, to, uuid: seen.server_uuid.clone() });
    }
    let mut reasons = Vec::new();
    let mut fitting = Vec::new();
    for name in cluster.members.iter().filter(|m| **m != primary) {
        match fits(name) {
            Ok(seen) => fitting.push((name, seen)),
            Err(refusal) => reasons.push(refusal),
        }
    }
    let rank = |o: &Observation| (std::cmp::Reverse(version(&o.server_version)), o.gtids().count());
    // max_by_key takes the last of equals; the configuration's order wants the first.
    match fitting.iter().rev().max_by_key(|(_, seen)| rank(seen)) {
        Some((name, seen)) => Ok(Move { from: primary, to: (*name).clone(), uuid: seen.server_uuid.clone() }),
        // The one reason that may pass is worth waiting for.
        None => Err(reasons.iter().find(|r| r.passes()).cloned().unwrap_or_else(|| {
            let reasons: Vec<String> = reasons.iter().map(Refusal::to_string).collect();
            Refusal::Nobody(if reasons.is_empty() { "there is none".into() } else { reasons.join("; ") })
        })),
    }
}

fn fits<'a>(
    cluster: &Cluster,
    local: &'a Observation,
    peers: &'a Peers,
    primary: &str,
    name: &str,
) -> Result<&'a Observation, Refusal> {
    if name == primary {
        return Err(Refusal::AlreadyPrimary(name.to_owned()));
    }
    let state =
        local.view.iter().find(|m| m.name.as_deref() == Some(name)).map_or(MemberState::Offline, |m| m.state);
    if state != MemberState::Online {
        return Err(Refusal::NotOnline(name.to_owned(), state.as_str()));
    }
    // The local member is asked about only where the role is to come to this node, by an operator who is there.
    let seen = if name == cluster.me {
        local
    } else {
        let report = match peers.get(name) {
            Some(Ok(report)) => report,
            Some(Err(why)) => return Err(Refusal::NoKeeper(name.to_owned(), why.clone())),
            None => return Err(Refusal::NoKeeper(name.to_owned(), "not asked yet".into())),
        };
        if report.leaving {
            return Err(Refusal::Leaving(name.to_owned()));
        }
        if report.disk.is_some_and(|d| d.low) {
            return Err(Refusal::DiskLow(name.to_owned()));
        }
        report
            .observation
            .as_ref()
            .ok_or_else(|| Refusal::NoKeeper(name.to_owned(), "it does not see its mysqld".into()))?
    };
    match seen.lag_seconds {
        Some(lag) if lag <= MAX_LAG.as_secs_f64() => Ok(seen),
        Some(lag) => Err(Refusal::Lagging(name.to_owned(), format!("is {lag:.1} s behind"))),
        None => Err(Refusal::Lagging(name.to_owned(), "is behind, nobody knows how far".into())),
    }
}

/// `9.7.4-debian` as numbers that can be compared.
fn version(text: &str) -> Vec<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    digits.split('.').map_while(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
