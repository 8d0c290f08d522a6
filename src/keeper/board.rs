//! The one place where the keeper's tasks leave what they know: the observer, the peers' pollers and the runner write,
//! the HTTP server reads. Nobody waits here for mysqld or a peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::decide::Cluster;
use super::report::{Observation, Peers, Phase, Record, Report};
use super::verdict::Facts;

/// What the tasks share.
pub struct Board {
    cluster: Cluster,
    stale: Duration,
    state: RwLock<State>,
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
        };
        Self { cluster, stale, state: RwLock::new(state) }
    }

    /// The configuration's part of a decision.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A look that succeeded; `at` is when it began.
    pub fn observed(&self, observation: Observation, at: Instant) {
        let mut state = self.state.write();
        let paused = state.seen.as_ref().is_some_and(|(_, last)| at.duration_since(*last) > self.stale);
        if paused {
            state.resumed = Some(at);
        }
        state.seen = Some((Arc::new(observation), at));
        state.fault = None;
    }

    /// A look that failed. `gone`: mysqld is known not to run, so what was seen before is worth nothing.
    pub fn not_observed(&self, why: String, gone: bool) {
        let mut state = self.state.write();
        if gone {
            state.seen = None;
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
        peer.asked = asked;
        match report {
            Ok(report) => peer.report = Some((report, asked)),
            Err(fault) => peer.fault = fault,
        }
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

    /// The record.
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
        let peers = state
            .peers
            .iter()
            .filter_map(|(name, peer)| {
                let report = fresh_peer(peer, now, self.stale).ok()?;
                (report.group_name == self.cluster.group_name).then_some(())?;
                Some((name.clone(), report.observation?))
            })
            .collect();
        Facts {
            local: fresh(&state, now, self.stale),
            peers,
            asked_since_pause: state.resumed.is_none_or(all_asked_since),
        }
    }
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
