use super::*;
use bytes::BytesMut;

use crate::request::Request;

#[test]
fn rfc9110_5_6_2_a_token_has_no_separators() {
    assert!(b"!#$%&'*+-.^_`|~09azAZ".iter().all(|b| is_token(*b)));
    assert!(!b"\0\t \"(),/:;<=>?@[\\]{}\x7f\x80".iter().any(|b| is_token(*b)));
}

#[test]
fn rfc9112_3_2_a_fragment_in_the_target_is_refused() {
    assert_eq!(read(Method::GET, "/a#b").err(), Some(Refusal::Target));
}

fn read(method: Method, text: &str) -> Result<(String, Option<String>), Refusal> {
    let head = format!("{method} {text} HTTP/1.1\r\nHost: x\r\n\r\n");
    let request = Request::parse(BytesMut::from(head.as_bytes()), 10, Vec::new()).map_err(|(r, _)| r)?;
    let target = target(&request)?;
    Ok((target.path_and_query.to_string(), target.authority.map(str::to_owned)))
}

#[test]
fn rfc9112_3_2_2_absolute_form_is_taken_apart() {
    let t = read(Method::GET, "http://www.foobar.com:80/a?b").unwrap();
    assert_eq!(t, ("/a?b".into(), Some("www.foobar.com:80".into())));
    let t = read(Method::GET, "https://www.foobar.com").unwrap();
    assert_eq!(t.0, "/");
    assert_eq!(read(Method::GET, "https://www.foobar.com?q").unwrap().0, "/?q");
}

#[test]
fn rfc9112_3_2_4_asterisk_is_for_options() {
    assert_eq!(read(Method::OPTIONS, "*").unwrap().0, "*");
    assert_eq!(read(Method::GET, "*"), Err(Refusal::Target));
}

#[test]
fn rfc3986_6_2_2_3_dot_segments_are_refused() {
    let hidden = [
        "/x%2F..%2Fadmin",
        "/a/..%2f",
        "/x\\..\\admin",
        "/x%5C..%5cadmin",
        "/a/..;/b",
        "/x/..%3B/b",
        "/.;x=1/b",
    ];
    for path in ["/..", "/a/../b", "/./", "/%2e%2E/x", "/a/.%2e", "/%2e"].iter().chain(&hidden) {
        assert!(has_dot_segments(path), "{path}");
    }
    for path in [
        "/",
        "/a..b",
        "/...",
        "/.well-known/x",
        "/a/%2ehidden",
        "/a.b/.c",
        "/%2x",
        "/a;..",
        "/...;/x",
        "/a%2F.b",
        "/%252e%252e/",
        "/%",
        "/a%2",
    ] {
        assert!(!has_dot_segments(path), "{path}");
    }
    assert_eq!(read(Method::GET, "/a/../b"), Err(Refusal::DotSegments));
    assert!(read(Method::GET, "/a?next=/../b").is_ok());
}

#[test]
fn rfc9110_7_2_hosts_are_compared_without_port_case_and_trailing_dot() {
    assert_eq!(host_and_port("WWW.Foobar.com:443").map(|h| h.0).as_deref(), Some("www.foobar.com"));
    assert_eq!(host_and_port("www.foobar.com.").map(|h| h.0).as_deref(), Some("www.foobar.com"));
    assert_eq!(host_and_port("[::1]:80").map(|h| h.0).as_deref(), Some("[::1]"));
    for bad in [
        "",
        ":80",
        "a b",
        "a/b",
        "user@host",
        "a:99999",
        "a:8x",
        "[::1",
        "[x]",
        "[::1]80",
        "a,b",
        ".",
        "a..",
        ".a",
        "a..b",
    ] {
        assert_eq!(host_and_port(bad), None, "{bad}");
    }
}

/// What the HTTP/2 library makes of a target, and the rest of us of that.
fn read_in_http2(target: &[u8]) -> Option<String> {
    let path = http::uri::PathAndQuery::from_maybe_shared(bytes::Bytes::copy_from_slice(target)).ok()?;
    read(Method::GET, path.as_str()).ok().map(|(target, _)| target)
}

#[test]
fn rfc3986_3_every_octet_of_a_target_fares_alike_in_every_version() {
    for octet in 0..=u8::MAX {
        for before in [&b"/a"[..], b"/a?b"] {
            let target = [before, &[octet], b"c"].concat();
            let head = [b"GET ", &*target, b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
            let head = Request::parse(BytesMut::from(&*head), 10, Vec::new());
            let in_http1 = head
                .ok()
                .and_then(|head| super::target(&head).ok().map(|target| target.path_and_query.to_string()));
            let in_http2 = match octet {
                // The library cuts it off with what follows, before we see it.
                b'#' => None,
                _ => read_in_http2(&target),
            };
            assert_eq!(in_http1, in_http2, "{}", target.escape_ascii());
        }
    }
    // What browsers send as it is.
    assert!(read(Method::GET, "/a|b\"c{d}^e\\f?`|{}^\\'[]").is_ok());
}
