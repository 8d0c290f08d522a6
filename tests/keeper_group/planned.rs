//! Planned work: the role moves when it is asked to, and before its mysqld stops.

use serde_json::Value;

use crate::harness::{Group, said};

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
