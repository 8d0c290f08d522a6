use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "name": "trivet",
        "domain": "www.foobar.com",
        "certificate_names": ["foobar.com"],
        "virtual_addresses": ["10.77.0.50"],
        "ca": "/var/lib/trivet/secrets/ca.pem",
        "nodes": [
            {"name": "node1", "address": "10.77.0.11", "roles": ["balancer", "app", "database", "monitoring"]},
            {"name": "node2", "address": "10.77.0.12", "roles": ["database"]}
        ]
    })
}

fn parse(value: &Value) -> Result<Cluster, String> {
    config::parse(Path::new("cluster.json"), &value.to_string()).map_err(|e| e.to_string())
}

#[test]
fn a_good_file_is_read() {
    let c = parse(&good()).unwrap();
    assert_eq!(c.with(Role::Database).count(), 2);
    assert_eq!(c.with(Role::Balancer).map(|n| n.name.as_str()).collect::<Vec<_>>(), ["node1"]);
}

#[test]
fn each_wrong_value_names_its_key_and_the_remedy() {
    for (pointer, value, expected) in [
        ("/name", json!(""), "name: must have 1 to 64"),
        ("/domain", json!("www foobar"), "domain: \"www foobar\" is not a domain name"),
        (
            "/certificate_names",
            json!(["foobar.com", "foo bar"]),
            "certificate_names[1]: \"foo bar\" is not a domain name",
        ),
        ("/certificate_names", json!(["a.*.com"]), "certificate_names[0]: \"a.*.com\" is not a domain name"),
        (
            "/certificate_names",
            json!(["www.foobar.com"]),
            "certificate_names: \"www.foobar.com\" stands here twice",
        ),
        ("/ca", json!("ca.pem"), "ca: \"ca.pem\" is not an absolute path"),
        ("/nodes", json!([]), "nodes: is empty"),
        ("/nodes/1/name", json!("node1"), "nodes: \"node1\" stands here twice"),
        ("/nodes/1/name", json!("../node2"), "nodes[1].name: \"../node2\" cannot name a node"),
        ("/nodes/1/name", json!("ca"), "nodes[1].name: \"ca\" cannot name a node"),
        ("/nodes/1/address", json!("10.77.0.11"), "nodes[1].address: node1 and node2 have the same address"),
        ("/nodes/1/address", json!("127.0.0.1"), "nodes[1].address: 127.0.0.1 is no address"),
        ("/nodes/1/address", json!("node2"), "nodes[1].address: invalid IP address"),
        ("/nodes/1/roles", json!([]), "nodes[1].roles: is empty"),
        ("/nodes/1/roles", json!(["db"]), "nodes[1].roles[0]: unknown variant `db`"),
        (
            "/virtual_addresses",
            json!(["10.77.0.12"]),
            "virtual_addresses[0]: 10.77.0.12 is node2's own address",
        ),
        (
            "/virtual_addresses",
            json!(["10.77.0.50", "10.77.0.50"]),
            "virtual_addresses[1]: 10.77.0.50 stands",
        ),
    ] {
        let mut c = good();
        *c.pointer_mut(pointer).unwrap() = value;
        let e = parse(&c).expect_err(pointer);
        assert!(e.starts_with(&format!("cluster.json: {expected}")), "{pointer}: {e}");
    }
}
