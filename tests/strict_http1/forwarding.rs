//! What a proxy adds and takes away: RFC 9110 section 7.6, RFC 7239.

use support::scene::{SITE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_6_3_via_is_kept_and_ours_comes_last() {
    let scene = Scene::new().await;
    let seen =
        scene.forwarded("GET / HTTP/1.1\r\n{H}Via: 1.1 first, 1.0 second\r\nVia: 2 third\r\n\r\n").await;
    let via = seen.values("via").join(", ");
    assert_eq!(via, "1.1 first, 1.0 second, 2 third, 1.1 trivet");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7239_8_1_what_a_client_says_about_itself_is_dropped() {
    let scene = Scene::new().await;
    let claims = [
        "X-Forwarded-For",
        "x-forwarded-for",
        "X_Forwarded_For",
        "X-Forwarded_For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "X-Real-IP",
        "X_Real_IP",
        "Forwarded",
        "X-Request-Id",
        "X_Request_Id",
        "Trivet-Hop",
        "Proxy",
        "X-Original-URL",
        "X-Rewrite-URL",
    ];
    for name in claims {
        let seen = scene
            .forwarded(format!("GET / HTTP/1.1\r\n{{H}}{name}: 10.9.9.9\r\n{name}: 10.8.8.8\r\n\r\n"))
            .await;
        let text = seen.text();
        assert!(!text.contains("10.9.9.9") && !text.contains("10.8.8.8"), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7239_4_the_next_hop_is_told_about_the_client() {
    let scene = Scene::new().await;
    let seen = scene.forwarded("GET / HTTP/1.1\r\nHost: www.foobar.com:8443\r\n\r\n").await;
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "www.foobar.com:8443"),
        ("x-forwarded-port", "8443"),
        ("forwarded", "for=127.0.0.1;host=\"www.foobar.com:8443\";proto=https"),
        ("via", "1.1 trivet"),
    ] {
        assert_eq!(seen.field(name).as_deref(), Some(value), "{name}");
    }
    let id = seen.field("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    scene.logs("the same id is in the access log", |l| l["request_id"] == id.as_str()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_6_end_to_end_fields_pass_as_they_are() {
    let scene = Scene::new().await;
    let fields = [
        ("Authorization", "Basic dXNlcjpwYXNz"),
        ("Cookie", "a=b; c=\"d\""),
        ("Accept-Encoding", "gzip, br;q=0.5"),
        ("User-Agent", "test/1.0 (comment)"),
        ("Referer", "https://www.foobar.com/?a=b"),
        ("Origin", "null"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", "W/\"x\", \"y\""),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Max-Forwards", "10"),
        ("Content-Type", "text/plain; charset=\"utf-8\""),
        ("Sec-Fetch-Mode", "cors"),
        ("DNT", "1"),
        ("X_Under_Score", "kept"),
    ];
    let text: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let seen = scene.forwarded(format!("GET / HTTP/1.1\r\n{{H}}{text}\r\n")).await;
    for (name, value) in fields {
        assert_eq!(seen.field(name).as_deref(), Some(value), "{name}");
    }
    // And nothing that nobody sent but the hop's own fields.
    let ours = [
        "host",
        "via",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
        "connection",
    ];
    for line in seen.text().trim_end().split("\r\n").skip(1) {
        let name = line.split(':').next().unwrap();
        let known = ours.iter().chain(fields.iter().map(|(n, _)| n)).any(|n| n.eq_ignore_ascii_case(name));
        assert!(known, "{line:?} was added");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_6_1_fields_of_the_back_ends_connection_do_not_reach_the_client() {
    let scene = Scene::new().await;
    scene.origin().answers(
        "HTTP/1.1 200 OK\r\nConnection: X-One, keep-alive\r\nX-One: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         X-Two: 2\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nServer: s\r\nContent-Length: 2\r\n\r\nok",
    );
    let mut link = scene.open().await;
    link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let answer = link.answer().await.unwrap();
    for gone in ["x-one", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.values(gone), [""; 0], "{gone} in {}", answer.text());
    }
    assert!(answer.values("connection").iter().all(|v| !v.to_ascii_lowercase().contains("x-one")));
    assert_eq!(answer.field("x-two").as_deref(), Some("2"));
    assert_eq!(answer.values("set-cookie"), ["a=b", "c=d"]);
    assert_eq!(answer.field("server").as_deref(), Some("s"));
}
