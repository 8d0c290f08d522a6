//! Connections to back ends that speak for one client alone, kept by its connection.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::proxy::upstream::{Checkout, HttpBackend, is_quiet};

/// Kept for one back end at most: as many requests as a page has side by side, about.
const MOST: usize = 6;

struct Kept {
    backend: Arc<HttpBackend>,
    since: Instant,
    checkout: Checkout,
}

/// Those of one connection. Without a bound, each request that needs a new one would leave one behind.
#[derive(Default)]
pub(super) struct PersonalConnections(Mutex<Vec<Kept>>);

impl PersonalConnections {
    /// One to this back end that its other side has not closed, as far as can be known.
    pub(super) fn take(&self, backend: &Arc<HttpBackend>) -> Option<Checkout> {
        let mut links = self.0.lock();
        loop {
            // The youngest: the least likely to be closed just now.
            let at = links.iter().rposition(|k| Arc::ptr_eq(&k.backend, backend))?;
            let mut checkout = links.remove(at).checkout;
            if is_quiet(&mut checkout.io) {
                checkout.reused = true;
                return Some(checkout);
            }
        }
    }

    /// Keeps one for the next request. What has been unused for too long goes, and the oldest where there are too many.
    pub(super) fn keep(&self, backend: &Arc<HttpBackend>, checkout: Checkout) {
        let since = Instant::now();
        let mut links = self.0.lock();
        links.retain(|k| since - k.since < k.backend.transport().config().idle_timeout);
        if links.iter().filter(|k| Arc::ptr_eq(&k.backend, backend)).count() >= MOST
            && let Some(oldest) = links.iter().position(|k| Arc::ptr_eq(&k.backend, backend))
        {
            links.remove(oldest);
        }
        links.push(Kept { backend: backend.clone(), since, checkout });
    }
}
