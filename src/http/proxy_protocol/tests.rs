use super::*;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

fn client(text: &str) -> Header {
    proxied(text, "198.51.100.1:443")
}

fn proxied(source: &str, destination: &str) -> Header {
    Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn line(text: &str) -> Result<Option<(Header, usize)>, Error> {
    parse(format!("{text}\r\n").as_bytes())
}

/// A version 2 header.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, block].concat()
}

const FOUR: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// The same bytes cut anywhere give the same result: the pieces before the end ask for more or fail as the whole does.
fn any_cut(bytes: &[u8]) {
    let whole = parse(bytes);
    for end in 0..bytes.len() {
        match parse(&bytes[..end]) {
            Ok(None) => {}
            other => assert_eq!(other, whole, "after {end} bytes of {bytes:?}"),
        }
    }
    if let Ok(Some((_, length))) = whole {
        let longer = [bytes, b"\x16\x03\x01 and what follows\r\n"].concat();
        assert_eq!(parse(&longer), whole);
        assert_eq!(parse(&bytes[..length - 1]), Ok(None));
    }
}

#[test]
fn section_2_1_a_line_tells_the_client() {
    assert_eq!(parse(V1), Ok(Some((client("192.0.2.7:56324"), V1.len()))));
    assert_eq!(
        line("PROXY TCP6 2001:db8::7 2001:DB8::1 1 65535"),
        Ok(Some((proxied("[2001:db8::7]:1", "[2001:db8::1]:65535"), 44)))
    );
    for unknown in ["PROXY UNKNOWN", "PROXY UNKNOWN ffff::1 whatever \0 this is"] {
        assert_eq!(line(unknown), Ok(Some((Header::Direct, unknown.len() + 2))));
    }
}

#[test]
fn section_2_1_a_line_that_is_not_exact_is_refused() {
    for bad in [
        "PROXY  TCP4 192.0.2.7 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.7  198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 ",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3",
        "PROXY TCP4 192.0.2.07 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.7 198.51.100.1 01 2",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 65536",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 ",
        "PROXY TCP4 2001:db8::7 2001:db8::1 1 2",
        "PROXY TCP4 192.0.2.256 198.51.100.1 1 2",
        "PROXY TCP6 192.0.2.7 198.51.100.1 1 2",
        "PROXY TCP6 2001:db8::7%eth0 2001:db8::1 1 2",
        "PROXY TCP6 2001:db8:::7 2001:db8::1 1 2",
        "PROXY tcp4 192.0.2.7 198.51.100.1 1 2",
        "PROXY UDP4 192.0.2.7 198.51.100.1 1 2",
        "PROXY UNKNOWNS",
        "PROXY \u{e9}",
        "PROXY ",
    ] {
        assert_eq!(line(bad), Err(Error::Grammar), "{bad}");
    }
    for no in ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXY\tTCP4", "\r\n\r\nX", "\x16\x03\x01"] {
        assert_eq!(parse(no.as_bytes()), Err(Error::Signature), "{no:?}");
    }
    assert_eq!(parse(b"PROXY UNKNOWN\n"), Err(Error::Line), "the receiver must not tolerate a single LF");
    assert_eq!(parse(b"PROXY UNKNOWN\r"), Ok(None));
}

#[test]
fn section_2_1_a_line_ends_within_107_bytes() {
    let fits = format!("PROXY UNKNOWN {}", "f".repeat(107 - 2 - 14));
    assert_eq!(line(&fits), Ok(Some((Header::Direct, 107))));
    assert_eq!(line(&format!("{fits}f")), Err(Error::Line));
    assert_eq!(parse(&[b"PROXY UNKNOWN ".to_vec(), vec![b'f'; 93]].concat()), Err(Error::Line));
    assert_eq!(parse(&[b"PROXY UNKNOWN ".to_vec(), vec![b'f'; 92]].concat()), Ok(None));
}

#[test]
fn section_2_2_a_binary_header_tells_the_client() {
    for family in [0x11, 0x12] {
        assert_eq!(parse(&binary(0x21, family, FOUR)), Ok(Some((client("192.0.2.7:56324"), 28))));
    }
    let (a, b): (IpAddr, IpAddr) = ("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let (IpAddr::V6(a), IpAddr::V6(b)) = (a, b) else { panic!() };
    let six = [&a.octets()[..], &b.octets(), &[0, 1, 0, 2]].concat();
    assert_eq!(
        parse(&binary(0x21, 0x21, &six)),
        Ok(Some((proxied("[2001:db8::7]:1", "[2001:db8::1]:2"), 52)))
    );
}

#[test]
fn section_2_2_local_unspec_and_unix_leave_the_connections_own_address() {
    assert_eq!(parse(&binary(0x20, 0, &[])), Ok(Some((Header::Direct, 16))));
    // LOCAL: the family is ignored, the length is not.
    assert_eq!(parse(&binary(0x20, 0xff, b"skipped")), Ok(Some((Header::Direct, 23))));
    assert_eq!(parse(&binary(0x20, 0x11, FOUR)), Ok(Some((Header::Direct, 28))));
    assert_eq!(parse(&binary(0x21, 0, &[1; 300])), Ok(Some((Header::Direct, 316))));
    assert_eq!(parse(&binary(0x21, 0x31, &[b'/'; 216])), Ok(Some((Header::Direct, 232))));
}

#[test]
fn section_2_2_what_must_be_refused_is() {
    for command in [0x11, 0x31, 0x01] {
        assert_eq!(parse(&binary(command, 0x11, FOUR)), Err(Error::Version));
    }
    for command in [0x22, 0x2f] {
        assert_eq!(parse(&binary(command, 0x11, FOUR)), Err(Error::Command));
    }
    for family in [0x01, 0x10, 0x13, 0x41, 0xf1] {
        assert_eq!(parse(&binary(0x21, family, FOUR)), Err(Error::Family));
    }
    assert_eq!(parse(&binary(0x21, 0x11, &FOUR[..11])), Err(Error::Length));
    assert_eq!(parse(&binary(0x21, 0x21, FOUR)), Err(Error::Length));
    assert_eq!(parse(&binary(0x21, 0x31, FOUR)), Err(Error::Length));
}

#[test]
fn section_2_2_tlvs_are_skipped_and_must_fit() {
    let known = client("192.0.2.7:56324");
    let block = [FOUR, &tlv(0x01, b"h2"), &tlv(0x04, b""), &tlv(0xee, &[7; 1000])].concat();
    assert_eq!(parse(&binary(0x21, 0x11, &block)), Ok(Some((known, 16 + block.len()))));
    // The largest that the length can tell.
    let block = [FOUR, &tlv(0x04, &vec![0; 65535 - 12 - 3])].concat();
    assert_eq!(parse(&binary(0x21, 0x11, &block)), Ok(Some((known, 16 + 65535))));
    for bad in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0xff, 0xff, 0], &[4, 0, 0, 4]] {
        assert_eq!(parse(&binary(0x21, 0x11, &[FOUR, bad].concat())), Err(Error::Tlv), "{bad:?}");
    }
}

#[test]
fn section_2_2_3_a_checksum_is_verified_when_there_is_one() {
    assert_eq!(v2::crc32c(b"123456789".iter()), 0xe306_9283, "RFC 3720 appendix B.4's polynomial");
    assert_eq!(v2::crc32c([0; 32].iter()), 0x8a91_36aa, "RFC 3720 appendix B.4");
    let before = tlv(0x02, b"www.foobar.com");
    let after = tlv(0x05, b"id");
    let mut header = binary(0x21, 0x11, &[FOUR, &before, &tlv(0x03, &[0; 4]), &after].concat());
    let sum = v2::crc32c(header.iter()).to_be_bytes();
    let at = header.len() - after.len() - 4;
    assert_eq!(parse(&header), Err(Error::Checksum));
    header[at..at + 4].copy_from_slice(&sum);
    assert_eq!(parse(&header), Ok(Some((client("192.0.2.7:56324"), header.len()))));
    any_cut(&header);
    // The addresses and the sum itself.
    for i in (16..28).chain(at..at + 4) {
        let mut flipped = header.clone();
        flipped[i] ^= 1;
        assert!(parse(&flipped).is_err(), "a flipped bit in byte {i}");
    }
    assert_eq!(parse(&binary(0x21, 0x11, &[FOUR, &tlv(0x03, &[0; 3])].concat())), Err(Error::Tlv));
}

#[test]
fn the_same_bytes_cut_anywhere_give_the_same_result() {
    any_cut(V1);
    any_cut(b"PROXY UNKNOWN\r\n");
    any_cut(b"PROXY TCP4 1 2 3 4\r\n");
    any_cut(b"PROXY TCP4 192.0.2.7\n198.51.100.1 1 2\r\n");
    any_cut(&[b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat());
    any_cut(b"PRIXY TCP4");
    any_cut(&binary(0x21, 0x11, FOUR));
    any_cut(&binary(0x20, 0xff, b"skipped"));
    any_cut(&binary(0x23, 0x11, FOUR));
    any_cut(&binary(0x21, 0x41, FOUR));
    any_cut(&binary(0x21, 0x21, FOUR));
    any_cut(&binary(0x21, 0x11, &[FOUR, &tlv(4, b"abc")].concat()));
    any_cut(&binary(0x21, 0x11, &[FOUR, &[4, 0, 9]].concat()));
}

#[test]
fn what_is_written_is_what_is_read() {
    let both = |s: &str, d: &str| {
        for version in [Version::V1, Version::V2] {
            let bytes = write(version, s.parse().unwrap(), d.parse().unwrap());
            any_cut(&bytes);
            assert_eq!(parse(&bytes), Ok(Some((proxied(s, d), bytes.len()))));
        }
    };
    both("192.0.2.7:56324", "198.51.100.1:443");
    both("[2001:db8::7]:0", "[::1]:65535");
    assert_eq!(
        write(Version::V1, "192.0.2.7:56324".parse().unwrap(), "198.51.100.1:443".parse().unwrap()),
        V1
    );
    assert_eq!(
        write(Version::V2, "192.0.2.7:56324".parse().unwrap(), "198.51.100.1:443".parse().unwrap()),
        binary(0x21, 0x11, FOUR)
    );
}

#[test]
fn a_health_check_speaks_for_itself() {
    let (own, remote) = ("192.0.2.7:56324".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
    assert_eq!(write_own(Version::V1, own, remote), V1);
    let bytes = write_own(Version::V2, own, remote);
    assert_eq!(parse(&bytes), Ok(Some((Header::Direct, 16))));
}

#[test]
fn a_mapped_address_is_told_as_ipv4_and_families_are_never_mixed() {
    let mapped = write(
        Version::V1,
        "[::ffff:192.0.2.7]:56324".parse().unwrap(),
        "[::ffff:198.51.100.1]:443".parse().unwrap(),
    );
    assert_eq!(mapped, V1);
    let (four, six) = ("192.0.2.7:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap());
    assert_eq!(write(Version::V1, four, six), b"PROXY TCP6 0:0:0:0:0:ffff:c000:207 2001:db8::1 1 2\r\n");
    for version in [Version::V1, Version::V2] {
        let bytes = write(version, four, six);
        assert_eq!(
            parse(&bytes),
            Ok(Some((proxied("[::ffff:192.0.2.7]:1", "[2001:db8::1]:2"), bytes.len())))
        );
    }
}

#[test]
fn only_the_networks_named_are_trusted() {
    let trust: Trust = toml::from_str("from = [\"10.0.0.0/8\", \"192.0.2.1\", \"2001:db8::/32\"]").unwrap();
    for yes in ["10.255.0.1", "192.0.2.1", "::ffff:10.1.2.3", "2001:db8:1::1"] {
        assert!(trust.covers(yes.parse().unwrap()), "{yes}");
    }
    for no in ["11.0.0.1", "192.0.2.2", "::1", "2001:db9::1"] {
        assert!(!trust.covers(no.parse().unwrap()), "{no}");
    }
}

/// What arrives is taken in pieces of one byte and in one piece; the byte after the header is still there.
#[tokio::test]
async fn reading_takes_the_header_and_not_one_byte_more() {
    use tokio::io::AsyncWriteExt;
    let long = binary(0x21, 0x11, &[FOUR, &tlv(0x04, &[9; 3000])].concat());
    for header in [V1.to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), binary(0x20, 0, &[]), long] {
        for dripped in [false, true] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut to = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            to.set_nodelay(true).unwrap();
            let (mut from, _) = listener.accept().await.unwrap();
            let sent = [&header[..], b"GET"].concat();
            let sending = async {
                for piece in sent.chunks(if dripped { 1 } else { sent.len() }) {
                    to.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (found, ()) = tokio::join!(read(&mut from), sending);
            assert_eq!(Some(found.unwrap()), parse(&header).unwrap().map(|(h, _)| h));
            let mut rest = [0; 3];
            from.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"GET");
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_within_the_header_is_an_error() {
    use tokio::io::AsyncWriteExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut to = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut from, _) = listener.accept().await.unwrap();
    to.write_all(b"PROXY TCP4 ").await.unwrap();
    drop(to);
    assert!(matches!(read(&mut from).await, Err(ReadError::Io(_))));
}
