//! The cookies of a request: lines of `name=value` pairs (RFC 6265 section 4.2.1).

use std::borrow::Cow;

/// The values of the cookie of this name in these lines. There may be several, of other paths and domains (section 5.4).
pub fn values<'a>(lines: impl IntoIterator<Item = &'a [u8]>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    lines.into_iter().flat_map(pairs).filter_map(move |pair| value(pair, name))
}

/// A line without the cookie of this name; none when there is no other in it.
pub fn without<'a>(line: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    if pairs(line).all(|pair| value(pair, name).is_none()) {
        return Some(Cow::Borrowed(line));
    }
    let others: Vec<&[u8]> =
        pairs(line).filter(|pair| !pair.is_empty() && value(pair, name).is_none()).collect();
    (!others.is_empty()).then(|| Cow::Owned(others.join(&b"; "[..])))
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b';').map(<[u8]>::trim_ascii)
}

fn value<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name_wherever_it_stands() {
        let lines = [&b"xsrv=0; srv=1;srv2=2"[..], b"srv=", b"SRV=3; srv", b" srv=4 "];
        let found: Vec<&[u8]> = values(lines, "srv").collect();
        assert_eq!(found, [&b"1"[..], b"", b"4"]);
    }

    #[test]
    fn what_is_left_out_leaves_the_others_as_they_were() {
        for (line, rest) in [
            ("a=1; srv=2; b=\"x y\"", Some("a=1; b=\"x y\"")),
            ("srv=2;a=1;;srv=3", Some("a=1")),
            ("a=1;  b=srv=2", Some("a=1;  b=srv=2")),
            ("srv=2", None),
            ("srv=; srv=1", None),
            ("", Some("")),
        ] {
            assert_eq!(without(line.as_bytes(), "srv").as_deref(), rest.map(str::as_bytes), "{line}");
        }
    }
}
