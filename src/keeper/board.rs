//! The one place where the keeper's tasks leave what they know: the observer, the peers' pollers and the runner write,
//! the HTTP server reads. Nobody waits here for mysqld or a peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use super::model::Cluster;
use super::report::{Disk, Observation, Peers, Phase, Record, Report};
use super::verdict::{Facts, Leaving};

/// What the tasks share.
pub struct Board {
    cluster: Cluster,
    stale: Duration,
    state: RwLock<State>,
    /// Asks the observer to look now.
    look: Notify,
    /// Tells when a look that began at this moment has succeeded.
    looked: watch::Sender<Option<Instant>>,
}

/// How long the word that mysqld is about to stop is believed; a stop that never came must not keep a member out of use.
const LEAVING: Duration = Duration::from_secs(60);

/// How long the word that the primary role is about to move is believed: longer than MySQL may take for it.
const MOVES: Duration = Duration::from_secs(45);

/// Takes back, when dropped, that the role is about to move.
pub struct Announced<'a>(&'a Board);

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.0.state.write().moves = None;
    }
}

struct State {
    seen: Option<(Arc<Observation>, Instant)>,
    /// Why the last look failed; an older observation may still be fresh.
    fault: Option<String>,
    /// When looking worked again after a pause: of mysqld, of this process, of the whole machine.
    resumed: Option<Instant>,
    peers: BTreeMap<String, Peer>,
    phase: Phase,
    reason: String,
    plan: Option<String>,
    record: Record,
    warnings: Vec<String>,
    disk: Option<Disk>,
    /// Since when mysqld is about to be stopped on purpose, and how far that has come.
    leaving: Option<(Instant, Leaving)>,
    /// The member from which this keeper is about to move the primary role, and since when.
    moves: Option<(String, Instant)>,
    /// The app's connections here, while the role is about to leave.
    sessions: Option<u64>,
}

struct Peer {
    /// When it was asked last, whatever came of it.
    asked: Instant,
    /// The last report, and when it was asked for. One answer that is late does not undo the one before.
    report: Option<(Report, Instant)>,
    /// Why there was no answer to the last question.
    fault: String,
}

impl Board {
    /// A board on which nothing is known yet.
    pub fn new(cluster: Cluster, stale: Duration, record: Record) -> Self {
        let state = State {
            seen: None,
            fault: Some("has not been asked yet".into()),
            resumed: None,
            peers: BTreeMap::new(),
            phase: Phase::Starting,
            reason: "the keeper has just started".into(),
            plan: None,
            record,
            warnings: Vec::new(),
            disk: None,
            leaving: None,
            moves: None,
            sessions: None,
        };
        let looked = watch::Sender::new(None);
        Self { cluster, stale, state: RwLock::new(state), look: Notify::new(), looked }
    }

    /// The configuration's part of a decision.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A look that succeeded; `at` is when it began.
    pub fn observed(&self, observation: Observation, at: Instant) {
        self.observed_by(observation, at, Instant::now().max(at));
    }

    fn observed_by(&self, observation: Observation, at: Instant, ended: Instant) {
        let mut state = self.state.write();
        if state.seen.as_ref().is_some_and(|(_, last)| *last > at) {
            // It began earlier than what is known and took longer: two may look at the same time.
            return;
        }
        let paused = state.seen.as_ref().is_some_and(|(_, last)| at.duration_since(*last) > self.stale);
        if paused {
            // Not when the look began: it may have waited for the end of the pause, and what peers said meanwhile is of the
            // time before it.
            state.resumed = Some(ended);
        }
        state.seen = Some((Arc::new(observation), at));
        state.fault = None;
        drop(state);
        self.looked.send_replace(Some(at));
    }

    /// Returns when somebody wants the observer to look now.
    pub async fn look_wanted(&self) {
        self.look.notified().await;
    }

    /// Has the member looked at now, instead of at the observer's next turn, and waits for it, at most so long.
    pub async fn look_now(&self, patience: Duration) {
        let asked = Instant::now();
        let mut looked = self.looked.subscribe();
        self.look.notify_one();
        // Late or not, the answer comes from the board.
        let _ = tokio::time::timeout(patience, looked.wait_for(|at| at.is_some_and(|at| at >= asked))).await;
    }

    /// mysqld is about to be stopped on purpose.
    pub fn leave(&self, now: Instant, how: Leaving) {
        self.state.write().leaving = Some((now, how));
    }

    /// Whether it is, as far as anybody said lately.
    pub fn leaving(&self, now: Instant) -> Option<Leaving> {
        leaving(&self.state.read(), now)
    }

    /// This keeper is about to move the primary role away from `from`. The keeper there says no to gateways, until what is
    /// returned is dropped.
    pub fn announce_move(&self, from: &str) -> Announced<'_> {
        self.state.write().moves = Some((from.to_owned(), Instant::now()));
        Announced(self)
    }

    /// Whether the role is about to leave this member, by the word of this keeper or of another.
    pub fn moves_away(&self, now: Instant) -> bool {
        moves_away(&self.state.read(), &self.cluster, now, self.stale)
    }

    /// The app's connections here, while it matters how many there are.
    pub fn sessions(&self, sessions: Option<u64>) {
        self.state.write().sessions = sessions;
    }

    /// What was counted last.
    pub fn sessions_seen(&self) -> Option<u64> {
        self.state.read().sessions
    }

    /// A look that failed. `gone`: mysqld is known not to run, so what was seen before is worth nothing.
    pub fn not_observed(&self, why: String, gone: bool) {
        let mut state = self.state.write();
        if gone {
            state.seen = None;
            // It has stopped. Whoever starts it wants it to work again.
            state.leaving = None;
        }
        state.fault = Some(why);
    }

    /// A peer's answer, asked for at `asked`.
    pub fn peer(&self, name: &str, asked: Instant, report: Result<Report, String>) {
        let mut state = self.state.write();
        let peer = state.peers.entry(name.to_owned()).or_insert_with(|| Peer {
            asked,
            report: None,
            fault: String::new(),
        });
        if peer.asked > asked {
            // Two may ask at the same time, and the earlier question may be answered later.
            return;
        }
        peer.asked = asked;
        match report {
            Ok(report) => peer.report = Some((report, asked)),
            Err(fault) => peer.fault = fault,
        }
    }

    /// The space that mysqld has left, if it can be told.
    pub fn disk(&self, disk: Option<Disk>) {
        self.state.write().disk = disk;
    }

    /// What was told last.
    pub fn disk_seen(&self) -> Option<Disk> {
        self.state.read().disk
    }

    /// What an operator should mend.
    pub fn warn(&self, warnings: Vec<String>) {
        self.state.write().warnings = warnings;
    }

    /// Where the runner stands.
    pub fn decided(&self, phase: Phase, reason: &str, plan: Option<String>) {
        let mut state = self.state.write();
        state.phase = phase;
        state.reason = reason.to_owned();
        state.plan = plan;
    }

    /// What was written to disk.
    pub fn recorded(&self, record: Record) {
        self.state.write().record = record;
    }

    /// The local member, when it was seen lately enough.
    pub fn fresh(&self, now: Instant) -> Result<Arc<Observation>, String> {
        fresh(&self.state.read(), now, self.stale)
    }

    /// The age of the last observation.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.state.read().seen.as_ref().map(|(_, at)| now.saturating_duration_since(*at))
    }

    /// The peers' fresh reports. A report's own age counts, too: a peer that answers about a hung mysqld knows nothing.
    pub fn peers(&self, now: Instant) -> Peers {
        self.state
            .read()
            .peers
            .iter()
            .map(|(name, peer)| (name.clone(), fresh_peer(peer, now, self.stale)))
            .collect()
    }

    pub fn record(&self) -> Record {
        self.state.read().record.clone()
    }

    /// What `/state` answers.
    pub fn report(&self, now: Instant) -> Report {
        let state = self.state.read();
        let age = state.seen.as_ref().map(|(_, at)| now.saturating_duration_since(*at));
        Report {
            node: self.cluster.me.clone(),
            group_name: self.cluster.group_name.clone(),
            digest: self.cluster.digest.clone(),
            phase: state.phase,
            reason: state.reason.clone(),
            plan: state.plan.clone(),
            record: state.record.clone(),
            age_ms: age.map_or(0, |a| u64::try_from(a.as_millis()).unwrap_or(u64::MAX)),
            leaving: leaving(&state, now).is_some(),
            warnings: state.warnings.clone(),
            disk: state.disk,
            clock_ms: Some(unix_ms()),
            moves: moves(&state, now).map(str::to_owned),
            sessions: state.sessions,
            ahead: None,
            observation: fresh(&state, now, self.stale).ok().map(|o| (*o).clone()),
        }
    }

    /// What the verdicts for gateways are made from.
    pub fn facts(&self, now: Instant) -> Facts {
        let state = self.state.read();
        let all_asked_since = |t: Instant| {
            let peers = self.cluster.members.iter().filter(|m| **m != self.cluster.me);
            peers.into_iter().all(|m| state.peers.get(m).is_some_and(|p| p.asked > t))
        };
        let mut peers = Vec::new();
        let mut ahead = Vec::new();
        for (name, peer) in &state.peers {
            let Ok(report) = fresh_peer(peer, now, self.stale) else { continue };
            if report.group_name != self.cluster.group_name {
                continue;
            }
            ahead.extend(report.ahead.map(|seconds| (name.clone(), seconds)));
            peers.extend(report.observation.map(|seen| (name.clone(), seen)));
        }
        Facts {
            local: fresh(&state, now, self.stale),
            peers,
            ahead,
            asked_since_pause: state.resumed.is_none_or(all_asked_since),
            leaving: leaving(&state, now),
            moving: moves_away(&state, &self.cluster, now, self.stale),
        }
    }
}

/// This machine's clock, in milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn leaving(state: &State, now: Instant) -> Option<Leaving> {
    let (since, how) = state.leaving?;
    (now.saturating_duration_since(since) <= LEAVING).then_some(how)
}

fn moves(state: &State, now: Instant) -> Option<&str> {
    let (from, since) = state.moves.as_ref()?;
    (now.saturating_duration_since(*since) <= MOVES).then_some(from)
}

fn moves_away(state: &State, cluster: &Cluster, now: Instant, stale: Duration) -> bool {
    let says_so = |from: Option<&str>| from == Some(&cluster.me);
    says_so(moves(state, now))
        || state
            .peers
            .values()
            .filter_map(|peer| fresh_peer(peer, now, stale).ok())
            .any(|report| report.group_name == cluster.group_name && says_so(report.moves.as_deref()))
}

fn fresh(state: &State, now: Instant, stale: Duration) -> Result<Arc<Observation>, String> {
    let fault = || state.fault.clone().unwrap_or_else(|| "has not answered".into());
    match &state.seen {
        Some((seen, at)) if now.saturating_duration_since(*at) <= stale => Ok(seen.clone()),
        Some((_, at)) => Err(format!(
            "{} (last answer {:.1} s ago)",
            fault(),
            now.saturating_duration_since(*at).as_secs_f64()
        )),
        None => Err(fault()),
    }
}

fn fresh_peer(peer: &Peer, now: Instant, stale: Duration) -> Result<Report, String> {
    let Some((report, asked)) = &peer.report else { return Err(peer.fault.clone()) };
    let age = now.saturating_duration_since(*asked);
    // The peer's observation, and then its report, may each be that old.
    if age + Duration::from_millis(report.age_ms) <= stale * 2 {
        return Ok(report.clone());
    }
    let fault = if *asked == peer.asked { "its observation is stale" } else { &peer.fault };
    Err(fault.to_owned())
}

#[cfg(test)]
mod tests;
