//! A bootstrap without all members, as an operator asked for it.

use std::io;
use std::time::Duration;

use metrics::counter;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::Runner;
use crate::decide::forced;
use crate::decide::outage::longest_forks;
use crate::decide::{Action, History};
use crate::execute::{self, execute};
use crate::model::Force;
use crate::observe::Observer;
use crate::report::{MemberState, Observation, Phase, Record};
use crate::sql::SqlError;
use trivet_keeper_api::ForcePlan;
use trivet_keeper_api::gtid::GtidSet;

/// A mysqld that listens accepts at once.
const PROBE: Duration = Duration::from_secs(1);

impl Runner {
    /// Tells what a bootstrap without all members would give up, or does it, when that is what the operator consented to.
    pub(super) async fn forced(&mut self, force: Force) {
        let outcome = self.force(&force.node, force.token.as_deref()).await;
        match (&outcome, force.token.is_some()) {
            (Ok(_), true) => {
                counter!("trivet_keeper_actions_total", "action" => "force-bootstrap", "outcome" => "done")
                    .increment(1);
            }
            (Err(why), true) => tracing::error!(why, "force-bootstrap"),
            (_, false) => {}
        }
        // Whoever asked may be gone; the log has it.
        let _ = force.answer.send(outcome);
    }

    async fn force(&mut self, node: &str, token: Option<&str>) -> Result<ForcePlan, String> {
        let (local, peers) = self.look_at_everything().await?;
        let history = self.history(Instant::now());
        let inputs = self.inputs(Ok(&local), &peers, &history, None);
        let plan = forced::plan(&inputs, node).map_err(|e| e.to_string())?;
        self.nobody_listens(&plan.unknown).await?;
        let Some(token) = token else { return Ok(plan) };
        if plan.token != token {
            return Err("something has changed since the question was asked: give the command again".into());
        }
        let earlier = longest_forks(&inputs).to_vec();
        // Noted before it happens: once the group takes writes it must be known that numbers may repeat.
        let before = self.record.fork(&earlier, plan.gtids.clone()).await.map_err(unwritten)?;
        self.board.recorded(self.record.record().clone());
        self.board.decided(Phase::Bootstrapping, "bootstrapping by force, as an operator asked for", None);
        // The note is there for others to read by now. Of two nodes that do this at the same time, the one that looks last
        // reads the other's; both may, and then neither goes on.
        if let Err(why) = self.nobody_else_forces(&earlier, &plan).await {
            self.take_back(before).await?;
            return Err(why);
        }
        tracing::warn!(
            gtids = %plan.gtids,
            others = plan.others.join("; "),
            "bootstrapping by force, as an operator asked for"
        );
        let bootstrap = Action::Bootstrap { first: false };
        let outcome = execute(&self.config, &self.credentials, &bootstrap).await;
        let Err(error) = outcome else {
            // Before the app writes, so that backups see where the group went on. The primary's accounts are made later, and
            // this with them when it fails here.
            if let Err(e) = self.mark_fork().await {
                tracing::warn!(
                    error = e,
                    "the bootstrap by force is not in trivet_cluster.fork yet; it is tried again"
                );
            }
            self.look_anew().await;
            return Ok(plan);
        };
        let seen = Observer::new(self.config.clone()).look().await;
        if came_to_nothing(&error, seen.as_ref().ok()) {
            self.take_back(before).await?;
            self.look_anew().await;
            return Err(error.to_string());
        }
        self.look_anew().await;
        Err(format!(
            "{error}. Whether the group was formed is not known, so the keeper goes on remembering that transactions were given up \
             (forks in group.json). Look at trivet status; when no group runs, give the command again on this node"
        ))
    }

    /// Enters the last bootstrap by force that was made here into the group's table, on the primary, when it is not there yet.
    pub(super) async fn mark_fork(&mut self) -> Result<(), String> {
        let record = self.record.record();
        let Some(forks) = record.unmarked.and_then(|n| record.forks.get(..n)) else { return Ok(()) };
        let Some(last) = forks.last().filter(|_| self.config.mysql.backup_user.is_some()) else {
            return Ok(());
        };
        let mark = mark(&record.group_name, forks);
        execute::mark_fork(&self.config, &mark, last).await.map_err(|e| e.to_string())?;
        self.record.marked().await.map_err(unwritten)?;
        self.board.recorded(self.record.record().clone());
        Ok(())
    }

    /// What the keepers say counts however old their observations are: a mysqld that joins or forms a group may be slow to answer.
    async fn nobody_else_forces(&self, earlier: &[GtidSet], plan: &ForcePlan) -> Result<(), String> {
        let peers = self.peers.ask_all(&self.board).await;
        let history = History::default();
        let inputs = self.inputs(Err(""), &peers, &history, None);
        forced::nobody_else(&inputs, earlier, &plan.unknown).map_err(|e| e.to_string())
    }

    async fn take_back(&mut self, before: Record) -> Result<(), String> {
        self.record.take_back(before).await.map_err(unwritten)?;
        self.board.recorded(self.record.record().clone());
        Ok(())
    }

    /// A member whose keeper is silent while its mysqld listens may be in a group.
    async fn nobody_listens(&self, names: &[String]) -> Result<(), String> {
        for member in self.config.members.iter().filter(|m| names.contains(&m.name)) {
            let connected = tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(member.mysql)).await;
            if matches!(connected, Ok(Ok(_))) {
                return Err(format!(
                    "mysqld of {} listens on {}, though nothing is known of its state: it may be running a group. Look at \
                     its keeper, or stop that mysqld",
                    member.name, member.mysql
                ));
            }
        }
        Ok(())
    }
}

fn unwritten(e: io::Error) -> String {
    format!("the record in state_directory cannot be written: {e}")
}

/// A UUID for the last of these bootstraps by force, the same whenever it is asked for.
fn mark(group_name: &str, forks: &[GtidSet]) -> String {
    let mut hash = Sha256::new();
    hash.update(group_name);
    for fork in forks {
        hash.update(format!("\n{fork}"));
    }
    let mut text: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

/// Whether a bootstrap that failed with `error` has certainly formed no group. `seen` is a look at the member after it. Without
/// mysqld's own answer the statement may still be running there, or mysqld may have stopped after the group took writes.
fn came_to_nothing(error: &SqlError, seen: Option<&Observation>) -> bool {
    matches!(error, SqlError::Refused(_))
        && seen.is_some_and(|s| matches!(s.member_state, MemberState::Offline | MemberState::Error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::{GROUP, offline, online, set};

    #[test]
    fn each_bootstrap_by_force_has_a_mark_of_its_own_and_keeps_it() {
        let forks = [set("G:1-9"), set("G:1-20")];
        let first = mark(GROUP, &forks[..1]);
        assert_eq!(
            format!("{first}:1").parse::<GtidSet>().unwrap().count(),
            1,
            "MySQL takes it for a UUID: {first}"
        );
        assert_eq!(first, mark(GROUP, &forks[..1]));
        assert_ne!(first, mark(GROUP, &forks));
        assert_ne!(mark(GROUP, &forks), mark(GROUP, &forks[1..]), "what went before counts");
    }

    #[test]
    fn what_was_given_up_is_forgotten_only_when_it_is_certain_that_no_group_was_formed() {
        let refused = SqlError::Refused("no".into());
        let unknown =
            [SqlError::Timeout(Duration::from_secs(60)), SqlError::Gone("the connection was closed".into())];
        let (out, mut failed) = (offline("node1", "G:1-9"), offline("node1", "G:1-9"));
        failed.member_state = MemberState::Error;
        let running = online("node1", "G:1-9", &["node1"]);
        let mut starting = offline("node1", "G:1-9");
        starting.member_state = MemberState::Recovering;
        assert!(came_to_nothing(&refused, Some(&out)) && came_to_nothing(&refused, Some(&failed)));
        for seen in [None, Some(&running), Some(&starting)] {
            assert!(!came_to_nothing(&refused, seen), "{:?}", seen.map(|s| s.member_state));
        }
        for error in &unknown {
            for seen in [None, Some(&running), Some(&out), Some(&failed)] {
                assert!(!came_to_nothing(error, seen), "{error}");
            }
        }
    }
}
