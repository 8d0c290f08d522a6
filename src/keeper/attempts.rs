//! Attempts that failed, and how long the next one waits.

use std::time::Duration;
use tokio::time::Instant;

use super::model::Retry;

/// The longest wait. A node that cannot join for minutes still tries often enough to be back soon after the cause is gone.
const LONGEST: Duration = Duration::from_secs(60);

/// Failures in a row of one kind of action.
#[derive(Debug, Default)]
pub struct Attempts {
    failures: u32,
    error: String,
    next: Option<Instant>,
}

impl Attempts {
    /// Another failure: 1 s, then twice as long each time.
    pub fn failed(&mut self, now: Instant, error: String) {
        let wait = Duration::from_secs(1 << self.failures.min(6)).min(LONGEST);
        self.failures += 1;
        self.error = error;
        self.next = Some(now + wait);
    }

    /// It went well: the next failure is a first one.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// How it stands.
    pub fn retry(&self, now: Instant) -> Option<Retry> {
        let next = self.next?;
        Some(Retry {
            error: self.error.clone(),
            failures: self.failures,
            wait: next.saturating_duration_since(now),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_anew_after_success() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        assert_eq!(attempts.retry(now), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            attempts.failed(now, "no".into());
            assert_eq!(attempts.retry(now).unwrap().wait, Duration::from_secs(seconds));
            assert_eq!(attempts.retry(now + Duration::from_secs(61)).unwrap().wait, Duration::ZERO);
        }
        assert_eq!(attempts.retry(now).unwrap().failures, 8);
        attempts.succeeded();
        assert_eq!(attempts.retry(now), None);
    }
}
