//! Strict HTTP: what is refused so that no request can be read in two ways, by us and by a back end.
//!
//! [`raw_head`] looks at the bytes of an HTTP/1 head as they came, because a parser that is lenient has already forgotten
//! what it forgave. [`target`] looks at what any version can carry.

use http::{Method, Version};

use super::head::RequestHead;
use super::refusal::Refusal;

/// Checks the bytes of an HTTP/1.0 or 1.1 request head, from the request line to the empty line.
pub fn raw_head(raw: &[u8]) -> Result<(), Refusal> {
    let mut lines = Lines(raw);
    let request_line = lines.next().ok_or(Refusal::RequestLine)??;
    let version = request_line_checked(request_line)?;

    let (mut lengths, mut codings, mut hosts) = (0u32, 0u32, 0u32);
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            if value.contains(&b',') {
                return Err(Refusal::RepeatedLength);
            }
            // A u64 has at most 20 digits; 18 cannot overflow and are an exabyte.
            if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::BadLength);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::TransferCoding);
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if lengths > 0 && codings > 0 {
        return Err(Refusal::LengthAndCoding);
    }
    if lengths > 1 {
        return Err(Refusal::RepeatedLength);
    }
    if codings > 1 || (codings > 0 && version == Version::HTTP_10) {
        return Err(Refusal::TransferCoding);
    }
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(Refusal::Host);
    }
    Ok(())
}

/// The lines of a head; a line that ends in LF alone is an error.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some(lf) = self.0.iter().position(|b| *b == b'\n') else {
            // The caller hands over a complete head, so a rest without a line end is a head cut short.
            self.0 = &[];
            return Some(Err(Refusal::BareLf));
        };
        let (line, rest) = self.0.split_at(lf + 1);
        self.0 = rest;
        Some(line.strip_suffix(b"\r\n").ok_or(Refusal::BareLf))
    }
}

fn request_line_checked(line: &[u8]) -> Result<Version, Refusal> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::RequestLine);
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) || target.is_empty() {
        return Err(Refusal::RequestLine);
    }
    // Looked for here because parsers drop it: what we would forward is not what the client sent.
    if target.contains(&b'#') {
        return Err(Refusal::Target);
    }
    match version {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        _ => Err(Refusal::RequestLine),
    }
}

fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = line.iter().position(|b| *b == b':').ok_or(Refusal::Field)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    // A space before the colon, or a line that begins with one (obs-fold), is no token either.
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(Refusal::Field);
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(Refusal::Field);
    }
    Ok((name, value))
}

/// RFC 9110 section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// What a target says: where to, and for which host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Path and query, or `*`.
    pub path_and_query: String,
    /// The authority of a target in absolute form, which goes before the Host field (RFC 9112 section 3.2.2).
    pub authority: Option<String>,
}

/// Reads the request target in any of the forms a server accepts.
pub fn target(head: &impl RequestHead) -> Result<Target, Refusal> {
    let bytes = head.target();
    if bytes.iter().any(|b| !(0x21..0x7f).contains(b)) {
        return Err(Refusal::Target);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Target)?;
    if text.contains('#') {
        return Err(Refusal::Target);
    }
    let (authority, path_and_query) = if text.starts_with('/') {
        (None, text.to_owned())
    } else if text == "*" {
        if head.method() != Method::OPTIONS {
            return Err(Refusal::Target);
        }
        (None, text.to_owned())
    } else {
        let rest = strip_scheme(text).ok_or(Refusal::Target)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() {
            return Err(Refusal::Target);
        }
        // RFC 9112 section 3.2.1: an absent path is sent as "/".
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        (Some(authority.to_owned()), path)
    };
    if path_and_query != "*" && has_dot_segments(path_and_query.split('?').next().unwrap_or_default()) {
        return Err(Refusal::DotSegments);
    }
    Ok(Target { path_and_query, authority })
}

fn strip_scheme(text: &str) -> Option<&str> {
    ["http://", "https://"].iter().find_map(|scheme| {
        let head = text.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &text[scheme.len()..])
    })
}

/// Whether a path has a segment that is `.` or `..`, plain or percent-encoded. Browsers and curl resolve these before
/// they send; what still carries them looks for a server that resolves them differently from its proxy.
pub fn has_dot_segments(path: &str) -> bool {
    path.split('/').any(|segment| {
        let mut rest = segment;
        let mut dots = 0;
        loop {
            if let Some(r) = rest.strip_prefix('.') {
                rest = r;
            } else if rest.len() >= 3 && rest.is_char_boundary(3) && rest[..3].eq_ignore_ascii_case("%2e") {
                rest = &rest[3..];
            } else {
                break;
            }
            dots += 1;
        }
        rest.is_empty() && (dots == 1 || dots == 2)
    })
}

/// A host with an optional port (RFC 9110 section 7.2), without port and in lower case; brackets of an IPv6 address stay.
pub fn host_of(authority: &str) -> Option<String> {
    let host = if let Some(rest) = authority.strip_prefix('[') {
        let end = rest.find(']')?;
        let (inside, after) = (&rest[..end], &rest[end + 1..]);
        inside.parse::<std::net::Ipv6Addr>().ok()?;
        port_is_valid(after)?;
        &authority[..end + 2]
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        port_is_valid(&authority[end..])?;
        &authority[..end]
    };
    let valid = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
    // A trailing dot names the same host (RFC 3986 section 3.2.2).
    valid.then(|| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()).filter(|h| !h.is_empty())
}

fn port_is_valid(text: &str) -> Option<()> {
    let Some(port) = text.strip_prefix(':') else {
        return text.is_empty().then_some(());
    };
    (port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()))
        .then_some(())
}

#[cfg(test)]
mod tests;
