use super::*;
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);
const STALE: Duration = SECOND;

fn cluster() -> Cluster {
    Cluster {
        me: "node1".into(),
        members: vec!["node1".into(), "node2".into()],
        group_name: "g".into(),
        digest: "d".into(),
    }
}

pub(crate) fn online_primary() -> Observation {
    serde_json::from_value(json!({
        "server_uuid": "u1", "server_version": "9.7.4", "member_state": "ONLINE", "role": "PRIMARY",
        "primary": "node1", "view_id": "1:1", "majority": true,
        "view": [{"name": "node1", "address": "x:1", "uuid": "u1", "state": "ONLINE", "role": "PRIMARY"}],
        "gtid_executed": "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001:1-5", "gtid_received": "", "gtid_purged": "",
        "lag_seconds": 0.0, "super_read_only": false, "user_schemas": ["trivet"], "mysql_group_name": "g",
        "clone_plugin": true, "start_on_boot": false, "bootstrap_group": false, "clone": null, "last_error": null
    }))
    .unwrap()
}

fn board() -> Board {
    Board::new(cluster(), STALE, Record::default())
}

#[test]
fn an_observation_is_worth_something_for_a_while_only() {
    let (board, t) = (board(), Instant::now());
    assert!(board.fresh(t).is_err());
    assert_eq!(board.report(t).observation, None);
    board.observed(online_primary(), t);
    assert!(board.fresh(t + STALE).is_ok());
    assert_eq!(board.report(t + STALE).age_ms, 1000);
    let late = t + STALE + Duration::from_millis(1);
    assert!(board.fresh(late).unwrap_err().contains("last answer 1.0 s ago"));
    assert_eq!(board.report(late).observation, None);
}

#[test]
fn one_slow_look_does_not_cost_the_role_but_a_dead_mysqld_does() {
    let (board, t) = (board(), Instant::now());
    board.observed(online_primary(), t);
    board.not_observed("mysqld has not answered within 500ms".into(), false);
    assert!(board.fresh(t + Duration::from_millis(900)).is_ok());
    assert!(board.fresh(t + Duration::from_millis(1100)).unwrap_err().contains("500ms"));
    board.observed(online_primary(), t);
    board.not_observed("connection refused".into(), true);
    assert_eq!(board.fresh(t).unwrap_err(), "connection refused");
}

#[test]
fn a_report_ages_on_both_sides() {
    let (board, t) = (board(), Instant::now());
    let mut report = board.report(t);
    report.age_ms = 900;
    board.peer("node2", t, Ok(report));
    assert!(board.peers(t + Duration::from_millis(1000))["node2"].is_ok());
    assert_eq!(board.peers(t + Duration::from_millis(1200))["node2"], Err("its observation is stale".into()));
    let report = board.report(t);
    board.peer("node2", t, Ok(report));
    board.peer("node2", t + Duration::from_millis(250), Err("cannot connect".into()));
    assert!(board.peers(t + Duration::from_millis(650))["node2"].is_ok(), "one late answer is nothing yet");
    assert_eq!(board.peers(t + Duration::from_millis(2100))["node2"], Err("cannot connect".into()));
}

#[test]
fn after_a_pause_every_peer_must_be_asked_anew() {
    let (board, t) = (board(), Instant::now());
    board.peer("node2", t, Err("away".into()));
    board.observed(online_primary(), t);
    assert!(board.facts(t).asked_since_pause, "a start is no pause");
    let thawed = t + Duration::from_secs(20);
    board.observed(online_primary(), thawed);
    assert!(!board.facts(thawed).asked_since_pause);
    board.peer("node2", thawed + Duration::from_millis(5), Err("away".into()));
    assert!(board.facts(thawed + Duration::from_millis(9)).asked_since_pause, "also when it did not answer");
    // A question that mysqld answers once it goes on: whom was asked while it waited was asked too early.
    let (asked, answered) = (thawed + Duration::from_secs(20), thawed + Duration::from_secs(22));
    board.peer("node2", asked + Duration::from_millis(500), Err("away".into()));
    board.observed_by(online_primary(), asked, answered);
    assert!(!board.facts(answered).asked_since_pause);
    board.peer("node2", answered + Duration::from_millis(5), Err("away".into()));
    assert!(board.facts(answered + Duration::from_millis(9)).asked_since_pause);
}

#[test]
fn a_report_survives_the_way_to_a_peer() {
    let (board, t) = (board(), Instant::now());
    for observed in [false, true] {
        if observed {
            board.observed(online_primary(), t);
        }
        board.decided(Phase::WaitingForBootstrap, "why", Some("node2".into()));
        let report = board.report(t);
        let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(read, report);
        assert_eq!(read.observation.is_some(), observed);
    }
}

#[test]
fn a_slow_look_does_not_undo_a_newer_one() {
    let (board, t) = (board(), Instant::now());
    let newer = Observation { super_read_only: true, ..online_primary() };
    board.observed(newer, t + Duration::from_millis(50));
    board.observed(online_primary(), t);
    assert!(board.fresh(t + Duration::from_millis(60)).unwrap().super_read_only);
}

#[test]
fn a_stop_that_was_announced_is_believed_until_it_came_or_for_a_minute() {
    let (board, t) = (board(), Instant::now());
    board.observed(online_primary(), t);
    board.leave(t, Leaving::Reads);
    assert!(board.report(t).leaving);
    assert_eq!(board.facts(t).leaving, Some(Leaving::Reads));
    board.not_observed("a slow look".into(), false);
    assert!(board.leaving(t + LEAVING).is_some());
    assert_eq!(board.leaving(t + LEAVING + Duration::from_millis(1)), None, "it never came");
    board.not_observed("connection refused".into(), true);
    assert_eq!(board.leaving(t), None, "it came; whoever starts mysqld wants it to work");
}

#[test]
fn a_move_is_announced_to_the_primarys_keeper_and_taken_back() {
    let (there, here, t) = (board(), board(), Instant::now());
    assert!(!here.moves_away(t));
    // This keeper's own word, and another's.
    let own = here.announce_move("node1");
    assert!(here.moves_away(Instant::now()) && here.facts(Instant::now()).moving);
    assert!(!here.moves_away(Instant::now() + MOVES + SECOND), "nobody moves a role for so long");
    drop(own);
    assert!(!here.moves_away(Instant::now()));

    let announced = there.announce_move("node1");
    let mut report = there.report(Instant::now());
    report.node = "node2".into();
    here.peer("node2", t, Ok(report.clone()));
    assert!(here.moves_away(t) && here.facts(t).moving);
    assert!(!here.moves_away(t + 3 * STALE), "a keeper that is silent moves nothing");
    drop(announced);
    here.peer("node2", t + Duration::from_millis(1), Ok(there.report(Instant::now())));
    assert!(!here.moves_away(t + Duration::from_millis(1)), "taken back");
    report.moves = Some("node3".into());
    here.peer("node2", t + Duration::from_millis(2), Ok(report));
    assert!(!here.moves_away(t + Duration::from_millis(2)), "another member's role");
}

#[test]
fn an_answer_that_was_asked_for_earlier_does_not_undo_a_later_one() {
    let (board, t) = (board(), Instant::now());
    let mut report = board.report(t);
    report.reason = "newer".into();
    board.peer("node2", t + STALE / 2, Ok(report.clone()));
    report.reason = "older".into();
    board.peer("node2", t, Ok(report));
    board.peer("node2", t, Err("older still".into()));
    let peers = board.peers(t + STALE / 2);
    assert_eq!(peers["node2"].as_ref().unwrap().reason, "newer");
}
