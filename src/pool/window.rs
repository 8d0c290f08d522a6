//! Counting what happened of late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Parts of a window. What is forgotten at once is a tenth.
const PARTS: usize = 10;

/// What there was of two things within the last `length`.
#[derive(Debug)]
pub(super) struct Window {
    began: Instant,
    /// Of one part, at least a millisecond.
    part: Duration,
    /// Part after part, each in the place of the one a whole window before.
    parts: [Part; PARTS],
}

#[derive(Debug, Default)]
struct Part {
    /// Since `began`.
    number: AtomicU64,
    counts: [AtomicU64; 2],
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        let part = (length / PARTS as u32).max(Duration::from_millis(1));
        Self { began: Instant::now(), part, parts: Default::default() }
    }

    fn number(&self, now: Instant) -> u64 {
        let number = now.saturating_duration_since(self.began).as_millis() / self.part.as_millis();
        u64::try_from(number).unwrap_or(u64::MAX)
    }

    /// Counts one more of the first or of the second. What another thread counts just as a part begins may be lost.
    pub(super) fn count(&self, which: usize, now: Instant) {
        let number = self.number(now);
        let part = &self.parts[(number % PARTS as u64) as usize];
        let was = part.number.load(Ordering::Relaxed);
        let begins = was != number
            && part.number.compare_exchange(was, number, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            part.counts.iter().for_each(|n| n.store(0, Ordering::Relaxed));
        }
        part.counts[which].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were of each.
    pub(super) fn sums(&self, now: Instant) -> [u64; 2] {
        let oldest = self.number(now).saturating_sub(PARTS as u64 - 1);
        let of_late = self.parts.iter().filter(|p| p.number.load(Ordering::Relaxed) >= oldest);
        of_late.fold([0, 0], |[first, second], part| {
            let [a, b] = &part.counts;
            [first + a.load(Ordering::Relaxed), second + b.load(Ordering::Relaxed)]
        })
    }

    /// Forgets all of it.
    pub(super) fn clear(&self) {
        self.parts.iter().flat_map(|p| &p.counts).for_each(|n| n.store(0, Ordering::Relaxed));
    }
}
