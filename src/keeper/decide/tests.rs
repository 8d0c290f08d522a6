//! Situations as tables: what is seen, and what must come of it.

mod forming;
mod joining;
mod local;
mod troubles;

use std::collections::BTreeMap;

use super::*;
use crate::report::{CloneStatus, ViewMember};

pub(crate) const GROUP: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";

pub(crate) fn set(text: &str) -> trivet_keeper_api::gtid::GtidSet {
    text.replace("G:", &format!("{GROUP}:")).replace("X:", &format!("{OTHER}:")).parse().expect(text)
}

pub(crate) fn uuid(name: &str) -> String {
    format!("00000000-0000-0000-0000-{name:0>12}")
}

pub(crate) fn cluster(me: &str) -> Cluster {
    Cluster {
        me: me.into(),
        members: ["node1", "node2", "node3"].map(String::from).to_vec(),
        group_name: GROUP.into(),
        digest: "d".into(),
    }
}

/// A member outside any group, as it is after a start of mysqld.
pub(crate) fn offline(name: &str, executed: &str) -> Observation {
    Observation {
        server_uuid: uuid(name),
        server_version: "9.7.4".into(),
        member_state: MemberState::Offline,
        role: Role::None,
        primary: None,
        view_id: String::new(),
        majority: false,
        view: Vec::new(),
        gtid_executed: set(executed),
        gtid_received: set(""),
        gtid_purged: set(""),
        lag_seconds: None,
        super_read_only: true,
        user_schemas: if executed.is_empty() { Vec::new() } else { vec!["trivet".into()] },
        mysql_group_name: Some(GROUP.into()),
        clone_plugin: true,
        start_on_boot: false,
        bootstrap_group: false,
        clone: None,
        last_error: None,
        applier_error: None,
    }
}

pub(crate) fn in_view(name: &str, state: MemberState, role: Role) -> ViewMember {
    ViewMember { name: Some(name.into()), address: format!("{name}:3306"), uuid: uuid(name), state, role }
}

/// An ONLINE member; the first of `view` is the primary.
pub(crate) fn online(name: &str, executed: &str, view: &[&str]) -> Observation {
    let role = |n: &str| if view.first() == Some(&n) { Role::Primary } else { Role::Secondary };
    Observation {
        member_state: MemberState::Online,
        role: role(name),
        primary: view.first().map(ToString::to_string),
        view_id: "1:3".into(),
        majority: true,
        view: view.iter().map(|n| in_view(n, MemberState::Online, role(n))).collect(),
        lag_seconds: Some(0.0),
        super_read_only: role(name) != Role::Primary,
        ..offline(name, executed)
    }
}

/// One situation, as node `me` knows it; changed step by step, then decided.
pub(crate) struct Situation {
    pub cluster: Cluster,
    pub local: Result<Observation, String>,
    pub record: Record,
    pub peers: Peers,
    pub history: History,
    pub disk: Option<Disk>,
}

impl Situation {
    pub fn of(me: &str, local: Observation) -> Self {
        Self {
            cluster: cluster(me),
            local: Ok(local),
            record: Record { group_name: GROUP.into(), ..Record::default() },
            peers: BTreeMap::new(),
            history: History { accounts_ok: true, ..History::default() },
            disk: None,
        }
    }

    pub fn peer(mut self, name: &str, observation: Observation) -> Self {
        let report = Report {
            node: name.into(),
            group_name: GROUP.into(),
            digest: "d".into(),
            phase: Phase::WaitingForMembers,
            reason: String::new(),
            plan: None,
            record: Record { group_name: GROUP.into(), ..Record::default() },
            age_ms: 0,
            leaving: false,
            warnings: Vec::new(),
            disk: None,
            clock_ms: None,
            moves: None,
            sessions: None,
            ahead: None,
            observation: Some(observation),
        };
        self.peers.insert(name.into(), Ok(report));
        self
    }

    pub fn unreachable(mut self, name: &str) -> Self {
        self.peers.insert(name.into(), Err("cannot connect".into()));
        self
    }

    pub fn report(&mut self, name: &str) -> &mut Report {
        self.peers.get_mut(name).and_then(|p| p.as_mut().ok()).expect(name)
    }

    pub fn with(mut self, name: &str, change: impl FnOnce(&mut Report)) -> Self {
        change(self.report(name));
        self
    }

    /// All peers name this candidate.
    fn all_plan(mut self, candidate: &str) -> Self {
        for report in self.peers.values_mut().flatten() {
            report.plan = Some(candidate.into());
        }
        self
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            cluster: &self.cluster,
            local: self.local.as_ref().map_err(String::as_str),
            record: &self.record,
            peers: &self.peers,
            history: &self.history,
            disk: self.disk.as_ref(),
        }
    }

    pub fn decide(&self) -> Decision {
        decide(&self.inputs())
    }

    #[track_caller]
    fn gives(&self, phase: Phase, action: Option<Action>) -> Decision {
        let decision = self.decide();
        assert_eq!((decision.phase, &decision.action), (phase, &action), "{}", decision.reason);
        decision
    }
}

#[track_caller]
fn says(decision: &Decision, words: &[&str]) {
    for word in words {
        assert!(decision.reason.contains(word), "{:?} does not say {word:?}", decision.reason);
    }
}

fn join() -> Option<Action> {
    Some(Action::Join)
}

fn clone_from(donor: &str) -> Option<Action> {
    Some(Action::Clone { donor: donor.into() })
}
