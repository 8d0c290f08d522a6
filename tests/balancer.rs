//! The balancer as its clients and back ends see it: the real program between them.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::time::Duration;

use support::authority::Authority;
use support::backend::{Act, Backend};
use support::balancer_config::{BalancerConfig, NO_CHECKS, SITE};
use support::client::{Answer, Wire};
use support::program::{Program, call};
use support::{PATIENCE, until};

/// A cluster of back ends and the balancer in front of them.
struct Scene {
    authority: Authority,
    backends: Vec<Backend>,
    balancer: Program,
}

impl Scene {
    async fn with(n: usize) -> Self {
        Self::tuned(n, "", "", "").await
    }

    /// With further keys at the top, in `[https]` and in `[web]`.
    async fn tuned(n: usize, top: &str, https: &str, web: &str) -> Self {
        let authority = Authority::new();
        let mut backends = Vec::new();
        for i in 0..n {
            let name = format!("node{i}");
            backends.push(Backend::start(&name, authority.mutual_server(&name)).await);
        }
        let list: Vec<(String, &Backend)> =
            backends.iter().enumerate().map(|(i, b)| (format!("node{i}"), b)).collect();
        let config = configure(&authority, &list, top, https, web);
        let balancer = Program::start(&config);
        Self { authority, backends, balancer }
    }

    async fn open(&self) -> Wire {
        Wire::tls(self.balancer.address("https.listen"), SITE, self.authority.browser(&[b"http/1.1"])).await
    }

    async fn get(&self, path: &str) -> Answer {
        let mut wire = self.open().await;
        wire.send(&get(path)).await;
        wire.answer().await.expect("an answer")
    }

    async fn local_check(&self) -> u16 {
        self.local_check_of("/healthz").await
    }

    async fn local_check_of(&self, path: &str) -> u16 {
        let mut wire = Wire::plain(self.balancer.address("local_check.listen")).await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        wire.answer().await.unwrap().status
    }

    async fn operator(&self, path: &str) -> String {
        let mut wire = Wire::plain(self.balancer.address("metrics.listen")).await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        wire.answer().await.unwrap().body
    }
}

fn reason(line: &serde_json::Value) -> &str {
    line["reason"].as_str().unwrap_or_default()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n\r\n")
}

fn configure(
    authority: &Authority,
    backends: &[(String, &Backend)],
    top: &str,
    https: &str,
    web: &str,
) -> PathBuf {
    let top = format!("virtual_addresses = [\"127.0.0.1\", \"192.0.2.50\"]\n{top}");
    let config = BalancerConfig {
        top: &top,
        http: Some(""),
        https,
        back_ends: backends.iter().map(|(name, b)| (name.clone(), b.address)).collect(),
        web,
        sections: "[local_check]\nlisten = \"127.0.0.1:0\"",
        ..BalancerConfig::default()
    };
    config.write(authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_redirected_and_a_post_keeps_its_method() {
    let scene = Scene::with(1).await;
    let port = scene.balancer.address("https.listen").port();
    for (method, status) in [("GET", 301), ("HEAD", 301), ("POST", 308)] {
        let mut wire = Wire::plain(scene.balancer.address("http.listen")).await;
        wire.send(&format!("{method} /a?b=c HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 0\r\n\r\n")).await;
        let answer = wire.answer_to(method).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.field("location").unwrap(), format!("https://{SITE}:{port}/a?b=c"));
        assert_eq!(answer.field("strict-transport-security"), None, "RFC 6797 section 7.2");
    }
    assert_eq!(scene.backends[0].served(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_above_max_in_flight_wait_their_turn_and_no_longer_than_queue_timeout() {
    let limits = "max_in_flight_per_backend = 1\nmax_queued = 1\nqueue_timeout = \"1s\"";
    let scene = Scene::tuned(1, "", "", limits).await;
    scene.backends[0].does(Act::Late(Duration::from_secs(3600)));
    let mut first = scene.open().await;
    first.send(&get("/first")).await;
    until("it is there", || async { scene.backends[0].seen().iter().any(|r| r.contains("/first")) }).await;
    // One waits in vain, and one more may not even wait; each with its reason.
    let mut late = scene.open().await;
    late.send(&get("/late")).await;
    until("it is there", || async {
        scene.operator("/metrics").await.contains("trivet_pool_queued{pool=\"web\"} 1")
    })
    .await;
    assert_eq!(scene.get("/too-many").await.status, 503);
    assert_eq!(late.answer().await.unwrap().status, 503);
    scene
        .balancer
        .logged(|l| l["path"] == "/too-many" && l["status"] == 503 && reason(l).contains("max_queued"));
    scene.balancer.logged(|l| {
        l["path"] == "/late" && reason(l).contains("queue_timeout") && l["queued_ms"].as_f64() >= Some(1000.0)
    });
    let metrics = scene.operator("/metrics").await;
    for line in [
        "trivet_http_refused_total{reason=\"queue_full\"} 1",
        "trivet_http_refused_total{reason=\"queue_timeout\"} 1",
        "trivet_backend_in_flight{pool=\"web\",backend=\"node0\"} 1",
        "trivet_pool_queued{pool=\"web\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    assert!(!scene.backends[0].seen().iter().any(|r| r.contains("/late")), "it was never asked");
    // One that waits is served as soon as there is room: also when that is because a client has left.
    scene.backends[0].does(Act::Name);
    let mut next = scene.open().await;
    next.send(&get("/next")).await;
    until("it is there", || async {
        scene.operator("/metrics").await.contains("trivet_pool_queued{pool=\"web\"} 1")
    })
    .await;
    drop(first);
    assert_eq!(next.answer().await.unwrap().status, 200);
    // And whoever leaves the queue leaves nothing behind.
    scene.backends[0].does(Act::Late(Duration::from_secs(3600)));
    let mut one = scene.open().await;
    one.send(&get("/one")).await;
    until("it is there", || async { scene.backends[0].seen().iter().any(|r| r.contains("/one")) }).await;
    let mut gone = scene.open().await;
    gone.send(&get("/gone")).await;
    until("it is there", || async {
        scene.operator("/metrics").await.contains("trivet_pool_queued{pool=\"web\"} 1")
    })
    .await;
    drop(gone);
    until("it is there", || async {
        scene.operator("/metrics").await.contains("trivet_pool_queued{pool=\"web\"} 0")
    })
    .await;
    scene.balancer.logged(|l| l["path"] == "/gone" && l["aborted"] == true && l["backend"] == "-");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_redirected_to_the_port_by_which_clients_reach_https() {
    let authority = Authority::new();
    let back_end = Backend::start("node0", authority.mutual_server("node0")).await;
    for (port, shown) in [("8443", ":8443"), ("443", "")] {
        let http = format!("redirect_port = {port}");
        let back_ends = vec![("node0".to_owned(), back_end.address)];
        let config = BalancerConfig { http: Some(&http), back_ends, ..BalancerConfig::default() };
        let balancer = Program::start(&config.write(&authority));
        let mut wire = Wire::plain(balancer.address("http.listen")).await;
        wire.send(&get("/a")).await;
        let location = wire.answer().await.unwrap().field("location");
        assert_eq!(location.unwrap(), format!("https://{SITE}{shown}/a"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_sent_twice_does_not_wait_for_a_back_end_that_falls_silent() {
    let scene = Scene::tuned(2, "", "", "health = { interval = \"200ms\", timeout = \"2s\" }").await;
    scene.backends[0].does(Act::Late(Duration::from_secs(3600)));
    let mut wires = Vec::new();
    for request in [
        "GET /safe HTTP/1.1\r\n",
        "POST /keyed HTTP/1.1\r\nContent-Length: 4\r\nIdempotency-Key: \"1\"\r\n",
        "POST /once HTTP/1.1\r\nContent-Length: 4\r\n",
    ] {
        let body = if request.starts_with("POST") { "body" } else { "" };
        let path = request.split(' ').nth(1).unwrap();
        // In turn: one of them goes to the one that does not answer.
        for sent in 1..=2 {
            let mut wire = scene.open().await;
            wire.send(&format!("{request}Host: {SITE}\r\n\r\n{body}")).await;
            until("it has arrived", || async {
                scene.backends.iter().map(|b| b.count(path)).sum::<usize>() == sent
            })
            .await;
            wires.push((path.to_owned(), wire));
        }
        assert_eq!(scene.backends[0].count(path), 1);
    }
    scene.backends[0].freeze();
    for (path, wire) in &mut wires {
        if path != "/once" {
            assert_eq!(wire.answer().await.unwrap().body, "node1", "{path}");
        }
    }
    // Nobody knows whether it was done.
    assert_eq!(scene.backends[0].count("/once"), 1);
    assert_eq!(scene.backends[1].count("/once"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trusted_proxy_tells_of_its_client_is_believed_and_what_others_tell_is_not() {
    let told = "X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\nX-Forwarded-Proto: https\r\n";
    for (trusted, client) in [("127.0.0.0/8", "198.51.100.7"), ("192.0.2.0/24", "127.0.0.1")] {
        let scene = Scene::tuned(1, "", &format!("trusted_proxies = [\"{trusted}\"]"), "").await;
        let mut wire = scene.open().await;
        wire.send(&format!("GET /told HTTP/1.1\r\nHost: {SITE}\r\n{told}\r\n")).await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
        let seen = scene.backends[0].seen()[0].to_ascii_lowercase();
        // What stood before it is only what somebody said.
        assert!(seen.contains(&format!("\r\nx-forwarded-for: {client}\r\n")), "{seen}");
        assert!(seen.contains(&format!("\r\nx-real-ip: {client}\r\n")), "{seen}");
        assert_eq!(scene.balancer.access("/told")["client"], client);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_round_the_back_ends() {
    let scene = Scene::with(3).await;
    let mut wire = scene.open().await;
    for _ in 0..9 {
        wire.send(&get("/")).await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
    assert_eq!(scene.backends.iter().map(Backend::served).collect::<Vec<_>>(), [3, 3, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_killed_under_load_fails_no_request() {
    let scene = Scene::with(3).await;
    let browser = scene.authority.browser(&[b"http/1.1"]);
    let address = scene.balancer.address("https.listen");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let browser = browser.clone();
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                let mut wire = Wire::tls(address, SITE, browser).await;
                for _ in 0..100 {
                    wire.send(&get("/")).await;
                    statuses.push(wire.answer().await.unwrap().status);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                statuses
            })
        })
        .collect();
    until("some requests were served", || async { scene.backends[0].served() > 5 }).await;
    scene.backends[0].kill().await;
    for client in clients {
        let statuses = client.await.unwrap();
        assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    }
    scene.balancer.logged(|l| l["message"] == "back end ejected" && l["backend"] == "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_repeated_is_sent_to_another_back_end_when_its_connection_breaks_and_a_post_is_not() {
    let scene = Scene::with(2).await;
    scene.backends[0].does(Act::Drop);
    for _ in 0..4 {
        assert_eq!(scene.get("/get").await.body, "node1");
    }
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut wire = scene.open().await;
        wire.send(&format!("POST /post HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 2\r\n\r\nhi")).await;
        statuses.push(wire.answer().await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502], "one of two posts met the back end that drops connections");
    // Unless its client says that it may come twice.
    for _ in 0..2 {
        let mut wire = scene.open().await;
        wire.send(&format!(
            "POST /key HTTP/1.1\r\nHost: {SITE}\r\nIdempotency-Key: \"a\"\r\nContent-Length: 2\r\n\r\nhi"
        ))
        .await;
        assert_eq!(wire.answer().await.unwrap().body, "node1");
    }
    let put = format!("PUT /put HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 5\r\n\r\nhello");
    for _ in 0..2 {
        let mut wire = scene.open().await;
        wire.send(&put).await;
        assert_eq!(wire.answer().await.unwrap().body, "node1");
    }
    let heard = scene.backends[1].seen();
    assert!(heard.iter().filter(|r| r.starts_with("PUT")).all(|r| r.ends_with("\r\n\r\nhello")), "{heard:?}");
    assert_eq!(scene.balancer.access("/put")["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_could_not_connect_is_sent_to_another_back_end() {
    let scene = Scene::tuned(2, "", "", NO_CHECKS).await;
    scene.backends[0].kill().await;
    for _ in 0..3 {
        let mut wire = scene.open().await;
        wire.send(&format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 2\r\n\r\nhi")).await;
        assert_eq!(wire.answer().await.unwrap().body, "node1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_says_it_is_unwell_is_left_alone_until_it_is_well_again() {
    let scene = Scene::with(2).await;
    scene.backends[0].unwell(Some("draining"));
    scene.balancer.logged(|l| l["message"] == "back end is down" && l["reason"] == "503: draining");
    for _ in 0..4 {
        assert_eq!(scene.get("/").await.body, "node1");
    }
    scene.backends[0].unwell(None);
    scene
        .balancer
        .logged(|l| l["message"] == "back end is up" && l["backend"] == "node0" && l["from"] == "down");
    let (a, b) = (scene.get("/").await.body, scene.get("/").await.body);
    assert_ne!(a, b);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_back_end_the_page_says_so_with_the_number_of_the_request() {
    let scene = Scene::with(1).await;
    let backends = || scene.local_check_of("/healthz/backends");
    assert_eq!(backends().await, 200);
    scene.backends[0].unwell(Some("app gone"));
    until("keepalived is told", || async { backends().await == 503 }).await;
    assert_eq!(scene.local_check().await, 200, "the virtual address stays where this page can be given");
    let answer = scene.get("/nobody").await;
    let id = answer.field("x-request-id").unwrap();
    assert_eq!((answer.status, answer.field("retry-after").as_deref()), (503, Some("1")));
    assert!(answer.body.contains(&id), "{}", answer.body);
    let line = scene.balancer.access("/nobody");
    assert_eq!((line["request_id"].as_str(), line["backend"].as_str()), (Some(id.as_str()), Some("-")));
    assert!(line["reason"].as_str().unwrap().contains("no back end is up"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_with_another_name_in_its_certificate_is_not_used() {
    let authority = Authority::new();
    let good = Backend::start("node0", authority.mutual_server("node0")).await;
    let liar = Backend::start("node1", authority.mutual_server("somebody-else")).await;
    let other_ca = Authority::new();
    let stranger = Backend::start("node2", other_ca.mutual_server("node2")).await;
    let list = [("node0".to_owned(), &good), ("node1".to_owned(), &liar), ("node2".to_owned(), &stranger)];
    let config = configure(&authority, &list, "", "", "");
    let scene = Scene { authority, balancer: Program::start(&config), backends: Vec::new() };
    for _ in 0..4 {
        assert_eq!(scene.get("/").await.body, "node0");
    }
    assert_eq!(liar.served() + stranger.served(), 0);
    for name in ["node1", "node2"] {
        let line = scene.balancer.logged(|l| l["message"] == "back end is down" && l["backend"] == name);
        assert!(line["reason"].as_str().unwrap().contains("TLS"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_is_refused_on_the_request_path_too() {
    // The check is told another name than the certificate has only by being right: so let the back end turn bad later.
    let authority = Authority::new();
    let good = Backend::start("node0", authority.mutual_server("node0")).await;
    let address = good.address;
    let list = [("node0".to_owned(), &good)];
    let config = configure(&authority, &list, "", "", NO_CHECKS);
    let scene = Scene { authority, balancer: Program::start(&config), backends: Vec::new() };
    assert_eq!(scene.get("/").await.status, 200);
    good.kill().await;
    // The same address, another name: bound as soon as the first listener has let go.
    let liar = loop {
        if let Some(b) = Backend::try_start_at(address, "liar", scene.authority.mutual_server("liar")).await {
            break b;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let answer = scene.get("/secret").await;
    assert_eq!(answer.status, 503);
    assert_eq!(liar.served(), 0, "not a byte of a request reaches it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_say_about_themselves_does_not_reach_the_back_end() {
    let scene = Scene::with(1).await;
    let mut wire = scene.open().await;
    wire.send(&format!(
        "GET /x HTTP/1.1\r\nHost: {SITE}\r\nX-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Proto: http\r\nX-Real-IP: 10.9.9.9\r\n\
         Forwarded: for=10.9.9.9\r\nX-Request-Id: mine\r\nTrivet-Hop: 1\r\nX_Forwarded_For: 10.9.9.9\r\nProxy: evil\r\n\
         Keep-Alive: 5\r\nAccept: text/html\r\n\r\n"
    ))
    .await;
    let answer = wire.answer().await.unwrap();
    let id = answer.field("x-request-id").unwrap();
    assert_eq!(answer.field("strict-transport-security").as_deref(), Some("max-age=31536000"));
    let seen = scene.backends[0].seen().remove(0).to_ascii_lowercase();
    for gone in ["10.9.9.9", "trivet-hop", "evil", "mine", "keep-alive", "x_forwarded"] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    for there in [
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-real-ip: 127.0.0.1\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-host: www.foobar.com\r\n",
        "forwarded: for=127.0.0.1;host=\"www.foobar.com\";proto=https\r\n",
        "via: 1.1 trivet\r\n",
        "accept: text/html\r\n",
        &format!("x-request-id: {id}\r\n"),
    ] {
        assert!(seen.contains(there), "{there} not in {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_when_the_client_offers_it() {
    let scene = Scene::with(2).await;
    let address = scene.balancer.address("https.listen");
    let wire = Wire::tls(address, SITE, scene.authority.browser(&[b"h2", b"http/1.1"])).await;
    let (client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..4 {
        let request = http::Request::get(format!("https://{SITE}/h2?x")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("strict-transport-security"));
        let body = answer.into_body().data().await.unwrap().unwrap();
        bodies.push(String::from_utf8(body.to_vec()).unwrap());
    }
    bodies.sort();
    assert_eq!(bodies, ["node0", "node0", "node1", "node1"]);
    let seen = scene.backends[0].seen().remove(0).to_ascii_lowercase();
    assert!(
        seen.starts_with("get /h2?x http/1.1\r\n") && seen.contains("host: www.foobar.com\r\n"),
        "{seen}"
    );
    assert!(seen.contains("via: 2 trivet\r\n"), "{seen}");

    for (uri, status) in [("https://other.example/", 421), ("https://www.foobar.com/a/../b", 400)] {
        let request = http::Request::get(uri).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), status, "{uri}");
    }
    assert_eq!(scene.balancer.access("/h2")["version"], "HTTP/2.0");
}

/// One request as bytes, and what must come of it.
async fn refused(scene: &Scene, request: &str, status: u16) {
    let mut wire = scene.open().await;
    wire.send(request).await;
    let answer = wire.answer().await.unwrap_or_else(|| panic!("no answer to {request:?}"));
    assert_eq!(answer.status, status, "{request:?}");
    // A name that is not ours is well understood: what comes next is a request of its own.
    let closes = status == 421 || wire.closes_within(Duration::from_secs(10)).await;
    assert!(closes, "still open after {request:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_could_be_read_in_two_ways_are_refused_and_the_connection_closed() {
    let scene = Scene::with(1).await;
    let host = format!("Host: {SITE}\r\n");
    for (rfc, request, status) in [
        (
            "9112 6.3",
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (
            "9112 6.3",
            format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        ("9110 8.6", format!("POST / HTTP/1.1\r\n{host}Content-Length: 5, 5\r\n\r\nhello"), 400),
        (
            "9110 8.6",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
            400,
        ),
        (
            "9110 8.6",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
            400,
        ),
        ("9110 8.6", format!("POST / HTTP/1.1\r\n{host}Content-Length: +5\r\n\r\nhello"), 400),
        (
            "9112 6.1",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            400,
        ),
        ("9112 6.1", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n"), 400),
        ("9112 6.1", format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("9112 2.2", format!("GET / HTTP/1.1\n{host}\r\n"), 400),
        ("9112 2.2", format!("GET / HTTP/1.1\r\nHost: {SITE}\n\r\n"), 400),
        ("9112 5.1", format!("GET / HTTP/1.1\r\n{host}X : y\r\n\r\n"), 400),
        ("9112 5.2", format!("GET / HTTP/1.1\r\n{host}X: y\r\n folded\r\n\r\n"), 400),
        ("9112 3.2", "GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("9112 3.2", format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), 400),
        ("9112 3.2", format!("GET /a#b HTTP/1.1\r\n{host}\r\n"), 400),
        ("3986 6.2.2.3", format!("GET /a/../b HTTP/1.1\r\n{host}\r\n"), 400),
        ("3986 6.2.2.3", format!("GET /a/%2E%2e/b HTTP/1.1\r\n{host}\r\n"), 400),
        ("9110 9.3.8", format!("TRACE / HTTP/1.1\r\n{host}\r\n"), 405),
        ("9110 9.3.6", format!("CONNECT {SITE}:443 HTTP/1.1\r\n{host}\r\n"), 405),
        ("9110 15.5.20", "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n".to_owned(), 421),
        ("9110 10.1.1", format!("GET / HTTP/1.1\r\n{host}Expect: magic\r\n\r\n"), 417),
        ("9110 15.5.15", format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(9000)), 414),
        ("6585 5", format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(40_000)), 431),
    ] {
        eprintln!("RFC {rfc}");
        refused(&scene, &request, status).await;
    }
    assert_eq!(scene.backends[0].served(), 0, "{:?}", scene.backends[0].seen());
    let line = scene.balancer.logged(|l| l["reason"] == "dot segments in the path");
    assert_eq!((line["path"].as_str(), line["request_id"].as_str().unwrap().len()), (Some("/a/../b"), 32));
    let metrics = scene.operator("/metrics").await;
    assert!(metrics.contains("trivet_http_refused_total{reason=\"length_and_coding\"} 2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_2_absolute_form_is_forwarded_as_path() {
    let scene = Scene::with(1).await;
    let mut wire = scene.open().await;
    wire.send(&format!("GET https://{SITE}/a?b HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert!(scene.backends[0].seen()[0].starts_with("GET /a?b HTTP/1.1\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_both_framings_and_too_large_ones_do_not() {
    let scene = Scene::tuned(1, "", "max_body_size = \"1MB\"", "").await;
    scene.backends[0].does(Act::Count);
    let body = "x".repeat(300_000);
    let mut wire = scene.open().await;
    wire.send(&format!("POST /a HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 300000\r\n\r\n{body}")).await;
    assert_eq!(wire.answer().await.unwrap().body, "300000");
    wire.send(&format!(
        "POST /b HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().body, "300000");

    wire.send(&format!("POST /c HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 1000001\r\n\r\n")).await;
    assert_eq!(wire.answer().await.unwrap().status, 413);
    let mut wire = scene.open().await;
    let chunk = format!("{:x}\r\n{body}\r\n", body.len());
    wire.send(&format!("POST /d HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..5 {
        if !wire.try_send(&chunk).await {
            break;
        }
    }
    assert_eq!(scene.balancer.access("/d")["status"], 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_1_a_client_that_expects_continue_gets_it() {
    let scene = Scene::with(1).await;
    scene.backends[0].does(Act::Count);
    let mut wire = scene.open().await;
    wire.send(&format!(
        "POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().status, 100);
    wire.send("hello").await;
    assert_eq!(wire.answer().await.unwrap().body, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_no_body_and_the_connection_stays_usable() {
    let scene = Scene::with(1).await;
    let mut wire = scene.open().await;
    for _ in 0..2 {
        wire.send(&format!("HEAD / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let answer = wire.answer_to("HEAD").await.unwrap();
        assert_eq!((answer.status, answer.field("content-length").as_deref()), (200, Some("5")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_upgrade_passes() {
    let scene = Scene::with(1).await;
    scene.backends[0].does(Act::Upgrade);
    let mut wire = scene.open().await;
    wire.send(&format!(
        "GET /ws HTTP/1.1\r\nHost: {SITE}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().status, 101);
    for word in ["hello", "again"] {
        wire.send(word).await;
        assert_eq!(wire.bytes().await.unwrap(), word.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_at_their_deadlines() {
    let https = "header_timeout = \"400ms\"\nhandshake_timeout = \"400ms\"\nclient_idle_timeout = \"600ms\"";
    let scene = Scene::tuned(1, "", https, "").await;
    let address = scene.balancer.address("https.listen");

    let mut silent = Wire::plain(address).await;
    assert!(silent.closes_within(Duration::from_secs(10)).await, "no handshake");

    let mut dripping = scene.open().await;
    let mut open = dripping.try_send("GET / HTTP/1.1\r\nHost: ").await;
    let began = tokio::time::Instant::now();
    while open && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        open = dripping.try_send("x").await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "dripped for {:?}", began.elapsed());

    let mut paused = scene.open().await;
    paused.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(paused.answer().await.unwrap().status, 408);

    let mut idle = scene.open().await;
    idle.send(&get("/")).await;
    assert_eq!(idle.answer().await.unwrap().status, 200);
    assert!(idle.closes_within(Duration::from_secs(10)).await, "idle after a request");

    let mut twice = scene.open().await;
    twice.send(&get("/")).await;
    assert_eq!(twice.answer().await.unwrap().status, 200);
    twice.send("GET /").await;
    assert_eq!(twice.answer().await.unwrap().status, 408, "the second head has a deadline of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_does_not_answer_is_a_504() {
    let scene = Scene::tuned(1, "", "", "response_timeout = \"300ms\"").await;
    scene.backends[0].does(Act::Late(Duration::from_secs(30)));
    assert_eq!(scene.get("/").await.status, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_speaks_nonsense_is_a_502() {
    let scene = Scene::with(1).await;
    for nonsense in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        scene.backends[0].does(Act::Bytes(nonsense.into()));
        assert_eq!(scene.get("/").await.status, 502, "{nonsense:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nothing_of_any_other_says_so_beside_its_own_health() {
    // The balancer is node1's.
    let scene = Scene::tuned(3, "", "", "health = { interval = \"200ms\", timeout = \"1s\" }").await;
    let others = || scene.local_check_of("/healthz/others");
    assert_eq!(others().await, 200);
    scene.backends[0].freeze();
    scene.backends[2].unwell(Some("draining"));
    scene.balancer.logged(|l| l["message"] == "back end is down" && l["backend"] == "node2");
    scene.balancer.logged(|l| l["message"] == "back end is down" && l["backend"] == "node0");
    assert_eq!(others().await, 200, "one that says no is heard");
    scene.backends[2].freeze();
    until("nobody else is heard", || async { others().await == 503 }).await;
    assert_eq!(scene.local_check().await, 200, "it can serve all the same");
    scene.backends[2].kill().await;
    until("a machine on which nobody listens is heard", || async { others().await == 200 }).await;
    let (at, tls) = (scene.backends[2].address, scene.authority.mutual_server("node2"));
    let again = Backend::try_start_at(at, "node2", tls).await.expect("its port is free");
    let is_up = |l: &serde_json::Value| {
        l["message"] == "back end is up" && l["backend"] == "node2" && l["from"] == "down"
    };
    scene.balancer.logged(is_up);
    assert_eq!(others().await, 200);
    drop(again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_in_flight_and_tells_keepalived_first() {
    let mut scene = Scene::tuned(1, "shutdown_timeout = \"15s\"", "", "").await;
    scene.backends[0].does(Act::Late(Duration::from_millis(1500)));
    let mut idle = scene.open().await;
    let mut busy = scene.open().await;
    busy.send(&get("/slow")).await;
    until("it reached the back end", || async { scene.backends[0].served() == 1 }).await;
    let https = scene.balancer.address("https.listen");
    scene.balancer.signal("TERM");
    until("the local check fails", || async { scene.local_check().await == 503 }).await;
    assert!(idle.closes_within(Duration::from_secs(10)).await);
    until("it no longer listens", || async { tokio::net::TcpStream::connect(https).await.is_err() }).await;
    let answer = busy.answer().await.expect("the answer to what was in flight");
    assert_eq!((answer.status, answer.body.as_str()), (200, "node0"));
    assert!(busy.closes_within(Duration::from_secs(10)).await);
    assert!(scene.balancer.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_http_2_requests_in_flight_finish() {
    let mut scene = Scene::tuned(1, "shutdown_timeout = \"15s\"", "", "").await;
    scene.backends[0].does(Act::Late(Duration::from_millis(1500)));
    let address = scene.balancer.address("https.listen");
    let wire = Wire::tls(address, SITE, scene.authority.browser(&[b"h2"])).await;
    let (client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::get(format!("https://{SITE}/slow")).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    until("it reached the back end", || async { scene.backends[0].served() == 1 }).await;
    scene.balancer.signal("TERM");
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "node0");
    let _ = connection.await;
    assert!(scene.balancer.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_max_connections_further_ones_wait_and_are_served_in_their_turn() {
    let scene = Scene::tuned(1, "", "max_connections = 1", "").await;
    let mut first = scene.open().await;
    first.send(&get("/first")).await;
    assert_eq!(first.answer().await.unwrap().status, 200);
    let (address, browser) =
        (scene.balancer.address("https.listen"), scene.authority.browser(&[b"http/1.1"]));
    let second = tokio::spawn(async move {
        let mut wire = Wire::tls(address, SITE, browser).await;
        wire.send(&get("/second")).await;
        wire.answer().await.unwrap().status
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_what_takes_longer_than_the_timeout() {
    let mut scene = Scene::tuned(1, "shutdown_timeout = \"300ms\"", "", "").await;
    scene.backends[0].does(Act::Late(Duration::from_secs(60)));
    let mut busy = scene.open().await;
    busy.send(&get("/slow")).await;
    until("it reached the back end", || async { scene.backends[0].served() == 1 }).await;
    scene.balancer.signal("TERM");
    assert!(busy.answer().await.is_none());
    assert!(scene.balancer.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_connections_are_still_accepted_and_answers_say_close() {
    let mut scene = Scene::tuned(1, "", "", "").await;
    drop(scene.balancer);
    let list = [("node0".to_owned(), &scene.backends[0])];
    let config = configure(&scene.authority, &list, "", "", "");
    let text =
        std::fs::read_to_string(&config).unwrap().replace("drain_delay = \"0s\"", "drain_delay = \"5s\"");
    scene.balancer = Program::start(&scene.authority.write("drain.toml", &text));
    let mut kept = scene.open().await;
    kept.send(&get("/")).await;
    assert_ne!(kept.answer().await.unwrap().field("connection").as_deref(), Some("close"));
    let wire =
        Wire::tls(scene.balancer.address("https.listen"), SITE, scene.authority.browser(&[b"h2"])).await;
    let (mut client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    let http2 = tokio::spawn(connection);
    let request = http::Request::get(format!("https://{SITE}/")).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    scene.balancer.signal("TERM");
    until("the local check fails", || async { scene.local_check().await == 503 }).await;
    // Before the virtual address moves: afterwards the client's side would not hear it.
    tokio::time::timeout(PATIENCE, http2).await.expect("no GOAWAY").unwrap().unwrap();
    for wire in [&mut kept, &mut scene.open().await] {
        wire.send(&get("/")).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status, answer.field("connection").as_deref()), (200, Some("close")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_back_ends_addresses_and_certificates() {
    let scene = Scene::with(2).await;
    scene.get("/").await;
    let status: serde_json::Value = serde_json::from_str(&scene.operator("/status").await).unwrap();
    assert_eq!(status["backends"][0]["health"], "up");
    assert_eq!(status["virtual_addresses"][0], serde_json::json!({"address": "127.0.0.1", "held": true}));
    assert_eq!(status["virtual_addresses"][1]["held"], false);
    assert!(status["certificates"][0]["days_left"].as_i64().unwrap() > 100, "{status}");
    for line in [
        "trivet_backend_up{pool=\"web\",backend=\"node0\"} 1",
        "trivet_http_requests_total{class=\"2xx\",pool=\"web\",backend=\"node0\"} 1",
        "trivet_build_info{program=\"balancer\"",
        "trivet_http_request_seconds_bucket",
    ] {
        // A request counts once its answer is sent, which its client has heard by then.
        until(line, || async { scene.operator("/metrics").await.contains(line) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_on_sighup_and_a_bad_one_is_not() {
    let scene = Scene::with(1).await;
    let site = scene.authority.path(&format!("{SITE}.pem"));
    let former = std::fs::read_to_string(&site).unwrap();
    std::fs::write(&site, "nonsense").unwrap();
    scene.balancer.signal("HUP");
    scene.balancer.logged(|l| l["message"] == "the new certificate is not used; the former stays");
    assert_eq!(scene.get("/").await.status, 200);
    std::fs::write(&site, former).unwrap();
    scene.balancer.signal("HUP");
    scene.balancer.logged(|l| l["message"] == "certificate reloaded");
    assert_eq!(scene.get("/").await.status, 200);
}

#[test]
fn bad_configurations_exit_64_and_name_file_key_and_reason() {
    let authority = Authority::new();
    for (name, text, expected) in [
        ("empty.toml", "node = \"n\"", "neither [web] nor [database]"),
        ("unknown.toml", "node = \"n\"\nnoed = 1", "noed: unknown field"),
        (
            "bad.json",
            "{\"node\": \"n\", \"https\": {\"listen\": [\"nowhere\"]}}",
            "https.listen[0]: invalid socket address",
        ),
        ("syntax.toml", "node = ", "syntax.toml: "),
    ] {
        let path = authority.write(name, text);
        for arguments in
            [vec!["--config", path.to_str().unwrap(), "--check"], vec!["--config", path.to_str().unwrap()]]
        {
            let (code, stderr) = call(&arguments);
            assert_eq!(code, 64, "{stderr}");
            assert!(stderr.starts_with(&format!("trivet-balancer: {}", path.display())), "{stderr}");
            assert!(stderr.contains(expected), "{stderr}");
        }
    }
    let (code, stderr) = call(&["--config", "/does/not/exist.toml"]);
    assert!(code == 64 && stderr.contains("/does/not/exist.toml: cannot be read"), "{code} {stderr}");
    assert_eq!(call(&[]).0, 64);
}

#[test]
fn check_passes_without_the_secrets_that_a_start_demands() {
    let authority = Authority::new();
    let config = configure(&authority, &[], "", "", "");
    let text = std::fs::read_to_string(config)
        .unwrap()
        .replace("backends = []", "backends = [{name=\"node1\",address=\"127.0.0.1:1\"}]")
        .replace("node-of-the-balancer.key", "missing.key");
    let path = authority.write("secretless.toml", &text);
    assert_eq!(call(&["--config", path.to_str().unwrap(), "--check"]).0, 0);
    let (code, stderr) = call(&["--config", path.to_str().unwrap()]);
    assert!(code == 64 && stderr.contains("missing.key: private key cannot be read"), "{code} {stderr}");
}
