//! Log lines on their way to standard error: a bounded queue, and the thread that empties it.
//!
//! Whoever has something to say never waits for those who read it: a journald that stands still must not stop the site.
//! What finds no room is dropped and counted, in `trivet_log_dropped_total` and, once there is room again, in a line of the
//! log itself. The lines of all logs share the queue, so they keep their order.
//!
//! Not `tracing-appender`: it bounds lines and not octets, needs an allocation for each, and its lines know nothing of those
//! that were lost before them.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use metrics::counter;
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

/// How long a line of the access log may wait for others.
const DELAY: Duration = Duration::from_millis(20);
/// Octets that may wait: some ten thousand lines, a third of a second of the fastest node.
const ROOM: usize = 4 * 1024 * 1024;
/// Octets beyond that for what the program has to say, which the access log must not drown.
const RESERVE: usize = 256 * 1024;
/// For a standard error that somebody made non-blocking, until it takes more.
const AGAIN: Duration = Duration::from_millis(10);

/// Which log a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Access,
    Program,
}

impl Source {
    pub(super) const ALL: [Self; 2] = [Self::Access, Self::Program];

    pub(super) fn dropped(self) -> metrics::Counter {
        let log = match self {
            Self::Access => "access",
            Self::Program => "program",
        };
        counter!("trivet_log_dropped_total", "log" => log)
    }
}

/// The queue of this process.
pub(super) static QUEUE: Queue = Queue::new(ROOM, RESERVE);

#[derive(Debug)]
pub(super) struct Queue {
    room: usize,
    reserve: usize,
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug)]
struct State {
    lines: Vec<u8>,
    /// Lines that found no room since the last that did.
    lost: u64,
    /// Somebody waits for the lines: no time to gather more.
    hurry: bool,
    /// The thread has lines in its hands.
    writing: bool,
}

impl Queue {
    const fn new(room: usize, reserve: usize) -> Self {
        Self {
            room,
            reserve,
            state: Mutex::new(State { lines: Vec::new(), lost: 0, hurry: false, writing: false }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    /// Adds a line with its line end, or counts it as lost.
    pub(super) fn push(&self, source: Source, line: &[u8]) {
        let hurried = source == Source::Program;
        let room = if hurried { self.room + self.reserve } else { self.room };
        let mut state = self.state.lock();
        if state.lines.len() + line.len() > room {
            state.lost += 1;
            drop(state);
            source.dropped().increment(1);
            return;
        }
        let wake = state.lines.is_empty() || (hurried && !state.hurry);
        state.hurry |= hurried;
        state.lines.extend_from_slice(line);
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Writes to `out` what is pushed, for as long as the process lives. `lost` makes the line about as many lost ones.
    pub(super) fn serve(&self, mut out: impl Write, lost: impl Fn(u64) -> Vec<u8>) -> ! {
        let mut lines = Vec::new();
        loop {
            let mut state = self.state.lock();
            while state.lines.is_empty() {
                self.filled.wait(&mut state);
            }
            if !state.hurry {
                self.filled.wait_for(&mut state, DELAY);
            }
            // The lines that were lost came after all of these and before all that follow.
            std::mem::swap(&mut lines, &mut state.lines);
            let missing = std::mem::take(&mut state.lost);
            state.hurry = false;
            state.writing = true;
            drop(state);
            write(&mut out, &lines);
            if missing > 0 {
                write(&mut out, &lost(missing));
            }
            lines.clear();
            // After a jam, its memory goes back.
            lines.shrink_to(RESERVE);
            self.state.lock().writing = false;
            self.emptied.notify_all();
        }
    }

    /// Waits until everything is written, `limit` at most: nobody may ever read it.
    pub(super) fn flush(&self, limit: Duration) {
        let until = (Instant::now() + limit).into_std();
        let mut state = self.state.lock();
        while state.writing || !state.lines.is_empty() {
            state.hurry = true;
            self.filled.notify_one();
            if self.emptied.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}

/// Nothing can be said about a standard error that does not take what is said.
fn write(out: &mut impl Write, mut octets: &[u8]) {
    while !octets.is_empty() {
        match out.write(octets) {
            Ok(0) => return,
            Ok(written) => octets = &octets[written..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::park_timeout(AGAIN),
            Err(_) => return,
        }
    }
}

/// Where `tracing` writes its lines, each in one piece.
pub(super) struct ProgramLog;

impl Write for ProgramLog {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        QUEUE.push(Source::Program, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for ProgramLog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests;
