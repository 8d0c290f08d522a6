//! Joining and cloning.

use super::*;

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
    // Also when it came back with a new data directory, and so with a new UUID.
    let mut new = offline("node2", "");
    new.server_uuid = uuid("node9");
    Situation { local: Ok(new), ..s }.gives(Phase::WaitingForExpulsion, None);
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
