//! A complete outage with a disk lost, and one with a machine lost: nothing happens by itself, the operator is told what may be
//! lost, and what was given up never comes back unseen.

use crate::harness::{GROUP, Group, copy_folder, said, write_secret};

/// Bootstraps by force that the group's table has, each by a transaction of its own, and each without what it says of itself.
const MARKED: &str = "SELECT COUNT(*) FROM trivet_cluster.fork WHERE GTID_SUBSET(CONCAT(mark, ':1'), @@global.gtid_executed) \
                      AND GTID_SUBSET(gtids, @@global.gtid_executed) AND NOT GTID_SUBSET(CONCAT(mark, ':1'), gtids)";

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_goes_on_without_what_is_lost() {
    let Some(mut group) = Group::start(3).await else { return };
    for i in 0..3 {
        group.nodes[i].stop_keeper();
        let password = group.nodes[i].home.join("backup-password");
        write_secret(&password, "backup");
        group.configure(i, |config| {
            config["mysql"]["backup_user"] = "trivet-backup".into();
            config["mysql"]["backup_password_file"] = password.display().to_string().into();
        });
        group.nodes[i].start_keeper();
    }
    group.until_whole().await;
    group.nodes[0].run("CREATE TABLE trivet.t (id INT PRIMARY KEY); INSERT INTO trivet.t VALUES (1)").await;
    // A running group is never forced.
    let running = group.trivet(1, &["database", "force-bootstrap", "node2", "--yes-i-lose-data", "node2"]);
    assert_eq!(running.status.code(), Some(1));
    assert!(said(&running).contains("a group is running"), "{}", said(&running));

    // All lose power, and node3 its disk.
    for node in &mut group.nodes {
        node.kill_mysqld();
    }
    group.nodes[2].stop_keeper();
    let (home, data) = (group.nodes[2].home.clone(), group.nodes[2].home.join("data"));
    std::fs::rename(&data, home.join("data.lost")).unwrap();
    std::fs::remove_dir_all(home.join("state")).unwrap();
    copy_folder(&group.template, &data);
    for node in &mut group.nodes {
        node.start_mysqld();
    }
    group.nodes[2].start_keeper();
    let refused = group.until(0, "refused").await;
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("node3 is empty") && reason.contains("force-bootstrap node"), "{reason}");

    let elsewhere = group.trivet(1, &["database", "force-bootstrap", "node1"]);
    assert!(said(&elsewhere).contains("this is node2"), "{}", said(&elsewhere));
    group.until(2, "refused").await;
    let empty = group.trivet(2, &["database", "force-bootstrap", "node3", "--yes-i-lose-data", "node3"]);
    assert!(said(&empty).contains("this member is empty"), "{}", said(&empty));
    // It says what may be lost, and does nothing when nobody consents.
    let told = [
        GROUP,
        "node2: has nothing that this member lacks",
        "node3: is empty, and it was ONLINE",
        "nobody is there",
    ];
    group.until_told(0, &told).await;
    let wrong = group.trivet(0, &["database", "force-bootstrap", "node1", "--yes-i-lose-data", "node2"]);
    assert_eq!(wrong.status.code(), Some(1), "{}", said(&wrong));
    assert_eq!(group.health(0).await["phase"], "refused", "nothing was done");

    let done = group.trivet(0, &["database", "force-bootstrap", "node1", "--yes-i-lose-data", "node1"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    // What the backups are compared with is there before the app writes.
    assert_eq!(group.nodes[0].number(MARKED).await, 1);
    group.until_whole().await;
    for node in &group.nodes {
        assert_eq!(node.number("SELECT COUNT(*) FROM trivet.t").await, 1, "{}", node.name);
        assert_eq!(node.number(MARKED).await, 1, "{}", node.name);
    }

    // Another outage: node3 alone has a write, under a number of the group's, and stays away.
    for node in &mut group.nodes {
        node.kill_mysqld();
    }
    for node in &mut group.nodes {
        node.stop_keeper();
    }
    group.nodes[2].start_mysqld();
    group.nodes[2].until_answering().await;
    let next = group.nodes[2].next_number(GROUP).await;
    let write = format!(
        "SET GLOBAL super_read_only = OFF; SET gtid_next = '{GROUP}:{next}'; INSERT INTO trivet.t VALUES (100); \
         SET gtid_next = AUTOMATIC"
    );
    group.nodes[2].run(&write).await;
    group.nodes[2].kill_mysqld();
    for i in [0, 1] {
        group.nodes[i].start_mysqld();
        group.nodes[i].start_keeper();
    }
    let waiting = group.until(1, "waiting-for-members").await;
    assert!(waiting["reason"].as_str().unwrap().contains("force-bootstrap"), "{waiting}");
    // Of node1 it must know, before it is asked to go on.
    group.until_told(1, &["node1: has nothing that this member lacks", "node3: cannot be reached"]).await;
    let arguments = ["database", "force-bootstrap", "node2", "--yes-i-lose-data", "node2"];
    let unsure = group.trivet(1, &arguments);
    assert_eq!(unsure.status.code(), Some(1));
    assert!(said(&unsure).contains("--unreachable-are-off node3"), "{}", said(&unsure));
    // Consent is about the nodes that it names.
    let another = group.trivet(1, &[&arguments[..], &["--unreachable-are-off", "node1"]].concat());
    assert_eq!(another.status.code(), Some(1));
    assert!(said(&another).contains("--unreachable-are-off node3"), "{}", said(&another));
    let done = group.trivet(1, &[&arguments[..], &["--unreachable-are-off", "node3"]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    group.until(0, "online").await;
    assert_eq!(group.nodes[1].number(MARKED).await, 2);
    // The group goes on, and uses the numbers that node3 has used for something else.
    group.nodes[1].run("INSERT INTO trivet.t VALUES (2); INSERT INTO trivet.t VALUES (3)").await;
    assert!(group.nodes[1].next_number(GROUP).await > next);

    // By its set of numbers node3 would fit. It is kept out.
    group.nodes[2].start_mysqld();
    group.nodes[2].start_keeper();
    let diverged = group.until(2, "diverged").await;
    let reason = diverged["reason"].as_str().unwrap();
    assert!(reason.contains("by force") && reason.contains(&format!("{GROUP}:{next}")), "{reason}");

    // Emptied, it is cloned, and one of them again.
    group.nodes[2].kill_mysqld();
    std::fs::rename(&data, home.join("data.given-up")).unwrap();
    copy_folder(&group.template, &data);
    group.nodes[2].start_mysqld();
    group.until_whole().await;
    assert_eq!(group.nodes[2].number("SELECT COUNT(*) FROM trivet.t WHERE id = 100").await, 0);
    assert_eq!(group.nodes[2].number("SELECT COUNT(*) FROM trivet.t").await, 3);
}
