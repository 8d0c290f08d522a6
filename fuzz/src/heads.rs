//! Heads of requests and answers.

use std::net::IpAddr;

use bytes::BytesMut;
use http::Method;
use trivet_http::body::Framing;
use trivet_http::request::{Edits, Request};
use trivet_http::response::Response;
use trivet_http::scan::Scan;
use trivet_http::steps::{self, Peer, Policy};
use trivet_tls::clients::ClientVerified;

use super::strict_reader;

const FIELDS: usize = 100;

/// Where the head ends, if it does: the same whether the bytes come at once or one by one.
fn end(bytes: &[u8]) -> Option<usize> {
    let whole = Scan::default().end(bytes);
    let mut scan = Scan::default();
    let mut slow = Ok(None);
    for n in 1..=bytes.len() {
        slow = scan.end(&bytes[..n]);
        if slow != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, slow, "cut into bytes, the head ends elsewhere");
    whole.ok().flatten()
}

fn policy() -> Policy {
    Policy { max_body_size: 1 << 40, ..Policy::inner() }
}

/// A request head that passes is passed on in a form that a strict reader reads in the same way.
pub fn request(bytes: &[u8]) {
    let Some(end) = end(bytes) else { return };
    let Ok(request) = Request::parse(BytesMut::from(&bytes[..end]), FIELDS, Vec::new()) else { return };
    let peer = Peer {
        address: IpAddr::from([192, 0, 2, 1]),
        tls: true,
        client_certificate: ClientVerified::NotAsked,
        socket: None,
        handshake: None,
    };
    let policy = policy();
    let Ok(admitted) = steps::admit(&request, &peer, &policy) else { return };
    let mut out = Vec::new();
    request.forward(&admitted, &policy, false, Edits::default(), &mut out, |_| {});
    let read = strict_reader::head(&out).unwrap_or_else(|e| panic!("{e} in {}", out.escape_ascii()));
    let framing = match request.framing {
        Framing::None => strict_reader::Length::Octets(0),
        Framing::Length(n) => strict_reader::Length::Octets(n),
        Framing::Chunked => strict_reader::Length::Chunked,
        Framing::Close => panic!("no request ends by closing"),
    };
    assert_eq!(read.length, framing, "{}", out.escape_ascii());
    // What was put together anew is accepted again, as the same.
    let again = Request::parse(BytesMut::from(&out[..]), FIELDS + 16, Vec::new())
        .unwrap_or_else(|(e, _)| panic!("{e} in {}", out.escape_ascii()));
    assert_eq!(again.framing, request.framing);
    let second =
        steps::admit(&again, &peer, &policy).unwrap_or_else(|e| panic!("{e} in {}", out.escape_ascii()));
    // A final dot is taken off a host's name, one at each hop.
    let host = |host: &str| host.trim_end_matches('.').to_owned();
    assert_eq!((&second.target, host(&second.host)), (&admitted.target, host(&admitted.host)));
}

/// As [`request`], for answers; the first octet chooses the method of the request.
pub fn response(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(*choice) % 3].clone();
    let Some(end) = end(bytes) else { return };
    let Ok(response) = Response::parse(BytesMut::from(&bytes[..end]), &method, Vec::new()) else { return };
    for version in [http::Version::HTTP_11, http::Version::HTTP_10] {
        let framing = response.framing_for(version);
        let mut out = Vec::new();
        response.forward(framing, |_| false, &mut out);
        out.extend_from_slice(b"\r\n");
        let again = Response::parse(BytesMut::from(&out[..]), &method, Vec::new())
            .unwrap_or_else(|e| panic!("{e} in {}", out.escape_ascii()));
        assert_eq!(again.status, response.status);
        assert!(again.framing == framing, "{:?}, then {:?}: {}", framing, again.framing, out.escape_ascii());
    }
}
