//! A database moves into the cluster, and back.

use crate::harness::{Scene, bad, good};

const GTIDS: [&str; 2] = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];

/// A shop with what a database can have; `my_shop` must not be taken for a pattern.
const SHOP: &str = "\
    CREATE USER owner@localhost;\
    CREATE DATABASE my_shop CHARACTER SET latin1; CREATE DATABASE myxshop; USE my_shop;\
    CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, what TEXT CHARACTER SET utf8mb4, raw BLOB);\
    INSERT INTO orders (what, raw) VALUES ('a\\nDELIMITER ;;\\n', x'00ff0a'), ('🙂', NULL);\
    CREATE TABLE log (id INT PRIMARY KEY AUTO_INCREMENT);\
    CREATE TRIGGER logged AFTER INSERT ON orders FOR EACH ROW INSERT INTO log VALUES ();\
    CREATE DEFINER = owner@localhost EVENT ticking ON SCHEDULE EVERY 1 DAY DO SET @a = 1;\
    CREATE EVENT resting ON SCHEDULE EVERY 1 DAY DISABLE DO SET @a = 1;\
    CREATE TABLE myxshop.other (id INT PRIMARY KEY)";

const ORDERS: &str = "SELECT id AS x FROM my_shop.orders ORDER BY id";
const EVENTS: &str = "SELECT CONCAT(event_name, ' ', status, ' ', definer) AS x FROM information_schema.events ORDER BY event_name";

#[tokio::test]
async fn a_database_is_copied_followed_cut_over_and_given_back() {
    let Some(mut scene) = Scene::start(&GTIDS, 1).await else { return };
    let (source, member) = (&scene.source, scene.member());
    source.run(SHOP).await;
    scene.follows("my_shop");
    assert_eq!(member.texts(ORDERS).await, ["1", "2"]);
    assert_eq!(
        member.texts("SELECT CONCAT(HEX(raw), what) AS x FROM my_shop.orders WHERE id = 1").await,
        ["00FF0Aa\nDELIMITER ;;\n"]
    );
    assert_eq!(
        member.texts("SELECT default_character_set_name AS x FROM information_schema.schemata WHERE schema_name = 'my_shop'").await,
        ["latin1"]
    );

    // Rows and tables follow; other databases and accounts do not; a trigger does not fire twice.
    source
        .run(
            "INSERT INTO my_shop.orders (what) VALUES ('later'); CREATE TABLE my_shop.new (id INT PRIMARY KEY); \
             INSERT INTO myxshop.other VALUES (1); CREATE TABLE myxshop.more (id INT PRIMARY KEY); CREATE USER stranger",
        )
        .await;
    member.until(ORDERS, &["1", "2", "3"]).await;
    good(&scene.import(&["--until-caught-up"]));
    assert_eq!(member.texts("SELECT COUNT(*) AS x FROM my_shop.log").await, ["1"]);
    assert_eq!(
        member
            .texts("SELECT COUNT(*) AS x FROM information_schema.tables WHERE table_schema = 'my_shop'")
            .await,
        ["3"]
    );
    assert_eq!(
        member
            .texts("SELECT schema_name AS x FROM information_schema.schemata WHERE schema_name = 'myxshop'")
            .await,
        [""; 0]
    );
    assert_eq!(
        member.texts("SELECT user AS x FROM mysql.user WHERE user IN ('stranger', 'owner')").await,
        [""; 0]
    );
    assert_eq!(
        member.texts(EVENTS).await,
        ["resting DISABLED root@localhost", "ticking REPLICA_SIDE_DISABLED owner@localhost"]
    );
    // Whoever starts this mysqld anew must not find the password, nor a channel that follows by itself.
    assert_eq!(
        member
            .texts(
                "SELECT User_password AS x FROM mysql.slave_master_info WHERE Channel_name = 'trivet_import'"
            )
            .await,
        [""]
    );
    let still = "SELECT variable_value AS x FROM performance_schema.persisted_variables WHERE variable_name = 'skip_replica_start'";
    assert_eq!(member.texts(still).await, ["ON"]);
    let status = good(&scene.import(&["--status"]));
    assert!(status.contains("following: "), "{status}");

    let words = good(&scene.import(&["--cut-over", "--compare", "checksum"]));
    assert!(words.contains("The way back"), "{words}");
    assert!(
        source.tried("INSERT INTO my_shop.orders (what) VALUES ('too late')").await.is_err(),
        "the source is read-only"
    );
    assert_eq!(
        member.texts(EVENTS).await,
        ["resting DISABLED root@localhost", "ticking ENABLED owner@localhost"]
    );
    assert_eq!(member.texts("SELECT channel_name AS x FROM performance_schema.replication_connection_configuration WHERE channel_name = 'trivet_import'").await, [""; 0]);
    assert_eq!(member.texts(still).await, [""; 0]);
    bad(&scene.import(&["--cut-over"]));

    // What is written here arrives there, and nothing else of the cluster does.
    member.run("INSERT INTO my_shop.orders (what) VALUES ('here')").await;
    good(&scene.import(&["--back"]));
    member.run("INSERT INTO my_shop.orders (what) VALUES ('and here'); CREATE DATABASE elsewhere; CREATE USER newcomer").await;
    source.until(ORDERS, &["1", "2", "3", "4", "5"]).await;
    assert_eq!(source.texts("SELECT schema_name AS x FROM information_schema.schemata WHERE schema_name IN ('elsewhere', 'trivet_cluster')").await, [""; 0]);
    assert_eq!(source.texts("SELECT user AS x FROM mysql.user WHERE user = 'newcomer'").await, [""; 0]);

    // MySQL keeps no filter over a restart: the channel waits for somebody who makes it again.
    member.run("CREATE DATABASE elsewhere2").await;
    scene.source.restart().await;
    let (source, member) = (&scene.source, scene.member());
    let running = "SELECT service_state AS x FROM performance_schema.replication_applier_status WHERE channel_name = 'trivet_back'";
    assert_eq!(source.texts(running).await, ["OFF"]);
    member
        .run("INSERT INTO my_shop.orders (what) VALUES ('after the restart'); CREATE DATABASE elsewhere3")
        .await;
    good(&scene.import(&["--back"]));
    source.until(ORDERS, &["1", "2", "3", "4", "5", "6"]).await;
    assert_eq!(
        source
            .texts(
                "SELECT schema_name AS x FROM information_schema.schemata WHERE schema_name LIKE 'elsewhere%'"
            )
            .await,
        [""; 0]
    );

    // The end: what was imported stays.
    let words = good(&scene.import(&["--abort", "--yes"]));
    assert!(words.contains("stays"), "{words}");
    assert_eq!(member.texts("SELECT COUNT(*) AS x FROM my_shop.orders").await, ["6"]);
    assert_eq!(source.texts(running).await, [""; 0]);
    assert_eq!(source.texts(still).await, [""; 0]);
    assert_eq!(
        member.texts("SELECT user AS x FROM mysql.user WHERE user = 'trivet_import_back'").await,
        [""; 0]
    );
}

#[tokio::test]
async fn a_cut_over_that_finds_a_difference_gives_the_source_back() {
    let Some(scene) = Scene::start(&GTIDS, 1).await else { return };
    let (source, member) = (&scene.source, scene.member());
    source.run("CREATE DATABASE shop; CREATE TABLE shop.a (id INT PRIMARY KEY, n INT); INSERT INTO shop.a VALUES (1, 1)").await;
    scene.follows("shop");
    member.run("UPDATE shop.a SET n = 2").await;
    let words = bad(&scene.import(&["--cut-over", "--compare", "checksum"]));
    assert!(words.contains("shop.a: checksum") && words.contains("takes writes as before"), "{words}");
    source.run("INSERT INTO shop.a VALUES (2, 2)").await;
    member.until("SELECT COUNT(*) AS x FROM shop.a", &["2"]).await;

    member.run("INSERT INTO shop.a VALUES (9, 9)").await;
    let words = bad(&scene.import(&["--cut-over"]));
    assert!(words.contains("shop.a: rows 2 at the source, 3 in the cluster"), "{words}");

    // Without the right to make it read-only, somebody has to say that nobody writes.
    member.run("DELETE FROM shop.a WHERE id = 9").await;
    source.run("REVOKE ALL ON *.* FROM mover@'%'; GRANT SELECT, RELOAD, REPLICATION SLAVE, REPLICATION CLIENT, SHOW VIEW, TRIGGER, EVENT ON *.* TO mover@'%'").await;
    let words = bad(&scene.import(&["--cut-over"]));
    assert!(words.contains("--source-is-stopped"), "{words}");
    good(&scene.import(&["--cut-over", "--source-is-stopped"]));
}

#[tokio::test]
async fn an_abort_removes_what_was_copied_and_asks_first() {
    let Some(scene) = Scene::start(&GTIDS, 1).await else { return };
    scene.source.run("CREATE DATABASE shop; CREATE TABLE shop.a (id INT PRIMARY KEY)").await;
    scene.follows("shop");
    let words = bad(&scene.import(&["--abort"]));
    assert!(words.contains("nobody is there to ask"), "{words}");
    good(&scene.import(&["--abort", "--yes"]));
    let left = "SELECT schema_name AS x FROM information_schema.schemata WHERE schema_name = 'shop'";
    assert_eq!(scene.member().texts(left).await, [""; 0]);
    scene.source.run("INSERT INTO shop.a VALUES (1)").await;
    scene.follows("shop");
    assert_eq!(scene.member().texts("SELECT id AS x FROM shop.a").await, ["1"]);
}

#[tokio::test]
async fn tables_without_a_key_get_one_when_it_is_asked_for() {
    let Some(scene) = Scene::start(&GTIDS, 1).await else { return };
    let (source, member) = (&scene.source, scene.member());
    source
        .run("CREATE DATABASE shop; CREATE TABLE shop.a (n INT); INSERT INTO shop.a VALUES (1), (1), (2)")
        .await;
    let words = bad(&scene.import(&["--from", &scene.url("shop")]));
    assert!(words.contains("error 3098"), "{words}");
    good(&scene.import(&["--from", &scene.url("shop"), "--generate-keys", "--until-caught-up"]));
    source.run("DELETE FROM shop.a WHERE n = 1 LIMIT 1; UPDATE shop.a SET n = 3 WHERE n = 2; CREATE TABLE shop.b (n INT); INSERT INTO shop.b VALUES (7)").await;
    member.until("SELECT n AS x FROM shop.a ORDER BY n", &["1", "3"]).await;
    good(&scene.import(&["--cut-over", "--compare", "checksum"]));
    assert_eq!(member.texts("SELECT n AS x FROM shop.b").await, ["7"]);
}

#[tokio::test]
async fn a_copy_that_was_interrupted_is_begun_anew() {
    let Some(scene) = Scene::start(&GTIDS, 1).await else { return };
    scene
        .source
        .run("CREATE DATABASE shop; CREATE TABLE shop.a (id INT PRIMARY KEY); INSERT INTO shop.a VALUES (1)")
        .await;
    // A program that dies in the middle of a dump.
    let real = scene.folder.join("mysqldump");
    let kept = std::fs::read(&real).unwrap();
    std::fs::write(&real, "#!/bin/sh\necho 'CREATE DATABASE shop; CREATE TABLE shop.half (id INT PRIMARY KEY);'\necho 'the disk is gone' >&2\nexit 2\n").unwrap();
    let words = bad(&scene.import(&["--from", &scene.url("shop")]));
    assert!(words.contains("mysqldump: the disk is gone"), "{words}");
    std::fs::write(&real, kept).unwrap();
    let words = good(&scene.import(&["--until-caught-up"]));
    assert!(words.contains("begun anew"), "{words}");
    assert_eq!(
        scene
            .member()
            .texts("SELECT table_name AS x FROM information_schema.tables WHERE table_schema = 'shop'")
            .await,
        ["a"]
    );
}
