//! Upgrades: RFC 9110 section 7.8, RFC 6455.

use support::link::{End, Link};
use support::scene::{SITE, Scene};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";

fn websocket(version: &str) -> String {
    format!(
        "GET /ws HTTP/{version}\r\nHost: {SITE}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A client and a back end that switched.
async fn switched(scene: &Scene) -> (Link, Link) {
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(websocket("1.1")).await;
    let (_, mut upstream) = scene.origin().next().await;
    upstream.send(SWITCH).await;
    assert_eq!(link.answer().await.unwrap().status(), 101);
    (link, upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6455_4_a_websocket_handshake_passes_with_the_bytes_that_follow_it_at_once() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    // The client is allowed no such haste by the RFC, and the bytes must not be read as a request.
    link.send(websocket("1.1") + "GET /early HTTP/1.1\r\n\r\n").await;
    let (head, mut upstream) = scene.origin().next().await;
    assert_eq!(head.line(), "GET /ws HTTP/1.1");
    assert_eq!(head.field("upgrade").as_deref(), Some("websocket"));
    assert_eq!(head.field("connection").map(|v| v.to_ascii_lowercase()).as_deref(), Some("upgrade"));
    assert_eq!(head.field("sec-websocket-key").as_deref(), Some("eA=="));
    // One write: head and first frame of the other protocol.
    upstream.send(format!("{SWITCH}\x01\x02welcome")).await;
    let answer = link.answer().await.unwrap();
    assert_eq!((answer.status(), answer.field("upgrade").as_deref()), (101, Some("websocket")));
    assert_eq!(answer.field("connection").map(|v| v.to_ascii_lowercase()).as_deref(), Some("upgrade"));
    assert_eq!(answer.field("sec-websocket-accept").as_deref(), Some("x"));
    assert_eq!((answer.values("content-length"), answer.values("transfer-encoding")), (vec![], vec![]));
    assert_eq!(link.exactly(9).await.unwrap(), b"\x01\x02welcome");
    assert_eq!(upstream.until(b"\r\n\r\n").await.unwrap(), b"GET /early HTTP/1.1\r\n\r\n");
    for word in [&b"hello"[..], b"\x00\xff\r\n\r\n", &[b'x'; 100_000]] {
        link.send(word).await;
        assert_eq!(upstream.exactly(word.len()).await.unwrap(), word);
        upstream.send(word).await;
        assert_eq!(link.exactly(word.len()).await.unwrap(), word);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6455_7_either_sides_end_reaches_the_other() {
    let scene = Scene::new().await;
    let (mut link, mut upstream) = switched(&scene).await;
    upstream.send("bye").await;
    upstream.finish().await;
    assert_eq!(link.rest().await, (b"bye".to_vec(), End::Clean));
    let (mut link, mut upstream) = switched(&scene).await;
    link.send("bye").await;
    link.finish().await;
    assert_eq!(upstream.rest().await.0, b"bye");
    let (link, mut upstream) = switched(&scene).await;
    drop(link);
    assert_eq!(upstream.rest().await.0, b"");
    scene.logs("it is logged as 101", |l| l["path"] == "/ws" && l["status"] == 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_8_an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let scene = Scene::new().await;
    scene.origin().answers("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let mut link = scene.open().await;
    link.send(websocket("1.1")).await;
    let answer = link.answer().await.unwrap();
    assert_eq!((answer.status(), answer.body_text().as_str()), (403, "no"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_22_the_protocol_that_a_426_demands_is_told_and_no_other_answers() {
    let scene = Scene::new().await;
    let mut link = scene.open().await;
    for (status, told) in [("426 Upgrade Required", Some("websocket")), ("200 OK", None)] {
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0";
        scene.origin().answers(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n"));
        link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let answer = link.answer().await.unwrap();
        assert_eq!(answer.line(), format!("HTTP/1.1 {status}"));
        assert_eq!(answer.field("upgrade").as_deref(), told, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_8_an_upgrade_in_http_1_0_is_ignored() {
    let scene = Scene::new().await;
    let seen = scene.forwarded(websocket("1.0")).await;
    assert_eq!(seen.values("upgrade"), [""; 0]);
}

/// A back end that took `h2c` would speak another protocol behind our back: everything after it would be hidden from every
/// rule there is.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_3_1_h2c_is_never_forwarded() {
    let scene = Scene::new().await;
    for upgrade in ["h2c", "H2C", "h2c, websocket", "websocket, h2c"] {
        let request = format!(
            "GET / HTTP/1.1\r\n{{H}}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        let seen = scene.forwarded(request).await;
        let told = seen.values("upgrade").join(",").to_ascii_lowercase();
        assert!(!told.contains("h2c"), "{upgrade}: {}", seen.text());
        assert_eq!(seen.values("http2-settings"), [""; 0]);
    }
    // Without Connection: Upgrade the field means nothing, and is dropped (RFC 9110 section 7.8).
    assert_eq!(
        scene.forwarded("GET / HTTP/1.1\r\n{H}Upgrade: websocket\r\n\r\n").await.values("upgrade"),
        [""; 0]
    );
}
