//! Where a head ends.

use memchr::memchr;

use crate::refusal::Refusal;

/// Looks for the empty line that ends a head, over as many calls as the head takes to come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Octets looked at.
    seen: usize,
    /// Where the first line ends, CRLF included.
    first: usize,
    /// Where the current line begins.
    line: usize,
}

impl Scan {
    /// The length of the head at the start of `bytes`, its empty line included; `None` when more must come. A line that ends
    /// in LF alone is an error as soon as it is there (RFC 9112 section 2.2): what it hides depends on who reads it.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(lf) = memchr(b'\n', &bytes[self.seen..]).map(|at| self.seen + at) {
            if lf == self.line || bytes[lf - 1] != b'\r' {
                return Err(Refusal::BareLf);
            }
            let empty = lf - self.line == 1;
            if self.line == 0 {
                self.first = lf + 1;
            }
            self.seen = lf + 1;
            self.line = self.seen;
            if empty {
                return Ok(Some(self.seen));
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }

    /// The length of the first line once it is complete, without its CRLF.
    pub fn first_line(&self) -> Option<usize> {
        self.first.checked_sub(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_is_cut() {
        let bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        for cut in 0..bytes.len() {
            let mut scan = Scan::default();
            let first = scan.end(&bytes[..cut]).unwrap();
            assert_eq!(first, (cut >= 27).then_some(27));
            if first.is_none() {
                assert_eq!(scan.end(bytes).unwrap(), Some(27), "{cut}");
            }
        }
    }

    #[test]
    fn rfc9112_2_2_a_bare_lf_is_seen_at_once() {
        for bytes in ["GET / HTTP/1.1\n", "\n", "GET / HTTP/1.1\r\n\n", "a\r\nb\n\r\n"] {
            assert_eq!(Scan::default().end(bytes.as_bytes()), Err(Refusal::BareLf), "{bytes:?}");
        }
    }
}
