use super::*;
use crate::decide::tests::{Situation, in_view, offline, online, uuid};
use crate::report::Role;

const ALL: &[&str] = &["node1", "node2", "node3"];

/// node1 is the primary; asked on `me`.
fn group(me: &str) -> Situation {
    let mut s = Situation::of(me, online(me, "G:1-9", ALL));
    for name in ALL.iter().filter(|n| **n != me) {
        s = s.peer(name, online(name, "G:1-9", ALL));
    }
    s
}

fn chosen(s: &Situation, wanted: Option<&str>) -> Result<Move, Refusal> {
    choose(&s.cluster, s.local.as_ref().map_err(String::as_str), &s.peers, wanted)
}

fn to(name: &str) -> Result<Move, Refusal> {
    Ok(Move { from: "node1".into(), to: name.into(), uuid: uuid(name) })
}

#[track_caller]
fn refuses(s: &Situation, wanted: Option<&str>, words: &[&str]) {
    let said = chosen(s, wanted).expect_err("refused").to_string();
    for word in words {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
}

#[test]
fn the_member_that_was_named_gets_the_role_wherever_it_is_asked() {
    for me in ALL {
        assert_eq!(chosen(&group(me), Some("node3")), to("node3"), "asked on {me}");
    }
}

#[test]
fn without_a_name_the_best_other_member_gets_it() {
    assert_eq!(chosen(&group("node1"), None), to("node2"), "among equals the configuration's order");
    // More transactions before the order.
    let s = group("node1").peer("node2", online("node2", "G:1-8", ALL));
    assert_eq!(chosen(&s, None), to("node3"));
    // An older version before more transactions: a newer one cannot lead it.
    let mut newer = online("node3", "G:1-9", ALL);
    newer.server_version = "9.10.0".into();
    let s = group("node1").peer("node2", online("node2", "G:1-8", ALL)).peer("node3", newer);
    assert_eq!(chosen(&s, None), to("node2"));
    // Whoever cannot is passed over.
    let s = group("node1").with("node2", |r| r.leaving = true);
    assert_eq!(chosen(&s, None), to("node3"));
}

#[test]
fn each_refusal_says_what_and_why() {
    refuses(&group("node1"), Some("node9"), &["\"node9\"", "node1, node2, node3"]);
    refuses(&group("node2"), Some("node1"), &["node1 is the primary already"]);

    let mut blind = group("node1");
    blind.local = Err("mysqld has not answered within 500ms".into());
    refuses(&blind, None, &["500ms", "on a node whose member is ONLINE"]);
    let mut out = group("node1");
    out.local = Ok(offline("node1", "G:1-9"));
    refuses(&out, Some("node2"), &["node1's member is OFFLINE"]);

    let mut lonely = online("node1", "G:1-9", ALL);
    lonely.majority = false;
    lonely.view[1].state = MemberState::Unreachable;
    lonely.view[2].state = MemberState::Unreachable;
    let mut minority = group("node1");
    minority.local = Ok(lonely);
    refuses(&minority, Some("node2"), &["without a majority", "node2, node3"]);

    let mut electing = online("node1", "G:1-9", ALL);
    electing.primary = None;
    let mut s = group("node1");
    s.local = Ok(electing);
    refuses(&s, None, &["election"]);

    let mut view = online("node1", "G:1-9", &["node1", "node2"]);
    view.view.push(in_view("node3", MemberState::Recovering, Role::Secondary));
    let mut s = group("node1");
    s.local = Ok(view);
    refuses(&s, Some("node3"), &["node3 is RECOVERING"]);

    refuses(&group("node1").unreachable("node2"), Some("node2"), &["keeper of node2", "gateways"]);
    let s = group("node1").with("node2", |r| r.observation = None);
    refuses(&s, Some("node2"), &["node2", "does not see its mysqld"]);
    refuses(&group("node1").with("node2", |r| r.leaving = true), Some("node2"), &["about to stop"]);
}

#[test]
fn a_member_that_lags_is_refused_and_that_passes() {
    for (lag, words) in [(Some(4.2), "4.2 s behind"), (None, "nobody knows how far")] {
        let mut member = online("node2", "G:1-5", ALL);
        member.lag_seconds = lag;
        let s = group("node1").peer("node2", member);
        refuses(&s, Some("node2"), &[words, "trivet status"]);
        assert!(chosen(&s, Some("node2")).unwrap_err().passes());
        // Not the only one.
        assert_eq!(chosen(&s, None), to("node3"));
        // The only one: worth waiting for.
        assert!(chosen(&s.unreachable("node3"), None).unwrap_err().passes());
    }
}

#[test]
fn the_last_member_keeps_the_role() {
    let s = Situation::of("node1", online("node1", "G:1-9", &["node1"]))
        .unreachable("node2")
        .unreachable("node3");
    refuses(&s, None, &["node2 is OFFLINE", "node3 is OFFLINE"]);
    assert!(!chosen(&s, None).unwrap_err().passes(), "a stop does not wait for it");
}

#[test]
fn versions_are_compared_as_numbers() {
    assert!(version("9.10.0") > version("9.7.4-debian"));
    assert!(version("8.4.11") > version("8.4.9-log"));
    assert_eq!(version("8.4.3"), version("8.4.3-commercial"));
}
