//! Strict HTTP: what is refused so that no request can be read in two ways, by us and by a back end. Here stands what any
//! version can carry; where the messages of HTTP/1 begin and end is in [`crate::request`] and [`crate::body`].

use std::borrow::Cow;

use http::Method;
use memchr::{memchr, memchr2};

use crate::head::RequestHead;
use crate::refusal::Refusal;

/// The value of Content-Length (RFC 9110 section 8.6): digits and nothing else. Eighteen of them cannot overflow, and are
/// an exabyte.
pub fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.contains(&b',') {
        return Err(Refusal::RepeatedLength);
    }
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::BadLength);
    }
    Ok(value.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

/// Whether `b` may stand in a method or a field name (RFC 9110 section 5.6.2).
pub fn is_token(b: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut i = 0;
        while i < 256 {
            let b = i as u8;
            table[i] = b.is_ascii_alphanumeric()
                || matches!(
                    b,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            i += 1;
        }
        table
    };
    TOKEN[usize::from(b)]
}

/// What a target says: where to, and for which host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Path and query, or `*`.
    pub path_and_query: Cow<'a, str>,
    /// The authority of a target in absolute form, which goes before the Host field (RFC 9112 section 3.2.2).
    pub authority: Option<&'a str>,
    /// The scheme of a target in absolute form.
    pub scheme: Option<&'static str>,
}

/// Reads the request target in any of the forms a server accepts.
pub fn target(head: &impl RequestHead) -> Result<Target<'_>, Refusal> {
    let bytes = head.target();
    if bytes.iter().any(|b| !(0x21..0x7f).contains(b)) {
        return Err(Refusal::Target);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Target)?;
    if memchr(b'#', bytes).is_some() {
        return Err(Refusal::Target);
    }
    let (scheme, authority, path_and_query) = if text.starts_with('/') {
        (None, None, Cow::Borrowed(text))
    } else if text == "*" {
        if head.method() != Method::OPTIONS {
            return Err(Refusal::Target);
        }
        (None, None, Cow::Borrowed(text))
    } else {
        let (scheme, rest) = strip_scheme(text).ok_or(Refusal::Target)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() {
            return Err(Refusal::Target);
        }
        // RFC 9112 section 3.2.1: an absent path is sent as "/".
        let path = if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) };
        (Some(scheme), Some(authority), path)
    };
    if has_no_place_in_http2(&path_and_query) {
        return Err(Refusal::Target);
    }
    if path_and_query != "*" && has_dot_segments(path_of(&path_and_query)) {
        return Err(Refusal::DotSegments);
    }
    Ok(Target { path_and_query, authority, scheme })
}

/// The part of path and query before the query.
pub fn path_of(path_and_query: &str) -> &str {
    memchr(b'?', path_and_query.as_bytes()).map_or(path_and_query, |query| &path_and_query[..query])
}

/// Octets that no URI has unencoded (RFC 3986 sections 3.3 and 3.4), that browsers encode where they stand here
/// (<https://url.spec.whatwg.org/#query-state>, `path-state`), and that the HTTP/2 library takes in no `:path`: one answer for
/// every version. Others that RFC 3986 does not know, `{` for one, come from browsers as they are.
fn has_no_place_in_http2(path_and_query: &str) -> bool {
    let octets = path_and_query.as_bytes();
    if memchr2(b'<', b'>', octets).is_some() {
        return true;
    }
    // Hardly any target has one of these.
    memchr2(b'`', b'"', octets).is_some() && {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        path.contains('`') || query.contains('"')
    }
}

fn strip_scheme(text: &str) -> Option<(&'static str, &str)> {
    ["http", "https"].into_iter().find_map(|scheme| {
        let (head, rest) = text.split_at_checked(scheme.len())?;
        Some((scheme, rest.strip_prefix("://")?)).filter(|_| head.eq_ignore_ascii_case(scheme))
    })
}

/// Whether a path has a segment that is `.` or `..`, for whichever server reads it: plain or percent-encoded, between slashes that
/// are encoded, between backslashes (Windows), or with parameters behind it (`..;`, servlet containers). Browsers and curl resolve
/// the plain ones before they send; what still carries any of them looks for a server that resolves them differently from its proxy.
pub fn has_dot_segments(path: &str) -> bool {
    // Nearly all have none.
    if memchr::memchr2(b'.', b'%', path.as_bytes()).is_none() {
        return false;
    }
    let mut rest = path.as_bytes();
    // Of the segment so far; none once it has something else.
    let mut dots = Some(0_u8);
    loop {
        let octet = match rest {
            [] => b'/',
            [b'%', b'2', b'e' | b'E', ..] => b'.',
            [b'%', b'2', b'f' | b'F', ..] => b'/',
            [b'%', b'5', b'c' | b'C', ..] => b'\\',
            [b'%', b'3', b'b' | b'B', ..] => b';',
            [octet, ..] => *octet,
        };
        match (octet, dots) {
            (b'/' | b'\\' | b';', Some(1 | 2)) => return true,
            (b'/' | b'\\', _) => dots = Some(0),
            (b'.', Some(n)) => dots = (n < 2).then_some(n + 1),
            _ => dots = None,
        }
        rest = match rest {
            [] => return false,
            [b'%', _, _, rest @ ..] if octet != b'%' => rest,
            [_, rest @ ..] => rest,
        };
    }
}

/// A host with an optional port (RFC 9110 section 7.2): the host in lower case, brackets of an IPv6 address kept, and the port
/// where there is one.
///
/// ```
/// use trivet_http::strict::host_and_port;
///
/// assert_eq!(host_and_port("WWW.foobar.com.:8443"), Some(("www.foobar.com".into(), Some(8443))));
/// assert_eq!(host_and_port("[2001:DB8::1]"), Some(("[2001:db8::1]".into(), None)));
/// assert_eq!(host_and_port("user@www.foobar.com"), None);
/// ```
pub fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let end = rest.find(']')?;
        let (inside, after) = (&rest[..end], &rest[end + 1..]);
        inside.parse::<std::net::Ipv6Addr>().ok()?;
        (&authority[..end + 2], after)
    } else {
        let end = memchr(b':', authority.as_bytes()).unwrap_or(authority.len());
        authority.split_at(end)
    };
    let port = port_of(port)?;
    let valid = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':'));
    // A trailing dot names the same host (RFC 3986 section 3.2.2); a label between dots is never empty (RFC 1034 section
    // 3.1).
    let host = host.strip_suffix('.').unwrap_or(host);
    (valid && !host.as_bytes().split(|b| *b == b'.').any(<[u8]>::is_empty))
        .then(|| (host.to_ascii_lowercase(), port))
}

/// The name that is for all hosts of one label more: `*.example.org` for `shop.example.org`, as in certificates (RFC 9525 section
/// 6.3).
pub fn wildcard_for(host: &str) -> Option<String> {
    host.split_once('.').map(|(_, rest)| format!("*.{rest}"))
}

/// Whether a host is among names, of which some may be wildcards.
pub fn is_named(host: &str, has: impl Fn(&str) -> bool) -> bool {
    has(host) || wildcard_for(host).is_some_and(|name| has(&name))
}

/// The port after a host: `:` and digits, which may be none (RFC 3986 section 3.2.3).
fn port_of(text: &str) -> Option<Option<u16>> {
    let Some(port) = text.strip_prefix(':') else {
        return text.is_empty().then_some(None);
    };
    match port.bytes().all(|b| b.is_ascii_digit()) {
        true if port.is_empty() => Some(None),
        true => port.parse().ok().map(Some),
        false => None,
    }
}

/// The port that a scheme stands for (RFC 9110 sections 4.2.1 and 4.2.2).
pub fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

#[cfg(test)]
mod tests;
