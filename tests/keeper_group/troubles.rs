//! What can be wrong with one member, while the others go on: each is named, with what to do, and mended.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Group, signal};

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_is_named_and_mended() {
    let Some(mut group) = Group::start(3).await else { return };
    group.until_whole().await;
    a_full_disk(&mut group).await;
    wrong_certificates(&mut group).await;
    another_group(&mut group).await;
    the_same_uuid(&mut group).await;
    no_plugin(&mut group).await;
    a_hung_mysqld(&mut group).await;
    an_applier_that_fails(&mut group).await;
}

fn restart_keeper(group: &mut Group, i: usize) {
    group.nodes[i].stop_keeper();
    group.nodes[i].start_keeper();
}

/// The primary's disk is nearly full: the role goes to a member that has room, and does not come back.
async fn a_full_disk(group: &mut Group) {
    let full = group.until_whole().await;
    group.configure(full, |c| c["mysql"]["minimum_free"] = json!("8 EiB"));
    restart_keeper(group, full);
    group.until_warned(full, "MiB are free").await;
    let primary = group.until_primary_is_not(full).await;
    let name = group.nodes[full].name.clone();
    let back = group.trivet(primary, &["switchover", &name]);
    assert_eq!(back.status.code(), Some(1), "a full disk gets no role");
    group.configure(full, |_| {});
    restart_keeper(group, full);
    group.until_whole().await;
}

/// A keeper with a certificate of another authority: it and the others say so, and count one another as missing.
async fn wrong_certificates(group: &mut Group) {
    let stranger = group.strange_certificates(2);
    group.configure(2, |c| c["tls"] = json!(stranger));
    restart_keeper(group, 2);
    group.until_warned(0, "node3 and this node refuse one another").await;
    assert_eq!(group.status(0, "/health").await, 200, "the group itself goes on");
    group.configure(2, |_| {});
    restart_keeper(group, 2);
    group.until_whole().await;
}

/// A keeper that is configured for another group than its mysqld, and than its peers.
async fn another_group(group: &mut Group) {
    group.configure(2, |c| {
        c["group_name"] = json!("11111111-2222-3333-4444-555555555555");
        let state = c["state_directory"].as_str().unwrap().to_owned() + "-other";
        c["state_directory"] = json!(state);
    });
    restart_keeper(group, 2);
    let other = group.until(2, "misconfigured").await;
    assert!(other["reason"].as_str().unwrap().contains("mysqld belongs to group"), "{other}");
    group.until_warned(0, "node3 belongs to another group").await;
    group.configure(2, |_| {});
    restart_keeper(group, 2);
    group.until_whole().await;
}

/// A data directory that is a copy of another's.
async fn the_same_uuid(group: &mut Group) {
    group.nodes[2].stop_mysqld();
    let own = group.nodes[2].home.join("data/auto.cnf");
    std::fs::copy(group.nodes[1].home.join("data/auto.cnf"), &own).unwrap();
    group.nodes[2].start_mysqld();
    let twin = group.until(2, "misconfigured").await;
    let reason = twin["reason"].as_str().unwrap();
    assert!(reason.contains("node2 has the same server UUID") && reason.contains("auto.cnf"), "{reason}");
    group.nodes[2].stop_mysqld();
    std::fs::remove_file(own).unwrap();
    group.nodes[2].start_mysqld();
    group.until_whole().await;
}

async fn no_plugin(group: &mut Group) {
    group.nodes[2].stop_mysqld();
    let with = group.nodes[2].arguments.clone();
    group.nodes[2].arguments.retain(|a| a != "--plugin-load-add=group_replication.so");
    group.nodes[2].start_mysqld();
    let without = group.until(2, "misconfigured").await;
    assert!(
        without["reason"].as_str().unwrap().contains("plugin_load_add=group_replication.so"),
        "{without}"
    );
    group.nodes[2].stop_mysqld();
    group.nodes[2].arguments = with;
    group.nodes[2].start_mysqld();
    group.until_whole().await;
}

/// The primary's mysqld stops answering, as a machine does whose disk hangs. Its keeper goes on to answer, with no. A
/// transaction that was open there, and that somebody repeats at the new primary, does not keep it from coming back.
async fn a_hung_mysqld(group: &mut Group) {
    let hung = group.until_whole().await;
    group.nodes[hung].run("CREATE TABLE trivet.open (id INT PRIMARY KEY)").await;
    let mut open = group.nodes[hung].sql().await;
    sqlx::raw_sql("BEGIN; INSERT INTO trivet.open VALUES (1)").execute(&mut open).await.unwrap();
    let pid = group.nodes[hung].pid.load(std::sync::atomic::Ordering::SeqCst);
    signal(pid, "-STOP");
    let next = group.until_primary_is_not(hung).await;
    for path in ["/primary", "/replica", "/replica?max_lag=5s", "/health"] {
        assert_eq!(group.status(hung, path).await, 503, "{path}");
    }
    group.until(hung, "mysql-unreachable").await;
    // A command is refused, not kept waiting.
    let refused = group.trivet(hung, &["switchover"]);
    assert_eq!(refused.status.code(), Some(1));
    let prepared = group.trivet(hung, &["database", "prepare-stop"]);
    assert_eq!(prepared.status.code(), Some(0), "and a stop is not blocked");
    group.nodes[next].run("CREATE TABLE trivet.while_hung (id INT PRIMARY KEY)").await;
    group.nodes[next].run("INSERT INTO trivet.open VALUES (1)").await;
    signal(pid, "-CONT");
    // The thawed member believes in its role for a while; its keeper does not.
    for _ in 0..20 {
        assert_eq!(group.status(hung, "/primary").await, 503, "a former primary called itself one");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(group.until_whole().await, hung);
    assert_eq!(group.nodes[hung].number("SELECT COUNT(*) FROM trivet.while_hung").await, 0);
    assert_eq!(group.nodes[hung].number("SELECT COUNT(*) FROM trivet.open").await, 1);
    assert!(sqlx::raw_sql("COMMIT").execute(&mut open).await.is_err(), "it was ended");
}

/// A table that somebody made on the primary alone, past the binary log: the others cannot apply what is written to it.
async fn an_applier_that_fails(group: &mut Group) {
    let primary = group.until_whole().await;
    let alone = "SET SESSION sql_log_bin = 0; CREATE TABLE trivet.only_here (id INT PRIMARY KEY)";
    group.nodes[primary].run(alone).await;
    group.nodes[primary].run("INSERT INTO trivet.only_here VALUES (1)").await;
    let others: Vec<usize> = (0..3).filter(|i| *i != primary).collect();
    for i in &others {
        group.until_warned(*i, "Table 'trivet.only_here' doesn't exist").await;
        let said = group.health(*i).await;
        assert!(said["reason"].to_string().contains("only_here"), "{said}");
    }
    for i in others {
        let mend = format!("SET GLOBAL super_read_only = OFF; {alone}; SET GLOBAL super_read_only = ON");
        group.nodes[i].run(&mend).await;
    }
    group.until_whole().await;
}
