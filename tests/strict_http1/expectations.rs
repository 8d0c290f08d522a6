//! `Expect: 100-continue`: RFC 9110 section 10.1.1.

use support::link::End;
use support::scene::{SITE, Scene};

fn expecting(length: usize) -> String {
    format!("POST /e HTTP/1.1\r\nHost: {SITE}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_1_the_back_ends_100_reaches_the_client_and_then_the_body_the_back_end() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    for (nth, expect) in ["100-continue", "100-Continue"].iter().enumerate() {
        link.send(expecting(5).replace("100-continue", expect)).await;
        // The second comes on the kept connection, or on a new one: either is right.
        let (head, mut upstream) = scene.origin().next().await;
        assert_eq!(head.field("expect").map(|v| v.to_ascii_lowercase()).as_deref(), Some("100-continue"));
        upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(link.answer().await.unwrap().status(), 100);
        link.send("hello").await;
        assert_eq!(upstream.exactly(5).await.unwrap(), b"hello");
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(link.answer().await.unwrap().status(), 200, "{nth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_1_a_client_that_does_not_wait_for_100_is_served() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(expecting(5) + "hello").await;
    let (_, mut upstream) = scene.origin().next().await;
    assert_eq!(upstream.exactly(5).await.unwrap(), b"hello");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(link.answer().await.unwrap().status(), 200);
    // And the client's connection goes on.
    link.send(format!("GET /next HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (next, mut upstream) = scene.origin().next().await;
    assert_eq!(next.line(), "GET /next HTTP/1.1");
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(link.answer().await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_1_a_final_answer_instead_of_100_reaches_the_client_and_the_connection_closes() {
    let scene = Scene::new().await;
    for status in ["413 Content Too Large", "417 Expectation Failed", "401 Unauthorized", "200 OK"] {
        scene.origin().waits();
        let mut link = scene.open().await;
        link.send(expecting(5)).await;
        let (_, mut upstream) = scene.origin().next().await;
        upstream.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno")).await;
        let answer = link.answer().await.unwrap();
        assert_eq!(answer.line(), format!("HTTP/1.1 {status}"));
        if !status.starts_with('2') {
            assert_eq!(answer.field("connection").as_deref(), Some("close"));
        }
        // Whether the body still comes is not known: nothing on this connection can be read as a request any more.
        link.try_send(format!("GET /smuggled HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        assert_eq!(link.rest().await.0, b"");
        let (rest, _) = upstream.rest().await;
        assert!(!rest.starts_with(b"GET"), "{}", rest.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_1_another_expectation_is_417_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            417,
            "expectation",
            &[
                b"GET / HTTP/1.1\r\n{H}Expect: magic\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}Expect:\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Expect: 100-continue, magic\r\nContent-Length: 5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Expect: 100-continue;a=b\r\nContent-Length: 5\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Expect: 100-continue\r\nExpect: magic\r\nContent-Length: 5\r\n\r\nhello",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_1_http_1_0_gets_no_100() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(expecting(5).replace("HTTP/1.1", "HTTP/1.0") + "hello").await;
    let (_, mut upstream) = scene.origin().next().await;
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(upstream.exactly(5).await.unwrap(), b"hello");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let (all, end) = link.rest().await;
    let text = String::from_utf8(all).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nok"), "{text}");
    assert_eq!(end, End::Clean);
}
