//! Writing the head of an answer, in whatever protocol.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue, RETRY_AFTER,
    SET_COOKIE, STRICT_TRANSPORT_SECURITY,
};
use http::{Method, StatusCode, Version};

use crate::exchange::Exchange;
use crate::{Answer, Content};
use trivet_http::body::Framing;
use trivet_http::field;
use trivet_http::forwarded::X_REQUEST_ID;
use trivet_http::head::RequestHead as _;
use trivet_http::pages;
use trivet_http::pump::TOGETHER;
use trivet_http::request::Request;
use trivet_http::response::Response;
use trivet_http::steps::{self, Admitted, Policy};

/// The methods that are served at all. RFC 9110 section 15.5.6 demands the list.
pub const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// `Strict-Transport-Security`
const HSTS: &[u8] = b"strict-transport-security";

/// The error page of a status: the site's `own`, or ours.
pub fn error(
    status: StatusCode,
    request_id: &str,
    accept: Option<&[u8]>,
    own: Option<(HeaderValue, Bytes)>,
) -> Answer {
    let (kind, body) = own.unwrap_or_else(|| pages::page(status, request_id, accept));
    let mut fields = vec![(CONTENT_TYPE, kind), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    match status {
        StatusCode::METHOD_NOT_ALLOWED => fields.push((ALLOW, METHODS)),
        StatusCode::SERVICE_UNAVAILABLE => {
            fields.push((RETRY_AFTER, HeaderValue::from_static("1")));
        }
        _ => {}
    }
    Answer { status, fields, content: Content::Memory(body), close: false }
}

/// The head of an answer, before it is said in a protocol.
pub(super) enum Head<'a> {
    /// Of a back end. `early` says that the request has not been read to its end.
    Relayed { response: &'a mut Response, early: bool },
    /// Of a back end, which switches to what the request asked for.
    Switch(&'a mut Response),
    /// Of our own.
    Own(&'a Answer),
}

impl Answer {
    /// Whether it is sent without its content.
    pub(super) fn is_bodiless(&self, request: Option<&Request>) -> bool {
        request.is_some_and(|r| *r.method() == Method::HEAD) || self.has_no_content()
    }

    /// By its status (RFC 9110 sections 15.3.5 and 15.4.5).
    fn has_no_content(&self) -> bool {
        matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

impl Head<'_> {
    fn has(&self, name: &HeaderName) -> bool {
        match self {
            Self::Relayed { response, .. } | Self::Switch(response) => response.has(name),
            Self::Own(answer) => answer.fields.iter().any(|(own, _)| own == name),
        }
    }

    /// Our cookie for the client, which only a back end's answer has.
    fn cookie<'e>(&self, exchange: &'e Exchange) -> Option<&'e HeaderValue> {
        exchange.set_cookie.as_ref().filter(|_| !matches!(self, Self::Own(_)))
    }

    /// The lines of `Cache-Control` of a back end's answer.
    fn caching(&self) -> impl Iterator<Item = &[u8]> {
        let response = match self {
            Self::Relayed { response, .. } | Self::Switch(response) => Some(response),
            Self::Own(_) => None,
        };
        let fields = response.into_iter().flat_map(|response| response.fields());
        fields
            .filter(|(name, _)| CACHE_CONTROL.as_str().as_bytes().eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// All of it as HTTP/1 has it (RFC 9112 section 4); `framing` is that towards the client.
    pub(super) fn to_http1(
        &self,
        framing: Framing,
        exchange: &Exchange,
        policy: &Policy,
        end: End,
    ) -> Vec<u8> {
        // With room for content that leaves together with it.
        let content = match framing {
            Framing::Length(n) if n <= TOGETHER as u64 => n as usize,
            _ => 0,
        };
        let mut out = Vec::with_capacity(1024 + content);
        let changes = exchange.answer_fields.as_deref();
        let is_plain = is_plain(exchange);
        let drops = |name: &[u8]| {
            changes.is_some_and(|changes| changes.drops(name))
                || (is_plain && name.eq_ignore_ascii_case(HSTS))
        };
        let cookie = self.cookie(exchange);
        match self {
            Self::Relayed { response, .. } | Self::Switch(response) => {
                response.forward(
                    framing,
                    |name| drops(name) || (cookie.is_some() && is_for_caches(name)),
                    &mut out,
                );
            }
            Self::Own(answer) => {
                out.extend_from_slice(b"HTTP/1.1 ");
                out.extend_from_slice(answer.status.as_str().as_bytes());
                out.push(b' ');
                out.extend_from_slice(answer.status.canonical_reason().unwrap_or_default().as_bytes());
                out.extend_from_slice(b"\r\n");
                let mut has_length = answer.has_no_content();
                for (name, value) in answer.fields.iter().filter(|(name, _)| !drops(name.as_str().as_bytes()))
                {
                    has_length |= name == CONTENT_LENGTH;
                    field::write(&mut out, name.as_str().as_bytes(), value.as_bytes());
                }
                if !has_length {
                    out.extend_from_slice(b"content-length: ");
                    field::write_number(&mut out, answer.content.len());
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        if !matches!(self, Self::Switch(_)) && !self.has(&DATE) {
            write_date(&mut out);
        }
        let mut has_hsts = self.has(&STRICT_TRANSPORT_SECURITY) && !drops(HSTS);
        let stays = |name: &HeaderName| self.has(name) && !drops(name.as_str().as_bytes());
        let lines = || changes.iter().flat_map(|changes| changes.lines(&stays));
        for (name, value) in
            lines().filter(|(name, _)| cookie.is_none() || !FOR_CACHES.contains(&name.as_str()))
        {
            if is_plain && name == STRICT_TRANSPORT_SECURITY {
                continue;
            }
            has_hsts |= name == STRICT_TRANSPORT_SECURITY;
            field::write(&mut out, name.as_str().as_bytes(), value.as_bytes());
        }
        if let Some(cookie) = cookie {
            let own = self.caching().filter(|_| !drops(CACHE_CONTROL.as_str().as_bytes()));
            let ours = lines().filter(|(name, _)| *name == CACHE_CONTROL).map(|(_, value)| value.as_bytes());
            field::write(&mut out, SET_COOKIE.as_str().as_bytes(), cookie.as_bytes());
            field::write(
                &mut out,
                CACHE_CONTROL.as_str().as_bytes(),
                for_one_client(own.chain(ours)).as_bytes(),
            );
        }
        finish(exchange.admitted.as_ref(), exchange.id(), policy, has_hsts, end, &mut out);
        out
    }

    /// All of it as HTTP/2 has it (RFC 9113 section 8.3.2), without the fields of a back end that `dropped` names. Of a back
    /// end's nothing is left here afterwards.
    pub(super) fn into_http2(
        self,
        exchange: &Exchange,
        policy: &Policy,
        dropped: impl Fn(&[u8]) -> bool,
    ) -> http::Response<()> {
        let cookie = self.cookie(exchange);
        let mut head = match self {
            Self::Relayed { response, .. } | Self::Switch(response) => response.take_http2(dropped),
            Self::Own(answer) => {
                let mut head = http::Response::new(());
                *head.status_mut() = answer.status;
                for (name, value) in &answer.fields {
                    head.headers_mut().append(name, value.clone());
                }
                if !answer.has_no_content() && !head.headers().contains_key(CONTENT_LENGTH) {
                    head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(answer.content.len()));
                }
                head
            }
        };
        let map = head.headers_mut();
        if let Some(changes) = &exchange.answer_fields {
            changes.apply(map);
        }
        if is_plain(exchange) {
            map.remove(STRICT_TRANSPORT_SECURITY);
        }
        if let Some(cookie) = cookie {
            map.append(SET_COOKIE, cookie.clone());
            let caches = for_one_client(map.get_all(CACHE_CONTROL).iter().map(HeaderValue::as_bytes));
            for name in FOR_CACHES {
                map.remove(name);
            }
            map.insert(CACHE_CONTROL, caches);
        }
        if !map.contains_key(DATE) {
            map.insert(DATE, date());
        }
        let has_hsts = map.contains_key(STRICT_TRANSPORT_SECURITY);
        steps::respond(exchange.admitted.as_ref(), exchange.id(), policy, has_hsts, |name, value| {
            // What is set here is always a field value.
            if let Ok(mut value) = HeaderValue::from_bytes(value) {
                // No other answer has it: in the table of HPACK it would only drive out what others have, too
                // (RFC 7541 section 7.1.3: never indexed).
                value.set_sensitive(*name == X_REQUEST_ID);
                map.insert(name.clone(), value);
            }
        });
        head
    }
}

/// Fields that tell caches what they may keep (RFC 9111 section 5.2; RFC 9213; Edge Architecture Specification).
const FOR_CACHES: [&str; 3] = ["cache-control", "cdn-cache-control", "surrogate-control"];

fn is_for_caches(name: &[u8]) -> bool {
    FOR_CACHES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// `Cache-Control` of an answer that has become one client's own: what was `said`, but for what allows shared caches to keep it.
fn for_one_client<'a>(said: impl Iterator<Item = &'a [u8]>) -> HeaderValue {
    const SHARED: [&str; 3] = ["public", "s-maxage", "private"];
    let mut value = b"private".to_vec();
    for directive in said.flat_map(field::tokens) {
        let name = directive.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
        // A list in quotes is in pieces here, and names fields for which something else holds.
        let passes =
            !directive.contains(&b'"') && !SHARED.iter().any(|s| name.eq_ignore_ascii_case(s.as_bytes()));
        if passes {
            value.extend_from_slice(b", ");
            value.extend_from_slice(directive);
        }
    }
    HeaderValue::from_bytes(&value).unwrap_or(HeaderValue::from_static("private"))
}

/// Whether the client asked without TLS: `Strict-Transport-Security` is for nobody then, whoever says it (RFC 6797 section 7.2).
fn is_plain(exchange: &Exchange) -> bool {
    exchange.admitted.as_ref().is_some_and(|admitted| admitted.scheme == "http")
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It goes on, as is usual for the version.
    KeepAlive(Version),
    /// It ends with this answer.
    Close,
    /// It becomes something else.
    Upgrade,
}

/// Adds what we say on every answer, and the empty line.
/// `has_hsts`: see [`steps::respond`].
fn finish(
    admitted: Option<&Admitted>,
    request_id: &str,
    policy: &Policy,
    has_hsts: bool,
    end: End,
    out: &mut Vec<u8>,
) {
    steps::respond(admitted, request_id, policy, has_hsts, |name, value| {
        field::write(out, name.as_str().as_bytes(), value);
    });
    match end {
        End::Close => out.extend_from_slice(b"connection: close\r\n"),
        End::KeepAlive(Version::HTTP_10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        End::KeepAlive(_) | End::Upgrade => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Adds Date (RFC 9110 section 6.6.1).
fn write_date(out: &mut Vec<u8>) {
    field::write(out, b"date", date().as_bytes());
}

/// The value of Date now.
fn date() -> HeaderValue {
    thread_local! {
        static TEXT: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    TEXT.with_borrow_mut(|(at, text)| {
        if *at != second {
            *at = second;
            *text =
                HeaderValue::from_str(&httpdate::fmt_http_date(now)).unwrap_or(HeaderValue::from_static(""));
        }
        text.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_has_become_one_clients_own_is_for_no_shared_cache() {
        for (said, expected) in [
            (&[][..], "private"),
            (&["public, max-age=60"], "private, max-age=60"),
            (&["max-age=60", "s-maxage=600, must-revalidate"], "private, max-age=60, must-revalidate"),
            (&["no-store"], "private, no-store"),
            (&["PUBLIC,,Private"], "private"),
            (&["private=\"X-A, X-B\", max-age=5"], "private, max-age=5"),
        ] {
            assert_eq!(for_one_client(said.iter().map(|s| s.as_bytes())), expected, "{said:?}");
        }
    }
}
