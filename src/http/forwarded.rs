//! The fields by which one hop tells the next about the client: `X-Forwarded-*`, `X-Real-IP`, `Forwarded` (RFC 7239),
//! `Via` (RFC 9110 section 7.6.3), `X-Request-Id` and Trivet's own `Trivet-Hop`.
//!
//! At the edge whatever a client sends under these names is dropped and ours is set. Between the tiers, where both sides
//! showed a certificate of the cluster, and from a proxy that the configuration names as trusted, they are believed.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::Version;
use http::header::{HeaderName, VIA};

use super::steps::Admitted;

/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Real-IP`
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// `X-Request-Id`
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `Trivet-Hop`: set by a web tier that hands a request to another node's, so that it is handed on once only.
pub const TRIVET_HOP: HeaderName = HeaderName::from_static("trivet-hop");

/// Fields that only we may set; a client's are dropped.
const OURS: &[&str] = &[
    "forwarded",
    "trivet-hop",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
    // Becomes HTTP_PROXY in CGI environments, which many HTTP clients obey (CVE-2016-5385 and its kin).
    "proxy",
];

/// Those that [`tell_next_hop`] sets on every request, and the hop count, which ends at each hop.
const REPLACED: &[&str] = &[
    "forwarded",
    "trivet-hop",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Whether a client's field of this name is dropped. Names are compared as CGI-like servers see them, where `_` and `-`
/// are the same letter: `X_Forwarded_For` must not slip past.
pub fn is_ours(name: &[u8]) -> bool {
    // Nearly every field of a request ends here.
    matches!(name.first(), Some(b'f' | b'F' | b't' | b'T' | b'x' | b'X' | b'p' | b'P'))
        && OURS.iter().any(|ours| same(name, ours.as_bytes()))
}

/// Whether the next hop is told our own value instead.
pub fn is_replaced(name: &[u8]) -> bool {
    REPLACED.iter().any(|ours| same(name, ours.as_bytes()))
}

fn same(name: &[u8], ours: &[u8]) -> bool {
    let letter = |b: &u8| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == ours.len() && name.iter().zip(ours).all(|(a, b)| letter(a) == *b)
}

/// Hands our fields for the next hop to `emit`, `Via` excepted.
pub fn tell_next_hop(admitted: &Admitted, mut emit: impl FnMut(&HeaderName, &str)) {
    let mut text = String::with_capacity(128);
    let _ = write!(text, "{}", admitted.client);
    emit(&X_FORWARDED_FOR, &text);
    emit(&X_REAL_IP, &text);
    emit(&X_FORWARDED_PROTO, admitted.scheme);
    emit(&X_FORWARDED_HOST, &admitted.host);
    // RFC 7239 section 6: an IPv6 address is quoted and in brackets.
    let node = std::mem::take(&mut text);
    text.push_str(if matches!(admitted.client, IpAddr::V6(_)) { "for=\"[" } else { "for=" });
    text.push_str(&node);
    text.push_str(if matches!(admitted.client, IpAddr::V6(_)) { "]\";host=\"" } else { ";host=\"" });
    text.push_str(&admitted.host);
    text.push_str("\";proto=");
    text.push_str(admitted.scheme);
    emit(&http::header::FORWARDED, &text);
    emit(&X_REQUEST_ID, &admitted.request_id);
}

/// Ourselves, and the protocol the message came in, to be added to the recipients that it passed.
pub fn via(received: Version) -> (HeaderName, &'static str) {
    let protocol = match received {
        Version::HTTP_2 => "2 trivet",
        Version::HTTP_10 => "1.0 trivet",
        _ => "1.1 trivet",
    };
    (VIA, protocol)
}
