//! A dump that any MySQL reads.

use crate::harness::{Scene, bad, good};

#[tokio::test]
async fn a_dump_is_whole_is_read_by_another_server_and_leaves_nothing_when_it_fails() {
    let Some(scene) = Scene::start(&["--gtid-mode=OFF"], 1).await else { return };
    let (other, member) = (&scene.source, scene.member());
    member
        .run(
            "CREATE USER owner@localhost; CREATE DATABASE shop; CREATE TABLE shop.a (id INT PRIMARY KEY, t TEXT); INSERT INTO shop.a VALUES (1, '/*!50013 DEFINER=`a`@`b` */'); \
             CREATE DEFINER = owner@localhost VIEW shop.v AS SELECT id FROM shop.a; CREATE DEFINER = owner@localhost PROCEDURE shop.p() SELECT 1; \
             CREATE DEFINER = owner@localhost TRIGGER shop.t BEFORE INSERT ON shop.a FOR EACH ROW SET @a = 1; CREATE DEFINER = owner@localhost EVENT shop.e ON SCHEDULE EVERY 1 DAY DO SET @a = 1; \
             CREATE DATABASE blog; CREATE TABLE blog.b (id INT PRIMARY KEY)",
        )
        .await;
    let file = scene.folder.join("dump.sql");
    let path = file.display().to_string();
    support::built::built("trivet-transfer");

    let words = bad(&scene.on(member, "export", &["--database", "shop,nowhere", "--output", &path]));
    assert!(words.contains("there is no database nowhere"), "{words}");
    let real = scene.folder.join("mysqldump");
    let kept = std::fs::read(&real).unwrap();
    let before = std::fs::read_dir(&scene.folder).unwrap().count();
    for (fault, word) in [("echo half; exit 3", "exit status: 3"), ("echo half", "has no end")] {
        std::fs::write(&real, format!("#!/bin/sh\n{fault}\n")).unwrap();
        let words = bad(&scene.on(member, "export", &["--output", &path]));
        assert!(words.contains(word), "{words}");
        assert_eq!(std::fs::read_dir(&scene.folder).unwrap().count(), before, "nothing half-written is left");
    }
    std::fs::write(&real, kept).unwrap();

    member.run("CREATE USER reader@localhost; GRANT SELECT, SHOW VIEW ON *.* TO reader@localhost").await;
    let words = bad(&scene.on(member, "export", &["--user", "reader", "--output", &path]));
    assert!(words.contains("GRANT TRIGGER, EVENT ON `blog`.*; GRANT TRIGGER, EVENT ON `shop`.*"), "{words}");
    assert!(!file.exists());

    good(&scene.on(member, "export", &["--output", &path]));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains("GTID_PURGED") && !text.contains("SQL_LOG_BIN") && !text.contains("owner"),
        "{text}"
    );
    good(&scene.load(other, &file));
    assert_eq!(other.texts("SELECT t AS x FROM shop.a").await, ["/*!50013 DEFINER=`a`@`b` */"]);
    assert_eq!(
        other.texts("SELECT definer AS x FROM information_schema.views WHERE table_schema = 'shop'").await,
        ["root@localhost"]
    );
    for (table, schema) in
        [("routines", "routine_schema"), ("triggers", "trigger_schema"), ("events", "event_schema")]
    {
        let definers = format!("SELECT definer AS x FROM information_schema.{table} WHERE {schema} = 'shop'");
        assert_eq!(other.texts(&definers).await, ["root@localhost"], "{table}");
    }
    assert_eq!(other.texts("SELECT COUNT(*) AS x FROM information_schema.tables WHERE table_schema IN ('blog', 'trivet_cluster')").await, ["1"]);

    let output = scene.on(member, "export", &["--database", "blog", "--keep-definers"]);
    good(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("CREATE TABLE `b`") && !text.contains("`shop`"), "{text}");
}
