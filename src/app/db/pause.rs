//! Between two attempts: longer each time, and never the same for two who failed together.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Kind;

/// First and longest pause after a deadlock or a failed certification: the other transaction is over in milliseconds.
const CONFLICT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// First and longest pause while there is no primary. The gateway itself waits for one, so this spaces out failures only.
const AWAY: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(500));

/// Counts the attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Pause {
    attempts: u32,
}

impl Pause {
    /// Sleeps before the next attempt; false, at once, when there would be no time left for it.
    pub(super) async fn before(&mut self, give_up: Instant, kind: Kind) -> bool {
        let pause = self.next(kind, rand::random());
        if Instant::now() + pause >= give_up {
            return false;
        }
        sleep(pause).await;
        true
    }

    /// Half the step at least, the whole of it at most; `jitter` from 0 to 1.
    fn next(&mut self, kind: Kind, jitter: f64) -> Duration {
        let (first, longest) = if kind == Kind::Conflict { CONFLICT } else { AWAY };
        let step = first.saturating_mul(1 << self.attempts.min(16)).min(longest);
        self.attempts += 1;
        step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_spread() {
        let mut pause = Pause::default();
        let steps: Vec<_> = (0..8).map(|_| pause.next(Kind::Lost, 1.0).as_millis()).collect();
        assert_eq!(steps, [40, 80, 160, 320, 500, 500, 500, 500]);
        assert_eq!(Pause::default().next(Kind::Lost, 0.0), Duration::from_millis(20));
        assert_eq!(Pause::default().next(Kind::Conflict, 1.0), Duration::from_millis(10));
        pause.attempts = u32::MAX - 1;
        assert_eq!(pause.next(Kind::Conflict, 1.0), Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_sleeps_beyond_the_deadline() {
        let start = Instant::now();
        let mut pause = Pause { attempts: 10 };
        assert!(!pause.before(start + Duration::from_millis(100), Kind::Lost).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(pause.before(start + Duration::from_secs(1), Kind::Lost).await);
    }
}
