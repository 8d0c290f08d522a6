//! Conditional requests: RFC 9110 section 13.

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{
    HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
};

/// What the conditions of a GET or HEAD come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Go,
    /// 304
    NotModified,
    /// 412
    Failed,
}

/// Section 13.2.2, in its order, for GET and HEAD.
pub fn check(headers: &HeaderMap, etag: &HeaderValue, modified: Option<SystemTime>) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !lists(headers, &IF_MATCH, |tag| strong_equal(tag, etag)) {
            return Verdict::Failed;
        }
    } else if let (Some(date), Some(modified)) = (date(headers, &IF_UNMODIFIED_SINCE), modified)
        && modified > date
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if lists(headers, &IF_NONE_MATCH, |tag| weak_equal(tag, etag)) {
            return Verdict::NotModified;
        }
    } else if let (Some(date), Some(modified)) = (date(headers, &IF_MODIFIED_SINCE), modified)
        && modified <= date
    {
        return Verdict::NotModified;
    }
    Verdict::Go
}

/// Section 8.8.3.2, strong comparison: `W/` never equals anything. Ours is always strong.
pub fn strong_equal(tag: &str, ours: &HeaderValue) -> bool {
    tag.as_bytes() == ours.as_bytes()
}

/// Section 8.8.3.2, weak comparison.
fn weak_equal(tag: &str, ours: &HeaderValue) -> bool {
    strong_equal(tag.strip_prefix("W/").unwrap_or(tag), ours)
}

/// A date, unless there are several or it is none: then the field is ignored (sections 13.1.3 and 13.1.4).
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// Whether the field is `*` or one of its entity tags satisfies `equal`.
fn lists(headers: &HeaderMap, name: &HeaderName, equal: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).any(|text| {
        // Our files exist, so "any representation" is true.
        text.trim() == "*" || Tags(text).any(&equal)
    })
}

/// The entity tags of a list. A comma may stand inside the quotes, so splitting at commas would be wrong.
struct Tags<'a>(&'a str);

impl<'a> Iterator for Tags<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start_matches([' ', '\t', ',']);
        let open = if rest.starts_with("W/\"") {
            3
        } else if rest.starts_with('"') {
            1
        } else {
            return None;
        };
        let close = open + rest[open..].find('"')?;
        let (tag, rest) = rest.split_at(close + 1);
        self.0 = rest;
        Some(tag)
    }
}
