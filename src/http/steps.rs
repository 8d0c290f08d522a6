//! What every request passes, whatever the protocol and whoever parsed it: the list of steps, in order.
//!
//! [`admit`] runs before anything else looks at a request and ends in a [`Refusal`] or in what the rest may rely on,
//! [`Admitted`]. [`forward`] prepares the head for the next hop, [`respond`] the answer's head for the client.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::{Method, StatusCode, Version};
use ipnet::IpNet;
use pingora::protocols::l4::ext::get_tcp_info;

use crate::forwarded::{
    self, TRIVET_HOP, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REQUEST_ID,
};
use crate::head::RequestHead;
use crate::refusal::Refusal;
use crate::strict;
use trivet_tls::clients::ClientVerified;
use trivet_tls::stream::Handshake;

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
    /// Networks of proxies in front of the edge, which are believed about their clients.
    pub trusted: Vec<IpNet>,
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
    /// Clients are asked for certificates, and back ends are told.
    pub client_certificates: bool,
}

impl Policy {
    /// A tier behind the balancer. Its own limits are to be set.
    pub fn inner() -> Self {
        Self {
            position: Position::Inner,
            trusted: Vec::new(),
            server_names: None,
            max_header_size: usize::MAX,
            max_target_length: usize::MAX,
            max_body_size: u64::MAX,
            hsts: None,
            client_certificates: false,
        }
    }
}

/// The value of `Strict-Transport-Security` (RFC 6797); none for zero.
pub fn hsts(max_age: Duration, include_subdomains: bool, preload: bool) -> Option<HeaderValue> {
    if max_age.is_zero() {
        return None;
    }
    let mut text = format!("max-age={}", max_age.as_secs());
    for (wanted, directive) in [(include_subdomains, "; includeSubDomains"), (preload, "; preload")] {
        if wanted {
            text.push_str(directive);
        }
    }
    HeaderValue::from_str(&text).ok()
}

/// The connection that a request came on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The other side's address; an IPv4 address mapped into IPv6 is given as IPv4.
    pub address: IpAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// The certificate that the other side showed. It has been verified: no handshake succeeds with a bad one.
    pub client_certificate: ClientVerified,
    /// The connection's socket, for as long as it is served; none where it is no TCP connection.
    pub socket: Option<RawFd>,
    /// What was agreed on in the handshake.
    pub handshake: Option<Arc<Handshake>>,
}

impl Peer {
    /// Octets that the other side has acknowledged (`TCP_INFO`, tcp(7)): what the kernel took of what was written may wait
    /// in it for long.
    pub fn acknowledged(&self) -> Option<u64> {
        let info = get_tcp_info(self.socket?).ok()?;
        Some(info.tcpi_bytes_acked)
    }

    /// The same, while something that was written is not acknowledged yet.
    pub fn is_taking(&self) -> Option<u64> {
        let info = get_tcp_info(self.socket?).ok()?;
        (info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0).then_some(info.tcpi_bytes_acked)
    }
}

/// The two ends of a connection, as the client sees it: with a PROXY protocol in front, the proxy's client and the
/// proxy's address. IPv4 may be mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
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
    /// The port the client asked for; the scheme's own where it named none.
    pub port: u16,
    /// Path and query, or `*`: from here on there is one form of target, and what a back end sees is what was checked.
    pub target: String,
    /// Host and port of a target in absolute form, which go to the back end in the place of Host.
    pub authority: Option<String>,
    /// The protocol version that the request came in.
    pub version: Version,
    /// The request was handed over by another node's web tier and must not be handed on again.
    pub hop: bool,
    /// The length of the body, when the head says it.
    pub content_length: Option<u64>,
    /// Which certificate the client showed, for the next hop.
    pub client_certificate: ClientVerified,
    /// What TLS says of the connection that it came over.
    pub handshake: Option<Arc<Handshake>>,
}

impl Admitted {
    /// Host, and port where it is not the scheme's own: what a browser shows, and compares with (RFC 6454 section 6.1).
    pub fn shown_host(&self) -> Cow<'_, str> {
        match self.port == strict::default_port(self.scheme) {
            true => Cow::Borrowed(&self.host),
            false => Cow::Owned(format!("{}:{}", self.host, self.port)),
        }
    }

    /// The path without its query, for logs: queries carry what logs should not.
    pub fn path(&self) -> &str {
        strict::path_of(&self.target)
    }
}

/// The steps before a request is served. That the head itself is well formed is its parser's affair: the engine's for
/// HTTP/1 ([`crate::strict`]), the protocol's own for HTTP/2.
pub fn admit(head: &impl RequestHead, peer: &Peer, policy: &Policy) -> Result<Admitted, Refusal> {
    // Size first: nothing else is worth reading in an oversized head.
    if head.size() > policy.max_header_size {
        return Err(Refusal::HeadTooLarge);
    }
    // TRACE would echo what browsers hide from scripts; CONNECT would make this an open proxy.
    if matches!(*head.method(), Method::TRACE | Method::CONNECT) {
        return Err(Refusal::Method);
    }
    if head.target().len() > policy.max_target_length {
        return Err(Refusal::TargetTooLong);
    }
    let target = strict::target(head)?;
    let (host, port) = host(head, &target, peer.tls)?;
    if policy.server_names.as_ref().is_some_and(|names| !strict::is_named(&host, |name| names.contains(name)))
    {
        return Err(Refusal::Misdirected);
    }
    // RFC 9110 section 10.1.1: HTTP/1.0 knows no expectations.
    if head.version() != Version::HTTP_10
        && (head.count(&EXPECT) > 1
            || head.first(&EXPECT).is_some_and(|v| !v.eq_ignore_ascii_case(b"100-continue")))
    {
        return Err(Refusal::Expectation);
    }
    if head.count(&CONTENT_LENGTH) > 1 {
        return Err(Refusal::RepeatedLength);
    }
    let content_length = head.first(&CONTENT_LENGTH).map(strict::content_length).transpose()?;
    if content_length.is_some_and(|n| n > policy.max_body_size) {
        return Err(Refusal::BodyTooLarge);
    }
    let told = match policy.position {
        Position::Edge if is_trusted(policy, peer.address) => told_by_proxy(head, policy),
        Position::Edge => Told::default(),
        Position::Inner => told(head),
    };
    let scheme = told.scheme.unwrap_or(if peer.tls { "https" } else { "http" });
    let (host, port) = told.host.unwrap_or((host, port));
    Ok(Admitted {
        request_id: told.request_id.unwrap_or_else(new_request_id),
        client: told.client.unwrap_or(peer.address),
        scheme,
        port: port.or(told.port).unwrap_or(strict::default_port(scheme)),
        host,
        target: target.path_and_query.into_owned(),
        authority: target.authority.map(str::to_owned),
        version: head.version(),
        hop: policy.position == Position::Inner && head.first(&TRIVET_HOP).is_some(),
        content_length,
        client_certificate: match policy.client_certificates {
            true => peer.client_certificate.clone(),
            false => ClientVerified::NotAsked,
        },
        handshake: peer.handshake.clone(),
    })
}

/// Whether a field that came with a request stays behind: what only we may say, or say anew.
pub fn stays_behind(name: &[u8], policy: &Policy) -> bool {
    forwarded::is_ours(name) && (policy.position == Position::Edge || forwarded::is_replaced(name))
}

/// The fields that we set on a request for the next hop, after those that [stay behind](stays_behind) are gone.
pub fn forward(admitted: &Admitted, emit: impl FnMut(&HeaderName, &[u8])) {
    forwarded::tell_next_hop(admitted, emit);
}

/// The steps before an answer goes to the client: hands the fields that we set on its head to `emit`. `request_id` is that of
/// a request that was not admitted; `has_hsts` says that the answer has a `Strict-Transport-Security` of its own, which goes
/// before ours.
pub fn respond(
    admitted: Option<&Admitted>,
    request_id: &str,
    policy: &Policy,
    has_hsts: bool,
    mut emit: impl FnMut(&HeaderName, &[u8]),
) {
    if let Some(hsts) = policy.hsts.as_ref().filter(|_| !has_hsts)
        && admitted.is_some_and(|a| a.scheme == "https")
    {
        emit(&STRICT_TRANSPORT_SECURITY, hsts.as_bytes());
    }
    emit(&X_REQUEST_ID, admitted.map_or(request_id, |a| &a.request_id).as_bytes());
}

/// The field by which a client says that a request may come twice, and an app knows the second for the first
/// (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Whether a request may be sent again although a server may have acted upon it: its method is idempotent (RFC 9110
/// section 9.2.2), or its client says so by [`IDEMPOTENCY_KEY`]; as a parameter of the query where it can send no field, in
/// the form of a page.
pub fn is_repeatable(head: &impl RequestHead) -> bool {
    head.method().is_idempotent()
        || head.first(&IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty())
        || is_keyed(head.target())
}

/// Whether the query of a request target has an `idempotency-key` that is not empty.
fn is_keyed(target: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'?', target) else { return false };
    target[at + 1..].split(|b| *b == b'&').any(|parameter| {
        let key = parameter.strip_prefix(IDEMPOTENCY_KEY.as_str().as_bytes());
        key.and_then(|rest| rest.strip_prefix(b"=")).is_some_and(|key| !key.is_empty())
    })
}

/// Status and location that move a request from plain HTTP to HTTPS. GET and HEAD move for ever; any other method keeps
/// its method and body (RFC 9110 section 15.4.9), which 301 would let a client change.
///
/// ```
/// use http::{Method, StatusCode};
/// use trivet_http::steps::redirect_to_https;
///
/// let (status, location) = redirect_to_https(&Method::POST, "www.foobar.com", 8443, "/form?a=b");
/// assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
/// assert_eq!(location, "https://www.foobar.com:8443/form?a=b");
/// ```
pub fn redirect_to_https(method: &Method, host: &str, port: u16, target: &str) -> (StatusCode, String) {
    let status = moved_for_ever(method);
    let target = if target == "*" { "/" } else { target };
    let location = if port == 443 {
        format!("https://{host}{target}")
    } else {
        format!("https://{host}:{port}{target}")
    };
    (status, location)
}

/// The status of what is elsewhere for good. GET and HEAD have one that everybody knows; any other method is to keep its content,
/// which that one would let a client drop (RFC 9110 sections 15.4.2 and 15.4.9).
pub fn moved_for_ever(method: &Method) -> StatusCode {
    match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    }
}

fn host(
    head: &impl RequestHead,
    target: &strict::Target,
    tls: bool,
) -> Result<(String, Option<u16>), Refusal> {
    let field = match head.count(&HOST) {
        0 => None,
        1 => Some(head.text(&HOST).ok_or(Refusal::Host)?),
        _ => return Err(Refusal::Host),
    };
    // The most specific word goes first: absolute form (RFC 9112 section 3.2.2), then :authority (RFC 9113 section
    // 8.3.1), then Host. A Host beside either that says something else is no mistake to be lenient about.
    let read = |text| strict::host_and_port(text).ok_or(Refusal::Host);
    match (target.authority.or(head.authority()), field) {
        (Some(text), Some(other)) if !text.eq_ignore_ascii_case(other) => {
            // The port that the scheme stands for may be named or not (RFC 9110 section 4.2.3).
            let scheme = target.scheme.unwrap_or(if tls { "https" } else { "http" });
            let (named, other) = (read(text)?, read(other)?);
            let port = |port: Option<u16>| port.unwrap_or(strict::default_port(scheme));
            let same = named.0 == other.0 && port(named.1) == port(other.1);
            if same { Ok(named) } else { Err(Refusal::Host) }
        }
        (Some(text), _) | (None, Some(text)) => read(text),
        // Also in HTTP/1.0, which knew no Host: without one it is not known whose page is asked for.
        (None, None) => Err(Refusal::Host),
    }
}

/// What the tier before told about the client.
#[derive(Debug, Default)]
struct Told {
    request_id: Option<String>,
    client: Option<IpAddr>,
    scheme: Option<&'static str>,
    host: Option<(String, Option<u16>)>,
    port: Option<u16>,
}

fn told(head: &impl RequestHead) -> Told {
    let text = |name: &HeaderName| head.text(name);
    Told {
        request_id: text(&X_REQUEST_ID).filter(|id| is_request_id(id)).map(str::to_owned),
        client: text(&X_FORWARDED_FOR).and_then(address),
        scheme: text(&X_FORWARDED_PROTO).and_then(scheme),
        host: text(&X_FORWARDED_HOST).and_then(strict::host_and_port),
        port: text(&X_FORWARDED_PORT).and_then(|v| first(v).parse().ok()),
    }
}

/// The first of a list: what the proxy next to the client said.
fn first(list: &str) -> &str {
    list.split(',').next().unwrap_or_default().trim_ascii()
}

/// A scheme as proxies write it: in any case, of a list, or of the WebSocket that the request is to become.
fn scheme(text: &str) -> Option<&'static str> {
    let is = |names: [&str; 2]| names.iter().any(|n| first(text).eq_ignore_ascii_case(n));
    match (is(["https", "wss"]), is(["http", "ws"])) {
        (true, _) => Some("https"),
        (_, true) => Some("http"),
        _ => None,
    }
}

/// An address as proxies write it: bare, in brackets, with a port, in quotes (RFC 7239 section 6).
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_ascii();
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()));
    address.map(|a: IpAddr| a.to_canonical())
}

fn is_trusted(policy: &Policy, address: IpAddr) -> bool {
    policy.trusted.iter().any(|net| net.contains(&address))
}

/// What a proxy in front told. Every proxy adds whom it saw at the end of X-Forwarded-For, so the client is the last one that
/// is no proxy of ours: what stands before it is only what somebody said.
fn told_by_proxy(head: &impl RequestHead, policy: &Policy) -> Told {
    let lines = head.all(&X_FORWARDED_FOR);
    let addresses = lines.iter().flat_map(|line| line.split(|b| *b == b','));
    let mut client = None;
    for text in addresses.rev() {
        let Some(address) = std::str::from_utf8(text).ok().and_then(address) else { break };
        client = Some(address);
        if !is_trusted(policy, address) {
            break;
        }
    }
    // The host stays the one that was asked for: X-Forwarded-Host is often passed on from anyone.
    Told { client, host: None, port: None, ..told(head) }
}

fn is_request_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// 32 hexadecimal digits by chance: enough for no two requests ever to share them.
pub fn new_request_id() -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = vec![0; 32];
    for (two, byte) in digits.chunks_exact_mut(2).zip(rand::random::<[u8; 16]>()) {
        two.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    String::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests;
