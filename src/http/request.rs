//! The head of a request: read strictly, passed on in one form.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use crate::body::Framing;
use crate::changes::Changes;
use crate::cookie;
use crate::field::{self, Field, Kind, Options, Span};
use crate::forwarded;
use crate::head::RequestHead;
use crate::refusal::Refusal;
use crate::steps::{self, Admitted, Policy};
use crate::strict;
use crate::websocket::{self, Challenge};

/// Field lines that a head can have at most, whatever the configuration allows.
pub const MOST_FIELDS: usize = 256 + forwarded::MOST_ADDED_FIELDS;

/// A request head with the octets it was made of.
#[derive(Debug)]
pub struct Request {
    raw: BytesMut,
    fields: Vec<Field>,
    method: Method,
    version: Version,
    target: Span,
    /// `:authority`, in HTTP/2.
    authority: Option<Span>,
    size: usize,
    /// How long the body is.
    pub framing: Framing,
    /// How its end is known where it comes from: in HTTP/2 the frames say so (RFC 9113 section 8.1), and the library holds it to
    /// its Content-Length.
    pub content: Framing,
    /// Whether the client wants the connection to go on.
    pub keep_alive: bool,
    /// Whether the client asks to change protocols, and may.
    pub upgrade: bool,
    te_trailers: bool,
    /// How the back end shows that it opens a WebSocket, when a client of HTTP/2 asks for one.
    websocket: Option<Challenge>,
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
                authority: None,
                size: raw.len(),
                framing: read.framing,
                content: read.framing,
                keep_alive: read.keep_alive,
                upgrade: read.upgrade,
                te_trailers: read.te_trailers,
                websocket: None,
                raw,
            }),
            Err(refusal) => Err((refusal, raw)),
        }
    }

    /// Takes over a head of HTTP/2, whose library has seen to RFC 9113 section 8.2 and 8.3. `bodiless` says that the stream
    /// ended with it. An extended CONNECT for a WebSocket (RFC 8441) becomes the GET that asks for it in HTTP/1.1.
    pub fn from_http2(parts: &Parts, bodiless: bool, max_fields: usize) -> Result<Self, Refusal> {
        let Parts { method, uri, headers, .. } = parts;
        let websocket = match parts.extensions.get::<Protocol>() {
            Some(protocol) if !websocket::is_carried(protocol.as_str()) => return Err(Refusal::Protocol),
            protocol => protocol.map(|_| Challenge::random()),
        };
        let method = if websocket.is_some() { &Method::GET } else { method };
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let mut size = target.len();
        let mut lines = Lines { raw: BytesMut::with_capacity(1024), fields: Vec::with_capacity(32) };
        let target = lines.text(target.as_bytes());
        let authority = uri.authority().map(|a| lines.text(a.as_str().as_bytes()));
        if let Some(value) = authority.filter(|_| !headers.contains_key(HOST)) {
            let name = lines.text(HOST.as_str().as_bytes());
            lines.fields.push(Field { name, value, kind: Kind::Host });
        }
        let (mut length, mut te_trailers) = (None, false);
        let mut crumbs = headers.get_all(COOKIE).iter();
        let cookie = (crumbs.next(), crumbs.next());
        for (name, value) in headers {
            // RFC 9113 section 6.5.2 counts 32 octets for each field beside name and value.
            size += name.as_str().len() + value.len() + 32;
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            // RFC 9113 section 8.2.1, as far as the library leaves it to us.
            if value.trim_ascii().len() != value.len() || !name.iter().all(|b| strict::is_token(*b)) {
                return Err(Refusal::Field);
            }
            let kind = Kind::of(name);
            match kind {
                Kind::ContentLength => {
                    let n = strict::content_length(value)?;
                    if length.replace(n).is_some() {
                        return Err(Refusal::RepeatedLength);
                    }
                    // RFC 9110 section 9.3.6: what follows is no content.
                    if websocket.is_some() {
                        return Err(Refusal::Field);
                    }
                }
                Kind::Te => te_trailers = true,
                // RFC 9113 section 8.2.2. The library refuses them; were one to pass, it would be read by the next hop.
                Kind::Connection | Kind::TransferEncoding | Kind::Upgrade | Kind::Hop => {
                    return Err(Refusal::Connection);
                }
                _ => {}
            }
            // RFC 8441 section 5: not used over HTTP/2; the back end's key is ours.
            let dropped = websocket.is_some()
                && [websocket::KEY, websocket::ACCEPT].iter().any(|n| name == n.as_bytes());
            if !dropped && (cookie.1.is_none() || name != COOKIE.as_str().as_bytes()) {
                lines.field(name, value, kind);
            }
        }
        if let Some(challenge) = &websocket {
            lines.field(b"upgrade", b"websocket", Kind::Upgrade);
            lines.field(websocket::KEY.as_bytes(), challenge.key.as_bytes(), Kind::Other);
        }
        if let (Some(_), Some(_)) = cookie {
            // RFC 9113 section 8.2.3: HTTP/2 may cut a cookie list into fields, which HTTP/1.1 servers expect in one.
            let crumbs = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
            let crumbs: Vec<&[u8]> = crumbs.filter(|c| !c.is_empty()).collect();
            lines.field(COOKIE.as_str().as_bytes(), &crumbs.join(&b"; "[..]), Kind::Other);
        }
        if headers.len() > max_fields.min(MOST_FIELDS) {
            return Err(Refusal::TooManyFields);
        }
        let framing = match length {
            Some(n) => Framing::Length(n),
            None if bodiless || websocket.is_some() => Framing::None,
            None => Framing::Chunked,
        };
        Ok(Self {
            raw: lines.raw,
            fields: lines.fields,
            method: method.clone(),
            version: Version::HTTP_2,
            target,
            authority,
            size,
            framing,
            content: if matches!(framing, Framing::None | Framing::Length(0)) {
                Framing::None
            } else {
                Framing::Close
            },
            keep_alive: true,
            upgrade: websocket.is_some(),
            te_trailers,
            websocket,
        })
    }

    /// Whether content may follow the head.
    pub fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// Whether a client of HTTP/2 asks for a WebSocket, and how the back end shows that it opens one.
    pub fn websocket(&self) -> Option<&Challenge> {
        self.websocket.as_ref()
    }

    /// How whoever opens the WebSocket that is asked for shows it, in HTTP/1.1; none if none is asked for.
    pub fn challenge(&self) -> Option<Challenge> {
        match &self.websocket {
            Some(challenge) => Some(challenge.clone()),
            None if self.upgrade && self.method == Method::GET => Challenge::in_request(self.fields()),
            None => None,
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

    /// Writes the head as the next hop gets it over HTTP/1.1: one form of target, one of framing, no field that was for us
    /// alone, edited, and with what `more` adds. `closes` asks the next hop to take nothing further from the connection (RFC 9112
    /// section 9.6).
    pub fn forward(
        &self,
        admitted: &Admitted,
        policy: &Policy,
        closes: bool,
        edits: Edits<'_>,
        out: &mut Vec<u8>,
        more: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])),
    ) {
        // What we say of the client takes some 400 octets, the host's name three times.
        out.reserve(self.raw.len() + 512 + 3 * admitted.host.len());
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(admitted.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(authority) = &admitted.authority {
            field::write(out, b"Host", authority.as_bytes());
        }
        self.passing(admitted, policy, edits, |kind, name, value| match kind {
            Kind::Host if admitted.authority.is_some() => {}
            _ => field::write(out, name, value),
        });
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
        }
        // RFC 9110 section 10.1.4: TE goes with its name in Connection.
        let te = self.te_trailers && !self.upgrade;
        if te {
            out.extend_from_slice(b"TE: trailers\r\n");
        }
        let options = [(self.upgrade, "Upgrade"), (te, "TE"), (closes, "close")];
        let mut before = "Connection: ";
        for (_, option) in options.iter().filter(|(is_set, _)| *is_set) {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(option.as_bytes());
            before = ", ";
        }
        if before == ", " {
            out.extend_from_slice(b"\r\n");
        }
        more(&mut |name, value| field::write(out, name, value));
        out.extend_from_slice(b"\r\n");
    }

    /// The head as the next hop gets it over HTTP/2, edited; with `connects`, the extended CONNECT of a WebSocket.
    pub fn forward_http2(
        &self,
        admitted: &Admitted,
        policy: &Policy,
        scheme: &str,
        connects: bool,
        edits: Edits<'_>,
        more: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])),
    ) -> Result<http::Request<()>, http::Error> {
        let host = self.first(&HOST).unwrap_or_default();
        let authority = admitted.authority.as_deref().map_or(host, str::as_bytes);
        let uri =
            Uri::builder().scheme(scheme).authority(authority).path_and_query(&*admitted.target).build()?;
        let method = if connects { Method::CONNECT } else { self.method.clone() };
        let mut head = http::Request::builder().method(method).uri(uri).version(Version::HTTP_2).body(())?;
        if connects {
            head.extensions_mut().insert(Protocol::from_static("websocket"));
        }
        let map = head.headers_mut();
        let mut add = |name: &[u8], value: &[u8]| {
            // What was read strictly is well formed.
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                // As no other request has it, it has no place in the table of HPACK (RFC 7541 section 7.1.3).
                value.set_sensitive(name == forwarded::X_REQUEST_ID);
                map.append(name, value);
            }
        };
        self.passing(admitted, policy, edits, |kind, name, value| match kind {
            // The first is :authority; whoever waits for 100 gets it from us.
            Kind::Host | Kind::Expect => {}
            // RFC 8441 section 5.
            _ if connects && name.eq_ignore_ascii_case(websocket::KEY.as_bytes()) => {}
            _ => add(name, value),
        });
        more(&mut add);
        if let Framing::Length(n) = self.framing {
            map.insert(CONTENT_LENGTH, HeaderValue::from(n));
        }
        if self.te_trailers {
            map.insert(TE, HeaderValue::from_static("trailers"));
        }
        Ok(head)
    }

    /// Whether a field goes on.
    fn goes(&self, f: &Field, policy: &Policy) -> bool {
        match f.kind {
            Kind::Other | Kind::Trailer | Kind::Host => true,
            // RFC 9110 section 10.1.1: not from HTTP/1.0.
            Kind::Expect => self.version != Version::HTTP_10,
            Kind::Ours => !steps::stays_behind(f.name.get(&self.raw), policy),
            // Said anew.
            Kind::ContentLength | Kind::TransferEncoding | Kind::Upgrade | Kind::Te => false,
            Kind::Connection | Kind::Hop => false,
        }
    }

    /// The fields that go on, ours among them, but for those that tell the framing.
    fn passing(
        &self,
        admitted: &Admitted,
        policy: &Policy,
        edits: Edits<'_>,
        mut emit: impl FnMut(Kind, &[u8], &[u8]),
    ) {
        for f in &self.fields {
            let (name, value) = (f.name.get(&self.raw), f.value.get(&self.raw));
            if !self.goes(f, policy)
                || edits.changes.is_some_and(|changes| f.kind == Kind::Other && changes.drops(name))
            {
                continue;
            }
            match edits.hidden_cookie.filter(|_| name.eq_ignore_ascii_case(COOKIE.as_str().as_bytes())) {
                None => emit(f.kind, name, value),
                Some(hidden) => {
                    if let Some(rest) = cookie::without(value, hidden) {
                        emit(f.kind, name, &rest);
                    }
                }
            }
        }
        // What stays behind gives no value: a client must not be able to keep one out by it.
        let has = |name: &HeaderName| {
            let mut same = self
                .fields
                .iter()
                .filter(|f| forwarded::same(f.name.get(&self.raw), name.as_str().as_bytes()));
            same.any(|f| {
                self.goes(f, policy) && !edits.changes.is_some_and(|c| c.drops(f.name.get(&self.raw)))
            })
        };
        for (name, value) in edits.changes.iter().flat_map(|changes| changes.lines(&has)) {
            emit(Kind::Other, name.as_str().as_bytes(), value.as_bytes());
        }
        steps::forward(admitted, |name, value| {
            emit(Kind::Ours, name.as_str().as_bytes(), value);
        });
        let (name, value) = forwarded::via(self.version);
        emit(Kind::Other, name.as_str().as_bytes(), value.as_bytes());
    }

    /// Whether the client waits for word before it sends the body (RFC 9110 section 10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.version != Version::HTTP_10
            && self.has_body()
            && self.fields.iter().any(|f| f.kind == Kind::Expect)
    }
}

/// What of a request does not go on as it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edits<'a> {
    /// Of its fields.
    pub changes: Option<&'a Changes>,
    /// The name of a cookie that is for us alone.
    pub hidden_cookie: Option<&'a str>,
}

/// A head in the making.
struct Lines {
    raw: BytesMut,
    fields: Vec<Field>,
}

impl Lines {
    fn text(&mut self, text: &[u8]) -> Span {
        let start = self.raw.len();
        self.raw.extend_from_slice(text);
        Span::between(start, self.raw.len())
    }

    fn field(&mut self, name: &[u8], value: &[u8], kind: Kind) {
        let name = self.text(name);
        let value = self.text(value);
        self.fields.push(Field { name, value, kind });
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
        self.authority.and_then(|a| std::str::from_utf8(a.get(&self.raw)).ok())
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
        self.size
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
