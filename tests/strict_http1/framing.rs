//! Where a request's body ends: RFC 9112 section 6, RFC 9110 section 8.6.

use support::scene::{SITE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_length_and_coding_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "length_and_coding",
            &[
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}content-length: 0\r\nTRANSFER-ENCODING: Chunked\r\n\r\n0\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nX: y\r\nContent-Length: 4\r\n\r\n\
                  5c\r\nGET /smuggled HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_8_6_a_repeated_content_length_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "repeated_length",
            &[
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nX: y\r\ncontent-length: 05\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5, 5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5,6\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5,\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: ,5\r\n\r\nhello",
                b"GET / HTTP/1.1\r\n{H}Content-Length: 0,\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_8_6_a_content_length_that_is_not_digits_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "bad_length",
            &[
                b"POST / HTTP/1.1\r\n{H}Content-Length: +5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: -5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: -0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Content-Length:\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: \t \r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5 5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 0x5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5.0\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5;\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5a\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 1_0\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: \"5\"\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: \xd9\xa5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: chunked\r\n\r\nhello",
                // 19 digits and more: no number that anyone sends, and one that overflows where a server is careless.
                b"POST / HTTP/1.1\r\n{H}Content-Length: 9223372036854775808\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 18446744073709551621\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 99999999999999999999999999999999\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 0000000000000000005\r\n\r\nhello",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_1_a_coding_other_than_one_chunked_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "transfer_coding",
            &[
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: identity\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: x chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: ch\xc3\xbcnked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding:\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_1_a_coding_in_http_1_0_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "transfer_coding",
            &[
                b"POST / HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.0\r\n{H}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                b"GET / HTTP/1.0\r\n{H}Transfer-Encoding: gzip\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_11_2_nothing_after_a_refused_request_is_served() {
    let scene = Scene::new().await;
    let bad = "POST / HTTP/1.1\r\n{H}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let good = "GET /smuggled HTTP/1.1\r\n{H}\r\n";
    scene.refuses(400, "length_and_coding", &[format!("{bad}{good}").as_bytes()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_8_6_content_length_is_forwarded_once_in_plain_digits() {
    let scene = Scene::new().await;
    for (sent, body, forwarded) in [
        ("Content-Length: 5", "hello", "5"),
        ("content-length:5", "hello", "5"),
        ("Content-Length: \t5\t ", "hello", "5"),
        ("Content-Length: 005", "hello", "5"),
        ("Content-Length: 000000000000000005", "hello", "5"),
        ("CONTENT-LENGTH: 0", "", "0"),
        ("Content-Length: 000", "", "0"),
    ] {
        let seen = scene.forwarded(format!("POST / HTTP/1.1\r\n{{H}}{sent}\r\n\r\n{body}")).await;
        assert_eq!(seen.values("content-length"), [forwarded], "{sent:?}");
        assert_eq!(seen.body_text(), body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_1_one_chunked_is_accepted_however_it_is_spelt() {
    let scene = Scene::new().await;
    for sent in
        ["Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "TRANSFER-ENCODING: \t Chunked \t"]
    {
        let seen =
            scene.forwarded(format!("POST / HTTP/1.1\r\n{{H}}{sent}\r\n\r\n5\r\nhello\r\n0\r\n\r\n")).await;
        assert_eq!(seen.values("transfer-encoding"), ["chunked"], "{sent:?}");
        assert_eq!(seen.values("content-length"), [""; 0]);
        assert_eq!(seen.body_text(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_a_body_passes_with_any_method_and_none_is_invented() {
    let scene = Scene::new().await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 5\r\n\r\nhello");
        let mut link = scene.open().await;
        scene.origin().answers(if method == "HEAD" {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        });
        link.send(request).await;
        assert_eq!(link.answer_to(method).await.unwrap().status(), 200);
        let seen = scene.origin().seen().pop().unwrap();
        assert_eq!((seen.line(), seen.body_text()), (format!("{method} / HTTP/1.1"), "hello".into()));
    }
    scene.origin().answers(support::origin::OK);
    for method in ["GET", "DELETE"] {
        let seen = scene.forwarded(format!("{method} / HTTP/1.1\r\n{{H}}\r\n")).await;
        let framed = (seen.values("content-length"), seen.values("transfer-encoding"));
        assert_eq!(framed, (vec![], vec![]), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_what_follows_a_body_is_the_next_request() {
    let scene = Scene::new().await;
    let mut link = scene.open().await;
    // The body looks like a request, and the request after it is one.
    let inner = "GET /inner HTTP/1.1\r\nHost: x\r\n\r\n";
    link.send(format!(
        "POST /outer HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: {}\r\n\r\n{inner}GET /next HTTP/1.1\r\nHost: {SITE}\r\n\r\n",
        inner.len()
    ))
    .await;
    for _ in 0..2 {
        assert_eq!(link.answer().await.unwrap().status(), 200);
    }
    let seen = scene.origin().seen();
    let lines: Vec<String> = seen.iter().map(|m| m.line()).collect();
    assert_eq!(lines, ["POST /outer HTTP/1.1", "GET /next HTTP/1.1"]);
    assert_eq!(seen[0].body_text(), inner);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_14_a_content_length_above_max_body_size_is_413_and_closes() {
    let scene = Scene::tuned(1, "max_body_size = \"1KiB\"", "").await;
    let whole = format!("POST / HTTP/1.1\r\n{{H}}Content-Length: 1025\r\n\r\n{}", "x".repeat(1025));
    scene
        .refuses(
            413,
            "body_too_large",
            &[
                b"POST / HTTP/1.1\r\n{H}Content-Length: 1025\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 999999999999999999\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Expect: 100-continue\r\nContent-Length: 1025\r\n\r\n",
                whole.as_bytes(),
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_14_chunks_above_max_body_size_are_413_and_the_back_end_gets_no_whole_request() {
    let scene = Scene::tuned(1, "max_body_size = \"1KiB\"", "").await;
    let mut link = scene.open().await;
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    let all = format!(
        "POST / HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    link.try_send(all).await;
    assert_eq!(link.answer().await.unwrap().status(), 413);
    link.rest().await;
    assert_eq!(scene.origin().seen(), []);
    // Exactly as much as is allowed passes.
    let seen = scene
        .forwarded(format!(
            "POST / HTTP/1.1\r\n{{H}}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(2)
        ))
        .await;
    assert_eq!(seen.body.len(), 1024);
}
