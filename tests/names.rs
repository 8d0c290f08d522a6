//! Back ends by unix socket, and by a name whose addresses DNS tells (docs/balancer.md).
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use support::app::{Act, App};
use support::authority::Authority;
use support::backend::Backend;
use support::balancer_config::{BalancerConfig, SITE};
use support::client::{Answer, Wire};
use support::dns::{Dns, Says, has};
use support::program::{Program, call, trivet};
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use trivet_balancer::config::Config;
use trivet_base::config;

/// Checks that find a change soon, and are not put off by a busy machine.
const CHECKS: &str = "health = { interval = \"100ms\", timeout = \"10s\", rise = 1, fall = 1 }";

/// A balancer's file with these back ends, in plain text, and these keys of `[web]`.
fn write(authority: &Authority, backends: &str, web: &str) -> PathBuf {
    let config = BalancerConfig {
        http: Some("redirect = false"),
        plain_back_ends: true,
        web: &if web.contains("health") { web.to_owned() } else { format!("{CHECKS}\n{web}") },
        ..BalancerConfig::default()
    };
    let path = config.write(authority);
    let text = std::fs::read_to_string(&path).unwrap();
    authority.write("balancer.toml", &text.replace("backends = []", &format!("backends = [{backends}]")))
}

async fn get(balancer: &Program) -> Answer {
    let mut wire = Wire::plain(balancer.address("http.listen")).await;
    wire.send(&format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n")).await;
    wire.answer().await.unwrap()
}

/// Who answers; the status when nobody does.
async fn who(balancer: &Program) -> String {
    let answer = get(balancer).await;
    match answer.status {
        200 => answer.body.split(' ').next().unwrap().to_owned(),
        status => status.to_string(),
    }
}

fn refused(authority: &Authority, backends: &str, web: &str) -> String {
    let path = write(authority, backends, web);
    let (status, said) = call(&["--config", path.to_str().unwrap(), "--check"]);
    assert_eq!(status, 64, "{backends} {web}: {said}");
    said
}

fn unix(path: &Path) -> String {
    format!("{{ name = \"app\", address = \"unix:{}\" }}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_a_unix_socket_is_served_as_soon_as_it_is_there() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let socket = folder.path().join("app.sock");
    let balancer = Program::start(&write(&authority, &unix(&socket), ""));
    assert_eq!(who(&balancer).await, "503", "nobody listens there yet");
    balancer.logged(|line| line["message"] == "back end is down" && line["backend"] == "app");

    // Its machine is this one, which is there: no request waits for it in vain.
    for (result, expected) in [("failed", true), ("silent", false)] {
        let name = format!("trivet_backend_checks_total{{pool=\"web\",backend=\"app\",result=\"{result}\"}}");
        assert_eq!(metric(&balancer, &name).await > 0.0, expected, "{result}");
    }

    let app = App::start_on_socket(&socket, "first").await;
    until("it is found", || async { who(&balancer).await == "first" }).await;
    let before = app.accepted();
    for _ in 0..20 {
        assert_eq!(who(&balancer).await, "first");
    }
    assert!(app.accepted() - before < 5, "connections to it are kept");

    // A deployment: the old one leaves its socket behind, the new one takes the path.
    drop(app);
    std::fs::remove_file(&socket).unwrap();
    until("nobody is there", || async { who(&balancer).await == "503" }).await;
    let _app = App::start_on_socket(&socket, "second").await;
    until("its successor is found", || async { who(&balancer).await == "second" }).await;
}

/// Answers every request on a unix socket, and remembers with what each connection began.
async fn heads(socket: &Path) -> Arc<Mutex<Vec<String>>> {
    let (listener, heads) = (UnixListener::bind(socket).unwrap(), Arc::new(Mutex::new(Vec::new())));
    let of_task = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heads = of_task.clone();
            tokio::spawn(async move {
                let (mut head, mut is_first) = (Vec::new(), true);
                while stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    if std::mem::take(&mut is_first) {
                        heads.lock().push(String::from_utf8(std::mem::take(&mut head)).unwrap());
                    }
                    head.clear();
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
                }
            });
        }
    });
    heads
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_told_who_the_client_is_and_its_checks_ask_for_localhost() {
    let authority = Authority::new();
    let socket = authority.path("app.sock");
    let heads = heads(&socket).await;
    let balancer = Program::start(&write(&authority, &unix(&socket), "send_proxy_protocol = \"v1\""));
    assert_eq!(who(&balancer).await, "hi");
    let (checks, requests): (Vec<_>, Vec<_>) =
        heads.lock().clone().into_iter().partition(|head| head.contains("GET /healthz"));
    let check = &checks[0];
    assert!(check.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 0 0\r\n"), "{check}");
    assert!(check.to_ascii_lowercase().contains("\r\nhost: localhost\r\n"), "{check}");
    let port = balancer.address("http.listen").port();
    let line = requests[0].lines().next().unwrap();
    assert!(
        line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && line.ends_with(&format!(" {port}")),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_over_a_unix_socket() {
    let authority = Authority::new();
    let socket = authority.path("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data("h2".into(), true).unwrap();
                }
            });
        }
    });
    let balancer = Program::start(&write(&authority, &unix(&socket), "protocol = \"h2\""));
    assert_eq!(who(&balancer).await, "h2");
}

#[test]
fn what_cannot_be_is_refused() {
    let authority = Authority::new();
    let name = "{ name = \"app\", address = \"app.internal:8080\" }";
    let twice =
        "{ name = \"a\", address = \"app.internal:80\" }, { name = \"b\", address = \"APP.internal.:80\" }";
    let app = "{ name = \"app\", address = \"unix:/run/app.sock\" }";
    let tls = "tls = { ca = \"/a\", certificate = \"/b\", key = \"/c\" }";
    let health = "health = { port = 8081 }";
    for (backends, web, words) in [
        ("{ name = \"app\", address = \"unix:app.sock\" }", "", ["address", "unix:/run/app/app.sock"]),
        (app, tls, ["web.backends[0].address", "without tls"]),
        (app, health, ["web.backends[0].address", "no port"]),
        (app, "resolvers = [\"127.0.0.1:53\"]", ["web.resolvers", "app.internal:8080"]),
        (app, "resolve_networks = [\"10.0.0.0/8\"]", ["web.resolve_networks", "app.internal:8080"]),
        (name, "resolvers = [\"127.0.0.1:0\"]", ["web.resolvers", "port 53"]),
        (name, "resolve_networks = [\"10.0.0.1/8\"]", ["web.resolve_networks", "10.0.0.0/8"]),
        (name, "resolve_max_addresses = 0", ["web.resolve_max_addresses", "from 1 to 1024"]),
        (name, "resolve_max_addresses = 1025", ["web.resolve_max_addresses", "from 1 to 1024"]),
        (name, "resolve_interval = \"0s\"", ["web.resolve_interval", "longer than zero"]),
        (name, "resolve_timeout = \"0s\"", ["web.resolve_timeout", "longer than zero"]),
        ("{ name = \"app\", address = \"app.internal\" }", "", ["address", "app.internal:8080"]),
        ("{ name = \"app\", address = \"localhost:80\" }", "", ["address", "127.0.0.1:80"]),
        (twice, "", ["web.backends", "stands here twice"]),
    ] {
        let said = refused(&authority, backends, web);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

/// A back end by name, on the port of `apps`, asked for at `dns`.
fn named(dns: &Dns, port: u16) -> (String, String) {
    let backends = format!("{{ name = \"app\", address = \"app.internal:{port}\" }}");
    let web = format!(
        "resolvers = [\"{}\"]\nresolve_interval = \"100ms\"\nresolve_hold = \"0s\"\nresolve_networks = [\"127.0.0.0/8\"]",
        dns.address
    );
    (backends, web)
}

/// Apps on one port of 127.0.0.2, 127.0.0.3 and so on, named by their last number.
async fn apps<const N: usize>() -> (u16, [App; N]) {
    'port: loop {
        let first = App::start_at(([127, 0, 0, 2], 0).into(), "2").await;
        let port = first.address.port();
        let mut all = vec![first];
        for n in 3..N as u8 + 2 {
            // Another process may have the port there.
            let address = ([127, 0, 0, n], port).into();
            if tokio::net::TcpListener::bind(address).await.is_err() {
                continue 'port;
            }
            all.push(App::start_at(address, &n.to_string()).await);
        }
        return (port, all.try_into().ok().unwrap());
    }
}

/// Who has the next requests.
async fn shares(balancer: &Program, n: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..n {
        *shares.entry(who(balancer).await).or_default() += 1;
    }
    shares
}

/// The next requests go to these in turn: after a change of the set one may be a turn ahead.
async fn in_turn(balancer: &Program, expected: &[&str]) {
    const EACH: usize = 5;
    let shares = shares(balancer, expected.len() * EACH).await;
    assert!(shares.keys().eq(expected) && shares.values().all(|n| n.abs_diff(EACH) <= 1), "{shares:?}");
}

/// What `/status` says of the back ends.
async fn status(balancer: &Program) -> Vec<Value> {
    let mut wire = Wire::plain(balancer.address("metrics.listen")).await;
    wire.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let document: Value = serde_json::from_str(&wire.answer().await.unwrap().body).unwrap();
    document["backends"].as_array().unwrap().clone()
}

async fn names(balancer: &Program) -> Vec<String> {
    status(balancer).await.iter().map(|b| b["name"].as_str().unwrap().to_owned()).collect()
}

/// The value of a metric; 0 when it does not exist yet.
async fn metric(balancer: &Program, name: &str) -> f64 {
    let mut wire = Wire::plain(balancer.address("metrics.listen")).await;
    wire.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let text = wire.answer().await.unwrap().body;
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |v| v.parse().unwrap())
}

/// How often an answer came to this.
async fn resolutions(balancer: &Program, result: &str) -> f64 {
    metric(balancer, &format!("trivet_pool_resolutions_total{{pool=\"web\",result=\"{result}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_of_a_name_is_a_back_end_and_those_that_come_and_go_leave_the_others_alone() {
    let (port, apps) = apps::<3>().await;
    let dns = Dns::start(has(&["127.0.0.2", "127.0.0.3"])).await;
    let authority = Authority::new();
    let (backends, web) = named(&dns, port);
    let balancer = Program::start(&write(&authority, &backends, &web));
    assert_eq!(names(&balancer).await, ["app/127.0.0.2", "app/127.0.0.3"], "before the first request");
    in_turn(&balancer, &["2", "3"]).await;
    assert_eq!(metric(&balancer, "trivet_pool_addresses{pool=\"web\",backend=\"app\"}").await, 2.0);
    assert!(dns.asked().iter().all(|q| q == "app.internal A"), "IPv6 is in no network: {:?}", dns.asked());

    let since = |all: Vec<Value>| all[0]["since"].clone();
    let before = since(status(&balancer).await);
    dns.has(&["127.0.0.4", "127.0.0.3", "127.0.0.2"]);
    until("one comes", || async { shares(&balancer, 3).await.len() == 3 }).await;
    in_turn(&balancer, &["2", "3", "4"]).await;
    assert_eq!(since(status(&balancer).await), before, "whoever stays stays as it was");

    // What the one that goes has in hand is finished.
    apps[1].does(Act::Wait);
    let mut waits = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::plain(balancer.address("http.listen")).await;
        wire.send(&format!("GET /waits HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n")).await;
        waits.push(wire);
    }
    until("one of them waits there", || async { apps[1].count("/waits") == 1 }).await;
    dns.has(&["127.0.0.2", "127.0.0.4"]);
    until("one goes", || async { names(&balancer).await == ["app/127.0.0.2", "app/127.0.0.4"] }).await;
    in_turn(&balancer, &["2", "4"]).await;
    apps[1].release();
    for mut wire in waits {
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_resolved_stops_no_start_and_is_found_later() {
    let (port, _apps) = apps::<1>().await;
    let dns = Dns::start(Says::Failed).await;
    let authority = Authority::new();
    let (backends, web) = named(&dns, port);
    let balancer = Program::start(&write(&authority, &backends, &web));
    assert_eq!(who(&balancer).await, "503");
    let line = balancer.logged(|line| line["message"] == "resolving a back end's name");
    assert_eq!((&line["name"], &line["backend"]), (&"app.internal".into(), &"app".into()), "{line}");
    assert!(resolutions(&balancer, "failed").await >= 1.0);
    dns.has(&["127.0.0.2"]);
    until("it is found", || async { who(&balancer).await == "2" }).await;
    balancer.logged(|line| line["message"] == "the name is resolved again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_fails_leaves_the_last_addresses_and_a_name_that_is_gone_does_not() {
    let (port, _apps) = apps::<2>().await;
    let dns = Dns::start(has(&["127.0.0.2", "127.0.0.3"])).await;
    let authority = Authority::new();
    let (backends, web) = named(&dns, port);
    let balancer =
        Program::start(&write(&authority, &backends, &format!("{web}\nresolve_timeout = \"200ms\"")));
    // An address that nobody may be led to is as good as no answer.
    for (says, result) in [
        (Says::Failed, "failed"),
        (Says::Nothing, "failed"),
        (Says::Garbage, "failed"),
        (has(&["10.0.0.1", "0.0.0.0"]), "refused"),
    ] {
        let before = resolutions(&balancer, result).await;
        dns.says(says.clone());
        until("it was asked", || async { resolutions(&balancer, result).await >= before + 2.0 }).await;
        in_turn(&balancer, &["2", "3"]).await;
    }
    dns.says(Says::NoName);
    until("nobody is left", || async { who(&balancer).await == "503" }).await;
    assert!(names(&balancer).await.is_empty());
    dns.has(&["127.0.0.3"]);
    until("it is back", || async { who(&balancer).await == "3" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_thousands_of_addresses_has_as_many_back_ends_as_are_allowed() {
    let many = |n: u32| Says::Has((0..n).map(|n| IpAddr::from((0x7f01_0000 + n).to_be_bytes())).collect());
    let dns = Dns::start(many(4_000)).await;
    let authority = Authority::new();
    let (backends, web) = named(&dns, 9);
    let web = format!("{web}\nresolve_max_addresses = 5");
    let balancer = Program::start(&write(&authority, &backends, &web));
    assert_eq!(names(&balancer).await.len(), 5);
    let line = balancer.logged(|line| line["message"] == "resolving a back end's name");
    assert!(line["reason"].as_str().unwrap().contains("left out"), "{line}");
    until("it was asked again", || async { resolutions(&balancer, "found").await >= 3.0 }).await;
    assert_eq!(names(&balancer).await.len(), 5);
    // More than an answer can carry: the server says that it is cut off, over TCP, too.
    dns.says(many(10_000));
    until("it was asked again", || async { resolutions(&balancer, "failed").await >= 2.0 }).await;
    assert_eq!(names(&balancer).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_nobody_to_this_machine_unless_that_is_asked_for() {
    let (port, apps) = apps::<1>().await;
    let dns = Dns::start(has(&["127.0.0.2", "169.254.169.254", "::1", "::ffff:127.0.0.2"])).await;
    let authority = Authority::new();
    let (backends, web) = named(&dns, port);
    let web = web.lines().filter(|line| !line.contains("resolve_networks")).collect::<Vec<_>>().join("\n");
    let balancer = Program::start(&write(&authority, &backends, &web));
    assert_eq!(who(&balancer).await, "503");
    assert!(resolutions(&balancer, "refused").await >= 1.0);
    assert_eq!(apps[0].accepted(), 0, "not even a check");
    assert!(dns.asked().contains(&"app.internal AAAA".into()), "{:?}", dns.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_while_dns_fails_has_the_addresses_that_the_one_before_knew() {
    let (port, _apps) = apps::<1>().await;
    let dns = Dns::start(has(&["127.0.0.2"])).await;
    let authority = Authority::new();
    let (backends, web) = named(&dns, port);
    let path = write(&authority, &backends, &web);
    let run = authority.path("run");
    std::fs::create_dir(&run).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("runtime_directory = {run:?}\n{text}")).unwrap();
    drop(Program::start(&path));
    dns.says(Says::Failed);
    let balancer = Program::start(&path);
    assert_eq!(names(&balancer).await, ["app/127.0.0.2"]);
    assert_eq!(who(&balancer).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_certificate_carries_the_name_that_is_resolved() {
    let authority = Authority::new();
    let backend = Backend::start("there", authority.mutual_server("app.internal")).await;
    let dns = Dns::start(has(&["127.0.0.1"])).await;
    let (backends, web) = named(&dns, backend.address.port());
    let own = authority.files("node1");
    let tls =
        format!("tls = {{ ca = {:?}, certificate = {:?}, key = {:?} }}", own.ca, own.certificate, own.key);
    let balancer = Program::start(&write(&authority, &backends, &format!("{web}\n{tls}")));
    assert_eq!(who(&balancer).await, "there");
    // One that has the back end's name, and not the host's.
    let other = Backend::start("other", authority.mutual_server("app")).await;
    let (backends, _) = named(&dns, other.address.port());
    let balancer = Program::start(&write(&authority, &backends, &format!("{web}\n{tls}")));
    assert_eq!(who(&balancer).await, "503");
}

#[test]
fn descriptors_are_wanted_for_the_checks_of_every_address_that_may_be() {
    let authority = Authority::new();
    let wanted = |address: &str, web: &str| {
        let path = write(&authority, &format!("{{ name = \"app\", address = \"{address}\" }}"), web);
        let text = std::fs::read_to_string(&path).unwrap();
        config::parse::<Config>(&path, &text).unwrap().descriptors()
    };
    let one = wanted("10.0.0.1:80", "");
    assert_eq!(wanted("unix:/run/app.sock", ""), one);
    let more = |n: u64| one + 2 * (n - 1);
    // Each of them keeps eight connections, and all of them 256 otherwise.
    assert_eq!(wanted("app.internal:80", ""), more(64) + 8 * 64 - 256);
    assert_eq!(wanted("app.internal:80", "resolve_max_addresses = 3"), more(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_an_operator_has_drained_stays_drained_when_it_is_back_and_after_a_restart() {
    let (port, _apps) = apps::<2>().await;
    let dns = Dns::start(has(&["127.0.0.2", "127.0.0.3"])).await;
    let authority = Authority::new();
    let (backends, web) = named(&dns, port);
    let path = write(&authority, &backends, &web);
    let run = authority.path("run");
    std::fs::create_dir(&run).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let orders = authority.path("orders.json");
    let text = format!("runtime_directory = {run:?}\n{text}\n[control]\nstate_file = {orders:?}\n");
    std::fs::write(&path, text).unwrap();
    let socket = run.join("control.sock");
    let balancer = Program::start(&path);
    let (code, said) = trivet(&["drain", "web/app/127.0.0.2", "--control", socket.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    in_turn(&balancer, &["3"]).await;
    for addresses in [&["127.0.0.3"][..], &["127.0.0.2", "127.0.0.3"]] {
        dns.has(addresses);
        until("it is followed", || async { names(&balancer).await.len() == addresses.len() }).await;
        in_turn(&balancer, &["3"]).await;
    }
    drop(balancer);
    in_turn(&Program::start(&path), &["3"]).await;
}
