//! One back end: what it is, what its checks and its requests say about it, and what it has in hand.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::balance::Load;
use super::best::Signal;
use super::check::{Check, Verdict};
use super::outlier::Outcomes;
use super::timing::Timing;
use trivet_base::address::Address;

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

/// What is said about a back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// In logs, metrics and `/status`.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// 0 is used first; a higher tier only when no lower one has a usable back end (HAProxy's `backup`).
    pub tier: u8,
    /// Its share in comparison with others of its tier, to begin with; 0 is nothing.
    pub weight: u32,
    /// Requests, or connections, that it may have in hand (HAProxy's `maxconn` of a server).
    pub max_in_flight: usize,
    /// When none is known to be up, it is asked whatever its checks say, unless it is drained: its own error page says more
    /// than ours.
    pub fallback: bool,
    /// Once its checks have brought it back, its share grows from a tenth to the whole over this time; zero has it whole at once.
    pub slow_start: Duration,
}

impl Spec {
    /// Of the first tier, with a weight of 1 and nothing else.
    pub fn new(name: impl Into<String>, address: impl Into<Address>) -> Self {
        Self {
            name: name.into(),
            address: address.into(),
            tier: 0,
            weight: 1,
            max_in_flight: usize::MAX,
            fallback: false,
            slow_start: Duration::ZERO,
        }
    }
}

/// A back end that is to be.
pub struct NewBackend<T> {
    pub spec: Spec,
    /// What it is asked again and again.
    pub check: Arc<dyn Check>,
    /// What its user keeps with it.
    pub transport: T,
}

/// What may be expected of a back end, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Standing {
    /// Its checks are good.
    Usable = 1,
    /// They are, but a request could not connect.
    Ejected,
    /// They are not, and it may be asked all the same.
    Fallback,
    /// It does not answer them, which may be our fault.
    Silent,
}

#[derive(Debug)]
struct State {
    health: Health,
    ejected: Option<Instant>,
    drained: bool,
    disabled: bool,
    retired: bool,
    good: u32,
    silent: u32,
    refused: bool,
    /// Its machine, if not it.
    heard: bool,
    /// When it, or its machine, was last heard.
    heard_at: Option<Instant>,
    /// When it last answered a check.
    answered_at: Option<Instant>,
    since: SystemTime,
    reason: String,
    detail: Value,
}

impl State {
    /// On purpose, whatever its checks say.
    fn is_taken_out(&self) -> bool {
        self.drained || self.disabled || self.retired
    }
}

/// Looked up once each: a look-up by labels costs more than the counting, and all back ends are checked all the time.
struct Meters {
    in_flight: Gauge,
    up: Gauge,
    /// Of checks, by what they found; those that are not counted yet are not shown.
    good: OnceLock<Counter>,
    refused: OnceLock<Counter>,
    silent: OnceLock<Counter>,
    failed: OnceLock<Counter>,
}

impl Meters {
    fn new(pool: &str, name: &str) -> Self {
        let labels = [("pool", pool.to_owned()), ("backend", name.to_owned())];
        Self {
            in_flight: gauge!("trivet_backend_in_flight", &labels),
            up: gauge!("trivet_backend_up", &labels),
            good: OnceLock::new(),
            refused: OnceLock::new(),
            silent: OnceLock::new(),
            failed: OnceLock::new(),
        }
    }

    fn checked(&self, verdict: &Verdict) -> &OnceLock<Counter> {
        match verdict {
            Verdict::Good(_) => &self.good,
            Verdict::Refused(..) => &self.refused,
            Verdict::Silent(_) => &self.silent,
            Verdict::Failed(_) => &self.failed,
        }
    }
}

/// A back end and its state. `T` is what its user keeps with it: how it is reached, its connections.
pub struct Backend<T> {
    pool: Arc<str>,
    spec: Spec,
    check: Arc<dyn Check>,
    transport: T,
    load: Load,
    meters: Meters,
    state: Mutex<State>,
    /// [`Standing`], or 0 for a back end that is not used.
    standing: AtomicU8,
    /// Whether those whose session is on it may stay.
    well: AtomicBool,
    serving: watch::Sender<bool>,
    changed: Signal,
    silent: AtomicBool,
    outcomes: Outcomes,
    outlier: AtomicBool,
}

impl<T> fmt::Debug for Backend<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.spec.name)
    }
}

impl<T> Backend<T> {
    pub(super) fn new(pool: Arc<str>, member: NewBackend<T>, changed: Signal) -> Self {
        let NewBackend { spec, check, transport } = member;
        let state = Mutex::new(State {
            health: Health::Unknown,
            ejected: None,
            drained: false,
            disabled: false,
            retired: false,
            good: 0,
            silent: 0,
            refused: false,
            heard: false,
            heard_at: None,
            answered_at: None,
            since: SystemTime::now(),
            reason: "not checked yet".into(),
            detail: Value::Null,
        });
        let backend = Self {
            load: Load::new(spec.weight, spec.max_in_flight).named(&spec.name),
            meters: Meters::new(&pool, &spec.name),
            pool,
            spec,
            check,
            transport,
            state,
            standing: AtomicU8::new(0),
            well: AtomicBool::new(false),
            serving: watch::Sender::new(false),
            changed,
            silent: AtomicBool::new(false),
            outcomes: Outcomes::new(),
            outlier: AtomicBool::new(false),
        };
        backend.set_standing(&backend.state.lock());
        backend
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// A number that its name has on every node.
    pub fn id(&self) -> u64 {
        self.load.seed()
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.spec.address
    }

    pub fn tier(&self) -> u8 {
        self.spec.tier
    }

    /// What its user keeps with it.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Its weight, and what it has in hand.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Counts one more in flight, if there is room.
    pub(super) fn take(&self) -> bool {
        let taken = self.load.take();
        if taken {
            self.meters.in_flight.increment(1.0);
        }
        taken
    }

    pub(super) fn put_back(&self) {
        self.load.put_back();
        self.meters.in_flight.decrement(1.0);
    }

    /// What its checks say.
    pub fn health(&self) -> Health {
        self.state.lock().health
    }

    /// Whether requests may go there.
    pub fn is_usable(&self) -> bool {
        self.standing() == Some(Standing::Usable)
    }

    /// What may be expected of it; none when it is not used.
    pub(super) fn standing(&self) -> Option<Standing> {
        use Standing::{Ejected, Fallback, Silent, Usable};
        let now = self.standing.load(Ordering::Acquire);
        [Usable, Ejected, Fallback, Silent].into_iter().find(|s| *s as u8 == now)
    }

    /// Whether its checks are good, whatever an operator has ordered.
    pub fn is_up(&self) -> bool {
        let state = self.state.lock();
        state.health == Health::Up && !state.retired
    }

    /// Whether its checks are good and requests come to something, drained or not.
    pub(super) fn is_well(&self) -> bool {
        self.well.load(Ordering::Acquire)
    }

    fn set_standing(&self, state: &State) {
        let passed_over = state.ejected.is_some() || self.is_outlier();
        let well = state.health == Health::Up && !passed_over && !state.retired && !state.disabled;
        self.well.store(well, Ordering::Release);
        let standing = if state.is_taken_out() || self.load.weight() == 0 {
            None
        } else if state.health == Health::Up {
            Some(if passed_over { Standing::Ejected } else { Standing::Usable })
        } else if self.spec.fallback {
            Some(Standing::Fallback)
        } else {
            (state.health == Health::Down && !state.refused).then_some(Standing::Silent)
        };
        self.standing.store(standing.map_or(0, |s| s as u8), Ordering::Release);
    }

    /// Whether its checks hear nothing from it or its machine: not even that it is on its way out, or not there.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// What its requests say about it.
    pub(super) fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Whether it is passed over for what became of its requests.
    pub fn is_outlier(&self) -> bool {
        self.outlier.load(Ordering::Relaxed)
    }

    /// Whether it was taken out on purpose.
    pub(super) fn is_out(&self) -> bool {
        let state = self.state.lock();
        state.is_taken_out() || self.load.weight() == 0
    }

    /// Passes it over, for this reason, or no longer.
    pub(super) fn set_outlier(&self, why: Option<&str>) {
        let mut state = self.state.lock();
        self.outlier.store(why.is_some(), Ordering::Relaxed);
        if state.health == Health::Up {
            state.reason = why.map_or("tried again".into(), |why| format!("outlier: {why}"));
            state.since = SystemTime::now();
        }
        self.publish(&state);
    }

    /// Waits until its checks say down or it is drained, which may be now. Ejection does not count: it keeps new work
    /// away and says nothing about work that goes on.
    pub async fn lost(&self) {
        // The sender lives as long as `self`.
        let _ = self.serving.subscribe().wait_for(|serving| !serving).await;
    }

    /// Whether its last checks say something else than what is believed of it, and are too few yet.
    pub(super) fn is_turning(&self) -> bool {
        let state = self.state.lock();
        match state.health {
            Health::Up => state.silent > 0,
            Health::Down => state.good > 0,
            Health::Unknown => true,
        }
    }

    /// The JSON of its last good or refusing answer to a check, `null` when there was none.
    pub fn detail(&self) -> Value {
        self.state.lock().detail.clone()
    }

    /// When its checks last heard it, or its machine, by whatever sign.
    pub fn heard_at(&self) -> Option<Instant> {
        self.state.lock().heard_at
    }

    /// When it last answered a check; [`detail`](Self::detail) is what it said.
    pub fn answered_at(&self) -> Option<Instant> {
        self.state.lock().answered_at
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
        self.take_out(drained, false);
    }

    /// Whether it is so.
    pub fn is_taken_out(&self, drained: bool, disabled: bool) -> bool {
        let state = self.state.lock();
        (state.drained, state.disabled) == (drained, disabled)
    }

    /// Takes it out of use: `drained`, or `disabled` for those as well who are bound to it. With neither it is used again.
    pub fn take_out(&self, drained: bool, disabled: bool) {
        let mut state = self.state.lock();
        if (state.drained, state.disabled) != (drained, disabled) {
            (state.drained, state.disabled) = (drained, disabled);
            state.since = SystemTime::now();
            tracing::info!(pool = %self.pool, backend = %self.spec.name, drained, disabled, "back end taken out of use, or put back");
        }
        self.publish(&state);
    }

    /// Its weight as it was configured.
    pub fn configured_weight(&self) -> u32 {
        self.spec.weight
    }

    /// How much it gets in comparison with others of its tier; 0 is nothing new.
    pub fn set_weight(&self, weight: u32) {
        let state = self.state.lock();
        if self.load.weight() != weight {
            tracing::info!(pool = %self.pool, backend = %self.spec.name, weight, "weight changed");
            self.load.set_weight(weight);
        }
        self.publish(&state);
    }

    /// It is no longer one of its pool's.
    pub(super) fn retire(&self) {
        let mut state = self.state.lock();
        state.retired = true;
        self.publish(&state);
        // Neither up nor down: it is nobody's trouble any more.
        self.meters.up.set(f64::NAN);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.state.lock().retired
    }

    /// Asks it, and takes in what it says.
    pub(super) async fn check(&self, timing: &Timing) {
        let began = Instant::now();
        let verdict = self.check.check(timing.timeout).await;
        self.record(verdict, began, timing);
    }

    /// Takes in what a check that began at `began` found.
    pub fn record(&self, verdict: Verdict, began: Instant, timing: &Timing) {
        let result = verdict.label();
        let checks = || counter!("trivet_backend_checks_total", "pool" => self.pool.to_string(), "backend" => self.spec.name.clone(), "result" => result);
        self.meters.checked(&verdict).get_or_init(checks).increment(1);
        let mut state = self.state.lock();
        if !matches!(verdict, Verdict::Silent(_)) {
            state.heard_at = Some(Instant::now());
        }
        if matches!(verdict, Verdict::Good(_) | Verdict::Refused(..)) {
            state.answered_at = state.heard_at;
        }
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
            Verdict::Silent(why) | Verdict::Failed(why) => {
                state.heard = result == "failed";
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
        // What is up at the first check of all was so before.
        if to == Health::Up && from == Health::Down && !self.spec.slow_start.is_zero() {
            self.load.start_slowly(self.spec.slow_start);
            counter!("trivet_backend_slow_starts_total", "pool" => self.pool.to_string(), "backend" => self.spec.name.clone())
                .increment(1);
        }
        if to == Health::Up {
            tracing::info!(pool = %self.pool, backend = %self.spec.name, address = %self.spec.address, %from, reason = why, "back end is up");
        } else {
            tracing::warn!(pool = %self.pool, backend = %self.spec.name, address = %self.spec.address, %from, reason = why, "back end is down");
        }
    }

    fn publish(&self, state: &State) {
        let serving = state.health == Health::Up && !state.is_taken_out();
        let silent = state.health == Health::Down && !state.refused && !state.heard;
        self.silent.store(silent, Ordering::Relaxed);
        let before = (self.standing(), self.is_well());
        self.set_standing(state);
        let set = |to: &watch::Sender<bool>, new: bool| {
            to.send_if_modified(|old| std::mem::replace(old, new) != new)
        };
        // Both are set before anyone is told, so that who is told sees both.
        let changed = set(&self.serving, serving) | ((self.standing(), self.is_well()) != before);
        if !state.retired {
            self.meters.up.set(if self.is_usable() { 1.0 } else { 0.0 });
        }
        if changed {
            self.changed.tell();
        }
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
            "weight": self.load.weight(),
            "effective_weight": self.load.share() as f64 / 1000.0,
            "in_flight": self.load.in_flight(),
            "usable": self.is_usable(),
            "health": state.health.to_string(),
            "ejected": state.ejected.is_some(),
            "outlier": self.is_outlier(),
            "drained": state.drained,
            "disabled": state.disabled,
            "since": since,
            "reason": state.reason,
            "detail": state.detail,
        })
    }
}
