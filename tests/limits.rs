//! What happens at the limits, seen from outside: the table in docs/limits.md, row by row.
#![allow(missing_docs)]

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

use support::authority::Authority;
use support::backend::{Act, Backend};
use support::client::Wire;
use support::frames::{self, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame};
use support::one_back_end::{Keys, SITE, Scene, connect_from, get};
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PER_ADDRESS: &str = "trivet_connections_refused_total{reason=\"per_address\"}";
const TOO_MANY: &str = "trivet_http_refused_total{reason=\"too_many_requests\"}";

fn https(keys: &str) -> Keys<'_> {
    Keys { https: keys, ..Keys::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The tests with many connections need more descriptors than some systems give at first; the programs inherit them.
fn raise_descriptors() {
    let limit = "--nofile=16384:";
    let done = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), limit]).status();
    assert!(done.is_ok_and(|s| s.success()), "cannot raise the number of descriptors (prlimit {limit})");
}

/// Sends one byte after the other until the other side closes; how long that took.
async fn drip(wire: &mut Wire, byte: &str) -> Duration {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(19) {
        if !wire.try_send(byte).await || wire.closes_within(Duration::from_millis(50)).await {
            return began.elapsed();
        }
    }
    panic!("still open after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_gets_its_connections_and_no_more_and_others_are_served() {
    // A client that connects and says nothing: the cheapest of attacks, and 600 of it.
    raise_descriptors();
    let scene = Scene::start(https("handshake_timeout = \"1m\"")).await;
    let before = scene.balancer.memory_kib();
    let mut held = Vec::new();
    for _ in 0..600 {
        held.push(connect_from(ip("127.0.0.1"), scene.https()).await);
    }
    until("the default of 256 is kept", || async { scene.metric(PER_ADDRESS).await == 344.0 }).await;
    let mut closed = 0;
    for tcp in &mut held {
        let ended = tokio::time::timeout(Duration::from_millis(5), tcp.read_u8()).await;
        closed += usize::from(ended.is_ok());
    }
    assert_eq!(closed, 344, "closed at once, without a word and before TLS");
    let during = scene.balancer.memory_kib();

    let mut wire = scene.try_open_from(ip("127.0.0.2")).await.expect("another address is served");
    wire.send(&get("/")).await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert!(scene.try_open_from(ip("127.0.0.1")).await.is_none());

    drop(held);
    until("places are free again", || async { scene.try_open_from(ip("127.0.0.1")).await.is_some() }).await;
    let after = scene.balancer.memory_kib();
    println!(
        "600 silent connections of one address: {before} KiB before, {during} KiB during, {after} KiB after"
    );
    assert!(during < before + 16 * 1024, "{before} → {during} KiB");
    // One line a second at most, however many were refused.
    let said = scene
        .balancer
        .lines()
        .iter()
        .filter(|l| {
            l["message"].as_str().is_some_and(|m| m.starts_with("connection refused: 256 connections"))
        })
        .count();
    assert!((1..100).contains(&said), "{said} lines for some 350 refusals");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_tls_connections_cost_a_bounded_memory() {
    const MANY: usize = 2000;
    raise_descriptors();
    let keys = "max_connections_per_address = 0\nclient_idle_timeout = \"10m\"\nhandshake_timeout = \"1m\"";
    let scene = Scene::start(https(keys)).await;
    assert_eq!(scene.get("/warm").await.status, 200);
    let before = scene.balancer.memory_kib();
    let (address, browser) = (scene.https(), scene.authority.browser(&[b"http/1.1"]));
    let mut opening = JoinSet::new();
    let mut held = Vec::with_capacity(MANY);
    for i in 0..MANY {
        let browser = browser.clone();
        opening.spawn(async move {
            let mut wire = Wire::tls(address, SITE, browser).await;
            // Each has been used: what a request needed and keeps is part of the price.
            wire.send(&get("/")).await;
            assert_eq!(wire.answer().await.unwrap().status, 200);
            wire
        });
        if i >= 16 {
            held.push(opening.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(wire) = opening.join_next().await {
        held.push(wire.unwrap());
    }
    let open = scene.metric("trivet_connections").await;
    assert!(open >= MANY as f64, "{open}");
    let during = scene.balancer.memory_kib();
    assert_eq!(scene.get("/one-more").await.status, 200);
    drop(held);
    until("they are gone", || async { scene.metric("trivet_connections").await < 10.0 }).await;
    let after = scene.balancer.memory_kib();
    let each = (during.saturating_sub(before)) / MANY as u64;
    println!(
        "{MANY} idle TLS connections: {before} KiB before, {during} KiB during ({each} KiB each), {after} KiB after"
    );
    assert!(each < 100, "{each} KiB each");
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxies_have_no_limit_of_their_own() {
    let keys = "max_connections_per_address = 1\nrequest_rate = { rate = 1, burst = 1 }\n\
                trusted_proxies = [\"127.0.0.2/32\"]";
    let scene = Scene::start(https(keys)).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut wire = scene.try_open_from(ip("127.0.0.2")).await.expect("a trusted proxy");
        wire.send(&get("/")).await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
        held.push(wire);
    }
    let _one = scene.try_open_from(ip("127.0.0.3")).await.expect("the first of anyone else");
    assert!(scene.try_open_from(ip("127.0.0.3")).await.is_none(), "the second");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6585_4_above_its_rate_a_client_is_told_to_wait_and_others_are_not() {
    let scene = Scene::start(https("request_rate = { rate = 1, burst = 5 }")).await;
    let began = Instant::now();
    let mut served = 0;
    let refused = loop {
        let answer = scene.get("/rate").await;
        if answer.status != 200 {
            break answer;
        }
        served += 1;
        assert!(began.elapsed() < support::PATIENCE, "never refused");
    };
    assert!(served >= 5, "{served}");
    assert!(served <= 5 + 1 + began.elapsed().as_secs(), "{served} in {:?}", began.elapsed());
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.field("retry-after").expect("RFC 9110 section 10.2.3").parse().unwrap();
    assert_eq!(wait, 1);
    assert!(scene.metric(TOO_MANY).await >= 1.0);
    scene.balancer.logged(|l| l["path"] == "/rate" && l["status"] == 429 && l["client"] == "127.0.0.1");
    assert_eq!(
        scene.backend.count("/rate"),
        usize::try_from(served).unwrap(),
        "refused requests reach nobody"
    );

    let mut other = scene.try_open_from(ip("127.0.0.2")).await.unwrap();
    other.send(&get("/")).await;
    assert_eq!(other.answer().await.unwrap().status, 200, "another address has a rate of its own");

    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(scene.get("/rate").await.status, 200, "whoever waits as told is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6585_4_the_rate_is_one_for_all_connections_and_protocols() {
    let scene = Scene::start(https("request_rate = { rate = 1, burst = 3 }")).await;
    let wire = Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await;
    let (sender, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    tokio::spawn(connection);
    let mut statuses = Vec::new();
    for _ in 0..40 {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = http::Request::get(format!("https://{SITE}/")).body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        statuses.push(answer.await.unwrap().status().as_u16());
        if statuses.last() == Some(&429) {
            break;
        }
    }
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    // The connection goes on: other requests on it are not to blame.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::get(format!("https://{SITE}/")).body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_drips_ends_at_its_deadline() {
    let scene = Scene::start(https("handshake_timeout = \"500ms\"")).await;
    let mut wire = Wire::plain(scene.https()).await;
    wire.send("\u{16}\u{3}\u{1}\u{2}").await;
    drip(&mut wire, "\0").await;
    assert_eq!(scene.metric("trivet_tls_handshake_failures_total{reason=\"timeout\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_9_a_head_that_drips_ends_at_its_deadline_on_every_listener() {
    let keys = Keys { http: "redirect = false", https: "header_timeout = \"500ms\"", ..Keys::default() };
    let scene = Scene::start(keys).await;
    let mut plain = Wire::plain(scene.http()).await;
    plain.send("GET / HTTP/1.1\r\nHost: ").await;
    drip(&mut plain, "x").await;
    let mut tls = scene.open().await;
    tls.send("GET / HTTP/1.1\r\nHost: ").await;
    drip(&mut tls, "x").await;
    // Even what may become the preface of HTTP/2.
    let mut preface = Wire::plain(scene.http()).await;
    preface.send("PRI * HTTP/2.0\r\n").await;
    assert!(preface.closes_within(Duration::from_secs(10)).await);
    // And the preface of HTTP/2, or a head in its frame, that does not end.
    let mut h2 = Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await;
    h2.send("PRI * HTTP/2.0\r\n\r\nSM").await;
    assert!(h2.closes_within(Duration::from_secs(10)).await);
    let mut h2 = Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await;
    h2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0\0\0\u{9}\u{1}\0\0\0\0\u{1}").await;
    assert!(h2.closes_within(Duration::from_secs(10)).await);
    assert!(scene.metric("trivet_http_refused_total{reason=\"header_timeout\"}").await >= 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_opened_in_advance_waits_for_its_first_request_as_for_any_other() {
    let scene = Scene::start(https("header_timeout = \"300ms\"")).await;
    let mut http1 = scene.open().await;
    let wire = Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await;
    let (client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    let connection = tokio::spawn(connection);
    // A browser opens it when its user points at a link, and the user thinks for longer than a head may take.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!connection.is_finished());
    let request = http::Request::get(format!("https://{SITE}/late")).body(()).unwrap();
    let (answer, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    http1.send(&get("/late")).await;
    assert_eq!(http1.answer().await.unwrap().status, 200);
    assert_eq!(scene.metric("trivet_http_refused_total{reason=\"header_timeout\"}").await, 0.0);
    // Without a request it ends in order, at client_idle_timeout.
    let scene = Scene::start(https("client_idle_timeout = \"300ms\"")).await;
    let wire = Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await;
    let (client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    connection.await.unwrap();
    assert!(client.ready().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_9_a_body_that_drips_is_given_up() {
    // Ten seconds are free; then less than 500 bytes a second are too few.
    let scene = Scene::start(Keys::default()).await;
    let mut wire = scene.open().await;
    wire.send(&format!("POST /slow HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 100000\r\n\r\n")).await;
    let took = drip(&mut wire, "x").await;
    assert!(took > Duration::from_secs(9), "{took:?}");
    scene.balancer.logged(|l| l["path"] == "/slow" && l["reason"] == "the body came too slowly");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_answer_that_is_taken_byte_by_byte_is_broken_off() {
    // As above: never late for client_timeout, and never at min_rate.
    let scene = Scene::start(Keys::default()).await;
    scene.backend.does(Act::Bytes(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}",
        "x".repeat(100_000)
    )));
    let wire = Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await;
    let mut builder = h2::client::Builder::new();
    let (mut client, connection) =
        builder.initial_window_size(1).handshake::<_, bytes::Bytes>(wire.into_stream()).await.unwrap();
    tokio::spawn(connection);
    client = client.ready().await.unwrap();
    let request = http::Request::get(format!("https://{SITE}/drip")).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let began = Instant::now();
    let mut octets = 0;
    let why = loop {
        match body.data().await.expect("it ended as if it were whole") {
            Ok(piece) => {
                octets += piece.len();
                assert!(
                    octets < 100_000 && began.elapsed() < Duration::from_secs(19),
                    "it is not broken off"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
            Err(e) => break e,
        }
    };
    assert_eq!(why.reason(), Some(h2::Reason::INTERNAL_ERROR));
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    scene
        .balancer
        .logged(|l| l["path"] == "/drip" && l["reason"] == "the client takes the answer too slowly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_request_timeout_in_all_before_and_while_it_is_answered() {
    let scene = Scene::start(https("request_timeout = \"1s\"")).await;
    scene.backend.does(Act::Late(Duration::from_secs(60)));
    let answer = scene.get("/late").await;
    assert_eq!(answer.status, 504);
    scene
        .balancer
        .logged(|l| l["path"] == "/late" && l["reason"] == "the request took longer than request_timeout");
    // An answer that has begun is cut, so that nobody takes it for the whole.
    scene.backend.does(Act::Bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning".into()));
    let mut wire = scene.open().await;
    wire.send(&get("/half")).await;
    let text = wire.rest().await;
    assert!(text.ends_with("\r\n\r\nbeginning"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_is_broken_off() {
    let keys = Keys { https: "client_timeout = \"1s\"", ..Keys::default() };
    let scene = Scene::start(keys).await;
    let body = "x".repeat(32 << 20);
    scene
        .backend
        .does(Act::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())));
    let before = scene.balancer.memory_kib();
    let mut wires = Vec::new();
    for _ in 0..20 {
        let mut wire = scene.open().await;
        wire.send(&get("/taken-by-nobody")).await;
        wires.push(wire);
    }
    until("they run", || async { scene.backend.served() == 20 }).await;
    let during = scene.balancer.memory_kib();
    until("all are broken off", || async { scene.metric("trivet_http_requests_in_flight").await == 0.0 })
        .await;
    let after = scene.balancer.memory_kib();
    println!(
        "20 answers of 32 MiB that nobody takes: {before} KiB before, {during} during, {after} KiB after"
    );
    assert!(during < before + 32 * 1024, "an answer waits at the back end: {before} → {during} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_max_connections_memory_stays_and_everyone_is_served_in_turn() {
    let keys = "max_connections = 4\nmax_connections_per_address = 0";
    let scene = Scene::start(https(keys)).await;
    let mut asking = JoinSet::new();
    for _ in 0..40 {
        let (address, browser) = (scene.https(), scene.authority.browser(&[b"http/1.1"]));
        asking.spawn(async move {
            let mut wire = Wire::tls(address, SITE, browser).await;
            wire.send(&get("/")).await;
            wire.answer().await.unwrap().status
        });
    }
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_a_client_a_listener_and_a_back_end_like_any_other() {
    let authority = Authority::new();
    let server = authority.mutual_server("node0");
    let Some(backend) = Backend::try_start_at("[::1]:0".parse().unwrap(), "node0", server).await else {
        return println!("left out: this machine has no IPv6");
    };
    // [::] takes both, whatever the system's bindv6only says.
    let scene = Scene::with(authority, backend, Keys { listen: "[::]:0", ..Keys::default() });
    let port = scene.https().port();
    for (host, path) in [("127.0.0.1", "/four"), ("::1", "/six")] {
        let tcp = TcpStream::connect((ip(host), port)).await.unwrap();
        let mut wire = Wire::try_tls_over(tcp, SITE, scene.authority.browser(&[b"http/1.1"])).await.unwrap();
        wire.send(&get(path)).await;
        assert_eq!(wire.answer().await.unwrap().body, "node0");
        // Not ::ffff:127.0.0.1.
        assert_eq!(scene.balancer.access(path)["client"], host);
        let seen = scene.backend.seen().into_iter().find(|r| r.contains(path)).unwrap().to_ascii_lowercase();
        assert!(seen.contains(&format!("\r\nx-forwarded-for: {host}\r\n")), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_http_2_requests_are_logged_and_who_sends_them_without_pause_is_slowed_down() {
    let scene = Scene::start(Keys::default()).await;
    let malformed = "trivet_http_refused_total{reason=\"malformed\"}";
    // As Go's client does: each reset is answered by a new connection and the same request.
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, []),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, frames::get("/?q=\"x\"")),
    ];
    for n in 1..=22 {
        let wire = Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await;
        let mut io = wire.into_stream();
        io.write_all(&bytes.concat()).await.unwrap();
        until("it is counted", || async { scene.metric(malformed).await == f64::from(n) }).await;
    }
    scene.balancer.logged(|l| {
        l["version"] == "HTTP/2.0"
            && l["client"] == "127.0.0.1"
            && l["reason"].as_str().is_some_and(|r| r.contains("malformed"))
    });
    assert!(scene.metric("trivet_connections_delayed_total").await >= 1.0);
    // Others, and this one when it asks for something else, are served.
    assert_eq!(scene.get("/fine").await.status, 200);
}
