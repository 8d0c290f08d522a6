//! WebSockets over HTTP/2 (RFC 8441), to a back end that speaks HTTP/1.1.

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};

use super::peer::{PREFACE, Peer, SETTINGS, frame};
use super::requests::client;
use support::PATIENCE;
use support::link::{Link, Message};
use support::scene::{SITE, Scene};

fn connect(protocol: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{SITE}/chat?room=1"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", format!("https://{SITE}"))
        .extension(Protocol::from_static(protocol))
        .body(())
        .unwrap()
}

/// The answer of a server that means it, to the key in `head`.
fn switch(head: &Message) -> String {
    let key = head.field("sec-websocket-key").expect("RFC 6455 section 4.1");
    let accept = websocket_accept(&key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\
         Sec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

/// RFC 6455 section 4.2.2, written once more.
fn websocket_accept(key: &str) -> String {
    use aws_lc_rs::digest;
    use base64::Engine as _;
    let hash = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    base64::prelude::BASE64_STANDARD.encode(hash)
}

/// Asks for a WebSocket, has the back end answer with what `answer` makes of the request, and returns what the client gets.
async fn asked(
    scene: &Scene,
    answer: impl FnOnce(&Message) -> String,
) -> (Result<Response<RecvStream>, h2::Error>, SendStream<Bytes>, Link, Message) {
    scene.origin().waits();
    let mut client = client(scene).await;
    let (response, up) = client.send_request(connect("websocket"), false).unwrap();
    let (head, mut upstream) = scene.origin().next().await;
    upstream.send(answer(&head)).await;
    (response.await, up, upstream, head)
}

async fn opened(scene: &Scene) -> (RecvStream, SendStream<Bytes>, Link) {
    let (answer, up, upstream, _) = asked(scene, switch).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    (answer.into_body(), up, upstream)
}

async fn exactly(down: &mut RecvStream, wanted: &[u8]) {
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        let data = tokio::time::timeout(PATIENCE, down.data()).await.expect("more octets").unwrap().unwrap();
        down.flow_control().release_capacity(data.len()).unwrap();
        got.extend_from_slice(&data);
    }
    assert!(got == wanted, "not what was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_3_extended_connect_is_offered() {
    let scene = Scene::new().await;
    let mut peer = Peer::raw(&scene).await;
    peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, [])].concat()).await;
    let settings = peer.until(|f| f.kind == SETTINGS).await.unwrap().payload;
    assert!(settings.chunks(6).any(|s| s == [0, 8, 0, 0, 0, 1]), "{settings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_5_a_websocket_over_http_2_is_an_upgrade_to_the_back_end() {
    let scene = Scene::new().await;
    let (answer, mut up, mut upstream, head) = asked(&scene, |head| switch(head) + "\x01\x02welcome").await;
    assert_eq!(head.line(), "GET /chat?room=1 HTTP/1.1");
    let field = |name: &str| head.field(name).map(|v| v.to_ascii_lowercase());
    assert_eq!(field("host").as_deref(), Some(SITE));
    assert_eq!(field("upgrade").as_deref(), Some("websocket"));
    assert_eq!(field("connection").as_deref(), Some("upgrade"));
    assert_eq!(field("sec-websocket-version").as_deref(), Some("13"));
    assert_eq!(field("sec-websocket-protocol").as_deref(), Some("chat"));
    assert_eq!((head.values("content-length"), head.values("transfer-encoding")), (vec![], vec![]));
    let answer = answer.unwrap();
    // RFC 8441 section 5: 200 instead of 101, and nothing of the upgrade.
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let mut down = answer.into_body();
    exactly(&mut down, b"\x01\x02welcome").await;
    for word in [&b"hello"[..], b"\x00\xff\r\n\r\n", &[b'x'; 300_000]] {
        let mut rest = Bytes::copy_from_slice(word);
        let sender = async {
            while !rest.is_empty() {
                up.reserve_capacity(rest.len());
                let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
                up.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
            }
        };
        let (_, got) = tokio::join!(sender, upstream.exactly(word.len()));
        assert!(got.unwrap() == word, "not what was sent");
        tokio::join!(upstream.send(word), exactly(&mut down, word));
    }
    // Many small messages are no flood.
    for i in 0..2_000_u32 {
        up.send_data(Bytes::copy_from_slice(&i.to_be_bytes()), false).unwrap();
        assert_eq!(upstream.exactly(4).await.unwrap(), i.to_be_bytes());
        upstream.send(i.to_be_bytes()).await;
        exactly(&mut down, &i.to_be_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_5_either_sides_end_reaches_the_other() {
    let scene = Scene::new().await;
    let (mut down, mut up, mut upstream) = opened(&scene).await;
    upstream.send("bye").await;
    upstream.finish().await;
    exactly(&mut down, b"bye").await;
    while let Some(rest) = down.data().await {
        assert!(rest.expect("END_STREAM, not a reset").is_empty());
    }
    up.send_data("still here".into(), true).unwrap();
    assert_eq!(upstream.rest().await.0, b"still here");
    scene.logs("it is logged", |l| l["path"] == "/chat" && l["status"] == 200 && l["method"] == "GET").await;

    let (mut down, mut up, mut upstream) = opened(&scene).await;
    up.send_data("bye".into(), true).unwrap();
    assert_eq!(upstream.exactly(3).await.unwrap(), b"bye");
    upstream.send("a last word").await;
    exactly(&mut down, b"a last word").await;
    // Its half of the stream is closed; that it takes nothing more is told the back end all the same.
    drop((down, up));
    assert_eq!(upstream.rest().await.0, b"");

    let (down, mut up, mut upstream) = opened(&scene).await;
    up.send_reset(Reason::CANCEL);
    assert_eq!(upstream.rest().await.0, b"");
    drop(down);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_5_a_back_end_that_breaks_off_is_cancel() {
    let scene = Scene::new().await;
    let (mut down, _up, upstream) = opened(&scene).await;
    // No close_notify: RFC 8446 section 6.1 has that taken for a connection that was cut.
    drop(upstream);
    let error = tokio::time::timeout(PATIENCE, down.data()).await.expect("an end").unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6455_4_1_what_opens_no_websocket_is_never_told_as_one() {
    let scene = Scene::new().await;
    let declined = |_: &Message| "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_owned();
    let (answer, ..) = asked(&scene, declined).await;
    assert_eq!(answer.unwrap().status(), 403);
    type Answer = fn(&Message) -> String;
    let cases: [(&str, Answer); 4] = [
        ("a page", |_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".into()),
        ("another key's answer", |_| {
            let accept = websocket_accept("dGhlIHNhbXBsZSBub25jZQ==");
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            )
        }),
        ("no answer to the key", |_| {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".into()
        }),
        ("another protocol", |head| switch(head).replace("Upgrade: websocket", "Upgrade: chat")),
    ];
    for (what, case) in cases {
        let (answer, ..) = asked(&scene, case).await;
        assert_eq!(answer.unwrap().status(), StatusCode::BAD_GATEWAY, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_4_other_protocols_are_501_and_a_connect_without_one_is_405() {
    let scene = Scene::new().await;
    let mut client = client(&scene).await;
    for protocol in ["connect-udp", "webtransport", "h2c", "websocket "] {
        let (answer, _up) = client.send_request(connect(protocol), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::NOT_IMPLEMENTED, "{protocol:?}");
    }
    let plain = Request::builder().method(Method::CONNECT).uri(format!("{SITE}:443")).body(()).unwrap();
    let (answer, _up) = client.send_request(plain, false).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(scene.origin().seen().len(), 0, "none of it reached a back end");
}

/// The rules of any other request hold: names of the site, trusted fields, forged keys.
#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_4_the_rules_of_every_request_hold() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut client = client(&scene).await;
    let mut elsewhere = connect("websocket");
    *elsewhere.uri_mut() = "https://www.example.org/chat".parse().unwrap();
    let (answer, _up) = client.send_request(elsewhere, false).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
    let mut forged = connect("websocket");
    forged.headers_mut().insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
    forged.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
    let (_answer, _up) = client.send_request(forged, false).unwrap();
    let (head, _upstream) = scene.origin().next().await;
    let keys = head.values("sec-websocket-key");
    assert!(keys.len() == 1 && keys[0] != "dGhlIHNhbXBsZSBub25jZQ==", "{keys:?}");
    assert!(!head.values("x-forwarded-for").join(",").contains("192.0.2.7"), "{}", head.text());
}
