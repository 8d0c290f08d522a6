//! Back ends, which of them are healthy, and which one is next: one module for HTTP balancer, TCP gateway and web tier.
//!
//! A back end is used while its active checks say **up**, nobody **drained** it, and no request has just failed to
//! connect to it (**ejection**, until its next good check). Before its first check a back end is of unknown health and
//! not used: [`Pool::first_round`] checks all of them once, and a program listens only after that.
//!
//! ```text
//! let pool = Pool::new("web", backends);          // Vec<(Spec, Arc<dyn Check>)>
//! pool.first_round(timing).await;
//! pool.run_checks(timing, &heartbeats);
//! let mut tried = Tried::default();
//! while let Some(backend) = pool.pick(&tried) {
//!     match connect(backend.address()).await {
//!         Ok(stream) => …,
//!         Err(e) => { backend.eject(&e.to_string()); tried.add(&backend); }
//!     }
//! }
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::sync::watch;

pub mod backend;
pub mod check;
pub mod config;
mod rounds;

pub use backend::{Backend, Health, Spec};
pub use check::{Check, HttpCheck, Verdict};

/// The back ends that one request has tried already.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tried(Vec<usize>);

impl Tried {
    /// Notes a back end.
    pub fn add(&mut self, backend: &Backend) {
        if !self.has(backend) {
            self.0.push(backend.index());
        }
    }

    /// Whether the back end was tried.
    pub fn has(&self, backend: &Backend) -> bool {
        self.0.contains(&backend.index())
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

/// A named set of back ends that do the same work.
pub struct Pool {
    name: Arc<str>,
    backends: Vec<Arc<Backend>>,
    checks: Vec<Arc<dyn Check>>,
    next: AtomicUsize,
    changed: watch::Sender<u64>,
}

impl Pool {
    /// A pool of back ends with the check of each. Nothing runs yet.
    pub fn new(name: &str, backends: Vec<(Spec, Arc<dyn Check>)>) -> Arc<Self> {
        let name: Arc<str> = name.into();
        let changed = watch::Sender::new(0);
        let (backends, checks) = backends
            .into_iter()
            .enumerate()
            .map(|(i, (spec, check))| (Arc::new(Backend::new(name.clone(), i, spec, changed.clone())), check))
            .unzip();
        Arc::new(Self { name, backends, checks, next: AtomicUsize::new(0), changed })
    }

    /// Its name, as in logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All back ends, in the order of the configuration.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The back end of that name.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|b| b.name() == name)
    }

    /// The next back end in turn that was not tried: of the lowest tier that has a usable one. When there is none, one
    /// whose checks are good although a connect just failed: it may be the network's hiccup, and a try costs less than
    /// an error.
    pub fn pick(&self, tried: &Tried) -> Option<Arc<Backend>> {
        self.pick_where(tried, Backend::is_usable)
            .or_else(|| self.pick_where(tried, Backend::is_ejected_only))
    }

    /// As [`pick`](Self::pick), and when even that finds none, one that merely did not answer its checks. When nobody
    /// answers in time, the machine that asks may be the slow one: an attempt may succeed, a refusal cannot. Not for
    /// roles that only one may have.
    pub fn pick_any(&self, tried: &Tried) -> Option<Arc<Backend>> {
        self.pick(tried).or_else(|| self.pick_where(tried, Backend::is_only_silent))
    }

    /// Whether [`pick_any`](Self::pick_any) would find one.
    pub fn has_any(&self, tried: &Tried) -> bool {
        let eligible = |b: &Backend| b.is_usable() || b.is_ejected_only() || b.is_only_silent();
        self.backends.iter().any(|b| eligible(b) && !tried.has(b))
    }

    /// Whether there is one that is known to be up and was not tried.
    pub fn has_usable(&self, tried: &Tried) -> bool {
        self.backends.iter().any(|b| b.is_usable() && !tried.has(b))
    }

    fn pick_where(&self, tried: &Tried, is: impl Fn(&Backend) -> bool) -> Option<Arc<Backend>> {
        let eligible = |b: &&Arc<Backend>| is(b) && !tried.has(b);
        let tier = self.backends.iter().filter(eligible).map(|b| b.tier()).min()?;
        let candidates = || self.backends.iter().filter(eligible).filter(|b| b.tier() == tier);
        // A further try of a request takes nobody's turn: where every request to a broken back end took two, the next one
        // would begin at the same back end again.
        let turn = match tried.is_empty() {
            true => self.next.fetch_add(1, Ordering::Relaxed),
            false => self.next.load(Ordering::Relaxed),
        };
        // A state may have changed since they were counted.
        candidates().nth(turn % candidates().count().max(1)).or_else(|| candidates().next()).cloned()
    }

    /// The one usable back end; `None` when there is none, and also when there are two: two that both claim a role only
    /// one can have are both not believed.
    pub fn only(&self) -> Option<Arc<Backend>> {
        let mut usable = self.backends.iter().filter(|b| b.is_usable());
        match (usable.next(), usable.next()) {
            (Some(one), None) => Some(one.clone()),
            _ => None,
        }
    }

    /// How many back ends are usable.
    pub fn usable(&self) -> usize {
        self.backends.iter().filter(|b| b.is_usable()).count()
    }

    /// A number that changes with every change of any back end.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes a back end out of use, or puts it back; `false` when there is none of that name.
    pub fn set_drained(&self, name: &str, drained: bool) -> bool {
        self.backend(name).is_some_and(|b| {
            b.set_drained(drained);
            true
        })
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        self.backends.iter().map(|b| b.status()).collect()
    }
}

#[cfg(test)]
mod tests;
