use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn example() -> Value {
    json!({
        "node": "node1",
        "cluster": "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001",
        "mysql": {
            "password_file": "/run/secrets/backup-password",
            "ca": "/run/secrets/ca.pem",
            "members": [{"name": "node1", "address": "10.0.0.1:3306"}, {"name": "node2", "address": "10.0.0.2:3306"}],
        },
        "key": {"identity_file": "/run/secrets/backup.key"},
        "repositories": {"main": {"folder": "/srv/backup"}},
    })
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut value = example();
    change(&mut value);
    config::parse::<Config>(Path::new("backup.json"), &value.to_string()).unwrap_err().to_string()
}

#[test]
fn two_lines_are_enough_for_the_rest_has_defaults() {
    let config: Config = config::parse(Path::new("backup.json"), &example().to_string()).unwrap();
    assert_eq!(config.base.every, Duration::from_hours(24));
    assert_eq!(config.retention.monthly, 12);
}

#[test]
fn what_cannot_be_meant_is_refused_with_key_and_remedy() {
    let cases: [(&str, Value, &str); 12] = [
        ("/node", json!("node9"), "node: node9 is none of mysql.members"),
        ("/cluster", json!("mine"), "cluster: must be the group's name"),
        ("/repositories", json!({}), "repositories: there is none"),
        ("/repositories", json!({"Main": {"folder": "/srv"}}), "at most 32 of a-z"),
        ("/repositories/main", json!({}), "repositories.main: needs one of folder, s3 and sftp"),
        ("/repositories/main", json!({"folder": "srv"}), "repositories.main.folder"),
        (
            "/repositories/main",
            json!({"folder": "/srv", "sftp": {"host": "h", "user": "u", "path": "p", "key_file": "/k"}}),
            "more than one",
        ),
        (
            "/repositories/main",
            json!({"sftp": {"host": "-oProxyCommand=x", "user": "u", "path": "p", "key_file": "/k"}}),
            "repositories.main.sftp.host",
        ),
        (
            "/repositories/main",
            json!({"s3": {"bucket": "b", "endpoint": "host", "access_key_file": "/a", "secret_key_file": "/s"}}),
            "repositories.main.s3.endpoint",
        ),
        ("/base", json!({"every": "0s"}), "base.every"),
        (
            "/retention",
            json!({"hourly": 0, "daily": 0, "weekly": 0, "monthly": 0}),
            "retention: keeps nothing",
        ),
        ("/stream", json!({"segment_size": "1 KiB"}), "stream.segment_size"),
    ];
    for (pointer, value, said) in cases {
        let refused = refusal(|example| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            example.pointer_mut(parent).unwrap()[key] = value.clone();
        });
        assert!(refused.contains(said), "{pointer} = {value}: {refused}");
    }
}
