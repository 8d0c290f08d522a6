use super::*;

fn read(json: serde_json::Value) -> Result<HealthConfig, String> {
    let config: HealthConfig = serde_json::from_value(json).map_err(|e| e.to_string())?;
    config.validate("health", false).map_err(|e| format!("{}: {}", e.key, e.reason))?;
    Ok(config)
}

#[test]
fn what_cannot_be_checked_is_refused_with_its_key() {
    for (json, expected) in [
        (serde_json::json!({"kind": "udp"}), "unknown variant `udp`"),
        (serde_json::json!({"kind": "tcp", "path": "/x"}), "health.path: says nothing where kind is \"tcp\""),
        (serde_json::json!({"kind": "tcp", "contains": ""}), "health.contains: is empty"),
        (serde_json::json!({"kind": "tcp", "send": ""}), "health.send: is empty"),
        (serde_json::json!({"send": "PING"}), "health.send: says nothing where kind is \"http\""),
        (serde_json::json!({"method": "POST"}), "health.method: \"POST\" is not GET, HEAD or OPTIONS"),
        (serde_json::json!({"path": "healthz"}), "health.path: \"healthz\" is no path"),
        (serde_json::json!({"host": "a b"}), "health.host: \"a b\" is no host name"),
        (serde_json::json!({"host": "a", "site": "b"}), "health.host: and site both say"),
        (
            serde_json::json!({"fields": {"Host": "a"}}),
            "health.fields.Host: cannot be set: host is a key of its own",
        ),
        (serde_json::json!({"fields": {"Transfer-Encoding": "chunked"}}), "cannot be set"),
        (serde_json::json!({"fields": {"x": "a\r\nb: c"}}), "cannot stand in a request"),
        (serde_json::json!({"fields": {"x y": "a"}}), "cannot stand in a request"),
        (serde_json::json!({"status": []}), "health.status: is empty"),
        (serde_json::json!({"status": ["399-200"]}), "health.status: \"399-200\" is neither"),
        (serde_json::json!({"status": ["2xx"]}), "health.status: \"2xx\" is neither"),
        (serde_json::json!({"contains": ""}), "health.contains: is empty"),
        (serde_json::json!({"method": "HEAD", "contains": "ok"}), "health.contains: needs a body"),
        (serde_json::json!({"port": 0}), "health.port: is no port"),
        (serde_json::json!({"tls": true}), "health.tls: is true, and the pool has no tls"),
        (serde_json::json!({"jitter": 51}), "health.jitter: is a percentage from 0 to 50"),
        (serde_json::json!({"fast_interval": "1s"}), "health.fast_interval: is longer than the interval"),
        (serde_json::json!({"fast_interval": "0s"}), "health.fast_interval: must be longer than zero"),
    ] {
        let said = read(json.clone()).unwrap_err();
        assert!(said.contains(expected), "{json}: {said}");
    }
}

#[test]
fn statuses_are_single_or_from_one_to_another() {
    let config = read(serde_json::json!({"status": ["200-299", "401"]})).unwrap();
    let good = |code: u16| config.expected().status.iter().any(|range| range.contains(&code));
    assert!(good(200) && good(299) && good(401));
    assert!(!good(199) && !good(300) && !good(400) && !good(402));
}
