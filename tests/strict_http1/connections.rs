//! Connections: RFC 9112 section 9, RFC 9110 section 7.6.1.

use std::time::Duration;

use support::link::{End, Link, Message};
use support::scene::{SITE, Scene};
use support::until;

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n{fields}\r\n")
}

/// The next request at the back end, whole, and its connection: one of these, or a new one.
async fn next_request(scene: &Scene, kept: &mut Vec<Link>) -> (Message, Link) {
    loop {
        let on_kept = async {
            match kept.last_mut() {
                Some(link) => link.request().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            got = on_kept => match (got, kept.pop()) {
                (Some(got), Some(link)) => return (got, link),
                // One that ended is not used again.
                _ => continue,
            },
            (mut head, mut link) = scene.origin().next() => {
                link.body_of_request(&mut head).await.unwrap();
                return (head, link);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_a_connection_is_kept_and_pipelined_requests_are_answered_in_order() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    // Bodies in both framings, and none, all sent before the first is answered.
    link.send(format!(
        "{}POST /b HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 3\r\n\r\nabc\
         PUT /c HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndefg\r\n0\r\n\r\n\
         {}HEAD /e HTTP/1.1\r\nHost: {SITE}\r\n\r\n{}",
        get("/a", ""),
        get("/d", "Content-Length: 0\r\n"),
        get("/f", ""),
    ))
    .await;
    let mut kept: Vec<Link> = Vec::new();
    for (path, body) in [("/a", ""), ("/b", "abc"), ("/c", "defg"), ("/d", ""), ("/e", ""), ("/f", "")] {
        // Each comes when the former was answered, on a connection that is there or on a new one.
        let (got, mut upstream) = next_request(&scene, &mut kept).await;
        assert_eq!(got.line().split(' ').nth(1), Some(path));
        assert_eq!(got.body_text(), body);
        let rest = if path == "/e" { "99\r\n\r\n".into() } else { format!("{}\r\n\r\n{path}", path.len()) };
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {rest}")).await;
        kept.push(upstream);
    }
    for path in ["/a", "/b", "/c", "/d", "/e", "/f"] {
        let answer = link.answer_to(if path == "/e" { "HEAD" } else { "GET" }).await.unwrap();
        let expected = if path == "/e" { "" } else { path };
        assert_eq!((answer.status(), answer.body_text().as_str()), (200, expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_close_is_obeyed_and_what_follows_is_not_read() {
    let scene = Scene::new().await;
    for close in ["close", "Close", "CLOSE", "foo, close", "close, foo", "keep-alive, close", "foo ,\tclose "]
    {
        let mut link = scene.open().await;
        let before = scene.origin().seen().len();
        link.send(format!("{}{}", get("/a", &format!("Connection: {close}\r\n")), get("/b", ""))).await;
        let answer = link.answer().await.unwrap();
        assert_eq!((answer.status(), answer.field("connection").as_deref()), (200, Some("close")), "{close}");
        let (rest, end) = link.rest().await;
        assert_eq!((rest.escape_ascii().to_string().as_str(), end), ("", End::Clean), "{close}");
        assert_eq!(scene.origin().seen().len(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_close_in_any_of_several_connection_fields_is_obeyed() {
    let scene = Scene::new().await;
    let mut link = scene.open().await;
    link.send(get("/a", "Connection: keep-alive\r\nX: y\r\nConnection: close\r\n")).await;
    assert_eq!(link.answer().await.unwrap().field("connection").as_deref(), Some("close"));
    assert_eq!(link.rest().await, (vec![], End::Clean));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_http_1_0_closes_unless_it_asks_to_be_kept() {
    let scene = Scene::new().await;
    let old = |fields: &str| format!("GET /old HTTP/1.0\r\nHost: {SITE}\r\n{fields}\r\n");
    let mut link = scene.open().await;
    link.send(old("")).await;
    let answer = link.answer().await.unwrap();
    assert_eq!((answer.status(), answer.body_text().as_str()), (200, "ok"));
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    assert_eq!(link.rest().await, (vec![], End::Clean));

    let mut link = scene.open().await;
    for asked in ["keep-alive", "Keep-Alive", "foo, keep-alive"] {
        link.send(old(&format!("Connection: {asked}\r\n"))).await;
        let answer = link.answer().await.unwrap();
        assert_eq!((answer.status(), answer.body_text().as_str()), (200, "ok"));
        assert_eq!(
            answer.field("connection").map(|v| v.to_ascii_lowercase()).as_deref(),
            Some("keep-alive"),
            "{asked}"
        );
    }
    link.send(old("Connection: keep-alive, close\r\n")).await;
    assert_eq!(link.answer().await.unwrap().field("connection").as_deref(), Some("close"));
    assert_eq!(link.rest().await, (vec![], End::Clean));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_6_1_fields_of_the_connection_are_not_forwarded() {
    let scene = Scene::new().await;
    let seen = scene
        .forwarded(get(
            "/",
            "Connection: keep-alive, X-One ,\tx-two,, X-Absent\r\nConnection: X-Three\r\nX-One: 1\r\nX-TWO: 2\r\nx-three: 3\r\n\
             X-Four: 4\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: gzip\r\n",
        ))
        .await;
    for gone in [
        "connection",
        "x-one",
        "x-two",
        "x-three",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "transfer-encoding",
    ] {
        let left: Vec<String> = seen
            .values(gone)
            .into_iter()
            .filter(|v| !(gone == "connection" && v.eq_ignore_ascii_case("keep-alive")))
            .collect();
        assert_eq!(left, [""; 0], "{gone} in {}", seen.text());
    }
    assert_eq!(seen.field("x-four").as_deref(), Some("4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_6_1_connection_that_names_host_or_framing_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "connection",
            &[
                b"GET / HTTP/1.1\r\n{H}Connection: host\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}Connection: close, Host\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Connection: keep-alive\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_4_te_trailers_is_forwarded_and_no_other_te() {
    let scene = Scene::new().await;
    let seen = scene.forwarded(get("/", "Connection: TE\r\nTE: trailers\r\n")).await;
    assert_eq!(seen.values("te"), ["trailers"]);
    for te in ["gzip", "deflate;q=0.5", "chunked"] {
        let seen = scene.forwarded(get("/", &format!("Connection: TE\r\nTE: {te}\r\n"))).await;
        assert_eq!(seen.values("te"), [""; 0], "{te}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_connections_to_back_ends_are_kept_and_shared() {
    let scene = Scene::new().await;
    for _ in 0..3 {
        let mut link = scene.open().await;
        for _ in 0..5 {
            link.send(get("/", "")).await;
            assert_eq!(link.answer().await.unwrap().status(), 200);
        }
        link.send(get("/", "Connection: close\r\n")).await;
        assert_eq!(link.answer().await.unwrap().status(), 200);
        link.rest().await;
    }
    assert_eq!((scene.origin().seen().len(), scene.origin().connections()), (18, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_a_back_end_that_says_close_is_not_asked_again_on_that_connection() {
    let scene = Scene::new().await;
    scene.origin().answers("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let mut link = scene.open().await;
    for _ in 0..3 {
        link.send(get("/", "")).await;
        let answer = link.answer().await.unwrap();
        assert_eq!(answer.status(), 200);
        // Its connection is its own business: the client's is kept.
        assert_ne!(answer.field("connection").as_deref(), Some("close"));
    }
    assert_eq!(scene.origin().connections(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_an_http_1_0_back_end_is_not_asked_again_on_that_connection() {
    let scene = Scene::new().await;
    scene.origin().answers("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut link = scene.open().await;
    for _ in 0..2 {
        link.send(get("/", "")).await;
        let answer = link.answer().await.unwrap();
        assert_eq!(answer.line(), "HTTP/1.1 200 OK");
    }
    assert_eq!(scene.origin().connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_a_stop_finishes_the_request_in_flight_says_close_and_closes_idle_connections() {
    let mut scene = Scene::new().await;
    scene.origin().waits();
    let mut idle = scene.open().await;
    let mut busy = scene.open().await;
    busy.send(get("/busy", "")).await;
    let (_, mut upstream) = scene.origin().next().await;
    scene.balancer.signal("TERM");
    assert_eq!(idle.rest().await.0, b"");
    let https = scene.balancer.address("https.listen");
    until("it no longer listens", || async { tokio::net::TcpStream::connect(https).await.is_err() }).await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    let answer = busy.answer().await.unwrap();
    assert_eq!((answer.status(), answer.body_text().as_str()), (200, "done"));
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    assert_eq!(busy.rest().await, (vec![], End::Clean));
    assert!(scene.balancer.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_5_an_idle_connection_is_closed_in_order_at_its_deadline() {
    let scene = Scene::tuned(1, "client_idle_timeout = \"300ms\"\nheader_timeout = \"300ms\"", "").await;
    let mut link = scene.open().await;
    link.send(get("/", "")).await;
    assert_eq!(link.answer().await.unwrap().status(), 200);
    assert_eq!(link.rest().await, (vec![], End::Clean));
    // A head that does not end gets an answer (RFC 9110 section 15.5.9).
    for begun in ["GET / HTTP/1.1\r\nHost:", "\r\nGET /", "\r\n", "G"] {
        let mut link = scene.open().await;
        link.send(begun).await;
        let answer = link.answer().await.unwrap();
        let told = (answer.status(), answer.field("connection"));
        assert_eq!((told.0, told.1.as_deref()), (408, Some("close")), "{begun:?}");
        assert_eq!(link.rest().await.0, b"");
    }
    scene.logs("the 408 is logged", |l| l["status"] == 408 && l["reason"].is_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_8_a_client_that_only_opens_and_closes_leaves_no_trace_at_the_back_end() {
    let scene = Scene::new().await;
    for bytes in ["", "\r\n", "GET / HT"] {
        let mut link = scene.open().await;
        link.try_send(bytes).await;
        link.finish().await;
        tokio::time::timeout(Duration::from_secs(10), link.rest()).await.expect("closed by the balancer");
    }
    assert_eq!(scene.origin().connections(), 0);
}
