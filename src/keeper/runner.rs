//! The loop: look at what is known, decide, act, remember.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use crate::process::{self, Shutdown};

use super::attempts::Attempts;
use super::board::Board;
use super::config::Config;
use super::credentials::Credentials;
use super::decide::{Action, Decision, History, Inputs, decide};
use super::execute::execute;
use super::observe::Observer;
use super::peers::PeerClients;
use super::record::RecordFile;
use super::report::{MemberState, Observation, Phase, Role};

/// Back in the group for so long, earlier failures no longer count.
const SETTLED: Duration = Duration::from_secs(30);
/// How often the password files are read for a change.
const CREDENTIALS: Duration = Duration::from_secs(5);
/// A waiting keeper repeats itself in the log this often.
const REPEAT: Duration = Duration::from_secs(60);

/// The one that acts.
pub struct Runner {
    config: Arc<Config>,
    board: Arc<Board>,
    peers: PeerClients,
    record: RecordFile,
    credentials: Credentials,
    credentials_read: Instant,
    accounts_ok: bool,
    writable_since: Option<Instant>,
    online_since: Option<Instant>,
    last_state: Option<MemberState>,
    group: Attempts,
    other: Attempts,
    said: Option<(Phase, Instant)>,
}

impl Runner {
    /// A runner that has decided nothing yet.
    pub fn new(
        config: Arc<Config>,
        board: Arc<Board>,
        peers: PeerClients,
        record: RecordFile,
        credentials: Credentials,
    ) -> Self {
        Self {
            config,
            board,
            peers,
            record,
            credentials,
            credentials_read: Instant::now(),
            accounts_ok: false,
            writable_since: None,
            online_since: None,
            last_state: None,
            group: Attempts::default(),
            other: Attempts::default(),
            said: None,
        }
    }

    /// Runs until stopping is asked for; an action in progress is finished first (its caller limits how long).
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(self.config.timing.observe);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = ticks.tick() => {}, () = shutdown.wait() => return }
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let now = Instant::now();
        let local = self.board.fresh(now);
        self.remember(now, local.as_deref().ok());
        self.reread_credentials(now);
        let peers = self.board.peers(now);
        let decision = decide(&Inputs {
            cluster: self.board.cluster(),
            local: local.as_deref().map_err(String::as_str),
            record: self.record.record(),
            peers: &peers,
            history: &self.history(now),
        });
        self.publish(now, &decision);
        if let Some(action) = &decision.action {
            self.act(action.clone()).await;
        }
    }

    fn history(&self, now: Instant) -> History {
        History {
            accounts_ok: self.accounts_ok,
            writable_for: self.writable_since.map_or(Duration::ZERO, |t| now.saturating_duration_since(t)),
            group: self.group.retry(now),
            other: self.other.retry(now),
        }
    }

    /// Draws from an observation what outlives it.
    fn remember(&mut self, now: Instant, local: Option<&Observation>) {
        let state = local.map(|o| o.member_state);
        if state == Some(MemberState::Error) && self.last_state != Some(MemberState::Error) {
            let error =
                local.and_then(|o| o.last_error.clone()).unwrap_or_else(|| "the member went to ERROR".into());
            self.group.failed(now, error);
        }
        if state.is_some() {
            self.last_state = state;
        }
        let healthy = local.is_some_and(Observation::is_healthy);
        self.online_since = if healthy { self.online_since.or(Some(now)) } else { None };
        if self.online_since.is_some_and(|t| now.duration_since(t) >= SETTLED) {
            self.group.succeeded();
        }
        let writable = local.is_some_and(|o| !o.super_read_only && o.role != Role::Primary);
        self.writable_since = if writable { self.writable_since.or(Some(now)) } else { None };
        // A member that becomes primary checks the accounts anew: it may have other files than the last one.
        if local.is_none_or(|o| o.role != Role::Primary) {
            self.accounts_ok = false;
        }
        if let Some(seen) = local {
            match self.record.note(seen) {
                Ok(true) => {
                    let record = self.record.record().clone();
                    tracing::info!(
                        formed = record.formed,
                        view = record.last_view.join(","),
                        "recorded the group"
                    );
                    self.board.recorded(record);
                }
                Ok(false) => {}
                Err(e) => {
                    counter!("trivet_keeper_record_errors_total").increment(1);
                    tracing::error!(error = %e, "cannot write the record of the group in state_directory");
                }
            }
        }
    }

    fn reread_credentials(&mut self, now: Instant) {
        if now.duration_since(self.credentials_read) < CREDENTIALS {
            return;
        }
        self.credentials_read = now;
        match Credentials::read(&self.config.mysql) {
            Ok(new) if new == self.credentials => {}
            Ok(new) => {
                tracing::info!("the password files have changed");
                self.credentials = new;
                self.accounts_ok = false;
            }
            // The passwords in use go on; whoever replaces the files may be in the middle of it.
            Err(e) => tracing::warn!(error = %e, "a password file cannot be read any more"),
        }
    }

    fn publish(&mut self, now: Instant, decision: &Decision) {
        self.board.decided(decision.phase, &decision.reason, decision.plan.clone());
        let repeat = match self.said {
            Some((phase, at)) => {
                phase != decision.phase
                    || (decision.phase != Phase::Online && now.duration_since(at) >= REPEAT)
            }
            None => true,
        };
        if repeat {
            let (phase, reason) = (decision.phase.as_str(), decision.reason.as_str());
            match decision.phase {
                Phase::Diverged | Phase::Refused | Phase::Misconfigured => {
                    tracing::error!(phase, reason, "phase")
                }
                Phase::MysqlUnreachable | Phase::NoMajority | Phase::Error | Phase::BackingOff => {
                    tracing::warn!(phase, reason, "phase");
                }
                _ => tracing::info!(phase, reason, "phase"),
            }
            process::notify_status(&format!("{phase}: {reason}"));
            for each in Phase::ALL {
                gauge!("trivet_keeper_phase", "phase" => each.as_str()).set(if each == decision.phase {
                    1.0
                } else {
                    0.0
                });
            }
            self.said = Some((decision.phase, now));
        }
    }

    async fn act(&mut self, action: Action) {
        let name = action.name();
        if action.needs_recheck()
            && let Err(why) = self.recheck(&action).await
        {
            tracing::info!(action = name, why, "not done: the second look differs from the first");
            counter!("trivet_keeper_actions_total", "action" => name, "outcome" => "reconsidered")
                .increment(1);
            return;
        }
        tracing::info!(action = name, detail = ?action, "acting");
        let begun = Instant::now();
        let outcome = execute(&self.config, &self.credentials, &action).await;
        let seconds = begun.elapsed().as_secs_f64();
        let label = if outcome.is_ok() { "done" } else { "failed" };
        counter!("trivet_keeper_actions_total", "action" => name, "outcome" => label).increment(1);
        let attempts = match action {
            Action::Bootstrap { .. } | Action::Join | Action::Clone { .. } => &mut self.group,
            _ => &mut self.other,
        };
        match outcome {
            Ok(done) => {
                tracing::info!(action = name, seconds, done, "done");
                if matches!(action, Action::EnsureAccounts) {
                    self.accounts_ok = true;
                }
                // A join has succeeded when the member is ONLINE for a while, see SETTLED; the rest is simply done.
                if !matches!(action, Action::Join | Action::Bootstrap { .. } | Action::Clone { .. }) {
                    attempts.succeeded();
                }
            }
            Err(e) => {
                tracing::error!(action = name, seconds, error = %e, "failed");
                attempts.failed(Instant::now(), e.to_string());
            }
        }
        // The observation on the board may be from before the action.
        self.look_anew().await;
    }

    /// Looks at everything anew, right now, and decides once more: the same must come out.
    async fn recheck(&mut self, action: &Action) -> Result<(), String> {
        let (local, peers) = tokio::join!(
            async { Observer::new(self.config.clone()).look().await.map_err(|e| e.to_string()) },
            self.peers.ask_all(&self.board)
        );
        let local = local?;
        let peers = peers
            .into_iter()
            .map(|(name, report)| {
                let limit = u64::try_from(self.config.timing.stale.as_millis()).unwrap_or(u64::MAX);
                let fresh = report.and_then(|r| {
                    if r.age_ms > limit { Err("its observation is stale".to_owned()) } else { Ok(r) }
                });
                (name, fresh)
            })
            .collect();
        let decision = decide(&Inputs {
            cluster: self.board.cluster(),
            local: Ok(&local),
            record: self.record.record(),
            peers: &peers,
            history: &self.history(Instant::now()),
        });
        if decision.action.as_ref() == Some(action) {
            return Ok(());
        }
        Err(format!("{}: {}", decision.phase, decision.reason))
    }

    async fn look_anew(&self) {
        let at = Instant::now();
        // A failed look says nothing new here; the observer reports it.
        if let Ok(seen) = Observer::new(self.config.clone()).look().await {
            self.board.observed(seen, at);
        }
    }
}
