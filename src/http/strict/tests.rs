use super::*;
use bytes::BytesMut;

use crate::http::request::Request;

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
    for path in ["/..", "/a/../b", "/./", "/%2e%2E/x", "/a/.%2e", "/%2e"] {
        assert!(has_dot_segments(path), "{path}");
    }
    for path in ["/", "/a..b", "/...", "/.well-known/x", "/a/%2ehidden", "/a.b/.c", "/%2x"] {
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
