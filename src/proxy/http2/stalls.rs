//! Answers that a client did not take in time.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// So many of one connection at a time, after which it ends. A paused download is one; more are a client that opens streams
/// without a window, to hold what they cost us.
const MOST: usize = 8;

/// When answers of one connection were given up. Those of long ago do not count.
#[derive(Debug)]
pub(super) struct Stalls {
    within: Duration,
    times: Mutex<VecDeque<Instant>>,
}

impl Stalls {
    /// Counts those that lie no further apart than `within`.
    pub(super) fn new(within: Duration) -> Self {
        Self { within, times: Mutex::default() }
    }

    /// One more.
    pub(super) fn add(&self, now: Instant) {
        let mut times = self.times.lock();
        if times.len() == MOST {
            times.pop_front();
        }
        times.push_back(now);
    }

    /// Whether the connection is to end.
    pub(super) fn are_too_many(&self, now: Instant) -> bool {
        let times = self.times.lock();
        times.len() == MOST && times.front().is_some_and(|first| now - *first <= self.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_answers_of_a_whole_day_are_not_eight_at_a_time() {
        let stalls = Stalls::new(Duration::from_secs(60));
        let mut now = Instant::now();
        for _ in 0..100 {
            stalls.add(now);
            assert!(!stalls.are_too_many(now));
            now += Duration::from_secs(10);
        }
        for _ in 0..MOST {
            stalls.add(now);
        }
        assert!(stalls.are_too_many(now));
        assert!(!stalls.are_too_many(now + Duration::from_secs(61)));
    }
}
