use super::*;
use crate::http::head::test_head;

fn raw(head: &str) -> Result<(), Refusal> {
    raw_head(head.as_bytes())
}

#[test]
fn an_ordinary_head_passes() {
    raw("GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n").unwrap();
    raw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n").unwrap();
    raw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n").unwrap();
    raw("GET / HTTP/1.0\r\n\r\n").unwrap();
}

#[test]
fn rfc9112_2_2_bare_lf_is_refused() {
    assert_eq!(raw("GET / HTTP/1.1\nHost: x\r\n\r\n"), Err(Refusal::BareLf));
    assert_eq!(raw("GET / HTTP/1.1\r\nHost: x\n\r\n"), Err(Refusal::BareLf));
    assert_eq!(raw("GET / HTTP/1.1\r\nHost: x\r\n\n"), Err(Refusal::BareLf));
}

#[test]
fn rfc9112_3_a_request_line_has_three_words() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / b HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / HTTP/2.0",
    ] {
        assert_eq!(raw(&format!("{line}\r\nHost: x\r\n\r\n")), Err(Refusal::RequestLine), "{line}");
    }
}

#[test]
fn rfc9112_6_3_content_length_beside_transfer_encoding_is_refused() {
    for fields in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        assert_eq!(
            raw(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n")),
            Err(Refusal::LengthAndCoding)
        );
    }
}

#[test]
fn rfc9110_8_6_content_length_stands_once_and_is_a_number() {
    for (fields, expected) in [
        ("Content-Length: 5, 5", Refusal::RepeatedLength),
        ("Content-Length: 5\r\nContent-Length: 5", Refusal::RepeatedLength),
        ("Content-Length: 5\r\ncontent-length: 6", Refusal::RepeatedLength),
        ("Content-Length: +5", Refusal::BadLength),
        ("Content-Length: 0x5", Refusal::BadLength),
        ("Content-Length:", Refusal::BadLength),
        ("Content-Length: 99999999999999999999", Refusal::BadLength),
    ] {
        assert_eq!(
            raw(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n")),
            Err(expected),
            "{fields}"
        );
    }
}

#[test]
fn rfc9112_6_1_only_chunked_and_only_once_and_not_in_http_1_0() {
    for fields in [
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
    ] {
        assert_eq!(
            raw(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n")),
            Err(Refusal::TransferCoding)
        );
    }
    assert_eq!(raw("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Refusal::TransferCoding));
}

#[test]
fn rfc9112_5_1_a_space_before_the_colon_and_folded_lines_are_refused() {
    for fields in
        ["Transfer-Encoding : chunked", " folded: x", "a\r\n b", "na me: x", ": x", "x: a\0b", "x: a\x7f"]
    {
        assert_eq!(
            raw(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n")),
            Err(Refusal::Field),
            "{fields}"
        );
    }
}

#[test]
fn rfc9112_3_2_host_stands_exactly_once_in_http_1_1() {
    assert_eq!(raw("GET / HTTP/1.1\r\n\r\n"), Err(Refusal::Host));
    assert_eq!(raw("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), Err(Refusal::Host));
}

#[test]
fn rfc9112_3_2_a_fragment_in_the_target_is_refused() {
    assert_eq!(raw("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"), Err(Refusal::Target));
}

fn read(method: Method, text: &str) -> Result<Target, Refusal> {
    target(&test_head(method, Version::HTTP_11, text, &[("host", "x")]))
}

#[test]
fn rfc9112_3_2_2_absolute_form_is_taken_apart() {
    let t = read(Method::GET, "http://www.foobar.com:80/a?b").unwrap();
    assert_eq!((t.path_and_query.as_str(), t.authority.as_deref()), ("/a?b", Some("www.foobar.com:80")));
    let t = read(Method::GET, "https://www.foobar.com").unwrap();
    assert_eq!(t.path_and_query, "/");
    assert_eq!(read(Method::GET, "https://www.foobar.com?q").unwrap().path_and_query, "/?q");
}

#[test]
fn rfc9112_3_2_4_asterisk_is_for_options() {
    assert_eq!(read(Method::OPTIONS, "*").unwrap().path_and_query, "*");
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
    assert_eq!(host_of("WWW.Foobar.com:443").as_deref(), Some("www.foobar.com"));
    assert_eq!(host_of("www.foobar.com.").as_deref(), Some("www.foobar.com"));
    assert_eq!(host_of("[::1]:80").as_deref(), Some("[::1]"));
    for bad in ["", ":80", "a b", "a/b", "user@host", "a:99999", "a:8x", "[::1", "[x]", "[::1]80", "a,b", "."]
    {
        assert_eq!(host_of(bad), None, "{bad}");
    }
}
