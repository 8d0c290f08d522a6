//! What follows from the local member alone.

use super::*;

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
