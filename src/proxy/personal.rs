//! Connections to back ends that speak for one client alone, kept by its connection.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::upstream::{Checkout, HttpBackend, is_quiet};

/// How many of a client's connection are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Most {
    /// One, where one request comes after another.
    One,
    /// For each back end as many as a page has requests side by side, about.
    SixEach,
}

struct Kept {
    backend: Arc<HttpBackend>,
    since: Instant,
    checkout: Checkout,
}

/// Those of one connection. Without a bound, each request that needs a new one would leave one behind.
pub(super) struct PersonalConnections {
    most: Most,
    kept: Mutex<Vec<Kept>>,
}

impl PersonalConnections {
    pub(super) fn new(most: Most) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// One to this back end that its other side has not closed, as far as can be known.
    pub(super) fn take(&self, backend: &Arc<HttpBackend>) -> Option<Checkout> {
        let idle_timeout = backend.transport().config().idle_timeout;
        let mut kept = self.kept.lock();
        loop {
            // The youngest: the least likely to be closed just now.
            let at = kept.iter().rposition(|k| Arc::ptr_eq(&k.backend, backend))?;
            let Kept { since, mut checkout, .. } = kept.remove(at);
            if since.elapsed() < idle_timeout && is_quiet(&mut checkout.io) {
                checkout.reused = true;
                return Some(checkout);
            }
        }
    }

    /// Keeps one for the next request. What has been unused for too long goes, and the oldest where there are too many.
    pub(super) fn keep(&self, backend: &Arc<HttpBackend>, checkout: Checkout) {
        let since = Instant::now();
        let mut kept = self.kept.lock();
        if self.most == Most::One {
            kept.clear();
        }
        kept.retain(|k| since - k.since < k.backend.transport().config().idle_timeout);
        let same = |k: &Kept| Arc::ptr_eq(&k.backend, backend);
        if kept.iter().filter(|k| same(k)).count() >= 6
            && let Some(oldest) = kept.iter().position(same)
        {
            kept.remove(oldest);
        }
        kept.push(Kept { backend: backend.clone(), since, checkout });
    }
}
