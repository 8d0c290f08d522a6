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
use crate::error::{MEMBER, NO_RIGHT, TransferError, member, source};
use crate::goal::Goal;
use crate::import::following::{made_since, remedy, told};
use crate::import::{locked, remote, same_source};
use crate::locks;
use crate::report::{Upstream, upstreams};
use crate::server::{Remote, literal, literals};
use crate::state::{Event, Phase, State};

/// How long the source's writers may wait for the last transactions to be applied, before it is given back to them.
const LAST: Duration = Duration::from_secs(60);

/// Takes the source's place. One that was interrupted goes on when it is run again: before the place is taken from the beginning, afterwards
/// with what is left.
pub async fn run(options: &Import, watcher: &Watcher, mut interrupted: Shutdown) -> Result<(), Failure> {
    let mut to = locked(options).await?;
    let mut state = ready(&mut to).await?;
    if state.phase != Phase::Following {
        let way_back = way_back(&state, state.source_before.is_some());
        finish(state, &mut to).await?;
        print!("{way_back}");
        return Ok(());
    }
    let (remote, _) = remote(options, Some(&state))?;
    let mut from = remote.connect().await?;
    same_source(&mut from, &state).await?;
    watcher.begin("waiting until the cluster has what the source has", 0, false);
    let caught_up = tokio::select! {
        caught_up = catch_up(options, &state, &mut from, &mut to) => caught_up,
        () = interrupted.wait() => Err(TransferError::refused("interrupted")),
    };
    if let Err(e) = caught_up {
        // An attempt that was killed may have left it read-only.
        let before = state.source_before;
        return Err(given_back(options, &remote, state, before, &e).await);
    }
    let before = match state.source_before {
        Some(before) => before,
        None => read_only(&mut from).await?,
    };
    state.source_before = Some(before);
    state.write(&mut to).await?;
    let before = match freeze(&mut from).await {
        Ok(()) => Some(before),
        // Nothing was changed for want of rights.
        Err(e) if e.is_code(NO_RIGHT) => {
            state.source_before = None;
            state.write(&mut to).await?;
            if !options.source_is_stopped {
                return Err(Failure::run(format_args!(
                    "{e}. Stop the application, and say --source-is-stopped; or grant the account SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN (SUPER in 5.7)"
                )));
            }
            None
        }
        Err(e) => {
            let e = locks::named(e, "SET GLOBAL super_read_only at the source", &mut from).await;
            return Err(given_back(options, &remote, state, Some(before), &e).await);
        }
    };
    // From here on the source refuses writes: when this goes wrong they get it back.
    let same = tokio::select! {
        same = is_the_same(options, &state, &mut from, &mut to, watcher) => same,
        () = interrupted.wait() => Err(TransferError::refused("interrupted")),
    };
    let events = match same {
        Ok(events) => events,
        Err(e) => return Err(given_back(options, &remote, state, before, &e).await),
    };
    let begun = Instant::now();
    if let Err(e) = channel::stop(MEMBER, &mut to, CHANNEL).await {
        return Err(given_back(options, &remote, state, before, &e).await);
    }
    // Whether a write that failed was done is not known: the source stays as it is, so that only one of both takes writes.
    let state = taken(state, events, &mut to).await.map_err(|e| {
        Failure::run(format_args!(
            "{e}. It is not known whether the cluster has taken the source's place: trivet database import --status says it, and --cut-over goes on in \
             either case. Until then the source is read-only"
        ))
    })?;
    watcher.end();
    let place = state.place();
    let way_back = way_back(&state, before.is_some());
    finish(state, &mut to).await?;
    println!("the cluster has taken the place of {place} ({:.1} s)", begun.elapsed().as_secs_f32());
    print!("{way_back}");
    Ok(())
}

/// What is left once the place is taken. Each step can be done again.
async fn finish(mut state: State, to: &mut Conn) -> Result<(), TransferError> {
    channel::remove(MEMBER, to, CHANNEL).await?;
    channel::keep_still_at_start(to, false).await?;
    let mut failed = Vec::new();
    for event in state.events.take().unwrap_or_default() {
        if let Err(e) = enable(&event, to).await {
            eprintln!(
                "trivet-transfer: the event {}.{} could not be enabled: {e}",
                event.database, event.name
            );
            failed.push(event);
        }
    }
    if !failed.is_empty() {
        eprintln!("trivet-transfer: when the cause is mended, --cut-over tries these again");
        state.events = Some(failed);
    }
    state.write(to).await?;
    println!("the cut-over is done: {}", state.databases.join(", "));
    Ok(())
}

async fn ready(to: &mut Conn) -> Result<State, TransferError> {
    match State::read(to).await? {
        Some(state) if state.phase == Phase::Following => Ok(state),
        Some(state) if state.phase == Phase::Copying => {
            Err(TransferError::refused("the copy is not whole yet; run the import until it follows"))
        }
        Some(state) if state.events.is_some() => Ok(state),
        Some(state) => Err(TransferError::refused(format!(
            "the cluster has taken the place of {} already",
            state.place()
        ))),
        None => Err(TransferError::refused("there is no import")),
    }
}

/// Whether the source can be left, and the cluster has what it has now. Nothing is changed.
async fn catch_up(
    options: &Import,
    state: &State,
    from: &mut Conn,
    to: &mut Conn,
) -> Result<(), TransferError> {
    let running: Vec<String> = upstreams(from).await?.iter().filter(|u| u.runs).map(Upstream::told).collect();
    if !running.is_empty() {
        return Err(TransferError::refused(format!(
            "the source is itself a replica of {}, and super_read_only does not keep it from applying what comes from there: STOP REPLICA at the source first",
            running.join("; ")
        )));
    }
    nothing_new(options, state, from).await?;
    let goal = Goal::of(from).await?;
    until_applied(state, to, &goal, None).await
}

/// Refuses while the source has databases that were made after the copy: nobody would have them afterwards.
async fn nothing_new(options: &Import, state: &State, from: &mut Conn) -> Result<(), TransferError> {
    let mut new = made_since(from, state).await?;
    new.retain(|database| !options.leave_out.contains(database));
    if new.is_empty() {
        return Ok(());
    }
    Err(TransferError::refused(format!(
        "the source has databases that were made after the copy and are not imported: {}. Drop them there, import everything anew (--abort), or say that nobody needs \
         them in the cluster: --leave-out {}",
        new.join(", "),
        new.join(",")
    )))
}

/// How long the channel may be without the source: it tries again every few seconds.
const AWAY: Duration = Duration::from_mins(1);

/// Waits until the cluster has what the source had. Without a limit as long as the channel works on it.
async fn until_applied(
    state: &State,
    to: &mut Conn,
    goal: &Goal,
    within: Option<Duration>,
) -> Result<(), TransferError> {
    let begun = Instant::now();
    let mut received = begun;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    loop {
        looks.tick().await;
        let Some(status) = channel::status(MEMBER, to, CHANNEL).await? else {
            return Err(TransferError::refused(
                "nobody follows on this node: run the import again, and cut over when it has caught up",
            ));
        };
        if goal.is_reached(state, &status, to).await? {
            return Ok(());
        }
        if !status.applies {
            return Err(TransferError::refused(format!("{}: {}", told(&status), remedy(&status.trouble))));
        }
        if status.receives {
            received = Instant::now();
        }
        if received.elapsed() > AWAY {
            return Err(TransferError::refused(told(&status)));
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
pub(crate) type Before = (bool, bool);

async fn read_only(from: &mut Conn) -> Result<Before, TransferError> {
    let now: Option<Before> =
        source(from.query_first("SELECT @@global.read_only, @@global.super_read_only")).await?;
    Ok(now.unwrap_or_default())
}

/// Makes the source read-only. One that fails may have gone half of its way: `read_only` is first.
async fn freeze(from: &mut Conn) -> Result<(), TransferError> {
    source(from.query_drop("SET GLOBAL super_read_only = ON")).await
}

/// On a connection of its own: the other may be in the middle of an answer.
pub(crate) async fn thaw(remote: &Remote, (read_only, super_read_only): Before) -> Result<(), TransferError> {
    let mut from = remote.connect().await?;
    if !super_read_only {
        source(from.query_drop("SET GLOBAL super_read_only = OFF")).await?;
    }
    if !read_only {
        source(from.query_drop("SET GLOBAL read_only = OFF")).await?;
    }
    Ok(())
}

/// Undoes what was done to the source, and says why. On connections of its own, as [`thaw`].
async fn given_back(
    options: &Import,
    remote: &Remote,
    mut state: State,
    before: Option<Before>,
    why: &TransferError,
) -> Failure {
    let outcome = match before {
        Some(before) => thaw(remote, before).await,
        None => Ok(()),
    };
    if outcome.is_ok() && state.source_before.take().is_some() {
        // What stays written down is undone once more by the next attempt.
        if let Ok(mut to) = options.member.connect().await {
            let _ = state.write(&mut to).await;
        }
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

/// Whether everything is applied, and both sides have the same. The events that run at the source.
async fn is_the_same(
    options: &Import,
    state: &State,
    from: &mut Conn,
    to: &mut Conn,
    watcher: &Watcher,
) -> Result<Vec<Event>, TransferError> {
    nothing_new(options, state, from).await?;
    let last = Goal::of(from).await?;
    watcher.begin("applying the last transactions", 0, false);
    until_applied(state, to, &last, Some(LAST)).await?;
    let differ = compare(from, to, &state.databases, options.compare, state.generate_keys, watcher).await?;
    if !differ.is_empty() {
        return Err(TransferError::refused(format!("the tables are not alike: {}", differ.join("; "))));
    }
    let events = events(state, from).await?;
    let now = Goal::of(from).await?;
    if now != last {
        return Err(TransferError::refused(format!(
            "somebody writes to the source: its binary log went on from {} to {}",
            last.position, now.position
        )));
    }
    Ok(events)
}

/// Remembers that the cluster has the source's place, and what it had then.
async fn taken(mut state: State, events: Vec<Event>, to: &mut Conn) -> Result<State, TransferError> {
    let executed: Option<String> = member(to.query_first("SELECT @@global.gtid_executed")).await?;
    state.executed = executed.map(|set| set.replace('\n', ""));
    state.phase = Phase::CutOver;
    state.events = Some(events);
    state.write(to).await?;
    Ok(state)
}

/// The events that run at the source.
async fn events(state: &State, from: &mut Conn) -> Result<Vec<Event>, TransferError> {
    let events: Vec<(String, String, String)> = source(from.query(format!(
        "SELECT event_schema, event_name, definer FROM information_schema.events WHERE status = 'ENABLED' AND event_schema IN ({})",
        literals(&state.databases)
    )))
    .await?;
    Ok(events.into_iter().map(|(database, name, definer)| Event { database, name, definer }).collect())
}

/// Enables an event, which keeps its definer: without one whoever alters an event becomes it.
async fn enable(event: &Event, to: &mut Conn) -> Result<(), TransferError> {
    let (user, host) = event.definer.rsplit_once('@').unwrap_or((&event.definer, "%"));
    member(to.query_drop(format!(
        "ALTER DEFINER = {}@{} EVENT {}.{} ENABLE",
        literal(user),
        literal(host),
        identifier(&event.database),
        identifier(&event.name)
    )))
    .await
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
