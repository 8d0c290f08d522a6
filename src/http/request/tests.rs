use super::*;

fn parse(head: &str) -> Result<Request, Refusal> {
    Request::parse(BytesMut::from(head.as_bytes()), 100, Vec::new()).map_err(|(refusal, _)| refusal)
}

fn refused(head: &str) -> Option<Refusal> {
    parse(head).err()
}

fn with(fields: &str) -> Option<Refusal> {
    refused(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n"))
}

#[test]
fn an_ordinary_head_passes() {
    let get = parse("GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept:  */* \t\r\n\r\n").unwrap();
    assert_eq!((get.target(), get.framing, get.keep_alive), (&b"/a?b=c"[..], Framing::None, true));
    assert_eq!(get.first(&http::header::ACCEPT), Some(&b"*/*"[..]));
    let post = parse("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 05\r\n\r\n").unwrap();
    assert_eq!(post.framing, Framing::Length(5));
    assert_eq!(
        parse("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n").unwrap().framing,
        Framing::Chunked
    );
    assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
    assert!(parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().keep_alive);
}

#[test]
fn rfc9112_3_a_request_line_has_three_words() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / b HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
    ] {
        assert_eq!(refused(&format!("{line}\r\nHost: x\r\n\r\n")), Some(Refusal::RequestLine), "{line}");
    }
}

#[test]
fn rfc9110_15_6_6_another_version_is_not_supported() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        assert_eq!(
            refused(&format!("GET / {version}\r\nHost: x\r\n\r\n")),
            Some(Refusal::Version),
            "{version}"
        );
    }
}

#[test]
fn rfc9112_6_3_content_length_beside_transfer_encoding_is_refused() {
    for fields in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        assert_eq!(with(fields), Some(Refusal::LengthAndCoding));
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
        ("Content-Length: 5 5", Refusal::BadLength),
        ("Content-Length:", Refusal::BadLength),
        ("Content-Length: 99999999999999999999", Refusal::BadLength),
    ] {
        assert_eq!(with(fields), Some(expected), "{fields}");
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
        "Transfer-Encoding:\x0bchunked",
    ] {
        assert!(matches!(with(fields), Some(Refusal::TransferCoding | Refusal::Field)), "{fields}");
    }
    assert_eq!(
        refused("POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Some(Refusal::TransferCoding)
    );
}

#[test]
fn rfc9112_5_1_a_space_before_the_colon_and_folded_lines_are_refused() {
    for fields in [
        "Transfer-Encoding : chunked",
        "a: x\r\n b",
        "na me: x",
        ": x",
        "x: a\0b",
        "x: a\x7f",
        "x: a\rb",
        "x",
    ] {
        assert_eq!(with(fields), Some(Refusal::Field), "{fields:?}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\n folded: x\r\nHost: x\r\n\r\n"), Some(Refusal::Field));
}

#[test]
fn rfc9112_3_2_host_stands_exactly_once_in_http_1_1() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Some(Refusal::Host));
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), Some(Refusal::Host));
}

#[test]
fn rfc6585_5_more_fields_than_allowed_are_refused() {
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(100));
    assert_eq!(refused(&head), Some(Refusal::TooManyFields));
}

#[test]
fn rfc9110_7_6_1_framing_is_not_for_one_hop() {
    for name in ["Host", "content-length", "Transfer-Encoding"] {
        assert_eq!(with(&format!("Connection: close, {name}")), Some(Refusal::Connection));
    }
    assert_eq!(with("Connection: a b"), Some(Refusal::Connection));
}

#[test]
fn an_upgrade_is_for_http_1_1_without_body_and_never_h2c() {
    let asks =
        |line: &str, fields: &str| parse(&format!("{line}\r\nHost: x\r\n{fields}\r\n\r\n")).unwrap().upgrade;
    assert!(asks("GET / HTTP/1.1", "Connection: upgrade\r\nUpgrade: websocket"));
    assert!(!asks("GET / HTTP/1.1", "Upgrade: websocket"));
    assert!(!asks(
        "GET / HTTP/1.1",
        "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x"
    ));
    assert!(!asks("POST / HTTP/1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 4"));
    assert!(!asks("GET / HTTP/1.0", "Connection: upgrade\r\nUpgrade: websocket"));
}
