//! Founding a group, and re-forming it after a complete outage.

use super::*;

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
        r.record = Record {
            group_name: OTHER.into(),
            formed: true,
            last_view: vec!["node1".into()],
            ..Record::default()
        };
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
fn writes_from_outside_the_group_that_survive_an_outage_are_told() {
    let s = outage("node1", ["G:1-9,X:1-2", "G:1-9", "G:1-8"]).all_plan("node1");
    let d = s.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: false }));
    says(&d, &["made on node1 alone", &format!("{OTHER}:1-2")]);
    let s = outage("node1", ["G:1-9,X:1-2", "G:1-9,X:1-2", "G:1-8"]).all_plan("node1");
    assert!(!s.decide().reason.contains("alone"), "a GTID that others have is nothing special");
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
