//! A group is formed, loses a member to errant transactions, gets it back by clone, and survives a complete outage.

use serde_json::json;

use crate::harness::{GROUP, Group, copy_folder};

const NODES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_formed_repaired_and_formed_again() {
    let Some(mut group) = Group::start(NODES).await else { return };

    // From three empty members to a group, with nothing but the group's own transactions.
    let primary = group.until_whole().await;
    assert_eq!(primary, 0, "the first member of the configuration founds the group");
    for i in 0..NODES {
        let health = group.health(i).await;
        assert!(health["gtid_executed"].as_str().unwrap().starts_with(GROUP), "{health}");
        assert!(
            !health["gtid_executed"].as_str().unwrap().contains(','),
            "one source of transactions: {health}"
        );
        let accounts = "SELECT COUNT(*) FROM mysql.user WHERE ssl_type = 'ANY' AND user LIKE 'trivet\\_%'";
        assert_eq!(group.nodes[i].number(accounts).await, 2, "replication and app account on node{}", i + 1);
        assert_eq!(group.status(i, "/replica").await, if i == primary { 503 } else { 200 });
    }
    group.nodes[primary]
        .run("CREATE TABLE trivet.t (id INT PRIMARY KEY); INSERT INTO trivet.t VALUES (1)")
        .await;

    // A write on a member outside the group keeps it out, and is named.
    group.nodes[2].stop_keeper();
    group.nodes[2]
        .run("STOP GROUP_REPLICATION; SET GLOBAL super_read_only = OFF; CREATE DATABASE errant")
        .await;
    group.nodes[2].start_keeper();
    let diverged = group.until(2, "diverged").await;
    let uuid = diverged["server_uuid"].as_str().unwrap();
    assert!(diverged["reason"].as_str().unwrap().contains(&format!("{uuid}:1")), "{diverged}");
    // And it takes no more of them.
    group.until_field(2, "super_read_only", &json!(true)).await;

    // What the documentation tells to do: data away, and the empty member is cloned.
    group.nodes[2].kill_mysqld();
    let data = group.nodes[2].home.join("data");
    std::fs::rename(&data, group.nodes[2].home.join("data.old")).unwrap();
    copy_folder(&group.template, &data);
    group.nodes[2].start_mysqld();
    group.until_whole().await;
    let schemas = "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'errant'";
    for node in &group.nodes {
        assert_eq!(node.number(schemas).await, 0, "the errant transaction is on {}", node.name);
        assert_eq!(node.number("SELECT COUNT(*) FROM trivet.t").await, 1, "{}", node.name);
    }

    // A complete outage: two are not enough, three are.
    group.nodes[0].run("INSERT INTO trivet.t VALUES (2), (3)").await;
    for node in &mut group.nodes {
        node.kill_mysqld();
    }
    for i in [2, 1] {
        group.nodes[i].start_mysqld();
    }
    for i in [2, 1] {
        let waiting = group.until(i, "waiting-for-members").await;
        assert!(waiting["reason"].as_str().unwrap().contains("node1 ("), "{waiting}");
        assert_eq!(group.status(i, "/primary").await, 503);
    }
    group.nodes[0].start_mysqld();
    group.until_whole().await;
    for node in &group.nodes {
        assert_eq!(node.number("SELECT COUNT(*) FROM trivet.t").await, 3, "{}", node.name);
    }
}
