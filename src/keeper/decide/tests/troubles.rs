//! What should be mended although the member works: told, each with what to do.

use super::warnings::warnings;
use super::*;
use crate::keeper::peers::CERTIFICATE;

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

const FULL: Disk = Disk { free: 100 << 20, total: 10 << 30, low: true };

#[test]
fn a_primary_with_a_full_disk_hands_over_to_a_member_that_has_room() {
    let mut s = group("node1");
    s.disk = Some(FULL);
    let d = s.gives(Phase::Online, Some(Action::HandOver { to: "node2".into() }));
    says(&d, &["nearly full", "node2"]);
    warns(&s, &["100 MiB are free of 10240 MiB", "PURGE BINARY LOGS"]);
    // Not to one that is as full.
    let s2 = Situation { disk: Some(FULL), ..group("node1").with("node2", |r| r.disk = Some(FULL)) };
    s2.gives(Phase::Online, Some(Action::HandOver { to: "node3".into() }));
    let all = Situation {
        disk: Some(FULL),
        ..group("node1").with("node2", |r| r.disk = Some(FULL)).with("node3", |r| r.disk = Some(FULL))
    };
    all.gives(Phase::Online, None);
    // Not again at once when it failed.
    s.history.other = Some(Retry { error: "no".into(), failures: 1, wait: Duration::from_secs(1) });
    s.gives(Phase::Online, None);
    // A replica has nothing to hand over.
    Situation { disk: Some(FULL), ..group("node2") }.gives(Phase::Online, None);
}

#[test]
fn a_mysqld_that_died_of_a_full_disk_is_known_by_it() {
    let mut s = group("node1");
    s.disk = Some(FULL);
    s.local = Err("mysqld is not running".into());
    says(&s.gives(Phase::MysqlUnreachable, None), &["not running", "100 MiB are free"]);
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
