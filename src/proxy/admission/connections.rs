//! Connections that are open now, by client.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::admission::prefix::Prefix;

/// Clients with open connections, and how many. As large as there are connections, which `max_connections` bounds. One
/// lock for all: it is taken twice in the life of a connection, for some nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Open(Mutex<HashMap<Prefix, usize>>);

impl Open {
    /// One more connection of `client`, unless it has `limit` already.
    pub(super) fn take(this: &Arc<Self>, client: Prefix, limit: usize) -> Option<Permit> {
        let mut open = this.0.lock();
        let count = open.entry(client).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Permit(Some((this.clone(), client))))
    }

    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.0.lock().len()
    }
}

/// A connection that is counted as long as this lives.
#[derive(Debug)]
pub struct Permit(Option<(Arc<Open>, Prefix)>);

impl Permit {
    pub(super) fn uncounted() -> Self {
        Self(None)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some((open, client)) = self.0.take() else { return };
        let mut open = open.0.lock();
        if let Entry::Occupied(mut entry) = open.entry(client) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        // After a flood the memory goes back.
        if open.capacity() > 1024 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
    }
}
