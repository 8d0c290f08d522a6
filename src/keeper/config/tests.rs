use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    let member = |i: u8| json!({"name": format!("node{i}"), "mysql": format!("10.77.0.1{i}:3306"), "keeper": format!("10.77.0.1{i}:8008")});
    json!({
        "node": "node1",
        "group_name": "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001",
        "listen": "10.77.0.11:8008",
        "tls": {"ca": "/s/ca.pem", "certificate": "/s/node.pem", "key": "/s/node.key"},
        "mysql": {"replication_password_file": "/s/replication-password", "app_password_file": "/s/app-password"},
        "members": [member(1), member(2), member(3)]
    })
}

fn parse(value: &Value) -> Result<Config, String> {
    config::parse(Path::new("/etc/trivet/keeper.json"), &value.to_string()).map_err(|e| e.to_string())
}

/// The error after setting `pointer` (RFC 6901) to `value`.
fn error(pointer: &str, value: Value) -> String {
    let mut c = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = c.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        _ => parent[key] = value,
    }
    parse(&c).expect_err(pointer)
}

#[test]
fn defaults_are_the_documented_ones() {
    let c = parse(&good()).unwrap();
    assert_eq!(c.metrics.listen.to_string(), "127.0.0.1:9604");
    assert_eq!(c.state_directory, Path::new("/var/lib/trivet-keeper"));
    assert_eq!(c.mysql.socket, Path::new("/run/mysqld/mysqld.sock"));
    assert_eq!(c.mysql.user, "trivet-keeper");
    assert_eq!(c.mysql.replication_user, "trivet_replication");
    assert_eq!(c.mysql.app_user, "trivet_app");
    assert_eq!(c.mysql.app_database, "trivet");
    assert_eq!(c.mysql.exporter_user, None);
    assert_eq!(c.timing.observe, Duration::from_millis(250));
    assert_eq!(c.timing.stale, Duration::from_secs(1));
    assert_eq!(c.peers().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["node2", "node3"]);
}

#[test]
fn every_mistake_is_named_with_its_key() {
    let long = "x".repeat(33);
    for (pointer, value, expected) in [
        ("/node", json!("node9"), "node: \"node9\" is not among the members"),
        ("/group_name", json!("trivet"), "group_name: \"trivet\" is not a UUID"),
        ("/group_name", json!("6F0B1E6E-7D0A-4B7E-9F43-0A77A1AB0001"), "group_name:"),
        ("/members", json!([]), "members: is empty"),
        ("/members/1/name", json!("node1"), "members: \"node1\" stands here twice"),
        (
            "/members/1/mysql",
            json!("10.77.0.11:3306"),
            "members.mysql: \"10.77.0.11:3306\" stands here twice",
        ),
        ("/members/1/keeper", json!("10.77.0.11:8008"), "members.keeper:"),
        ("/members/1/keeper", json!("node2:8008"), "members[1].keeper:"),
        ("/members/1/name", json!("node 2"), "members[1].name:"),
        ("/tls/ca", json!("ca.pem"), "tls.ca: \"ca.pem\" is not an absolute path"),
        ("/state_directory", json!("state"), "state_directory:"),
        ("/mysql/socket", json!("mysqld.sock"), "mysql.socket:"),
        ("/mysql/app_user", json!("o'neill"), "mysql.app_user:"),
        ("/mysql/app_user", json!(long), "mysql.app_user:"),
        ("/mysql/app_user", json!("trivet_replication"), "mysql: \"trivet_replication\" stands here twice"),
        ("/mysql/app_database", json!("mysql"), "mysql.app_database: is one of MySQL's own"),
        (
            "/mysql/app_database",
            json!("trivet_cluster"),
            "mysql.app_database: is the database of Trivet's own",
        ),
        ("/mysql/app_password", json!("secret"), "mysql.app_password"),
        ("/timing", json!({"stale": "300ms"}), "timing.stale: must be at least twice"),
        ("/timing", json!({"observe": "0s"}), "timing.observe: must be longer"),
        ("/shutdown_timeout", json!("soon"), "shutdown_timeout"),
    ] {
        let e = error(pointer, value);
        assert!(e.contains(expected), "{pointer}: {e:?} does not contain {expected:?}");
        assert!(e.starts_with("/etc/trivet/keeper.json: "), "{e}");
    }
}
