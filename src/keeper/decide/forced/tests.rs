use super::*;
use crate::decide::tests::{GROUP, Situation, offline, online, set, uuid};
use crate::report::Phase;

/// A complete outage, asked about on node1: node2 is back with `node2`, node3 with `node3`; nothing means empty.
fn outage(node1: &str, node2: &str, node3: &str) -> Situation {
    let mut s = Situation::of("node1", offline("node1", node1))
        .peer("node2", offline("node2", node2))
        .peer("node3", offline("node3", node3));
    s.record.formed = true;
    s.record.last_view = ["node1", "node2", "node3"].map(String::from).to_vec();
    s
}

fn asked(s: &Situation) -> Result<ForcePlan, String> {
    plan(&s.inputs(), "node1").map_err(|e| e.to_string())
}

#[track_caller]
fn refuses(s: &Situation, words: &[&str]) {
    let said = asked(s).expect_err("refused");
    for word in words {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
}

#[test]
fn a_lost_disk_is_what_it_is_for() {
    let plan = asked(&outage("G:1-9", "G:1-8", "")).unwrap();
    assert_eq!((plan.node.as_str(), &plan.gtids), ("node1", &set("G:1-9")));
    assert_eq!(plan.unknown, Vec::<String>::new());
    assert!(plan.others[0].contains("node2: has nothing that this member lacks"), "{:?}", plan.others);
    assert!(plan.others[1].contains("node3: is empty, and it was ONLINE"), "{:?}", plan.others);
}

#[test]
fn a_member_that_cannot_be_seen_is_named_as_one_that_must_be_off() {
    let plan = asked(&outage("G:1-9", "G:1-9", "").unreachable("node3")).unwrap();
    assert_eq!(plan.unknown, ["node3"]);
    assert!(
        plan.others[1].contains("cannot be reached (cannot connect), and it was ONLINE"),
        "{:?}",
        plan.others
    );
    let s = outage("G:1-9", "G:1-9", "").with("node3", |r| r.observation = None);
    assert_eq!(asked(&s).unwrap().unknown, ["node3"]);
}

#[test]
fn members_that_diverged_are_told_what_they_give_up() {
    let plan = asked(&outage("G:1-9", "G:1-8:12", "G:1-9")).unwrap();
    assert!(plan.others[0].contains(&format!("node2: has {GROUP}:12")), "{:?}", plan.others);
}

#[test]
fn it_is_refused_where_it_is_not_safe_or_not_needed() {
    let other_node = plan(&outage("G:1-9", "G:1-8", "").inputs(), "node2").unwrap_err().to_string();
    assert!(other_node.contains("this is node1"), "{other_node}");

    let running = outage("G:1-9", "", "").peer("node2", online("node2", "G:1-9", &["node2"]));
    refuses(&running, &["a group is running", "node2"]);
    let mut own = outage("G:1-9", "", "");
    own.local = Ok(online("node1", "G:1-9", &["node1"]));
    refuses(&own, &["a group is running", "node1"]);

    let mut minority = online("node2", "G:1-9", &["node1", "node2", "node3"]);
    minority.majority = false;
    refuses(&outage("G:1-9", "", "").peer("node2", minority), &["node2 is ONLINE", "wait"]);

    refuses(&outage("G:1-8", "G:1-9", ""), &["node2 has", ":9", "run the command on node2"]);
    refuses(&outage("G:1-9", "G:1-9", "G:1-8"), &["not needed", "node1 contains all others"]);
    refuses(&outage("", "G:1-9", "G:1-9"), &["this member is empty"]);
    refuses(&outage("X:1-9", "", ""), &["did not make"]);

    let mut blind = outage("G:1-9", "", "");
    blind.local = Err("hangs".into());
    refuses(&blind, &["hangs"]);
    refuses(&outage("G:1-9", "G:1-9", "").with("node3", |r| r.digest = "e".into()), &["node3 is configured"]);
    let mut twin = offline("node2", "G:1-9");
    twin.server_uuid = uuid("node1");
    refuses(&outage("G:1-9", "", "").peer("node2", twin), &["same server UUID"]);
}

#[test]
fn consent_is_to_what_was_told_and_to_nothing_else() {
    let token = |s: &Situation| asked(s).unwrap().token;
    let told = token(&outage("G:1-9", "G:1-8", ""));
    assert_eq!(told, token(&outage("G:1-9", "G:1-8", "")));
    assert_ne!(told, token(&outage("G:1-10", "G:1-8", "")));
    assert_ne!(told, token(&outage("G:1-9", "G:1-8", "").unreachable("node3")));
    // A silence that is explained in other words means the same.
    let silent = |why: &str| {
        let mut s = outage("G:1-9", "G:1-8", "");
        s.peers.insert("node3".into(), Err(why.into()));
        s
    };
    assert!(asked(&silent("timed out")).unwrap().others[1].contains("timed out"));
    assert_eq!(token(&silent("timed out")), token(&silent("connection refused")));
    let mut stranger = silent("timed out");
    stranger.record.last_view.pop();
    for peer in stranger.peers.values_mut().flatten() {
        peer.record.last_view.clear();
    }
    assert_ne!(token(&silent("timed out")), token(&stranger), "it was not in the group");
}

#[test]
fn of_two_at_the_same_time_the_one_that_looks_last_does_nothing() {
    let earlier = vec![set("G:1-5")];
    let noted = [earlier.clone(), vec![set("G:1-9")]].concat();
    let alone = || {
        let mut s = outage("G:1-9", "G:1-8", "").unreachable("node3");
        s = s.with("node2", |r| r.record.forks = earlier.clone());
        // Its own note is no rival's.
        s.record.forks = noted.clone();
        s
    };
    let seen =
        |s: &Situation| nobody_else(&s.inputs(), &earlier, &["node3".into()]).map_err(|e| e.to_string());
    assert_eq!(seen(&alone()), Ok(()));
    assert!(seen(&alone().unreachable("node2")).unwrap_err().contains("node2 has fallen silent"));
    let other = alone().with("node2", |r| r.record.forks = noted.clone());
    assert!(seen(&other).unwrap_err().contains("node2 bootstraps the group at this moment"));
    let strange = alone().with("node2", |r| {
        r.record.forks = noted.clone();
        r.record.group_name = "another".into();
    });
    assert_eq!(seen(&strange), Ok(()), "what is noted of another group");
    for (state, word) in
        [(MemberState::Online, "a group is running"), (MemberState::Recovering, "RECOVERING")]
    {
        let mut member = online("node2", "G:1-8", &["node2"]);
        member.member_state = state;
        let s = alone().with("node2", |r| r.observation = Some(member.clone()));
        assert!(seen(&s).unwrap_err().contains(word));
    }

    // One that comes a moment later is not even told a plan, although that member is still OFFLINE.
    let late = outage("G:1-9", "G:1-8", "").with("node2", |r| r.phase = Phase::Bootstrapping);
    refuses(&late, &["node2 bootstraps the group at this moment"]);
    let silent = late.with("node2", |r| r.observation = None);
    refuses(&silent, &["node2 bootstraps the group at this moment"]);
}

/// node3 has what was given up when the group was forced at 1-9, and the group has used the number since.
fn given_up() -> Situation {
    let mut s = Situation::of("node3", offline("node3", "G:1-10"))
        .peer("node1", online("node1", "G:1-20", &["node1", "node2"]))
        .peer("node2", online("node2", "G:1-20", &["node1", "node2"]));
    for name in ["node1", "node2"] {
        s = s.with(name, |r| r.record.forks = vec![set("G:1-9")]);
    }
    s
}

#[test]
fn what_was_given_up_is_never_joined_although_the_numbers_fit() {
    let d = given_up().decide();
    assert_eq!((d.phase, d.action), (Phase::Diverged, None));
    assert!(d.reason.contains("by force") && d.reason.contains(&format!("{GROUP}:10")), "{}", d.reason);
    // One that was not ahead of it has nothing to give up.
    let mut behind = given_up();
    behind.local = Ok(offline("node3", "G:1-9"));
    assert_eq!(behind.decide().phase, Phase::Joining);
    // One that was part of it remembers that.
    let mut part = given_up();
    part.record.forks = vec![set("G:1-9")];
    assert_eq!(part.decide().phase, Phase::Joining);
    // An emptied one is cloned.
    let mut emptied = given_up();
    emptied.local = Ok(offline("node3", ""));
    assert_eq!(emptied.decide().phase, Phase::Cloning);
}

#[test]
fn after_another_outage_what_was_given_up_neither_wins_nor_stands_in_the_way() {
    let fork = || vec![set("G:1-9")];
    let mut s = outage("G:1-12", "G:1-12", "G:1-30").with("node2", |r| r.record.forks = fork());
    s.record.forks = fork();
    let d = s.decide();
    assert_eq!((d.phase, d.plan.as_deref()), (Phase::WaitingForMembers, Some("node1")), "{}", d.reason);
    // Nor may it be forced.
    let mut left = Situation::of("node3", offline("node3", "G:1-30"))
        .peer("node1", offline("node1", "G:1-12"))
        .unreachable("node2")
        .with("node1", |r| r.record.forks = fork());
    left.record.formed = true;
    let said = plan(&left.inputs(), "node3").unwrap_err().to_string();
    assert!(said.contains("given up by an earlier bootstrap"), "{said}");
}
