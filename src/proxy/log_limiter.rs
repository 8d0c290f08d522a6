//! Log lines that an attacker could cause: the first is written, the next ones are counted until a second has passed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use parking_lot::Mutex;

/// Lets one line a second through.
#[derive(Debug, Default)]
pub struct LogLimiter {
    last: Mutex<Option<Instant>>,
    left_out: AtomicU64,
}

impl LogLimiter {
    /// With nothing written yet, for a static.
    pub const fn new() -> Self {
        Self { last: Mutex::new(None), left_out: AtomicU64::new(0) }
    }

    /// Whether to write a line now: then how many were left out since the one before.
    pub fn ask(&self) -> Option<u64> {
        let mut last = self.last.lock();
        if last.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(Instant::now());
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}
