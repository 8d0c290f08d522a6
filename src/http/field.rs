//! Field lines, and those whose meaning ends at each hop.

use crate::forwarded;
use crate::strict::is_token;

/// A part of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part` lies in `whole`; nowhere, and empty, when it is no part of it. Heads are far smaller than 4 GiB.
    pub fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        match start.checked_add(part.len()) {
            Some(end) if end <= whole.len() => Self { start: start as u32, end: end as u32 },
            _ => Self::default(),
        }
    }

    /// From one octet to before another.
    pub fn between(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// Where it lies.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The octets.
    pub fn get(self, whole: &[u8]) -> &[u8] {
        &whole[self.start as usize..self.end as usize]
    }
}

/// What a field is to a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `Host`
    Host,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Connection`
    Connection,
    /// `Upgrade`
    Upgrade,
    /// `TE`
    Te,
    /// `Expect`
    Expect,
    /// Any other that is for the next hop only, or that `Connection` names (RFC 9110 section 7.6.1).
    Hop,
    /// One that only we may set: see [`forwarded::is_ours`].
    Ours,
    /// `Trailer`
    Trailer,
    /// Everything else: goes on as it came.
    Other,
}

impl Kind {
    /// By name.
    pub fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Trailer,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::Hop,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::Hop,
            16 if is("proxy-connection") => Self::Hop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            _ if forwarded::is_ours(name) => Self::Ours,
            _ => Self::Other,
        }
    }
}

/// One field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    /// Its value, without white space around it.
    pub value: Span,
    /// What it is to us.
    pub kind: Kind,
}

/// What a Connection field asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// Another option: the name of a field for this hop only.
    pub names: bool,
}

impl Options {
    /// Takes in one Connection field; `false` when it is no list of tokens.
    pub fn read(&mut self, value: &[u8]) -> bool {
        let mut good = true;
        for option in tokens(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.names = true;
                good &= option.iter().all(|b| is_token(*b));
            }
        }
        good
    }
}

/// The members of a comma-separated list, empty ones left out (RFC 9110 section 5.6.1.2).
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|t| !t.is_empty())
}

/// Adds a field line.
pub fn write(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Adds a number in decimal digits.
pub fn write_number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Whether a field may not come after the content (RFC 9110 section 6.5.1): framing, routing, request modifiers,
/// authentication, and what must be known before the content is used.
pub fn forbidden_in_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: &[&str] = &[
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "location",
        "max-forwards",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "retry-after",
        "set-cookie",
        "vary",
        "via",
        "warning",
        "www-authenticate",
    ];
    Kind::of(name) != Kind::Other || FORBIDDEN.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()))
}
