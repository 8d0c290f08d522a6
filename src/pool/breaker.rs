//! A pool most of whose requests fail is left alone for a while: its requests are refused at once, so that clients do not wait for
//! nothing and its back ends can recover; then a few try (Nygard's circuit breaker). Outliers are single back ends, and at least half of a
//! pool stays; this is for what all of them have in common, such as their database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use tokio::time::Instant;

use trivet_base::config::{self, Invalid};

use super::Pool;
use super::window::Window;

/// When a pool is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Percent of the requests of the window that failed.
    pub failures: u32,
    /// What is looked at.
    pub window: Duration,
    /// Fewer requests in it say nothing.
    pub min_requests: u32,
    /// How long all requests are refused.
    pub open: Duration,
    /// Requests that try then, one beside the other; once as many in a row have not failed, all are let through.
    pub trials: u32,
}

impl BreakerLimits {
    /// Refuses values that say nothing, by their keys.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        if !(1..=100).contains(&self.failures) {
            return Invalid::err(format!("{key}.failures"), "is a percentage from 1 to 100");
        }
        if self.window < Duration::from_secs(1) {
            return Invalid::err(
                format!("{key}.window"),
                "must be at least \"1s\": less is an accident, and no share",
            );
        }
        config::positive(&format!("{key}.open"), self.open)?;
        for (name, n) in [("min_requests", self.min_requests), ("trials", self.trials)] {
            if n == 0 {
                return Invalid::err(format!("{key}.{name}"), "must be at least 1");
            }
        }
        Ok(())
    }
}

/// What of a [`Window`] is what.
const GOOD: usize = 0;
const FAILED: usize = 1;
/// For how long a request is sent away while others try: about as long as they take.
const WHILE_OTHERS_TRY: Duration = Duration::from_secs(1);

/// Of a pool.
#[derive(Debug)]
pub(super) struct Breaker {
    limits: BreakerLimits,
    window: Window,
    /// Whether all requests are let through, for those that need not know more.
    closed: AtomicBool,
    state: Mutex<State>,
    open: Gauge,
    opened: Counter,
}

#[derive(Debug)]
struct State {
    /// Until when all are refused.
    until: Instant,
    /// How often it has opened: whoever began to try before says nothing.
    times: u64,
    /// Those that try now.
    trying: u32,
    /// Those that have not failed.
    good: u32,
}

impl Breaker {
    fn new(pool: &str, limits: BreakerLimits) -> Self {
        let open = gauge!("trivet_circuit_open", "pool" => pool.to_owned());
        open.set(0.0);
        Self {
            limits,
            window: Window::new(limits.window),
            closed: AtomicBool::new(true),
            state: Mutex::new(State { until: Instant::now(), times: 0, trying: 0, good: 0 }),
            open,
            opened: counter!("trivet_circuit_opened_total", "pool" => pool.to_owned()),
        }
    }

    /// Whether a request may go, as one that tries where it has a number; else for how long none may.
    fn admit(&self, now: Instant) -> Result<Option<u64>, Duration> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = self.state.lock();
        if self.closed.load(Ordering::Acquire) {
            return Ok(None);
        }
        if now < state.until {
            return Err(state.until - now);
        }
        if state.trying + state.good >= self.limits.trials {
            return Err(WHILE_OTHERS_TRY);
        }
        state.trying += 1;
        Ok(Some(state.times))
    }

    /// A request that was let through with all others has failed, or not. One that ends after the circuit has opened says nothing.
    fn count(&self, pool: &str, failed: bool, now: Instant) {
        self.window.count(if failed { FAILED } else { GOOD }, now);
        if !failed {
            return;
        }
        let [good, bad] = self.window.sums(now);
        let all = good + bad;
        let is_much = bad * 100 >= all * u64::from(self.limits.failures);
        if all < u64::from(self.limits.min_requests) || !is_much {
            return;
        }
        let mut state = self.state.lock();
        // Another one may have done it.
        if self.closed.load(Ordering::Acquire) {
            self.open(pool, &mut state, &format!("{bad} of {all} requests failed"), now);
        }
    }

    /// What became of a request that tried; none where that says nothing.
    fn tried(&self, pool: &str, times: u64, failed: Option<bool>, now: Instant) {
        let mut state = self.state.lock();
        if state.times != times {
            return;
        }
        state.trying -= 1;
        match failed {
            None => {}
            Some(true) => self.open(pool, &mut state, "a request that tried failed, too", now),
            Some(false) => {
                state.good += 1;
                if state.good >= self.limits.trials {
                    self.window.clear();
                    self.closed.store(true, Ordering::Release);
                    self.open.set(0.0);
                    tracing::info!(pool, "circuit closed: all requests are let through again");
                }
            }
        }
    }

    fn open(&self, pool: &str, state: &mut State, why: &str, now: Instant) {
        *state = State { until: now + self.limits.open, times: state.times + 1, trying: 0, good: 0 };
        self.closed.store(false, Ordering::Release);
        self.open.set(1.0);
        self.opened.increment(1);
        tracing::warn!(pool, reason = why, time = ?self.limits.open, "circuit opened: requests are refused for a while");
    }
}

/// A request's leave to go to a pool. One that tries and ends without a verdict makes room for another.
pub struct Passage<T> {
    pool: Arc<Pool<T>>,
    trial: Option<u64>,
    ended: bool,
}

impl<T> Passage<T> {
    /// What became of the request. The first word counts.
    pub fn ended(&mut self, failed: bool, now: Instant) {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(breaker) = self.pool.breaker.get()
        {
            match self.trial {
                Some(times) => breaker.tried(self.pool.name(), times, Some(failed), now),
                None => breaker.count(self.pool.name(), failed, now),
            }
        }
    }
}

impl<T> Drop for Passage<T> {
    fn drop(&mut self) {
        if !self.ended
            && let (Some(breaker), Some(times)) = (self.pool.breaker.get(), self.trial)
        {
            breaker.tried(self.pool.name(), times, None, Instant::now());
        }
    }
}

impl<T> Pool<T> {
    /// Has the pool be left alone once most of its requests fail; a second call changes nothing.
    pub fn break_circuit(&self, limits: BreakerLimits) {
        let _ = self.breaker.set(Breaker::new(self.name(), limits));
    }

    /// Leave for a request to go to a back end, where that is asked for; an error says for how long there is none.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Option<Passage<T>>, Duration> {
        let Some(breaker) = self.breaker.get() else { return Ok(None) };
        Ok(Some(Passage { trial: breaker.admit(now)?, pool: self.clone(), ended: false }))
    }
}

#[cfg(test)]
mod tests;
