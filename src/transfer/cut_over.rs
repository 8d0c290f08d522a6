//! `import --cut-over`: the cluster takes the source's place.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use trivet_base::process::{Failure, Shutdown};
use trivet_mysql::identifier;
use trivet_mysql::progress::Watcher;

use crate::channel::{self, CHANNEL};
use crate::cli::Import;
use crate::compare::compare;
use crate::error::{MEMBER, TransferError, member, source};
use crate::filter::Position;
use crate::import::following::{position, remedy, told};
use crate::import::{locked, remote, same_source};
use crate::server::{Remote, literal, literals};
use crate::state::{Phase, State};

/// How long the source's writers may wait for the last transactions to be applied, before it is given back to them.
const LAST: Duration = Duration::from_secs(60);

/// How long, in seconds, a statement at the source that holds locks may keep it from becoming read-only.
const LOCKS: u32 = 10;

/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`: the account may not do it.
const NO_RIGHT: u16 = 1227;

/// Takes the source's place.
pub async fn run(options: &Import, watcher: &Watcher, mut interrupted: Shutdown) -> Result<(), Failure> {
    let mut to = locked(options).await?;
    let mut state = ready(&mut to).await?;
    let (remote, _) = remote(options, Some(&state))?;
    let mut from = remote.connect().await?;
    same_source(&mut from, &state).await?;
    watcher.begin("waiting until the cluster has what the source has", 0, false);
    let goal = position(&mut from).await?;
    tokio::select! {
        reached = until_applied(&mut to, &goal, None) => reached?,
        () = interrupted.wait() => {
            return Err(Failure::run("interrupted; the source was left as it is, and the cluster goes on following"));
        }
    }
    let before = match state.source_before {
        Some(before) => before,
        None => read_only(&mut from).await?,
    };
    state.source_before = Some(before);
    state.write(&mut to).await?;
    let before = match freeze(&mut from, options.source_is_stopped).await {
        Ok(frozen) => frozen.then_some(before),
        // Nothing was changed for want of rights.
        Err(e) if e.is_code(NO_RIGHT) => return Err(e.into()),
        Err(e) => return Err(given_back(&remote, &mut to, state, Some(before), &e).await),
    };
    // From here on the source refuses writes: when this goes wrong they get it back.
    let same = tokio::select! {
        same = is_the_same(options, &state, &mut from, &mut to, watcher) => same,
        () = interrupted.wait() => Err(TransferError::refused("interrupted")),
    };
    if let Err(e) = same {
        return Err(given_back(&remote, &mut to, state, before, &e).await);
    }
    let begun = Instant::now();
    if let Err(e) = channel::stop(MEMBER, &mut to, CHANNEL).await {
        return Err(given_back(&remote, &mut to, state, before, &e).await);
    }
    // Whether a write that failed was done is not known: the source stays as it is, so that only one of both takes writes.
    let state = taken(state, &mut to).await.map_err(|e| {
        Failure::run(format_args!(
            "{e}. It is not known whether the cluster has taken the source's place: trivet database import --status says it. Until then the source is read-only"
        ))
    })?;
    channel::remove(MEMBER, &mut to, CHANNEL).await?;
    channel::keep_still_at_start(&mut to, false).await?;
    let failed = enable_events(&state, &mut from, &mut to).await?;
    watcher.end();
    for event in failed {
        eprintln!("trivet-transfer: the event {event}");
    }
    println!("the cluster has taken the place of {} ({:.1} s)", state.place(), begun.elapsed().as_secs_f32());
    print!("{}", way_back(&state, before.is_some()));
    Ok(())
}

async fn ready(to: &mut Conn) -> Result<State, TransferError> {
    match State::read(to).await? {
        Some(state) if state.phase == Phase::Following => Ok(state),
        Some(state) if state.phase == Phase::Copying => {
            Err(TransferError::refused("the copy is not whole yet; run the import until it follows"))
        }
        Some(state) => Err(TransferError::refused(format!(
            "the cluster has taken the place of {} already",
            state.place()
        ))),
        None => Err(TransferError::refused("there is no import")),
    }
}

/// Waits until everything before `goal` is applied.
async fn until_applied(
    to: &mut Conn,
    goal: &Position,
    within: Option<Duration>,
) -> Result<(), TransferError> {
    let begun = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    loop {
        looks.tick().await;
        let Some(status) = channel::status(MEMBER, to, CHANNEL).await? else {
            return Err(TransferError::refused(
                "nobody follows on this node: run the import again, and cut over when it has caught up",
            ));
        };
        if status.applied.reaches(goal) {
            return Ok(());
        }
        if !status.applies {
            return Err(TransferError::refused(format!("{}: {}", told(&status), remedy(&status.trouble))));
        }
        if within.is_some_and(|limit| begun.elapsed() > limit) {
            return Err(TransferError::refused(format!(
                "the last transactions were not applied within {} s ({})",
                LAST.as_secs(),
                told(&status)
            )));
        }
    }
}

/// Whether the source was read-only before: `(read_only, super_read_only)`.
type Before = (bool, bool);

async fn read_only(from: &mut Conn) -> Result<Before, TransferError> {
    let now: Option<Before> =
        source(from.query_first("SELECT @@global.read_only, @@global.super_read_only")).await?;
    Ok(now.unwrap_or_default())
}

/// Makes the source read-only; false when the account may not, and the operator says that nobody writes. One that fails may have gone half
/// of its way: `read_only` is first.
async fn freeze(from: &mut Conn, is_stopped: bool) -> Result<bool, TransferError> {
    source(from.query_drop(format!("SET SESSION lock_wait_timeout = {LOCKS}"))).await?;
    match source(from.query_drop("SET GLOBAL super_read_only = ON")).await {
        Ok(()) => Ok(true),
        Err(e) if e.is_code(NO_RIGHT) && is_stopped => Ok(false),
        Err(e) if e.is_code(NO_RIGHT) => Err(TransferError::refused(format!(
            "{e}. Stop the application, and say --source-is-stopped; or grant the account SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN (SUPER in 5.7)"
        ))),
        Err(e) => Err(TransferError::refused(format!(
            "{e}. A long transaction, or a lock of a table, at the source keeps it from becoming read-only"
        ))),
    }
}

/// On a connection of its own: the other may be in the middle of an answer.
async fn thaw(remote: &Remote, (read_only, super_read_only): Before) -> Result<(), TransferError> {
    let mut from = remote.connect().await?;
    if !super_read_only {
        source(from.query_drop("SET GLOBAL super_read_only = OFF")).await?;
    }
    if !read_only {
        source(from.query_drop("SET GLOBAL read_only = OFF")).await?;
    }
    Ok(())
}

async fn given_back(
    remote: &Remote,
    to: &mut Conn,
    mut state: State,
    before: Option<Before>,
    why: &TransferError,
) -> Failure {
    let outcome = match before {
        Some(before) => thaw(remote, before).await,
        None => Ok(()),
    };
    if outcome.is_ok() {
        state.source_before = None;
        // What stays written down is undone once more by the next attempt.
        let _ = state.write(to).await;
    }
    match outcome {
        Ok(()) if before.is_some_and(|(read_only, _)| read_only) => Failure::run(format_args!(
            "{why}. Nothing was changed: the source is read-only, as it was before"
        )),
        Ok(()) => Failure::run(format_args!("{why}. Nothing was changed: the source takes writes as before")),
        Err(e) => Failure::run(format_args!(
            "{why}. The source is read-only and could not be given back ({e}): SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF there"
        )),
    }
}

/// Whether everything is applied, and both sides have the same.
async fn is_the_same(
    options: &Import,
    state: &State,
    from: &mut Conn,
    to: &mut Conn,
    watcher: &Watcher,
) -> Result<(), TransferError> {
    let last = position(from).await?;
    watcher.begin("applying the last transactions", 0, false);
    until_applied(to, &last, Some(LAST)).await?;
    let differ = compare(from, to, &state.databases, options.compare, state.generate_keys, watcher).await?;
    if !differ.is_empty() {
        return Err(TransferError::refused(format!("the tables are not alike: {}", differ.join("; "))));
    }
    let now = position(from).await?;
    if now != last {
        return Err(TransferError::refused(format!(
            "somebody writes to the source: its binary log went on from {last} to {now}"
        )));
    }
    Ok(())
}

/// Remembers that the cluster has the source's place, and what it had then.
async fn taken(mut state: State, to: &mut Conn) -> Result<State, TransferError> {
    let executed: Option<String> = member(to.query_first("SELECT @@global.gtid_executed")).await?;
    state.executed = executed.map(|set| set.replace('\n', ""));
    state.phase = Phase::CutOver;
    state.write(to).await?;
    Ok(state)
}

/// Enables the events that run at the source; those that could not be, and why.
async fn enable_events(state: &State, from: &mut Conn, to: &mut Conn) -> Result<Vec<String>, TransferError> {
    let events: Vec<(String, String, String)> = source(from.query(format!(
        "SELECT event_schema, event_name, definer FROM information_schema.events WHERE status = 'ENABLED' AND event_schema IN ({})",
        literals(&state.databases)
    )))
    .await?;
    let mut failed = Vec::new();
    for (database, name, definer) in events {
        let (user, host) = definer.rsplit_once('@').unwrap_or((&definer, "%"));
        // Without a definer whoever alters an event becomes it.
        let statement = format!(
            "ALTER DEFINER = {}@{} EVENT {}.{} ENABLE",
            literal(user),
            literal(host),
            identifier(&database),
            identifier(&name)
        );
        if let Err(e) = member(to.query_drop(statement)).await {
            failed.push(format!("{database}.{name} could not be enabled: {e}"));
        }
    }
    Ok(failed)
}

fn way_back(state: &State, frozen: bool) -> String {
    let place = state.place();
    let source = if frozen {
        format!(
            "{place} is read-only until it is started anew: write super_read_only = ON into its my.cnf, or stop it."
        )
    } else {
        format!("Keep {place} without writers: what it takes now is lost.")
    };
    format!(
        "Point the application at the cluster. {source}\n\
         The way back:\n\
         - before the application has written here: SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF at {place}, and point it there again;\n\
         - afterwards: trivet database import --back lets {place} follow the cluster, so that it has what is written here.\n"
    )
}
