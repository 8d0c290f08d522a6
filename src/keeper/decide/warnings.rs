//! What an operator should mend although the member works, each with what to do.

use super::{Inputs, reports};
use crate::model::CERTIFICATE;
use crate::report::Disk;
use crate::verdict::CLOCKS_AGREE;

/// All of it, in the order in which it could hurt.
pub fn warnings(inputs: &Inputs<'_>) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(inputs.disk.and_then(disk));
    all.extend(clock(inputs));
    all.extend(inputs.history.applier.as_ref().map(|error| {
        format!(
            "it cannot apply what the group has written: {error}. The data here and there differ, for example because something was \
             written to the primary with sql_log_bin=0: bring what this member lacks to it with sql_log_bin=0, or stop its mysqld, move \
             its data directory away and start it, so that it is cloned (docs/database.md, \"What if the applier fails?\")"
        )
    }));
    for (name, peer) in inputs.peers {
        match peer {
            Ok(report) if report.group_name != inputs.cluster.group_name => all.push(format!(
                "{name} belongs to another group ({}, here {}): it is neither joined nor counted. One of the two has the \
                 configuration of another cluster",
                report.group_name, inputs.cluster.group_name
            )),
            Ok(report) if report.digest != inputs.cluster.digest => all.push(format!(
                "{name} is configured with other members than this node: after a complete outage nobody could bootstrap. \
                 Bring the same cluster to all nodes (nixos-rebuild switch)"
            )),
            Err(why) if why.starts_with(CERTIFICATE) => all.push(format!(
                "{name} and this node refuse one another ({why}): a member counts as unreachable until both have valid \
                 certificates of the cluster's CA (trivet secrets init --missing), and their keepers and mysqld were \
                 restarted"
            )),
            _ => {}
        }
    }
    if let Ok(local) = inputs.local {
        let strangers = local.view.iter().filter(|m| m.name.is_none());
        let strangers: Vec<&str> = strangers.map(|m| m.address.as_str()).collect();
        if !strangers.is_empty() {
            all.push(format!(
                "in the group, but not in the configuration of this node: {}. Bring the cluster that has them to this \
                 node (nixos-rebuild switch), or stop them",
                strangers.join(", ")
            ));
        }
        if local.start_on_boot {
            all.push(
                "group_replication_start_on_boot is ON: set it OFF in my.cnf, or a restart without a group may take \
                 writes alone"
                    .into(),
            );
        }
    }
    all
}

/// A disk that is about to be full.
pub fn disk(disk: &Disk) -> Option<String> {
    let mib = |bytes: u64| bytes >> 20;
    disk.low.then(|| {
        format!(
            "{} MiB are free of {} MiB below the data directory: mysqld waits, and whoever writes with it, when it cannot write its binary log. Make \
             room (PURGE BINARY LOGS on this member, journals, snapshots) or give it a larger disk",
            mib(disk.free),
            mib(disk.total)
        )
    })
}

/// The clock here is the odd one when it differs from most of those that are known.
fn clock(inputs: &Inputs<'_>) -> Option<String> {
    let known: Vec<(&str, f64)> = reports(inputs.peers).filter_map(|(n, r)| Some((n, r.ahead?))).collect();
    let off: Vec<&(&str, f64)> = known.iter().filter(|(_, ahead)| ahead.abs() > CLOCKS_AGREE).collect();
    let (_, ahead) = off.first()?;
    if off.len() * 2 <= known.len() {
        return None;
    }
    let (seconds, way) = (ahead.abs(), if *ahead > 0.0 { "behind" } else { "ahead of" });
    let names: Vec<&str> = off.iter().map(|(name, _)| *name).collect();
    Some(format!(
        "the clock here is {seconds:.1} s {way} that of {}: no lag can be measured, so bounded reads avoid replicas. Look at \
         the time service (chronyc tracking, timedatectl)",
        names.join(" and ")
    ))
}
