//! The fields by which one hop tells the next about the client: `X-Forwarded-*`, `X-Real-IP`, `Forwarded` (RFC 7239),
//! `Via` (RFC 9110 section 7.6.3), `X-Request-Id` and Trivet's own `Trivet-Hop`.
//!
//! At the edge whatever a client sends under these names is dropped and ours is set. Between the tiers, where both sides
//! showed a certificate of the cluster, they are believed.

use std::net::IpAddr;

use http::Version;
use http::header::{HeaderName, HeaderValue, VIA};

use super::head::RequestHead;
use super::steps::Admitted;

/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Port`
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
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

/// Whether a client's field of this name is dropped. Names are compared as CGI-like servers see them, where `_` and `-`
/// are the same letter: `X_Forwarded_For` must not slip past.
pub fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    if name.contains('_') {
        let dashed = name.replace('_', "-");
        return OURS.contains(&dashed.as_str());
    }
    OURS.contains(&name)
}

/// Drops what a client has no say in.
pub fn drop_clients(head: &mut impl RequestHead) {
    let dropped: Vec<HeaderName> = head.headers().keys().filter(|n| is_ours(n)).cloned().collect();
    for name in dropped {
        head.remove(&name);
    }
}

/// Sets our fields for the next hop.
pub fn tell_next_hop(head: &mut impl RequestHead, admitted: &Admitted) {
    let client = admitted.client.to_string();
    set(head, X_FORWARDED_FOR, &client);
    set(head, X_REAL_IP, &client);
    set(head, X_FORWARDED_PROTO, admitted.scheme);
    set(head, X_FORWARDED_HOST, &admitted.host);
    let forwarded =
        format!("for={};host=\"{}\";proto={}", node(admitted.client), admitted.host, admitted.scheme);
    set(head, http::header::FORWARDED, &forwarded);
    set(head, X_REQUEST_ID, &admitted.request_id);
}

/// Adds ourselves, and the protocol the message came in, to the recipients that it passed.
pub fn add_via(head: &mut impl RequestHead, received: Version) {
    let protocol = match received {
        Version::HTTP_2 => "2 trivet",
        Version::HTTP_10 => "1.0 trivet",
        _ => "1.1 trivet",
    };
    head.append(VIA, HeaderValue::from_static(protocol));
}

/// RFC 7239 section 6: an IPv6 address is quoted and in brackets.
fn node(client: IpAddr) -> String {
    match client {
        IpAddr::V4(a) => a.to_string(),
        IpAddr::V6(a) => format!("\"[{a}]\""),
    }
}

fn set(head: &mut impl RequestHead, name: HeaderName, value: &str) {
    // The values are addresses, checked host names and hexadecimal digits, so they are always field values.
    if let Ok(value) = HeaderValue::from_str(value) {
        head.set(name, value);
    }
}
