//! Answering a request from the store: RFC 9110 for methods, negotiation, conditions and ranges.

mod condition;
mod negotiate;
mod range;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, RANGE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, StatusCode};

use self::condition::Verdict;
use self::range::Selected;
use super::path::{self, BadPath};
use super::store::{Asset, Coding, Content, DiskFile, Entry, Form, Store};

/// What static files answer to, for `Allow`.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// The request's fields that [`answer`] looks at.
pub const FIELDS: [HeaderName; 7] =
    [ACCEPT_ENCODING, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];

/// Who answers.
#[derive(Debug)]
pub enum Decision {
    /// The store, with this.
    Reply(Reply),
    /// Nobody: the path is refused.
    Refuse(BadPath),
    /// The app: no file has this name.
    App,
}

/// An answer from the store.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// All fields but those that every answer of a server has (`Date`, `Connection`).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What follows the head; nothing for HEAD.
    pub body: Body,
}

/// The body of a [`Reply`].
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// Bytes from memory.
    Memory(Bytes),
    /// Part of a file on disk.
    Disk {
        file: DiskFile,
        /// The first byte.
        offset: u64,
        /// How many.
        len: u64,
    },
}

/// Decides about the request `method target` with `headers`.
pub fn answer(
    store: &Store,
    cache_control: &HeaderValue,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
) -> Decision {
    let path = match path::decode(target) {
        Ok(Some(path)) => path,
        Ok(None) => return Decision::App,
        Err(e) => return Decision::Refuse(e),
    };
    let Some(entry) = store.get(&path) else { return Decision::App };
    Decision::Reply(match *method {
        Method::GET | Method::HEAD => match entry {
            Entry::File(asset) => {
                Request { asset, cache_control, headers, get: *method == Method::GET }.answer()
            }
            Entry::Folder(location) => redirect(location, target, cache_control),
        },
        // RFC 9110 section 9.3.7
        Method::OPTIONS => {
            Reply { status: StatusCode::NO_CONTENT, headers: vec![(ALLOW, METHODS)], body: Body::Empty }
        }
        _ => text(
            StatusCode::METHOD_NOT_ALLOWED,
            "This is a file: it can be read and nothing else.\n",
            [(ALLOW, METHODS)],
        ),
    })
}

/// To the folder with its slash, without which the page's relative links would lead elsewhere.
fn redirect(location: &HeaderValue, target: &str, cache_control: &HeaderValue) -> Reply {
    let location = match target.split_once('?') {
        Some((_, query)) => HeaderValue::from_str(&format!("{}?{query}", location.to_str().unwrap_or("/"))),
        None => Ok(location.clone()),
    };
    let location = location.unwrap_or(HeaderValue::from_static("/"));
    let headers = [(LOCATION, location), (CACHE_CONTROL, cache_control.clone())];
    text(StatusCode::PERMANENT_REDIRECT, "The folder's address ends in a slash.\n", headers)
}

fn text<const N: usize>(
    status: StatusCode,
    words: &'static str,
    more: [(HeaderName, HeaderValue); N],
) -> Reply {
    let mut headers = vec![
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (CONTENT_LENGTH, HeaderValue::from(words.len())),
    ];
    headers.extend(more);
    Reply { status, headers, body: Body::Memory(Bytes::from_static(words.as_bytes())) }
}

struct Request<'a> {
    asset: &'a Asset,
    cache_control: &'a HeaderValue,
    headers: &'a HeaderMap,
    get: bool,
}

impl Request<'_> {
    fn answer(&self) -> Reply {
        let Some(form) = negotiate::choose(self.asset, self.headers) else {
            let vary = [(VARY, HeaderValue::from_static("accept-encoding"))];
            let words = "No form of this file has a content coding that the request accepts.\n";
            return self.without_body_for_head(text(StatusCode::NOT_ACCEPTABLE, words, vary));
        };
        match condition::check(self.headers, &form.etag, self.asset.modified) {
            Verdict::Go => self.content(form),
            Verdict::NotModified => self.reply(StatusCode::NOT_MODIFIED, self.validators(form), Body::Empty),
            Verdict::Failed => self.reply(
                StatusCode::PRECONDITION_FAILED,
                vec![(CONTENT_LENGTH, HeaderValue::from(0))],
                Body::Empty,
            ),
        }
    }

    fn content(&self, form: &Form) -> Reply {
        let len = form.content.len();
        let mut headers = self.validators(form);
        headers.push((ACCEPT_RANGES, HeaderValue::from_static("bytes")));
        // RFC 9110 section 14.2: ranges are defined for GET alone.
        let selected = if self.get {
            range::select(self.headers, len, &form.etag, self.asset.modified)
        } else {
            Selected::Whole
        };
        let (status, offset, part) = match selected {
            Selected::Whole => (StatusCode::OK, 0, len),
            Selected::Part { first, last } => {
                headers.push((CONTENT_RANGE, value(format_args!("bytes {first}-{last}/{len}"))));
                (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
            }
            Selected::Unsatisfiable => {
                headers.push((CONTENT_RANGE, value(format_args!("bytes */{len}"))));
                headers.push((CONTENT_LENGTH, HeaderValue::from(0)));
                return self.reply(StatusCode::RANGE_NOT_SATISFIABLE, headers, Body::Empty);
            }
        };
        headers.push((CONTENT_TYPE, self.asset.content_type.clone()));
        headers.push((CONTENT_LENGTH, HeaderValue::from(part)));
        // A file is what its name says; a browser must not guess a script out of an image.
        headers.push((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
        if form.coding != Coding::Identity {
            headers.push((CONTENT_ENCODING, HeaderValue::from_static(form.coding.name())));
        }
        self.reply(status, headers, if self.get { part_of(&form.content, offset, part) } else { Body::Empty })
    }

    fn reply(&self, status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>, body: Body) -> Reply {
        Reply { status, headers, body }
    }

    /// What a 200 and a 304 both carry: RFC 9110 section 15.4.5.
    fn validators(&self, form: &Form) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::with_capacity(12);
        headers.push((ETAG, form.etag.clone()));
        headers.push((CACHE_CONTROL, self.cache_control.clone()));
        if let Some(modified) = self.asset.modified {
            headers.push((LAST_MODIFIED, value(httpdate::fmt_http_date(modified))));
        }
        if self.asset.forms.len() > 1 {
            headers.push((VARY, HeaderValue::from_static("accept-encoding")));
        }
        headers
    }

    fn without_body_for_head(&self, mut reply: Reply) -> Reply {
        if !self.get {
            reply.body = Body::Empty;
        }
        reply
    }
}

fn part_of(content: &Content, offset: u64, len: u64) -> Body {
    match content {
        // In memory, so its offsets fit a usize.
        Content::Memory(bytes) => Body::Memory(bytes.slice(offset as usize..(offset + len) as usize)),
        Content::Disk(file) => Body::Disk { file: file.clone(), offset, len },
    }
}

fn value(text: impl std::fmt::Display) -> HeaderValue {
    // Numbers and dates: always a field value.
    HeaderValue::from_str(&text.to_string()).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
