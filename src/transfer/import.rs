//! `import`: report, copy, follow; the steps after that are [`crate::cut_over`] and [`crate::back`].

mod abort;
pub(crate) mod following;

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use serde_json::json;

use trivet_base::process::{Failure, Shutdown};
use trivet_mysql::identifier;
use trivet_mysql::progress::{self, Watcher};

use crate::channel::{self, CHANNEL, Channel};
use crate::cli::Import;
use crate::dump::{Dump, Load};
use crate::error::{MEMBER, TransferError, member, source};
use crate::filter::{Filter, Position};
use crate::report::{Choices, Facts, Report};
use crate::server::{Remote, Url};
use crate::state::{Phase, State, now};
use crate::{back, cut_over, goal, locks};

/// One command changes an import at a time: a lock of the primary's, which ends with the connection.
const LOCK: &str = "SELECT GET_LOCK('trivet_import', 0)";

/// Runs the step that the command line names.
pub async fn run(options: Import) -> Result<(), Failure> {
    let watcher = Watcher::default();
    let shown = tokio::spawn(progress::show(watcher.clone()));
    let interrupted = Shutdown::of_a_command()?;
    let outcome = step(&options, &watcher, interrupted).await;
    watcher.end();
    shown.abort();
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    outcome
}

async fn step(options: &Import, watcher: &Watcher, interrupted: Shutdown) -> Result<(), Failure> {
    if options.report {
        report(options).await
    } else if options.status {
        status(options).await
    } else if options.pause {
        pause(options).await
    } else if options.abort {
        abort::run(options).await
    } else if options.cut_over {
        cut_over::run(options, watcher, interrupted).await
    } else if options.back {
        back::run(options, watcher).await
    } else {
        import(options, watcher, interrupted).await
    }
}

/// The source that the command line names, or the one that was named when the import was begun.
pub(crate) fn remote(
    options: &Import,
    state: Option<&State>,
) -> Result<(Remote, Vec<String>), TransferError> {
    let Some(password) = &options.password_file else {
        return Err(TransferError::refused(
            "--password-file names the file with the password of the account at the source",
        ));
    };
    match (&options.from, state) {
        (Some(url), _) => {
            let url = Url::parse(url)?;
            let remote = Remote::new(&url, password, options.source_ca.clone(), options.without_tls)?;
            Ok((remote, url.databases))
        }
        (None, Some(state)) => {
            let url = Url {
                host: state.host.clone(),
                port: state.port,
                user: state.user.clone(),
                databases: Vec::new(),
            };
            let ca = options.source_ca.clone().or_else(|| state.ca.clone());
            Ok((Remote::new(&url, password, ca, state.plain)?, state.databases.clone()))
        }
        (None, None) => {
            Err(TransferError::refused("--from names the source: mysql://USER@HOST[:PORT]/[DATABASE,…]"))
        }
    }
}

/// A connection to the primary that has the lock.
pub(crate) async fn locked(options: &Import) -> Result<Conn, TransferError> {
    let mut conn = options.member.primary().await?;
    let got: Option<u8> = member(conn.query_first(LOCK)).await?;
    if got == Some(1) {
        Ok(conn)
    } else {
        Err(TransferError::refused(
            "another trivet database import is at work on this node; wait until it is done",
        ))
    }
}

async fn report(options: &Import) -> Result<(), Failure> {
    let (remote, wanted) = remote(options, None)?;
    let mut from = remote.connect().await?;
    let mut to = options.member.connect().await?;
    let choices = Choices { generate_keys: options.generate_keys };
    let report = Report::of(&remote, &mut from, &mut to, &wanted, choices).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::run)?);
    } else {
        print!("{report}");
    }
    if report.is_blocked() { Err(Failure::run("the source cannot be imported as it is")) } else { Ok(()) }
}

async fn import(options: &Import, watcher: &Watcher, interrupted: Shutdown) -> Result<(), Failure> {
    let mut to = locked(options).await?;
    let state = State::read(&mut to).await?;
    let state = match state {
        Some(state) if state.phase == Phase::Following => state,
        earlier => {
            let mut stopped = interrupted.clone();
            tokio::select! {
                biased;
                copied = copy(options, &mut to, earlier, watcher) => copied?,
                () = stopped.wait() => {
                    return Err(Failure::run("interrupted; the next import begins the copy anew, --abort removes what there is"));
                }
            }
        }
    };
    let (remote, _) = remote(options, Some(&state))?;
    if options.from.is_some() && (remote.host != state.host || remote.port != state.port) {
        return Err(Failure::run(format_args!(
            "the cluster follows {}; end that first (--cut-over, or --abort)",
            state.place()
        )));
    }
    let mut from = remote.connect().await?;
    same_source(&mut from, &state).await?;
    let running = channel::status(MEMBER, &mut to, CHANNEL).await?.is_some_and(|s| s.receives && s.applies);
    if !running {
        let at = beginning(&state, &mut from, &mut to).await?;
        State::note(&mut to, &at).await?;
        start(&remote, &State { position: Some(at), ..state.clone() }, &mut to).await?;
    }
    if state.source_before.is_some() {
        println!("{}", left_read_only(&state));
    }
    // Others may end it while this shows how far it is.
    member(to.query_drop("DO RELEASE_LOCK('trivet_import')")).await?;
    following::show(options, state, &remote, &mut from, &mut to, watcher, interrupted).await
}

/// Where the channel begins. Everything before it must be applied; what is after it and here already is left out by its GTIDs, so an old
/// position is right, too, as long as the source has its log.
///
/// This member's own channel knows better than what was noted, when it has one: InnoDB has that in the transaction it belongs to. When the
/// source has removed the log, its oldest will do if the cluster has everything before that.
async fn beginning(state: &State, from: &mut Conn, to: &mut Conn) -> Result<Position, TransferError> {
    let here = channel::status(MEMBER, to, CHANNEL).await?.filter(|s| s.source_uuid == state.uuid);
    let known = match (state.position.clone(), here.map(|s| s.applied)) {
        (Some(noted), Some(here)) if here.reaches(&noted) => Some(here),
        (noted, here) => noted.or(here),
    };
    let logs: Vec<Row> = source(from.query("SHOW BINARY LOGS")).await?;
    let logs: Vec<String> = logs.iter().map(|row| channel::text(row, "Log_name")).collect();
    if let Some(known) = &known
        && logs.contains(&known.file)
    {
        return Ok(known.clone());
    }
    let purged: Option<String> = source(from.query_first("SELECT @@global.gtid_purged")).await?;
    match logs.first() {
        Some(oldest)
            if state.copied.is_some() && goal::has(to, state, &purged.unwrap_or_default()).await? =>
        {
            Ok(Position { file: oldest.clone(), offset: LOG_BEGINS })
        }
        _ => Err(TransferError::refused(format!(
            "the source has removed the log that is needed next ({}): --abort and import anew, and keep its logs for longer (binlog_expire_logs_seconds)",
            known.map_or_else(|| "its place is not known".into(), |at| at.to_string())
        ))),
    }
}

/// After the magic number of a binary log.
const LOG_BEGINS: u64 = 4;

/// Makes the channel anew, from where everything is applied.
async fn start(remote: &Remote, state: &State, to: &mut Conn) -> Result<(), TransferError> {
    let channel = Channel {
        name: CHANNEL,
        source: remote,
        from: state.position.as_ref(),
        databases: &state.databases,
        generate_keys: state.generate_keys,
    };
    channel::keep_still_at_start(to, true).await?;
    channel.start(MEMBER, to).await
}

/// Another server at the source's address has another log.
pub(crate) async fn same_source(from: &mut Conn, state: &State) -> Result<(), TransferError> {
    let facts = Facts::of(from, &[]).await?;
    if facts.uuid == state.uuid {
        return Ok(());
    }
    Err(TransferError::refused(format!(
        "{} is another server than the one that was copied (server_uuid {}, not {}): --abort, and import it anew",
        state.place(),
        facts.uuid,
        state.uuid
    )))
}

/// Reports, and copies when nothing stands in the way.
async fn copy(
    options: &Import,
    to: &mut Conn,
    earlier: Option<State>,
    watcher: &Watcher,
) -> Result<State, Failure> {
    // A new import would forget what an earlier one has still to do.
    if let Some(State { phase: Phase::CutOver, events: Some(_), .. }) = &earlier {
        return Err(Failure::run("an earlier cut-over was not finished: finish it first (--cut-over)"));
    }
    let unfinished = earlier.filter(|s| s.phase == Phase::Copying);
    let (remote, wanted) = remote(options, unfinished.as_ref())?;
    if let Some(state) = &unfinished
        && (remote.host != state.host
            || remote.port != state.port
            || wanted.iter().any(|database| !state.databases.contains(database)))
    {
        return Err(Failure::run(format_args!(
            "a copy of {} from {} was not finished: remove what there is of it first (--abort)",
            state.databases.join(", "),
            state.place()
        )));
    }
    let mut from = remote.connect().await?;
    if let Some(state) = &unfinished {
        eprintln!("an earlier copy was not finished: it is removed, and begun anew");
        drop_databases(to, &state.databases).await?;
    }
    let choices = Choices { generate_keys: options.generate_keys };
    let report = Report::of(&remote, &mut from, to, &wanted, choices).await?;
    print!("{report}");
    if report.is_blocked() {
        return Err(Failure::run("nothing was done"));
    }
    let mut state = State {
        phase: Phase::Copying,
        host: remote.host.clone(),
        port: remote.port,
        user: remote.user.clone(),
        ca: remote.ca.clone(),
        plain: remote.plain,
        uuid: Facts::of(&mut from, &[]).await?.uuid,
        databases: report.databases.clone(),
        generate_keys: options.generate_keys,
        position: None,
        executed: None,
        source_before: None,
        copied: None,
        others: report.others.clone(),
        events: None,
        begun: now(),
    };
    state.write(to).await?;
    // They are empty; the dump makes them with the source's character sets.
    drop_databases(to, &state.databases).await?;
    watcher.begin("copying", report.size.octets, true);
    let (source, target) = (remote.option_file()?, options.member.option_file()?);
    let dump = Dump {
        program: &options.member.program("mysqldump"),
        options: source.path(),
        more: &["--source-data=2", "--set-gtid-purged=COMMENTED"],
        databases: &state.databases,
    };
    let keys = if state.generate_keys { ", SESSION sql_generate_invisible_primary_key = ON" } else { "" };
    let first = format!("SET SESSION lock_wait_timeout = {}{keys}", locks::LIMIT);
    let load = Load::start(&options.member.program("mysql"), target.path(), &first)?;
    let mut filter = Filter { disable_events: true, ..Filter::default() };
    if let Err(e) = load.take(&dump, &mut filter, watcher).await {
        return Err(waited(e, &mut from, to).await.into());
    }
    let Some(position) = filter.position else {
        return Err(Failure::run("mysqldump names no position in the source's binary log"));
    };
    println!("copied, as of {position} in the source's binary log");
    state.position = Some(position);
    state.copied = filter.gtids;
    state.phase = Phase::Following;
    state.write(to).await?;
    start(&remote, &state, to).await?;
    Ok(state)
}

/// MySQL's programs say with which error they ended, and not who was in the way.
async fn waited(error: TransferError, from: &mut Conn, to: &mut Conn) -> TransferError {
    let timed_out = format!("({})", locks::TIMED_OUT);
    match &error {
        TransferError::Program { program: "mysqldump", reason } if reason.contains(&timed_out) => {
            locks::timed_out("the copy at the source", from).await
        }
        TransferError::Program { program: "mysql", reason }
            if reason.contains(&format!("ERROR {} ", locks::TIMED_OUT)) =>
        {
            locks::timed_out("the copy in the cluster", to).await
        }
        _ => error,
    }
}

/// What a cut-over that was killed has left behind.
fn left_read_only(state: &State) -> String {
    format!(
        "a cut-over that was killed may have left {} read-only: run --cut-over again, or SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF there",
        state.place()
    )
}

pub(crate) async fn drop_databases(to: &mut Conn, databases: &[String]) -> Result<(), TransferError> {
    for database in databases {
        let dropped =
            member(to.query_drop(format!("DROP DATABASE IF EXISTS {}", identifier(database)))).await;
        if let Err(e) = dropped {
            return Err(locks::named(e, &format!("DROP DATABASE {database} in the cluster"), to).await);
        }
    }
    Ok(())
}

async fn status(options: &Import) -> Result<(), Failure> {
    let mut conn = options.member.connect().await?;
    let state = State::read(&mut conn).await?;
    let channel = channel::status(MEMBER, &mut conn, CHANNEL).await?;
    if options.json {
        println!("{:#}", json!({"import": state, "channel": channel}));
        return Ok(());
    }
    let Some(state) = state else {
        println!("there is no import");
        if channel.is_some() {
            println!("this node's member has the channel of an earlier one; --abort removes it");
        }
        return Ok(());
    };
    println!("{} of {}", state.databases.join(", "), state.place());
    match (state.phase, channel) {
        (Phase::Copying, _) => println!("copying, or interrupted while it did"),
        (Phase::Following, Some(channel)) => println!("{}", following::told(&channel)),
        (Phase::Following, None) => println!(
            "copied; nobody follows on this node. On the primary's node trivet database import goes on following"
        ),
        (Phase::CutOver, _) if state.events.is_some() => {
            println!(
                "the cluster has taken its place, and the cut-over has more to do: run --cut-over again"
            );
        }
        (Phase::CutOver, _) => println!("the cluster has taken its place"),
        (Phase::Back, _) => println!("the cluster has taken its place, and it follows the cluster"),
    }
    if state.phase == Phase::Following && state.source_before.is_some() {
        println!("{}", left_read_only(&state));
    }
    Ok(())
}

async fn pause(options: &Import) -> Result<(), Failure> {
    let mut to = locked(options).await?;
    if channel::status(MEMBER, &mut to, CHANNEL).await?.is_none() {
        return Err(Failure::run("nobody follows on this node"));
    }
    channel::stop(MEMBER, &mut to, CHANNEL).await?;
    // The next primary begins there.
    if let Some(status) = channel::status(MEMBER, &mut to, CHANNEL).await?
        && !status.applied.file.is_empty()
    {
        State::note(&mut to, &status.applied).await?;
    }
    println!("paused; trivet database import --password-file … goes on, on whichever node has the primary");
    Ok(())
}

/// Nobody consents by accident: a pipe, or no terminal at all, says no.
fn ask(question: &str, expected: &str, instead: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::run(format_args!(
            "nothing was done: nobody is there to ask. Without a terminal: {instead}"
        )));
    }
    print!("{question}");
    std::io::stdout().flush().map_err(Failure::run)?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(Failure::run)?;
    if line.trim() == expected { Ok(()) } else { Err(Failure::run("nothing was done")) }
}
