//! Requests for which all back ends are busy.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Gauge, gauge};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Lease, Pool, Scope, Tried, Unavailable};

/// How many requests may be in flight and may wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Requests in flight at a time, all back ends together; [`Spec::max_in_flight`](super::Spec) is for each.
    pub max_in_flight: usize,
    /// Requests that wait at a time; a further one is refused at once.
    pub max_queued: usize,
    /// How long one waits before it is refused.
    pub queue_timeout: Duration,
}

impl PoolLimits {
    /// Where nothing ever waits here.
    pub const NONE: Self = Self { max_in_flight: usize::MAX, max_queued: 0, queue_timeout: Duration::ZERO };
}

struct Waiter<T> {
    id: u64,
    scope: Scope,
    tried: Tried<T>,
    served: oneshot::Sender<Lease<T>>,
}

struct State<T> {
    waiters: VecDeque<Waiter<T>>,
    next_id: u64,
}

/// Those who wait, in the order in which they came.
pub(super) struct Queue<T> {
    limits: PoolLimits,
    state: Mutex<State<T>>,
    /// How many, for those who must not wait for a lock to know.
    waiting: AtomicUsize,
    gauge: Gauge,
}

impl<T> Queue<T> {
    pub(super) fn new(pool: &str, limits: PoolLimits) -> Self {
        Self {
            limits,
            state: Mutex::new(State { waiters: VecDeque::new(), next_id: 0 }),
            waiting: AtomicUsize::new(0),
            gauge: gauge!("trivet_pool_queued", "pool" => pool.to_owned()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        // Sequentially consistent with the count of what is in flight: whoever joins looks for room after it has joined, and
        // whoever makes room looks for waiters after that.
        self.waiting.load(Ordering::SeqCst) == 0
    }

    fn count(&self, state: &State<T>) {
        self.waiting.store(state.waiters.len(), Ordering::SeqCst);
        self.gauge.set(state.waiters.len() as f64);
    }

    /// A further attempt of a request, which has had its turn before, comes before those that have not, however many they are.
    fn join(&self, scope: Scope, tried: &Tried<T>) -> Option<Place<'_, T>> {
        let mut state = self.state.lock();
        // Those who wait for one back end, where their session is, keep nobody from the others.
        let same = |w: &&Waiter<T>| w.scope.sticky == scope.sticky;
        let most = self.limits.max_queued;
        if tried.is_empty()
            && state.waiters.len() >= most
            && state.waiters.iter().filter(same).count() >= most
        {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        let (served, lease) = oneshot::channel();
        let waiter = Waiter { id, scope, tried: tried.clone(), served };
        if tried.is_empty() {
            state.waiters.push_back(waiter);
        } else {
            state.waiters.push_front(waiter);
        }
        self.count(&state);
        Some(Place { queue: self, id, lease })
    }
}

/// A place in the queue, given up when it is dropped.
struct Place<'a, T> {
    queue: &'a Queue<T>,
    id: u64,
    lease: oneshot::Receiver<Lease<T>>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        // Whoever was served is no longer there.
        if let Some(at) = state.waiters.iter().position(|w| w.id == self.id) {
            state.waiters.remove(at);
            self.queue.count(&state);
        }
    }
}

impl<T> Pool<T> {
    /// Gives what there is room for to those who wait.
    pub(super) fn serve_queue(self: &Arc<Self>) {
        while !self.queue.is_empty() {
            let mut state = self.queue.state.lock();
            // Whoever asks for the same as one who got nothing gets nothing either; most ask for the same.
            let mut in_vain: Vec<Scope> = Vec::new();
            let mut served = None;
            for (i, waiter) in state.waiters.iter().enumerate() {
                if !self.load.has_room() {
                    return;
                }
                let is_usual = waiter.tried.is_empty();
                // Whose hash it is decides who is preferred, and not whether there is anybody.
                let scope = Scope { hash: None, ..waiter.scope };
                if waiter.served.is_closed() || (is_usual && in_vain.contains(&scope)) {
                    continue;
                }
                if let Ok(lease) = self.pick(waiter.scope, &waiter.tried) {
                    served = Some((i, lease));
                    break;
                }
                if is_usual {
                    in_vain.push(scope);
                }
            }
            let Some((i, lease)) = served else { return };
            let Some(waiter) = state.waiters.remove(i) else { return };
            self.queue.count(&state);
            // One that has left just now gives its lease back, for which nothing may be locked.
            drop(state);
            let _ = waiter.served.send(lease);
        }
    }

    pub(super) async fn wait_in_queue(
        self: &Arc<Self>,
        scope: Scope,
        tried: &Tried<T>,
        waited: Duration,
    ) -> Result<Lease<T>, Unavailable> {
        let mut changes = self.subscribe();
        let timeout = tokio::time::sleep(self.queue.limits.queue_timeout.saturating_sub(waited));
        tokio::pin!(timeout);
        if !self.has_other(scope, tried) {
            return Err(Unavailable::None);
        }
        let mut place = self.queue.join(scope, tried).ok_or(Unavailable::QueueFull)?;
        loop {
            self.serve_queue();
            tokio::select! {
                biased;
                Ok(lease) = &mut place.lease => return Ok(lease),
                Ok(()) = changes.changed() => {}
                () = &mut timeout => return Err(Unavailable::QueueTimeout),
            }
            // Those that were busy may be gone.
            if !self.has_other(scope, tried) && place.lease.is_empty() {
                return Err(Unavailable::None);
            }
        }
    }
}
