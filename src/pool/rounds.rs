//! When back ends are checked.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::timing::Timing;
use super::{Backend, Pool};
use trivet_base::process::Heartbeats;

/// What a check may be late for by a busy machine's fault.
const PATIENCE: Duration = Duration::from_secs(2);

impl<T: Send + Sync + 'static> Pool<T> {
    /// Checks every back end once, all at the same time, so that none is of unknown health afterwards. Takes as long as
    /// the slowest answer, at most the timeout.
    pub async fn first_round(&self, timing: Timing) {
        let mut checks = JoinSet::new();
        for backend in self.backends().iter() {
            let backend = backend.clone();
            checks.spawn(async move { backend.check(&timing).await });
        }
        while checks.join_next().await.is_some() {}
    }

    /// Goes on checking every back end at its interval for as long as it is one of the pool's, those that are added later as
    /// well. A stop does not end it: what drains still needs to know where to send its last requests. `heartbeats` expects
    /// each of them to go on. A second call changes nothing.
    pub fn run_checks(&self, timing: Timing, heartbeats: &Heartbeats) {
        let _changing = self.changing.lock();
        if self.checking.set((timing, heartbeats.clone())).is_ok() {
            for backend in self.backends().iter() {
                check_from_now_on(backend, timing, heartbeats, false);
            }
        }
    }
}

/// Has a back end checked for as long as it is one of its pool's; `at_once` when it never was.
pub(super) fn check_from_now_on<T: Send + Sync + 'static>(
    backend: &Arc<Backend<T>>,
    timing: Timing,
    heartbeats: &Heartbeats,
    at_once: bool,
) {
    let name = format!("the checks of {backend:?}");
    let beat = heartbeats.expect(name, (timing.interval + timing.timeout) * 2 + PATIENCE);
    let backend = Arc::downgrade(backend);
    tokio::spawn(async move {
        if !at_once {
            // Nodes that start together would otherwise ask together, for ever.
            let offset = timing.interval.mul_f64(rand::rng().random_range(0.0..1.0));
            tokio::time::sleep(offset).await;
        }
        loop {
            beat.beat();
            let Some(backend) = backend.upgrade().filter(|b| !b.is_retired()) else { return beat.finish() };
            let began = Instant::now();
            backend.check(&timing).await;
            let fast = timing.fast_interval.filter(|_| backend.is_turning());
            drop(backend);
            tokio::time::sleep_until(began + spread(fast.unwrap_or(timing.interval), timing.jitter)).await;
        }
    });
}

/// The interval, up to so many percent longer or shorter.
pub(super) fn spread(interval: Duration, percent: u32) -> Duration {
    let part = f64::from(percent) / 100.0;
    interval.mul_f64(rand::rng().random_range(1.0 - part..=1.0 + part))
}
