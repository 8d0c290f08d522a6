//! Moving the primary role on purpose; [`choose`] says who may get it.
//!
//! MySQL does the moving (`group_replication_set_as_primary`; MySQL manual, "Changing the Primary"): the old primary stops
//! taking new transactions, the new one applies what it has not yet, and then takes over. The keeper chooses, refuses what
//! would hurt, and says that it is done only when the new primary's own keeper says so.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::Mutex;

use super::board::Board;
use super::config::Config;
use super::decide::choose::{Move, Refusal, choose};
use super::observe::Observer;
use super::peers::PeerClients;
use super::report::{Observation, Role};
use super::sql::{Sql, SqlError, quote};
use super::verdict;

/// How long a refusal that passes by itself (a member that is just applying, or just joining) is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// What running transactions get to finish before their connections are closed: the least that MySQL can be told.
const RUNNING_TRANSACTIONS: u32 = 1;
/// From MySQL's consent to the new primary taking writes.
const SETTLE: Duration = Duration::from_secs(10);
/// Until the keeper of the primary knows that the role is about to move: it asks the others several times a second.
const LEARN: Duration = Duration::from_secs(1);
/// A gateway asks every 150 ms, and a little less often on a busy machine.
const NOTICE: Duration = Duration::from_millis(250);
/// From the primary's keeper knowing to the last connection's end. A gateway takes nothing more from clients 0.3 s after it was
/// told; the rest is for statements in progress. Writers wait meanwhile.
const LET_GO: Duration = Duration::from_millis(1200);
/// Between two looks while the role moves.
const LOOK: Duration = Duration::from_millis(50);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has moved, and the new primary takes writes.
    Moved(Move),
    /// The member that was asked for had it already.
    Nothing(String),
}

/// Why it did not come to that.
#[derive(Debug, thiserror::Error)]
pub enum SwitchoverError {
    /// Not begun.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Another one runs.
    #[error("another switchover is under way on this node")]
    Busy,
    /// MySQL refused, or did not answer.
    #[error("MySQL did not move the role from {from} to {to}: {error}")]
    Mysql {
        /// The primary.
        from: String,
        /// Who should have become it.
        to: String,
        /// MySQL's words.
        error: SqlError,
    },
    /// MySQL agreed, and then the new primary did not take writes.
    #[error("MySQL moved the role from {from} to {to}, but {to} takes no writes yet: {why}")]
    Unsettled {
        /// The primary before.
        from: String,
        /// The primary by MySQL's word.
        to: String,
        /// What its keeper says.
        why: String,
    },
}

/// Moves the role; one at a time.
pub struct Switchover {
    config: Arc<Config>,
    board: Arc<Board>,
    peers: PeerClients,
    running: Mutex<()>,
}

impl Switchover {
    /// With what the keeper's other tasks use.
    pub fn new(config: Arc<Config>, board: Arc<Board>, peers: PeerClients) -> Self {
        Self { config, board, peers, running: Mutex::new(()) }
    }

    /// Moves the role to `wanted`, or to whom is best, and returns when the new primary takes writes. `deadline` bounds
    /// MySQL's part. The gateways are given time to let go of their connections before.
    pub async fn run(&self, wanted: Option<&str>, deadline: Duration) -> Result<Outcome, SwitchoverError> {
        self.move_role(wanted, deadline, true).await
    }

    /// As [`Self::run`], without waiting for anybody: the primary's statements may be stuck for want of room on its disk.
    pub async fn run_at_once(
        &self,
        wanted: Option<&str>,
        deadline: Duration,
    ) -> Result<Outcome, SwitchoverError> {
        self.move_role(wanted, deadline, false).await
    }

    async fn move_role(
        &self,
        wanted: Option<&str>,
        deadline: Duration,
        gently: bool,
    ) -> Result<Outcome, SwitchoverError> {
        let Ok(_one_at_a_time) = self.running.try_lock() else { return Err(SwitchoverError::Busy) };
        let chosen = match self.choose_patiently(wanted).await {
            Err(Refusal::AlreadyPrimary(name)) => {
                return match self.settled(&name, Duration::from_secs(1)).await {
                    Ok(()) => Ok(Outcome::Nothing(name)),
                    Err(why) => Err(SwitchoverError::Unsettled { from: name.clone(), to: name, why }),
                };
            }
            other => other?,
        };
        tracing::info!(from = chosen.from, to = chosen.to, "moving the primary");
        let begun = Instant::now();
        // Whatever becomes of it, the word is taken back at the end: the role may have stayed.
        let announced = gently.then(|| self.board.announce_move(&chosen.from));
        if gently {
            self.connections_end(&chosen.from).await;
        }
        let moved = self.set_as_primary(&chosen, deadline).await;
        if moved.is_err() {
            // Nobody waits longer for a role that stays.
            drop(announced);
        }
        let outcome = match moved {
            Ok(()) => self.settled(&chosen.to, SETTLE).await.map_err(|why| SwitchoverError::Unsettled {
                from: chosen.from.clone(),
                to: chosen.to.clone(),
                why,
            }),
            Err(error) => {
                Err(SwitchoverError::Mysql { from: chosen.from.clone(), to: chosen.to.clone(), error })
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        let label = if outcome.is_ok() { "done" } else { "failed" };
        metrics::counter!("trivet_keeper_switchovers_total", "outcome" => label).increment(1);
        match &outcome {
            Ok(()) => tracing::info!(from = chosen.from, to = chosen.to, seconds, "the primary has moved"),
            Err(e) => tracing::error!(seconds, error = %e, "switchover"),
        }
        outcome.map(|()| Outcome::Moved(chosen))
    }

    async fn choose_patiently(&self, wanted: Option<&str>) -> Result<Move, Refusal> {
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            let local = self.board.fresh(now);
            let local = local.as_deref().map_err(String::as_str);
            match choose(self.board.cluster(), local, &self.board.peers(now), wanted) {
                Err(refusal) if refusal.passes() && begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(LOOK).await;
                }
                done => return done,
            }
        }
    }

    /// Waits until the gateways have let go of the app's connections to `from`, or have had time enough. What is still open
    /// then meets MySQL's own end of connections.
    async fn connections_end(&self, from: &str) {
        let begun = Instant::now();
        let mut told: Option<Instant> = None;
        let mut left = None;
        while told.map_or(begun.elapsed() < LEARN, |at| at.elapsed() < LET_GO) {
            left = if from == self.board.cluster().me {
                self.board.look_now(LOOK).await;
                self.board.sessions_seen()
            } else {
                self.peers.ask(from).await.ok().and_then(|report| report.sessions)
            };
            if left.is_some() {
                // Its keeper knows, and says no to gateways. Those that have not asked since may still open connections.
                let told = *told.get_or_insert_with(Instant::now);
                if left == Some(0) && told.elapsed() >= NOTICE {
                    tracing::info!(from, waited = begun.elapsed().as_secs_f64(), "the gateways have let go");
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!(from, ?left, "moving the primary although connections to it are open");
    }

    /// MySQL's part. Meanwhile this member is looked at often: whoever asks for `/primary` here must learn at once that
    /// the role has gone.
    async fn set_as_primary(&self, chosen: &Move, deadline: Duration) -> Result<(), SqlError> {
        let statement = format!(
            "SELECT group_replication_set_as_primary({}, {RUNNING_TRANSACTIONS})",
            quote(&chosen.uuid)
        );
        let moving = async {
            let mut sql = Sql::connect(&self.config.mysql, deadline).await?;
            sql.text(&statement, deadline).await?;
            sql.close().await;
            Ok(())
        };
        tokio::select! { outcome = moving => outcome, never = self.look_often() => match never {} }
    }

    async fn look_often(&self) -> Infallible {
        let mut observer = Observer::new(self.config.clone());
        loop {
            self.look(&mut observer).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self, observer: &mut Observer) {
        let at = Instant::now();
        // A failed look says nothing new here; the keeper's own observer reports it.
        if let Ok(seen) = observer.look().await {
            self.board.observed(seen, at);
        }
    }

    /// Waits until the keeper of `name` answers `/primary` with yes; the error is its last reason against it.
    async fn settled(&self, name: &str, patience: Duration) -> Result<(), String> {
        let begun = Instant::now();
        let mut observer = Observer::new(self.config.clone());
        loop {
            self.look(&mut observer).await;
            let verdict = if name == self.board.cluster().me {
                verdict::primary(&self.board.facts(Instant::now())).map_err(|no| no.reason)
            } else {
                self.peers.is_primary(name).await
            };
            match verdict {
                Ok(()) => return Ok(()),
                Err(why) if begun.elapsed() > patience => return Err(why),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// Whether the local member is the primary of a group that works.
pub fn leads(local: &Observation) -> bool {
    local.is_healthy() && local.role == Role::Primary
}
