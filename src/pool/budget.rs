//! How many requests of a pool may be sent again: a share of all. Where every request fails, retries would otherwise multiply what its
//! back ends have to do by as many times as there are retries, just when they can do the least (Finagle's and Linkerd's retry budget).

use std::time::Duration;

use metrics::{Counter, counter};
use tokio::time::Instant;

use trivet_base::config::Invalid;

use super::Pool;
use super::window::Window;

/// What is remembered, as Finagle's and Linkerd's `ttl`.
const WINDOW: Duration = Duration::from_secs(10);

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

/// What of the [`Window`] is what.
const REQUESTS: usize = 0;
const RETRIES: usize = 1;

/// Of a pool.
#[derive(Debug)]
pub(super) struct RetryBudget {
    limits: RetryLimits,
    window: Window,
    spent: Counter,
}

impl RetryBudget {
    fn new(pool: &str, limits: RetryLimits) -> Self {
        Self {
            limits,
            window: Window::new(WINDOW),
            spent: counter!("trivet_retry_budget_spent_total", "pool" => pool.to_owned()),
        }
    }

    /// Counts a retry, if there may be one more.
    fn take(&self, now: Instant) -> bool {
        let [requests, retries] = self.window.sums(now);
        let floor = f64::from(self.limits.min_per_second) * WINDOW.as_secs_f64();
        let may = retries as f64 + 1.0 <= requests as f64 * self.limits.ratio + floor;
        match may {
            true => self.window.count(RETRIES, now),
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
            budget.window.count(REQUESTS, now);
        }
    }

    /// Whether a request may be sent to another back end after it was sent to one; counts it as a retry if so.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.retries.get().is_none_or(|budget| budget.take(now))
    }
}

#[cfg(test)]
mod tests;
