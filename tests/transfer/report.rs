//! What stands in the way is told before anything is done.

use serde_json::Value;

use crate::harness::{Scene, bad, good};

/// A schema with every fault.
const FAULTS: &str = "\
    SET SESSION restrict_fk_on_non_standard_key = OFF;\
    CREATE DATABASE shop; USE shop;\
    CREATE TABLE keyless (a INT);\
    CREATE TABLE nullable_key (a INT UNIQUE);\
    CREATE TABLE part_of_a_key (a VARCHAR(20) NOT NULL, UNIQUE (a(5)));\
    CREATE TABLE fine (a INT NOT NULL UNIQUE);\
    CREATE TABLE old_engine (a INT PRIMARY KEY) ENGINE = MyISAM;\
    CREATE TABLE parent (a INT PRIMARY KEY, b INT, c INT, KEY (b), UNIQUE (b, c));\
    CREATE TABLE child (a INT PRIMARY KEY, b INT, FOREIGN KEY odd (b) REFERENCES parent (b));\
    CREATE TABLE good_child (a INT PRIMARY KEY, FOREIGN KEY (a) REFERENCES parent (a));\
    CREATE TABLE old_text (a INT PRIMARY KEY, b TEXT CHARACTER SET utf8mb3);\
    CREATE USER gone@localhost; CREATE DEFINER = gone@localhost VIEW seen AS SELECT a FROM fine; DROP USER IF EXISTS gone@localhost;\
    CREATE TRIGGER fired BEFORE INSERT ON fine FOR EACH ROW SET @a = 1;\
    CREATE EVENT ticking ON SCHEDULE EVERY 1 DAY DO SET @a = 1;\
    CREATE DATABASE other; CREATE TABLE other.parent (a INT PRIMARY KEY);\
    CREATE TABLE outward (a INT PRIMARY KEY, FOREIGN KEY (a) REFERENCES other.parent (a))";

fn finding<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|f| f["check"] == check).collect()
}

fn objects(report: &Value, check: &str) -> Vec<String> {
    let of = |f: &Value| {
        f["objects"].as_array().unwrap().iter().map(|o| o.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    finding(report, check).into_iter().flat_map(of).collect()
}

#[tokio::test]
async fn a_report_names_every_fault_and_only_those() {
    let options = [
        "--gtid-mode=OFF",
        "--binlog-format=MIXED",
        "--sql-mode=ANSI",
        "--default-time-zone=+03:00",
        "--server-id=1",
        "--binlog-ignore-db=shop",
        "--log-replica-updates=OFF",
        "--replicate-ignore-db=secret",
    ];
    let Some(scene) = Scene::start(&options, 1).await else { return };
    scene.source.run(FAULTS).await;
    scene.source.run("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1").await;
    scene
        .member()
        .run("CREATE DATABASE shop; CREATE TABLE shop.taken (a INT PRIMARY KEY); CREATE DATABASE other")
        .await;

    let output = scene.import(&["--from", &scene.url("shop,nowhere"), "--report", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["databases"], serde_json::json!(["shop"]));
    assert_eq!(objects(&report, "missing-database"), ["nowhere"]);
    assert_eq!(objects(&report, "target-not-empty"), ["shop (1 tables)"]);
    let keyless = objects(&report, "primary-key");
    assert_eq!(keyless.len(), 3, "{keyless:?}");
    for table in ["keyless", "nullable_key", "part_of_a_key"] {
        let statement = keyless.iter().find(|s| s.contains(&format!("`{table}`"))).unwrap();
        assert!(
            statement.starts_with("ALTER TABLE `shop`") && statement.contains("PRIMARY KEY"),
            "{statement}"
        );
    }
    assert_eq!(objects(&report, "engine"), ["ALTER TABLE `shop`.`old_engine` ENGINE = InnoDB; -- is MyISAM"]);
    let odd = objects(&report, "foreign-key");
    assert!(
        odd.len() == 1 && odd[0].starts_with("shop.child: ") && odd[0].ends_with("to shop.parent (b)"),
        "{odd:?}"
    );
    assert_eq!(objects(&report, "foreign-key-outside").len(), 1);
    assert_eq!(objects(&report, "utf8mb3"), ["shop"]);
    assert_eq!(objects(&report, "definer"), ["gone@localhost (1 objects)"]);
    assert_eq!(objects(&report, "events"), ["shop.ticking"]);
    assert_eq!(objects(&report, "same-name"), ["other"]);
    assert_eq!(objects(&report, "binlog-filter"), ["shop"]);
    let severities: Vec<&Value> = finding(&report, "binlog-filter").iter().map(|f| &f["severity"]).collect();
    assert_eq!(severities, ["blocker", "warning"]);
    let upstream = "127.0.0.1:1, stopped, filters Replicate_Ignore_DB secret";
    assert_eq!(objects(&report, "replica"), [upstream]);
    assert_eq!(objects(&report, "log-replica-updates"), [upstream]);
    for (check, severity) in [
        ("gtid-mode", "blocker"),
        ("binlog-format", "blocker"),
        ("server-id", "blocker"),
        ("log-replica-updates", "blocker"),
        ("replica", "warning"),
        ("sql-mode", "warning"),
        ("time-zone", "warning"),
        ("tls", "warning"),
        ("transaction-size", "note"),
        ("programs", "note"),
        ("accounts", "note"),
    ] {
        let found = finding(&report, check);
        assert!(found.len() == 1 && found[0]["severity"] == severity, "{check}: {found:?}");
    }
    assert!(finding(&report, "rights").is_empty() && finding(&report, "version").is_empty(), "{report:#}");

    // For people, the same; and the import does nothing.
    let words = bad(&scene.import(&["--from", &scene.url("shop")]));
    assert!(
        words.contains("BLOCKER: the source's gtid_mode is OFF") && words.contains("ON_PERMISSIVE"),
        "{words}"
    );
    assert!(words.contains("nothing was done"), "{words}");
    assert_eq!(
        scene
            .member()
            .texts("SELECT table_name AS x FROM information_schema.tables WHERE table_schema = 'shop'")
            .await,
        ["taken"]
    );
}

#[tokio::test]
async fn a_source_without_faults_passes_and_one_whose_account_has_too_few_rights_does_not() {
    let Some(scene) = Scene::start(&["--gtid-mode=ON", "--enforce-gtid-consistency=ON"], 1).await else {
        return;
    };
    scene.source.run("CREATE DATABASE shop; CREATE TABLE shop.fine (a INT PRIMARY KEY)").await;
    let words = good(&scene.import(&["--from", &scene.url("shop"), "--report"]));
    assert!(words.contains("Nothing stands in the way."), "{words}");

    scene
        .source
        .run("REVOKE ALL ON *.* FROM mover@'%'; GRANT SELECT, RELOAD, SHOW VIEW ON *.* TO mover@'%'")
        .await;
    let words = bad(&scene.import(&["--from", &scene.url("shop"), "--report"]));
    assert!(
        words.contains("REPLICATION SLAVE, to follow") && words.contains("REPLICATION CLIENT"),
        "{words}"
    );
    assert!(!words.contains("RELOAD, for"), "{words}");

    let words = bad(&scene.import(&["--from", "mysql://nobody@127.0.0.1:1/shop", "--report"]));
    assert!(words.contains("the source: "), "{words}");
}
