//! Range requests: RFC 9110 section 14.

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{HeaderValue, IF_RANGE, RANGE};

use super::condition::strong_equal;

/// What of the content is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected {
    /// All of it: no range was asked for, or one that we may ignore.
    Whole,
    /// From `first` to `last`, both included.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// 416
    Unsatisfiable,
}

/// The part of `len` bytes that a GET asks for.
pub fn select(headers: &HeaderMap, len: u64, etag: &HeaderValue, modified: Option<SystemTime>) -> Selected {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Selected::Whole };
    if !if_range_holds(headers, etag, modified) {
        return Selected::Whole;
    }
    match value.to_str().ok().and_then(|text| parse(text, len)) {
        Some(selected) => selected,
        // Another unit, several ranges, or no range at all: section 14.2 allows to ignore the field.
        None => Selected::Whole,
    }
}

/// Section 13.1.5: a strong entity tag, or a date that is exactly ours.
fn if_range_holds(headers: &HeaderMap, etag: &HeaderValue, modified: Option<SystemTime>) -> bool {
    let Some(value) = headers.get(IF_RANGE) else { return true };
    let Ok(text) = value.to_str() else { return false };
    if text.starts_with('"') || text.starts_with("W/") {
        return strong_equal(text, etag);
    }
    modified.is_some() && httpdate::parse_http_date(text).ok() == modified
}

/// A single range of bytes, section 14.1.2.
fn parse(text: &str, len: u64) -> Option<Selected> {
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return match (suffix, len) {
            (0, _) => Some(Selected::Unsatisfiable),
            // An empty file has no part that a Content-Range could name; all of it is what was asked for.
            (_, 0) => None,
            _ => Some(Selected::Part { first: len.saturating_sub(suffix), last: len - 1 }),
        };
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    if first >= len {
        return Some(Selected::Unsatisfiable);
    }
    Some(Selected::Part { first, last: last.min(len - 1) })
}

/// Digits; more than fit count as more than any file has.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}
