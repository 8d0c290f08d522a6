//! The web tier as balancers, apps and other web tiers see it: the real program between them.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::{Value, json};
use support::app::{Act, App};
use support::authority::Authority;
use support::client::{Answer, Wire};
use support::program::{Program, call_other};
use support::until;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use trivet_tls as tls;

const WEB: &str = "trivet-web";

/// A node: its app, its web tier, its static files.
struct Node {
    name: &'static str,
    app: App,
    web: Program,
    root: PathBuf,
    client: Arc<ClientConfig>,
    /// What connections to it begin with, before TLS.
    greeting: &'static str,
}

/// How a web tier is set up beside what every one has.
struct Setup<'a> {
    health: &'static str,
    peers: &'a [&'a Node],
    merge: Value,
    greeting: &'static str,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { health: "100ms", peers: &[], merge: json!({}), greeting: "" }
    }
}

fn configure(authority: &Authority, name: &str, app: &App, setup: &Setup) -> (PathBuf, PathBuf) {
    let root = authority.path(&format!("{name}-www"));
    std::fs::create_dir_all(root.join("css")).unwrap();
    std::fs::write(root.join("hello.txt"), "hello").unwrap();
    std::fs::write(root.join("css/site.css"), "body { color: red }\n".repeat(100)).unwrap();
    std::fs::write(root.join("large.bin"), (0..3_000_000u32).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
    let peers: Vec<Value> =
        setup.peers.iter().map(|p| json!({"name": p.name, "address": p.web.address("listen")})).collect();
    let mut config = json!({
        "node": name,
        "listen": ["127.0.0.1:0"],
        "metrics": {"listen": "127.0.0.1:0"},
        "tls": authority.files(name),
        "static": {"root": root, "max_memory_file": "64KiB"},
        "app": {
            "address": app.address,
            "health": {"interval": setup.health, "timeout": "5s", "rise": 1, "fall": 1},
            "connect_timeout": "5s"
        },
        "peers": {"backends": peers},
        "drain_delay": "300ms"
    });
    merge(&mut config, &setup.merge);
    (authority.write(&format!("{name}.json"), &config.to_string()), root)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter().for_each(|(k, v)| merge(into.entry(k.clone()).or_insert(Value::Null), v));
        }
        (into, from) => *into = from.clone(),
    }
}

impl Node {
    async fn new(authority: &Authority, name: &'static str, setup: Setup<'_>) -> Self {
        let app = App::start(name).await;
        let (config, root) = configure(authority, name, &app, &setup);
        let web = Program::start_other(WEB, &config);
        let client = tls::client_config(&authority.files("balancer"), &[b"http/1.1"]).unwrap();
        let node = Self { name, app, web, root, client, greeting: setup.greeting };
        until("its app is up", || async { node.get("/healthz/app").await.status == 200 }).await;
        node
    }

    async fn open(&self) -> Wire {
        let mut tcp = TcpStream::connect(self.web.address("listen")).await.unwrap();
        tcp.write_all(self.greeting.as_bytes()).await.unwrap();
        Wire::try_tls_over(tcp, self.name, self.client.clone()).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await.expect("an answer")
    }

    async fn ask(&self, method: &str, path: &str, fields: &str, body: &str) -> Option<Answer> {
        let mut wire = self.open().await;
        wire.send(&request(method, path, fields, body)).await;
        wire.answer_to(method).await
    }

    async fn status(&self) -> Value {
        let mut wire = Wire::plain(self.web.address("metrics.listen")).await;
        wire.send(&request("GET", "/status", "", "")).await;
        serde_json::from_str(&wire.answer().await.unwrap().body).unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.root.join(name), content).unwrap();
    }
}

fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: www.foobar.com\r\n{fields}{length}\r\n{body}")
}

/// Two nodes; the second is a peer of the first.
async fn two() -> (Authority, Node, Node) {
    two_with("100ms").await
}

async fn two_with(health: &'static str) -> (Authority, Node, Node) {
    let authority = Authority::new();
    let second = Node::new(&authority, "node2", Setup::default()).await;
    let first = Node::new(&authority, "node1", Setup { health, peers: &[&second], ..Setup::default() }).await;
    let healthy = || async { first.status().await["backends"][1]["usable"] == true };
    until("the peer is up", healthy).await;
    (authority, first, second)
}

async fn one(merge: Value) -> (Authority, Node) {
    let authority = Authority::new();
    let node = Node::new(&authority, "node1", Setup { merge, ..Setup::default() }).await;
    (authority, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_served_from_memory_and_not_again_to_who_has_it() {
    let (_authority, node) = one(json!({})).await;
    let css = node.ask("GET", "/css/site.css", "Accept-Encoding: gzip, br\r\n", "").await.unwrap();
    assert_eq!((css.status, css.field("content-encoding").as_deref()), (200, Some("br")));
    assert_eq!(css.field("content-type").as_deref(), Some("text/css; charset=utf-8"));
    assert!(css.field("date").is_some() && css.field("x-request-id").is_some());
    let fields = format!("Accept-Encoding: br\r\nIf-None-Match: {}\r\n", css.field("etag").unwrap());
    assert_eq!(node.ask("GET", "/css/site.css", &fields, "").await.unwrap().status, 304);
    let head = node.ask("HEAD", "/hello.txt", "", "").await.unwrap();
    assert_eq!((head.status, head.field("content-length").as_deref()), (200, Some("5")));
    assert_eq!(node.app.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_many_files_come_over_one_connection() {
    let (_authority, node) = one(json!({})).await;
    let mut wire = node.open().await;
    for (method, path, status) in [
        ("GET", "/hello.txt", 200),
        ("HEAD", "/hello.txt", 200),
        ("GET", "/css", 200),
        ("GET", "/large.bin", 200),
        ("POST", "/hello.txt", 405),
        ("GET", "/hello.txt", 200),
    ] {
        wire.send(&request(method, path, "", "")).await;
        assert_eq!(wire.answer_to(method).await.unwrap().status, status, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_14_a_large_file_comes_from_disk_whole_and_in_parts() {
    let (_authority, node) = one(json!({})).await;
    let whole = node.get("/large.bin").await;
    assert_eq!((whole.status, whole.field("content-length").as_deref()), (200, Some("3000000")));
    let part = node.ask("GET", "/large.bin", "Range: bytes=1000000-1000004\r\n", "").await.unwrap();
    assert_eq!(part.status, 206);
    assert_eq!(part.field("content-range").as_deref(), Some("bytes 1000000-1000004/3000000"));
    assert_eq!(part.body.as_bytes(), [64, 65, 66, 67, 68]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_was_replaced_is_loaded_anew_and_never_sent_under_the_old_tag() {
    let (_authority, node) = one(json!({})).await;
    let old = node.get("/large.bin").await.field("etag").unwrap();
    node.write("large.bin", &"x".repeat(100_000));
    assert_eq!(node.get("/large.bin").await.status, 503);
    until("the new file is served", || async { node.get("/large.bin").await.status == 200 }).await;
    assert_ne!(node.get("/large.bin").await.field("etag").unwrap(), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_try_to_leave_the_folder_are_refused() {
    let (_authority, node) = one(json!({})).await;
    for path in [
        "/../node1.json",
        "/css/../../node1.json",
        "/%2e%2e/node1.json",
        "/css/..%2f..%2fnode1.json",
        "/a%00",
    ] {
        assert_eq!(node.get(path).await.status, 400, "{path}");
    }
    assert_eq!(node.app.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_node_of_the_cluster_gets_in() {
    let (authority, node) = one(json!({})).await;
    let stranger = tls::client_config(&Authority::new().files("node2"), &[b"http/1.1"]);
    let nobody = authority.browser(&[b"http/1.1"]);
    for config in [stranger.unwrap(), nobody] {
        // In TLS 1.3 a server's refusal comes after the client's side of the handshake: it shows at the first read.
        let Ok(mut wire) = Wire::try_tls(node.web.address("listen"), "node1", config).await else { continue };
        wire.try_send(&request("GET", "/hello.txt", "", "")).await;
        assert_eq!(wire.answer().await, None);
    }
    assert_eq!(node.get("/hello.txt").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_file_answers_goes_to_the_app_with_what_the_balancer_said_about_the_client() {
    let (_authority, node) = one(json!({})).await;
    let fields = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.foobar.com\r\n\
                  X-Request-Id: 0123456789abcdef0123456789abcdef\r\n";
    let answer = node.ask("POST", "/articles?x=1", fields, "title=a").await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "node1 answers POST /articles?x=1 HTTP/1.1"));
    let seen = node.app.seen().remove(0).to_ascii_lowercase();
    for line in [
        "x-forwarded-for: 203.0.113.9\r\n",
        "x-forwarded-proto: https\r\n",
        "x-request-id: 0123456789abcdef0123456789abcdef\r\n",
        "host: www.foobar.com\r\n",
    ] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    assert!(seen.ends_with("\r\n\r\ntitle=a"), "{seen}");
    assert_eq!(node.web.access("/articles")["client"], "203.0.113.9");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_protocol_the_client_is_whom_the_header_names_here_and_at_a_peer() {
    let authority = Authority::new();
    let setup = |peers| Setup {
        peers,
        merge: json!({
            "proxy_protocol": {"from": ["127.0.0.1"]},
            "peers": {"send_proxy_protocol": "v2"}
        }),
        greeting: "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n",
        ..Setup::default()
    };
    let second = Node::new(&authority, "node2", setup(&[])).await;
    let first = Node::new(&authority, "node1", setup(&[&second])).await;
    assert!(first.get("/here").await.body.starts_with("node1"));
    assert!(first.app.seen()[0].to_ascii_lowercase().contains("x-forwarded-for: 192.0.2.7\r\n"));
    assert_eq!(first.web.access("/here")["client"], "192.0.2.7");

    // The checks of the peer get through as well, and so does what it is handed.
    first.app.kill().await;
    until("the peer answers", || async { first.get("/there").await.body.starts_with("node2") }).await;
    assert_eq!(second.web.access("/there")["client"], "192.0.2.7");

    let silent = Wire::try_tls(first.web.address("listen"), "node1", first.client.clone()).await;
    assert!(silent.is_err(), "without a header nobody is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_app_is_gone_the_next_node_answers_and_nobody_notices() {
    // Checks are slow here, so it is the requests themselves that find out.
    let (_authority, first, second) = two_with("1h").await;
    first.app.kill().await;
    for (method, body) in [("GET", ""), ("POST", "a=1")] {
        let answer = first.ask(method, "/page", "", body).await.unwrap();
        assert_eq!(answer.body, format!("node2 answers {method} /page HTTP/1.1"));
    }
    assert_eq!(second.app.seen().len(), 2);
    assert!(
        !second.app.seen()[0].to_ascii_lowercase().contains("trivet-hop"),
        "it stays between the web tiers"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_says_it_is_unwell_is_left_alone_until_it_is_well() {
    let (_authority, first, _second) = two().await;
    first.app.is_well(false);
    until("the peer answers", || async { first.get("/page").await.body.starts_with("node2") }).await;
    assert_eq!(first.get("/healthz").await.status, 200, "static files are still served");
    assert_eq!(first.get("/healthz/app").await.status, 503);
    first.app.is_well(true);
    until("the app answers", || async { first.get("/page").await.body.starts_with("node1") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_handed_over_once_is_never_handed_over_again() {
    let (_authority, first, second) = two().await;
    first.app.kill().await;
    let answer = first.ask("GET", "/page", "Trivet-Hop: 1\r\n", "").await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(second.app.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_app_answers_our_own_page_says_so_with_the_number_for_the_log() {
    let (_authority, node) = one(json!({})).await;
    node.app.kill().await;
    let page = node.get("/page").await;
    let id = page.field("x-request-id").unwrap();
    assert_eq!((page.status, page.field("content-type").as_deref()), (503, Some("text/html; charset=utf-8")));
    assert!(page.body.contains(&id) && page.body.contains("<style>"), "{}", page.body);
    assert_eq!(page.field("cache-control").as_deref(), Some("no-store"));
    let json = node.ask("GET", "/api", "Accept: application/json\r\n", "").await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json.body).unwrap()["status"], 503);
    assert_eq!(node.web.access("/page")["request_id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_2_2_a_broken_get_is_repeated_elsewhere_and_a_broken_post_is_not() {
    let (_authority, first, second) = two_with("1h").await;
    first.app.does(Act::HangUp);
    assert!(first.get("/page").await.body.starts_with("node2"));

    let lost = first.ask("POST", "/order", "", "a=1").await.unwrap();
    assert_eq!(lost.status, 502);
    assert_eq!((first.app.count("/order"), second.app.count("/order")), (1, 0));

    let keyed = first.ask("POST", "/order", "Idempotency-Key: \"8e03978e\"\r\n", "a=1").await.unwrap();
    assert_eq!(keyed.body, "node2 answers POST /order HTTP/1.1");
    assert!(second.app.seen().last().unwrap().ends_with("a=1"), "the body went along");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_app_closed_costs_nobody_a_request() {
    let (_authority, node) = one(json!({"app": {"health": {"interval": "1h"}}})).await;
    node.app.does(Act::HangUpWhenKept);
    let mut wire = node.open().await;
    for _ in 0..5 {
        for (method, body) in [("GET", ""), ("POST", "a=1")] {
            wire.send(&request(method, "/page", "", body)).await;
            assert_eq!(wire.answer().await.unwrap().status, 200, "{method}");
        }
    }
    assert_eq!(node.app.seen().iter().filter(|r| r.starts_with("POST")).count(), 5, "no POST came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_app_under_load_fails_no_request() {
    let (_authority, first, second) = two().await;
    let (first, failed, served) =
        (Arc::new(first), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (first, failed, served) = (first.clone(), failed.clone(), served.clone());
            tokio::spawn(async move {
                let mut wire = first.open().await;
                let end = tokio::time::Instant::now() + Duration::from_secs(3);
                while tokio::time::Instant::now() < end {
                    wire.send(&request("GET", "/page", "", "")).await;
                    match wire.answer().await {
                        Some(answer) if answer.status == 200 => served.fetch_add(1, Ordering::Relaxed),
                        _ => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            wire = first.open().await;
                            0
                        }
                    };
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let address = first.app.address;
    first.app.kill().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _again = App::start_at(address, "node1").await;
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert!(served.load(Ordering::Relaxed) > 50 && !second.app.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_says_nothing_is_a_504_and_the_wait_is_not_repeated() {
    let (_authority, node) = one(json!({"app": {"response_timeout": "300ms"}})).await;
    node.app.does(Act::Hang);
    assert_eq!(node.get("/slow").await.status, 504);
    assert_eq!(node.app.count("/slow"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_served_after_a_hangup_and_a_bad_reload_changes_nothing() {
    let (_authority, node) = one(json!({})).await;
    node.write("new.txt", "new");
    assert!(node.get("/new.txt").await.body.starts_with("node1 answers"), "not there yet: the app's");
    node.web.signal("HUP");
    until("the new file is served", || async { node.get("/new.txt").await.body == "new" }).await;

    std::fs::rename(&node.root, node.root.with_extension("away")).unwrap();
    node.web.signal("HUP");
    node.web.logged(|line| line["message"].as_str().is_some_and(|m| m.starts_with("reload refused")));
    assert_eq!(node.get("/new.txt").await.body, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_the_balancers_first_and_finishes_what_is_in_flight() {
    let (_authority, mut node) = one(json!({"drain_delay": "3s"})).await;
    node.app.does(Act::Wait);
    let mut slow = node.open().await;
    slow.send(&request("GET", "/slow", "", "")).await;
    until("it is in flight", || async { node.app.count("/slow") == 1 }).await;
    node.web.signal("TERM");
    until("health says so", || async { node.get("/healthz").await.status == 503 }).await;
    assert_eq!(node.get("/hello.txt").await.status, 200, "who has not noticed yet is still served");
    node.app.release();
    assert_eq!(slow.answer().await.unwrap().status, 200);
    assert!(node.web.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_balancers_everything_and_visitors_little() {
    let (_authority, node) = one(json!({})).await;
    let inside: Value = serde_json::from_str(&node.get("/healthz").await.body).unwrap();
    assert_eq!((&inside["node"], &inside["app"]["usable"]), (&json!("node1"), &json!(true)));
    let public = node.ask("GET", "/healthz", "X-Forwarded-For: 203.0.113.9\r\n", "").await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&public.body).unwrap(), json!({"ok": true}));
    let status = node.status().await;
    assert_eq!((&status["program"], &status["static"]["files"]), (&json!("trivet-web"), &json!(3)));
    assert!(!node.web.lines().iter().any(|l| l["path"] == "/healthz"), "checks are not logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_limits_are_those_of_its_configuration() {
    let authority = Authority::new();
    let limits = json!({"max_header_size": "100KiB", "max_header_fields": 200, "max_target_length": "50KiB"});
    let roomy =
        Node::new(&authority, "node1", Setup { merge: json!({"limits": limits}), ..Setup::default() }).await;
    // More than the usual 64 KiB, 128 fields and 16 KiB.
    let large = format!("X: {}\r\n", "x".repeat(90_000));
    let many = "X: x\r\n".repeat(180);
    let long = format!("/{}", "x".repeat(40_000));
    assert_eq!(roomy.ask("GET", "/hello.txt", &large, "").await.unwrap().status, 200);
    assert_eq!(roomy.ask("GET", "/hello.txt", &many, "").await.unwrap().status, 200);
    assert_eq!(roomy.get(&long).await.status, 200);

    let limits = json!({
        "max_header_size": "4KiB", "max_header_fields": 10, "max_target_length": "1KiB", "max_body_size": "1KiB",
    });
    let narrow =
        Node::new(&authority, "node2", Setup { merge: json!({"limits": limits}), ..Setup::default() }).await;
    let large = format!("X: {}\r\n", "x".repeat(4096));
    assert_eq!(narrow.ask("GET", "/hello.txt", &large, "").await.unwrap().status, 431);
    assert_eq!(narrow.ask("GET", "/hello.txt", &"X: x\r\n".repeat(20), "").await.unwrap().status, 431);
    assert_eq!(narrow.get(&format!("/{}", "x".repeat(1024))).await.status, 414);
    assert_eq!(narrow.ask("POST", "/form", "", &"x".repeat(1025)).await.unwrap().status, 413);
    assert_eq!(narrow.ask("POST", "/form", "", "x").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_asked_once_the_retries_are_used_up() {
    let authority = Authority::new();
    let second = Node::new(&authority, "node2", Setup::default()).await;
    for (retries, status) in [(0, 503), (1, 200)] {
        // The first look counts, and no other comes.
        let setup = Setup {
            health: "1h",
            peers: &[&second],
            merge: json!({"app": {"retries": retries}}),
            ..Setup::default()
        };
        let first = Node::new(&authority, "node1", setup).await;
        first.app.kill().await;
        assert_eq!(first.get("/page").await.status, status, "with {retries}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_connection_to_the_app_is_kept_for_idle_timeout() {
    let authority = Authority::new();
    for (name, idle, connections) in [("node1", "1h", 1), ("node2", "1ns", 3)] {
        // No check but the first.
        let merge = json!({"app": {"idle_timeout": idle}});
        let node = Node::new(&authority, name, Setup { health: "1h", merge, ..Setup::default() }).await;
        let before = node.app.accepted();
        for _ in 0..3 {
            assert_eq!(node.get("/page").await.status, 200);
        }
        assert_eq!(node.app.accepted() - before, connections, "{idle}");
    }
}

#[test]
fn a_bad_configuration_ends_with_64_and_names_file_key_and_reason() {
    let authority = Authority::new();
    let app = tokio::runtime::Runtime::new().unwrap().block_on(App::start("app"));
    for (merge, expected) in [
        (json!({"listne": []}), "listne: unknown field"),
        (
            json!({"app": {"address": "10.0.0.1:80"}}),
            "app.address: 10.0.0.1:80 is neither a loopback address",
        ),
        (
            json!({"peers": {"backends": [{"name": "node1", "address": "10.0.0.1:8443"}]}}),
            "peers.backends[0].name: ",
        ),
        (json!({"drain_delay": "1h"}), "drain_delay: must be shorter"),
        (json!({"proxy_protocol": {"from": []}}), "proxy_protocol.from: is empty; name at least one"),
        (
            json!({"limits": {"max_target_length": "65KiB"}}),
            "limits.max_target_length: is 65.0 KiB, larger than limits.max_header_size, 64.0 KiB, of which",
        ),
        (
            json!({"limits": {"max_connections": 9_000_000_000_000_000_000u64}}),
            "limits.max_connections: is 9000000000000000000, but this process may open",
        ),
    ] {
        let (config, _) = configure(&authority, "node1", &app, &Setup { merge, ..Setup::default() });
        for arguments in [vec!["--check", "--config"], vec!["--config"]] {
            let (code, text) = call_other(WEB, &[&arguments[..], &[config.to_str().unwrap()]].concat());
            assert_eq!(code, 64, "{text}");
            assert!(text.starts_with(&format!("trivet-web: {}: {expected}", config.display())), "{text}");
        }
    }
    assert_eq!(call_other(WEB, &["--config", "/nonexistent.json"]).0, 64);
    assert_eq!(call_other(WEB, &[]).0, 64);
}

#[test]
fn missing_files_stop_a_start_with_64_and_not_a_check() {
    let authority = Authority::new();
    let app = tokio::runtime::Runtime::new().unwrap().block_on(App::start("app"));
    for (merge, named) in [
        (json!({"static": {"root": "/nonexistent/www"}}), "/nonexistent/www"),
        (json!({"tls": {"key": "/nonexistent/node.key"}}), "/nonexistent/node.key"),
    ] {
        let (config, _) = configure(&authority, "node1", &app, &Setup { merge, ..Setup::default() });
        let config = config.to_str().unwrap();
        assert_eq!(call_other(WEB, &["--check", "--config", config]).0, 0);
        for arguments in [&["--config", config][..], &["--config", config, "--check-files"]] {
            let (code, text) = call_other(WEB, arguments);
            assert_eq!(code, 64, "{text}");
            assert!(text.contains(named), "{text}");
        }
    }
}

#[test]
fn what_a_reload_could_not_read_is_told_beforehand() {
    let authority = Authority::new();
    let app = tokio::runtime::Runtime::new().unwrap().block_on(App::start("app"));
    let (config, root) = configure(&authority, "node1", &app, &Setup::default());
    let check = || call_other(WEB, &["--config", config.to_str().unwrap(), "--check-files"]);
    assert_eq!(check().0, 0);
    // Leads to itself: nobody can read it, root included.
    std::os::unix::fs::symlink("around.css", root.join("around.css")).unwrap();
    let (code, text) = check();
    assert!(code == 64 && text.contains("static.root: ") && text.contains("around.css"), "{code} {text}");
    std::fs::remove_file(root.join("around.css")).unwrap();
    assert_eq!(check().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_asks_is_told_which_nodes_say_that_they_hold_the_address_and_a_visitor_is_not() {
    let node = Node::new(&Authority::new(), "node1", Setup::default()).await;
    let holders = async |fields: &str| {
        let answer = node.ask("GET", "/healthz", fields, "").await.unwrap();
        let said: Value = serde_json::from_str(&answer.body).unwrap();
        said["holders"].as_object().map(|h| h.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(holders("Trivet-Balancer: node1; holds\r\n").await.unwrap(), ["node1"]);
    assert_eq!(holders("Trivet-Balancer: node2\r\n").await.unwrap(), ["node1"]);
    // What came through a balancer came from a visitor.
    assert_eq!(holders("X-Forwarded-For: 192.0.2.1\r\nTrivet-Balancer: node9; holds\r\n").await, None);
    assert_eq!(holders("Trivet-Balancer: node1\r\n").await.unwrap(), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_may_listen_on_a_unix_socket() {
    let authority = Authority::new();
    let socket = authority.path("app.sock");
    let address = format!("unix:{}", socket.display());
    let setup = Setup { merge: json!({"app": {"address": address}}), ..Setup::default() };
    let app = App::start_on_socket(&socket, "app").await;
    let (config, root) = configure(&authority, "node1", &app, &setup);
    let web = Program::start_other(WEB, &config);
    let client = tls::client_config(&authority.files("balancer"), &[b"http/1.1"]).unwrap();
    let node = Node { name: "node1", app, web, root, client, greeting: "" };
    assert_eq!(node.get("/page").await.body, "app answers GET /page HTTP/1.1");
}
