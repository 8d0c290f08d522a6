//! The request line: RFC 9112 section 3, RFC 9110 sections 2.5 and 9.1.

use support::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_a_malformed_request_line_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "request_line|field",
            &[
                // Other than one space between the three parts, or anything around them.
                b"GET  / HTTP/1.1\r\n{H}\r\n",
                b"GET /  HTTP/1.1\r\n{H}\r\n",
                b" GET / HTTP/1.1\r\n{H}\r\n",
                b"GET / HTTP/1.1 \r\n{H}\r\n",
                b"GET\t/ HTTP/1.1\r\n{H}\r\n",
                b"GET /\tHTTP/1.1\r\n{H}\r\n",
                b"GET\t/\tHTTP/1.1\r\n{H}\r\n",
                b"GET\x0b/\x0cHTTP/1.1\r\n{H}\r\n",
                b"GET / HTTP/1.1\t\r\n{H}\r\n",
                b"GET /a b HTTP/1.1\r\n{H}\r\n",
                b"GET / HTTP/1.1 HTTP/1.1\r\n{H}\r\n",
                // Parts that are not there.
                b"GET /\r\n{H}\r\n",
                b"GET / \r\n{H}\r\n",
                b"GET HTTP/1.1\r\n{H}\r\n",
                b"/ HTTP/1.1\r\n{H}\r\n",
                b"GET\r\n{H}\r\n",
                b"{H}\r\n",
                // A version that is no version.
                b"GET / HTTP/1.\r\n{H}\r\n",
                b"GET / HTTP/.1\r\n{H}\r\n",
                b"GET / HTTP/11\r\n{H}\r\n",
                b"GET / HTTP/1.1x\r\n{H}\r\n",
                b"GET / HTTP/1.10\r\n{H}\r\n",
                b"GET / HTTP/01.1\r\n{H}\r\n",
                b"GET / HTTP/1.+1\r\n{H}\r\n",
                b"GET / HTTP/A.B\r\n{H}\r\n",
                b"GET / http/1.1\r\n{H}\r\n",
                b"GET / Http/1.1\r\n{H}\r\n",
                b"GET / HTTPS/1.1\r\n{H}\r\n",
                b"GET / HTTP /1.1\r\n{H}\r\n",
                b"GET / ICY/1.1\r\n{H}\r\n",
                b"GET / HTTP\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_1_a_method_that_is_no_token_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "request_line",
            &[
                b"GE(T / HTTP/1.1\r\n{H}\r\n",
                b"GET: / HTTP/1.1\r\n{H}\r\n",
                b"\"GET\" / HTTP/1.1\r\n{H}\r\n",
                b"GET,POST / HTTP/1.1\r\n{H}\r\n",
                b"G@T / HTTP/1.1\r\n{H}\r\n",
                b"{GET} / HTTP/1.1\r\n{H}\r\n",
                b"GET\\ / HTTP/1.1\r\n{H}\r\n",
                b"GET= / HTTP/1.1\r\n{H}\r\n",
                b"G\xc3\x89T / HTTP/1.1\r\n{H}\r\n",
                b"G\x00T / HTTP/1.1\r\n{H}\r\n",
                b"G\x7fT / HTTP/1.1\r\n{H}\r\n",
                b"\x16\x03\x01 / HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_http_0_9_is_400_and_closes() {
    let scene = Scene::new().await;
    scene.refuses(400, "request_line", &[b"GET /\r\n", b"GET / \r\n", b"GET /index.html\r\n\r\n"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_2_5_a_version_other_than_1_0_and_1_1_is_505_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            505,
            "version",
            &[
                b"GET / HTTP/1.2\r\n{H}\r\n",
                b"GET / HTTP/1.9\r\n{H}\r\n",
                b"GET / HTTP/2.0\r\n{H}\r\n",
                b"GET / HTTP/3.0\r\n{H}\r\n",
                b"GET / HTTP/9.9\r\n{H}\r\n",
                // The preface of HTTP/2 on a connection where HTTP/1.1 was agreed (RFC 9113 section 3.4).
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_3_trace_and_connect_are_405_with_allow_and_close() {
    let scene = Scene::new().await;
    scene
        .refuses(
            405,
            "method",
            &[
                b"TRACE / HTTP/1.1\r\n{H}\r\n",
                b"TRACE / HTTP/1.1\r\n{H}Max-Forwards: 0\r\n\r\n",
                b"TRACE * HTTP/1.1\r\n{H}\r\n",
                b"CONNECT www.foobar.com:443 HTTP/1.1\r\nHost: www.foobar.com:443\r\n\r\n",
                b"CONNECT www.foobar.com:443 HTTP/1.1\r\n{H}\r\n",
                b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
                b"CONNECT / HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_1_methods_pass_as_they_are_whatever_token_they_are() {
    let scene = Scene::new().await;
    for method in [
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "PROPFIND",
        "VERSION-CONTROL",
        "get",
        "Get",
        "connect",
        "TRACER",
        "A",
        "!#$%&'*+-.^_`|~09Az",
    ] {
        let seen = scene.forwarded(format!("{method} /x HTTP/1.1\r\n{{H}}\r\n")).await;
        assert_eq!(seen.line(), format!("{method} /x HTTP/1.1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_2_2_an_empty_line_before_a_request_is_skipped() {
    let scene = Scene::new().await;
    assert_eq!(scene.forwarded("\r\nGET /a HTTP/1.1\r\n{H}\r\n").await.line(), "GET /a HTTP/1.1");
    // After a body, where old clients put it.
    let mut link = scene.open().await;
    let request = "POST /b HTTP/1.1\r\nHost: www.foobar.com\r\nContent-Length: 2\r\n\r\nhi\r\n";
    for _ in 0..2 {
        link.send(request).await;
        assert_eq!(link.answer().await.unwrap().status(), 200);
    }
    assert_eq!(scene.origin().seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_2_2_more_than_one_empty_line_before_a_request_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "request_line",
            &[b"\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n", b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_http_1_0_is_forwarded_as_http_1_1() {
    let scene = Scene::new().await;
    let seen = scene.forwarded("GET /old HTTP/1.0\r\n{H}\r\n").await;
    assert_eq!(seen.line(), "GET /old HTTP/1.1");
    assert_eq!(seen.field("via").as_deref(), Some("1.0 trivet"));
}
