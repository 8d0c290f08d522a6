//! Connections to back ends that speak for one client alone, kept by its connection.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::upstream::{Link, is_quiet};

/// Kept for one back end at most: as many requests as a page has side by side, about.
const MOST: usize = 6;

struct Kept {
    backend: usize,
    since: Instant,
    link: Link,
}

/// Those of one connection. Without a bound, each request that needs a new one would leave one behind.
#[derive(Default)]
pub(super) struct OwnLinks(Mutex<Vec<Kept>>);

impl OwnLinks {
    /// One to this back end that its other side has not closed, as far as can be known.
    pub(super) fn take(&self, backend: usize) -> Option<Link> {
        let mut links = self.0.lock();
        loop {
            // The youngest: the least likely to be closed just now.
            let at = links.iter().rposition(|k| k.backend == backend)?;
            let mut link = links.remove(at).link;
            if is_quiet(&mut link.carrier) {
                link.reused = true;
                return Some(link);
            }
        }
    }

    /// Keeps one for the next request. What has been unused for `idle_timeout` goes, and the oldest where there are too many.
    pub(super) fn keep(&self, backend: usize, link: Link, idle_timeout: Duration) {
        let since = Instant::now();
        let mut links = self.0.lock();
        links.retain(|k| since - k.since < idle_timeout);
        if links.iter().filter(|k| k.backend == backend).count() >= MOST
            && let Some(oldest) = links.iter().position(|k| k.backend == backend)
        {
            links.remove(oldest);
        }
        links.push(Kept { backend, since, link });
    }
}
