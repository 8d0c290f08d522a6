use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "node": "node1",
        "listen": ["10.77.0.11:8443"],
        "metrics": {"listen": "10.77.0.11:9602"},
        "tls": {"ca": "/s/ca.pem", "certificate": "/s/node.pem", "key": "/s/node.key"},
        "static": {"root": "/var/lib/trivet/www"},
        "app": {"address": "127.0.0.1:8081"},
        "peers": {"backends": [
            {"name": "node2", "address": "10.77.0.12:8443"},
            {"name": "node3", "address": "10.77.0.13:8443"}
        ]}
    })
}

fn parse(value: &Value) -> Result<Config, String> {
    config::parse(Path::new("/etc/trivet/web.json"), &value.to_string()).map_err(|e| e.to_string())
}

/// The error after setting `pointer` (RFC 6901) to `value`.
fn error(pointer: &str, value: Value) -> String {
    let mut c = good();
    match c.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            c.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    parse(&c).expect_err(pointer)
}

#[test]
fn defaults_are_the_documented_ones() {
    let c = parse(&good()).unwrap();
    assert_eq!(c.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(c.files.max_memory_file, ByteSize::mib(1));
    assert_eq!(c.files.index, "index.html");
    assert_eq!(c.app.health.path, "/healthz");
    assert_eq!(c.app.connect_timeout, Duration::from_millis(300));
    assert_eq!(c.limits.max_connections, 10_000);
}

#[test]
fn peers_may_be_absent() {
    let mut c = good();
    c.as_object_mut().unwrap().remove("peers");
    assert!(parse(&c).unwrap().peers.backends.is_empty());
}

#[test]
fn each_wrong_value_names_file_key_and_reason() {
    for (pointer, value, expected) in [
        ("/node", json!(""), "node: is empty"),
        ("/listen", json!([]), "listen: is empty; name at least one"),
        ("/listen", json!(["10.77.0.11"]), "listen[0]: invalid socket address"),
        (
            "/listen",
            json!(["10.77.0.11:8443", "10.77.0.11:8443"]),
            "listen: 10.77.0.11:8443 stands here twice",
        ),
        ("/listen", json!(["10.77.0.11:9602"]), "listen: 10.77.0.11:9602 stands here twice"),
        ("/tls/key", json!("node.key"), "tls.key: \"node.key\" is not an absolute path"),
        ("/static/root", json!("www"), "static.root: \"www\" is not an absolute path"),
        ("/static/index", json!("../x"), "static.index: must be the name"),
        ("/static/cache_control", json!("a\nb"), "static.cache_control: "),
        ("/static/max_memory_file", json!("much"), "static.max_memory_file: "),
        (
            "/app/address",
            json!("10.77.0.12:8081"),
            "app.address: 10.77.0.12:8081 is neither a loopback address",
        ),
        (
            "/app/address",
            json!("app.internal:80"),
            "app.address: app.internal:80 is neither a loopback address",
        ),
        ("/app/address", json!("127.0.0.1:0"), "app.address: 127.0.0.1:0 has port 0"),
        ("/app/address", json!("unix:app.sock"), "app.address: \"unix:app.sock\" is no absolute path"),
        ("/app/response_timeout", json!("0s"), "app.response_timeout: must be longer than zero"),
        ("/app/health", json!({"path": "healthz"}), "app.health.path: \"healthz\" is no path"),
        ("/app/health", json!({"fall": 0}), "app.health.fall: must be at least 1"),
        ("/limits", json!({"max_connections": 0}), "limits.max_connections: must be at least 1"),
        ("/limits", json!({"max_header_size": 0}), "limits.max_header_size: must be at least 1"),
        ("/limits", json!({"max_header_fields": 281}), "limits.max_header_fields: must be between 1 and 280"),
        (
            "/limits",
            json!({"max_header_size": "16KiB", "max_target_length": "17KiB"}),
            "limits.max_target_length: is 17.0 KiB, larger than limits.max_header_size, 16.0 KiB",
        ),
        (
            "/limits",
            json!({"max_connections": 9_000_000_000_000_000_000u64}),
            "limits.max_connections: is 9000000000000000000, but this process may open",
        ),
        ("/app/idle_timeout", json!("0s"), "app.idle_timeout: must be longer than zero"),
        ("/peers/backends/0/name", json!("node1"), "peers.backends[0].name: \"node1\" is this node itself"),
        ("/peers/backends/0/name", json!("node3"), "peers.backends: \"node3\" stands here twice"),
        (
            "/peers/backends/0/name",
            json!("no de"),
            "peers.backends[0]: \"no de\" cannot stand in a certificate",
        ),
        ("/statik", json!({}), "statik: unknown field `statik`"),
    ] {
        let e = error(pointer, value);
        assert!(e.starts_with(&format!("/etc/trivet/web.json: {expected}")), "{pointer}: {e}");
        assert!(!e.contains('\n'), "{e}");
    }
}
