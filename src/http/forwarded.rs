//! The fields by which one hop tells the next about the client: `X-Forwarded-*`, `X-Real-IP`, `Forwarded` (RFC 7239),
//! `Via` (RFC 9110 section 7.6.3), `X-Request-Id` and Trivet's own `Trivet-Hop`.
//!
//! At the edge whatever a client sends under these names is dropped and ours is set. Between the tiers, where both sides
//! showed a certificate of the cluster, and from a proxy that the configuration names as trusted, they are believed.

use std::net::IpAddr;

use http::Version;
use http::header::{HeaderName, VIA};

use crate::steps::Admitted;
use trivet_base::telemetry::write_address;
use trivet_tls::clients::ClientVerified;

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

/// `Trivet-Balancer`: in a check, the name of the node whose balancer asks, and `; holds` behind it when the node has a virtual
/// address.
pub const TRIVET_BALANCER: HeaderName = HeaderName::from_static("trivet-balancer");

/// `X-SSL-Client-Verify`: `SUCCESS`, or `NONE` for a client that showed no certificate.
pub const X_SSL_CLIENT_VERIFY: HeaderName = HeaderName::from_static("x-ssl-client-verify");
/// `X-SSL-Client-S-DN`: the subject of its certificate (RFC 4514).
pub const X_SSL_CLIENT_S_DN: HeaderName = HeaderName::from_static("x-ssl-client-s-dn");
/// `X-SSL-Client-I-DN`: the issuer.
pub const X_SSL_CLIENT_I_DN: HeaderName = HeaderName::from_static("x-ssl-client-i-dn");
/// `X-SSL-Client-Serial`: the serial number in hexadecimal.
pub const X_SSL_CLIENT_SERIAL: HeaderName = HeaderName::from_static("x-ssl-client-serial");
/// `X-SSL-Client-SHA256`: the certificate's fingerprint in hexadecimal.
pub const X_SSL_CLIENT_SHA256: HeaderName = HeaderName::from_static("x-ssl-client-sha256");

/// Field lines that a request gains at most on its way to the next hop: all of the above, `Via`, `Forwarded`, framing and `Host`
/// of our own, and some to spare.
pub const MOST_ADDED_FIELDS: usize = 24;

/// Octets that a request's head gains at most: a host of 253 octets stands in it three times, the names in a client's
/// certificate may have a few KiB, and a head that came by HTTP/1 is counted with 32 octets more for each of its fields where it
/// goes on by HTTP/2 (RFC 9113 section 6.5.2).
pub const MOST_ADDED: u64 = 16 * 1024;

/// What begins like this tells of TLS, under one of the many names in use; only we may set it.
const TLS_PREFIXES: &[&str] = &["x-ssl-", "ssl-client-"];

/// Fields that only we may set; a client's are dropped.
const OURS: &[&str] = &[
    "forwarded",
    // RFC 9440, and what proxies send in its place.
    "client-cert",
    "client-cert-chain",
    "trivet-hop",
    "trivet-balancer",
    "x-client-cert",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarded-client-cert",
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
    "x-ssl",
    // Becomes HTTP_PROXY in CGI environments, which many HTTP clients obey (CVE-2016-5385 and its kin).
    "proxy",
];

/// Those that [`tell_next_hop`] sets on every request, and the hop count, which ends at each hop.
const REPLACED: &[&str] = &[
    "forwarded",
    "trivet-hop",
    "trivet-balancer",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Whether a client's field of this name is dropped. Names are compared as CGI-like servers see them, where `_` and `-`
/// are the same letter: `X_Forwarded_For` must not slip past.
pub fn is_ours(name: &[u8]) -> bool {
    // Nearly every field of a request ends here.
    matches!(name.first().map(u8::to_ascii_lowercase), Some(b'c' | b'f' | b'p' | b's' | b't' | b'x'))
        && (OURS.iter().any(|ours| same(name, ours.as_bytes())) || tells_of_tls(name))
}

/// Whether it tells of the client's TLS, under one of the many names in use.
pub fn tells_of_tls(name: &[u8]) -> bool {
    TLS_PREFIXES.iter().any(|p| name.get(..p.len()).is_some_and(|start| same(start, p.as_bytes())))
}

/// Whether the next hop is told our own value instead.
pub fn is_replaced(name: &[u8]) -> bool {
    REPLACED.iter().any(|ours| same(name, ours.as_bytes()))
}

/// Whether two names are the same to servers for which `_` is `-`. `ours` is in lower case.
pub fn same(name: &[u8], ours: &[u8]) -> bool {
    let letter = |b: &u8| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == ours.len() && name.iter().zip(ours).all(|(a, b)| letter(a) == letter(b))
}

/// Hands our fields for the next hop to `emit`, `Via` excepted.
pub fn tell_next_hop(admitted: &Admitted, mut emit: impl FnMut(&HeaderName, &[u8])) {
    let mut client = Vec::with_capacity(40);
    write_address(&mut client, admitted.client);
    emit(&X_FORWARDED_FOR, &client);
    emit(&X_REAL_IP, &client);
    emit(&X_FORWARDED_PROTO, admitted.scheme.as_bytes());
    let host = admitted.shown_host();
    emit(&X_FORWARDED_HOST, host.as_bytes());
    emit(&X_FORWARDED_PORT, itoa::Buffer::new().format(admitted.port).as_bytes());
    // RFC 7239 section 6: an IPv6 address is quoted and in brackets.
    let (before, after) = match admitted.client {
        IpAddr::V4(_) => ("for=", ";host=\""),
        IpAddr::V6(_) => ("for=\"[", "]\";host=\""),
    };
    let parts = [
        before.as_bytes(),
        &client,
        after.as_bytes(),
        host.as_bytes(),
        b"\";proto=",
        admitted.scheme.as_bytes(),
    ];
    emit(&http::header::FORWARDED, &parts.concat());
    emit(&X_REQUEST_ID, admitted.request_id.as_bytes());
    match &admitted.client_certificate {
        ClientVerified::NotAsked => {}
        ClientVerified::None => emit(&X_SSL_CLIENT_VERIFY, b"NONE"),
        ClientVerified::Success(certificate) => {
            emit(&X_SSL_CLIENT_VERIFY, b"SUCCESS");
            emit(&X_SSL_CLIENT_S_DN, certificate.subject.as_bytes());
            emit(&X_SSL_CLIENT_I_DN, certificate.issuer.as_bytes());
            emit(&X_SSL_CLIENT_SERIAL, certificate.serial.as_bytes());
            emit(&X_SSL_CLIENT_SHA256, certificate.fingerprint.as_bytes());
        }
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use trivet_tls::clients::ClientCertificate;

    #[test]
    fn what_forwarding_adds_is_within_what_is_reckoned_with() {
        let long = "n".repeat(2048);
        let certificate = ClientCertificate {
            subject: long.clone(),
            issuer: long,
            serial: "0".repeat(40),
            fingerprint: "0".repeat(64),
        };
        let admitted = Admitted {
            request_id: "0".repeat(32),
            client: IpAddr::from([0xfd00, 1, 2, 3, 4, 5, 6, 7]),
            scheme: "https",
            host: "h".repeat(253),
            port: 65535,
            target: "/".into(),
            authority: None,
            version: Version::HTTP_2,
            hop: false,
            content_length: None,
            client_certificate: ClientVerified::Success(Arc::new(certificate)),
            handshake: None,
        };
        let (mut fields, mut octets) = (0, 0);
        tell_next_hop(&admitted, |name, value| {
            fields += 1;
            octets += name.as_str().len() + value.len() + 32;
        });
        // Via, Host, the framing of the body, Connection, Trivet-Hop.
        assert!(fields + 5 <= MOST_ADDED_FIELDS, "{fields}");
        let as_http2 = 32 * (256 + MOST_ADDED_FIELDS);
        assert!((octets + as_http2) as u64 <= MOST_ADDED, "{octets}");
    }
}
