//! When back ends are checked.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Pool;
use super::config::Timing;
use crate::process::Heartbeats;

/// What a check may be late for by a busy machine's fault.
const PATIENCE: Duration = Duration::from_secs(2);

impl Pool {
    /// Checks every back end once, all at the same time, so that none is of unknown health afterwards. Takes as long as
    /// the slowest answer, at most the timeout.
    pub async fn first_round(self: &Arc<Self>, timing: Timing) {
        let mut checks = JoinSet::new();
        for i in 0..self.backends.len() {
            let pool = self.clone();
            checks.spawn(async move { pool.check_one(i, &timing).await });
        }
        while checks.join_next().await.is_some() {}
    }

    /// Goes on checking every back end at its interval for as long as the pool is in use. A stop does not end it: what
    /// drains still needs to know where to send its last requests. `heartbeats` expects each of them to go on.
    pub fn run_checks(self: &Arc<Self>, timing: Timing, heartbeats: &Heartbeats) {
        for (i, backend) in self.backends.iter().enumerate() {
            let pool = Arc::downgrade(self);
            let name = format!("the checks of {}/{}", self.name(), backend.name());
            let beat = heartbeats.expect(name, (timing.interval + timing.timeout) * 2 + PATIENCE);
            tokio::spawn(async move {
                // Nodes that start together would otherwise ask together, for ever.
                let offset = timing.interval.mul_f64(rand::rng().random_range(0.0..1.0));
                tokio::time::sleep(offset).await;
                loop {
                    beat.beat();
                    let Some(pool) = pool.upgrade() else { return };
                    let began = Instant::now();
                    pool.check_one(i, &timing).await;
                    drop(pool);
                    tokio::time::sleep_until(began + spread(timing.interval)).await;
                }
            });
        }
    }

    async fn check_one(&self, i: usize, timing: &Timing) {
        let (Some(backend), Some(check)) = (self.backends.get(i), self.checks.get(i)) else { return };
        let began = Instant::now();
        let verdict = check.check(timing.timeout).await;
        backend.record(verdict, began, timing);
    }
}

/// The interval, up to 10 % longer or shorter.
fn spread(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.9..1.1))
}
