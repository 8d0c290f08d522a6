//! Planned work: the role moves when it is asked to, and before its mysqld stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use serde_json::Value;
use sqlx::mysql::MySqlDatabaseError;

use crate::harness::{Gateway, Group, PATIENCE, said};

#[tokio::test(flavor = "multi_thread")]
async fn the_role_moves_on_command_and_before_a_stop() {
    let Some(mut group) = Group::start(3).await else { return };
    assert_eq!(group.until_whole().await, 0);
    group.nodes[0].run("CREATE TABLE trivet.t (id INT AUTO_INCREMENT PRIMARY KEY)").await;

    // Asked for by name, on any node.
    let done = group.trivet(2, &["switchover", "node2"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(said(&done).starts_with("node2 is the primary now, after node1"), "{}", said(&done));
    // When the command says so it is so: the gateways' question is answered with yes, and writes are taken.
    assert_eq!(group.status(1, "/primary").await, 200);
    assert_eq!(group.status(0, "/primary").await, 503);
    group.nodes[1].run("INSERT INTO trivet.t VALUES ()").await;

    // Asked for again: nothing to do, and no error, so that scripts may repeat it.
    let again = group.trivet(0, &["switchover", "node2", "--json"]);
    let answer: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((again.status.code(), &answer["primary"]), (Some(0), &Value::from("node2")), "{answer}");

    // Refusals are told, and change nothing.
    let unknown = group.trivet(0, &["switchover", "node7"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("\"node7\" is no member"), "{}", said(&unknown));
    group.nodes[2].stop_keeper();
    let silent = group.trivet(2, &["switchover"]);
    assert_eq!(silent.status.code(), Some(1));
    assert!(said(&silent).contains("no keeper listens"), "{}", said(&silent));
    group.nodes[2].start_keeper();
    group.until(2, "online").await;
    assert_eq!(group.until_whole().await, 1);

    // Before a stop of the primary's mysqld the role goes elsewhere by itself, and the member gets no more reads.
    let stop = group.trivet(1, &["database", "prepare-stop"]);
    assert_eq!(stop.status.code(), Some(0), "{}", said(&stop));
    assert!(said(&stop).contains("is the primary now"), "{}", said(&stop));
    assert_eq!((group.status(1, "/primary").await, group.status(1, "/replica").await), (503, 503));
    group.until_field(1, "leaving", &Value::from(true)).await;
    group.nodes[1].stop_mysqld();
    let primary = group.until_primary_is_not(1).await;
    group.nodes[primary].run("INSERT INTO trivet.t VALUES ()").await;
    // It comes back, and is a replica like any other.
    group.nodes[1].start_mysqld();
    assert_eq!(group.until_whole().await, primary);
    assert_eq!(group.status(1, "/replica").await, 200);
    assert_eq!(group.nodes[1].number("SELECT COUNT(*) FROM trivet.t").await, 2);

    // A stop is prepared, whatever is broken, and never fails.
    for i in [0, 1, 2] {
        if i != primary {
            group.nodes[i].stop_mysqld();
        }
    }
    let last = group.trivet(primary, &["database", "prepare-stop"]);
    assert_eq!(last.status.code(), Some(0), "{}", said(&last));
    assert!(said(&last).contains("not handed over"), "{}", said(&last));
    group.nodes[primary].stop_keeper();
    let silent = group.trivet(primary, &["database", "prepare-stop"]);
    assert_eq!(silent.status.code(), Some(0), "{}", said(&silent));
    assert!(said(&silent).contains("without a hand-over"), "{}", said(&silent));
}

/// A client that writes without pause through the gateway, and connects anew when its connection has ended.
struct Writer {
    acknowledged: Arc<AtomicI64>,
    /// Connections that have ended under it.
    ended: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    /// Every error that MySQL, or the gateway, has sent.
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(gateway: &Arc<Gateway>) -> Self {
        let (acknowledged, ended) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (gateway, done, lost, stopped) =
            (gateway.clone(), acknowledged.clone(), ended.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut said = Vec::new();
            let mut note = |e: &sqlx::Error| {
                if let Some(d) = e.as_database_error() {
                    said.push(format!("{}: {d}", d.downcast_ref::<MySqlDatabaseError>().number()));
                }
            };
            while !stopped.load(Ordering::SeqCst) {
                let mut connection = match gateway.connect().await {
                    Ok(connection) => connection,
                    Err(e) => {
                        note(&e);
                        continue;
                    }
                };
                while !stopped.load(Ordering::SeqCst) {
                    match sqlx::query("INSERT INTO t VALUES ()").execute(&mut connection).await {
                        Ok(_) => _ = done.fetch_add(1, Ordering::SeqCst),
                        Err(e) => {
                            note(&e);
                            lost.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                    }
                }
            }
            said
        });
        Self { acknowledged, ended, stop, task }
    }

    /// Waits until it has written again.
    async fn goes_on(&self) {
        let (begun, before) = (Instant::now(), self.acknowledged.load(Ordering::SeqCst));
        while self.acknowledged.load(Ordering::SeqCst) < before + 5 {
            assert!(begun.elapsed() < PATIENCE, "nothing is written any more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_while_the_role_moves_meets_a_closed_connection_and_no_error_of_mysqls() {
    let Some(group) = Group::start(3).await else { return };
    assert_eq!(group.until_whole().await, 0);
    group.nodes[0].run("CREATE TABLE trivet.t (id INT AUTO_INCREMENT PRIMARY KEY)").await;
    let gateway = Arc::new(group.gateway().await);
    let writers: Vec<Writer> = (0..4).map(|_| Writer::start(&gateway)).collect();
    let mut idle = gateway.connect().await.unwrap();

    // On the primary's own node, on another one, and before a stop.
    let moves: [(usize, &[&str]); 3] =
        [(0, &["switchover", "node2"]), (0, &["switchover", "node3"]), (2, &["database", "prepare-stop"])];
    for (node, command) in moves {
        for writer in &writers {
            writer.goes_on().await;
        }
        let before: Vec<i64> = writers.iter().map(|w| w.ended.load(Ordering::SeqCst)).collect();
        let done = tokio::task::block_in_place(|| group.trivet(node, command));
        assert!(done.status.success() && said(&done).contains("is the primary now"), "{}", said(&done));
        for (writer, before) in writers.iter().zip(before) {
            writer.goes_on().await;
            assert!(writer.ended.load(Ordering::SeqCst) > before, "the gateway lets go of it");
        }
    }
    assert!(sqlx::query("SELECT 1").execute(&mut idle).await.is_err(), "and of those who do nothing");
    let mut acknowledged = 0;
    for writer in writers {
        writer.stop.store(true, Ordering::SeqCst);
        assert_eq!(writer.task.await.unwrap(), Vec::<String>::new());
        acknowledged += writer.acknowledged.load(Ordering::SeqCst);
    }
    let primary = group.until_primary_is_not(2).await;
    let rows = group.nodes[primary].number("SELECT COUNT(*) FROM trivet.t").await;
    assert!(rows >= acknowledged, "{rows} rows of {acknowledged} that were acknowledged");
}
