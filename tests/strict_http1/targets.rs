//! The request target: RFC 9112 section 3.2, RFC 3986 sections 3.3 and 6.2.2.3.

use support::scene::{SITE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_a_target_with_bytes_that_are_not_visible_ascii_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "target|request_line",
            &[
                b"GET /\x00 HTTP/1.1\r\n{H}\r\n",
                b"GET /a\x01b HTTP/1.1\r\n{H}\r\n",
                b"GET /a\x0bb HTTP/1.1\r\n{H}\r\n",
                b"GET /a\x1bb HTTP/1.1\r\n{H}\r\n",
                b"GET /a\x7fb HTTP/1.1\r\n{H}\r\n",
                b"GET /\xc3\xbc HTTP/1.1\r\n{H}\r\n",
                b"GET /\xff HTTP/1.1\r\n{H}\r\n",
                b"GET /?q=\xc3\xbc HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_1_a_fragment_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "target",
            &[
                b"GET /a#b HTTP/1.1\r\n{H}\r\n",
                b"GET /# HTTP/1.1\r\n{H}\r\n",
                b"GET /?q#f HTTP/1.1\r\n{H}\r\n",
                b"GET #f HTTP/1.1\r\n{H}\r\n",
                b"GET https://www.foobar.com/#f HTTP/1.1\r\n{H}\r\n",
                b"GET https://www.foobar.com#@other.example/ HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_a_form_that_the_method_does_not_have_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "target",
            &[
                b"GET * HTTP/1.1\r\n{H}\r\n",
                b"POST * HTTP/1.1\r\n{H}Content-Length: 0\r\n\r\n",
                b"OPTIONS ** HTTP/1.1\r\n{H}\r\n",
                b"OPTIONS *? HTTP/1.1\r\n{H}\r\n",
                b"GET www.foobar.com HTTP/1.1\r\n{H}\r\n",
                b"GET www.foobar.com:443 HTTP/1.1\r\n{H}\r\n",
                b"GET index.html HTTP/1.1\r\n{H}\r\n",
                b"GET ?q HTTP/1.1\r\n{H}\r\n",
                b"GET \\ HTTP/1.1\r\n{H}\r\n",
                b"GET ftp://www.foobar.com/ HTTP/1.1\r\n{H}\r\n",
                b"GET file:///etc/passwd HTTP/1.1\r\n{H}\r\n",
                b"GET https: HTTP/1.1\r\n{H}\r\n",
                b"GET https:/ HTTP/1.1\r\n{H}\r\n",
                b"GET https:// HTTP/1.1\r\n{H}\r\n",
                b"GET https:///path HTTP/1.1\r\n{H}\r\n",
                b"GET https:www.foobar.com/ HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_4_2_4_user_information_in_an_absolute_form_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "host",
            &[
                b"GET https://user@www.foobar.com/ HTTP/1.1\r\nHost: user@www.foobar.com\r\n\r\n",
                b"GET https://user:secret@www.foobar.com/ HTTP/1.1\r\n{H}\r\n",
                b"GET https://www.foobar.com@other.example/ HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc3986_6_2_2_3_dot_segments_are_400_and_close() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "dot_segments",
            &[
                b"GET /.. HTTP/1.1\r\n{H}\r\n",
                b"GET /../ HTTP/1.1\r\n{H}\r\n",
                b"GET /a/../b HTTP/1.1\r\n{H}\r\n",
                b"GET /a/./b HTTP/1.1\r\n{H}\r\n",
                b"GET /. HTTP/1.1\r\n{H}\r\n",
                b"GET /a/.. HTTP/1.1\r\n{H}\r\n",
                b"GET //../ HTTP/1.1\r\n{H}\r\n",
                b"GET /%2e%2e/ HTTP/1.1\r\n{H}\r\n",
                b"GET /%2E./ HTTP/1.1\r\n{H}\r\n",
                b"GET /.%2e/x HTTP/1.1\r\n{H}\r\n",
                b"GET /a/%2E/b HTTP/1.1\r\n{H}\r\n",
                b"GET /../?q HTTP/1.1\r\n{H}\r\n",
                b"GET https://www.foobar.com/../x HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc3986_3_3_what_no_uri_has_and_http2_cannot_carry_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "target",
            &[
                b"GET /a<b HTTP/1.1\r\n{H}\r\n",
                b"GET /a>b HTTP/1.1\r\n{H}\r\n",
                b"GET /a`b HTTP/1.1\r\n{H}\r\n",
                b"GET /?q=<b HTTP/1.1\r\n{H}\r\n",
                b"GET /?q=b> HTTP/1.1\r\n{H}\r\n",
                b"GET /?q=\"x\" HTTP/1.1\r\n{H}\r\n",
                b"GET https://www.foobar.com?\"x\" HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_1_path_and_query_pass_untouched() {
    let scene = Scene::new().await;
    for target in [
        "/",
        "/a/b?c=d&e",
        "/?",
        "//double//slash/",
        "/a%2Fb%20c%C3%BC?d=%2F",
        "/...",
        "/a..b/..c/d..",
        "/?../x",
        "/;p=1/a;q",
        "/:@!$&'()*+,=-._~",
        "/http://other.example/",
        "/a|b\"c\\d^e{f}",
        "/?a|b\\c^d`e{f}'",
        "/?a?b=c/d",
    ] {
        let seen = scene.forwarded(format!("GET {target} HTTP/1.1\r\n{{H}}\r\n")).await;
        assert_eq!(seen.line(), format!("GET {target} HTTP/1.1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_2_the_absolute_form_is_forwarded_as_path_and_query_with_its_host() {
    let scene = Scene::new().await;
    for (target, host, path) in [
        ("https://www.foobar.com/a?b", SITE, "/a?b"),
        ("https://www.foobar.com", SITE, "/"),
        ("https://www.foobar.com?q", SITE, "/?q"),
        ("https://www.foobar.com/?https://other.example/", SITE, "/?https://other.example/"),
        ("HTTPS://WWW.FOOBAR.COM/A", SITE, "/A"),
        ("http://www.foobar.com/plain", SITE, "/plain"),
        ("https://www.foobar.com:8443/p", "www.foobar.com:8443", "/p"),
    ] {
        let seen = scene.forwarded(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(seen.line(), format!("GET {path} HTTP/1.1"), "{target}");
        assert_eq!(seen.field("host").unwrap().to_ascii_lowercase(), host);
        assert_eq!(
            seen.field("x-forwarded-proto").as_deref(),
            Some("https"),
            "the connection is TLS, whatever the target says"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_4_options_asterisk_passes() {
    let scene = Scene::new().await;
    assert_eq!(scene.forwarded("OPTIONS * HTTP/1.1\r\n{H}\r\n").await.line(), "OPTIONS * HTTP/1.1");
    assert_eq!(scene.forwarded("OPTIONS /a HTTP/1.1\r\n{H}\r\n").await.line(), "OPTIONS /a HTTP/1.1");
}
