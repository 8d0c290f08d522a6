//! Writing the head of an answer.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{StatusCode, Version};

use super::super::pages;
use super::super::steps::{self, Admitted, Policy};
use super::field;
use super::{Answer, Content};

/// The methods that are served at all. RFC 9110 section 15.5.6 demands the list.
pub const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// The error page of a status.
pub fn error(status: StatusCode, request_id: &str, accept: Option<&[u8]>) -> Answer {
    let (kind, body) = pages::page(status, request_id, accept);
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

/// The head of an answer of our own, complete.
pub fn head(
    answer: &Answer,
    admitted: Option<&Admitted>,
    request_id: &str,
    policy: &Policy,
    end: End,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(answer.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(answer.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut has_length = matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    for (name, value) in &answer.fields {
        has_length |= name == CONTENT_LENGTH;
        field::write(&mut out, name.as_str().as_bytes(), value.as_bytes());
    }
    if !has_length {
        out.extend_from_slice(b"content-length: ");
        field::write_number(&mut out, answer.content.len());
        out.extend_from_slice(b"\r\n");
    }
    write_date(&mut out);
    finish(admitted, request_id, policy, false, end, &mut out);
    out
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It goes on, as is usual for the version.
    KeepAlive(Version),
    /// It ends with this answer.
    Close,
    /// It becomes something else.
    Upgrade,
}

/// Adds what we say on every answer, and the empty line.
/// `has_hsts`: see [`steps::respond`].
pub fn finish(
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
pub fn write_date(out: &mut Vec<u8>) {
    field::write(out, b"date", date().as_bytes());
}

/// The value of Date now.
pub fn date() -> HeaderValue {
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
