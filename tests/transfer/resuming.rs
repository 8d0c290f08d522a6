//! What was interrupted goes on when the command is run again.

use crate::harness::{Scene, Server, bad, good};

const GTIDS: [&str; 2] = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
const SHOP: &str = "\
    CREATE DATABASE shop; CREATE TABLE shop.a (id INT PRIMARY KEY); INSERT INTO shop.a VALUES (1);\
    CREATE EVENT shop.ticking ON SCHEDULE EVERY 1 DAY DO SET @a = 1";
const EVENTS: &str = "SELECT status AS x FROM information_schema.events WHERE event_schema = 'shop'";
const ROWS: &str = "SELECT id AS x FROM shop.a ORDER BY id";
const APPLIES: &str = "SELECT service_state AS x FROM performance_schema.replication_applier_status WHERE channel_name = 'trivet_import'";

/// As an attempt that was killed after it made the source read-only.
async fn killed_before(source: &Server, member: &Server) {
    source.run("SET GLOBAL super_read_only = ON").await;
    member.run("UPDATE trivet_cluster.import SET state = JSON_SET(state, '$.source_before', CAST('[false, false]' AS JSON))").await;
}

#[tokio::test]
async fn a_copy_and_a_cut_over_name_who_holds_the_lock_that_they_wait_for() {
    let Some(scene) = Scene::start(&GTIDS, 1).await else { return };
    let (source, member) = (&scene.source, scene.member());
    source.run(SHOP).await;
    let lock = source.session("LOCK TABLES shop.a WRITE").await;
    let words = bad(&scene.import(&["--from", &scene.url("shop"), "--until-caught-up"]));
    assert!(
        words.contains("the copy at the source waited")
            && words.contains("root@localhost")
            && words.contains("shop.a"),
        "{words}"
    );
    drop(lock);
    source
        .until(
            "SELECT COUNT(*) AS x FROM performance_schema.metadata_locks WHERE object_schema = 'shop'",
            &["0"],
        )
        .await;
    scene.follows("shop");

    let lock = source.session("LOCK TABLES shop.a WRITE").await;
    let words = bad(&scene.import(&["--cut-over"]));
    assert!(words.contains("super_read_only at the source waited") && words.contains("shop.a"), "{words}");
    assert!(words.contains("takes writes as before"), "{words}");
    drop(lock);
    source.until("SELECT @@global.read_only AS x", &["0"]).await;

    // An application of the cluster that reads what is to be dropped.
    let lock = member.session("LOCK TABLES shop.a READ").await;
    let words = bad(&scene.import(&["--abort", "--yes"]));
    assert!(
        words.contains("DROP DATABASE shop in the cluster waited") && words.contains("shop.a"),
        "{words}"
    );
    drop(lock);
    good(&scene.import(&["--abort", "--yes"]));
}

#[tokio::test]
async fn a_cut_over_that_was_killed_goes_on_or_is_undone() {
    let Some(scene) = Scene::start(&GTIDS, 1).await else { return };
    let (source, member) = (&scene.source, scene.member());
    source.run(SHOP).await;
    scene.follows("shop");

    // Undone by an abort.
    killed_before(source, member).await;
    let words = good(&scene.import(&["--status"]));
    assert!(words.contains("may have left"), "{words}");
    good(&scene.import(&["--abort", "--yes"]));
    source.run("INSERT INTO shop.a VALUES (2)").await;
    scene.follows("shop");

    // Undone by an attempt that refuses: databases that are new, a source that has a source of its own.
    killed_before(source, member).await;
    member.run("STOP REPLICA FOR CHANNEL 'trivet_import'").await;
    source
        .run("SET GLOBAL super_read_only = OFF; CREATE DATABASE late; SET GLOBAL super_read_only = ON")
        .await;
    let words = bad(&scene.import(&["--cut-over"]));
    assert!(words.contains("late") && words.contains("--leave-out late"), "{words}");
    source.run("INSERT INTO shop.a VALUES (3)").await;
    let words = bad(&scene.import(&["--cut-over", "--leave-out", "late"]));
    assert!(words.contains("stopped"), "{words}");
    let words = good(&scene.import(&["--until-caught-up"]));
    assert!(words.contains("the source has a new database, late"), "{words}");
    source.run("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = 'x' FOR CHANNEL 'up'; START REPLICA FOR CHANNEL 'up'").await;
    let words = bad(&scene.import(&["--cut-over", "--leave-out", "late"]));
    assert!(words.contains("itself a replica of 127.0.0.1:1"), "{words}");
    source.run("STOP REPLICA FOR CHANNEL 'up'; RESET REPLICA ALL FOR CHANNEL 'up'").await;

    // Killed with the channel stopped already: the next attempt does the rest.
    killed_before(source, member).await;
    member.run("STOP REPLICA FOR CHANNEL 'trivet_import'").await;
    good(&scene.import(&["--cut-over", "--leave-out", "late"]));
    assert_eq!(member.texts(EVENTS).await, ["ENABLED"]);
    assert!(source.tried("INSERT INTO shop.a VALUES (4)").await.is_err(), "the source is read-only");
    bad(&scene.import(&["--cut-over"]));

    // As one that was killed once it had taken the place: channel and event are as they were.
    member
        .run(
            "ALTER EVENT shop.ticking DISABLE; SET PERSIST_ONLY skip_replica_start = ON; \
             CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1 FOR CHANNEL 'trivet_import'; \
             UPDATE trivet_cluster.import SET state = JSON_SET(state, '$.events', CAST('[{\"database\": \"shop\", \"name\": \"ticking\", \"definer\": \"root@localhost\"}]' AS JSON))",
        )
        .await;
    let words = good(&scene.import(&["--status"]));
    assert!(words.contains("run --cut-over again"), "{words}");
    let words = bad(&scene.import(&["--from", &scene.url("late")]));
    assert!(words.contains("was not finished"), "{words}");
    let words = good(&scene.import(&["--cut-over"]));
    assert!(words.contains("The way back"), "{words}");
    assert_eq!(member.texts(EVENTS).await, ["ENABLED"]);
    assert_eq!(member.texts(APPLIES).await, [""; 0]);
    let still = "SELECT variable_name AS x FROM performance_schema.persisted_variables WHERE variable_name = 'skip_replica_start'";
    assert_eq!(member.texts(still).await, [""; 0]);
    bad(&scene.import(&["--cut-over"]));
    good(&scene.import(&["--abort", "--yes"]));
    assert_eq!(member.texts(ROWS).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn an_import_goes_on_after_a_restart_and_after_the_source_has_removed_old_logs() {
    let Some(mut scene) = Scene::start(&GTIDS, 1).await else { return };
    scene.source.run(SHOP).await;
    scene.follows("shop");
    scene.source.run("INSERT INTO shop.a VALUES (2)").await;
    scene.member().until(ROWS, &["1", "2"]).await;

    // A member that is started anew follows only once somebody says so, who has the password.
    scene.members[0].restart().await;
    Scene::join_at(&scene.members[0], None).await;
    let (source, member) = (&scene.source, scene.member());
    assert_eq!(member.texts(APPLIES).await, ["OFF"]);
    source.run("INSERT INTO shop.a VALUES (3)").await;
    good(&scene.import(&["--until-caught-up"]));
    assert_eq!(member.texts(ROWS).await, ["1", "2", "3"]);

    // A new primary has no channel, and what was noted may be old.
    let old = "STOP REPLICA FOR CHANNEL 'trivet_import'; RESET REPLICA ALL FOR CHANNEL 'trivet_import'; \
        UPDATE trivet_cluster.import SET state = JSON_SET(state, '$.position.file', 'binlog.000001', '$.position.offset', 4)";
    member.run(old).await;
    source.run("FLUSH BINARY LOGS").await;
    let last = source.binary_logs().await.pop().unwrap();
    source.run(&format!("PURGE BINARY LOGS TO '{last}'; INSERT INTO shop.a VALUES (4)")).await;
    good(&scene.import(&["--until-caught-up"]));
    assert_eq!(member.texts(ROWS).await, ["1", "2", "3", "4"]);

    // What it lacks is gone.
    member.run(old).await;
    source.run("INSERT INTO shop.a VALUES (5); FLUSH BINARY LOGS").await;
    let last = source.binary_logs().await.pop().unwrap();
    source.run(&format!("PURGE BINARY LOGS TO '{last}'")).await;
    let words = bad(&scene.import(&["--until-caught-up"]));
    assert!(words.contains("has removed the log that is needed next (binlog.000001:4)"), "{words}");
}
