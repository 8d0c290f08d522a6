//! The access log: one line a request, the hottest of all log lines, written without the detours of a general logger.
//!
//! Lines are gathered in memory and written to standard error together, at most [`DELAY`] later. A process that is killed
//! outright loses what it gathered since.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use time::OffsetDateTime;

use crate::config::LogFormat;

/// How long a line may wait for others.
const DELAY: Duration = Duration::from_millis(20);
/// Octets that are gathered at most before whoever adds a line writes them out: a reader of the log that is slow slows the
/// server down, and loses nothing.
const MOST: usize = 256 * 1024;

static ENABLED: AtomicBool = AtomicBool::new(false);
static JSON: AtomicBool = AtomicBool::new(true);
static GATHERED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static WAITING: Condvar = Condvar::new();
static NEVER: Condvar = Condvar::new();
/// Held while writing, so that lines keep their order.
static WRITING: Mutex<()> = Mutex::new(());

/// Starts the log, and the thread that writes it.
pub(super) fn start(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    if ENABLED.swap(true, Ordering::Relaxed) {
        return;
    }
    let writer = || loop {
        let mut gathered = GATHERED.lock();
        while gathered.is_empty() {
            WAITING.wait(&mut gathered);
        }
        // A wait with nobody to end it: a thread of its own, outside the runtime.
        let _ = NEVER.wait_for(&mut gathered, DELAY);
        drop(gathered);
        flush();
    };
    if let Err(e) = std::thread::Builder::new().name("access-log".into()).spawn(writer) {
        tracing::error!(error = %e, "no thread for the access log: requests are not logged");
        ENABLED.store(false, Ordering::Relaxed);
    }
}

/// Writes out what was gathered. To be called before the process ends.
pub fn flush() {
    let _writing = WRITING.lock();
    let lines = std::mem::take(&mut *GATHERED.lock());
    // Nothing can be said about a standard error that does not take what is said.
    let _ = std::io::stderr().write_all(&lines);
}

/// Writes a line, which `fill` gives its fields. Nothing happens when the log is off.
pub fn line(fill: impl FnOnce(&mut Line<'_>)) {
    if !ENABLED.load(Ordering::Relaxed) {
        return;
    }
    thread_local! {
        static ROOM: RefCell<(Vec<u8>, Clock)> = const { RefCell::new((Vec::new(), Clock::new())) };
    }
    ROOM.with_borrow_mut(|(out, clock)| {
        out.clear();
        let json = JSON.load(Ordering::Relaxed);
        out.extend_from_slice(if json { b"{\"timestamp\":\"" } else { b"" });
        clock.write(out);
        out.extend_from_slice(if json {
            b"\",\"level\":\"INFO\",\"message\":\"request\""
        } else {
            b"  INFO request"
        });
        fill(&mut Line { out, json });
        out.extend_from_slice(if json { b",\"target\":\"trivet::access\"}\n" } else { b"\n" });
        let (first, full) = {
            let mut gathered = GATHERED.lock();
            let first = gathered.is_empty();
            gathered.extend_from_slice(out);
            (first, gathered.len() > MOST)
        };
        if full {
            flush();
        } else if first {
            WAITING.notify_one();
        }
    });
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

    /// A text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let quoted = self.json || value.bytes().any(|b| b <= b' ' || b == b'"');
        if quoted {
            self.out.push(b'"');
        }
        for c in value.chars() {
            match c {
                '"' | '\\' => self.out.extend_from_slice(&[b'\\', c as u8]),
                c if c.is_ascii() && !c.is_ascii_control() => self.out.push(c as u8),
                c if c.is_control() => {
                    let _ = write!(self.out, "\\u{:04x}", c as u32);
                }
                c => self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if quoted {
            self.out.push(b'"');
        }
    }

    /// A number.
    pub fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    /// A duration in milliseconds, to the microsecond.
    pub fn millis(&mut self, key: &str, value: Duration) {
        self.key(key);
        let micros = value.as_micros();
        let _ = write!(self.out, "{}.{:03}", micros / 1000, micros % 1000);
    }

    /// True or false.
    pub fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// An address, or `-`.
    pub fn address(&mut self, key: &str, value: Option<IpAddr>) {
        self.key(key);
        let quote: &[u8] = if self.json { b"\"" } else { b"" };
        self.out.extend_from_slice(quote);
        let _ = match value {
            Some(address) => write!(self.out, "{address}"),
            None => write!(self.out, "-"),
        };
        self.out.extend_from_slice(quote);
    }
}

/// The time in RFC 3339, whose date and hour change less often than lines are written.
struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    const fn new() -> Self {
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
        let _ = write!(out, ".{:06}Z", now.subsec_micros());
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
    fn the_time_is_rfc_3339() {
        let mut out = Vec::new();
        Clock::new().write(&mut out);
        let text = String::from_utf8(out).unwrap();
        OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339).unwrap();
        assert_eq!(text.len(), "2026-11-22T22:21:59.140032Z".len());
    }
}
