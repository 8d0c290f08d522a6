//! Where a body ends (RFC 9112 section 6), and how it is written again.
//!
//! A body is never copied through as it came: the framing is taken off on one side and put on anew on the other, so that
//! what the next hop reads is what was read here.

use bytes::{Buf, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::field;
use crate::scan::Scan;
use crate::strict::is_token;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// By its length in octets.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection; answers only.
    Close,
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// RFC 9112 section 7.1: no size, too many digits, something other than an extension after it.
    #[error("malformed chunk size")]
    Size,
    /// RFC 9112 section 7.1: a line that does not end in CRLF.
    #[error("a line of the chunked body does not end in CRLF")]
    LineEnd,
    /// RFC 9112 section 7.1.1: longer than anyone needs, or with control characters.
    #[error("malformed chunk extension")]
    Extension,
    /// RFC 9112 section 7.1.2.
    #[error("malformed trailer section")]
    Trailer,
    /// RFC 9112 section 8: the connection ended before the body.
    #[error("the connection ended before the body")]
    Incomplete,
}

/// Octets that chunk extensions may have; none that are in use have any.
const MAX_EXTENSION: u32 = 256;
/// Octets of a trailer section.
const MAX_TRAILER: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    /// White space after the size, which only an extension may follow.
    Blank {
        value: u64,
        length: u32,
    },
    Extension {
        value: u64,
        length: u32,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailer(Scan),
    End,
}

/// Takes the framing off, over as many calls as the body takes to come.
#[derive(Debug, Clone)]
pub struct Decoder {
    framing: Framing,
    state: State,
}

/// What [`Decoder::step`] found at the start of the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// So many octets of content.
    Data(usize),
    /// The end. The trailer fields that may go on, each as a line with its CRLF.
    End(Vec<u8>),
    /// More must come first.
    More,
}

impl Decoder {
    /// For a body that begins now.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::End,
            Framing::Length(left) => State::Data { left },
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::Close => State::Data { left: u64::MAX },
        };
        Self { framing, state }
    }

    /// Whether the whole body has been read.
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// Reads on in `buffer`. Framing is taken out of it; content is left at its start for the caller to take, all of what
    /// [`Step::Data`] says, before the next call.
    pub fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, BadBody> {
        loop {
            match self.state {
                State::End => return Ok(Step::End(Vec::new())),
                State::Data { left } => {
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    if n == 0 {
                        return Ok(Step::More);
                    }
                    self.took(left, n);
                    return Ok(Step::Data(n));
                }
                State::Trailer(mut scan) => {
                    let end = scan.end(buffer).map_err(|_| BadBody::LineEnd)?;
                    self.state = State::Trailer(scan);
                    if end.unwrap_or(buffer.len()) > MAX_TRAILER {
                        return Err(BadBody::Trailer);
                    }
                    let Some(end) = end else { return Ok(Step::More) };
                    let section = buffer.split_to(end);
                    self.state = State::End;
                    return Ok(Step::End(trailer(&section)?));
                }
                _ => {
                    let Some(byte) = buffer.first().copied() else { return Ok(Step::More) };
                    self.state = line(self.state, byte)?;
                    buffer.advance(1);
                }
            }
        }
    }

    fn took(&mut self, left: u64, n: usize) {
        self.state = match self.framing {
            Framing::Close => State::Data { left },
            _ if left > n as u64 => State::Data { left: left - n as u64 },
            Framing::Chunked => State::DataCr,
            _ => State::End,
        };
    }

    /// Octets that the current piece of content has left, as far as it has been announced.
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Data { left } if self.framing != Framing::Close => left,
            _ => 0,
        }
    }

    /// The connection ended.
    pub fn eof(&mut self) -> Result<(), BadBody> {
        if self.framing == Framing::Close {
            self.state = State::End;
        }
        if self.is_end() { Ok(()) } else { Err(BadBody::Incomplete) }
    }
}

/// The states between the pieces of content, octet by octet.
fn line(state: State, byte: u8) -> Result<State, BadBody> {
    Ok(match (state, byte) {
        (State::Size { value, digits }, b) if b.is_ascii_hexdigit() => {
            // Sixteen digits fill a u64; the topmost is left alone, so that sums stay in range.
            if digits == 15 {
                return Err(BadBody::Size);
            }
            let digit = char::from(b).to_digit(16).map_or(0, u64::from);
            State::Size { value: value * 16 + digit, digits: digits + 1 }
        }
        (State::Size { digits: 0, .. }, _) => return Err(BadBody::Size),
        (State::Size { value, .. }, b'\r') => State::SizeLf { value },
        (State::Size { value, .. }, b';') => State::Extension { value, length: 1 },
        (State::Size { value, .. }, b' ' | b'\t') => State::Blank { value, length: 1 },
        (State::Blank { value, length }, b' ' | b'\t') if length < MAX_EXTENSION => {
            State::Blank { value, length: length + 1 }
        }
        (State::Blank { value, length }, b';') => State::Extension { value, length },
        (State::Extension { value, .. }, b'\r') => State::SizeLf { value },
        (State::Extension { value, length }, b) if b == b'\t' || (b >= 0x20 && b != 0x7f) => {
            if length == MAX_EXTENSION {
                return Err(BadBody::Extension);
            }
            State::Extension { value, length: length + 1 }
        }
        (State::Size { .. } | State::Blank { .. }, b'\n') => return Err(BadBody::LineEnd),
        (State::Size { .. } | State::Blank { .. }, _) => return Err(BadBody::Size),
        (State::Extension { .. }, b'\n') => return Err(BadBody::LineEnd),
        (State::Extension { .. }, _) => return Err(BadBody::Extension),
        (State::SizeLf { value: 0 }, b'\n') => State::Trailer(Scan::default()),
        (State::SizeLf { value }, b'\n') => State::Data { left: value },
        (State::DataCr, b'\r') => State::DataLf,
        (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
        _ => return Err(BadBody::LineEnd),
    })
}

/// The fields of a trailer section that may go on (RFC 9110 section 6.5.1).
fn trailer(section: &[u8]) -> Result<Vec<u8>, BadBody> {
    if section == b"\r\n" {
        return Ok(Vec::new());
    }
    let mut room = [httparse::EMPTY_HEADER; 64];
    let Ok(httparse::Status::Complete((end, fields))) = httparse::parse_headers(section, &mut room) else {
        return Err(BadBody::Trailer);
    };
    if end != section.len() {
        return Err(BadBody::Trailer);
    }
    let mut out = Vec::new();
    for f in fields {
        if !field::forbidden_in_trailer(f.name.as_bytes()) {
            field::write(&mut out, f.name.as_bytes(), f.value.trim_ascii());
        }
    }
    Ok(out)
}

/// Trailer fields as HTTP/2 has them, from lines that a [`Decoder`] let pass.
pub fn trailer_map(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    let mut room = [httparse::EMPTY_HEADER; 64];
    let section = [lines, b"\r\n"].concat();
    if let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&section, &mut room) {
        for f in fields {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(f.name.as_bytes()), HeaderValue::from_bytes(f.value))
            {
                map.append(name, value);
            }
        }
    }
    map
}

/// The trailer fields of an HTTP/2 message that may go on, each as a line (RFC 9110 section 6.5.1).
pub fn trailer_lines(map: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in map {
        let name = name.as_str().as_bytes();
        // The library takes names that are no tokens.
        if !field::forbidden_in_trailer(name) && name.iter().all(|b| is_token(*b)) {
            field::write(&mut out, name, value.as_bytes().trim_ascii());
        }
    }
    out
}

/// Adds a chunk.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    write_chunk_size(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

fn write_chunk_size(out: &mut Vec<u8>, n: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut shift = usize::BITS - n.leading_zeros().min(usize::BITS - 1);
    shift = shift.div_ceil(4) * 4;
    while shift > 0 {
        shift -= 4;
        out.push(DIGITS[(n >> shift) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Adds the last chunk and the trailer section.
pub fn write_last_chunk(out: &mut Vec<u8>, trailer: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailer);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (Vec<u8>, Vec<u8>, Vec<u8>);

    /// Content and trailer of a chunked body that comes in pieces of `size`, and what is left over.
    fn decode(bytes: &[u8], size: usize) -> Result<Option<Parts>, BadBody> {
        let (mut decoder, mut buffer, mut content) =
            (Decoder::new(Framing::Chunked), BytesMut::new(), Vec::new());
        let mut pieces = bytes.chunks(size);
        loop {
            match decoder.step(&mut buffer)? {
                Step::Data(n) => content.extend_from_slice(&buffer.split_to(n)),
                Step::End(trailer) => {
                    let rest = [&buffer[..], &pieces.flatten().copied().collect::<Vec<_>>()].concat();
                    return Ok(Some((content, trailer, rest)));
                }
                Step::More => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn rfc9112_7_1_chunks_are_put_together_however_they_are_cut() {
        let body =
            b"5;a=b\r\nhello\r\n00A ;x\r\n, world!!!\r\n0\r\nX-Sum: 1 \r\nContent-Length: 9\r\n\r\nGET";
        for size in 1..body.len() {
            let (content, trailer, rest) = decode(body, size).unwrap().unwrap();
            assert_eq!(content, b"hello, world!!!");
            assert_eq!(trailer, b"X-Sum: 1\r\n", "only what may stand there");
            assert_eq!(rest, b"GET");
        }
    }

    #[test]
    fn rfc9112_7_1_what_is_no_chunk_is_refused() {
        for (body, bad) in [
            (&b"x\r\n"[..], BadBody::Size),
            (b"\r\n", BadBody::Size),
            (b"-1\r\n", BadBody::Size),
            (b"0x5\r\nhello", BadBody::Size),
            (b"5 \r\nhello", BadBody::Size),
            (b"5\nhello", BadBody::LineEnd),
            (b"5;a\nhello", BadBody::LineEnd),
            (b"5;a\0\r\n", BadBody::Extension),
            (b"5\rhello", BadBody::LineEnd),
            (b"5\r\nhello\n0\r\n\r\n", BadBody::LineEnd),
            (b"5\r\nhelloo\r\n", BadBody::LineEnd),
            (b"5\r\nhello\r0", BadBody::LineEnd),
            (b"ffffffffffffffff\r\n", BadBody::Size),
            (b"00000000000000000005\r\nhello", BadBody::Size),
            (b"0\r\nX: y\n\r\n", BadBody::LineEnd),
            (b"0\r\nX : y\r\n\r\n", BadBody::Trailer),
            (b"0\r\n x\r\n\r\n", BadBody::Trailer),
        ] {
            for size in [1, 3, 100] {
                assert_eq!(decode(body, size), Err(bad), "{}", String::from_utf8_lossy(body));
            }
        }
        let long = format!("5;{}\r\nhello", "a".repeat(300));
        assert_eq!(decode(long.as_bytes(), 7), Err(BadBody::Extension));
        let long = format!("0\r\nX: {}\r\n\r\n", "a".repeat(9000));
        assert_eq!(decode(long.as_bytes(), 1000), Err(BadBody::Trailer));
    }

    #[test]
    fn rfc9112_8_a_body_cut_short_is_incomplete() {
        for framing in [Framing::Length(5), Framing::Chunked] {
            assert_eq!(Decoder::new(framing).eof(), Err(BadBody::Incomplete));
        }
        assert_eq!(Decoder::new(Framing::Close).eof(), Ok(()));
        assert_eq!(decode(b"5\r\nhel", 2), Ok(None));
    }

    #[test]
    fn a_chunk_says_its_size_in_hexadecimal() {
        for n in [1, 15, 16, 255, 256, 65536, 1_000_000] {
            let mut out = Vec::new();
            write_chunk_size(&mut out, n);
            assert_eq!(out, format!("{n:x}\r\n").into_bytes());
        }
    }
}
