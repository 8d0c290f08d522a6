//! The decision core: from what is known now to what the keeper does next. Plain data in, plain data out; no clock, no
//! network, no SQL. It is asked several times a second, so every answer is about one step, and a wrong guess about the
//! world is corrected by the next look.
//!
//! The rule under all rules: a member starts or empties nothing as long as anything is unknown that could make it wrong.

pub mod choose;
pub mod forced;
mod join;
pub(super) mod outage;
pub mod warnings;

use std::time::Duration;

use choose::choose;

use super::model::{Cluster, Retry};
use super::report::{Disk, MemberState, Observation, Peers, Phase, Record, Report, Role};

/// What happened before, as far as it matters for the next step.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The accounts were found right since this member became primary and since the password files changed.
    pub accounts_ok: bool,
    /// The member has been writable without being the primary for so long.
    pub writable_for: Duration,
    /// An attempt to get into a group failed lately.
    pub group: Option<Retry>,
    /// An attempt at anything else failed lately.
    pub other: Option<Retry>,
    /// What the applier failed with, in MySQL's words, since the member was last well for a while.
    pub applier: Option<String>,
}

/// Everything a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The configuration.
    pub cluster: &'a Cluster,
    /// The local member, or why it is not known; the caller has refused stale observations.
    pub local: Result<&'a Observation, &'a str>,
    /// What was remembered.
    pub record: &'a Record,
    /// The other keepers; the caller has refused stale reports.
    pub peers: &'a Peers,
    /// What happened before.
    pub history: &'a History,
    /// The space that mysqld has left, where it is known.
    pub disk: Option<&'a Disk>,
}

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `group_replication_bootstrap_group=OFF`, left ON by an interrupted bootstrap.
    ClearBootstrapFlag,
    /// `super_read_only=ON` on a member that is no primary.
    SetReadOnly,
    /// STOP GROUP_REPLICATION, to leave ERROR.
    StopGroup,
    /// Start the group with this member as its first.
    Bootstrap {
        /// A brand-new group, as opposed to one re-formed from data.
        first: bool,
    },
    /// START GROUP_REPLICATION.
    Join,
    /// CLONE INSTANCE from this member's mysqld.
    Clone {
        /// The donor's name.
        donor: String,
    },
    /// Make or correct the accounts, on the primary.
    EnsureAccounts,
    /// Move the primary role to this member.
    HandOver {
        /// Its name.
        to: String,
    },
}

impl Action {
    /// The name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClearBootstrapFlag => "clear-bootstrap-flag",
            Self::SetReadOnly => "set-read-only",
            Self::StopGroup => "stop-group",
            Self::Bootstrap { .. } => "bootstrap",
            Self::Join => "join",
            Self::Clone { .. } => "clone",
            Self::EnsureAccounts => "ensure-accounts",
            Self::HandOver { .. } => "hand-over",
        }
    }

    /// Whether everything must be looked at anew, and decided anew, right before it is done.
    pub fn needs_recheck(&self) -> bool {
        matches!(self, Self::Bootstrap { .. } | Self::Join | Self::Clone { .. })
    }
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Where the keeper stands.
    pub phase: Phase,
    /// Why, in words for the operator.
    pub reason: String,
    /// The member that should bootstrap, after a complete outage.
    pub plan: Option<String>,
    /// The step to take, if any.
    pub action: Option<Action>,
}

impl Decision {
    fn wait(phase: Phase, reason: impl Into<String>) -> Self {
        Self { phase, reason: reason.into(), plan: None, action: None }
    }

    fn act(phase: Phase, reason: impl Into<String>, action: Action) -> Self {
        Self { phase, reason: reason.into(), plan: None, action: Some(action) }
    }

    fn planned(self, candidate: &str) -> Self {
        Self { plan: Some(candidate.to_owned()), ..self }
    }

    /// Waits instead of acting when the last attempt is too recent.
    fn unless_too_soon(self, retry: Option<&Retry>) -> Self {
        match retry {
            Some(retry) if !retry.wait.is_zero() && self.action.is_some() => Self {
                phase: Phase::BackingOff,
                reason: format!(
                    "{}; {} failed {}, the last time with: {}; next attempt in {} s",
                    self.reason,
                    self.action.as_ref().map_or("it", Action::name),
                    times(retry.failures),
                    retry.error,
                    retry.wait.as_secs() + 1
                ),
                action: None,
                ..self
            },
            _ => self,
        }
    }
}

fn times(n: u32) -> String {
    if n == 1 { "once".into() } else { format!("{n} times") }
}

/// How long a member may be seen writable outside the primary role before it is switched: while the role moves, the two
/// are not seen to change at the same instant, and a new primary must not be made read-only.
const WRITABLE_GRACE: Duration = Duration::from_secs(2);

/// What to do next.
pub fn decide(inputs: &Inputs<'_>) -> Decision {
    let decision = next(inputs);
    match &inputs.history.applier {
        // Without it a member that fails at the same transaction again and again seems to be always just about to join.
        Some(error) if decision.phase != Phase::Online && !decision.reason.contains(error) => {
            Decision { reason: format!("{}; its applier failed with {error}", decision.reason), ..decision }
        }
        _ => decision,
    }
}

fn next(inputs: &Inputs<'_>) -> Decision {
    let local = match inputs.local {
        Ok(local) => local,
        Err(why) => {
            // A full disk is the one cause that no restart mends.
            let disk = inputs.disk.and_then(warnings::disk).map(|d| format!("; {d}")).unwrap_or_default();
            return Decision::wait(Phase::MysqlUnreachable, format!("{why}{disk}"));
        }
    };
    if let Some(fault) = misconfigured(inputs, local) {
        return Decision::wait(Phase::Misconfigured, fault);
    }
    if local.bootstrap_group {
        return Decision::act(
            Phase::Misconfigured,
            "group_replication_bootstrap_group is ON outside a bootstrap, so the next START GROUP_REPLICATION would \
             found a second group: switching it off",
            Action::ClearBootstrapFlag,
        )
        .unless_too_soon(inputs.history.other.as_ref());
    }
    match local.member_state {
        MemberState::Online => online(inputs, local),
        MemberState::Recovering | MemberState::Unreachable => {
            read_only(inputs, local, Decision::wait(Phase::Recovering, recovering_reason(local)))
        }
        MemberState::Error => Decision::act(
            Phase::Error,
            format!(
                "the member left the group in ERROR{}: stopping Group Replication in order to join again",
                local.last_error.as_ref().map(|e| format!(" ({e})")).unwrap_or_default()
            ),
            Action::StopGroup,
        )
        .unless_too_soon(inputs.history.other.as_ref()),
        MemberState::Offline => offline(inputs, local),
    }
}

/// What mysqld's own settings make impossible.
fn misconfigured(inputs: &Inputs<'_>, local: &Observation) -> Option<String> {
    match &local.mysql_group_name {
        None => {
            return Some(
                "the plugin group_replication is not active in mysqld: load it with \
                 plugin_load_add=group_replication.so"
                    .into(),
            );
        }
        Some(name) if *name != inputs.cluster.group_name => {
            return Some(format!(
                "mysqld belongs to group \"{name}\" (group_replication_group_name), this keeper to \"{}\"",
                inputs.cluster.group_name
            ));
        }
        Some(_) => {}
    }
    if local.member_state == MemberState::Online {
        return None;
    }
    let twin = reports(inputs.peers)
        .find(|(_, r)| r.observation.as_ref().is_some_and(|o| o.server_uuid == local.server_uuid));
    twin.map(|(name, _)| {
        format!(
            "{name} has the same server UUID {}: one data directory is a copy of the other. On the copy, stop mysqld \
             and delete auto.cnf in its data directory",
            local.server_uuid
        )
    })
}

fn online(inputs: &Inputs<'_>, local: &Observation) -> Decision {
    if !local.majority {
        let gone: Vec<&str> = local
            .view
            .iter()
            .filter(|m| m.state == MemberState::Unreachable)
            .map(|m| m.name.as_deref().unwrap_or(&m.address))
            .collect();
        return Decision::wait(
            Phase::NoMajority,
            format!(
                "most of the group is out of reach ({}): writes wait, and after \
                 group_replication_unreachable_majority_timeout this member leaves the group",
                gone.join(", ")
            ),
        );
    }
    let role = match local.role {
        Role::Primary => "PRIMARY",
        Role::Secondary | Role::None => "SECONDARY",
    };
    let reason = format!("ONLINE {role} in a view of {}", local.view.len());
    let decision = Decision::wait(Phase::Online, reason);
    if local.role != Role::Primary {
        return read_only(inputs, local, decision);
    }
    if local.super_read_only {
        let reason = format!("{}; super_read_only is ON, so it takes no writes yet", decision.reason);
        return Decision { reason, ..decision };
    }
    if let Some(decision) = hand_over(inputs, local, &decision) {
        return decision;
    }
    if !inputs.history.accounts_ok {
        let quiet = inputs.history.other.as_ref().is_none_or(|r| r.wait.is_zero());
        let (reason, action) = match &inputs.history.other {
            Some(retry) => (
                format!("{}; the accounts could not be made: {}", decision.reason, retry.error),
                quiet.then_some(Action::EnsureAccounts),
            ),
            None => (decision.reason, Some(Action::EnsureAccounts)),
        };
        return Decision { reason, action, ..decision };
    }
    decision
}

/// A primary whose disk is about to be full: its writes would soon wait for room, and with them everybody's.
fn hand_over(inputs: &Inputs<'_>, local: &Observation, decision: &Decision) -> Option<Decision> {
    let disk = inputs.disk.filter(|d| d.low)?;
    let quiet = disk.is_full() || inputs.history.other.as_ref().is_none_or(|r| r.wait.is_zero());
    match choose(inputs.cluster, Ok(local), inputs.peers, None) {
        Ok(chosen) if quiet => Some(Decision::act(
            Phase::Online,
            format!(
                "{}; its disk is nearly full: handing the primary role to {}",
                decision.reason, chosen.to
            ),
            Action::HandOver { to: chosen.to },
        )),
        // Writing is what is left to do here.
        _ => None,
    }
}

fn recovering_reason(local: &Observation) -> String {
    let behind = local.gtid_received.subtract(&local.gtid_executed).count();
    if behind == 0 {
        "in the group, fetching what it lacks".into()
    } else {
        format!("in the group, {behind} received transactions still to be applied")
    }
}

/// A member that is in a group but not its primary must not take writes.
fn read_only(inputs: &Inputs<'_>, local: &Observation, decision: Decision) -> Decision {
    let writable = !local.super_read_only && inputs.history.writable_for >= WRITABLE_GRACE;
    if !writable || local.is_cloning() {
        return decision;
    }
    Decision {
        reason: format!(
            "{}; it was writable without being the primary: setting super_read_only",
            decision.reason
        ),
        action: Some(Action::SetReadOnly),
        ..decision
    }
}

fn offline(inputs: &Inputs<'_>, local: &Observation) -> Decision {
    if local.is_cloning() {
        let source = local.clone.as_ref().map_or("", |c| c.source.as_str());
        return Decision::wait(Phase::Cloning, format!("a clone from {source} into this member runs"));
    }
    let decision = offline_in(inputs, local);
    if local.super_read_only {
        return decision;
    }
    // Nothing else before this: outside a group every write is one that the group will never have.
    Decision {
        reason: format!("{}; it was writable outside a group: setting super_read_only", decision.reason),
        action: Some(Action::SetReadOnly),
        ..decision
    }
}

fn offline_in(inputs: &Inputs<'_>, local: &Observation) -> Decision {
    let decision = offline_with_room(inputs, local);
    match inputs.disk.filter(|d| d.is_full()).and_then(warnings::disk) {
        // What it plans still counts: the others form the group with the member that has room.
        Some(disk) if decision.action.is_some() => Decision {
            phase: Phase::DiskFull,
            reason: format!("it joins a group again when there is room on its disk: {disk}"),
            action: None,
            ..decision
        },
        _ => decision,
    }
}

fn offline_with_room(inputs: &Inputs<'_>, local: &Observation) -> Decision {
    let gtids = local.gtids();
    if gtids.is_empty() && !local.user_schemas.is_empty() {
        return Decision::wait(
            Phase::Refused,
            format!(
                "there is data without a GTID ({}): it did not come from this group, and joining would delete it. \
                 Move it away (DROP DATABASE with sql_log_bin=0), or import it through the primary",
                local.user_schemas.join(", ")
            ),
        );
    }
    match join::visible_group(inputs) {
        Ok(Some(group)) => join::decide(inputs, local, &gtids, &group),
        Ok(None) => outage::decide(inputs, local, &gtids),
        Err(refusal) => Decision::wait(Phase::Refused, refusal),
    }
}

/// The peers whose reports are known.
fn reports(peers: &Peers) -> impl Iterator<Item = (&str, &Report)> {
    peers.iter().filter_map(|(name, peer)| peer.as_ref().ok().map(|r| (name.as_str(), r)))
}

/// A set for people: cut where it is long.
fn brief(set: &trivet_keeper_api::gtid::GtidSet) -> String {
    const LONG: usize = 200;
    let text = set.to_string();
    if text.len() <= LONG { text } else { format!("{}… ({} transactions)", &text[..LONG], set.count()) }
}

#[cfg(test)]
pub(super) mod tests;
