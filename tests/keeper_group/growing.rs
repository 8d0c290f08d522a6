//! A replaced node, and a fourth and a fifth: each comes in by itself.

use crate::harness::{Group, copy_folder};

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_and_an_added_member_are_cloned_without_a_hand() {
    let Some(mut group) = Group::start(3).await else { return };
    let primary = group.until_whole().await;
    group.nodes[primary]
        .run("CREATE TABLE trivet.t (id INT PRIMARY KEY); INSERT INTO trivet.t VALUES (1), (2)")
        .await;

    // A new machine in node3's place: no data, and no keeper that remembers anything.
    group.nodes[2].kill_mysqld();
    group.nodes[2].stop_keeper();
    for old in ["data", "state"] {
        std::fs::remove_dir_all(group.nodes[2].home.join(old)).unwrap();
    }
    copy_folder(&group.template, &group.nodes[2].home.join("data"));
    group.nodes[2].start_mysqld();
    group.nodes[2].start_keeper();
    group.until_whole().await;
    assert_eq!(group.nodes[2].number("SELECT COUNT(*) FROM trivet.t").await, 2);

    // Two more in the cluster's configuration. The new nodes start while the old keepers still know three members, and no
    // mysqld is restarted.
    let uptime = "SELECT CAST(variable_value AS SIGNED) FROM performance_schema.global_status WHERE variable_name = 'Uptime'";
    let before = group.nodes[0].number(uptime).await;
    group.add(2);
    for i in [3, 4] {
        group.nodes[i].start_mysqld();
        group.nodes[i].start_keeper();
        group.until(i, "online").await;
    }
    group.until_warned(0, "not in the configuration of this node").await;
    for i in 0..3 {
        group.nodes[i].stop_keeper();
        group.nodes[i].start_keeper();
    }
    group.until_whole().await;
    assert!(group.nodes[0].number(uptime).await >= before, "mysqld of node1 was restarted");
    group.until_field(0, "warnings", &serde_json::json!([])).await;
    for node in &group.nodes {
        assert_eq!(node.number("SELECT COUNT(*) FROM trivet.t").await, 2, "{}", node.name);
    }

    // Five survive the loss of two.
    let primary = group.until_whole().await;
    let others: Vec<usize> = (0..5).filter(|i| *i != primary).collect();
    for i in &others[..2] {
        group.nodes[*i].kill_mysqld();
    }
    group.nodes[primary].run("INSERT INTO trivet.t VALUES (3)").await;
    for i in &others[..2] {
        group.nodes[*i].start_mysqld();
    }
    group.until_whole().await;
}
