//! A side that leaves: the other is told, and nothing is kept for nobody. RFC 9112 section 9.6.

use support::scene::{SITE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_a_client_that_leaves_before_the_answer_ends_the_back_ends_request() {
    let scene = Scene::new().await;
    scene.origin().waits();
    for request in [
        format!("GET /gone HTTP/1.1\r\nHost: {SITE}\r\n\r\n"),
        format!("POST /gone HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 5\r\n\r\nhello"),
    ] {
        let mut link = scene.open().await;
        link.send(request).await;
        let (_, mut upstream) = scene.origin().next().await;
        drop(link);
        // Not an idle connection for later: whoever came next would get this request's answer.
        upstream.rest().await;
    }
    scene
        .logs("both are logged as broken off", |_| {
            scene.access().iter().filter(|l| l["path"] == "/gone" && l["aborted"] == true).count() == 2
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_a_client_that_leaves_in_its_body_ends_the_back_ends_request() {
    let scene = Scene::new().await;
    scene.origin().waits();
    for head in ["Content-Length: 1000\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut link = scene.open().await;
        link.send(format!("POST / HTTP/1.1\r\nHost: {SITE}\r\n{head}")).await;
        let (_, mut upstream) = scene.origin().next().await;
        upstream.until(b"hello").await.unwrap();
        drop(link);
        let (rest, _) = upstream.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the body was not ended for it: {}", rest.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_a_client_that_leaves_in_the_answer_ends_the_back_ends_request() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut upstream) = scene.origin().next().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    link.until(b"hello").await.unwrap();
    drop(link);
    // Also while the back end has nothing to say, so that no write could fail.
    upstream.rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_an_answer_before_the_end_of_the_body_reaches_the_client() {
    let scene = Scene::new().await;
    for framing in ["Content-Length: 10000000", "Transfer-Encoding: chunked"] {
        scene.origin().waits();
        let mut link = scene.open().await;
        link.send(format!("POST /early HTTP/1.1\r\nHost: {SITE}\r\n{framing}\r\n\r\n")).await;
        if framing.starts_with('T') {
            link.send("5\r\nhello\r\n").await;
        } else {
            link.send("hello").await;
        }
        let (_, mut upstream) = scene.origin().next().await;
        upstream.until(b"hello").await.unwrap();
        upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge").await;
        let answer = link.answer().await.unwrap();
        assert_eq!((answer.status(), answer.body_text().as_str()), (413, "large"));
        assert_eq!(answer.field("connection").as_deref(), Some("close"));
    }
}

/// A client that goes on sending while it is refused must get to read why: closing at once would reset the connection and
/// may take the answer with it (RFC 9112 section 9.6).
#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_6_a_client_that_goes_on_sending_still_reads_the_refusal() {
    let scene = Scene::tuned(1, "max_body_size = \"1KiB\"", "").await;
    for _ in 0..5 {
        let mut link = scene.open().await;
        let body = "x".repeat(300_000);
        link.try_send(format!(
            "POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let answer = link.answer().await.expect("the answer");
        assert_eq!(answer.status(), 413);
    }
}
