//! The back ends of the best standing, found once and not for each request: a pool may have hundreds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::balance::{Load, Members};
use super::{Backend, Pool, Scope, Tried, order};

/// Tells that a back end, or the set of them, has changed. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Signal {
    /// Changes before anybody is told.
    version: Arc<AtomicU64>,
    told: watch::Sender<u64>,
}

impl Signal {
    pub(super) fn new() -> Self {
        Self { version: Arc::new(AtomicU64::new(1)), told: watch::Sender::new(0) }
    }

    pub(super) fn tell(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.told.send_modify(|n| *n += 1);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// Those that any request may go to, as they were at one moment.
pub(super) struct Best<T> {
    version: u64,
    all: Vec<Arc<Backend<T>>>,
}

impl<T> Default for Best<T> {
    fn default() -> Self {
        Self { version: 0, all: Vec::new() }
    }
}

impl<T> Best<T> {
    pub(super) fn backend(&self, at: usize) -> Option<&Arc<Backend<T>>> {
        self.all.get(at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.all.iter().any(|b| b.load().has_room())
    }

    /// Another number for every other set.
    pub(super) fn version(&self) -> u64 {
        self.version
    }
}

impl<T> Members for Best<T> {
    fn len(&self) -> usize {
        self.all.len()
    }

    fn load(&self, at: usize) -> &Load {
        self.all[at].load()
    }
}

impl<T> Pool<T> {
    /// As they are now.
    pub(super) fn best(&self) -> Arc<Best<T>> {
        // Before it is looked: what changes meanwhile is seen by the next one.
        let version = self.changed.version();
        let found = self.best.load();
        if found.version == version {
            return arc_swap::Guard::into_inner(found);
        }
        let (all, none) = (self.backends(), Tried::default());
        let place = |b: &Arc<Backend<T>>| order(b, Scope::ANY, &none);
        let best = all.iter().filter_map(place).min();
        let all = all.iter().filter(|b| best.is_some() && place(b) == best).cloned().collect();
        let found = Arc::new(Best { version, all });
        self.best.store(found.clone());
        found
    }
}
