//! Situations as tables: what is seen, and what must come of it.

use std::collections::BTreeMap;

use super::*;
use crate::keeper::report::{CloneStatus, ViewMember};

const GROUP: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";

fn set(text: &str) -> crate::keeper::gtid::GtidSet {
    text.replace("G:", &format!("{GROUP}:")).replace("X:", &format!("{OTHER}:")).parse().expect(text)
}

fn uuid(name: &str) -> String {
    format!("00000000-0000-0000-0000-{name:0>12}")
}

fn cluster(me: &str) -> Cluster {
    Cluster {
        me: me.into(),
        members: ["node1", "node2", "node3"].map(String::from).to_vec(),
        group_name: GROUP.into(),
        digest: "d".into(),
    }
}

/// A member outside any group, as it is after a start of mysqld.
fn offline(name: &str, executed: &str) -> Observation {
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
    }
}

fn in_view(name: &str, state: MemberState, role: Role) -> ViewMember {
    ViewMember { name: Some(name.into()), address: format!("{name}:3306"), uuid: uuid(name), state, role }
}

/// An ONLINE member; the first of `view` is the primary.
fn online(name: &str, executed: &str, view: &[&str]) -> Observation {
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
struct Situation {
    cluster: Cluster,
    local: Result<Observation, String>,
    record: Record,
    peers: Peers,
    history: History,
}

impl Situation {
    fn of(me: &str, local: Observation) -> Self {
        Self {
            cluster: cluster(me),
            local: Ok(local),
            record: Record { group_name: GROUP.into(), ..Record::default() },
            peers: BTreeMap::new(),
            history: History { accounts_ok: true, ..History::default() },
        }
    }

    fn peer(mut self, name: &str, observation: Observation) -> Self {
        let report = Report {
            node: name.into(),
            group_name: GROUP.into(),
            digest: "d".into(),
            phase: Phase::WaitingForMembers,
            reason: String::new(),
            plan: None,
            record: Record { group_name: GROUP.into(), ..Record::default() },
            age_ms: 0,
            observation: Some(observation),
        };
        self.peers.insert(name.into(), Ok(report));
        self
    }

    fn unreachable(mut self, name: &str) -> Self {
        self.peers.insert(name.into(), Err("cannot connect".into()));
        self
    }

    fn report(&mut self, name: &str) -> &mut Report {
        self.peers.get_mut(name).and_then(|p| p.as_mut().ok()).expect(name)
    }

    fn with(mut self, name: &str, change: impl FnOnce(&mut Report)) -> Self {
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

    fn decide(&self) -> Decision {
        decide(&Inputs {
            cluster: &self.cluster,
            local: self.local.as_ref().map_err(String::as_str),
            record: &self.record,
            peers: &self.peers,
            history: &self.history,
        })
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

// ---- the local member alone

#[test]
fn mysqld_that_does_not_answer_is_left_alone() {
    let mut s = Situation::of("node1", offline("node1", "")).peer("node2", offline("node2", ""));
    s.local = Err("mysqld has not answered within 500ms".into());
    says(&s.gives(Phase::MysqlUnreachable, None), &["500ms"]);
}

#[test]
fn a_missing_plugin_is_named() {
    let mut member = offline("node1", "");
    member.mysql_group_name = None;
    says(
        &Situation::of("node1", member).gives(Phase::Misconfigured, None),
        &["plugin_load_add=group_replication.so"],
    );
}

#[test]
fn another_groups_member_is_refused() {
    let mut member = offline("node1", "");
    member.mysql_group_name = Some(OTHER.into());
    says(&Situation::of("node1", member).gives(Phase::Misconfigured, None), &[GROUP, OTHER]);
}

#[test]
fn a_copied_data_directory_is_found_by_its_uuid() {
    let mut copy = offline("node2", "G:1-5");
    copy.server_uuid = uuid("node1");
    let s = Situation::of("node2", copy).peer("node1", online("node1", "G:1-5", &["node1", "node3"]));
    says(&s.gives(Phase::Misconfigured, None), &["node1", "same server UUID", "auto.cnf"]);
}

#[test]
fn a_bootstrap_flag_left_on_is_cleared_in_every_state() {
    for mut member in [
        offline("node1", "G:1"),
        online("node1", "G:1", &["node1"]),
        online("node1", "G:1", &["node2", "node1"]),
    ] {
        member.bootstrap_group = true;
        Situation::of("node1", member).gives(Phase::Misconfigured, Some(Action::ClearBootstrapFlag));
    }
}

#[test]
fn error_is_left_by_stopping() {
    let mut member = offline("node1", "G:1-5");
    member.member_state = MemberState::Error;
    member.last_error = Some("expelled from the group".into());
    says(
        &Situation::of("node1", member).gives(Phase::Error, Some(Action::StopGroup)),
        &["expelled from the group"],
    );
}

#[test]
fn recovering_is_waited_for() {
    let mut member = online("node2", "G:1-5", &["node1", "node2"]);
    member.member_state = MemberState::Recovering;
    member.gtid_received = set("G:1-9");
    says(&Situation::of("node2", member).gives(Phase::Recovering, None), &["4 received transactions"]);
}

#[test]
fn a_member_without_majority_waits_for_mysql_to_decide() {
    let mut member = online("node1", "G:1-5", &["node1", "node2", "node3"]);
    member.majority = false;
    member.view[1].state = MemberState::Unreachable;
    member.view[2].state = MemberState::Unreachable;
    says(&Situation::of("node1", member).gives(Phase::NoMajority, None), &["node2, node3"]);
}

#[test]
fn the_primary_makes_the_accounts_once() {
    let mut s = Situation::of("node1", online("node1", "G:1-5", &["node1"]));
    s.gives(Phase::Online, None);
    s.history.accounts_ok = false;
    s.gives(Phase::Online, Some(Action::EnsureAccounts));
    s.history.other = Some(Retry { error: "no".into(), failures: 1, wait: Duration::from_secs(1) });
    says(&s.gives(Phase::Online, None), &["accounts could not be made: no"]);
    s.history.other = Some(Retry { error: "no".into(), failures: 1, wait: Duration::ZERO });
    s.gives(Phase::Online, Some(Action::EnsureAccounts));
    // Not while MySQL still keeps it read-only, and never on a secondary.
    if let Ok(local) = &mut s.local {
        local.super_read_only = true;
    }
    s.gives(Phase::Online, None);
    let mut s = Situation::of("node2", online("node2", "G:1-5", &["node1", "node2"]));
    s.history.accounts_ok = false;
    s.gives(Phase::Online, None);
}

#[test]
fn dangerous_settings_and_strangers_are_told() {
    let mut member = online("node1", "G:1", &["node1", "node9"]);
    member.start_on_boot = true;
    member.view[1].name = None;
    says(&Situation::of("node1", member).gives(Phase::Online, None), &["start_on_boot", "node9:3306"]);
}

#[test]
fn a_member_writable_outside_a_group_is_made_read_only_before_anything_else() {
    let mut member = offline("node2", "G:1-5");
    member.super_read_only = false;
    let s = Situation::of("node2", member).peer("node1", online("node1", "G:1-9", &["node1", "node3"]));
    s.gives(Phase::Joining, Some(Action::SetReadOnly));
}

#[test]
fn a_secondary_is_made_read_only_only_when_it_stays_writable() {
    let mut member = online("node2", "G:1-5", &["node1", "node2"]);
    member.super_read_only = false;
    let mut s = Situation::of("node2", member);
    s.history.writable_for = Duration::from_millis(500);
    s.gives(Phase::Online, None);
    s.history.writable_for = Duration::from_secs(2);
    s.gives(Phase::Online, Some(Action::SetReadOnly));
}

// ---- joining

#[test]
fn a_returned_member_joins() {
    let s = Situation::of("node2", offline("node2", "G:1-5"))
        .peer("node1", online("node1", "G:1-9", &["node1", "node3"]))
        .peer("node3", online("node3", "G:1-9", &["node1", "node3"]));
    says(&s.gives(Phase::Joining, join()), &["lacks 4"]);
}

#[test]
fn what_was_received_counts_on_both_sides() {
    // The member knows 1-7 (two of them only received); the group has 1-6 applied and 7-9 received.
    let mut member = offline("node2", "G:1-5");
    member.gtid_received = set("G:6-7");
    let mut secondary = online("node3", "G:1-6", &["node1", "node3"]);
    secondary.gtid_received = set("G:7-9");
    Situation::of("node2", member)
        .unreachable("node1")
        .peer("node3", secondary)
        .gives(Phase::Joining, join());
}

#[test]
fn a_member_that_the_group_still_lists_waits_to_be_expelled() {
    let mut primary = online("node1", "G:1-9", &["node1", "node2", "node3"]);
    primary.view[1].state = MemberState::Unreachable;
    let s = Situation::of("node2", offline("node2", "G:1-5")).peer("node1", primary).unreachable("node3");
    says(&s.gives(Phase::WaitingForExpulsion, None), &["UNREACHABLE", "node1"]);
}

#[test]
fn a_group_without_majority_is_not_joined() {
    let mut rest = online("node1", "G:1-9", &["node1", "node2", "node3"]);
    rest.majority = false;
    let s = Situation::of("node2", offline("node2", "G:1-5"))
        .peer("node1", rest)
        .peer("node3", offline("node3", "G:1-9"));
    says(&s.gives(Phase::WaitingForMembers, None), &["node1 (ONLINE without a majority)"]);
}

#[test]
fn a_bootstrap_that_is_not_online_yet_is_not_joined() {
    let mut bootstrapping = online("node1", "G:1-9", &["node1"]);
    bootstrapping.member_state = MemberState::Recovering;
    let s = Situation::of("node2", offline("node2", "G:1-5"))
        .peer("node1", bootstrapping)
        .peer("node3", offline("node3", "G:1-9"));
    says(&s.gives(Phase::WaitingForMembers, None), &["node1 (RECOVERING)"]);
}

#[test]
fn members_join_one_at_a_time_in_order() {
    let group = || online("node1", "G:1-9", &["node1"]);
    let two = Situation::of("node2", offline("node2", "G:1-9"))
        .peer("node1", group())
        .peer("node3", offline("node3", "G:1-5"));
    two.gives(Phase::Joining, join());
    let three = || {
        Situation::of("node3", offline("node3", "G:1-5"))
            .peer("node1", group())
            .peer("node2", offline("node2", "G:1-9"))
    };
    says(&three().gives(Phase::WaitingToJoin, None), &["node2 joins first"]);
    // Already under way, in whatever order.
    let s = Situation::of("node2", offline("node2", "G:1-9"))
        .peer("node1", group())
        .peer("node3", offline("node3", "G:1-5"))
        .with("node3", |r| r.phase = Phase::Joining);
    says(&s.gives(Phase::WaitingToJoin, None), &["node3 is joining"]);
    let mut recovering = group();
    recovering.view.push(in_view("node2", MemberState::Recovering, Role::Secondary));
    let s = Situation::of("node3", offline("node3", "G:1-5")).peer("node1", recovering).unreachable("node2");
    says(&s.gives(Phase::WaitingToJoin, None), &["node2 is RECOVERING"]);
    // Nobody waits behind one that is stuck or away.
    for stuck in [
        Phase::Misconfigured,
        Phase::BackingOff,
        Phase::Diverged,
        Phase::Refused,
        Phase::WaitingForExpulsion,
        Phase::Cloning,
    ] {
        three().with("node2", |r| r.phase = stuck).gives(Phase::Joining, join());
    }
    Situation::of("node3", offline("node3", "G:1-5"))
        .peer("node1", group())
        .unreachable("node2")
        .gives(Phase::Joining, join());
    let empty = Situation::of("node3", offline("node3", "G:1-5"))
        .peer("node1", group())
        .peer("node2", offline("node2", ""));
    empty.gives(Phase::Joining, join());
}

#[test]
fn errant_transactions_keep_a_member_out_and_are_listed() {
    let s = Situation::of("node2", offline("node2", "G:1-5,X:1-3"))
        .peer("node1", online("node1", "G:1-9", &["node1", "node3"]))
        .peer("node3", online("node3", "G:1-9", &["node1", "node3"]));
    says(&s.gives(Phase::Diverged, None), &[&format!("{OTHER}:1-3"), "mysqlbinlog", "cloned from the group"]);
    let s = Situation::of("node2", offline("node2", "G:1-12"))
        .peer("node1", online("node1", "G:1-9", &["node1"]));
    says(&s.gives(Phase::Diverged, None), &[&format!("{GROUP}:10-12")]);
    // Received but never applied is errant, too.
    let mut member = offline("node2", "G:1-5");
    member.gtid_received = set("G:20");
    let s = Situation::of("node2", member).peer("node1", online("node1", "G:1-9", &["node1"]));
    says(&s.gives(Phase::Diverged, None), &[&format!("{GROUP}:20")]);
}

#[test]
fn data_without_gtids_is_never_cloned_over() {
    let mut member = offline("node2", "");
    member.user_schemas = vec!["shop".into()];
    let s = Situation::of("node2", member)
        .peer("node1", online("node1", "G:1-9", &["node1"]))
        .unreachable("node3");
    says(&s.gives(Phase::Refused, None), &["shop", "without a GTID"]);
}

#[test]
fn two_groups_are_joined_by_nobody() {
    let s = Situation::of("node2", offline("node2", "G:1-5"))
        .peer("node1", online("node1", "G:1-9", &["node1"]))
        .peer("node3", online("node3", "G:1-8", &["node3"]));
    says(&s.gives(Phase::Refused, None), &["node1 and node3 are primaries of two separate groups"]);
}

#[test]
fn a_moving_primary_role_is_not_two_groups() {
    let s = Situation::of("node2", offline("node2", "G:1-5"))
        .peer("node1", online("node1", "G:1-9", &["node1", "node3"]))
        .peer("node3", online("node3", "G:1-9", &["node3", "node1"]));
    s.gives(Phase::Joining, join());
}

#[test]
fn a_peer_of_another_group_is_no_group_to_join() {
    let s = Situation::of("node2", offline("node2", "G:1-5"))
        .peer("node1", online("node1", "X:1-9", &["node1"]))
        .with("node1", |r| {
            r.group_name = OTHER.into();
            r.digest = "e".into();
        })
        .peer("node3", offline("node3", "G:1-5"));
    says(&s.gives(Phase::Misconfigured, None), &["node1", "another group name"]);
}

#[test]
fn a_failed_join_is_tried_again_later_and_says_why() {
    let mut s =
        Situation::of("node2", offline("node2", "G:1-5")).peer("node1", online("node1", "G:1-9", &["node1"]));
    let mut retry = Retry { error: "ER_X".into(), failures: 3, wait: Duration::from_millis(3500) };
    s.history.group = Some(retry.clone());
    says(&s.gives(Phase::BackingOff, None), &["join failed 3 times", "ER_X", "in 4 s"]);
    retry.wait = Duration::ZERO;
    s.history.group = Some(retry);
    s.gives(Phase::Joining, join());
}

// ---- cloning

#[test]
fn an_empty_member_is_cloned_from_a_secondary_where_there_is_one() {
    let view: &[&str] = &["node1", "node3"];
    let s = Situation::of("node2", offline("node2", "")).peer("node1", online("node1", "G:1-9", view));
    says(&s.gives(Phase::Cloning, clone_from("node1")), &["empty"]);
    s.peer("node3", online("node3", "G:1-9", view)).gives(Phase::Cloning, clone_from("node3"));
}

#[test]
fn one_clone_at_a_time() {
    let group = || online("node1", "G:1-9", &["node1"]);
    let s = || {
        Situation::of("node3", offline("node3", ""))
            .peer("node1", group())
            .peer("node2", offline("node2", ""))
    };
    says(&s().gives(Phase::WaitingToClone, None), &["node2 is cloned first"]);
    s().with("node2", |r| r.phase = Phase::BackingOff).gives(Phase::Cloning, clone_from("node1"));
    let s = Situation::of("node2", offline("node2", ""))
        .peer("node1", group())
        .peer("node3", offline("node3", ""));
    s.with("node3", |r| r.phase = Phase::Cloning).gives(Phase::WaitingToClone, None);
}

#[test]
fn a_running_clone_is_waited_for_also_by_a_keeper_that_did_not_start_it() {
    let mut member = offline("node2", "");
    member.super_read_only = false;
    member.clone = Some(CloneStatus {
        state: "In Progress".into(),
        source: "10.77.0.11:3306".into(),
        error: String::new(),
    });
    let s = Situation::of("node2", member).peer("node1", online("node1", "G:1-9", &["node1"]));
    says(&s.gives(Phase::Cloning, None), &["10.77.0.11:3306"]);
}

#[test]
fn purged_logs_make_a_clone_necessary_only_when_every_donor_lacks_them() {
    let purged = |name: &str, gtids: &str| Observation {
        gtid_purged: set(gtids),
        ..online(name, "G:1-99", &["node1", "node3"])
    };
    let s = |a: &str, b: &str| {
        Situation::of("node2", offline("node2", "G:1-50"))
            .peer("node1", purged("node1", a))
            .peer("node3", purged("node3", b))
    };
    s("G:1-50", "G:1-60").gives(Phase::Joining, join());
    says(&s("G:1-51", "G:1-60").gives(Phase::Cloning, clone_from("node3")), &["binary logs"]);
}

#[test]
fn a_missing_clone_plugin_is_named() {
    let mut member = offline("node2", "");
    member.clone_plugin = false;
    let s = Situation::of("node2", member).peer("node1", online("node1", "G:1-9", &["node1"]));
    says(&s.gives(Phase::Misconfigured, None), &["plugin_load_add=mysql_clone.so"]);
}

// ---- founding a group

fn empty_cluster(me: &str) -> Situation {
    let mut s = Situation::of(me, offline(me, ""));
    for name in ["node1", "node2", "node3"] {
        if name != me {
            s = s.peer(name, offline(name, ""));
        }
    }
    s
}

#[test]
fn the_first_group_is_founded_by_the_first_member_when_all_agree() {
    let first = Action::Bootstrap { first: true };
    let d = empty_cluster("node1").gives(Phase::WaitingForMembers, None);
    assert_eq!(d.plan.as_deref(), Some("node1"));
    says(&d, &["node2, node3"]);
    empty_cluster("node1").all_plan("node1").gives(Phase::Bootstrapping, Some(first));
    for other in ["node2", "node3"] {
        let d = empty_cluster(other).all_plan("node1").gives(Phase::WaitingForBootstrap, None);
        assert_eq!(d.plan.as_deref(), Some("node1"));
        // Even when all others named it: it is not the candidate.
        empty_cluster(other).all_plan(other).gives(Phase::WaitingForBootstrap, None);
    }
    let d = empty_cluster("node1").all_plan("node1").with("node3", |r| r.plan = Some("node2".into()));
    says(&d.gives(Phase::WaitingForMembers, None), &["keepers of node3"]);
}

#[test]
fn no_group_is_founded_while_a_member_is_missing() {
    for (missing, situation) in [
        ("node3 (cannot connect)", empty_cluster("node1").unreachable("node3")),
        ("node3 (its mysqld", empty_cluster("node1").with("node3", |r| r.observation = None)),
        ("node2 (a clone", {
            let mut member = offline("node2", "");
            member.clone = Some(CloneStatus {
                state: "In Progress".into(),
                source: String::new(),
                error: String::new(),
            });
            empty_cluster("node1").peer("node2", member)
        }),
    ] {
        let d = situation.all_plan("node1").gives(Phase::WaitingForMembers, None);
        says(&d, &[missing]);
        assert_eq!(d.plan, None);
    }
    let mut not_asked = empty_cluster("node1").all_plan("node1");
    not_asked.peers.remove("node2");
    says(&not_asked.gives(Phase::WaitingForMembers, None), &["node2 (not asked yet)"]);
}

#[test]
fn different_configurations_do_not_plan_together() {
    let s = empty_cluster("node1").all_plan("node1").with("node2", |r| r.digest = "e".into());
    says(&s.gives(Phase::Misconfigured, None), &["node2", "equal on all nodes"]);
}

#[test]
fn a_group_that_had_data_is_never_founded_anew() {
    for witness in ["node1", "node2", "node3"] {
        for me in ["node1", "node2", "node3"] {
            let mut s = empty_cluster(me).all_plan("node1");
            if witness == me {
                s.record.formed = true;
            } else {
                s.report(witness).record.formed = true;
            }
            let d = s.gives(Phase::Refused, None);
            says(&d, &[witness, "gone", "backup"]);
            assert_eq!(d.plan, None);
        }
    }
    // A record about another group says nothing about this one.
    let s = empty_cluster("node1").all_plan("node1").with("node2", |r| {
        r.record = Record { group_name: OTHER.into(), formed: true, last_view: vec!["node1".into()] };
    });
    s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: true }));
}

#[test]
fn foreign_data_is_not_built_upon() {
    // Its own GTIDs, from before this cluster.
    let s = empty_cluster("node1").peer("node2", offline("node2", "X:1-9")).all_plan("node1");
    says(&s.gives(Phase::Refused, None), &["node2", OTHER, "did not make"]);
    // Seen by its own keeper.
    let mut s = empty_cluster("node2").all_plan("node1");
    s.local = Ok(offline("node2", "X:1-9"));
    s.gives(Phase::Refused, None);
    // Schemas without any GTID.
    let mut imported = offline("node2", "");
    imported.user_schemas = vec!["shop".into()];
    let s = empty_cluster("node1").peer("node2", imported).all_plan("node1");
    says(&s.gives(Phase::Refused, None), &["shop"]);
}

// ---- after a complete outage

fn outage(me: &str, gtids: [&str; 3]) -> Situation {
    let names = ["node1", "node2", "node3"];
    let own = names.iter().position(|n| *n == me).expect(me);
    let mut s = Situation::of(me, offline(me, gtids[own]));
    s.record.formed = true;
    s.record.last_view = names.map(String::from).to_vec();
    for (name, gtids) in names.iter().zip(gtids) {
        if *name != me {
            s = s.peer(name, offline(name, gtids));
            let record = s.record.clone();
            s.report(name).record = record;
        }
    }
    s
}

#[test]
fn the_member_that_contains_all_others_bootstraps() {
    for (gtids, winner) in [
        (["G:1-9", "G:1-9", "G:1-9"], "node1"),
        (["G:1-8", "G:1-9", "G:1-9"], "node2"),
        (["G:1-8", "G:1-7", "G:1-9"], "node3"),
        (["G:1-9", "G:1-9:1000010-1000011", "G:1-9:1000010"], "node2"),
    ] {
        for me in ["node1", "node2", "node3"] {
            let s = outage(me, gtids).all_plan(winner);
            let d = if me == winner {
                s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: false }))
            } else {
                s.gives(Phase::WaitingForBootstrap, None)
            };
            assert_eq!(d.plan.as_deref(), Some(winner), "{gtids:?} as seen by {me}");
        }
    }
}

#[test]
fn received_but_unapplied_transactions_decide_too() {
    let mut received = offline("node3", "G:1-5");
    received.gtid_received = set("G:1-9");
    let s = outage("node1", ["G:1-8", "G:1-8", "G:1-5"]).peer("node3", received).all_plan("node3");
    assert_eq!(s.gives(Phase::WaitingForBootstrap, None).plan.as_deref(), Some("node3"));
}

#[test]
fn of_equal_members_one_without_a_backlog_bootstraps() {
    let mut behind = offline("node1", "G:1-5");
    behind.gtid_received = set("G:6-9");
    let mut s = outage("node2", ["G:1-9", "G:1-9", "G:1-9"]).peer("node1", behind.clone()).all_plan("node2");
    s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: false }));
    // All have one: list order.
    for name in ["node1", "node2", "node3"] {
        let member = Observation { server_uuid: uuid(name), ..behind.clone() };
        if name == "node2" {
            s.local = Ok(member);
        } else {
            s.report(name).observation = Some(member);
        }
    }
    assert_eq!(s.gives(Phase::WaitingForBootstrap, None).plan.as_deref(), Some("node1"));
}

#[test]
fn a_missing_member_is_waited_for_even_when_two_agree() {
    for me in ["node1", "node2"] {
        let s = outage(me, ["G:1-9", "G:1-9", "G:1-9"]).unreachable("node3").all_plan("node1");
        says(&s.gives(Phase::WaitingForMembers, None), &["node3 (cannot connect)"]);
    }
}

#[test]
fn a_member_still_in_error_is_waited_for() {
    let mut error = offline("node2", "G:1-9");
    error.member_state = MemberState::Error;
    let s = outage("node1", ["G:1-9", "G:1-9", "G:1-9"]).peer("node2", error).all_plan("node1");
    says(&s.gives(Phase::WaitingForMembers, None), &["node2 (ERROR)"]);
}

#[test]
fn diverged_members_are_never_chosen_between() {
    for me in ["node1", "node2", "node3"] {
        let s = outage(me, ["G:1-9", "G:1-8,X:1", "G:1-8"]).all_plan(me);
        let d = s.gives(Phase::Refused, None);
        assert_eq!(d.plan, None);
        says(
            &d,
            &[
                &format!("node1 has {GROUP}:9 that node2 lacks"),
                &format!("node2 has {OTHER}:1 that node1 lacks"),
            ],
        );
    }
}

#[test]
fn a_lost_disk_is_not_taken_for_a_new_member() {
    // node3 was in the last view and is empty now.
    for me in ["node1", "node2", "node3"] {
        let s = outage(me, ["G:1-9", "G:1-9", ""]).all_plan("node1");
        says(&s.gives(Phase::Refused, None), &["node3 is empty", "disk is lost"]);
    }
    // A member that never was in the group does not hold it up.
    let mut s = outage("node1", ["G:1-9", "G:1-9", ""]).all_plan("node1");
    s.record.last_view = vec!["node1".into(), "node2".into()];
    let record = s.record.clone();
    s.report("node2").record = record;
    s.report("node3").record = Record { group_name: GROUP.into(), ..Record::default() };
    s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: false }));
}

#[test]
fn an_interrupted_first_bootstrap_is_taken_up_again() {
    // node1 was founded and went down before it made the accounts: nothing was recorded as formed, nobody has data.
    let mut s = empty_cluster("node1").all_plan("node1");
    s.record.last_view = vec!["node1".into()];
    s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: true }));
}

#[test]
fn a_failed_bootstrap_waits_and_keeps_the_plan() {
    let mut s = outage("node1", ["G:1-9", "G:1-9", "G:1-9"]).all_plan("node1");
    s.history.group = Some(Retry { error: "no".into(), failures: 1, wait: Duration::from_secs(1) });
    let d = s.gives(Phase::BackingOff, None);
    assert_eq!(d.plan.as_deref(), Some("node1"));
}

#[test]
fn at_most_one_member_ever_bootstraps() {
    // Every combination of a few data sets and of the plans that the peers may have named before: whatever the three
    // keepers see, as long as they see the same, at most one acts, and only one that contains all others.
    let sets = ["", "G:1-5", "G:1-9", "G:1-5:20", "X:1"];
    let plans = [None, Some("node1"), Some("node2"), Some("node3")];
    let names = ["node1", "node2", "node3"];
    for a in sets {
        for b in sets {
            for c in sets {
                for plan in plans {
                    let gtids = [a, b, c];
                    let mut acting = Vec::new();
                    for me in names {
                        let mut s = outage(me, gtids);
                        for report in s.peers.values_mut().flatten() {
                            report.plan = plan.map(String::from);
                        }
                        if matches!(s.decide().action, Some(Action::Bootstrap { .. })) {
                            acting.push(me);
                        }
                    }
                    assert!(acting.len() <= 1, "{gtids:?} {plan:?}: {acting:?}");
                    for me in acting {
                        let own = set(gtids[names.iter().position(|n| *n == me).unwrap()]);
                        assert!(gtids.iter().all(|g| set(g).is_subset(&own)), "{gtids:?}: {me}");
                        assert_eq!(plan, Some(me));
                    }
                }
            }
        }
    }
}

#[test]
fn a_single_member_is_its_own_majority() {
    let mut s = Situation::of("node1", offline("node1", ""));
    s.cluster.members = vec!["node1".into()];
    s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: true }));
    s.local = Ok(offline("node1", "G:1-9"));
    s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: false }));
}
