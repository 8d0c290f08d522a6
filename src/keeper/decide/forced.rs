//! Bootstrapping although not all members are there: what an operator may ask for after a complete outage with a disk or a
//! machine lost, what is given up by that, and when it is refused.

use sha2::{Digest, Sha256};

use super::outage::foreign;
use super::{Inputs, brief, misconfigured, outage, reports};
use crate::report::{MemberState, Observation, Phase, Report};
use trivet_keeper_api::ForcePlan;
use trivet_keeper_api::gtid::GtidSet;

/// Why it must not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForceRefusal {
    /// The command must be given on the node that it is about.
    #[error("this is {me}: run the command on {node}, and only after comparing the members (trivet status)")]
    OtherNode {
        /// This node.
        me: String,
        /// What was asked for.
        node: String,
    },
    /// The local member is no base for a group.
    #[error("{0}")]
    Unfit(String),
    /// Nothing to force.
    #[error(
        "a group is running ({0} is in it): members join it by themselves, or say in `trivet status` why not"
    )]
    Running(String),
    /// Another keeper does the same at this moment.
    #[error(
        "{0} bootstraps the group at this moment: nothing was done here. Wait, and look at trivet status; give the command again on \
         one node alone"
    )]
    Rival(String),
    /// A member that is on its way somewhere.
    #[error("{0} is {1}: wait until every member that can be reached is OFFLINE, and ask again")]
    Unsettled(String, &'static str),
    /// Another one has more.
    #[error("{better} has {more} which this member lacks: run the command on {better} instead")]
    Behind {
        /// Who has more.
        better: String,
        /// What.
        more: String,
    },
    /// The keepers can do it.
    #[error("not needed: all members are there, and the keepers bootstrap the group by themselves ({0})")]
    NotNeeded(String),
}

/// What forcing would do on this node, which the operator named as `node`.
pub fn plan(inputs: &Inputs<'_>, node: &str) -> Result<ForcePlan, ForceRefusal> {
    let cluster = inputs.cluster;
    let unfit = |why: String| Err(ForceRefusal::Unfit(why));
    if node != cluster.me {
        return Err(ForceRefusal::OtherNode { me: cluster.me.clone(), node: node.to_owned() });
    }
    let local = match inputs.local {
        Ok(local) => local,
        Err(why) => return unfit(format!("mysqld does not answer: {why}")),
    };
    if let Some(fault) = misconfigured(inputs, local) {
        return unfit(fault);
    }
    if local.is_healthy() {
        return Err(ForceRefusal::Running(cluster.me.clone()));
    }
    if local.member_state != MemberState::Offline {
        return Err(ForceRefusal::Unsettled(cluster.me.clone(), local.member_state.as_str()));
    }
    if local.is_cloning() {
        return unfit("a clone into this member runs".into());
    }
    let gtids = local.gtids();
    if local.is_empty() {
        return unfit(
            "this member is empty: choose one that has data. If none has, restore a backup, or delete group.json in the state \
             directories of all keepers to begin with nothing"
                .into(),
        );
    }
    if let Some(foreign) = foreign(&cluster.me, local, &gtids, &cluster.group_name) {
        return unfit(foreign);
    }
    let forks = outage::longest_forks(inputs);
    let given_up = inputs.record.given_up(&gtids, forks);
    if !given_up.is_empty() {
        return unfit(format!(
            "this member's {} was given up by an earlier bootstrap by force, which other members have been part of",
            brief(&given_up)
        ));
    }
    let others = cluster.members.iter().filter(|m| **m != cluster.me);
    let others = others.map(|name| other(inputs, name, &gtids, forks)).collect::<Result<Vec<_>, _>>()?;
    let unknown: Vec<String> = others.iter().filter(|o| o.silent).map(|o| o.name.clone()).collect();
    if unknown.is_empty()
        && let Some(Ok(reason)) = outage::would_bootstrap(inputs, local, &gtids)
    {
        return Err(ForceRefusal::NotNeeded(reason));
    }
    let mut hash = Sha256::new();
    hash.update(format!("{node}\n{gtids}"));
    for other in &others {
        hash.update(format!("\n{}: {}", other.name, if other.silent { other.was } else { &other.told }));
    }
    let token = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    let others = others.into_iter().map(|o| format!("{}: {}", o.name, o.told)).collect();
    Ok(ForcePlan { node: node.to_owned(), gtids, others, unknown, token })
}

/// Whether no other keeper forms the group. `earlier` is what any keeper remembered before this one noted its own bootstrap by
/// force; `inputs` are from after that. Of `silent` nothing was known before either.
pub fn nobody_else(inputs: &Inputs<'_>, earlier: &[GtidSet], silent: &[String]) -> Result<(), ForceRefusal> {
    for (name, peer) in inputs.peers {
        let report = match peer {
            Ok(report) => report,
            Err(_) if silent.contains(name) => continue,
            Err(why) => {
                return Err(ForceRefusal::Unfit(format!(
                    "the keeper of {name} has fallen silent at this moment ({why}): nothing was done. Give the command again"
                )));
            }
        };
        let is_ours = report.record.group_name == inputs.cluster.group_name;
        if is_ours && report.record.forks.len() > earlier.len() {
            return Err(ForceRefusal::Rival(name.clone()));
        }
        settled(name, report)?;
    }
    Ok(())
}

/// Refuses while a member is in a group or may be getting into one.
fn settled(name: &str, report: &Report) -> Result<(), ForceRefusal> {
    if report.observation.as_ref().is_some_and(Observation::is_healthy) {
        return Err(ForceRefusal::Running(name.to_owned()));
    }
    // START GROUP_REPLICATION of a bootstrap takes seconds, in which the member is still OFFLINE.
    if report.phase == Phase::Bootstrapping {
        return Err(ForceRefusal::Rival(name.to_owned()));
    }
    match &report.observation {
        Some(seen) if seen.member_state != MemberState::Offline => {
            Err(ForceRefusal::Unsettled(name.to_owned(), seen.member_state.as_str()))
        }
        _ => Ok(()),
    }
}

/// What becomes of another member.
struct Other {
    name: String,
    /// In words.
    told: String,
    /// Whether it was in the group's last view, in words.
    was: &'static str,
    /// Nothing is known of what it has.
    silent: bool,
}

/// What becomes of the member `name` when this one, which has `gtids`, becomes the group's first.
fn other(inputs: &Inputs<'_>, name: &str, gtids: &GtidSet, forks: &[GtidSet]) -> Result<Other, ForceRefusal> {
    let cluster = inputs.cluster;
    let was_in = reports(inputs.peers)
        .map(|(_, r)| &r.record)
        .chain([inputs.record])
        .filter(|r| r.group_name == cluster.group_name)
        .any(|r| r.last_view.iter().any(|m| m == name));
    let was = if was_in { ", and it was ONLINE in the group's last view" } else { "" };
    let becomes = |silent, told| Ok(Other { name: name.to_owned(), told, was, silent });
    let report = match inputs.peers.get(name) {
        Some(Ok(report)) => report,
        missing => {
            let why = missing.map_or("not asked yet", |m| m.as_ref().err().map_or("", String::as_str));
            return becomes(
                true,
                format!(
                    "cannot be reached ({why}){was}. Writes that it alone has are given up: should it come back with such, it \
                     is not joined but reported as diverged"
                ),
            );
        }
    };
    settled(name, report)?;
    let Some(seen) = &report.observation else {
        return becomes(
            true,
            format!(
                "its mysqld does not answer ({}){was}. Writes that it alone has are given up: should it come back with such, \
                 it is not joined but reported as diverged",
                report.reason
            ),
        );
    };
    if report.digest != cluster.digest {
        return Err(ForceRefusal::Unfit(format!(
            "{name} is configured with another group or other members than this node"
        )));
    }
    if seen.is_empty() {
        return becomes(
            false,
            format!("is empty{was}. What was on its disk alone is lost; it is cloned from the group"),
        );
    }
    let theirs = seen.gtids();
    let more = theirs.subtract(gtids);
    let left_behind = report.record.given_up(&theirs, forks);
    if more.is_empty() && left_behind.is_empty() {
        becomes(false, "has nothing that this member lacks; it joins, and nothing of it is lost".into())
    } else if left_behind.is_empty() && gtids.is_subset(&theirs) {
        Err(ForceRefusal::Behind { better: name.to_owned(), more: brief(&more) })
    } else {
        let only = brief(if left_behind.is_empty() { &more } else { &left_behind });
        becomes(
            false,
            format!(
                "has {only} that this member lacks. That is given up: the member is not joined but reported as diverged"
            ),
        )
    }
}

#[cfg(test)]
mod tests;
