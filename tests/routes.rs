//! What a route says otherwise than its pool and its site: time-outs, sizes, retries (docs/sites.md).
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use support::app::{Act, App};
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, PATIENT_CHECKS, SITE};
use support::client::{Answer, Wire};
use support::program::{Program, call};
use support::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

struct Scene {
    apps: [App; 2],
    balancer: Program,
}

impl Scene {
    async fn start(https: &str, web: &str, routes: &str) -> Self {
        let authority = Authority::new();
        let apps = [App::start("a").await, App::start("b").await];
        let balancer = Program::start(&write(&authority, &apps, https, web, routes));
        Self { apps, balancer }
    }

    async fn ask(&self, request: &str) -> Answer {
        let mut wire = Wire::plain(self.balancer.address("http.listen")).await;
        wire.send(&request.replace('\n', "\r\n")).await;
        wire.answer().await.unwrap()
    }

    async fn get(&self, path: &str) -> u16 {
        self.ask(&format!("GET {path} HTTP/1.1\nHost: {SITE}\n\n")).await.status
    }

    async fn post(&self, path: &str, octets: usize) -> u16 {
        let body = "x".repeat(octets);
        self.ask(&format!("POST {path} HTTP/1.1\nHost: {SITE}\nContent-Length: {octets}\n\n{body}"))
            .await
            .status
    }

    async fn post_chunked(&self, path: &str, octets: usize) -> u16 {
        let body = "x".repeat(octets);
        let framed = format!("{octets:x}\n{body}\n0\n\n");
        self.ask(&format!("POST {path} HTTP/1.1\nHost: {SITE}\nTransfer-Encoding: chunked\n\n{framed}"))
            .await
            .status
    }
}

fn write(authority: &Authority, apps: &[App; 2], https: &str, web: &str, routes: &str) -> std::path::PathBuf {
    let config = BalancerConfig {
        http: Some("redirect = false"),
        https,
        back_ends: apps.iter().zip(["a", "b"]).map(|(app, name)| (name.into(), app.address)).collect(),
        plain_back_ends: true,
        web: &format!("{PATIENT_CHECKS}\n{web}"),
        sections: routes,
        ..BalancerConfig::default()
    };
    config.write(authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_waits_longer_waits_alone() {
    let routes = "[[routes]]\npath_prefix = \"/report\"\nresponse_timeout = \"1m\"";
    let scene = Scene::start("", "response_timeout = \"300ms\"\noutliers = { errors = 0 }", routes).await;
    scene.apps.iter().for_each(|app| app.does(Act::Wait));
    let mut report = Wire::plain(scene.balancer.address("http.listen")).await;
    report.send(&format!("GET /report/year HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    assert_eq!(scene.get("/page").await, 504);
    assert_eq!(scene.get("/reports").await, 504, "another path");
    scene.apps.iter().for_each(App::release);
    assert_eq!(report.answer().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_give_up_sooner() {
    let routes = "[[routes]]\npath = \"/quick\"\nresponse_timeout = \"200ms\"\n[[routes]]\npath = \"/whole\"\nrequest_timeout = \"200ms\"";
    let scene = Scene::start("", "outliers = { errors = 0 }", routes).await;
    scene.apps.iter().for_each(|app| app.does(Act::Hang));
    assert_eq!(scene.get("/quick").await, 504);
    assert_eq!(scene.get("/whole").await, 504);
    let mut other = Wire::plain(scene.balancer.address("http.listen")).await;
    other.send(&format!("GET /other HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let waits = tokio::time::timeout(Duration::from_millis(500), other.answer()).await;
    assert!(waits.is_err(), "the rest of the site is as it was: {waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_larger_or_smaller_bodies_than_its_site() {
    let routes = "[[routes]]\npath_prefix = \"/upload\"\nmax_body_size = \"64KiB\"\n[[routes]]\npath = \"/tiny\"\nmax_body_size = \"10B\"\n\
                  [[routes]]\npath = \"/no\"\nrefuse = 403";
    let scene = Scene::start("max_body_size = \"1KiB\"", "", routes).await;
    for (path, octets, status) in [
        ("/page", 1024, 200),
        ("/page", 1025, 413),
        ("/upload/x", 65_536, 200),
        ("/upload/x", 65_537, 413),
        ("/no", 1024, 403),
        ("/no", 1025, 413),
        ("/tiny", 10, 200),
        ("/tiny", 11, 413),
    ] {
        assert_eq!(scene.post(path, octets).await, status, "{octets} octets to {path}");
    }
    for (path, octets) in [("/page", 1025), ("/tiny", 11), ("/upload/x", 65_537)] {
        assert_eq!(
            scene.post_chunked(path, octets).await,
            413,
            "{octets} octets to {path}, of no length told"
        );
    }
    let seen: usize = scene.apps.iter().map(|app| app.seen().len()).sum();
    assert_eq!(seen, 3, "of a body that is too large no back end has the whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_takes_larger_bodies_than_the_balancer_and_waits_as_it_says() {
    let sections = "[limits]\nmax_body_size = \"64KiB\"\nresponse_timeout = \"300ms\"\nretries = 0";
    let scene = Scene::start("max_body_size = \"1KiB\"", "", sections).await;
    for (octets, status) in [(1025, 200), (65_536, 200), (65_537, 413)] {
        assert_eq!(scene.post("/page", octets).await, status, "{octets} octets");
    }
    assert_eq!(scene.post_chunked("/page", 65_537).await, 413);
    scene.apps.iter().for_each(|app| app.does(Act::Hang));
    assert_eq!(scene.get("/slow").await, 504);
    scene.apps.iter().for_each(|app| app.does(Act::HangUp));
    assert_eq!(scene.get("/broken").await, 502);
    let tried = scene.apps.iter().filter(|app| app.count("/broken") > 0).count();
    assert_eq!(tried, 1, "no further back end is tried");
}

/// A stream of events: one at once, and another when it is let go on.
async fn events(going_on: tokio::sync::watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut going_on = going_on.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = tcp.read(&mut buffer).await {
                    if buffer[..n].starts_with(b"GET /healthz ") {
                        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                        continue;
                    }
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                    tcp.write_all(format!("{head}9\r\ndata: 1\n\n\r\n").as_bytes()).await.unwrap();
                    going_on.wait_for(|go| *go).await.unwrap();
                    let _ = tcp.write_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n").await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_rest_where_its_route_says_so_and_nowhere_else() {
    let authority = Authority::new();
    let (go_on, going_on) = tokio::sync::watch::channel(false);
    let config = BalancerConfig {
        http: Some("redirect = false"),
        https: "stream_timeout = \"200ms\"",
        back_ends: vec![("a".into(), events(going_on).await)],
        plain_back_ends: true,
        web: PATIENT_CHECKS,
        sections: "[[routes]]\npath = \"/events\"\nstream_timeout = \"1h\"",
        ..BalancerConfig::default()
    };
    let balancer = Program::start(&config.write(&authority));
    let open = async |path: &str| {
        let mut wire = Wire::plain(balancer.address("http.listen")).await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        wire.until("data: 1\n\n").await;
        wire
    };
    let (mut quiet, mut other) = (open("/events").await, open("/other").await);
    assert!(!other.rest().await.contains("data: 2"), "it is broken off, as everywhere on the site");
    go_on.send(true).unwrap();
    quiet.until("data: 2\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_try_once_and_no_more() {
    let routes = "[[routes]]\npath = \"/once\"\nretries = 0";
    let scene = Scene::start("", "outliers = { errors = 0 }", routes).await;
    scene.apps[0].does(Act::HangUp);
    let (mut once, mut again) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        once.push(scene.get("/once").await);
        again.push(scene.get("/again").await);
    }
    assert!(
        once.contains(&502) && !once.contains(&503),
        "the connection broke, a back end was reached: {once:?}"
    );
    assert_eq!(again, [200; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_takes_no_back_end_before_it_is_there() {
    let routes = "[[routes]]\npath_prefix = \"/buffered\"\nbuffer_request = \"64KiB\"";
    // One request at a time, all back ends together.
    let scene = Scene::start("", "max_in_flight = 1\nqueue_timeout = \"200ms\"", routes).await;
    let begin = |head: String| {
        let address = scene.balancer.address("http.listen");
        async move {
            let mut wire = Wire::plain(address).await;
            wire.send(&head).await;
            wire
        }
    };
    let post =
        |path: &str, framing: &str| format!("POST {path} HTTP/1.1\r\nHost: {SITE}\r\n{framing}\r\n\r\n");
    let mut known = begin(post("/buffered/a", "Content-Length: 10") + "12345").await;
    let mut chunked = begin(post("/buffered/b", "Transfer-Encoding: chunked") + "5\r\n12345\r\n").await;
    let mut asked = begin(post("/buffered/c", "Content-Length: 5\r\nExpect: 100-continue")).await;
    assert_eq!(asked.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    for _ in 0..5 {
        assert_eq!(scene.get("/page").await, 200);
    }
    known.send("67890").await;
    assert_eq!(known.answer().await.unwrap().status, 200);
    chunked.send("3\r\n678\r\n0\r\n\r\n").await;
    assert_eq!(chunked.answer().await.unwrap().status, 200);
    asked.send("12345").await;
    assert_eq!(asked.answer().await.unwrap().status, 200);
    let seen = scene.apps.iter().flat_map(App::seen).collect::<String>();
    assert!(seen.contains("1234567890") && seen.contains("/buffered/c"), "{seen}");
    // As over HTTP/2, with its length and without.
    let wire = Wire::plain(scene.balancer.address("http.listen")).await;
    let (mut client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    tokio::spawn(connection);
    for length in [Some("10"), None] {
        let mut request = http::Request::post(format!("http://{SITE}/buffered/h2"));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data("12345".into(), false).unwrap();
        for _ in 0..3 {
            assert_eq!(scene.get("/page").await, 200);
        }
        body.send_data("67890".into(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    // What is larger goes through as it comes, whole.
    assert_eq!(scene.post("/buffered", 200_000).await, 200);
    assert_eq!(scene.post_chunked("/buffered", 200_000).await, 200);
    // Elsewhere it is as ever: whoever is slow has the back end.
    let slow = begin(post("/elsewhere", "Content-Length: 10") + "12345").await;
    until("it has the only place", || async { scene.get("/page").await == 503 }).await;
    drop(slow);
    // Framing that is none is refused, and whoever leaves is no trouble.
    let mut bad = begin(post("/buffered", "Transfer-Encoding: chunked") + "zz\r\n").await;
    assert_eq!(bad.answer().await.unwrap().status, 400);
    drop(begin(post("/buffered", "Content-Length: 10") + "12345").await);
    until("it is served again", || async { scene.get("/page").await == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_not_go_elsewhere_waits_for_a_back_end_that_is_given_up() {
    let outliers =
        "outliers = { errors = 1, slow_after = \"100ms\", ejection = \"1h\", max_ejection = \"1h\" }";
    let scene = Scene::start("", outliers, "[[routes]]\npath = \"/report\"\nretries = 0").await;
    scene.apps[0].does(Act::Wait);
    let scene = &scene;
    let asked = futures_util::future::join_all((0..4).map(|_| scene.get("/report")));
    let (statuses, ()) = tokio::join!(asked, async {
        until("the silent one is passed over", || async {
            // The other one goes on answering, also after those were sent that wait here.
            let two = futures_util::future::join_all([(); 2].map(|()| scene.get("/")));
            let _ = tokio::time::timeout(Duration::from_millis(50), two).await;
            let mut wire = Wire::plain(scene.balancer.address("metrics.listen")).await;
            wire.send("GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
            wire.answer().await.unwrap().body.contains("\"outlier\":true")
        })
        .await;
        // What may go elsewhere is answered there.
        assert_eq!(scene.get("/").await, 200);
        assert_eq!(scene.get("/").await, 200);
        scene.apps[0].release();
    });
    assert_eq!(statuses, [200; 4], "there was nobody else for it, and it would have been answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_is_refused_with_its_key() {
    let authority = Authority::new();
    let apps = [App::start("a").await, App::start("b").await];
    for (route, words) in [
        ("refuse = 403\nresponse_timeout = \"1s\"", "routes[0]: says more than one thing that is done"),
        ("redirect = { to = \"/b\" }\nmax_body_size = \"1KiB\"", "routes[0]: says more than one thing"),
        ("path = \"/a\"\nresponse_timeout = \"0s\"", "routes[0].response_timeout: must be longer than zero"),
        ("path = \"/a\"\nstream_timeout = \"soon\"", "routes[0].stream_timeout"),
        (
            "path = \"/a\"\nbuffer_request = \"2MiB\"",
            "routes[0].buffer_request: is 2.0 MiB; it is from 1 B to 1 MiB",
        ),
    ] {
        let config = write(&authority, &apps, "", "", &format!("[[routes]]\n{route}"));
        let (code, said) = call(&["--config", config.to_str().unwrap(), "--check"]);
        assert_eq!(code, 64, "{route}: {said}");
        assert!(said.contains(words), "{route}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_octet_gets_past_a_pattern_that_refuses() {
    let routes = "[[routes]]\npath_pattern = \"^/admin(/.*)?$\"\nrefuse = 403";
    let scene = Scene::start("", "", routes).await;
    for path in [
        "/admin",
        "/admin/x",
        "/admin/%ff",
        "/admin/%e4",
        "/admin/%c0%af",
        "/admin/a%0ab",
        "/admin/%0a",
        "/admin/%F0%9F%98%80",
    ] {
        let status = scene.get(path).await;
        assert!(status == 403 || status == 400, "{path}: {status}");
    }
    assert_eq!(scene.get("/administrator").await, 200);
}
