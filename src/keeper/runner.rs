//! The loop: look at what is known, decide, act, remember.

mod forced;

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use metrics::{counter, gauge};

use trivet_base::process::{self, Beat, Shutdown};
use trivet_tls::private;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::attempts::Attempts;
use super::board::Board;
use super::config::Config;
use super::credentials::Credentials;
use super::decide::outage::longest_forks;
use super::decide::warnings::warnings;
use super::decide::{Action, Decision, History, Inputs, decide};
use super::execute::execute;
use super::model::Force;
use super::observe::Observer;
use super::peers::PeerClients;
use super::record::RecordFile;
use super::report::{Disk, MemberState, Observation, Peers, Phase, Role};
use super::sql::{Sql, SqlError};
use super::switchover::{Switchover, SwitchoverError};

/// Back in the group for so long, earlier failures no longer count.
const SETTLED: Duration = Duration::from_secs(30);
/// How often the password files are read for a change.
const CREDENTIALS: Duration = Duration::from_secs(5);
/// A waiting keeper repeats itself in the log this often.
const REPEAT: Duration = Duration::from_secs(60);

/// MySQL's part of a hand-over that nobody waits for.
const HAND_OVER: Duration = Duration::from_secs(30);
/// What a hand-over takes twice over; one that a full disk holds up for so long is not waited for.
const STUCK: Duration = Duration::from_millis(1500);
/// STOP GROUP_REPLICATION of a member that waits for room on its disk: until there is some.
const UNTIL_THERE_IS_ROOM: Duration = Duration::from_secs(365 * 24 * 3600);
/// A mysqld that listens accepts at once.
const PROBE: Duration = Duration::from_secs(1);

/// The one that acts.
pub struct Runner {
    config: Arc<Config>,
    board: Arc<Board>,
    peers: PeerClients,
    switchover: Arc<Switchover>,
    forces: mpsc::Receiver<Force>,
    record: RecordFile,
    credentials: Credentials,
    credentials_read: Instant,
    accounts_ok: bool,
    writable_since: Option<Instant>,
    online_since: Option<Instant>,
    last_state: Option<MemberState>,
    group: Attempts,
    other: Attempts,
    applier: Option<String>,
    said: Option<(Phase, Instant)>,
    leaving_group: Option<JoinHandle<Result<(), SqlError>>>,
}

impl Runner {
    /// A runner that has decided nothing yet.
    pub fn new(
        config: Arc<Config>,
        board: Arc<Board>,
        peers: PeerClients,
        switchover: Arc<Switchover>,
        forces: mpsc::Receiver<Force>,
        record: RecordFile,
        credentials: Credentials,
    ) -> Self {
        Self {
            config,
            board,
            peers,
            switchover,
            forces,
            record,
            credentials,
            credentials_read: Instant::now(),
            accounts_ok: false,
            writable_since: None,
            online_since: None,
            last_state: None,
            group: Attempts::default(),
            other: Attempts::default(),
            applier: None,
            said: None,
            leaving_group: None,
        }
    }

    /// Runs until stopping is asked for; an action in progress is finished first (its caller limits how long).
    pub async fn run(mut self, beat: Beat, mut shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(self.config.timing.observe);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.step(&beat).await,
                Some(force) = self.forces.recv() => {
                    let _long = beat.rest();
                    self.forced(force).await;
                }
                () = shutdown.wait() => return,
            }
        }
    }

    async fn step(&mut self, beat: &Beat) {
        beat.beat();
        let now = Instant::now();
        let local = self.board.fresh(now);
        {
            // A disk that hangs is none of what a restart mends.
            let _files = beat.rest();
            self.remember(now, local.as_deref().ok()).await;
            self.reread_credentials(now).await;
        }
        let peers = self.board.peers(now);
        if local.as_ref().is_ok_and(|o| o.is_healthy()) {
            let _files = beat.rest();
            self.adopt_forks(&peers).await;
        }
        let (history, disk) = (self.history(now), self.board.disk_seen());
        let inputs = self.inputs(local.as_deref().map_err(String::as_str), &peers, &history, disk.as_ref());
        let mut decision = decide(&inputs);
        let mut warnings = warnings(&inputs);
        warnings.extend(process::warnings::all());
        gauge!("trivet_keeper_warnings").set(u32::try_from(warnings.len()).unwrap_or(u32::MAX));
        self.board.warn(warnings);
        if self.board.leaving(now).is_some() {
            // It would only stand in the way of the stop, or bring the member back into what it is just leaving.
            decision.action = None;
            decision.reason += "; mysqld is about to stop";
        }
        if let Some(task) = self.leaving_group.take_if(|task| task.is_finished())
            && let Err(why) = left(task).await
        {
            tracing::error!(why, "STOP GROUP_REPLICATION on a full disk");
            self.other.failed(now, why);
        }
        if self.leaving_group.is_some() {
            decision.phase = Phase::DiskFull;
            decision.action = None;
            decision.reason = "its disk is full, so it left the group to the others; STOP GROUP_REPLICATION returns when there \
                               is room"
                .into();
        }
        self.publish(now, &decision);
        if let Some(action) = &decision.action {
            // Every statement has its deadline; that of a clone is a day.
            let _long = beat.rest();
            self.act(action.clone()).await;
        }
    }

    fn inputs<'a>(
        &'a self,
        local: Result<&'a Observation, &'a str>,
        peers: &'a Peers,
        history: &'a History,
        disk: Option<&'a Disk>,
    ) -> Inputs<'a> {
        let (cluster, record) = (self.board.cluster(), self.record.record());
        Inputs { cluster, local, record, peers, history, disk }
    }

    /// Remembers what the group remembers of bootstraps by force: before this member is one of it, or when it is.
    async fn adopt_forks(&mut self, peers: &Peers) {
        let history = History::default();
        let forks = longest_forks(&self.inputs(Err(""), peers, &history, None)).to_vec();
        match self.record.adopt_forks(&forks).await {
            Ok(true) => self.board.recorded(self.record.record().clone()),
            Ok(false) => {}
            Err(e) => {
                counter!("trivet_keeper_record_errors_total").increment(1);
                tracing::error!(error = %e, "cannot write the record of the group in state_directory");
            }
        }
    }

    fn history(&self, now: Instant) -> History {
        History {
            accounts_ok: self.accounts_ok,
            writable_for: self.writable_since.map_or(Duration::ZERO, |t| now.saturating_duration_since(t)),
            group: self.group.retry(now),
            other: self.other.retry(now),
            applier: self.applier.clone(),
        }
    }

    /// Draws from an observation what outlives it.
    async fn remember(&mut self, now: Instant, local: Option<&Observation>) {
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
            self.applier = None;
        }
        if let Some(error) = local.and_then(|o| o.applier_error.as_ref())
            && self.applier.as_ref() != Some(error)
        {
            tracing::error!(error, "the applier has failed");
            self.applier = Some(error.clone());
        }
        let writable = local.is_some_and(|o| !o.super_read_only && o.role != Role::Primary);
        self.writable_since = if writable { self.writable_since.or(Some(now)) } else { None };
        // A member that becomes primary checks the accounts anew: it may have other files than the last one.
        if local.is_none_or(|o| o.role != Role::Primary) {
            self.accounts_ok = false;
        }
        if let Some(seen) = local {
            match self.record.note(seen).await {
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

    async fn reread_credentials(&mut self, now: Instant) {
        if now.duration_since(self.credentials_read) < CREDENTIALS {
            return;
        }
        self.credentials_read = now;
        let config = self.config.clone();
        let read = tokio::task::spawn_blocking(move || {
            private::look_again();
            Credentials::read(&config.mysql)
        });
        let read = match read.await {
            Ok(read) => read,
            Err(e) => return tracing::error!(error = %e, "reading the password files broke down"),
        };
        match read {
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
            // Before it is told: whoever hears of the phase may look.
            for each in Phase::ALL {
                gauge!("trivet_keeper_phase", "phase" => each.as_str()).set(if each == decision.phase {
                    1.0
                } else {
                    0.0
                });
            }
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
        if matches!(action, Action::Join | Action::Clone { .. }) {
            // The decision has seen that this member has nothing that was given up.
            let peers = self.board.peers(begun);
            self.adopt_forks(&peers).await;
        }
        let outcome = match &action {
            Action::HandOver { to } => self.hand_over(to).await,
            action => execute(&self.config, &self.credentials, action).await.map_err(|e| e.to_string()),
        };
        let outcome = match (&action, outcome) {
            (Action::EnsureAccounts, Ok(done)) => self.mark_fork().await.map(|()| done),
            (_, outcome) => outcome,
        };
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
                attempts.failed(Instant::now(), e);
            }
        }
        // The observation on the board may be from before the action.
        self.look_anew().await;
    }

    /// Moves the role away from a disk that has no room. MySQL waits for the primary's running commits when the role moves,
    /// and they may wait for room on the disk; a member that leaves the group is not waited for. What those commits have
    /// already told the group is in it, and the others have it.
    async fn hand_over(&mut self, to: &str) -> Result<String, String> {
        let full = self.board.disk_seen().is_some_and(|d| d.is_full());
        let moving = async {
            if full {
                self.switchover.run_at_once(Some(to), HAND_OVER).await
            } else {
                self.switchover.run(Some(to), HAND_OVER).await
            }
        };
        let stuck = tokio::select! {
            moved = moving => match moved {
                Ok(_) => return Ok(to.to_owned()),
                Err(refused @ SwitchoverError::Refused(_)) => return Err(refused.to_string()),
                Err(e) => e.to_string(),
            },
            () = full_for(&self.board, STUCK) => format!("no answer within {STUCK:?}"),
        };
        if !self.board.disk_seen().is_some_and(|d| d.is_full()) {
            return Err(stuck);
        }
        tracing::warn!(
            stuck,
            "the disk is full and MySQL does not move the primary role: leaving the group, whose other members elect a primary"
        );
        self.leave_group();
        Ok("left the group to its other members".into())
    }

    /// Leaves the group at once, although the statement returns only when there is room again. Its connection must live until
    /// then: a statement that was cut off would leave the member writable (MySQL error log, "not possible to enable the
    /// server read only mode").
    fn leave_group(&mut self) {
        let mysql = self.config.mysql.clone();
        self.leaving_group = Some(tokio::spawn(async move {
            let mut sql = Sql::connect(&mysql, PROBE).await?;
            sql.run("STOP GROUP_REPLICATION", UNTIL_THERE_IS_ROOM).await?;
            sql.close().await;
            tracing::info!("the member whose disk was full has left the group");
            Ok(())
        }));
    }

    /// Looks at everything anew, right now, and decides once more: the same must come out.
    async fn recheck(&mut self, action: &Action) -> Result<(), String> {
        let (local, peers) = self.look_at_everything().await?;
        let (history, disk) = (self.history(Instant::now()), self.board.disk_seen());
        let decision = decide(&self.inputs(Ok(&local), &peers, &history, disk.as_ref()));
        if decision.action.as_ref() == Some(action) {
            return Ok(());
        }
        Err(format!("{}: {}", decision.phase, decision.reason))
    }

    /// The local member and all peers, asked right now.
    async fn look_at_everything(&self) -> Result<(Observation, Peers), String> {
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
        Ok((local, peers))
    }

    async fn look_anew(&self) {
        let at = Instant::now();
        // A failed look says nothing new here; the observer reports it.
        if let Ok(seen) = Observer::new(self.config.clone()).look().await {
            self.board.observed(seen, at);
        }
    }
}

/// What came of leaving the group; a task that broke down has not left it.
async fn left(task: JoinHandle<Result<(), SqlError>>) -> Result<(), String> {
    match task.await {
        Ok(outcome) => outcome.map_err(|e| e.to_string()),
        Err(e) => Err(format!("it broke down: {e}")),
    }
}

/// Returns when the disk has been full for so long without a break.
async fn full_for(board: &Board, time: Duration) {
    let mut since = Instant::now();
    while since.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if !board.disk_seen().is_some_and(|d| d.is_full()) {
            since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leaving_the_group_has_failed_when_its_task_broke_down() {
        assert_eq!(left(tokio::spawn(async { Ok(()) })).await, Ok(()));
        let refused = left(tokio::spawn(async { Err(SqlError::Refused("no".into())) })).await;
        assert_eq!(refused, Err("no".into()));
        let broken = left(tokio::spawn(async { panic!("on purpose") })).await.unwrap_err();
        assert!(broken.contains("broke down"), "{broken}");
    }
}
