//! How many requests of a pool may be sent again: a share of all. Where every request fails, retries would otherwise multiply what its
//! back ends have to do by as many times as there are retries, just when they can do the least (Finagle's and Linkerd's retry budget).

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, counter};
use tokio::time::Instant;

use trivet_base::config::Invalid;

use super::Pool;

/// Seconds that are remembered, as Finagle's and Linkerd's `ttl`.
const WINDOW: u64 = 10;

/// How many may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryLimits {
    /// Retries for each request of the last ten seconds.
    pub ratio: f64,
    /// And as many a second whatever the requests are.
    pub min_per_second: u32,
}

impl RetryLimits {
    /// Refuses values that say nothing, by their keys.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        if !(0.0..=100.0).contains(&self.ratio) {
            return Invalid::err(
                format!("{key}.ratio"),
                "must be from 0 to 100 retries for each request, 0.2 for one",
            );
        }
        if self.ratio == 0.0 && self.min_per_second == 0 {
            return Invalid::err(
                key,
                "lets nothing be sent again, also where its back end has just closed: raise min_per_second, or say retries = 0",
            );
        }
        Ok(())
    }
}

/// The requests and retries of a pool in the last ten seconds.
#[derive(Debug)]
pub(super) struct RetryBudget {
    limits: RetryLimits,
    began: Instant,
    /// Second after second, each in the place of the one ten seconds before.
    seconds: [Second; WINDOW as usize],
    spent: Counter,
}

#[derive(Debug, Default)]
struct Second {
    /// Since `began`.
    number: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    fn new(pool: &str, limits: RetryLimits) -> Self {
        Self {
            limits,
            began: Instant::now(),
            seconds: Default::default(),
            spent: counter!("trivet_retry_budget_spent_total", "pool" => pool.to_owned()),
        }
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    /// The second of now. What another thread counts while it begins may be lost.
    fn second(&self, now: Instant) -> &Second {
        let number = self.number(now);
        let second = &self.seconds[(number % WINDOW) as usize];
        let was = second.number.load(Ordering::Relaxed);
        let begins = was != number
            && second.number.compare_exchange(was, number, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            second.requests.store(0, Ordering::Relaxed);
            second.retries.store(0, Ordering::Relaxed);
        }
        second
    }

    fn count(&self, now: Instant) {
        self.second(now).requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a retry, if there may be one more.
    fn take(&self, now: Instant) -> bool {
        let second = self.second(now);
        let oldest = self.number(now).saturating_sub(WINDOW - 1);
        let (mut requests, mut retries) = (0, 0);
        for s in self.seconds.iter().filter(|s| s.number.load(Ordering::Relaxed) >= oldest) {
            requests += s.requests.load(Ordering::Relaxed);
            retries += s.retries.load(Ordering::Relaxed);
        }
        let most =
            requests as f64 * self.limits.ratio + f64::from(self.limits.min_per_second) * WINDOW as f64;
        let may = retries as f64 + 1.0 <= most;
        match may {
            true => _ = second.retries.fetch_add(1, Ordering::Relaxed),
            false => self.spent.increment(1),
        }
        may
    }
}

impl<T> Pool<T> {
    /// Has requests be sent again only within these limits; a second call changes nothing.
    pub fn limit_retries(&self, limits: RetryLimits) {
        let _ = self.retries.set(RetryBudget::new(self.name(), limits));
    }

    /// Counts a request, which may be sent again later.
    pub fn count_request(&self, now: Instant) {
        if let Some(budget) = self.retries.get() {
            budget.count(now);
        }
    }

    /// Whether a request may be sent to another back end after it was sent to one; counts it as a retry if so.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.retries.get().is_none_or(|budget| budget.take(now))
    }
}

#[cfg(test)]
mod tests;
