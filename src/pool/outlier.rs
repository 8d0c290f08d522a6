//! Back ends whose checks are good and whose answers are not: they are passed over for a while.
//!
//! A back end is an **outlier** once `errors` requests in a row came to nothing there: errors of the server, connections that broke,
//! answers that took far longer than the others' back ends take, or none at all while the others answered. It is then used
//! as one to which a request could not connect: when nobody better is left. Its time out doubles each time, and begins anew once it
//! has done well for long. Two rules keep a pool from emptying itself: at least half of it stays, and where most of the others
//! fare no better, it is not this one that is at fault.
//!
//! The idea is Envoy's outlier detection, and HAProxy's `observe layer7`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use metrics::counter;
use parking_lot::Mutex;
use tokio::time::Instant;

use trivet_base::config::{self, Invalid};

use super::{Backend, Lease, Pool};

/// When a back end is an outlier, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierLimits {
    /// Requests in a row that came to nothing; 0 is never.
    pub errors: u32,
    /// An answer that takes less is never slow.
    pub slow_after: Duration,
    /// A slow answer takes as many times as long as the others' usually do.
    pub slow_factor: u32,
    /// How long it is passed over for the first time.
    pub ejection: Duration,
    /// How long at most.
    pub max_ejection: Duration,
}

impl OutlierLimits {
    /// Nobody ever is one.
    pub const NONE: Self = Self {
        errors: 0,
        slow_after: Duration::MAX,
        slow_factor: 1,
        ejection: Duration::ZERO,
        max_ejection: Duration::ZERO,
    };

    /// Refuses values that say nothing, by their keys.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        config::positive(&format!("{key}.slow_after"), self.slow_after)?;
        config::positive(&format!("{key}.ejection"), self.ejection)?;
        if self.slow_factor < 2 {
            return Invalid::err(
                format!("{key}.slow_factor"),
                "must be at least 2: somebody is always the slowest",
            );
        }
        if self.max_ejection < self.ejection {
            return Invalid::err(format!("{key}.max_ejection"), "is shorter than ejection");
        }
        Ok(())
    }
}

/// What its requests say about a back end.
#[derive(Debug)]
pub(super) struct Outcomes {
    /// Requests in a row that came to nothing.
    in_a_row: AtomicU32,
    /// Microseconds until the head of an answer, of late.
    usual: AtomicU64,
    /// Of the last answer, in milliseconds since `began`.
    answered: AtomicU64,
    began: Instant,
    penalty: Mutex<Penalty>,
}

#[derive(Debug, Default)]
struct Penalty {
    until: Option<Instant>,
    /// How often in a row.
    times: u32,
}

impl Outcomes {
    pub(super) fn new() -> Self {
        Self {
            in_a_row: AtomicU32::new(0),
            usual: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            began: Instant::now(),
            penalty: Mutex::default(),
        }
    }

    /// An answer that took so long. Another thread may note one at the same time: one of the two may be lost.
    fn note(&self, took: Duration, now: Instant) {
        let took = micros(took);
        let usual = self.usual.load(Ordering::Relaxed);
        let new = if usual == 0 { took } else { usual - usual / 8 + took / 8 };
        self.usual.store(new, Ordering::Relaxed);
        self.answered.store(millis(now - self.began), Ordering::Relaxed);
    }

    fn usual(&self) -> Duration {
        Duration::from_micros(self.usual.load(Ordering::Relaxed))
    }

    fn is_well(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) == 0
    }

    /// Whether anybody was answered since then.
    fn has_answered_since(&self, then: Instant) -> bool {
        self.answered.load(Ordering::Relaxed) > millis(then.saturating_duration_since(self.began))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<T: Send + Sync + 'static> Lease<T> {
    /// The head of an answer came `took` after the request, and says that the server is well.
    pub fn answered(&self, took: Duration, now: Instant) {
        let outcomes = self.backend.outcomes();
        let limits = self.pool.outliers();
        if took >= limits.slow_after && took >= self.pool.slow(&self.backend) {
            let usual = self.pool.usual_of_others(&self.backend);
            self.failed("slow", &format!("an answer took {took:?}, where others take {usual:?}"));
        } else if !outcomes.is_well() {
            outcomes.in_a_row.store(0, Ordering::Relaxed);
        }
        outcomes.note(took, now);
        self.pool.balance.answered(self.backend.load(), took, now);
    }

    /// A request came to nothing there. `label` is one of a few, for the metric.
    pub fn failed(&self, label: &'static str, why: &str) {
        self.pool.balance.failed(self.backend.load(), Instant::now());
        let limit = self.pool.outliers().errors;
        let before = self.backend.outcomes().in_a_row.fetch_add(1, Ordering::Relaxed);
        if limit > 0 && before.saturating_add(1) >= limit {
            self.pool.eject_outlier(&self.backend, label, why);
        }
    }

    /// A request waits for an answer since `then`. True when nobody else was answered either, while others of the pool were: it
    /// says nothing any more.
    pub fn waits_in_vain(&self, then: Instant, now: Instant) -> bool {
        let limits = self.pool.outliers();
        let waited = now.saturating_duration_since(then);
        if limits.errors == 0
            || waited < limits.slow_after
            || self.backend.outcomes().has_answered_since(then)
        {
            return false;
        }
        if self.backend.is_outlier() {
            return true;
        }
        let waiting = u32::try_from(self.backend.load().in_flight()).unwrap_or(u32::MAX);
        let others_answer =
            self.pool.others(&self.backend).iter().any(|b| b.outcomes().has_answered_since(then));
        waiting >= limits.errors
            && waited >= self.pool.slow(&self.backend)
            && others_answer
            && self.pool.eject_outlier(
                &self.backend,
                "silent",
                "it has answered nobody for a while, and others have",
            )
    }
}

impl<T: Send + Sync + 'static> Pool<T> {
    /// Those of the same tier that are usable.
    fn others(&self, backend: &Backend<T>) -> Vec<Arc<Backend<T>>> {
        let all = self.backends();
        let other = |b: &&Arc<Backend<T>>| {
            !std::ptr::eq(&raw const ***b, backend) && b.tier() == backend.tier() && b.is_usable()
        };
        all.iter().filter(other).cloned().collect()
    }

    /// How long the answers of the others take.
    fn usual_of_others(&self, backend: &Backend<T>) -> Duration {
        let others = self.others(backend);
        let sum: Duration = others.iter().map(|b| b.outcomes().usual()).sum();
        sum / u32::try_from(others.len().max(1)).unwrap_or(u32::MAX)
    }

    /// From when on an answer is slow.
    fn slow(&self, backend: &Backend<T>) -> Duration {
        let limits = self.outliers();
        limits.slow_after.max(self.usual_of_others(backend).saturating_mul(limits.slow_factor))
    }

    /// Passes over a back end for a while, unless too few would be left, or others fare no better.
    fn eject_outlier(&self, backend: &Arc<Backend<T>>, label: &'static str, why: &str) -> bool {
        let limits = self.outliers();
        // One decision at a time: two that are made at once would each count on the other.
        let _deciding = self.changing.lock();
        if backend.is_outlier() {
            return true;
        }
        let all = self.backends().iter().filter(|b| b.tier() == backend.tier() && !b.is_out()).count();
        let others = self.others(backend);
        let well = others.iter().filter(|b| b.outcomes().is_well()).count();
        if others.len() * 2 < all || well * 2 <= others.len() {
            return false;
        }
        let now = Instant::now();
        let outcomes = backend.outcomes();
        let time = {
            let mut penalty = outcomes.penalty.lock();
            // Well for so long that what was is forgotten.
            if penalty.until.is_some_and(|until| now.saturating_duration_since(until) > limits.max_ejection) {
                penalty.times = 0;
            }
            let time = limits.ejection.saturating_mul(1 << penalty.times.min(16)).min(limits.max_ejection);
            penalty.times = penalty.times.saturating_add(1);
            penalty.until = Some(now + time);
            time
        };
        // Once it is back, one more is enough.
        outcomes.in_a_row.store(limits.errors.saturating_sub(1), Ordering::Relaxed);
        counter!("trivet_backend_outliers_total", "pool" => self.name().to_owned(), "backend" => backend.name().to_owned(), "reason" => label)
            .increment(1);
        tracing::warn!(
            pool = self.name(),
            backend = backend.name(),
            ?time,
            reason = why,
            "back end is an outlier: passed over for a while"
        );
        backend.set_outlier(Some(why));
        let back = Arc::downgrade(backend);
        tokio::spawn(async move {
            tokio::time::sleep_until(now + time).await;
            if let Some(backend) = back.upgrade() {
                tracing::info!(backend = ?backend, "back end is tried again");
                backend.set_outlier(None);
            }
        });
        true
    }
}

#[cfg(test)]
mod tests;
