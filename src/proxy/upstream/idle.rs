//! Connections to a back end that wait for their next request, each with the worker whose runtime watches its socket.
//!
//! Used by another worker, a connection would have that one woken up from here for whatever comes on it. So each worker takes its
//! own; one that has none left takes another's and has the socket watched here from then on: dearer than one of its own, and
//! cheaper than a new one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::upstream::{Checkout, UpstreamIo, is_quiet};
use trivet_base::process::workers;

struct Idle {
    checkout: Checkout,
    since: Instant,
}

/// Those of one back end.
pub(super) struct IdleConnections {
    shelves: Box<[Mutex<VecDeque<Idle>>]>,
    /// On all shelves.
    count: AtomicUsize,
    most: usize,
    timeout: Duration,
}

impl IdleConnections {
    /// Keeps at most `most`, and at least one, each for `timeout`.
    pub(super) fn new(most: usize, timeout: Duration) -> Self {
        let shelves = (0..workers::cores()).map(|_| Mutex::default()).collect();
        Self { shelves, count: AtomicUsize::new(0), most: most.max(1), timeout }
    }

    /// One that its other side has not closed, as far as can be known.
    pub(super) fn take(&self, now: Instant) -> Option<Checkout> {
        let own = workers::here() % self.shelves.len();
        if let Some(checkout) = self.from(own, now) {
            return Some(checkout);
        }
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let others = (0..self.shelves.len()).filter(|shelf| *shelf != own);
        others.filter_map(|shelf| self.from(shelf, now)).find_map(watched_here)
    }

    fn from(&self, shelf: usize, now: Instant) -> Option<Checkout> {
        loop {
            // The youngest: the least likely to be closed just now.
            let Idle { mut checkout, since } = self.shelves[shelf].lock().pop_back()?;
            self.count.fetch_sub(1, Ordering::Relaxed);
            if now.saturating_duration_since(since) < self.timeout && is_quiet(&mut checkout.io) {
                checkout.reused = true;
                return Some(checkout);
            }
        }
    }

    /// Keeps one for the next request of this worker.
    pub(super) fn keep(&self, checkout: Checkout, now: Instant) {
        let mut shelf = self.shelves[workers::here() % self.shelves.len()].lock();
        self.close_old(&mut shelf, now);
        if self.count.load(Ordering::Relaxed) >= self.most {
            // Others have all that may be kept: then this one is too many.
            if shelf.pop_front().is_none() {
                return;
            }
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        shelf.push_back(Idle { checkout, since: now });
    }

    /// Closes what has been unused for too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        for shelf in &self.shelves {
            self.close_old(&mut shelf.lock(), now);
        }
    }

    fn close_old(&self, shelf: &mut VecDeque<Idle>, now: Instant) {
        while shelf.front().is_some_and(|i| now.saturating_duration_since(i.since) >= self.timeout) {
            shelf.pop_front();
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One of another worker's; none when its socket cannot be watched here.
fn watched_here(checkout: Checkout) -> Option<Checkout> {
    let UpstreamIo::Stream(stream) = checkout.io else { return None };
    let io = UpstreamIo::Stream(stream.watched_here().ok()?);
    Some(Checkout { io, ..checkout })
}
