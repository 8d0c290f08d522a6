//! The path of a request target, read so that it means one thing (RFC 3986 section 2.1 and 3.3).

use std::borrow::Cow;
use std::fmt::Write as _;

/// Why a path cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// `%` without two hexadecimal digits.
    #[error("a percent sign in the path is not followed by two hexadecimal digits")]
    Escape,
    /// A NUL byte, encoded or not: programs written in C end a name there.
    #[error("the path holds a NUL byte")]
    Nul,
    /// A segment `.` or `..`, plain or encoded: browsers resolve these before they send.
    #[error("the path holds a segment . or ..")]
    Dots,
}

/// The path of `target` (path and query) as files are named: percent-decoded once. `None` when no file can have that
/// name: an encoded slash is no separator, a backslash is one on other systems, and names are UTF-8.
pub fn decode(target: &str) -> Result<Option<Cow<'_, str>>, BadPath> {
    let raw = target.split('?').next().unwrap_or_default();
    let decoded = unescape(raw)?;
    if decoded.contains(&0) {
        return Err(BadPath::Nul);
    }
    // Segments end at slashes and backslashes, written any way: who sends `..%5c` hopes for a server that thinks so.
    if decoded.split(|b| matches!(b, b'/' | b'\\')).any(|segment| matches!(segment, b"." | b"..")) {
        return Err(BadPath::Dots);
    }
    let slashes = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'/').count();
    if decoded.contains(&b'\\') || slashes(&decoded) != slashes(raw.as_bytes()) || !raw.starts_with('/') {
        return Ok(None);
    }
    Ok(match decoded {
        Cow::Borrowed(_) => Some(Cow::Borrowed(raw)),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    })
}

fn unescape(raw: &str) -> Result<Cow<'_, [u8]>, BadPath> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw.as_bytes()));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            decoded.push(b);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or(BadPath::Escape);
        decoded.push((digit()? * 16 + digit()?) as u8);
    }
    Ok(Cow::Owned(decoded))
}

/// `path` as it stands in a `Location`: everything but unreserved characters and slashes is percent-encoded.
pub fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for b in path.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
            encoded.push(char::from(b));
        } else {
            let _ = write!(encoded, "%{b:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(target: &str) -> Option<String> {
        decode(target).unwrap().map(Cow::into_owned)
    }

    #[test]
    fn rfc3986_2_1_escapes_are_decoded_once_and_the_query_is_left_out() {
        assert_eq!(ok("/a/b.css?x=/../"), Some("/a/b.css".into()));
        assert_eq!(ok("/a%20b/%C3%A4"), Some("/a b/ä".into()));
        assert_eq!(ok("/%2541"), Some("/%41".into()), "decoded once, not twice");
    }

    #[test]
    fn what_no_file_is_called_is_left_to_the_app() {
        for target in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a\\b", "/%FF", "*", ""] {
            assert_eq!(ok(target), None, "{target}");
        }
    }

    #[test]
    fn rfc3986_3_3_dot_segments_are_refused_however_they_are_written() {
        for target in [
            "/..",
            "/../etc/passwd",
            "/a/../b",
            "/a/./b",
            "/.",
            "/%2e%2e/x",
            "/.%2E/x",
            "/a%2f..%2fb",
            "/..%5cx",
            "/a\\..\\b",
            "/%2e",
            "/a/..?x",
        ] {
            assert_eq!(decode(target), Err(BadPath::Dots), "{target}");
        }
        for target in ["/...", "/..a", "/a..", "/.well-known/x", "/%252e%252e/x"] {
            assert!(decode(target).is_ok(), "{target}");
        }
    }

    #[test]
    fn nul_and_broken_escapes_are_refused() {
        assert_eq!(decode("/a%00.html"), Err(BadPath::Nul));
        for target in ["/%", "/%4", "/%zz", "/%4g", "/a%+1"] {
            assert_eq!(decode(target), Err(BadPath::Escape), "{target}");
        }
    }

    #[test]
    fn encoding_leaves_nothing_that_a_browser_could_misread() {
        assert_eq!(encode("/a b/ä?#%/"), "/a%20b/%C3%A4%3F%23%25/");
    }
}
