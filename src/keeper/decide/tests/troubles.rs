//! What should be mended although the member works: told, each with what to do.

use super::warnings::warnings;
use super::*;
use crate::model::CERTIFICATE;

const ALL: &[&str] = &["node1", "node2", "node3"];

fn group(me: &str) -> Situation {
    let mut s = Situation::of(me, online(me, "G:1-9", ALL));
    for name in ALL.iter().filter(|n| **n != me) {
        s = s.peer(name, online(name, "G:1-9", ALL));
    }
    s
}

#[track_caller]
fn warns(s: &Situation, words: &[&str]) {
    let all = warnings(&s.inputs()).join("\n");
    for word in words {
        assert!(all.contains(word), "{all:?} does not say {word:?}");
    }
}

#[test]
fn a_group_that_is_well_brings_no_warning() {
    assert_eq!(warnings(&group("node1").inputs()), Vec::<String>::new());
}

const LOW: Disk = Disk { free: 100 << 20, total: 10 << 30, low: true };
const FULL: Disk = Disk { free: 4096, ..LOW };

#[test]
fn a_primary_with_a_full_disk_hands_over_to_a_member_that_has_room() {
    let mut s = group("node1");
    s.disk = Some(LOW);
    let d = s.gives(Phase::Online, Some(Action::HandOver { to: "node2".into() }));
    says(&d, &["nearly full", "node2"]);
    warns(&s, &["100 MiB are free of 10240 MiB", "PURGE BINARY LOGS"]);
    // Not to one that is as full.
    let s2 = Situation { disk: Some(LOW), ..group("node1").with("node2", |r| r.disk = Some(LOW)) };
    s2.gives(Phase::Online, Some(Action::HandOver { to: "node3".into() }));
    let all = Situation {
        disk: Some(LOW),
        ..group("node1").with("node2", |r| r.disk = Some(LOW)).with("node3", |r| r.disk = Some(LOW))
    };
    all.gives(Phase::Online, None);
    // Not again at once when it failed.
    s.history.other = Some(Retry { error: "no".into(), failures: 1, wait: Duration::from_secs(1) });
    s.gives(Phase::Online, None);
    // Unless it is high time: writes wait already.
    s.disk = Some(FULL);
    s.gives(Phase::Online, Some(Action::HandOver { to: "node2".into() }));
    // A replica has nothing to hand over.
    Situation { disk: Some(LOW), ..group("node2") }.gives(Phase::Online, None);
}

#[test]
fn a_mysqld_that_died_of_a_full_disk_is_known_by_it() {
    let mut s = group("node1");
    s.disk = Some(LOW);
    s.local = Err("mysqld is not running".into());
    says(&s.gives(Phase::MysqlUnreachable, None), &["not running", "100 MiB are free"]);
}

#[test]
fn outside_a_group_a_member_with_a_full_disk_waits_for_room() {
    let others = ["node2", "node3"];
    let mut s = Situation::of("node1", offline("node1", "G:1-5"))
        .peer("node2", online("node2", "G:1-9", &others))
        .peer("node3", online("node3", "G:1-9", &others));
    s.disk = Some(FULL);
    says(&s.gives(Phase::DiskFull, None), &["when there is room", "0 MiB are free"]);
    // It must not be written to meanwhile.
    s.local.as_mut().unwrap().super_read_only = false;
    s.gives(Phase::DiskFull, Some(Action::SetReadOnly));
    // A little room is enough to join; the role it does not get.
    s.local.as_mut().unwrap().super_read_only = true;
    s.disk = Some(LOW);
    s.gives(Phase::Joining, join());
}

#[test]
fn nobody_waits_behind_a_member_with_a_full_disk() {
    for executed in ["G:1-5", ""] {
        let action = match executed {
            "" => (Phase::Cloning, Action::Clone { donor: "node1".into() }),
            _ => (Phase::Joining, Action::Join),
        };
        Situation::of("node3", offline("node3", executed))
            .peer("node1", online("node1", "G:1-9", &["node1"]))
            .peer("node2", offline("node2", executed))
            .with("node2", |r| r.phase = Phase::DiskFull)
            .gives(action.0, Some(action.1));
    }
}

#[test]
fn after_an_outage_the_group_is_formed_with_a_member_that_has_room() {
    let all = |me: &str, executed: [&str; 3]| {
        let mut s = Situation::of(me, offline(me, executed[ALL.iter().position(|n| *n == me).expect(me)]));
        for (name, executed) in ALL.iter().zip(executed).filter(|(n, _)| **n != me) {
            s = s.peer(name, offline(name, executed));
        }
        s
    };
    let same = ["G:1-9"; 3];
    // All keepers come to the same: the one whose disk is full too.
    let full = Situation { disk: Some(FULL), ..all("node1", same) };
    assert_eq!(full.gives(Phase::WaitingForBootstrap, None).plan.as_deref(), Some("node2"));
    let other = all("node3", same).with("node1", |r| r.disk = Some(FULL));
    assert_eq!(other.gives(Phase::WaitingForBootstrap, None).plan.as_deref(), Some("node2"));
    all("node2", same)
        .with("node1", |r| r.disk = Some(FULL))
        .all_plan("node2")
        .gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: false }));
    // It alone has the newest writes: they are waited for.
    let newest = ["G:1-10", "G:1-9", "G:1-9"];
    let s = Situation { disk: Some(FULL), ..all("node1", newest) }.all_plan("node1");
    let d = s.gives(Phase::DiskFull, None);
    assert_eq!(d.plan.as_deref(), Some("node1"));
    says(&d, &["when there is room"]);
    Situation { disk: Some(LOW), ..s }.gives(Phase::Bootstrapping, Some(Action::Bootstrap { first: false }));
}

#[test]
fn the_clock_that_differs_from_most_is_the_wrong_one() {
    let ahead = |a: Option<f64>, b: Option<f64>| {
        group("node1").with("node2", |r| r.ahead = a).with("node3", |r| r.ahead = b)
    };
    warns(&ahead(Some(30.0), Some(30.1)), &["30.0 s behind that of node2 and node3", "chronyc"]);
    warns(&ahead(Some(-5.0), Some(-5.0)), &["5.0 s ahead of that of"]);
    for well in [ahead(Some(0.2), Some(-0.2)), ahead(Some(30.0), Some(0.0)), ahead(None, None)] {
        assert_eq!(warnings(&well.inputs()), Vec::<String>::new(), "another one is wrong, or none");
    }
}

#[test]
fn certificates_that_do_not_fit_are_told_from_a_peer_that_is_off() {
    let mut s = group("node1");
    s.peers.insert("node2".into(), Err(format!("{CERTIFICATE}UnknownIssuer")));
    warns(&s, &["node2 and this node refuse one another", "UnknownIssuer", "trivet secrets init --missing"]);
    assert_eq!(warnings(&group("node1").unreachable("node2").inputs()), Vec::<String>::new());
}

#[test]
fn peers_of_another_group_or_another_configuration_are_told() {
    warns(
        &group("node1").with("node2", |r| r.group_name = OTHER.into()),
        &["node2 belongs to another group", OTHER],
    );
    warns(
        &group("node1").with("node3", |r| r.digest = "e".into()),
        &["node3 is configured with other members"],
    );
}

#[test]
fn dangerous_settings_and_strangers_are_told() {
    let mut s = group("node1");
    if let Ok(local) = &mut s.local {
        local.start_on_boot = true;
        local.view[1].name = None;
    }
    warns(&s, &["start_on_boot is ON", "not in the configuration of this node: node2:3306"]);
}

#[test]
fn an_applier_that_fails_is_told_in_mysqls_words_however_often_the_member_tries_again() {
    let error = "error 1146: Error executing row event: 'Table 'trivet.t' doesn't exist'";
    let mut s = Situation::of("node2", offline("node2", "G:1-5"))
        .peer("node1", online("node1", "G:1-5", &["node1"]))
        .peer("node3", online("node3", "G:1-5", &["node1", "node3"]));
    s.history.applier = Some(error.into());
    let decision = s.decide();
    assert_eq!((decision.phase, decision.action), (Phase::Joining, Some(Action::Join)));
    assert!(decision.reason.ends_with(error), "{}", decision.reason);
    warns(&s, &[error, "is cloned"]);
    // Said once, not twice.
    s.history.group = Some(Retry { error: error.into(), failures: 3, wait: Duration::from_secs(4) });
    let reason = s.decide().reason;
    assert_eq!(reason.matches(error).count(), 1, "{reason}");
}
