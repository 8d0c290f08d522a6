//! The access log: one line a request, the hottest of all log lines.
//!
//! Lines are gathered in memory and written to standard error together, some milliseconds later ([`queue`](super::queue)).
//! A process that is killed outright loses what it gathered since.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use super::line::Line;
use super::line::{self, Clock, Head};
use super::queue::{QUEUE, Source};
use crate::config::LogFormat;

static ENABLED: AtomicBool = AtomicBool::new(false);
static JSON: AtomicBool = AtomicBool::new(true);

/// How long the end of a program waits for the reader of its log.
const LAST_WORDS: Duration = Duration::from_secs(1);

const REQUEST: Head<'_> = Head { level: "INFO", message: "request", target: "trivet::access" };
const LOST: Head<'_> = Head {
    level: "WARN",
    message: "log lines were lost: standard error was not read in time",
    target: "trivet::telemetry",
};

pub(super) fn start(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    ENABLED.store(true, Ordering::Relaxed);
}

/// Writes out what was gathered, as far as it is read. To be called before the process ends.
pub fn flush() {
    QUEUE.flush(LAST_WORDS);
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
        line::write(out, clock, JSON.load(Ordering::Relaxed), &REQUEST, fill);
        QUEUE.push(Source::Access, out);
    });
}

/// The line about lines that are missing.
pub(super) fn lost(format: LogFormat, count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let json = format == LogFormat::Json;
    line::write(&mut out, &mut Clock::new(), json, &LOST, |line| line.number("lost", count));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_missing_are_told_in_a_line() {
        let line: serde_json::Value = serde_json::from_slice(&lost(LogFormat::Json, 3)).unwrap();
        let said = [&line["level"], &line["target"], &line["lost"]];
        assert_eq!(serde_json::json!(said), serde_json::json!(["WARN", "trivet::telemetry", 3]));
    }
}
