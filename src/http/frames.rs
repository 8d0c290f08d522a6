//! HTTP/2 frames that cost the sender nothing, counted as they come in.
//!
//! The h2 library bounds what it keeps: streams, header lists, CONTINUATION frames of one list, streams reset before they
//! were taken up, small and empty DATA frames. What it does not bound is work: a client may send PING, SETTINGS, PRIORITY,
//! WINDOW_UPDATE and unknown frames as fast as it likes, and reset each request as soon as it has reached a back end
//! (CVE-2023-44487; CVE-2019-9511 to 9518 are the others). So the bytes that a connection reads are followed from frame
//! header to frame header (RFC 9113 section 4.1), without a copy, and a connection that sends more of a kind than anyone
//! needs is ended.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

/// Frames a second that one connection may send, by kind, on average; ten times as many at once. Nothing here bounds
/// requests and their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrameRates {
    /// RST_STREAM (RFC 9113 section 6.4): requests taken back. A page that is left may take back all its images.
    pub rst_stream: u32,
    /// SETTINGS and their acknowledgements (section 6.5). One or two in a connection are usual.
    pub settings: u32,
    /// PING and their acknowledgements (section 6.7). gRPC sends some for each large message.
    pub ping: u32,
    /// PRIORITY (section 6.3) and PRIORITY_UPDATE (RFC 9218 section 7). Some for each request.
    pub priority: u32,
    /// WINDOW_UPDATE (section 6.9), beyond one for every 32 bytes that were sent to the client.
    pub window_update: u32,
    /// DATA, HEADERS and CONTINUATION without content that end nothing (section 10.5).
    pub empty: u32,
    /// Kinds that do not exist (section 4.1 has them ignored). Browsers send a few, so that nobody forgets to.
    pub unknown: u32,
}

impl Default for FrameRates {
    fn default() -> Self {
        Self {
            rst_stream: 50,
            settings: 5,
            ping: 20,
            priority: 200,
            window_update: 500,
            empty: 10,
            unknown: 10,
        }
    }
}

impl FrameRates {
    /// Each with its key in the configuration.
    pub fn all(&self) -> [(&'static str, u32); KINDS] {
        [
            ("rst_stream", self.rst_stream),
            ("settings", self.settings),
            ("ping", self.ping),
            ("priority", self.priority),
            ("window_update", self.window_update),
            ("empty", self.empty),
            ("unknown", self.unknown),
        ]
    }
}

/// How many seconds' worth may come at once.
const BURST: Duration = Duration::from_secs(10);

/// Bytes sent to the client that make one WINDOW_UPDATE free. The most diligent clients send two for each DATA frame,
/// however small.
const BYTES_PER_UPDATE: u64 = 32;

/// Updates that can be saved up.
const MOST_FREE_UPDATES: u64 = 100_000;

/// The client sends more frames of a kind than anyone needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many {0} frames")]
pub struct Flood(pub &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the client's preface (section 3.4), with so many bytes to come.
    Preface(usize),
    /// In a frame's header, of which so many bytes have come.
    Header(usize),
    /// In a frame's content, with so many bytes to come.
    Content(usize),
}

/// Follows the bytes of one connection.
#[derive(Debug)]
pub struct FrameWatch {
    place: Place,
    header: [u8; HEADER],
    rates: FrameRates,
    /// When each kind's bucket is full again; see [`Kind`].
    full_at: [Instant; KINDS],
    sent: u64,
    /// A request's head has begun and not ended.
    in_head: bool,
}

const HEADER: usize = 9;
const PREFACE: usize = 24;

#[derive(Clone, Copy)]
enum Kind {
    RstStream,
    Settings,
    Ping,
    Priority,
    WindowUpdate,
    Empty,
    Unknown,
}

const KINDS: usize = 7;

impl FrameWatch {
    /// For a connection of which nothing has been read.
    pub fn new(rates: FrameRates) -> Self {
        let now = Instant::now();
        Self {
            place: Place::Preface(PREFACE),
            header: [0; HEADER],
            rates,
            full_at: [now; KINDS],
            sent: 0,
            in_head: false,
        }
    }

    /// Whether a part of a request's head has come, and not yet its end: HEADERS and CONTINUATION up to END_HEADERS
    /// (sections 6.2 and 6.10).
    pub fn is_in_head(&self) -> bool {
        // The last frame of a head says so before its content has come.
        self.in_head || (matches!(self.place, Place::Content(_)) && matches!(self.header[3], 0x1 | 0x9))
    }

    /// Bytes were sent to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes as u64).min(MOST_FREE_UPDATES * BYTES_PER_UPDATE);
    }

    /// Bytes came from the client.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            match self.place {
                Place::Preface(left) => {
                    let n = left.min(bytes.len());
                    bytes = &bytes[n..];
                    self.place = if n == left { Place::Header(0) } else { Place::Preface(left - n) };
                }
                Place::Content(left) => {
                    let n = left.min(bytes.len());
                    bytes = &bytes[n..];
                    self.place = if n == left { Place::Header(0) } else { Place::Content(left - n) };
                }
                Place::Header(have) => {
                    let n = (HEADER - have).min(bytes.len());
                    self.header[have..have + n].copy_from_slice(&bytes[..n]);
                    bytes = &bytes[n..];
                    if have + n < HEADER {
                        self.place = Place::Header(have + n);
                        continue;
                    }
                    let [a, b, c, kind, flags, ..] = self.header;
                    let length = u32::from_be_bytes([0, a, b, c]) as usize;
                    self.count(kind, flags, length, now)?;
                    self.place = if length == 0 { Place::Header(0) } else { Place::Content(length) };
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: u8, flags: u8, length: usize, now: Instant) -> Result<(), Flood> {
        const END_STREAM: u8 = 0x1;
        const END_HEADERS: u8 = 0x4;
        if matches!(kind, 0x1 | 0x9) {
            self.in_head = flags & END_HEADERS == 0;
        }
        let rates = self.rates;
        let (kind, rate, name) = match kind {
            // Padding alone is no content; it can hide only in a frame that is not empty, and the library bounds those.
            0x0 if length == 0 && flags & END_STREAM == 0 => (Kind::Empty, rates.empty, "empty DATA"),
            0x1 if length == 0 => (Kind::Empty, rates.empty, "empty HEADERS"),
            0x9 if length == 0 && flags & END_HEADERS == 0 => {
                (Kind::Empty, rates.empty, "empty CONTINUATION")
            }
            0x0 | 0x1 | 0x9 => return Ok(()),
            0x2 | 0x10 => (Kind::Priority, rates.priority, "PRIORITY"),
            0x3 => (Kind::RstStream, rates.rst_stream, "RST_STREAM"),
            0x4 => (Kind::Settings, rates.settings, "SETTINGS"),
            0x6 => (Kind::Ping, rates.ping, "PING"),
            0x8 if self.sent >= BYTES_PER_UPDATE => {
                self.sent -= BYTES_PER_UPDATE;
                return Ok(());
            }
            0x8 => (Kind::WindowUpdate, rates.window_update, "WINDOW_UPDATE"),
            // PUSH_PROMISE is an error of a client's at once, GOAWAY comes once or twice.
            _ => (Kind::Unknown, rates.unknown, "unknown"),
        };
        let full_at = &mut self.full_at[kind as usize];
        let after = (*full_at).max(now) + Duration::from_secs(1) / rate.max(1);
        if after - now > BURST {
            return Err(Flood(name));
        }
        *full_at = after;
        Ok(())
    }
}

/// Follows what is sent to a client, for the streams that the library resets by itself, for errors of the client's (RFC 9113
/// section 5.4.2). We reset none for those reasons, and of a malformed request (section 8.1.1) nobody else hears.
#[derive(Debug, Default)]
pub struct ResetWatch {
    head: [u8; HEADER + 4],
    have: usize,
    skip: usize,
}

impl ResetWatch {
    /// Bytes were sent: for each stream that they reset for an error of the client's, its id and whether it is
    /// PROTOCOL_ERROR.
    pub fn sent(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32, bool)) {
        const RST_STREAM: u8 = 0x3;
        const PROTOCOL_ERROR: u32 = 1;
        const FLOW_CONTROL_ERROR: u32 = 3;
        const STREAM_CLOSED: u32 = 5;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                (self.skip, bytes) = (self.skip - n, &bytes[n..]);
                continue;
            }
            let wanted = if self.have >= HEADER { self.head.len() } else { HEADER };
            let n = (wanted - self.have).min(bytes.len());
            self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            (self.have, bytes) = (self.have + n, &bytes[n..]);
            let [a, b, c, kind, ..] = self.head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.have == HEADER && (kind, length) != (RST_STREAM, 4) {
                (self.have, self.skip) = (0, length);
            } else if self.have == self.head.len() {
                let [_, _, _, _, _, s, t, u, v, d, e, f, g] = self.head;
                let (stream, code) =
                    (u32::from_be_bytes([s & 0x7f, t, u, v]), u32::from_be_bytes([d, e, f, g]));
                if matches!(code, PROTOCOL_ERROR | FLOW_CONTROL_ERROR | STREAM_CLOSED) {
                    reset(stream, code == PROTOCOL_ERROR);
                }
                self.have = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9113_8_1_1_resets_of_malformed_requests_are_seen_however_the_bytes_are_cut() {
        let reset = |code: u8| [&[0, 0, 4, 3, 0, 0, 0, 0, 1], &[0, 0, 0, code][..]].concat();
        let stream = [
            frame(0x4, 0, 18),
            reset(1),
            frame(0x0, 0, 300),
            reset(7),
            frame(0x4, 1, 0),
            reset(1),
            frame(0x8, 0, 4),
            reset(8),
            reset(5),
            reset(1),
        ]
        .concat();
        for size in [1, 2, 4, 9, 12, 13, 14, 100, stream.len()] {
            let mut watch = ResetWatch::default();
            let mut seen = Vec::new();
            stream.chunks(size).for_each(|piece| watch.sent(piece, |stream, is| seen.push((stream, is))));
            assert_eq!(seen, [(1, true), (1, true), (1, false), (1, true)], "in pieces of {size}");
        }
    }

    const PREFACE_TEXT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        [vec![a, b, c, kind, flags, 0, 0, 0, 1], vec![0xff; length]].concat()
    }

    fn watch() -> FrameWatch {
        let mut watch = FrameWatch::new(FrameRates::default());
        watch.received(PREFACE_TEXT, Instant::now()).unwrap();
        watch
    }

    /// How many of these frames are taken at once.
    fn taken(watch: &mut FrameWatch, frame: &[u8], now: Instant) -> usize {
        (0..100_000).take_while(|_| watch.received(frame, now).is_ok()).count()
    }

    #[test]
    fn rfc9113_10_5_each_kind_has_its_rate_and_ten_seconds_of_it_at_once() {
        let mut watch = watch();
        let now = Instant::now();
        for (kind, length, rate) in [
            (0x3, 4, 50),
            (0x4, 0, 5),
            (0x6, 8, 20),
            (0x2, 5, 200),
            (0x8, 4, 500),
            (0x0, 0, 10),
            (0xbb, 3, 10),
        ] {
            let frame = frame(kind, 0, length);
            assert_eq!(taken(&mut watch, &frame, now), rate * 10, "kind {kind}");
            assert_eq!(taken(&mut watch, &frame, now + Duration::from_secs(2)), rate * 2, "kind {kind}");
        }
    }

    #[test]
    fn requests_and_their_data_are_not_counted() {
        let mut watch = watch();
        let now = Instant::now();
        for _ in 0..10_000 {
            watch.received(&frame(0x1, 0x5, 30), now).unwrap();
            watch.received(&frame(0x0, 0x0, 100), now).unwrap();
            watch.received(&frame(0x0, 0x1, 0), now).unwrap();
        }
    }

    #[test]
    fn who_takes_much_may_update_often() {
        let mut watch = watch();
        let now = Instant::now();
        watch.sent(32 * 20_000);
        assert_eq!(taken(&mut watch, &frame(0x8, 0, 4), now), 20_000 + 5_000);
    }

    #[test]
    fn what_is_counted_does_not_depend_on_how_the_bytes_are_cut() {
        let stream = [
            PREFACE_TEXT.to_vec(),
            frame(0x4, 0, 18),
            frame(0x0, 0, 300),
            frame(0x6, 0, 8).repeat(200),
            frame(0x6, 0, 8),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 100, stream.len()] {
            let mut watch = FrameWatch::new(FrameRates::default());
            let now = Instant::now();
            let mut at = 0;
            let flood = stream.chunks(size).find_map(|piece| {
                at += piece.len();
                watch.received(piece, now).err()
            });
            assert_eq!(flood, Some(Flood("PING")));
            // Seen with the last byte of the header that is too much.
            let header_end = stream.len() - 8;
            assert!(at >= header_end && at < header_end + size, "{at} in pieces of {size}");
        }
    }
}
