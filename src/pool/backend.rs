//! One back end: what its checks and its requests say about it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use metrics::{Counter, counter, gauge};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::check::Verdict;
use super::config::Timing;

/// What the active checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet: not used.
    Unknown,
    /// Used.
    Up,
    /// Not used.
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// What does not change about a back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// 0 is used first; a higher tier only when no lower one has a usable back end (HAProxy's `backup`).
    pub tier: u8,
}

#[derive(Debug)]
struct State {
    health: Health,
    ejected: Option<Instant>,
    drained: bool,
    good: u32,
    silent: u32,
    refused: bool,
    since: SystemTime,
    reason: String,
    detail: Value,
}

/// A back end and its state.
pub struct Backend {
    pool: Arc<str>,
    index: usize,
    spec: Spec,
    state: Mutex<State>,
    usable: watch::Sender<bool>,
    serving: watch::Sender<bool>,
    changed: watch::Sender<u64>,
    silent: AtomicBool,
    answers: OnceLock<[Counter; 6]>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.spec.name)
    }
}

impl Backend {
    pub(super) fn new(pool: Arc<str>, index: usize, spec: Spec, changed: watch::Sender<u64>) -> Self {
        let state = Mutex::new(State {
            health: Health::Unknown,
            ejected: None,
            drained: false,
            good: 0,
            silent: 0,
            refused: false,
            since: SystemTime::now(),
            reason: "not checked yet".into(),
            detail: Value::Null,
        });
        Self {
            pool,
            index,
            spec,
            state,
            usable: watch::Sender::new(false),
            serving: watch::Sender::new(false),
            changed,
            silent: AtomicBool::new(false),
            answers: OnceLock::new(),
        }
    }

    /// Counters of the answers that came from it, by class of status; see [`crate::http::exchange`].
    pub(crate) fn answers(&self) -> &[Counter; 6] {
        self.answers.get_or_init(|| crate::http::exchange::answers_by_class(&self.spec.name))
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.spec.address
    }

    pub fn tier(&self) -> u8 {
        self.spec.tier
    }

    /// Its place in the configuration.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What its checks say.
    pub fn health(&self) -> Health {
        self.state.lock().health
    }

    /// Whether requests may go there.
    pub fn is_usable(&self) -> bool {
        *self.usable.borrow()
    }

    /// Whether only a failed connect speaks against it.
    pub(super) fn is_ejected_only(&self) -> bool {
        let state = self.state.lock();
        state.health == Health::Up && state.ejected.is_some() && !state.drained
    }

    /// Whether it was only not heard of: it did not say no, and nobody drained it.
    pub(super) fn is_only_silent(&self) -> bool {
        let state = self.state.lock();
        state.health == Health::Down && !state.refused && !state.drained
    }

    /// Whether its checks hear nothing from it: not even that it is on its way out.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Waits until its checks say down or it is drained, which may be now. Ejection does not count: it keeps new work
    /// away and says nothing about work that goes on.
    pub async fn lost(&self) {
        // The sender lives as long as `self`.
        let _ = self.serving.subscribe().wait_for(|serving| !serving).await;
    }

    /// The JSON of its last good or refusing answer to a check, `null` when there was none.
    pub fn detail(&self) -> Value {
        self.state.lock().detail.clone()
    }

    /// A request could not connect: out of use until its next good check that began after now.
    pub fn eject(&self, why: &str) {
        let mut state = self.state.lock();
        if state.ejected.replace(Instant::now()).is_none() && state.health == Health::Up {
            counter!("trivet_backend_ejections_total", "pool" => self.pool.to_string(), "backend" => self.spec.name.clone())
                .increment(1);
            tracing::warn!(pool = %self.pool, backend = %self.spec.name, reason = %why, "back end ejected");
            state.reason = format!("ejected: {why}");
            state.since = SystemTime::now();
        }
        self.publish(&state);
    }

    /// Takes it out of use, or puts it back.
    pub fn set_drained(&self, drained: bool) {
        let mut state = self.state.lock();
        if state.drained != drained {
            state.drained = drained;
            state.since = SystemTime::now();
            tracing::info!(pool = %self.pool, backend = %self.spec.name, drained, "back end drained or enabled");
        }
        self.publish(&state);
    }

    /// Takes in what a check that began at `began` found.
    pub fn record(&self, verdict: Verdict, began: Instant, timing: &Timing) {
        let result = verdict.label();
        counter!("trivet_backend_checks_total", "pool" => self.pool.to_string(), "backend" => self.spec.name.clone(), "result" => result)
            .increment(1);
        let mut state = self.state.lock();
        match verdict {
            Verdict::Good(detail) => {
                state.detail = detail;
                state.silent = 0;
                state.refused = false;
                state.good = state.good.saturating_add(1);
                if state.ejected.is_some_and(|at| at < began) {
                    state.ejected = None;
                    tracing::info!(pool = %self.pool, backend = %self.spec.name, "back end no longer ejected");
                }
                // The first check of all decides alone: at start there is nothing better to go by.
                if state.health == Health::Unknown || state.good >= timing.rise {
                    self.turn(&mut state, Health::Up, "check passed");
                }
            }
            Verdict::Refused(why, detail) => {
                state.detail = detail;
                state.silent = 0;
                state.refused = true;
                state.good = 0;
                self.turn(&mut state, Health::Down, &why);
            }
            Verdict::Silent(why) => {
                state.good = 0;
                state.silent = state.silent.saturating_add(1);
                if state.health == Health::Unknown || state.silent >= timing.fall {
                    // Whatever it said last, it says nothing any more.
                    state.refused = false;
                    self.turn(&mut state, Health::Down, &why);
                }
            }
        }
        self.publish(&state);
    }

    fn turn(&self, state: &mut State, to: Health, why: &str) {
        if state.health == to {
            if to == Health::Down && state.reason != why {
                why.clone_into(&mut state.reason);
            }
            return;
        }
        let from = std::mem::replace(&mut state.health, to);
        state.since = SystemTime::now();
        why.clone_into(&mut state.reason);
        counter!("trivet_backend_transitions_total", "pool" => self.pool.to_string(), "backend" => self.spec.name.clone(), "to" => to.to_string())
            .increment(1);
        if to == Health::Up {
            tracing::info!(pool = %self.pool, backend = %self.spec.name, address = %self.spec.address, %from, reason = why, "back end is up");
        } else {
            tracing::warn!(pool = %self.pool, backend = %self.spec.name, address = %self.spec.address, %from, reason = why, "back end is down");
        }
    }

    fn publish(&self, state: &State) {
        let serving = state.health == Health::Up && !state.drained;
        self.silent.store(state.health == Health::Down && !state.refused, Ordering::Relaxed);
        let usable = serving && state.ejected.is_none();
        let set = |to: &watch::Sender<bool>, new: bool| {
            to.send_if_modified(|old| std::mem::replace(old, new) != new)
        };
        // Both are set before anyone is told, so that who is told sees both.
        let changed = set(&self.usable, usable) | set(&self.serving, serving);
        // Also when nothing changed: the recorder may be younger than this back end.
        self.export(usable);
        if changed {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    fn export(&self, usable: bool) {
        gauge!("trivet_backend_up", "pool" => self.pool.to_string(), "backend" => self.spec.name.clone())
            .set(if usable { 1.0 } else { 0.0 });
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        let state = self.state.lock();
        let since = time::OffsetDateTime::from(state.since)
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap_or_default();
        json!({
            "name": self.spec.name,
            "address": self.spec.address.to_string(),
            "tier": self.spec.tier,
            "usable": *self.usable.borrow(),
            "health": state.health.to_string(),
            "ejected": state.ejected.is_some(),
            "drained": state.drained,
            "since": since,
            "reason": state.reason,
            "detail": state.detail,
        })
    }
}
