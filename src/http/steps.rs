//! What every request passes, whatever the protocol and whoever parsed it: the list of steps, in order.
//!
//! [`admit`] runs before anything else looks at a request and ends in a [`Refusal`] or in what the rest may rely on,
//! [`Admitted`]. [`forward`] prepares the head for the next hop, [`respond`] the answer's head for the client.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use http::header::{
    CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY,
};
use http::{Method, StatusCode, Version};

use super::forwarded::{
    self, TRIVET_HOP, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID,
};
use super::head::RequestHead;
use super::refusal::Refusal;
use super::strict;

/// Who sends the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Anyone: nothing they say about themselves is believed.
    Edge,
    /// Another tier of the cluster, which showed its certificate: what it says about the client is believed.
    Inner,
}

/// What is asked of every request.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Who sends the requests.
    pub position: Position,
    /// Host names served, lower case; `None` serves any.
    pub server_names: Option<HashSet<String>>,
    /// Bytes of a request head.
    pub max_header_size: usize,
    /// Bytes of a request target.
    pub max_target_length: usize,
    /// Bytes of a request body.
    pub max_body_size: u64,
    /// `Strict-Transport-Security` for answers over TLS; see [`hsts`].
    pub hsts: Option<HeaderValue>,
}

impl Policy {
    /// A tier behind the balancer, whose limits the balancer has enforced already.
    pub fn inner() -> Self {
        Self {
            position: Position::Inner,
            server_names: None,
            // What forwarding adds must still fit.
            max_header_size: 64 * 1024,
            max_target_length: 16 * 1024,
            max_body_size: u64::MAX,
            hsts: None,
        }
    }
}

/// The value of `Strict-Transport-Security` (RFC 6797); none for zero.
pub fn hsts(max_age: Duration) -> Option<HeaderValue> {
    if max_age.is_zero() {
        return None;
    }
    HeaderValue::from_str(&format!("max-age={}", max_age.as_secs())).ok()
}

/// The connection that a request came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other side's address; an IPv4 address mapped into IPv6 is given as IPv4.
    pub address: IpAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// What the rest may rely on once a request passed [`admit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// 32 hexadecimal digits, unlike any other request's.
    pub request_id: String,
    /// The client, not the tier between.
    pub client: IpAddr,
    /// `http` or `https`, as the client spoke.
    pub scheme: &'static str,
    /// The host the client asked for, lower case, without port.
    pub host: String,
    /// Path and query, or `*`.
    pub target: String,
    /// The protocol version that the request came in.
    pub version: Version,
    /// The request was handed over by another node's web tier and must not be handed on again.
    pub hop: bool,
    /// The length of the body, when the head says it.
    pub content_length: Option<u64>,
}

impl Admitted {
    /// The path without its query, for logs: queries carry what logs should not.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// The steps before a request is served. `raw` is the head as it came, for HTTP/1; HTTP/2 has none (its framing is
/// checked by the protocol itself).
pub fn admit(
    head: &mut impl RequestHead,
    raw: Option<&[u8]>,
    peer: Peer,
    policy: &Policy,
) -> Result<Admitted, Refusal> {
    // Size first: nothing else is worth reading in an oversized head.
    let size = raw.map_or_else(|| decoded_size(head), <[u8]>::len);
    if size > policy.max_header_size {
        return Err(Refusal::HeadTooLarge);
    }
    // Framing before meaning: where the message ends must be beyond doubt before any answer leaves the connection open.
    if let Some(raw) = raw {
        strict::raw_head(raw)?;
    }
    // TRACE would echo what browsers hide from scripts; CONNECT would make this an open proxy.
    if matches!(*head.method(), Method::TRACE | Method::CONNECT) {
        return Err(Refusal::Method);
    }
    if head.target().len() > policy.max_target_length {
        return Err(Refusal::TargetTooLong);
    }
    let target = strict::target(head)?;
    let host = host(head, target.authority.as_deref())?;
    if policy.server_names.as_ref().is_some_and(|names| !names.contains(&host)) {
        return Err(Refusal::Misdirected);
    }
    if head.headers().get(EXPECT).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::Expectation);
    }
    let content_length = content_length(head.headers())?;
    if content_length.is_some_and(|n| n > policy.max_body_size) {
        return Err(Refusal::BodyTooLarge);
    }
    // From here on there is one form of target: what a back end sees is what was checked.
    if target.authority.is_some() {
        head.set_target(&target.path_and_query);
        if let Ok(value) = HeaderValue::from_str(target.authority.as_deref().unwrap_or_default()) {
            head.set(HOST, value);
        }
    }
    let told = match policy.position {
        Position::Edge => {
            forwarded::drop_clients(head);
            Told::default()
        }
        Position::Inner => told(head.headers()),
    };
    Ok(Admitted {
        request_id: told.request_id.unwrap_or_else(new_request_id),
        client: told.client.unwrap_or(peer.address),
        scheme: told.scheme.unwrap_or(if peer.tls { "https" } else { "http" }),
        host: told.host.unwrap_or(host),
        target: target.path_and_query,
        version: head.version(),
        hop: policy.position == Position::Inner && head.headers().contains_key(TRIVET_HOP),
        content_length,
    })
}

/// The steps before a request goes to the next hop.
pub fn forward(head: &mut impl RequestHead, admitted: &Admitted) {
    forwarded::tell_next_hop(head, admitted);
    // The hop count ends here; who hands a request to another node's web tier sets it again.
    head.remove(&TRIVET_HOP);
    forwarded::add_via(head, admitted.version);
}

/// The steps before an answer goes to the client: fields to set on its head.
pub fn respond(
    admitted: &Admitted,
    policy: &Policy,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let hsts =
        policy.hsts.clone().filter(|_| admitted.scheme == "https").map(|v| (STRICT_TRANSPORT_SECURITY, v));
    let id = HeaderValue::from_str(&admitted.request_id).ok().map(|v| (X_REQUEST_ID, v));
    hsts.into_iter().chain(id)
}

/// The field by which a client says that a request may come twice, and an app knows the second for the first
/// (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Whether a request may be sent again although a server may have acted upon it: its method is idempotent (RFC 9110
/// section 9.2.2), or its client says so.
pub fn is_repeatable(head: &impl RequestHead) -> bool {
    head.method().is_idempotent() || head.headers().get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty())
}

/// Status and location that move a request from plain HTTP to HTTPS. GET and HEAD move for ever; any other method keeps
/// its method and body (RFC 9110 section 15.4.9), which 301 would let a client change.
pub fn redirect_to_https(method: &Method, host: &str, port: u16, target: &str) -> (StatusCode, String) {
    let status = if matches!(*method, Method::GET | Method::HEAD) {
        StatusCode::MOVED_PERMANENTLY
    } else {
        StatusCode::PERMANENT_REDIRECT
    };
    let target = if target == "*" { "/" } else { target };
    let location = if port == 443 {
        format!("https://{host}{target}")
    } else {
        format!("https://{host}:{port}{target}")
    };
    (status, location)
}

fn decoded_size(head: &impl RequestHead) -> usize {
    // RFC 9113 section 6.5.2 counts 32 bytes for each field beside name and value.
    let fields: usize = head.headers().iter().map(|(n, v)| n.as_str().len() + v.len() + 32).sum();
    fields + head.target().len()
}

fn host(head: &impl RequestHead, absolute: Option<&str>) -> Result<String, Refusal> {
    let mut values = head.headers().get_all(HOST).iter();
    let field = values.next().map(|v| v.to_str().map_err(|_| Refusal::Host)).transpose()?;
    if values.next().is_some() {
        return Err(Refusal::Host);
    }
    // The most specific word goes first: absolute form (RFC 9112 section 3.2.2), then :authority (RFC 9113 section
    // 8.3.1), then Host. A Host beside either that says something else is no mistake to be lenient about.
    let authority = absolute.or(head.authority());
    let text = match (authority, field) {
        (Some(a), Some(f)) if host_and_port(a) != host_and_port(f) => return Err(Refusal::Host),
        (Some(a), _) => a,
        (None, Some(f)) => f,
        // HTTP/1.0 knew no Host.
        (None, None) if head.version() == Version::HTTP_10 => return Err(Refusal::Host),
        (None, None) => return Err(Refusal::Host),
    };
    strict::host_of(text).ok_or(Refusal::Host)
}

fn host_and_port(text: &str) -> String {
    text.to_ascii_lowercase()
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(CONTENT_LENGTH) else {
        return Ok(None);
    };
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::BadLength);
    }
    std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()).map(Some).ok_or(Refusal::BadLength)
}

/// What the tier before told about the client.
#[derive(Debug, Default)]
struct Told {
    request_id: Option<String>,
    client: Option<IpAddr>,
    scheme: Option<&'static str>,
    host: Option<String>,
}

fn told(headers: &HeaderMap) -> Told {
    let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    Told {
        request_id: text(&X_REQUEST_ID).filter(|id| is_request_id(id)).map(str::to_owned),
        client: text(&X_FORWARDED_FOR).and_then(|v| v.parse().ok()),
        scheme: match text(&X_FORWARDED_PROTO) {
            Some("https") => Some("https"),
            Some("http") => Some("http"),
            _ => None,
        },
        host: text(&X_FORWARDED_HOST).and_then(strict::host_of),
    }
}

fn is_request_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// 32 hexadecimal digits by chance: enough for no two requests ever to share them.
pub fn new_request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests;
