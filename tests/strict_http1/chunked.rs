//! The chunked coding of requests: RFC 9112 section 7.1.

use futures_util::future::join_all;

use support::PATIENCE;
use support::link::Message;
use support::scene::{SITE, Scene, with_host};

fn post(body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST /c HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    request.extend_from_slice(body);
    request
}

async fn passes(scene: &Scene, body: &[u8]) -> Message {
    let seen = scene.forwarded(post(body)).await;
    assert!(seen.chunked && seen.values("content-length").is_empty(), "{}", seen.text());
    seen
}

/// Each body is answered 400, or the connection ends; then it is closed, and no back end gets a whole request: what it
/// may have got of one was broken off.
async fn breaks(bodies: &[&[u8]]) {
    let scene = Scene::new().await;
    let wrong: Vec<String> = join_all(bodies.iter().map(|body| async {
        let mut link = scene.open().await;
        // What follows must not be read as a request.
        let mut request = post(body);
        request.extend(with_host(b"GET /smuggled HTTP/1.1\r\n{H}\r\n"));
        link.try_send(request).await;
        let told = tokio::time::timeout(PATIENCE / 2, link.rest()).await;
        let verdict = match &told {
            Err(_) => Some("stays open".to_owned()),
            Ok((bytes, _)) => {
                let text = String::from_utf8_lossy(bytes);
                let ok = text.starts_with("HTTP/1.1 400 ")
                    && text.to_ascii_lowercase().contains("\r\nconnection: close\r\n")
                    && text.matches("HTTP/1.1 ").count() == 1;
                (!ok).then(|| text.chars().take(200).collect())
            }
        };
        verdict.map(|what| format!("{}\n    {what:?}", body.escape_ascii()))
    }))
    .await
    .into_iter()
    .flatten()
    .collect();
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), bodies.len(), wrong.join("\n"));
    assert_eq!(scene.origin().seen(), []);
    scene
        .logs("each is in the access log with a reason", |_| {
            let lines = scene.access();
            lines.len() == bodies.len() && lines.iter().all(|l| l["status"] == 400 && l["reason"].is_string())
        })
        .await;
    let metrics = scene.metrics().await;
    let line = format!("trivet_http_refused_total{{reason=\"body\"}} {}", bodies.len());
    assert!(metrics.contains(&line), "{line} not in {metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_a_chunk_size_that_is_not_hexadecimal_digits_is_400_and_closes() {
    breaks(&[
        b"g\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"\t5\r\nhello\r\n0\r\n\r\n",
        b"5h\r\nhello\r\n0\r\n\r\n",
        b"5,5\r\nhello\r\n0\r\n\r\n",
        b"5_\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"\x005\r\nhello\r\n0\r\n\r\n",
        b"5\x00\r\nhello\r\n0\r\n\r\n",
        b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n",
        b";a=b\r\nhello\r\n0\r\n\r\n",
        b"\"5\"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\nzero\r\n\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_a_chunk_size_of_more_than_15_digits_is_400_and_closes() {
    breaks(&[
        b"0000000000000005\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"00000000000000000000000000000000000\r\n\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_a_line_end_other_than_crlf_is_400_and_closes() {
    breaks(&[
        // After the size.
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\r\nhello\r\n0\r\n\r\n",
        b"5\n\rhello\r\n0\r\n\r\n",
        // After the data.
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello \r\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5\r\nhello\n\n0\r\n\r\n",
        // After the last chunk, and at the very end.
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"0\n\n",
        b"0\r\n\r\r\n",
        // After an extension: the two ways of reading this differ by a whole request.
        b"5;a\nhello\r\n0\r\n\r\n",
        b"5;a\rhello\r\n0\r\n\r\n",
        b"5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_1_extensions_that_are_long_or_have_controls_are_400_and_close() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
    let endless = format!("5;{}", "x".repeat(5000));
    breaks(&[
        long.as_bytes(),
        endless.as_bytes(),
        b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
        b"5;a=\x01\r\nhello\r\n0\r\n\r\n",
        b"5;a=\x7f\r\nhello\r\n0\r\n\r\n",
        b"0;\x0b\r\n\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_2_a_malformed_trailer_section_is_400_and_closes() {
    let long = format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let many =
        format!("5\r\nhello\r\n0\r\n{}\r\n", "X: 0123456789012345678901234567890123456789\r\n".repeat(1000));
    breaks(&[
        long.as_bytes(),
        many.as_bytes(),
        b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\nZ: z\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\n folded\r\n\r\n",
        b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: a\x00b\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
        b"5\r\nhello\r\n0\r\n: y\r\n\r\n",
        b"5\r\nhello\r\n0\r\nnocolon\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX(Y): z\r\n\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_sizes_pass_in_either_case_and_with_leading_zeros() {
    let scene = Scene::new().await;
    for (body, expected) in [
        ("5\r\nhello\r\n0\r\n\r\n", "hello".to_owned()),
        ("0\r\n\r\n", String::new()),
        ("000\r\n\r\n", String::new()),
        ("000000000000005\r\nhello\r\n000000000000000\r\n\r\n", "hello".into()),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789".into()),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789".into()),
        ("1\r\na\r\n1\r\nb\r\n2\r\n\r\n\r\n0\r\n\r\n", "ab\r\n".into()),
    ] {
        assert_eq!(passes(&scene, body.as_bytes()).await.body_text(), expected, "{body:?}");
    }
    let large = "x".repeat(0xabcde);
    assert_eq!(passes(&scene, format!("aBcDe\r\n{large}\r\n0\r\n\r\n").as_bytes()).await.body.len(), 0xabcde);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_1_chunk_extensions_are_dropped() {
    let scene = Scene::new().await;
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(200));
    for body in [
        "5;a\r\nhello\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c=d\r\n\r\n",
        "5;a=b;c;d=\"e f\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"quoted \\\" ; b\"\r\nhello\r\n0\r\n\r\n",
        &long,
    ] {
        // What the back end saw had no extension, or it would be no message to its reader.
        assert_eq!(passes(&scene, body.as_bytes()).await.body_text(), "hello", "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_1_2_trailers_are_forwarded() {
    let scene = Scene::new().await;
    let seen = passes(&scene, b"5\r\nhello\r\n0\r\nX-Sum: abc\r\nX-Other:  d \r\n\r\n").await;
    let trailers = String::from_utf8(seen.trailers).unwrap().to_ascii_lowercase();
    assert_eq!(trailers, "x-sum: abc\r\nx-other: d\r\n");
}

/// RFC 9110 section 6.5.1: fields for framing, routing and the like mean nothing after the body, and a back end that
/// merges them into the head would believe them.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_6_5_1_fields_that_must_not_be_trailers_are_not_forwarded() {
    let scene = Scene::new().await;
    for field in [
        "Content-Length: 7",
        "Transfer-Encoding: chunked",
        "Host: evil.example",
        "Connection: close",
        "X-Forwarded-For: 10.9.9.9",
    ] {
        let mut link = scene.open().await;
        link.send(post(format!("5\r\nhello\r\n0\r\n{field}\r\nX-Sum: abc\r\n\r\n").as_bytes())).await;
        // Refusing is as good as dropping.
        let status = link.answer().await.unwrap().status();
        assert!([200, 400].contains(&status), "{field}: {status}");
        for seen in scene.origin().seen() {
            let trailers = String::from_utf8(seen.trailers).unwrap();
            assert!(!trailers.contains(field), "{field} reached the back end: {trailers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_8_a_body_that_is_cut_short_never_becomes_a_whole_request() {
    let scene = Scene::new().await;
    for request in [
        post(b"5\r\nhello\r\n"),
        post(b"5\r\nhel"),
        post(b"5\r\nhello\r\n0\r\n"),
        post(b"5\r\nhello\r\n0\r\nX: y\r\n"),
        with_host(b"POST / HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"),
    ] {
        let mut link = scene.open().await;
        link.send(&request).await;
        link.finish().await;
        let (told, _) = link.rest().await;
        assert!(!told.starts_with(b"HTTP/1.1 2"), "{}", told.escape_ascii());
    }
    assert_eq!(scene.origin().seen(), []);
}
