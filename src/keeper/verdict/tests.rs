use super::*;
use crate::report::ViewMember;
use trivet_keeper_api::gtid::GtidSet;

fn member(name: &str, role: Role, view_id: &str, view: &[&str]) -> Observation {
    Observation {
        server_uuid: name.into(),
        server_version: "9.7.4".into(),
        member_state: MemberState::Online,
        role,
        primary: None,
        view_id: view_id.into(),
        majority: true,
        view: view
            .iter()
            .map(|n| ViewMember {
                name: Some(n.to_string()),
                address: format!("{n}:3306"),
                uuid: n.to_string(),
                state: MemberState::Online,
                role: Role::Secondary,
            })
            .collect(),
        gtid_executed: GtidSet::default(),
        gtid_received: GtidSet::default(),
        gtid_purged: GtidSet::default(),
        lag_seconds: Some(0.0),
        super_read_only: role != Role::Primary,
        user_schemas: Vec::new(),
        mysql_group_name: None,
        clone_plugin: true,
        start_on_boot: false,
        bootstrap_group: false,
        clone: None,
        last_error: None,
        applier_error: None,
    }
}

const ALL: &[&str] = &["a", "b", "c"];

fn facts(local: Observation) -> Facts {
    Facts {
        local: Ok(Arc::new(local)),
        peers: Vec::new(),
        ahead: Vec::new(),
        asked_since_pause: true,
        leaving: None,
        moving: false,
    }
}

fn a_primary() -> Observation {
    member("a", Role::Primary, "7:3", ALL)
}

#[track_caller]
fn refused(verdict: Result<(), No>, word: &str) {
    let No { reason, .. } = verdict.expect_err(word);
    assert!(reason.contains(word), "{reason:?} does not say {word:?}");
}

#[test]
fn a_primary_needs_every_sign_of_health() {
    assert_eq!(primary(&facts(a_primary())), Ok(()));
    let without = |change: fn(&mut Observation)| {
        let mut o = a_primary();
        change(&mut o);
        primary(&facts(o))
    };
    refused(without(|o| o.role = Role::Secondary), "role SECONDARY");
    refused(without(|o| o.member_state = MemberState::Recovering), "RECOVERING");
    refused(without(|o| o.member_state = MemberState::Error), "ERROR");
    refused(without(|o| o.majority = false), "out of reach");
    refused(without(|o| o.super_read_only = true), "super_read_only");
    refused(primary(&Facts { local: Err("stale".into()), ..facts(a_primary()) }), "stale");
}

#[test]
fn peers_that_agree_or_are_away_do_not_matter() {
    let mut f = facts(a_primary());
    f.peers = vec![("b".into(), member("b", Role::Secondary, "7:3", ALL))];
    assert_eq!(primary(&f), Ok(()));
    // A peer that is not ONLINE knows nothing about the group.
    let mut gone = member("c", Role::Primary, "7:9", &["c"]);
    gone.member_state = MemberState::Error;
    f.peers.push(("c".into(), gone));
    assert_eq!(primary(&f), Ok(()));
    let mut minority = member("c", Role::Primary, "7:9", &["c"]);
    minority.majority = false;
    f.peers[1].1 = minority;
    assert_eq!(primary(&f), Ok(()));
}

#[test]
fn a_thawed_primary_yields_to_the_newer_view() {
    let mut f = facts(a_primary());
    f.peers = vec![("b".into(), member("b", Role::Primary, "7:4", &["b", "c"]))];
    refused(primary(&f), "b is primary, too");
    f.peers = vec![("c".into(), member("c", Role::Secondary, "7:4", &["b", "c"]))];
    refused(primary(&f), "without this member");
    // The same peer, seen before this member's own newer view, from which it is gone: it is late, not we.
    let mut f = facts(member("a", Role::Primary, "7:5", &["a", "c"]));
    f.peers = vec![("b".into(), member("b", Role::Primary, "7:4", &["b", "c"]))];
    assert_eq!(primary(&f), Ok(()));
    f.peers = vec![("b".into(), member("b", Role::Secondary, "7:4", &["b", "c"]))];
    assert_eq!(primary(&f), Ok(()));
    // One that is in the newer view is asked again first.
    let mut f = facts(member("a", Role::Primary, "7:5", ALL));
    f.peers = vec![("b".into(), member("b", Role::Primary, "7:4", &["b", "c"]))];
    refused(primary(&f), "b is primary, too");
    f.peers = vec![("c".into(), member("c", Role::Secondary, "7:4", &["b", "c"]))];
    refused(primary(&f), "without this member");
    // Another incarnation of the group cannot be compared: in doubt, no.
    let mut f = facts(member("a", Role::Primary, "7:5", ALL));
    f.peers = vec![("b".into(), member("b", Role::Primary, "8:1", &["b"]))];
    refused(primary(&f), "b is primary, too");
}

#[test]
fn after_a_pause_the_peers_are_asked_before_anything_is_believed() {
    let f = Facts { asked_since_pause: false, ..facts(a_primary()) };
    refused(primary(&f), "paused");
}

#[test]
fn a_replica_is_a_healthy_secondary_within_the_lag() {
    let secondary = |lag| {
        let mut o = member("b", Role::Secondary, "7:3", ALL);
        o.lag_seconds = lag;
        facts(o)
    };
    let limit = Some(Duration::from_secs(5));
    assert_eq!(replica(&secondary(Some(0.0)), None), Ok(()));
    assert_eq!(replica(&secondary(None), None), Ok(()));
    assert_eq!(replica(&secondary(Some(4.9)), limit), Ok(()));
    refused(replica(&secondary(Some(5.1)), limit), "5.1 s behind");
    refused(replica(&secondary(None), limit), "not known");
    refused(replica(&facts(a_primary()), None), "role PRIMARY");
    let mut recovering = member("b", Role::Secondary, "7:3", ALL);
    recovering.member_state = MemberState::Recovering;
    refused(replica(&facts(recovering), None), "RECOVERING");
}

#[test]
fn a_member_about_to_stop_gets_no_reads_and_keeps_the_writes_until_the_role_has_moved() {
    let secondary =
        Facts { leaving: Some(Leaving::Reads), ..facts(member("b", Role::Secondary, "7:3", ALL)) };
    refused(replica(&secondary, None), "about to stop");
    assert_eq!(health(&secondary), Ok(()), "it is still one of the group");
    let f = Facts { leaving: Some(Leaving::Reads), ..facts(a_primary()) };
    assert_eq!(primary(&f), Ok(()));
    let f = Facts { leaving: Some(Leaving::Everything), ..facts(a_primary()) };
    refused(primary(&f), "about to stop");
}

#[test]
fn no_lag_is_believed_that_two_clocks_measured_that_differ() {
    let mut o = member("b", Role::Secondary, "7:3", ALL);
    o.primary = Some("a".into());
    let f = |ahead: f64| Facts { ahead: vec![("a".into(), ahead), ("c".into(), 99.0)], ..facts(o.clone()) };
    let limit = Some(Duration::from_secs(5));
    assert_eq!(replica(&f(0.4), limit), Ok(()), "c is not the primary");
    for wrong in [30.0, -30.0] {
        refused(replica(&f(wrong), limit), "differ by 30.0 s");
        assert_eq!(replica(&f(wrong), None), Ok(()), "who asks for no bound gets none");
    }
}

#[test]
fn before_the_role_moves_a_primary_says_no_and_lets_what_was_begun_be_finished() {
    let moving = Facts { moving: true, ..facts(a_primary()) };
    let no = primary(&moving).unwrap_err();
    assert!(no.draining && no.reason.contains("about to move"), "{no:?}");
    // Whoever has lost the role already has nothing to drain.
    let moved = Facts { moving: true, ..facts(member("a", Role::Secondary, "7:3", ALL)) };
    assert!(!primary(&moved).unwrap_err().draining);
    assert_eq!(replica(&moved, None), Ok(()));
    let leaving = Facts { leaving: Some(Leaving::Reads), ..facts(member("b", Role::Secondary, "7:3", ALL)) };
    assert!(replica(&leaving, None).unwrap_err().draining, "reads in progress may be finished, too");
}
