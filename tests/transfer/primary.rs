//! The primary moves while the cluster follows.

use crate::harness::{Scene, bad, good};

#[tokio::test]
async fn an_import_goes_on_at_the_new_primary() {
    let Some(scene) = Scene::start(&["--gtid-mode=ON", "--enforce-gtid-consistency=ON"], 2).await else {
        return;
    };
    let (source, first, second) = (&scene.source, &scene.members[0], &scene.members[1]);
    source
        .run("CREATE DATABASE shop; CREATE TABLE shop.a (id INT PRIMARY KEY); INSERT INTO shop.a VALUES (1)")
        .await;

    let words = bad(&scene.import_on(second, &["--from", &scene.url("shop")]));
    assert!(words.contains("replica") && words.contains(&first.port.to_string()), "{words}");
    scene.follows("shop");
    source.run("INSERT INTO shop.a VALUES (2)").await;
    first.until("SELECT id AS x FROM shop.a ORDER BY id", &["1", "2"]).await;

    let uuid = second.texts("SELECT @@server_uuid AS x").await.remove(0);
    let moved = format!("SELECT group_replication_set_as_primary('{uuid}')");
    assert!(first.tried(&moved).await.is_err(), "MySQL does not move the role while a channel runs");
    good(&scene.import(&["--pause"]));
    first.run(&moved).await;
    source.run("INSERT INTO shop.a VALUES (3)").await;
    bad(&scene.import(&["--until-caught-up"]));
    // From a position before what the new primary has: that is left out.
    good(&scene.import_on(second, &["--until-caught-up"]));
    for member in [second, first] {
        member.until("SELECT id AS x FROM shop.a ORDER BY id", &["1", "2", "3"]).await;
    }
    good(&scene.import_on(second, &["--cut-over"]));
}
