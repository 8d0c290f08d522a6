//! What is open at a moment, for operators who ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

/// All of a kind. They are numbered as they come, so the oldest stands first.
#[derive(Debug)]
pub struct Register<T> {
    open: Mutex<BTreeMap<u64, (T, Instant)>>,
    next: AtomicU64,
}

impl<T> Default for Register<T> {
    fn default() -> Self {
        Self { open: Mutex::default(), next: AtomicU64::new(0) }
    }
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Open<T> {
    #[serde(flatten)]
    pub what: T,
    /// Its age in seconds, to a tenth.
    pub seconds: f64,
}

impl<T> Register<T> {
    /// One more, which is open until what is returned is dropped.
    pub fn enter(self: &Arc<Self>, what: T) -> Entry<T> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(number, (what, Instant::now()));
        Entry(self.clone(), number)
    }
}

impl<T: Clone> Register<T> {
    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<Open<T>> {
        let tenths = |since: &Instant| (since.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let open = self.open.lock();
        open.values().map(|(what, since)| Open { what: what.clone(), seconds: tenths(since) }).collect()
    }
}

/// The place of one of them.
pub struct Entry<T>(Arc<Register<T>>, u64);

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}
