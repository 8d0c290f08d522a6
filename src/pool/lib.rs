//! Back ends, which of them are healthy, and which one is next: one module for HTTP balancer, TCP gateway and web tier.
//!
//! A back end ([`Backend`]) is one object: what it is, what its checks say, how much it has in hand, and what its user
//! keeps with it (`T`: its connections). It is used while its active checks say **up**, nobody **drained** it, and no
//! request has just failed to connect to it (**ejection**, until its next good check). Before its first check a back end is of
//! unknown health and not used: [`Pool::first_round`] checks all of them once, and a program listens only after that.
//!
//! ```text
//! let pool = Pool::new("web", members, limits);
//! pool.first_round(timing).await;
//! pool.run_checks(timing, &heartbeats);
//! let mut tried = Tried::default();
//! while let Ok(lease) = pool.lease(Scope::ANY, &tried, waited).await {
//!     match connect(lease.address()).await {
//!         Ok(stream) => …,                 // the lease lives as long as the work
//!         Err(e) => { lease.eject(&e.to_string()); tried.add(lease.backend()); }
//!     }
//! }
//! pool.add(another)?;                      // at any time
//! pool.remove("node2");                    // what it has in hand is finished
//! ```

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use trivet_base::process::Heartbeats;

pub mod backend;
pub mod balance;
mod best;
pub mod breaker;
pub mod budget;
pub mod check;
pub mod names;
pub mod outlier;
mod queue;
mod rounds;
mod sticky;
pub mod timing;
mod window;

pub use backend::{Backend, Health, NewBackend, Spec};
pub use balance::{Ask, Balance, Load, RoundRobin};
pub use breaker::{BreakerLimits, Passage};
pub use budget::RetryLimits;
pub use check::{Check, Verdict};
pub use outlier::OutlierLimits;
pub use queue::PoolLimits;

use backend::Standing;
use best::{Best, Signal};
use breaker::Breaker;
use budget::RetryBudget;
use queue::Queue;
use sticky::is_own;
use timing::Timing;

/// The back ends that one request has tried already.
pub struct Tried<T>(Vec<Arc<Backend<T>>>);

impl<T> Default for Tried<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Clone for Tried<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Tried<T> {
    /// Notes a back end.
    pub fn add(&mut self, backend: &Arc<Backend<T>>) {
        if !self.has(backend) {
            self.0.push(backend.clone());
        }
    }

    /// Whether the back end was tried.
    pub fn has(&self, backend: &Backend<T>) -> bool {
        self.0.iter().any(|b| std::ptr::eq(&raw const **b, backend))
    }

    /// How many were.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Which back ends a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Higher tiers are not for it.
    pub highest_tier: u8,
    /// When nobody else is left, it may go to one that merely did not answer its checks. When nobody answers in time, the
    /// machine that asks may be the slow one: an attempt may succeed, a refusal cannot. Not for roles that only one may have.
    pub silent: bool,
    /// Requests of the same number go to the same back end, where the pool's algorithm looks at it ([`balance::hash_of`]).
    pub hash: Option<u64>,
    /// The back end that its session is on, by [`Backend::id`]. It goes there while that is well, also when it is drained or has no
    /// weight, and waits for it while it is busy.
    pub sticky: Option<u64>,
}

impl Scope {
    /// Whether it is for whoever may answer, and bound to none.
    fn is_any(self) -> bool {
        Self { hash: None, ..self } == Self::ANY
    }

    /// Whoever may answer.
    pub const ANY: Self = Self { highest_tier: u8::MAX, silent: true, hash: None, sticky: None };
    /// Whoever answers its checks.
    pub const ANSWERING: Self = Self { highest_tier: u8::MAX, silent: false, hash: None, sticky: None };
    /// The first tier alone.
    pub const FIRST_TIER: Self = Self { highest_tier: 0, silent: true, hash: None, sticky: None };
}

/// Why there is no back end for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("no back end is up")]
    None,
    /// All that may be used have as much in hand as they may.
    #[error("every back end has as many requests as it may (max_in_flight)")]
    Busy,
    /// As [`Busy`](Self::Busy), and as many wait as may.
    #[error("every back end has as many requests as it may (max_in_flight), and max_queued wait already")]
    QueueFull,
    /// As [`Busy`](Self::Busy), for as long as a request waits.
    #[error("every back end had as many requests as it may (max_in_flight) for queue_timeout")]
    QueueTimeout,
}

/// A back end, chosen for one request or connection, which counts as in flight there until this is dropped.
pub struct Lease<T> {
    backend: Arc<Backend<T>>,
    pool: Arc<Pool<T>>,
}

impl<T> Lease<T> {
    pub fn backend(&self) -> &Arc<Backend<T>> {
        &self.backend
    }
}

impl<T> Deref for Lease<T> {
    type Target = Backend<T>;

    fn deref(&self) -> &Backend<T> {
        &self.backend
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend.fmt(f)
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.backend.put_back();
        self.pool.load.put_back();
        self.pool.serve_queue();
    }
}

type Backends<T> = Vec<Arc<Backend<T>>>;

/// A named set of back ends that do the same work. The set may change while they work.
pub struct Pool<T> {
    name: Arc<str>,
    backends: ArcSwap<Backends<T>>,
    /// For those who change the set.
    changing: Mutex<()>,
    balance: Box<dyn Balance>,
    /// Of all back ends together.
    load: Load,
    queue: Queue<T>,
    outliers: OnceLock<OutlierLimits>,
    retries: OnceLock<RetryBudget>,
    breaker: OnceLock<Breaker>,
    changed: Signal,
    best: ArcSwap<Best<T>>,
    /// What the checks of a back end that is added go by.
    checking: OnceLock<(Timing, Heartbeats)>,
}

impl<T> Pool<T> {
    /// A pool that chooses in turn, by weight. Nothing runs yet.
    pub fn new(name: &str, members: Vec<NewBackend<T>>, limits: PoolLimits) -> Arc<Self> {
        Self::balanced(name, members, limits, Box::new(RoundRobin::default()))
    }

    /// A pool that chooses by `balance`.
    pub fn balanced(
        name: &str,
        members: Vec<NewBackend<T>>,
        limits: PoolLimits,
        balance: Box<dyn Balance>,
    ) -> Arc<Self> {
        let name: Arc<str> = name.into();
        let changed = Signal::new();
        let backends =
            members.into_iter().map(|m| Arc::new(Backend::new(name.clone(), m, changed.clone()))).collect();
        Arc::new(Self {
            queue: Queue::new(&name, limits),
            outliers: OnceLock::new(),
            retries: OnceLock::new(),
            breaker: OnceLock::new(),
            name,
            backends: ArcSwap::from_pointee(backends),
            changing: Mutex::default(),
            balance,
            load: Load::new(1, limits.max_in_flight),
            changed,
            best: ArcSwap::from_pointee(Best::default()),
            checking: OnceLock::new(),
        })
    }

    /// Has back ends passed over whose requests come to nothing; a second call changes nothing.
    pub fn watch_outliers(&self, limits: OutlierLimits) {
        let _ = self.outliers.set(limits);
    }

    fn outliers(&self) -> &OutlierLimits {
        self.outliers.get().unwrap_or(&OutlierLimits::NONE)
    }

    /// Takes a back end out for good: nothing new goes there, what it has in hand is finished. `None` when there is none of
    /// that name.
    pub fn remove(&self, name: &str) -> Option<Arc<Backend<T>>> {
        let _changing = self.changing.lock();
        let mut all = self.backends().to_vec();
        let removed = all.remove(all.iter().position(|b| b.name() == name)?);
        tracing::info!(pool = %self.name, backend = name, "back end removed");
        self.backends.store(Arc::new(all));
        removed.retire();
        Some(removed)
    }

    /// Takes a back end out of use, or puts it back; `false` when there is none of that name.
    pub fn set_drained(&self, name: &str, drained: bool) -> bool {
        self.backend(name).map(|b| b.set_drained(drained)).is_some()
    }

    /// How much a back end gets in comparison with others of its tier; 0 is nothing. `false` when there is none of that name.
    pub fn set_weight(&self, name: &str, weight: u32) -> bool {
        self.backend(name).map(|b| b.set_weight(weight)).is_some()
    }

    /// The next back end for a request that tried others before: of those of the best standing, those of the lowest tier, and
    /// of these as the algorithm says. What is usable comes first; then one whose checks are good although a connect just
    /// failed: it may be the network's hiccup, and a try costs less than an error.
    pub fn pick(self: &Arc<Self>, scope: Scope, tried: &Tried<T>) -> Result<Lease<T>, Unavailable> {
        if tried.is_empty() && scope.is_any() {
            return self.pick_any(scope.hash);
        }
        let all = self.backends();
        let own = scope.sticky.and_then(|_| all.iter().find(|b| is_own(b, scope, tried)));
        let best = all.iter().filter_map(|b| order(b, scope, tried)).min();
        if own.is_none() && best.is_none() {
            return Err(Unavailable::None);
        }
        let fits = |b: &&Arc<Backend<T>>| match own {
            Some(own) => Arc::ptr_eq(b, own),
            None => order(b, scope, tried) == best,
        };
        let equal = || all.iter().filter(fits).filter(|b| b.load().has_room());
        // Looked for first: whoever takes a place of the pool's for nothing keeps it from others for a moment.
        if equal().next().is_none() || !self.load.take() {
            return Err(Unavailable::Busy);
        }
        let ask = Ask { further: !tried.is_empty(), hash: scope.hash };
        loop {
            let chosen = self.balance.choose(&mut equal().map(|b| b.load()), ask);
            let chosen = chosen.and_then(|load| all.iter().find(|b| std::ptr::eq(b.load(), load)));
            let Some(backend) = chosen else {
                self.load.put_back();
                return Err(Unavailable::Busy);
            };
            // Another request may have taken its last place just now.
            if backend.take() {
                return Ok(Lease { backend: backend.clone(), pool: self.clone() });
            }
        }
    }

    /// As [`pick`](Self::pick), for a request that may go to any and has tried none.
    fn pick_any(self: &Arc<Self>, hash: Option<u64>) -> Result<Lease<T>, Unavailable> {
        let best = self.best();
        if best.is_empty() {
            return Err(Unavailable::None);
        }
        if !best.has_room() || !self.load.take() {
            return Err(Unavailable::Busy);
        }
        let ask = Ask { further: false, hash };
        loop {
            let chosen = self.balance.choose_of(&*best, best.version(), ask).and_then(|at| best.backend(at));
            let Some(backend) = chosen else {
                self.load.put_back();
                return Err(Unavailable::Busy);
            };
            if backend.take() {
                return Ok(Lease { backend: backend.clone(), pool: self.clone() });
            }
        }
    }

    /// As [`pick`](Self::pick); while all that may be used are busy, the request waits, first come, first served, but for further
    /// attempts, which come first. It has `waited` before.
    pub async fn lease(
        self: &Arc<Self>,
        scope: Scope,
        tried: &Tried<T>,
        waited: Duration,
    ) -> Result<Lease<T>, Unavailable> {
        if self.queue.is_empty() {
            match self.pick(scope, tried) {
                Err(Unavailable::Busy) => {}
                done => return done,
            }
        }
        // Seldom needed: on its own, it is no part of every request's future.
        Box::pin(self.wait_in_queue(scope, tried, waited)).await
    }

    /// Whether there is one that was not tried, busy or not. Asking has no effect.
    pub fn has_other(&self, scope: Scope, tried: &Tried<T>) -> bool {
        self.backends().iter().any(|b| order(b, scope, tried).is_some() || is_own(b, scope, tried))
    }

    /// Whether there is one that is known to be up, was not tried, and is not busy.
    pub fn has_usable(&self, scope: Scope, tried: &Tried<T>) -> bool {
        let usable = |b: &Backend<T>| {
            b.load().has_room() && order(b, scope, tried).is_some_and(|(s, _)| s == Standing::Usable)
        };
        self.load.has_room() && self.backends().iter().any(|b| usable(b))
    }

    /// The one usable back end; `None` when there is none, and also when there are two: two that both claim a role only
    /// one can have are both not believed.
    pub fn only(&self) -> Option<Arc<Backend<T>>> {
        let all = self.backends();
        let mut usable = all.iter().filter(|b| b.is_usable());
        match (usable.next(), usable.next()) {
            (Some(one), None) => Some(one.clone()),
            _ => None,
        }
    }
}

impl<T> Pool<T> {
    /// As in logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All back ends of the moment, in the order in which they came.
    pub fn backends(&self) -> Guard<Arc<Backends<T>>> {
        self.backends.load()
    }

    /// The back end of that name.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend<T>>> {
        self.backends().iter().find(|b| b.name() == name).cloned()
    }

    /// Counts one more in flight at this back end, which was chosen by other means than [`pick`](Self::pick).
    pub fn hold(self: &Arc<Self>, backend: &Arc<Backend<T>>) -> Result<Lease<T>, Unavailable> {
        if !self.load.take() {
            return Err(Unavailable::Busy);
        }
        if !backend.take() {
            self.load.put_back();
            return Err(Unavailable::Busy);
        }
        Ok(Lease { backend: backend.clone(), pool: self.clone() })
    }

    /// How many back ends are usable.
    pub fn usable(&self) -> usize {
        self.backends().iter().filter(|b| b.is_usable()).count()
    }

    /// A number that changes with every change of any back end, and of their set.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        self.backends().iter().map(|b| b.status()).collect()
    }
}

impl<T: Send + Sync + 'static> Pool<T> {
    /// A further back end, which is used from its first good check on.
    pub fn add(self: &Arc<Self>, member: NewBackend<T>) -> Result<Arc<Backend<T>>, AlreadyThere> {
        let _changing = self.changing.lock();
        let mut all = self.backends().to_vec();
        let same = |b: &&Arc<Backend<T>>| b.name() == member.spec.name || *b.address() == member.spec.address;
        if let Some(other) = all.iter().find(same) {
            return Err(AlreadyThere { name: other.name().to_owned(), address: other.address().to_string() });
        }
        let backend = Arc::new(Backend::new(self.name.clone(), member, self.changed.clone()));
        tracing::info!(pool = %self.name, backend = backend.name(), address = %backend.address(), "back end added");
        all.push(backend.clone());
        self.backends.store(Arc::new(all));
        if let Some((timing, heartbeats)) = self.checking.get() {
            rounds::check_from_now_on(&backend, *timing, heartbeats, true);
        }
        self.changed.tell();
        Ok(backend)
    }
}

/// What is better comes first; none for what is not for this request.
fn order<T>(backend: &Backend<T>, scope: Scope, tried: &Tried<T>) -> Option<(Standing, u8)> {
    let standing = backend.standing()?;
    let fits = backend.tier() <= scope.highest_tier && (scope.silent || standing != Standing::Silent);
    (fits && !tried.has(backend)).then_some((standing, backend.tier()))
}

/// A back end that was to be added has the name or the address of one that is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the back end {name} at {address} is there already")]
pub struct AlreadyThere {
    pub name: String,
    pub address: String,
}

#[cfg(test)]
mod tests;
