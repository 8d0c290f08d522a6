//! Malformed requests: RFC 9113 sections 8.1 to 8.3. Each is reset or answered 400, and no back end sees any of it.

use super::peer::*;
use Expect::{Malformed, Reset};
use support::scene::{SITE, Scene};

/// A GET with these fields after its own.
fn with(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, [get("/"), field(name, value)].concat())
}

fn of(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, block(fields))
}

async fn malformed(cases: &[(&str, Vec<u8>)]) {
    let scene = Scene::new().await;
    let cases: Vec<_> = cases.iter().map(|(name, bytes)| (*name, bytes.clone(), Malformed(1))).collect();
    check_in(&scene, &cases).await;
    assert_eq!(scene.origin().seen(), [], "a malformed request went on");
}

const M: (&str, &str) = (":method", "GET");
const S: (&str, &str) = (":scheme", "https");
const A: (&str, &str) = (":authority", SITE);
const P: (&str, &str) = (":path", "/");

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_2_field_names_are_lower_case_tokens() {
    malformed(&[
        ("upper case", with("X-Upper", "y")),
        ("one upper case letter", with("x-uppeR", "y")),
        ("empty", with("", "y")),
        ("space", with("x y", "z")),
        ("colon", with("x:y", "z")),
        ("quote", with("x\"y", "z")),
        ("line end", with("x\r\ny", "z")),
        ("NUL", with("x\0", "z")),
        ("DEL", with("x\x7f", "z")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_2_1_field_values_have_no_line_ends_and_no_nul() {
    malformed(&[
        ("CR LF", with("x", "a\r\nTransfer-Encoding: chunked")),
        ("LF", with("x", "a\nb")),
        ("CR", with("x", "a\rb")),
        ("NUL", with("x", "a\0b")),
        ("another control", with("x", "a\x01b")),
        ("DEL", with("x", "a\x7fb")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_2_2_fields_of_the_connection_are_malformed() {
    malformed(&[
        ("connection", with("connection", "keep-alive")),
        ("connection: close", with("connection", "close")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("proxy-connection", with("proxy-connection", "keep-alive")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "websocket")),
        ("te: gzip", with("te", "gzip")),
        ("te: trailers, gzip", with("te", "trailers, gzip")),
    ])
    .await;
    check(&[("te: trailers", with("te", "trailers"), Expect::Answers(1))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_3_pseudo_header_fields_are_known_and_come_first() {
    malformed(&[
        ("unknown", of(&[M, S, A, P, (":test", "x")])),
        ("of an answer", of(&[M, S, A, P, (":status", "200")])),
        (":protocol in a GET", of(&[M, S, A, P, (":protocol", "websocket")])),
        ("after a field", of(&[M, S, A, ("x", "y"), P])),
        ("all after a field", of(&[("x", "y"), M, S, A, P])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_3_1_each_pseudo_header_field_of_a_request_stands_once() {
    malformed(&[
        ("no :method", of(&[S, A, P])),
        ("no :scheme", of(&[M, A, P])),
        ("no :path", of(&[M, S, A])),
        ("none", of(&[("x", "y")])),
        ("an empty :path", of(&[M, S, A, (":path", "")])),
        ("two :method", of(&[M, M, S, A, P])),
        ("two :scheme", of(&[M, S, S, A, P])),
        ("two :path", of(&[M, S, A, P, P])),
        ("two :authority", of(&[M, S, A, A, P])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_4_an_extended_connect_has_scheme_path_and_authority_and_no_content() {
    let (c, w) = ((":method", "CONNECT"), (":protocol", "websocket"));
    let open = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS, 1, block(fields));
    malformed(&[
        ("no :scheme", open(&[c, w, A, P])),
        ("no :path", open(&[c, w, S, A])),
        ("no :authority", open(&[c, w, S, P])),
        ("two :protocol", open(&[c, w, w, S, A, P])),
        ("an empty :path", open(&[c, w, S, A, (":path", "")])),
        ("a content-length", open(&[c, w, S, A, P, ("content-length", "3")])),
        ("upgrade", open(&[c, w, S, A, P, ("upgrade", "websocket")])),
        ("connection", open(&[c, w, S, A, P, ("connection", "upgrade")])),
    ])
    .await;
}

/// What a translation to HTTP/1.1 could turn into something else.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_10_3_values_that_would_break_an_http_1_1_request_line_are_malformed() {
    malformed(&[
        (":method with spaces", of(&[(":method", "GET / HTTP/1.1\r\nx:"), S, A, P])),
        (":method that is no token", of(&[(":method", "G(T"), S, A, P])),
        (":method empty", of(&[(":method", ""), S, A, P])),
        (":path with a space", of(&[M, S, A, (":path", "/a b")])),
        (":path with a line end", of(&[M, S, A, (":path", "/ HTTP/1.1\r\nx: y\r\n")])),
        (":path with NUL", of(&[M, S, A, (":path", "/\0")])),
        (":path that is no path", of(&[M, S, A, (":path", "x")])),
        (":path with dot segments", of(&[M, S, A, (":path", "/a/../b")])),
        (":authority with a path", of(&[M, S, (":authority", "www.foobar.com/x"), P])),
        (":authority with user information", of(&[M, S, (":authority", "user@www.foobar.com"), P])),
        (":authority with a space", of(&[M, S, (":authority", "www.foobar.com x"), P])),
        (":authority empty", of(&[M, S, (":authority", ""), P])),
        ("no :authority and no host", of(&[M, S, P])),
        ("a host that differs from :authority", of(&[M, S, A, P, ("host", "other.example")])),
        ("two hosts", of(&[M, S, P, ("host", SITE), ("host", SITE)])),
        (":scheme with a path", of(&[M, (":scheme", "https://x/"), A, P])),
        ("asterisk for GET", of(&[M, S, A, (":path", "*")])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_1_content_length_is_that_of_the_data() {
    let told =
        |length: &str| frame(HEADERS, END_HEADERS, 1, [post("/"), field("content-length", length)].concat());
    let data = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let scene = Scene::new().await;
    check_in(
        &scene,
        &[
            ("more than told", [told("1"), data(b"xx")].concat(), Malformed(1)),
            ("more, in two parts", [told("3"), frame(DATA, 0, 1, b"xx"), data(b"xx")].concat(), Malformed(1)),
            ("less than told", [told("3"), data(b"xx")].concat(), Malformed(1)),
            (
                "none of what was told",
                frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    1,
                    [post("/"), field("content-length", "3")].concat(),
                ),
                Malformed(1),
            ),
            ("no number", [told("x"), data(b"xx")].concat(), Malformed(1)),
            ("signed", [told("+2"), data(b"xx")].concat(), Malformed(1)),
            ("a list", [told("2, 2"), data(b"xx")].concat(), Malformed(1)),
            (
                "two equal ones",
                [
                    frame(
                        HEADERS,
                        END_HEADERS,
                        1,
                        [post("/"), field("content-length", "2"), field("content-length", "2")].concat(),
                    ),
                    data(b"xx"),
                ]
                .concat(),
                Malformed(1),
            ),
        ],
    )
    .await;
    assert_eq!(scene.origin().seen(), []);
    check(&[("as told", [told("2"), data(b"xx")].concat(), Expect::Answers(1))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_trailers_end_the_request() {
    let trailers = |flags: u8| frame(HEADERS, END_HEADERS | flags, 1, field("x-sum", "1"));
    check(&[
        (
            "with END_STREAM",
            [open(1), frame(DATA, 0, 1, b"x"), trailers(END_STREAM)].concat(),
            Expect::Answers(1),
        ),
        ("without", [open(1), frame(DATA, 0, 1, b"x"), trailers(0)].concat(), Reset(1, &[PROTOCOL_ERROR])),
    ])
    .await;
}

/// The library below cuts a fragment off before the request is seen here, so it is not refused as with HTTP/1.1: the request is
/// the one without it, for the back end and in the log alike.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_3_1_a_fragment_is_cut_off() {
    let scene = Scene::new().await;
    let targets = [
        ("/a#b", "/a"),
        ("/b?q#f", "/b?q"),
        ("/c#?q", "/c"),
        // What is refused in a path is not looked at behind the mark.
        ("/d#/../\"<>", "/d"),
        ("#e", "/"),
    ];
    let cases = targets.map(|(sent, _)| (sent, of(&[M, S, A, (":path", sent)]), Expect::Answers(1)));
    check_in(&scene, &cases).await;
    let mut seen: Vec<_> = scene.origin().seen().into_iter().map(|m| m.line()).collect();
    let mut expected = targets.map(|(_, target)| format!("GET {target} HTTP/1.1"));
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    for (_, target) in targets {
        let path = target.split('?').next().unwrap();
        assert_eq!(scene.balancer.access(path)["status"], 200);
    }
    let metrics = scene.metrics().await;
    assert!(!metrics.contains("trivet_http_refused_total{"), "{metrics}");
    malformed(&[("a query without a path", of(&[M, S, A, (":path", "?q#f")]))]).await;
}

/// The library below drops pseudo-header fields among trailers.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_pseudo_header_fields_in_trailers_go_no_further() {
    let scene = Scene::new().await;
    let mut peer = Peer::new(&scene).await;
    let trailers = [
        open(1),
        frame(DATA, 0, 1, b"x"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&[M, ("x-sum", "1")])),
    ];
    peer.send(&trailers.concat()).await;
    let answered = peer.until(|f| f.stream == 1 && (f.kind == HEADERS || f.kind == RST_STREAM)).await;
    assert_eq!(answered.unwrap().kind, HEADERS);
    let seen = scene.origin().seen();
    let [seen] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((seen.line(), &seen.trailers[..]), ("POST /open HTTP/1.1".into(), &b"x-sum: 1\r\n"[..]));
}
