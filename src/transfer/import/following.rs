//! Shows how far the cluster is behind the source, until somebody interrupts it or there is something to decide.

use std::time::Duration;

use mysql_async::Conn;
use tokio::time::{Instant, timeout};

use trivet_base::process::{Failure, Shutdown};
use trivet_mysql::progress::Watcher;

use crate::channel::{self, CHANNEL, Status};
use crate::cli::Import;
use crate::error::{MEMBER, TransferError};
use crate::goal::Goal;
use crate::report::databases;
use crate::server::Remote;
use crate::state::{Phase, State};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// How long the source may take to answer that: whoever interrupts waits for it.
const ANSWERED: Duration = Duration::from_secs(5);

/// Between two questions for new databases at the source.
const NEW: Duration = Duration::from_secs(10);

/// Between two notes of the position in the group. Each is a transaction; a channel on another node begins there, and the source may
/// remove its logs before it.
const NOTE: Duration = Duration::from_secs(30);

/// Those of the source's databases that were made after the copy.
pub(crate) async fn made_since(from: &mut Conn, state: &State) -> Result<Vec<String>, TransferError> {
    Ok(state.made_since(&databases(from).await?))
}

/// What a channel does, in words.
pub(crate) fn told(status: &Status) -> String {
    let behind = match status.behind_seconds {
        Some(0) => "nothing behind".to_owned(),
        Some(n) => format!("{n} s behind"),
        None => "how far behind is not known".to_owned(),
    };
    let trouble = if status.trouble.is_empty() { String::new() } else { format!("; {}", status.trouble) };
    match (status.receives, status.applies) {
        (true, true) => format!(
            "following: {behind}; received up to {}, applied up to {}{trouble}",
            status.received, status.applied
        ),
        (false, true) => format!("not connected to the source, tried again every few seconds{trouble}"),
        (_, false) => format!("stopped; applied up to {}{trouble}", status.applied),
    }
}

/// What to do about an error that stopped the channel.
pub(crate) fn remedy(trouble: &str) -> &'static str {
    if trouble.contains("3098") || trouble.contains("primary key") {
        "give the table a primary key at the source, then --abort and import anew; or import with --generate-keys"
    } else if trouble.contains("1236") {
        "the source has removed the log that is needed; --abort and import anew, and keep its logs for longer (binlog_expire_logs_seconds)"
    } else {
        "mend its cause and run the command again; when the rows differ from the source's, --abort and import anew"
    }
}

/// Shows it.
pub(super) async fn show(
    options: &Import,
    mut state: State,
    remote: &Remote,
    from: &mut Conn,
    to: &mut Conn,
    watcher: &Watcher,
    mut interrupted: Shutdown,
) -> Result<(), Failure> {
    let goal = Goal::of(from).await?;
    let mut new = NewDatabases::default();
    let mut reached = false;
    let mut noted = Instant::now();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = interrupted.wait() => {
                println!("the cluster goes on following: --status shows it, --cut-over takes the source's place, --pause stops it");
                return Ok(());
            }
        }
        let Some(status) = channel::status(MEMBER, to, CHANNEL).await? else {
            let now = State::read(to).await?;
            return match now.map(|s| s.phase) {
                Some(Phase::CutOver | Phase::Back) => {
                    println!("the cluster has taken the source's place");
                    Ok(())
                }
                _ => Err(Failure::run("the channel was removed by somebody else")),
            };
        };
        if !status.applies {
            if status.trouble.is_empty() {
                println!("{}", told(&status));
                return Ok(());
            }
            return Err(Failure::run(format_args!("{}: {}", told(&status), remedy(&status.trouble))));
        }
        if !status.receives && status.trouble.contains("1236") {
            return Err(Failure::run(format_args!("{}: {}", told(&status), remedy(&status.trouble))));
        }
        watcher.begin(&told(&status), 0, false);
        new.look(&state, remote, from).await;
        if !reached && goal.is_reached(&state, &status, to).await? {
            reached = true;
            println!("the cluster has everything that the source had when it was asked ({})", goal.position);
        }
        let note = noted.elapsed() >= NOTE || (reached && options.until_caught_up);
        if note && !status.applied.file.is_empty() && state.position.as_ref() != Some(&status.applied) {
            state.position = Some(status.applied.clone());
            State::note(to, &status.applied).await?;
            noted = Instant::now();
        }
        if reached && options.until_caught_up {
            return Ok(());
        }
    }
}

/// Databases that are made at the source while the cluster follows: a channel knows nothing of them.
#[derive(Default)]
struct NewDatabases {
    told: Vec<String>,
    asked: Option<Instant>,
}

impl NewDatabases {
    /// Tells of those that were not told of yet. The source may be away meanwhile: asked again later.
    async fn look(&mut self, state: &State, remote: &Remote, from: &mut Conn) {
        if self.asked.is_some_and(|at| at.elapsed() < NEW) {
            return;
        }
        self.asked = Some(Instant::now());
        match timeout(ANSWERED, made_since(from, state)).await {
            Ok(Ok(there)) => {
                for database in there.iter().filter(|d| !self.told.contains(d)) {
                    println!(
                        "the source has a new database, {database}, which is not imported: --cut-over refuses until it is dropped there or left out (--leave-out {database})"
                    );
                }
                self.told = there;
            }
            _ => {
                if let Ok(Ok(again)) = timeout(ANSWERED, remote.connect()).await {
                    *from = again;
                    self.asked = None;
                }
            }
        }
    }
}
