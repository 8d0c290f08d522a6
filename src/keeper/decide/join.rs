//! Joining a group that exists: by its binary logs where that is possible, by a clone where it is not.

use super::{Action, Decision, Inputs, brief, outage, reports};
use crate::report::{MemberState, Observation, Phase, Report, Role, ViewMember};
use trivet_keeper_api::gtid::GtidSet;

/// A group with a majority, seen through one of its members: the primary where its keeper answers.
pub(super) struct Group<'a> {
    /// The member that tells about it.
    pub teller: &'a str,
    /// What it sees.
    pub seen: &'a Observation,
    /// All ONLINE members whose keepers answer, in the configuration's order.
    pub healthy: Vec<(&'a str, &'a Observation)>,
}

/// The group that peers are in, if any; an error when they are in two.
pub(super) fn visible_group<'a>(inputs: &Inputs<'a>) -> Result<Option<Group<'a>>, String> {
    let mut healthy: Vec<(&str, &Observation)> = Vec::new();
    for name in &inputs.cluster.members {
        let Some((name, Ok(report))) = inputs.peers.get_key_value(name.as_str()) else { continue };
        // A peer of another group is none of ours, whatever it says.
        if report.group_name != inputs.cluster.group_name {
            continue;
        }
        if let Some(observation) = report.observation.as_ref().filter(|o| o.is_healthy()) {
            healthy.push((name, observation));
        }
    }
    let mut primaries = healthy.iter().filter(|(_, o)| o.role == Role::Primary);
    let primary = primaries.next().copied();
    // While the role moves, the old primary may say so a moment longer than the new one: that passes. Two that do not
    // list one another are two groups.
    if let (Some((a, a_seen)), Some((b, b_seen))) = (primary, primaries.next().copied()) {
        let lists = |o: &Observation, uuid: &str| o.view.iter().any(|m| m.uuid == uuid);
        if !lists(a_seen, &b_seen.server_uuid) && !lists(b_seen, &a_seen.server_uuid) {
            return Err(format!(
                "{a} and {b} are primaries of two separate groups: stop Group Replication on the one whose writes \
                 are to be given up; this member joins neither before"
            ));
        }
    }
    Ok(primary.or(healthy.first().copied()).map(|(teller, seen)| Group { teller, seen, healthy }))
}

/// How to get into that group.
pub(super) fn decide(
    inputs: &Inputs<'_>,
    local: &Observation,
    gtids: &GtidSet,
    group: &Group<'_>,
) -> Decision {
    let me = inputs.cluster.me.as_str();
    // By name, too: with a new data directory the server has a new UUID, and still the same address.
    let earlier_self = |m: &&ViewMember| m.uuid == local.server_uuid || m.name.as_deref() == Some(me);
    if let Some(own) = group.seen.view.iter().find(earlier_self) {
        return Decision::wait(
            Phase::WaitingForExpulsion,
            format!(
                "{} still lists this member's earlier self as {}: waiting until the group has expelled it",
                group.teller,
                own.state.as_str()
            ),
        );
    }
    if local.is_empty() {
        return clone(inputs, local, group, "this member is empty");
    }
    let forks = outage::longest_forks(inputs);
    let given_up = inputs.record.given_up(gtids, forks);
    if !given_up.is_empty() {
        return Decision::wait(
            Phase::Diverged,
            format!(
                "the group was bootstrapped by force without this member, and {} which it has was given up then; later \
                 transactions of the group may have the same numbers. {}",
                brief(&given_up),
                out_of_it(&inputs.cluster.me, &given_up)
            ),
        );
    }
    let errant = gtids.subtract(&group.seen.gtids());
    if !errant.is_empty() {
        return Decision::wait(Phase::Diverged, diverged(inputs, group, &errant));
    }
    // A donor whose logs no longer reach back to what is missing here cannot help.
    if group.healthy.iter().all(|(_, o)| !o.gtid_purged.is_subset(gtids)) {
        return clone(inputs, local, group, "no member's binary logs reach back to what this member lacks");
    }
    if let Some(first) = someone_joins_first(inputs, group) {
        return Decision::wait(Phase::WaitingToJoin, first);
    }
    let missing = group.seen.gtids().subtract(gtids).count();
    Decision::act(
        Phase::Joining,
        format!(
            "{} is in a group that this member belongs to; it lacks {missing} of its transactions",
            group.teller
        ),
        Action::Join,
    )
    .unless_too_soon(inputs.history.group.as_ref())
}

fn diverged(inputs: &Inputs<'_>, group: &Group<'_>, errant: &GtidSet) -> String {
    let me = &inputs.cluster.me;
    format!(
        "errant transactions: this member has {} that the group does not have (GTID_SUBTRACT of its gtid_executed and \
         that of {}). {}",
        brief(errant),
        group.teller,
        out_of_it(me, errant),
    )
}

/// How to go on with a member that has what the group has not.
fn out_of_it(me: &str, gtids: &GtidSet) -> String {
    format!(
        "It is not joined, so that nothing is lost unseen. Look at them with mysqlbinlog --include-gtids='{}'; bring what \
         matters into the primary by hand; then stop mysqld on {me}, move its data directory away and start it: the empty \
         member is cloned from the group",
        brief(gtids)
    )
}

/// Members join one after the other: a second joiner while one is RECOVERING only makes both slower, and joining a group
/// whose bootstrap is unfinished stalls it for a minute.
fn someone_joins_first(inputs: &Inputs<'_>, group: &Group<'_>) -> Option<String> {
    if let Some(m) = group.seen.view.iter().find(|m| m.state == MemberState::Recovering) {
        let name = m.name.as_deref().unwrap_or(&m.address);
        return Some(format!("{name} is RECOVERING: members join one at a time"));
    }
    if let Some((name, _)) = reports(inputs.peers).find(|(_, r)| r.phase == Phase::Joining) {
        return Some(format!("{name} is joining: members join one at a time"));
    }
    earlier(inputs).find(|(_, r, o)| !o.is_empty() && goes_on(r)).map(|(name, ..)| {
        format!("{name} joins first: members join one at a time, in the configuration's order")
    })
}

/// OFFLINE members that stand before this one in the configuration.
fn earlier<'a>(inputs: &Inputs<'a>) -> impl Iterator<Item = (&'a str, &'a Report, &'a Observation)> {
    let cluster = inputs.cluster;
    let peers = inputs.peers;
    cluster.members.iter().take_while(move |m| **m != cluster.me).filter_map(move |name| {
        let report = peers.get(name)?.as_ref().ok()?;
        let observation = report.observation.as_ref()?;
        (observation.member_state == MemberState::Offline).then_some((name.as_str(), report, observation))
    })
}

/// Whether a peer is on its way into the group, as opposed to stuck or busy for long: nobody waits behind that.
fn goes_on(report: &Report) -> bool {
    !is_stuck(report)
        && !matches!(report.phase, Phase::WaitingForExpulsion | Phase::Cloning | Phase::WaitingToClone)
}

/// Whether a peer does nothing before something else changes.
fn is_stuck(report: &Report) -> bool {
    matches!(
        report.phase,
        Phase::Misconfigured | Phase::BackingOff | Phase::Diverged | Phase::Refused | Phase::DiskFull
    )
}

fn clone(inputs: &Inputs<'_>, local: &Observation, group: &Group<'_>, why: &str) -> Decision {
    if !local.clone_plugin {
        return Decision::wait(
            Phase::Misconfigured,
            format!(
                "{why} and must be cloned, but the clone plugin is not active in mysqld: load it with \
                 plugin_load_add=mysql_clone.so"
            ),
        );
    }
    // A donor serves one clone at a time.
    if let Some((name, _)) = reports(inputs.peers).find(|(_, r)| r.phase == Phase::Cloning) {
        return Decision::wait(Phase::WaitingToClone, format!("{why}; {name} is being cloned first"));
    }
    if let Some((name, ..)) = earlier(inputs).find(|(_, r, o)| o.is_empty() && !is_stuck(r)) {
        return Decision::wait(Phase::WaitingToClone, format!("{why}; {name} is cloned first"));
    }
    // A secondary, where there is one: the primary has enough to do.
    let donor = group
        .healthy
        .iter()
        .find(|(_, o)| o.role == Role::Secondary)
        .or(group.healthy.first())
        .map_or(group.teller, |(name, _)| name);
    Decision::act(
        Phase::Cloning,
        format!("{why}: cloning from {donor}"),
        Action::Clone { donor: donor.to_owned() },
    )
    .unless_too_soon(inputs.history.group.as_ref())
}
