//! One deadline for a connection, moved often and passed seldom.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A deadline. Moving it later costs nothing: the runtime's timer wakes it at most every `step`, and is set again then.
#[derive(Debug)]
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
    step: Duration,
}

impl Timer {
    /// A deadline in `step`, which is the shortest time that the deadline is ever usually moved by.
    pub fn new(step: Duration) -> Self {
        let deadline = Instant::now() + step;
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), deadline, step }
    }

    /// Moves the deadline.
    pub fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
    }

    /// As [`set`](Self::set), and has whoever polls woken within `often`, now and then.
    pub fn set_and_wake(&mut self, deadline: Instant, now: Instant, often: Duration) {
        self.set(deadline);
        let soon = now + often;
        // One that has gone off is about to be set for much later.
        if soon < self.sleep.deadline() || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(soon.min(deadline));
        }
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline.min(now + self.step));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_is_kept() {
        let start = Instant::now();
        let mut timer = Timer::new(Duration::from_secs(10));
        timer.set(start + Duration::from_secs(60));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 60);
        timer.set(Instant::now() + Duration::from_secs(1));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 61);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looks_often_is_woken_often() {
        let mut timer = Timer::new(Duration::from_secs(10));
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut looks = 0;
        std::future::poll_fn(|cx| {
            looks += 1;
            timer.set_and_wake(deadline, Instant::now(), Duration::from_millis(500));
            timer.poll(cx)
        })
        .await;
        assert!(looks >= 10, "{looks} looks in 5 s");
        assert_eq!(Instant::now(), deadline);
    }
}
