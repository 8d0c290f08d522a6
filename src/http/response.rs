//! The head of a back end's answer: read strictly, passed on in one form.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

use crate::body::Framing;
use crate::field::{self, Field, Kind, Options, Span};
use crate::forwarded::X_REQUEST_ID;
use crate::request::MOST_FIELDS;
use crate::strict;

/// What is wrong with an answer; the client gets 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadResponse {
    /// RFC 9112 section 4.
    #[error("malformed status line")]
    StatusLine,
    /// RFC 9112 section 5.
    #[error("malformed field in the answer")]
    Field,
    /// RFC 9112 section 6.3.
    #[error("the answer's length can be read in two ways")]
    Length,
    /// RFC 9112 section 6.1.
    #[error("the answer has a transfer coding other than chunked")]
    Coding,
    /// RFC 9112 section 2.2.
    #[error("a line of the answer's head ends in a bare LF")]
    BareLf,
    /// Ours to limit.
    #[error("the answer's head is too large")]
    TooLarge,
    /// RFC 9110 section 15.2.2: an upgrade that nobody asked for.
    #[error("the answer switches protocols unasked")]
    Upgrade,
    /// RFC 6455 section 4.1: a client of HTTP/2 asked for a WebSocket, and what came is none.
    #[error("the answer to the request for a WebSocket opens none")]
    WebSocket,
}

/// A response head with the octets it was made of.
#[derive(Debug)]
pub struct Response {
    raw: BytesMut,
    fields: Vec<Field>,
    reason: Span,
    /// The status code, 100 to 599.
    pub status: u16,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the connection can carry another request afterwards.
    pub keep_alive: bool,
}

impl Response {
    /// Reads a complete head, of an answer to a request with `method`.
    pub fn parse(raw: BytesMut, method: &Method, mut fields: Vec<Field>) -> Result<Self, BadResponse> {
        fields.clear();
        let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut parsed, &raw, &mut room) {
            Ok(httparse::Status::Complete(n)) if n == raw.len() => {}
            Ok(_) => return Err(BadResponse::StatusLine),
            Err(httparse::Error::TooManyHeaders) => return Err(BadResponse::TooLarge),
            Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
                return Err(BadResponse::Field);
            }
            Err(_) => return Err(BadResponse::StatusLine),
        }
        let status = parsed.code.filter(|c| (100..600).contains(c)).ok_or(BadResponse::StatusLine)?;
        let http_10 = parsed.version == Some(0);
        // Octets beyond ASCII (obs-text) are not part of what httparse hands out; a reason phrase says nothing to anyone.
        let reason = parsed.reason.map(|r| Span::of(&raw, r.as_bytes())).unwrap_or_default();

        let mut options = Options::default();
        let (mut length, mut chunked) = (None, false);
        for header in parsed.headers.iter() {
            let (name, value) = (header.name.as_bytes(), header.value.trim_ascii());
            let mut kind = Kind::of(name);
            match kind {
                Kind::ContentLength => {
                    let n = strict::content_length(value).map_err(|_| BadResponse::Length)?;
                    // The same length twice says one thing, and some servers do say it twice. The client hears it once.
                    match length.replace(n) {
                        None => {}
                        Some(same) if same == n => kind = Kind::Hop,
                        Some(_) => return Err(BadResponse::Length),
                    }
                }
                Kind::TransferEncoding => {
                    if chunked || http_10 || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadResponse::Coding);
                    }
                    chunked = true;
                }
                Kind::Connection => {
                    options.read(value);
                }
                _ => {}
            }
            fields.push(Field { name: Span::of(&raw, name), value: Span::of(&raw, value), kind });
        }
        if options.names {
            crate::request::nominate(&raw, &mut fields).map_err(|_| BadResponse::Length)?;
        }
        if length.is_some() && chunked {
            return Err(BadResponse::Length);
        }
        // RFC 9112 section 6.3, in its order.
        let framing = if *method == Method::HEAD || status < 200 || matches!(status, 204 | 304) {
            Framing::None
        } else if chunked {
            Framing::Chunked
        } else if let Some(n) = length {
            Framing::Length(n)
        } else {
            Framing::Close
        };
        let keep_alive = framing != Framing::Close && !options.close && (!http_10 || options.keep_alive);
        Ok(Self { raw, fields, reason, status, framing, keep_alive })
    }

    /// Whether this is only word of progress (RFC 9110 section 15.2).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// All field lines.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|f| (f.name.get(&self.raw), f.value.get(&self.raw)))
    }

    /// The first value of a field.
    pub fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        let name = name.as_str().as_bytes();
        self.fields().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether it has a field of this name.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.first(name).is_some()
    }

    /// Whether its content comes whenever there is something to tell: events (HTML, section 9.2), or calls of gRPC.
    pub fn is_stream(&self) -> bool {
        const KINDS: [&[u8]; 2] = [b"text/event-stream", b"application/grpc"];
        let kind = self.first(&CONTENT_TYPE).unwrap_or_default();
        KINDS.iter().any(|k| kind.get(..k.len()).is_some_and(|start| start.eq_ignore_ascii_case(k)))
    }

    /// Gives the room for field lines back.
    pub fn recycle(self) -> Vec<Field> {
        self.fields
    }

    /// Writes status line and fields as the client gets them, but not the empty line: the caller adds what we say
    /// ourselves. `framing` is that towards the client; `dropped` says which fields we set anew.
    pub fn forward(&self, framing: Framing, dropped: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) {
        out.reserve(self.raw.len() + 256);
        out.extend_from_slice(b"HTTP/1.1 ");
        field::write_number(out, u64::from(self.status));
        out.push(b' ');
        out.extend_from_slice(self.reason.get(&self.raw));
        out.extend_from_slice(b"\r\n");
        for f in self.fields.iter().filter(|f| self.passes(f, framing, &dropped)) {
            field::write(out, f.name.get(&self.raw), f.value.get(&self.raw));
        }
        match framing {
            Framing::Length(n) => {
                out.extend_from_slice(b"Content-Length: ");
                field::write_number(out, n);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::None | Framing::Close => {}
        }
        if self.status == 101 {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        }
    }

    /// Whether a field goes on to a client that gets the body framed as `framing`.
    fn passes(&self, f: &Field, framing: Framing, dropped: &impl Fn(&[u8]) -> bool) -> bool {
        let name = f.name.get(&self.raw);
        match f.kind {
            Kind::Other | Kind::Ours => {
                !name.eq_ignore_ascii_case(X_REQUEST_ID.as_str().as_bytes()) && !dropped(name)
            }
            // To HEAD, and with 304, the length that a GET would have had (RFC 9110 section 8.6), but none with 204.
            Kind::ContentLength => framing == Framing::None && self.status >= 200 && self.status != 204,
            Kind::Trailer => framing == Framing::Chunked,
            Kind::Upgrade => self.status == 101 || self.status == 426,
            Kind::Host | Kind::Te | Kind::Expect => true,
            Kind::TransferEncoding | Kind::Connection | Kind::Hop => false,
        }
    }

    /// The head as a client of HTTP/2 gets it, but for what we say ourselves. Afterwards there are no fields left here.
    pub fn take_http2(&mut self, dropped: impl Fn(&[u8]) -> bool) -> http::Response<()> {
        let mut head = http::Response::new(());
        // 100 to 599, as was seen when it was read.
        *head.status_mut() = StatusCode::from_u16(self.status).unwrap_or_default();
        let map = head.headers_mut();
        map.reserve(self.fields.len() + 4);
        // What ends by its last chunk or by closing may have trailers here.
        let framing = match self.framing {
            Framing::Close => Framing::Chunked,
            other => other,
        };
        let fields: Vec<Field> = self
            .fields
            .iter()
            // RFC 9113 section 8.2.2: these would make it malformed.
            .filter(|f| !matches!(f.kind, Kind::Upgrade | Kind::Te) && self.passes(f, framing, &dropped))
            .copied()
            .collect();
        let raw = self.raw.split().freeze();
        for f in fields {
            // No copy: the value stays where it was read to.
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(f.name.get(&raw)),
                HeaderValue::from_maybe_shared(raw.slice(f.value.range())),
            ) {
                map.append(name, value);
            }
        }
        if let Framing::Length(n) = framing {
            map.insert(CONTENT_LENGTH, HeaderValue::from(n));
        }
        self.fields.clear();
        head
    }

    /// Takes over the head of an HTTP/2 answer, held to the same rules.
    pub fn from_http2(
        status: StatusCode,
        headers: &HeaderMap,
        method: &Method,
        bodiless: bool,
    ) -> Result<Self, BadResponse> {
        let mut raw = Vec::with_capacity(1024);
        raw.extend_from_slice(b"HTTP/1.1 ");
        raw.extend_from_slice(status.as_str().as_bytes());
        raw.push(b' ');
        raw.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        raw.extend_from_slice(b"\r\n");
        for (name, value) in headers {
            field::write(&mut raw, name.as_str().as_bytes(), value.as_bytes());
        }
        if bodiless && !headers.contains_key(CONTENT_LENGTH) && *method != Method::HEAD {
            raw.extend_from_slice(b"content-length: 0\r\n");
        }
        raw.extend_from_slice(b"\r\n");
        let mut response = Self::parse(BytesMut::from(&raw[..]), method, Vec::new())?;
        if response.framing == Framing::Chunked
            || (bodiless && matches!(response.framing, Framing::Length(1..)))
        {
            return Err(BadResponse::Length);
        }
        response.keep_alive = false;
        Ok(response)
    }

    /// The framing towards a client of `version`.
    pub fn framing_for(&self, version: Version) -> Framing {
        match self.framing {
            // What ends by closing is told as chunks: the client then knows whether it has all of it.
            Framing::Close | Framing::Chunked if version == Version::HTTP_10 => Framing::Close,
            Framing::Close => Framing::Chunked,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Response, BadResponse> {
        Response::parse(BytesMut::from(head.as_bytes()), &Method::GET, Vec::new())
    }

    #[test]
    fn rfc9112_6_3_the_length_of_an_answer() {
        let framing = |status: u16, fields: &str, method: Method| {
            let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            Response::parse(BytesMut::from(head.as_bytes()), &method, Vec::new()).unwrap().framing
        };
        assert_eq!(framing(200, "Content-Length: 5\r\n", Method::GET), Framing::Length(5));
        assert_eq!(framing(200, "Content-Length: 5\r\n", Method::HEAD), Framing::None);
        assert_eq!(framing(304, "Content-Length: 5\r\n", Method::GET), Framing::None);
        assert_eq!(framing(204, "", Method::GET), Framing::None);
        assert_eq!(framing(200, "Transfer-Encoding: chunked\r\n", Method::GET), Framing::Chunked);
        assert_eq!(framing(200, "", Method::GET), Framing::Close);
    }

    #[test]
    fn rfc9112_4_a_reason_phrase_may_be_odd_or_missing() {
        let parse = |line: &[u8]| {
            Response::parse(
                BytesMut::from(&[line, b"\r\nContent-Length: 0\r\n\r\n"].concat()[..]),
                &Method::GET,
                Vec::new(),
            )
        };
        for line in
            [&b"HTTP/1.1 200 caf\xe9"[..], b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.1 200 Yes, yes"]
        {
            let mut out = Vec::new();
            parse(line).unwrap().forward(Framing::Length(0), |_| false, &mut out);
            assert!(out.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn rfc9112_6_3_an_answer_with_two_readings_is_bad() {
        for (fields, bad) in [
            ("Content-Length: 5\r\nContent-Length: 6", BadResponse::Length),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", BadResponse::Length),
            ("Content-Length: -5", BadResponse::Length),
            ("Transfer-Encoding: gzip", BadResponse::Coding),
            ("a b: c", BadResponse::Field),
        ] {
            assert_eq!(parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).err(), Some(bad), "{fields}");
        }
        for line in ["HTTP/1.1 99 X", "HTTP/1.1 600 X", "HTTP/2 200 OK", "200 OK", "HTTP/1.1 20 OK"] {
            assert_eq!(parse(&format!("{line}\r\n\r\n")).err(), Some(BadResponse::StatusLine), "{line}");
        }
    }
}
