//! The defaults that the documents tell, and those that the NixOS modules reckon with, are those of the programs: a documented
//! key that is set to its documented default changes nothing, and no key is left undocumented.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use trivet_app as app;
use trivet_backup as backup;
use trivet_balancer as balancer;
use trivet_base::config::{self, Validate};
use trivet_web as web;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

fn balancer_config() -> Value {
    let tls = json!({"ca": "/c/ca.pem", "certificate": "/c/node.pem", "key": "/c/node.key"});
    json!({
        "node": "node1",
        "domain": "www.foobar.com",
        "http": {"listen": ["[::]:80"]},
        "https": {"listen": ["[::]:443"], "certificate": "/c/site.pem", "key": "/c/site.key"},
        "web": {
            "backends": [{"name": "node1", "address": "10.77.0.11:8443"}],
            "tls": tls,
            "circuit_breaker": {},
            "sticky": {"cookie": "backend", "secret": "/c/sticky.secret"},
        },
        "local_check": {"listen": "127.0.0.1:9611"},
        "control": {"socket": "/run/control.sock"},
        "database": {
            "write_listen": ["127.0.0.1:6446"],
            "members": [{"name": "node1", "address": "10.77.0.11:3306", "keeper": "10.77.0.11:8008"}],
            "tls": tls,
        },
    })
}

/// The same, with a service of another protocol.
fn with_service() -> Value {
    let mut config = balancer_config();
    config["tcp"] = json!({"mail": {
        "listen": ["[::]:25"],
        "pool": {"backends": [{"name": "mail1", "address": "10.77.0.21:25"}], "circuit_breaker": {}},
    }});
    config
}

fn web_config() -> Value {
    json!({
        "node": "node1",
        "listen": ["10.77.0.11:8443"],
        "tls": {"ca": "/c/ca.pem", "certificate": "/c/node.pem", "key": "/c/node.key"},
        "static": {"root": "/www"},
        "app": {"address": "127.0.0.1:8081"},
    })
}

/// A configuration as the program has it.
fn read<C: DeserializeOwned + Validate + Debug>(config: &Value) -> Result<String, String> {
    let path = Path::new("config.json");
    config::parse::<C>(path, &config.to_string()).map(|c| format!("{c:#?}")).map_err(|e| e.to_string())
}

/// The place of a dotted key, made where it is missing.
fn place<'a>(config: &'a mut Value, key: &str) -> &'a mut Value {
    key.split('.').filter(|part| !part.is_empty()).fold(config, |at, part| {
        if at.is_null() {
            *at = json!({});
        }
        &mut at[part]
    })
}

/// Setting `key` to what is said to be its default changes nothing.
fn is_default<C: DeserializeOwned + Validate + Debug>(config: &Value, key: &str, value: &Value) {
    let mut set = config.clone();
    *place(&mut set, key) = value.clone();
    let expected = read::<C>(config).unwrap();
    let got = read::<C>(&set).unwrap_or_else(|e| panic!("{key} = {value}: {e}"));
    assert!(got == expected, "{value} is not the default of {key}:\n{}", differences(&expected, &got));
}

fn differences(a: &str, b: &str) -> String {
    let lines = a.lines().zip(b.lines()).filter(|(a, b)| a != b);
    lines.take(4).map(|(a, b)| format!("  {} / {}", a.trim(), b.trim())).collect::<Vec<_>>().join("\n")
}

/// The keys of a section, from the words in which an unknown one is refused.
fn keys_of<C: DeserializeOwned + Validate + Debug>(config: &Value, section: &str) -> BTreeSet<String> {
    let mut asked = config.clone();
    place(&mut asked, section)["no_such_key"] = json!(1);
    let refused = read::<C>(&asked).expect_err(section);
    let (_, expected) = refused.split_once("expected ").unwrap_or_else(|| panic!("{section}: {refused}"));
    let names = expected.split('`').skip(1).step_by(2);
    names.map(|name| if section.is_empty() { name.into() } else { format!("{section}.{name}") }).collect()
}

fn backticked(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// As in TOML, or, where quotes are left out, a text.
fn value(text: &str) -> Value {
    let table: Result<Value, _> = toml::from_str(&format!("it = {text}"));
    table.map_or_else(|_| json!(text), |t| t["it"].clone())
}

/// `(keys, defaults)` of each row of the tables that have both; keys are dotted, below the last `**[section]**`.
fn rows(text: &str) -> Vec<(Vec<String>, Vec<Value>)> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in text.lines().filter(|l| l.starts_with("| ")) {
        let line = line.replace("\\|", "/");
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let &[first, defaults, ..] = cells.as_slice() else { continue };
        if let Some(name) = first.strip_prefix("**`[").and_then(|f| f.strip_suffix("]`**")) {
            section = format!("{name}.");
            continue;
        }
        let mut keys: Vec<String> = Vec::new();
        for key in backticked(first) {
            let key = key.split(" = ").next().unwrap();
            // `health.rise`, `.fall`
            let key = match (key.strip_prefix('.'), keys.last()) {
                (Some(short), Some(last)) => format!("{}.{short}", last.rsplit_once('.').unwrap().0),
                _ => format!("{section}{key}"),
            };
            keys.push(key);
        }
        let defaults = if defaults.starts_with("absent") { Vec::new() } else { backticked(defaults) };
        found.push((keys, defaults.into_iter().map(value).collect()));
    }
    found
}

/// Checks every row of a document, but for `others`, whose default is not one value. Returns the keys it names.
fn check_rows<C: DeserializeOwned + Validate + Debug>(
    config: &Value,
    rows: Vec<(Vec<String>, Vec<Value>)>,
    others: &[&str],
) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (keys, defaults) in rows {
        for (i, key) in keys.iter().enumerate() {
            named.insert(key.clone());
            if defaults.is_empty() || others.contains(&key.as_str()) {
                continue;
            }
            // One value for all, or one for each.
            let default = if defaults.len() == keys.len() { &defaults[i] } else { &defaults[0] };
            is_default::<C>(config, key, default);
        }
    }
    named
}

fn none_missing(document: &str, keys: &BTreeSet<String>, named: &BTreeSet<String>) {
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !named.contains(*key) && !named.iter().any(|n| n.starts_with(&format!("{key}."))))
        .collect();
    assert!(missing.is_empty(), "{document} does not tell of {missing:?}");
}

#[test]
fn balancer_md_tells_every_key_and_its_default() {
    let text = document("balancer.md");
    let table = text.split("| key | default |").nth(1).unwrap().split("\n\n").next().unwrap();
    // Another where there is no `[web]`, the domain, the port that is listened on, either of two.
    let others =
        ["metrics.listen", "https.server_names", "http.redirect_port", "https.certificate", "https.key"];
    let named = check_rows::<balancer::config::Config>(&balancer_config(), rows(table), &others);
    assert!(named.len() > 60, "{named:?}");
    let sections = [
        "",
        "http",
        "https",
        "https.tls",
        "web",
        "web.health",
        "web.outliers",
        "web.sticky",
        "web.retry_budget",
        "web.circuit_breaker",
        "local_check",
        "control",
        "database",
        "database.health",
        "log",
    ];
    for section in sections {
        none_missing(
            "balancer.md",
            &keys_of::<balancer::config::Config>(&balancer_config(), section),
            &named,
        );
    }
}

#[test]
fn sites_md_tells_every_key_and_its_default() {
    let text = document("sites.md");
    let tables: Vec<&str> =
        text.split("\n| key of ").skip(1).map(|t| t.split("\n\n").next().unwrap()).collect();
    let [sites, limits, routes] = tables.as_slice() else { panic!("{} tables", tables.len()) };
    let below = |table: &str, section: &str| {
        let keys = |keys: Vec<String>| keys.into_iter().map(|key| format!("{section}.{key}")).collect();
        rows(table).into_iter().map(|(k, defaults)| (keys(k), defaults)).collect::<Vec<_>>()
    };
    let mut config = balancer_config();
    config["sites"] = json!({"shop": {"names": ["shop.example"]}});
    let named =
        check_rows::<balancer::config::Config>(&config, below(sites, "sites.shop"), &["sites.shop.names"]);
    none_missing("sites.md", &keys_of::<balancer::config::Config>(&config, "sites.shop"), &named);

    let named = below(limits, "limits").into_iter().flat_map(|(keys, _)| keys).collect();
    none_missing("sites.md", &keys_of::<balancer::config::Config>(&config, "limits"), &named);

    config["routes"] = json!([{"refuse": 403, "no_such_key": 1}]);
    let refused = read::<balancer::config::Config>(&config).unwrap_err();
    let (_, expected) = refused.split_once("expected one of ").unwrap();
    let keys = expected.split('`').skip(1).step_by(2).map(|key| format!("routes.{key}")).collect();
    let named = below(routes, "routes").into_iter().flat_map(|(keys, _)| keys).collect();
    none_missing("sites.md", &keys, &named);
}

#[test]
fn tcp_md_tells_every_key_and_its_default() {
    let text = document("tcp.md");
    let table = text.split("| key | default |").nth(1).unwrap().split("\n\n").next().unwrap();
    let config = with_service();
    let others = ["tcp.mail.listen", "tcp.mail.pool", "tcp.mail.pool.backends"];
    let named = check_rows::<balancer::config::Config>(&config, rows(table), &others);
    assert!(named.contains("tcp.mail.pool.health.kind"), "{named:?}");
    for section in ["tcp.mail", "tcp.mail.pool"] {
        none_missing("tcp.md", &keys_of::<balancer::config::Config>(&config, section), &named);
    }
}

#[test]
fn limits_md_and_tls_md_tell_the_balancers_defaults() {
    let text = document("limits.md");
    let (_, table) = text.split_once("| key | default |").unwrap();
    let rows_of_https = |table: &str| {
        let below = |keys: Vec<String>| {
            keys.into_iter().map(|k| if k.starts_with("web.") { k } else { format!("https.{k}") }).collect()
        };
        rows(table).into_iter().map(|(keys, defaults)| (below(keys), defaults)).collect()
    };
    let table = table.split("\n\n").next().unwrap();
    let named = check_rows::<balancer::config::Config>(&balancer_config(), rows_of_https(table), &[]);
    assert!(named.contains("https.max_body_size"), "{named:?}");
    let frames = text.split("\nhttp2_frames = ").nth(1).unwrap().lines().next().unwrap();
    is_default::<balancer::config::Config>(&balancer_config(), "https.http2_frames", &value(frames));

    let text = document("tls.md");
    let table = text.split("| key | default |").nth(1).unwrap().split("\n\n").next().unwrap();
    let named = check_rows::<balancer::config::Config>(&balancer_config(), rows(table), &[]);
    assert!(named.contains("https.tls.alpn"), "{named:?}");
}

#[test]
fn web_md_tells_every_key_and_its_default() {
    let text = document("web.md");
    let block = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    // What stands in it as a comment is absent unless it is set.
    let known: Value = toml::from_str(block).unwrap();
    let commented: Vec<&str> =
        block.lines().filter_map(|l| l.strip_prefix("# ")?.split_once(" = ").map(|(key, _)| key)).collect();
    let required =
        ["node", "listen", "tls", "static.root", "app.address", "peers.backends", "metrics.listen"];
    let mut named = BTreeSet::new();
    for (section, keys) in known.as_object().unwrap() {
        let keys = match keys.as_object() {
            Some(keys) => keys.iter().map(|(key, v)| (format!("{section}.{key}"), v)).collect(),
            None => vec![(section.clone(), keys)],
        };
        for (key, value) in keys {
            if !required.iter().any(|r| key == *r || key.starts_with(&format!("{r}."))) {
                is_default::<web::config::Config>(&web_config(), &key, value);
            }
            named.insert(key);
        }
    }
    let mut section = String::new();
    for line in block.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.strip_prefix("# ").and_then(|l| l.split_once(" = ")) {
            assert!(commented.contains(&key));
            named.insert(format!("{section}{key}"));
        }
    }
    for section in ["", "static", "app", "app.health", "peers", "limits", "log"] {
        let keys = keys_of::<web::config::Config>(&web_config(), section);
        let keys = keys.into_iter().filter(|k| !k.starts_with("app.health.")).collect();
        none_missing("web.md", &keys, &named);
    }
}

#[test]
fn app_md_tells_the_apps_defaults() {
    let text = document("app.md");
    let table = text.split("## Configuration").nth(1).unwrap().split("| key | default |").nth(1).unwrap();
    let config = json!({"database": {
        "write_url": "mysql://trivet:secret@127.0.0.1:6446/trivet",
        "read_url": "mysql://trivet:secret@127.0.0.1:6447/trivet",
    }});
    let table = table.split("\n\n").next().unwrap();
    let named = check_rows::<app::config::Config>(&config, rows(table), &[]);
    assert!(named.contains("limits.body"), "{named:?}");
    for section in ["", "site", "database", "session", "limits", "log", "metrics"] {
        none_missing("app.md", &keys_of::<app::config::Config>(&config, section), &named);
    }
}

#[test]
fn backup_md_tells_every_key_and_its_default() {
    let text = document("backup.md");
    let table =
        text.split("## Configuration").nth(1).unwrap().split("\n\n").find(|t| t.contains("| key |")).unwrap();
    let config = json!({
        "node": "node1",
        "cluster": "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001",
        "mysql": {
            "password_file": "/c/password",
            "ca": "/c/ca.pem",
            "members": [{"name": "node1", "address": "10.77.0.11:3306"}],
        },
        "key": {"identity_file": "/c/backup.key"},
        "repositories": {"main": {
            "s3": {"bucket": "b", "endpoint": "https://s3", "access_key_file": "/c/id", "secret_key_file": "/c/secret"},
        }},
    });
    let named = check_rows::<backup::config::Config>(
        &config,
        rows(&table.replace("NAME", "main")),
        &["repositories.main"],
    );
    assert!(named.contains("stream.segment_size"), "{named:?}");
    for section in ["", "mysql", "key", "base", "stream", "files", "verify", "retention"] {
        none_missing("backup.md", &keys_of::<backup::config::Config>(&config, section), &named);
    }
    for place in ["/repositories/main", "/repositories/main/s3"] {
        tells_of::<backup::config::Config>(&config, place, &text);
    }
}

/// The document has every key of the table at `place`, a JSON pointer (RFC 6901), between backticks or in an example.
fn tells_of<C: DeserializeOwned + Validate + Debug>(config: &Value, place: &str, text: &str) {
    let mut asked = config.clone();
    asked.pointer_mut(place).unwrap_or_else(|| panic!("{place}"))["no_such_key"] = json!(1);
    let refused = read::<C>(&asked).expect_err(place);
    let (_, expected) = refused.split_once("expected ").unwrap_or_else(|| panic!("{place}: {refused}"));
    let known = words_of_code(text);
    let missing: Vec<_> = backticked(expected).into_iter().filter(|key| !known.contains(*key)).collect();
    assert!(missing.is_empty(), "nothing tells of {missing:?} of {place}");
}

/// What stands between backticks, and in blocks of code, word by word.
fn words_of_code(text: &str) -> BTreeSet<&str> {
    let code = text.split("```").enumerate().flat_map(
        |(i, part)| {
            if i % 2 == 1 { vec![part] } else { backticked(part) }
        },
    );
    code.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).collect()
}

#[test]
fn the_balancers_documents_tell_of_the_keys_within_lists_and_maps() {
    let mut config = with_service();
    let certificate = json!({"certificate": "/c/other.pem", "key": "/c/other.key"});
    config["https"]["certificates"] = json!([certificate]);
    config["https"]["request_rate"] = json!({"rate": 1, "burst": 1});
    config["https"]["http2_frames"] = json!({});
    config["https"]["proxy_protocol"] = json!({"from": ["10.0.0.0/8"]});
    config["web"]["backends"][0]["weight"] = json!(1);
    config["control"] = json!({
        "socket": "/run/control.sock",
        "listen": "10.77.0.11:8009",
        "peers": [{"node": "node2", "address": "10.77.0.12:8009"}],
        "tls": config["web"]["tls"],
    });
    config["request_fields"] = json!({});
    config["cors"] = json!({"origins": ["https://app.example.org"]});
    config["pools"] = json!({"api": {"backends": [{"name": "api1", "address": "10.77.0.21:8080"}]}});
    config["sites"] = json!({"shop": {"names": ["shop.example"], "certificates": [certificate]}});
    config["routes"] = json!([
        {"path": "/a", "redirect": {"to": "/b"}},
        {"path": "/c", "answer": {"content": "here"}},
    ]);
    config["tcp"]["ftp"] = json!({
        "listen": ["[::]:990"],
        "sni": [{
            "names": ["ftp.example"],
            "pool": {"backends": [{"name": "ftp1", "address": "10.77.0.21:990"}]},
        }],
    });
    let documents = |names: &[&str]| names.iter().map(|name| document(name)).collect::<String>();
    for (names, places) in [
        (
            &["balancer.md", "limits.md", "tls.md"][..],
            &[
                "/https/certificates/0",
                "/https/request_rate",
                "/https/http2_frames",
                "/https/proxy_protocol",
                "/web/backends/0",
                "/web/tls",
                "/control/peers/0",
                "/control/tls",
                "/database/members/0",
                "/database/tls",
                "/pools/api",
                "/pools/api/backends/0",
            ][..],
        ),
        (
            &["sites.md"][..],
            &[
                "/request_fields",
                "/cors",
                "/sites/shop/certificates/0",
                "/routes/0/redirect",
                "/routes/1/answer",
            ][..],
        ),
        (&["tcp.md"][..], &["/tcp/mail/pool/backends/0", "/tcp/ftp/sni/0", "/tcp/ftp/sni/0/pool"][..]),
    ] {
        let text = documents(names);
        for place in places {
            tells_of::<balancer::config::Config>(&config, place, &text);
        }
    }
}

/// All files of Rust below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_metric_is_told_of() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut metrics = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for kind in ["counter!(", "gauge!(", "histogram!("] {
            for call in text.split(kind).skip(1) {
                let name = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                let name = name.unwrap_or_else(|| panic!("{}: a metric without a name", file.display()));
                metrics.insert(name.to_owned());
            }
        }
    }
    assert!(metrics.contains("trivet_http_requests_total") && metrics.len() > 90, "{metrics:?}");
    let mut documents = String::new();
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            documents.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    let known = words_of_code(&documents);
    let missing: Vec<_> = metrics.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no document tells of {missing:?}");
}

#[test]
fn the_nixos_modules_reckon_with_the_programs_defaults() {
    let text = std::fs::read_to_string(root().join("nixos/limits.json")).unwrap();
    let known: Value = serde_json::from_str(&text).unwrap();
    for (program, sections) in known.as_object().unwrap() {
        for (section, keys) in sections.as_object().unwrap() {
            for (key, value) in keys.as_object().unwrap() {
                let key = format!("{section}.{key}");
                match program.as_str() {
                    "web" => is_default::<web::config::Config>(&web_config(), &key, value),
                    "balancer" => {
                        is_default::<balancer::config::Config>(&with_service(), &key, value);
                    }
                    other => panic!("{other} in nixos/limits.json"),
                }
            }
        }
    }
    for key in ["max_header_size", "max_header_fields", "max_target_length"] {
        assert!(
            !known["balancer"]["https"][key].is_null() && !known["web"]["limits"][key].is_null(),
            "{key}"
        );
    }
}

/// What a unit of a node of the test cluster sets.
fn unit_sets(unit: &str, key: &str) -> String {
    let path = root().join("vm-tests/snapshots/node1/units").join(unit);
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap();
    line.to_owned()
}

#[test]
fn the_units_have_as_many_descriptors_as_the_programs_may_want() {
    let file = |name: &str| {
        let path = root().join("vm-tests/snapshots/node1/etc/trivet").join(name);
        (path.clone(), std::fs::read_to_string(path).unwrap())
    };
    let balancer = |name| {
        let (path, text) = file(name);
        config::parse::<balancer::config::Config>(&path, &text).unwrap().descriptors()
    };
    let (path, text) = file("web.json");
    let web = config::parse::<web::config::Config>(&path, &text).unwrap().descriptors();
    for (unit, wanted) in [
        ("trivet-balancer.service", balancer("balancer.json")),
        ("trivet-gateway.service", balancer("gateway.json")),
        ("trivet-web.service", web),
    ] {
        let has: u64 = unit_sets(unit, "LimitNOFILE").parse().unwrap();
        assert!(has >= wanted, "{unit}: LimitNOFILE={has}, and {wanted} may be wanted");
    }
}
