//! The head of an HTTP/1 request: read strictly, passed on in one form.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

use super::super::forwarded;
use super::super::head::RequestHead;
use super::super::refusal::Refusal;
use super::super::steps::{self, Admitted, Policy};
use super::super::strict;
use super::body::Framing;
use super::field::{self, Field, Kind, Options, Span};

/// Field lines that a head can have at most, whatever the configuration allows.
pub const MOST_FIELDS: usize = 256;

/// A request head with the octets it was made of.
#[derive(Debug)]
pub struct Request {
    raw: BytesMut,
    fields: Vec<Field>,
    method: Method,
    version: Version,
    target: Span,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the client wants the connection to go on.
    pub keep_alive: bool,
    /// Whether the client asks to change protocols, and may.
    pub upgrade: bool,
    te_trailers: bool,
}

impl Request {
    /// Reads a complete head, up to and with its empty line. `fields` is room that a former request used.
    pub fn parse(
        raw: BytesMut,
        max_fields: usize,
        mut fields: Vec<Field>,
    ) -> Result<Self, (Refusal, BytesMut)> {
        fields.clear();
        match read(&raw, max_fields.min(MOST_FIELDS), &mut fields) {
            Ok(read) => Ok(Self {
                fields,
                method: read.method,
                version: read.version,
                target: read.target,
                framing: read.framing,
                keep_alive: read.keep_alive,
                upgrade: read.upgrade,
                te_trailers: read.te_trailers,
                raw,
            }),
            Err(refusal) => Err((refusal, raw)),
        }
    }

    /// All field lines.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|f| (f.name.get(&self.raw), f.value.get(&self.raw)))
    }

    /// Those of `names` that are there, with all their values.
    pub fn header_map(&self, names: &[HeaderName]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in self.fields() {
            if let Some(name) = names.iter().find(|n| name.eq_ignore_ascii_case(n.as_str().as_bytes()))
                && let Ok(value) = HeaderValue::from_bytes(value)
            {
                map.append(name.clone(), value);
            }
        }
        map
    }

    /// Gives the room for field lines back.
    pub fn recycle(self) -> Vec<Field> {
        self.fields
    }

    /// Writes the head as the next hop gets it: one form of target, one of framing, no field that was for us alone, and
    /// what `more` adds.
    pub fn forward(
        &self,
        admitted: &Admitted,
        policy: &Policy,
        out: &mut Vec<u8>,
        more: impl FnOnce(&mut Vec<u8>),
    ) {
        out.reserve(self.raw.len() + 512);
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(admitted.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(authority) = &admitted.authority {
            field::write(out, b"Host", authority.as_bytes());
        }
        for f in &self.fields {
            let (name, value) = (f.name.get(&self.raw), f.value.get(&self.raw));
            let goes = match f.kind {
                Kind::Other | Kind::Trailer => true,
                Kind::Host => admitted.authority.is_none(),
                // RFC 9110 section 10.1.1: not from HTTP/1.0.
                Kind::Expect => self.version != Version::HTTP_10,
                Kind::Ours => !steps::stays_behind(name, policy),
                // Said anew below.
                Kind::ContentLength | Kind::TransferEncoding | Kind::Upgrade | Kind::Te => false,
                Kind::Connection | Kind::Hop => false,
            };
            if goes {
                field::write(out, name, value);
            }
        }
        match self.framing {
            Framing::None => {}
            Framing::Length(n) => {
                out.extend_from_slice(b"Content-Length: ");
                field::write_number(out, n);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            // No request ends by closing.
            Framing::Close => {}
        }
        if self.upgrade {
            for f in self.fields.iter().filter(|f| f.kind == Kind::Upgrade) {
                field::write(out, b"Upgrade", f.value.get(&self.raw));
            }
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        } else if self.te_trailers {
            // RFC 9110 section 10.1.4: TE goes with its name in Connection.
            out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n");
        }
        steps::forward(admitted, |name, value| field::write(out, name.as_str().as_bytes(), value.as_bytes()));
        let (name, value) = forwarded::via(self.version);
        field::write(out, name.as_str().as_bytes(), value.as_bytes());
        more(out);
        out.extend_from_slice(b"\r\n");
    }
}

impl RequestHead for Request {
    fn method(&self) -> &Method {
        &self.method
    }

    fn version(&self) -> Version {
        self.version
    }

    fn target(&self) -> &[u8] {
        self.target.get(&self.raw)
    }

    fn authority(&self) -> Option<&str> {
        None
    }

    fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        let name = name.as_str().as_bytes();
        self.fields().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    fn all(&self, name: &HeaderName) -> Vec<&[u8]> {
        let name = name.as_str().as_bytes();
        self.fields().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect()
    }

    fn count(&self, name: &HeaderName) -> usize {
        if *name == HOST {
            return self.fields.iter().filter(|f| f.kind == Kind::Host).count();
        }
        let name = name.as_str().as_bytes();
        self.fields().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count()
    }

    fn size(&self) -> usize {
        self.raw.len()
    }
}

struct Read {
    method: Method,
    version: Version,
    target: Span,
    framing: Framing,
    keep_alive: bool,
    upgrade: bool,
    te_trailers: bool,
}

fn read(raw: &[u8], max_fields: usize, fields: &mut Vec<Field>) -> Result<Read, Refusal> {
    let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(raw, &mut room[..max_fields]) {
        Ok(httparse::Status::Complete(n)) if n == raw.len() => {}
        // The empty line was found, so this is a head that the grammar ends elsewhere.
        Ok(_) => return Err(Refusal::RequestLine),
        Err(e) => return Err(refusal_of(e, raw)),
    }
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else { return Err(Refusal::RequestLine) };
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::RequestLine)?;

    let mut options = Options::default();
    let (mut length, mut chunked, mut hosts) = (None, false, 0u32);
    let (mut te_trailers, mut upgrade, mut h2c) = (false, false, false);
    for header in parsed.headers.iter() {
        let name = header.name.as_bytes();
        // httparse leaves the white space at a value's end where it is.
        let value = header.value.trim_ascii();
        let kind = Kind::of(name);
        match kind {
            Kind::Host => hosts += 1,
            Kind::ContentLength => {
                let n = strict::content_length(value)?;
                if length.replace(n).is_some() {
                    return Err(Refusal::RepeatedLength);
                }
            }
            Kind::TransferEncoding => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::TransferCoding);
                }
                chunked = true;
            }
            Kind::Connection if !options.read(value) => return Err(Refusal::Connection),
            Kind::Te => te_trailers |= field::tokens(value).any(|t| t.eq_ignore_ascii_case(b"trailers")),
            Kind::Upgrade => {
                upgrade = true;
                h2c |= field::tokens(value).any(|t| t.eq_ignore_ascii_case(b"h2c"));
            }
            _ => {}
        }
        fields.push(Field { name: Span::of(raw, name), value: Span::of(raw, value), kind });
    }
    if options.names {
        nominate(raw, fields)?;
    }
    let framing = match (length, chunked) {
        (Some(_), true) => return Err(Refusal::LengthAndCoding),
        (None, true) if version == Version::HTTP_10 => return Err(Refusal::TransferCoding),
        (None, true) => Framing::Chunked,
        (Some(n), false) => Framing::Length(n),
        (None, false) => Framing::None,
    };
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(Refusal::Host);
    }
    let keep_alive = !options.close && (version == Version::HTTP_11 || options.keep_alive);
    // An upgrade to h2c would carry requests past everything that is checked here; one with a body has two readings.
    let bodiless = matches!(framing, Framing::None | Framing::Length(0));
    let upgrade = upgrade && options.upgrade && !h2c && bodiless && version == Version::HTTP_11;
    Ok(Read {
        method,
        version,
        target: Span::of(raw, path.as_bytes()),
        framing,
        keep_alive,
        upgrade,
        te_trailers,
    })
}

/// Marks the fields that Connection names as being for this hop.
pub fn nominate(raw: &[u8], fields: &mut [Field]) -> Result<(), Refusal> {
    for at in 0..fields.len() {
        if fields[at].kind != Kind::Connection {
            continue;
        }
        let value = fields[at].value;
        for option in field::tokens(value.get(raw)) {
            // Whoever names these wants a message that the next hop reads differently.
            if matches!(Kind::of(option), Kind::Host | Kind::ContentLength | Kind::TransferEncoding) {
                return Err(Refusal::Connection);
            }
            for f in fields.iter_mut() {
                if f.kind == Kind::Other && f.name.get(raw).eq_ignore_ascii_case(option) {
                    f.kind = Kind::Hop;
                }
            }
        }
    }
    Ok(())
}

fn refusal_of(e: httparse::Error, raw: &[u8]) -> Refusal {
    match e {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Field,
        httparse::Error::TooManyHeaders => Refusal::TooManyFields,
        httparse::Error::Version => {
            let line = raw.split(|b| *b == b'\r').next().unwrap_or_default();
            check_line(line).err().unwrap_or(Refusal::RequestLine)
        }
        httparse::Error::Status | httparse::Error::Token | httparse::Error::NewLine => Refusal::RequestLine,
    }
}

/// Whether a first line has the form of a request line: looked at as soon as it is there, so that whoever speaks another
/// protocol is not left to wait for a time-out.
pub fn check_line(line: &[u8]) -> Result<(), Refusal> {
    let mut words = line.split(|b| *b == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(_), Some(_), Some(b"HTTP/1.1" | b"HTTP/1.0"), None) => Ok(()),
        (Some(_), Some(_), Some(version), None) if is_version(version) => Err(Refusal::Version),
        _ => Err(Refusal::RequestLine),
    }
}

/// RFC 9112 section 2.3.
fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests;
