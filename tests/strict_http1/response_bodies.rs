//! How the body of an answer reaches the client: RFC 9112 sections 6.3, 7 and 8, RFC 9110 sections 6.4.1 and 15.4.5.

use support::link::{Broken, End, Message};
use support::scene::{SITE, Scene};

async fn ask(scene: &Scene, answer: &str, method: &str, version: &str) -> Result<Message, Broken> {
    scene.origin().answers(answer);
    let mut link = scene.open().await;
    link.send(format!("{method} / HTTP/{version}\r\nHost: {SITE}\r\n\r\n")).await;
    link.answer_to(method).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_6_4_1_answers_without_a_body_keep_their_fields_and_the_connection() {
    let scene = Scene::new().await;
    let mut link = scene.open().await;
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n", Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \"x\"\r\n\r\n", None),
        ("HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n", Some("9")),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n", Some("1234")),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\nETag: \"x\"\r\n\r\n", None),
        ("DELETE", "HTTP/1.1 204 No Content\r\nETag: \"x\"\r\n\r\n", None),
    ] {
        scene.origin().answers(answer);
        link.send(format!("{method} / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let got = link.answer_to(method).await.unwrap();
        assert_eq!(got.line(), answer.split("\r\n").next().unwrap());
        assert_eq!(got.field("etag").as_deref(), Some("\"x\""));
        assert_eq!(got.field("content-length").as_deref(), length, "{answer:?}");
    }
    // No byte too many: the next answer begins where it should.
    scene.origin().answers("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast");
    link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    assert_eq!(link.answer().await.unwrap().body_text(), "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_a_204_says_nothing_about_framing() {
    let scene = Scene::new().await;
    for framing in ["Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n"] {
        let answer =
            ask(&scene, &format!("HTTP/1.1 204 No Content\r\n{framing}\r\n"), "GET", "1.1").await.unwrap();
        // RFC 9110 section 8.6 and RFC 9112 section 6.1: neither field in a 204; 502 would be as right.
        assert!([204, 502].contains(&answer.status()));
        if answer.status() == 204 {
            assert_eq!(
                (answer.values("content-length"), answer.values("transfer-encoding")),
                (vec![], vec![]),
                "{framing:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_chunked_answers_are_framed_anew_and_trailers_pass() {
    let scene = Scene::new().await;
    let answer = ask(
        &scene,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\n005;ext=\"a\"\r\nhello\r\nB\r\n, my friend\r\n00;x\r\nX-Sum: abc\r\n\r\n",
        "GET",
        "1.1",
    )
    .await
    .unwrap();
    assert_eq!(answer.body_text(), "hello, my friend");
    assert_eq!(String::from_utf8(answer.trailers.clone()).unwrap().to_ascii_lowercase(), "x-sum: abc\r\n");
    assert_eq!(answer.values("transfer-encoding"), ["chunked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_an_http_1_0_client_gets_no_chunks() {
    let scene = Scene::new().await;
    let answer = ask(
        &scene,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n",
        "GET",
        "1.0",
    )
    .await
    .unwrap();
    assert_eq!(answer.body_text(), "hello");
    assert_eq!(
        (answer.values("transfer-encoding"), answer.field("connection")),
        (vec![], Some("close".into()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_an_answer_that_ends_with_its_connection_becomes_chunked() {
    let scene = Scene::new().await;
    for (head, body) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "all of it"),
        ("HTTP/1.0 200 OK\r\nX: y\r\n\r\n", "hello"),
        ("HTTP/1.1 200 OK\r\n\r\n", ""),
    ] {
        for (version, chunked) in [("1.1", true), ("1.0", false)] {
            scene.origin().waits();
            let mut link = scene.open().await;
            link.send(format!("GET / HTTP/{version}\r\nHost: {SITE}\r\n\r\n")).await;
            let (_, mut upstream) = scene.origin().next().await;
            upstream.send(head).await;
            upstream.send(body).await;
            upstream.finish().await;
            let answer = link.answer().await.unwrap();
            assert_eq!((answer.chunked, answer.body_text().as_str()), (chunked, body), "to HTTP/{version}");
            if chunked {
                // The client's connection goes on.
                link.send(format!("GET /next HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
                let (next, _upstream) = scene.origin().next().await;
                assert_eq!(next.line(), "GET /next HTTP/1.1");
            }
        }
    }
}

/// The head was sent, so the only honest thing left is to break off: no last chunk, no close_notify after a length.
async fn is_cut(answer: &[u8], in_order: bool, version: &str) {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(format!("GET /cut HTTP/{version}\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut upstream) = scene.origin().next().await;
    upstream.send(answer).await;
    if in_order {
        upstream.finish().await;
    } else {
        drop(upstream);
    }
    match link.answer().await {
        Err(Broken::Ended(end, part)) => {
            assert_eq!(part.status(), 200, "{}", answer.escape_ascii());
            // Without a length or chunks, TLS itself must say that the end is no end.
            if version == "1.0" && part.values("content-length").is_empty() {
                assert_eq!(end, End::Cut);
            }
        }
        // The whole of it was there at once, so that not even the head went on.
        Err(Broken::NoMessage(End::Cut)) => {}
        // Broken before anything was sent on: as good.
        Ok(answer) if answer.status() == 502 => {}
        other => panic!("{}: {other:?}", answer.escape_ascii()),
    }
    scene
        .logs("it is logged as broken off", |l| {
            l["path"] == "/cut" && (l["aborted"] == true || l["status"] == 502)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_8_a_length_that_is_not_reached_cuts_the_client_off() {
    is_cut(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", true, "1.1").await;
    is_cut(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", false, "1.0").await;
    is_cut(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", true, "1.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_8_chunks_that_do_not_end_cut_the_client_off() {
    for answer in ["5\r\nhello\r\n", "5\r\nhel", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nX: y\r\n", ""] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{answer}");
        is_cut(answer.as_bytes(), true, "1.1").await;
        is_cut(answer.as_bytes(), true, "1.0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_malformed_chunks_cut_the_client_off() {
    for body in [
        "5\r\nhello\r\nx\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello",
    ] {
        is_cut(
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").as_bytes(),
            true,
            "1.1",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_8_an_answer_that_ends_without_close_notify_cuts_the_client_off() {
    is_cut(b"HTTP/1.1 200 OK\r\n\r\nhello", false, "1.1").await;
    is_cut(b"HTTP/1.1 200 OK\r\n\r\nhello", false, "1.0").await;
}
