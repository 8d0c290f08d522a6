//! What the watchdog vouches for: the loops that do a program's work, not the program's ability to send a datagram.
//!
//! ```
//! # use std::time::Duration;
//! # use trivet_base::process::{self, Heartbeats};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let heartbeats = Heartbeats::default();
//! let beat = heartbeats.expect("checks of node1", Duration::from_secs(3));
//! tokio::spawn(async move {
//!     loop {
//!         beat.beat();
//!         // … one round of checks …
//!         tokio::time::sleep(Duration::from_secs(1)).await;
//!     }
//! });
//! process::notify_ready_while(heartbeats);
//! # }
//! ```
//!
//! A loop that has not beaten for as long as it said, or that has ended (a panic ends it), is not vouched for, and nothing
//! else is as long as it is not: systemd restarts the program (`WatchdogSec=`, systemd.service(5)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use parking_lot::Mutex;

/// All loops that are vouched for. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Heartbeats(Arc<Mutex<All>>);

#[derive(Debug, Default)]
struct All {
    expected: BTreeMap<u64, Expected>,
    next: u64,
}

#[derive(Debug)]
struct Expected {
    name: String,
    within: Duration,
    last: Instant,
    /// How many say that it may take as long as it takes.
    resting: u32,
    ended: bool,
}

/// Beats for one loop; belongs into it, so that the two end together.
#[derive(Debug)]
pub struct Beat {
    all: Heartbeats,
    id: u64,
}

/// As long as it lives, no beat is expected.
#[derive(Debug)]
pub struct Rest<'a>(&'a Beat);

impl Heartbeats {
    /// Expects a beat at least so often, the first one from now on.
    pub fn expect(&self, name: impl Into<String>, within: Duration) -> Beat {
        let expected = Expected { name: name.into(), within, last: Instant::now(), resting: 0, ended: false };
        let mut all = self.0.lock();
        let id = all.next;
        all.next += 1;
        all.expected.insert(id, expected);
        Beat { all: self.clone(), id }
    }

    /// The loop that is missed, and in which way; `None` when all are well.
    pub fn missed(&self, now: Instant) -> Option<String> {
        self.0.lock().expected.values().find_map(|e| {
            let quiet = now.saturating_duration_since(e.last);
            if e.ended {
                Some(format!("{} has ended", e.name))
            } else if e.resting == 0 && quiet > e.within {
                Some(format!("{} has not come round for {:.1} s", e.name, quiet.as_secs_f64()))
            } else {
                None
            }
        })
    }
}

impl Beat {
    /// The loop has come round.
    pub fn beat(&self) {
        self.with(|e| e.last = Instant::now());
    }

    /// For a step that may take long and has a deadline of its own.
    pub fn rest(&self) -> Rest<'_> {
        self.with(|e| e.resting += 1);
        Rest(self)
    }

    /// The loop has ended because there is nothing left to do: it is no longer expected.
    pub fn finish(self) {
        self.all.0.lock().expected.remove(&self.id);
    }

    fn with(&self, change: impl FnOnce(&mut Expected)) {
        if let Some(expected) = self.all.0.lock().expected.get_mut(&self.id) {
            change(expected);
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.with(|e| e.ended = true);
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.with(|e| {
            e.resting -= 1;
            e.last = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_loop_that_does_not_come_round_is_missed_by_name() {
        let all = Heartbeats::default();
        let (first, second) = (all.expect("observer", SECOND), all.expect("runner", 10 * SECOND));
        let later = Instant::now() + 5 * SECOND;
        assert_eq!(all.missed(Instant::now()), None);
        let said = all.missed(later).unwrap();
        assert!(said.starts_with("observer has not come round for 5.0"), "{said}");
        assert!(all.missed(later + 20 * SECOND).is_some());
        drop((first, second));
    }

    #[test]
    fn a_loop_that_has_ended_is_missed_at_once() {
        let all = Heartbeats::default();
        let beat = all.expect("observer", SECOND);
        let task = std::thread::spawn(move || {
            beat.beat();
            panic!("on purpose");
        });
        assert!(task.join().is_err());
        assert_eq!(all.missed(Instant::now()).as_deref(), Some("observer has ended"));
    }

    #[test]
    fn a_loop_that_has_nothing_left_to_do_is_not_missed() {
        let all = Heartbeats::default();
        all.expect("observer", SECOND).finish();
        assert_eq!(all.missed(Instant::now() + 3600 * SECOND), None);
    }

    #[test]
    fn a_long_step_may_take_its_time_and_the_loop_is_expected_again_afterwards() {
        let all = Heartbeats::default();
        let beat = all.expect("runner", SECOND);
        let rest = beat.rest();
        assert_eq!(all.missed(Instant::now() + 3600 * SECOND), None);
        drop(rest);
        assert_eq!(all.missed(Instant::now()), None);
        assert!(all.missed(Instant::now() + 2 * SECOND).is_some());
    }
}
