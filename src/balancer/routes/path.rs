//! Paths as rules see them, and what rules say about them.

use std::borrow::Cow;

use memchr::memmem;
use percent_encoding::percent_decode;
use regex::bytes::Regex;

use super::template::{Found, Rest};

/// A path as rules see it: decoded, runs of slashes as one, `.` and `..` resolved, as nginx compares it with a `location`. What a
/// back end may take for `/admin` is `/admin` here as well: `/%61dmin`, `//admin`, `/x%2F..%2Fadmin`.
pub fn readable(path: &str) -> Cow<'_, [u8]> {
    let octets = path.as_bytes();
    // Dot segments that are not hidden by %2F have been refused before.
    if memchr::memchr(b'%', octets).is_none() && memmem::find(octets, b"//").is_none() {
        return Cow::Borrowed(octets);
    }
    let decoded: Vec<u8> = percent_decode(octets).collect();
    let mut out: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut ends_in_slash = false;
    for segment in decoded.split(|b| *b == b'/') {
        ends_in_slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|b| *b == b'/').unwrap_or(0)),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if ends_in_slash || out.is_empty() {
        out.push(b'/');
    }
    Cow::Owned(out)
}

/// Which paths a rule is for.
#[derive(Debug, Clone)]
pub enum PathRule {
    /// This one.
    Exact(Vec<u8>),
    /// This one, without a slash at its end, and all below: `/api` is for `/api` and `/api/x`, not for `/apiary`. Empty: all.
    Prefix(Vec<u8>),
    /// Those that the pattern finds something in.
    Pattern(Regex),
}

impl PathRule {
    /// A prefix as it is written, with or without a slash at its end.
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(text.trim_end_matches('/').as_bytes().to_vec())
    }

    /// What it finds in a path, which came as `raw`; none where the path is not one of its own.
    pub fn find(&self, path: &[u8], raw: &str) -> Option<Found> {
        match self {
            Self::Exact(exact) => (path == exact).then(Found::default),
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_slice())?;
                if !rest.is_empty() && rest[0] != b'/' {
                    return None;
                }
                // Where the prefix came as it is written here, so may what follows go on.
                let as_it_came = raw.as_bytes().get(prefix.len()..).filter(|after| {
                    raw.as_bytes().starts_with(prefix) && after.first().is_none_or(|b| *b == b'/')
                });
                let rest = match as_it_came {
                    Some(_) => Rest::AsItCame(prefix.len()),
                    None => Rest::Decoded(rest.to_vec()),
                };
                Some(Found { rest: Some(rest), ..Found::default() })
            }
            Self::Pattern(pattern) => {
                // Most paths are not its own, and `captures` allocates before it looks.
                if !pattern.is_match(path) {
                    return None;
                }
                let groups = pattern.captures(path)?;
                let octets = |g: Option<regex::bytes::Match<'_>>| g.map(|m| m.as_bytes().to_vec());
                let groups = groups.iter().map(|g| octets(g).unwrap_or_default()).collect();
                Some(Found { groups, ..Found::default() })
            }
        }
    }

    /// Whether it may be for a path that begins like this.
    pub fn may_be_below(&self, beginning: &[u8]) -> bool {
        match self {
            Self::Exact(path) => path.starts_with(beginning),
            Self::Prefix(prefix) => prefix.starts_with(beginning) || beginning.starts_with(prefix),
            Self::Pattern(_) => true,
        }
    }

    /// Whether it is surely for every path that `other` is for.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(all), _) if all.is_empty() => true,
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Prefix(_) | Self::Pattern(_), Self::Exact(other)) => {
                self.find(other, &String::from_utf8_lossy(other)).is_some()
            }
            (Self::Prefix(prefix), Self::Prefix(other)) => {
                other.strip_prefix(prefix.as_slice()).is_some_and(|r| r.is_empty() || r[0] == b'/')
            }
            (Self::Pattern(one), Self::Pattern(other)) => one.as_str() == other.as_str(),
            (Self::Exact(_) | Self::Pattern(_), Self::Prefix(_))
            | (Self::Exact(_) | Self::Prefix(_), Self::Pattern(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(rule: &PathRule, raw: &str) -> Option<Found> {
        rule.find(&readable(raw), raw)
    }

    #[test]
    fn a_path_is_what_a_back_end_may_take_it_for() {
        for (raw, expected) in [
            ("/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("//admin///x/", "/admin/x/"),
            ("/a%2Fb", "/a/b"),
            ("/a%2F/b", "/a/b"),
            ("/100%25", "/100%"),
            ("/%zz", "/%zz"),
            ("/x%2F..%2Fadmin", "/admin"),
            ("/x/%2F.%2Fy%2F", "/x/y/"),
            ("/x%2F..%2F..%2F..", "/"),
            ("/%2F", "/"),
            ("*", "*"),
        ] {
            assert_eq!(String::from_utf8_lossy(&readable(raw)), expected, "{raw}");
        }
    }

    #[test]
    fn a_prefix_ends_where_a_segment_does() {
        for prefix in ["/api", "/api/"] {
            let rule = PathRule::prefix(prefix);
            for (raw, expected) in [
                ("/api", Some(Rest::AsItCame(4))),
                ("/api/", Some(Rest::AsItCame(4))),
                ("/api/x%20y", Some(Rest::AsItCame(4))),
                ("/%61pi/x", Some(Rest::Decoded(b"/x".to_vec()))),
                ("//api/x", Some(Rest::Decoded(b"/x".to_vec()))),
                ("/api%2Fx", Some(Rest::Decoded(b"/x".to_vec()))),
                ("/apiary", None),
                ("/ap", None),
                ("/", None),
            ] {
                assert_eq!(finds(&rule, raw).map(|f| f.rest), expected.map(Some), "{prefix} {raw}");
            }
        }
        assert!(finds(&PathRule::prefix("/"), "/anything").is_some());
    }

    #[test]
    fn a_pattern_finds_its_groups() {
        let rule = PathRule::Pattern(Regex::new("^/u/([0-9]+)(/x)?$").unwrap());
        assert_eq!(finds(&rule, "/u/7").unwrap().groups, [&b"/u/7"[..], b"7", b""]);
        assert_eq!(finds(&rule, "/u/x"), None);
    }

    #[test]
    fn what_covers_what() {
        let exact = |path: &str| PathRule::Exact(path.into());
        let pattern = |text| PathRule::Pattern(Regex::new(text).unwrap());
        for (one, other, expected) in [
            (PathRule::prefix("/"), pattern("x"), true),
            (PathRule::prefix("/a"), PathRule::prefix("/a/b"), true),
            (PathRule::prefix("/a"), PathRule::prefix("/ab"), false),
            (PathRule::prefix("/a/b"), PathRule::prefix("/a"), false),
            (PathRule::prefix("/a"), exact("/a/b"), true),
            (exact("/a"), PathRule::prefix("/a"), false),
            (pattern("^/a"), exact("/ab"), true),
            (pattern("^/a"), pattern("^/a"), true),
            (pattern("^/a"), pattern("^/ab"), false),
        ] {
            assert_eq!(one.covers(&other), expected, "{one:?} {other:?}");
        }
    }
}
