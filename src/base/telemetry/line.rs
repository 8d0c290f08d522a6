//! Log lines made by hand: without the detours of a general logger, in the same two forms.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Writes a line to `out`: `head` is level and message, `fill` adds the fields.
pub(super) fn write(
    out: &mut Vec<u8>,
    clock: &mut Clock,
    json: bool,
    head: &Head<'_>,
    fill: impl FnOnce(&mut Line<'_>),
) {
    out.extend_from_slice(if json { b"{\"timestamp\":\"" } else { b"" });
    clock.write(out);
    let mut put = |parts: [&str; 5]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    if json {
        put(["\",\"level\":\"", head.level, "\",\"message\":\"", head.message, "\""]);
    } else {
        put(["  ", head.level, " ", head.message, ""]);
    }
    fill(&mut Line { out, json });
    if json {
        out.extend_from_slice(b",\"target\":\"");
        out.extend_from_slice(head.target.as_bytes());
        out.extend_from_slice(b"\"}");
    }
    out.push(b'\n');
}

/// How a line begins and ends: texts of ours, which need no quoting.
pub(super) struct Head<'a> {
    pub level: &'a str,
    pub message: &'a str,
    pub target: &'a str,
}

/// A line being made.
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
    json: bool,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        if self.json {
            self.out.extend_from_slice(b",\"");
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
        } else {
            self.out.push(b' ');
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
        }
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let plain = |b: u8| b.is_ascii_graphic() & (b != b'"') & (b != b'\\');
        // Nearly always; and without a way out of the loop, so that it takes many octets at a time.
        if value.bytes().fold(true, |all, b| all & plain(b)) {
            return self.quoted(self.json, |out| out.extend_from_slice(value.as_bytes()));
        }
        let quoted = self.json || value.bytes().any(|b| b <= b' ' || b == b'"');
        self.quoted(quoted, |out| {
            for c in value.chars() {
                match c {
                    '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                    c if c.is_ascii() && !c.is_ascii_control() => out.push(c as u8),
                    c if c.is_control() => {
                        let _ = write!(out, "\\u{:04x}", c as u32);
                    }
                    c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        });
    }

    fn quoted(&mut self, quoted: bool, fill: impl FnOnce(&mut Vec<u8>)) {
        let quote: &[u8] = if quoted { b"\"" } else { b"" };
        self.out.extend_from_slice(quote);
        fill(self.out);
        self.out.extend_from_slice(quote);
    }

    pub fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A duration in milliseconds, to the microsecond.
    pub fn millis(&mut self, key: &str, value: Duration) {
        self.key(key);
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.out.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
        self.out.push(b'.');
        self.out.extend_from_slice(&digits::<3>(micros % 1000));
    }

    pub fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// An address, or `-`.
    pub fn address(&mut self, key: &str, value: Option<IpAddr>) {
        self.key(key);
        let json = self.json;
        self.quoted(json, |out| match value {
            Some(address) => write_address(out, address),
            None => out.push(b'-'),
        });
    }
}

/// Adds an address in its usual form (RFC 5952). One of IPv4 is made by hand: it stands in every line, and in the head of every
/// request to a back end, and the standard library's formatter takes 1,000 instructions for it.
pub fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        let _ = write!(out, "{address}");
        return;
    };
    for (i, octet) in address.octets().into_iter().enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
    }
}

/// The last `N` decimal digits of a number.
fn digits<const N: usize>(mut n: u64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (n % 10) as u8;
        n /= 10;
    }
    digits
}

/// The time in RFC 3339, whose date and hour change less often than lines are written.
pub(super) struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self { second: u64::MAX, text: String::new() }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now.as_secs() != self.second {
            self.second = now.as_secs();
            self.text.clear();
            let at =
                i64::try_from(self.second).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
            let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let (date, time) = (at.date(), at.time());
            let _ = write!(
                self.text,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                date.year(),
                u8::from(date.month()),
                date.day(),
                time.hour(),
                time.minute(),
                time.second()
            );
        }
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'.');
        out.extend_from_slice(&digits::<6>(u64::from(now.subsec_micros())));
        out.push(b'Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_valid_json_whatever_is_in_it() {
        let mut out = b"{\"a\":1".to_vec();
        let mut line = Line { out: &mut out, json: true };
        line.text("path", "/\"\\\u{1}é\n");
        line.millis("ms", Duration::from_micros(1_002_003));
        line.address("client", None);
        line.flag("aborted", true);
        out.push(b'}');
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["path"], "/\"\\\u{1}é\n");
        assert_eq!((&value["ms"], &value["client"]), (&serde_json::json!(1002.003), &serde_json::json!("-")));
    }

    #[test]
    fn addresses_have_their_usual_form() {
        for text in ["0.0.0.0", "1.20.255.9", "255.255.255.255", "2001:db8::1", "::ffff:1.2.3.4", "::"] {
            let mut out = Vec::new();
            write_address(&mut out, text.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn a_duration_has_three_digits_after_the_point() {
        for (micros, text) in
            [(0, " ms=0.000"), (1, " ms=0.001"), (1_234_567, " ms=1234.567"), (90, " ms=0.090")]
        {
            let mut out = Vec::new();
            Line { out: &mut out, json: false }.millis("ms", Duration::from_micros(micros));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn in_plain_lines_only_what_needs_quotes_has_them() {
        for (value, text) in
            [("a/b", " k=a/b"), ("", " k="), ("a b", " k=\"a b\""), ("é", " k=é"), ("a\\", " k=a\\\\")]
        {
            let mut out = Vec::new();
            Line { out: &mut out, json: false }.text("k", value);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn the_time_is_rfc_3339() {
        let mut out = Vec::new();
        Clock::new().write(&mut out);
        let text = String::from_utf8(out).unwrap();
        OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339).unwrap();
        assert_eq!(text.len(), "2026-11-22T22:21:59.140032Z".len());
    }
}
