//! No group anywhere: founding a new one, or re-forming the old one after a complete outage.
//!
//! Two keepers must never both bootstrap. The candidate follows from the states of all members alone, so every keeper
//! that sees all members comes to the same one; each names it in its report (`plan`), and the candidate acts only when
//! every peer names it, too.

use super::{Action, Decision, Inputs, brief, reports};
use crate::report::{Disk, MemberState, Observation, Phase, Record};
use trivet_keeper_api::gtid::GtidSet;

/// One member, all facts known.
struct Known<'a> {
    name: &'a str,
    seen: &'a Observation,
    record: &'a Record,
    gtids: GtidSet,
    /// Its disk is full: it could form a group, and write nothing in it.
    full: bool,
}

/// What to do while no peer is in a group.
pub(super) fn decide(inputs: &Inputs<'_>, local: &Observation, gtids: &GtidSet) -> Decision {
    let cluster = inputs.cluster;
    if let Some(foreign) = foreign(&cluster.me, local, gtids, &cluster.group_name) {
        return Decision::wait(Phase::Refused, foreign);
    }
    let (all, missing) = match everyone(inputs, local, gtids) {
        Ok(known) => known,
        Err(differs) => return Decision::wait(Phase::Misconfigured, differs),
    };
    if !missing.is_empty() {
        return Decision::wait(
            Phase::WaitingForMembers,
            format!(
                "no group is running, and one is bootstrapped only when all members are seen OFFLINE, because a \
                 missing one may hold writes that the others do not have: waiting for {}. Should one never come back: \
                 trivet database force-bootstrap NODE, on the member with the most transactions",
                missing.join(", ")
            ),
        );
    }
    match candidate(&all, &cluster.group_name) {
        Ok(candidate) => bootstrap(inputs, &candidate),
        Err(refusal) => Decision::wait(Phase::Refused, refusal),
    }
}

/// Whether the keepers would bootstrap by themselves, and why or why not; nothing while a member is missing.
pub(super) fn would_bootstrap(
    inputs: &Inputs<'_>,
    local: &Observation,
    gtids: &GtidSet,
) -> Option<Result<String, String>> {
    let (all, missing) = everyone(inputs, local, gtids).ok()?;
    missing.is_empty().then(|| {
        candidate(&all, &inputs.cluster.group_name).map(|c| format!("{} contains all others", c.name))
    })
}

/// The bootstraps by force that any keeper remembers; one remembers all of them, or a part from the beginning.
pub fn longest_forks<'a>(inputs: &Inputs<'a>) -> &'a [GtidSet] {
    let records = reports(inputs.peers).map(|(_, r)| &r.record).chain([inputs.record]);
    let ours = records.filter(|r| r.group_name == inputs.cluster.group_name);
    ours.map(|r| r.forks.as_slice()).max_by_key(|forks| forks.len()).unwrap_or_default()
}

/// All members, and whom nothing is known of; an error when one is configured in a way that rules out planning together.
fn everyone<'a>(
    inputs: &Inputs<'a>,
    local: &'a Observation,
    gtids: &GtidSet,
) -> Result<(Vec<Known<'a>>, Vec<String>), String> {
    let cluster = inputs.cluster;
    let mut all = Vec::with_capacity(cluster.members.len());
    let mut missing = Vec::new();
    for name in &cluster.members {
        if *name == cluster.me {
            let full = inputs.disk.is_some_and(Disk::is_full);
            all.push(Known { name, seen: local, record: inputs.record, gtids: gtids.clone(), full });
            continue;
        }
        match peer(inputs, name) {
            Ok(known) => all.push(known),
            Err(Unusable::Not(why)) => missing.push(format!("{name} ({why})")),
            Err(Unusable::Differs(why)) => return Err(why),
        }
    }
    Ok((all, missing))
}

enum Unusable {
    /// Not there, or not yet as it must be.
    Not(String),
    /// There, and configured in a way that rules out planning together.
    Differs(String),
}

fn peer<'a>(inputs: &Inputs<'a>, name: &'a str) -> Result<Known<'a>, Unusable> {
    let report = match inputs.peers.get(name) {
        Some(Ok(report)) => report,
        Some(Err(why)) => return Err(Unusable::Not(why.clone())),
        None => return Err(Unusable::Not("not asked yet".into())),
    };
    if report.digest != inputs.cluster.digest {
        return Err(Unusable::Differs(format!(
            "the keeper of {name} is configured with another group name or other members (or in another order): the \
             lists must be equal on all nodes"
        )));
    }
    let Some(seen) = report.observation.as_ref() else {
        return Err(Unusable::Not(format!("its mysqld: {}", report.reason)));
    };
    if seen.member_state != MemberState::Offline {
        let majority = if seen.member_state == MemberState::Online && !seen.majority {
            " without a majority"
        } else {
            ""
        };
        return Err(Unusable::Not(format!("{}{majority}", seen.member_state.as_str())));
    }
    if seen.is_cloning() {
        return Err(Unusable::Not("a clone into it runs".into()));
    }
    let full = report.disk.as_ref().is_some_and(Disk::is_full);
    Ok(Known { name, seen, record: &report.record, gtids: seen.gtids(), full })
}

/// Data that no group of this name made.
pub(super) fn foreign(name: &str, seen: &Observation, gtids: &GtidSet, group_name: &str) -> Option<String> {
    if seen.is_empty() || gtids.has_uuid(group_name) {
        return None;
    }
    Some(format!(
        "{name} has data that this group did not make (schemas: {}; GTIDs: {}), so no group is formed over it. If the \
         data is to be kept, dump it, start with empty data directories, and load the dump through the primary; if not, \
         move the data directory of {name} away and start mysqld",
        if seen.user_schemas.is_empty() { "none".into() } else { seen.user_schemas.join(", ") },
        if gtids.is_empty() { "none".into() } else { brief(gtids) },
    ))
}

/// The member to bootstrap from.
struct Candidate<'a> {
    name: &'a str,
    /// The group is brand-new.
    first: bool,
    /// What the operator should know about this choice.
    remark: String,
}

fn candidate<'a>(all: &[Known<'a>], group_name: &str) -> Result<Candidate<'a>, String> {
    for m in all {
        if let Some(foreign) = foreign(m.name, m.seen, &m.gtids, group_name) {
            return Err(foreign);
        }
    }
    let recorded = |m: &&Known<'a>| m.record.group_name == group_name && m.record.formed;
    let with_data: Vec<&Known<'a>> = all.iter().filter(|m| !m.seen.is_empty()).collect();
    if with_data.is_empty() {
        return match all.iter().find(recorded) {
            Some(m) => Err(format!(
                "every member is empty, but the keeper of {} remembers that this group had data: the data of all \
                 members is gone. Restore a backup; or, to start over with nothing, delete group.json in the state \
                 directories of all keepers",
                m.name
            )),
            None => Ok(Candidate {
                name: all.iter().find(|m| !m.full).unwrap_or(&all[0]).name,
                first: true,
                remark: String::new(),
            }),
        };
    }
    // The group went on without what these have; only a clone makes them members again.
    let forks = all.iter().filter(|m| m.record.group_name == group_name).map(|m| m.record.forks.as_slice());
    let forks = forks.max_by_key(|forks| forks.len()).unwrap_or_default();
    let (with_data, left): (Vec<&Known<'a>>, Vec<&Known<'a>>) =
        with_data.into_iter().partition(|m| m.record.given_up(&m.gtids, forks).is_empty());
    let Some(richest) = with_data.iter().max_by_key(|m| m.gtids.count()) else {
        let left: Vec<&str> = left.iter().map(|m| m.name).collect();
        return Err(format!(
            "only {} has data, and that was given up by a bootstrap by force: put back the disk of a member that was part of \
             it, or restore a backup",
            left.join(" and ")
        ));
    };
    // A member that was in the last view and is empty now has lost its disk, and with it perhaps the newest writes.
    for lost in all.iter().filter(|m| m.seen.is_empty()) {
        let listed = all.iter().filter(recorded).find(|m| m.record.last_view.iter().any(|n| n == lost.name));
        if let Some(witness) = listed {
            return Err(format!(
                "{} is empty, but {} remembers it ONLINE in the group's last view: its disk is lost, and with it \
                 perhaps acknowledged writes that no other member has. Put the disk back; or, to go on without them: \
                 trivet database force-bootstrap {}, on {}, which has the most transactions",
                lost.name, witness.name, richest.name, richest.name
            ));
        }
    }
    let all_gtids = with_data.iter().fold(GtidSet::default(), |sum, m| sum.union(&m.gtids));
    // Several may contain all: rather one that can write, then one that has applied everything already, then the
    // configuration's order.
    let contain_all = with_data.iter().filter(|m| all_gtids.is_subset(&m.gtids));
    if let Some(winner) = contain_all.min_by_key(|m| (m.full, !all_gtids.is_subset(&m.seen.gtid_executed))) {
        return Ok(Candidate {
            name: winner.name,
            first: false,
            remark: remark(winner, &with_data, group_name),
        });
    }
    let mut differences = Vec::new();
    for a in &with_data {
        for b in &with_data {
            let only = a.gtids.subtract(&b.gtids);
            if !only.is_empty() {
                differences.push(format!("{} has {} that {} lacks", a.name, brief(&only), b.name));
            }
        }
    }
    Err(format!(
        "the members have diverged, none contains all others: {}. Look at the transactions with mysqlbinlog \
         --include-gtids, decide which member is right, and move the data directories of the others away: they are \
         cloned again",
        differences.join("; ")
    ))
}

/// Writes that only the chosen member has, made outside the group: they become the group's, and that should be known.
fn remark(winner: &Known<'_>, with_data: &[&Known<'_>], group_name: &str) -> String {
    let others = with_data.iter().filter(|m| m.name != winner.name);
    let only = others.fold(winner.gtids.clone(), |rest, m| rest.subtract(&m.gtids)).without_uuid(group_name);
    if only.is_empty() || with_data.len() == 1 {
        return String::new();
    }
    format!(
        ". Among them are transactions made on {} alone, outside the group: {}",
        winner.name,
        brief(&only)
    )
}

fn bootstrap(inputs: &Inputs<'_>, candidate: &Candidate<'_>) -> Decision {
    let cluster = inputs.cluster;
    let (first, remark) = (candidate.first, candidate.remark.as_str());
    let candidate = candidate.name;
    let why = if first {
        "all members are there and empty, and no keeper remembers a group".to_owned()
    } else {
        format!("all members are there and OFFLINE, and its transactions contain those of all others{remark}")
    };
    if candidate != cluster.me {
        return Decision::wait(
            Phase::WaitingForBootstrap,
            format!("{candidate} is to bootstrap the group: {why}"),
        )
        .planned(candidate);
    }
    let undecided: Vec<&str> = inputs
        .peers
        .iter()
        .filter(|(_, p)| p.as_ref().ok().and_then(|r| r.plan.as_deref()) != Some(cluster.me.as_str()))
        .map(|(name, _)| name.as_str())
        .collect();
    if !undecided.is_empty() {
        return Decision::wait(
            Phase::WaitingForMembers,
            format!(
                "this member is to bootstrap the group ({why}); waiting until the keepers of {} see the same",
                undecided.join(", ")
            ),
        )
        .planned(candidate);
    }
    Decision::act(Phase::Bootstrapping, why, Action::Bootstrap { first })
        .planned(candidate)
        .unless_too_soon(inputs.history.group.as_ref())
}
