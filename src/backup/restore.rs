//! A restore: the newest base copy before the moment that is wanted, and from the log every transaction up to it.
//!
//! MySQL applies the log itself, as a replica would: the transactions are written as relay logs, and exactly those, so that it stops where
//! it should.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_common::binlog::events::FormatDescriptionEvent;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use trivet_base::disk::Space;
use trivet_keeper_api::gtid::GtidSet;

use crate::base::{Description, LABEL, Turn};
use crate::keys::Keys;
use crate::log::catalog::{self, LogError, Walk};
use crate::log::frame::{self, Clock};
use crate::log::segment::Segment;
use crate::mysqld::{MysqldError, Options, Scratch};
use crate::progress::Watcher;
use crate::repository::{Copy, Repository, RepositoryError, blocking};
use crate::sql;
use crate::storage::{Storage, StorageError};

/// An applier that has done nothing for so long, and still has something to do, is stuck.
const STUCK: Duration = Duration::from_mins(30);

/// One that has read all that there is has finished what it has in hand sooner.
const DONE: Duration = Duration::from_mins(2);
const HAS_READ_ALL: &str = "SELECT 1 FROM performance_schema.processlist WHERE user = 'system user' AND state LIKE '%has read all relay log%'";

/// A relay log is no larger than about this: the server removes each once it is applied, so that room comes back as it goes on. One for each
/// segment would be tens of thousands of files.
const RELAY: usize = 256 << 20;

/// The moment that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// As it was at this moment, microseconds since 1970: transactions that were committed then, and none later.
    Time(u64),
    /// Up to this transaction, with it.
    Gtid {
        /// Who numbered it.
        uuid: String,
        /// Its tag, or empty.
        tag: String,
        /// Its number.
        number: u64,
    },
    /// All there is.
    Latest,
    /// Exactly these transactions, for a comparison with a member that has executed them.
    Set(GtidSet),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
            return u64::try_from(time.unix_timestamp_nanos() / 1000)
                .map(Self::Time)
                .map_err(|_| format!("{text} is before 1970"));
        }
        let parts: Vec<&str> = text.split(':').collect();
        let (uuid, tag, number) = match parts[..] {
            [uuid, number] => (uuid, "", number),
            [uuid, tag, number] => (uuid, tag, number),
            _ => ("", "", ""),
        };
        match number.parse::<u64>() {
            // The whole of it is checked as a set of one.
            Ok(number) if number > 0 && text.parse::<GtidSet>().is_ok() => {
                Ok(Self::Gtid { uuid: uuid.to_ascii_lowercase(), tag: tag.to_ascii_lowercase(), number })
            }
            _ => Err(format!(
                "{text:?} is no moment: give a time with its zone (2026-01-02T15:04:05Z, 2026-01-02T16:04:05.25+01:00), one transaction \
                 (6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001:4711), or latest"
            )),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(micros) => write!(f, "{}", clock(*micros)),
            Self::Gtid { uuid, tag, number } if tag.is_empty() => write!(f, "{uuid}:{number}"),
            Self::Gtid { uuid, tag, number } => write!(f, "{uuid}:{tag}:{number}"),
            Self::Latest => f.write_str("latest"),
            Self::Set(set) => write!(f, "{set}"),
        }
    }
}

/// Microseconds since 1970 as people write it, in UTC.
pub fn clock(micros: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{micros} µs after 1970"))
}

/// Why there was no restore. The cluster that runs is not touched, and nothing half restored is left.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Too early.
    #[error(
        "{target} is before the first base copy in {place}, which is whole from {first} on: nothing older can be restored"
    )]
    TooEarly {
        /// What was wanted.
        target: String,
        /// The repository and where it is.
        place: String,
        /// The first moment there is.
        first: String,
    },
    /// Too late.
    #[error("{target} is in the future: give a moment that has been, or latest")]
    Future {
        /// What was wanted.
        target: String,
    },
    /// No base copy.
    #[error("{place} has no base copy yet: wait for the first, or take one (trivet backup now)")]
    NoBase {
        /// The repository and where it is.
        place: String,
    },
    /// The log never says that.
    #[error("transaction {target} is nowhere in the log in {place}, which ends with {last}")]
    NoTransaction {
        /// What was wanted.
        target: String,
        /// The repository and where it is.
        place: String,
        /// What the log ends with.
        last: String,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The scratch server.
    #[error(transparent)]
    Mysqld(#[from] MysqldError),
    /// Too little room.
    #[error(
        "{directory}: the base copy has {data} and the log after it about {log}, unpacked; {needed} are needed and {free} are free. Give a directory \
         with more room (--into, state_directory)"
    )]
    Room {
        /// Where it was to be.
        directory: String,
        /// The base copy.
        data: bytesize::ByteSize,
        /// The log, unpacked.
        log: bytesize::ByteSize,
        /// Both, and a tenth.
        needed: bytesize::ByteSize,
        /// What is free.
        free: bytesize::ByteSize,
    },
    /// MySQL could not apply a transaction.
    #[error("the log could not be applied: {0}")]
    Apply(String),
    /// Files.
    #[error("{0}")]
    Files(String),
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    /// The base copy's id, and when it was whole.
    pub base: String,
    /// See `base`; RFC 3339.
    pub base_time: String,
    /// Transactions from the log.
    pub replayed: u64,
    /// The last commit that was restored from the log, RFC 3339; that of the base copy when there was none.
    pub restored_to: String,
    /// Everything that the restored database has executed.
    pub gtid_executed: GtidSet,
    /// Transactions that the log has beyond it: they are lost to whoever goes on with what was restored.
    pub not_restored: u64,
    /// The log ends before the moment that was asked for: what was committed in between, if anything was, is not in it.
    pub ends_early: bool,
    /// The first and the last of their commits, RFC 3339.
    pub not_restored_times: Option<(String, String)>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "base copy     {} (whole at {})", self.base, self.base_time)?;
        writeln!(f, "from the log  {} transactions", self.replayed)?;
        writeln!(f, "restored to   {}", self.restored_to)?;
        if self.ends_early {
            writeln!(
                f,
                "WARNING       the log ends there, long before the moment that was asked for: later writes are not in it"
            )?;
        }
        match &self.not_restored_times {
            Some((first, last)) => {
                write!(
                    f,
                    "not restored  {} transactions, committed from {first} to {last}",
                    self.not_restored
                )
            }
            None => write!(f, "not restored  nothing that the log has"),
        }
    }
}

/// The newest base copy that has nothing later than the target; with `skip`, so many newer ones are passed over while there are older ones.
pub fn choose(
    place: &str,
    copies: &[Copy],
    target: &Target,
    now: u64,
    skip: usize,
) -> Result<(Copy, Description), RestoreError> {
    if let Target::Time(wanted) = target
        && *wanted > now
    {
        return Err(RestoreError::Future { target: target.to_string() });
    }
    let known: Vec<(&Copy, Description)> =
        copies.iter().filter_map(|c| Some((c, Description::of(c)?))).collect();
    let Some((_, first)) = known.first() else { return Err(RestoreError::NoBase { place: place.into() }) };
    let first = first.consistent.clone();
    let fits = |description: &Description| match target {
        Target::Time(wanted) => micros(&description.consistent).is_some_and(|t| t <= *wanted),
        Target::Gtid { uuid, tag, number } => !description.gtid_executed.contains(uuid, tag, *number),
        Target::Set(set) => description.gtid_executed.is_subset(set),
        Target::Latest => true,
    };
    let skip = skip.min(known.len() - 1);
    known
        .into_iter()
        .rev()
        .skip(skip)
        .find(|(_, description)| fits(description))
        .map(|(copy, description)| (copy.clone(), description))
        .ok_or_else(|| RestoreError::TooEarly { target: target.to_string(), place: place.into(), first })
}

fn micros(rfc3339: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(rfc3339, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1000).ok()
}

/// Which transactions of the log belong to a restore.
struct Cut<'a> {
    target: &'a Target,
    have: GtidSet,
    replayed: u64,
    last: Option<u64>,
    /// The target is behind us: what follows is not restored.
    is_past: bool,
    beyond: u64,
    beyond_times: Option<(u64, u64)>,
    clock: OneClock,
}

/// Transactions of one logical clock, one after another.
struct Run {
    /// The last run was of the same.
    continues: bool,
    events: Vec<u8>,
}

/// One logical clock for what was counted by those of several members and files: an applier with several threads would wait for ever for places
/// that do not come, or not wait for what a transaction depends on. What comes from another clock depends on all before it.
#[derive(Default)]
struct OneClock {
    /// Whose clock the last transaction was counted by (a member's `server_id`), and its place there.
    last: (Option<u32>, u64),
    /// Its place here.
    here: u64,
    /// The place here of the last one that another clock counted.
    begin: u64,
}

impl OneClock {
    /// Its place here, and whether the last one was counted by the same clock.
    fn next(&mut self, member: Option<u32>, there: Clock) -> (Clock, bool) {
        let continues = self.last == (member, there.sequence.wrapping_sub(1));
        if !continues {
            self.begin = self.here;
        }
        self.last = (member, there.sequence);
        self.here += 1;
        let before = there.sequence.saturating_sub(there.after).max(1);
        let after = self.here.saturating_sub(before).max(self.begin);
        (Clock { after, sequence: self.here }, continues)
    }
}

impl<'a> Cut<'a> {
    fn new(target: &'a Target, have: GtidSet) -> Self {
        Self {
            target,
            have,
            replayed: 0,
            last: None,
            is_past: false,
            beyond: 0,
            beyond_times: None,
            clock: OneClock::default(),
        }
    }

    /// The transactions of a segment that are to be applied.
    fn take(&mut self, segment: &Segment) -> Result<Vec<Run>, crate::log::segment::SegmentError> {
        let member = segment.member();
        let mut runs: Vec<Run> = Vec::new();
        for entry in segment.entries()? {
            let t = &entry.transaction;
            if self.have.contains(&t.uuid, &t.tag, t.number) {
                continue;
            }
            if matches!(self.target, Target::Time(wanted) if t.committed > *wanted) {
                self.is_past = true;
            }
            let is_other =
                matches!(self.target, Target::Set(set) if !set.contains(&t.uuid, &t.tag, t.number));
            if self.is_past || is_other {
                self.beyond += 1;
                let (first, last) = self.beyond_times.unwrap_or((t.committed, t.committed));
                self.beyond_times = Some((first.min(t.committed), last.max(t.committed)));
                continue;
            }
            let (clock, continues) = self.clock.next(member, t.clock);
            let events = frame::with_clock(segment.format(), entry.events, clock)?;
            match runs.last_mut() {
                Some(run) if continues => run.events.extend(events),
                _ => runs.push(Run { continues, events }),
            }
            self.have.insert(&t.uuid, &t.tag, t.number);
            self.replayed += 1;
            self.last = self.last.max(Some(t.committed));
            if matches!(self.target, Target::Gtid { uuid, tag, number } if (uuid, tag, number) == (&t.uuid, &t.tag, &t.number))
            {
                self.is_past = true;
            }
        }
        Ok(runs)
    }
}

/// Relay logs in a data directory, as a replica would have written them.
struct Relay<'a> {
    data: &'a Path,
    index: String,
    number: u32,
    /// The file that is being written, its size, and how its events are read.
    file: Option<(std::fs::File, usize, FormatDescriptionEvent<'static>)>,
}

impl<'a> Relay<'a> {
    fn new(data: &'a Path) -> Self {
        Self { data, index: String::new(), number: 0, file: None }
    }

    /// Adds transactions of a segment: to the last file, while it has room and the same format, and they are of the same clock. Within a file
    /// the numbers of transactions in the storage engine (XID events) must not come twice: at its start a server cuts the file off there
    /// (MySQL's sql/log_sanitizer.h), and each member counts its own.
    fn add(&mut self, segment: &Segment, run: &Run) -> std::io::Result<()> {
        let (mut file, size, format) = match self.file.take() {
            Some((file, size, format)) if run.continues && size < RELAY && segment.continues(&format) => {
                (file, size, format)
            }
            _ => {
                self.number += 1;
                let name = format!("relay.{:06}", self.number);
                self.index.push_str(&format!("./{name}\n"));
                let mut file = std::fs::File::create(self.data.join(name))?;
                file.write_all(segment.beginning())?;
                (file, 0, segment.format().clone())
            }
        };
        file.write_all(&run.events)?;
        self.file = Some((file, size + run.events.len(), format));
        Ok(())
    }

    fn finish(self) -> std::io::Result<()> {
        if self.index.is_empty() {
            Ok(())
        } else {
            std::fs::write(self.data.join("relay.index"), &self.index)
        }
    }
}

/// A directory that is being restored. Dropped by the last who works on it, it is taken away when it was not there before, and its content
/// when it was empty, unless it is finished.
#[derive(Debug)]
pub struct Unfinished {
    /// `None` when something was in it before.
    directory: Option<PathBuf>,
    was_there: bool,
    finished: AtomicBool,
}

impl Unfinished {
    /// Before anything is written to it.
    pub fn new(directory: &Path) -> Self {
        let entries = std::fs::read_dir(directory).ok();
        let was_there = directory.exists();
        let is_free = entries.is_none_or(|mut entries| entries.next().is_none());
        Self { directory: is_free.then(|| directory.into()), was_there, finished: AtomicBool::new(false) }
    }

    /// It stays.
    pub fn is_finished(&self) {
        self.finished.store(true, Ordering::Relaxed);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(directory) = self.directory.as_ref().filter(|_| !*self.finished.get_mut()) else { return };
        // A server that was killed a moment ago may still make a file.
        for _ in 0..3 {
            if std::fs::remove_dir_all(directory).is_ok() || !directory.exists() {
                break;
            }
        }
        if self.was_there {
            let _ = std::fs::create_dir(directory);
        }
    }
}

/// What is restored, where, and with what.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The moment.
    pub target: &'a Target,
    /// How many of the newest base copies are passed over.
    pub skip: usize,
    /// A directory that is not there, or empty.
    pub data: &'a Path,
    /// Takes the directory away again.
    pub unfinished: &'a Arc<Unfinished>,
    /// In whose folder the server keeps its own files.
    pub turn: &'a Arc<Turn>,
    /// The folder with `mysqld`.
    pub programs: &'a Path,
}

/// Restores from the base copy that [`choose`] chooses into a directory, and leaves a server running on it.
pub async fn restore(
    repository: Repository,
    keys: &Keys,
    wanted: &Wanted<'_>,
    watcher: &Watcher,
) -> Result<(Scratch, Summary), RestoreError> {
    let Wanted { target, skip, data, unfinished, turn, programs } = *wanted;
    let storage = repository.storage.clone();
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000).unwrap_or(u64::MAX);
    let moment = target.clone();
    let into = data.to_owned();
    let held = (turn.clone(), unfinished.clone());
    let _ends = repository.ends_with();
    let (log, own_keys) = (storage.clone(), keys.clone());
    let (copy, description) = blocking(storage.place(), move || {
        // A caller that gives up does not end this thread at once, which writes below the turn's folder and into the directory.
        let _held = held;
        let copies = repository.copies(LABEL)?;
        let (copy, description) = choose(repository.storage.place(), &copies, &moment, now, skip)?;
        let unpacked =
            tokio::runtime::Handle::current().block_on(octets_since(&log, &own_keys, &description))?;
        room(&into, copy.size, unpacked)?;
        repository.fetch(&copy, &into)?;
        Ok::<_, RestoreError>((copy, description))
    })
    .await?;

    let files = |e: std::io::Error| RestoreError::Files(format!("{}: {e}", data.display()));
    // Two servers must not be one.
    let _ = std::fs::remove_file(data.join("auto.cnf"));

    let begin = OffsetDateTime::parse(&description.started, &Rfc3339)
        .map_err(|e| RestoreError::Files(e.to_string()))?;
    let names = catalog::list(&storage, first_day(begin)).await?;
    watcher.begin("reading the log", names.len() as u64, false);
    // A minute for clocks that differ.
    let covered = micros(&description.started).unwrap_or(0).saturating_sub(60_000_000);
    let mut walk = Walk::new(&storage, keys, names, description.gtid_executed.clone(), covered);
    let total = walk.left();
    let mut cut = Cut::new(target, description.gtid_executed.clone());
    let mut relay = Relay::new(data);
    loop {
        let next = match walk.next().await {
            // Beyond the target nothing of it is needed.
            Err(LogError::Gap { .. } | LogError::Segment { .. }) if cut.is_past => None,
            next => next?,
        };
        let Some((name, segment)) = next else { break };
        watcher.set((total - walk.left()) as u64);
        let wrong =
            |error| LogError::Segment { place: storage.place().into(), object: name.to_string(), error };
        for run in cut.take(&segment).map_err(wrong)? {
            relay.add(&segment, &run).map_err(files)?;
        }
    }
    if let Target::Gtid { .. } = target
        && !cut.is_past
    {
        return Err(RestoreError::NoTransaction {
            target: target.to_string(),
            place: storage.place().into(),
            last: walk.have.to_string(),
        });
    }
    relay.finish().map_err(files)?;

    let options = Options {
        programs: programs.into(),
        shape: description.shape.clone(),
        buffer_pool_mib: 256,
        more: vec![
            "--replica-parallel-workers=4".into(),
            // Nobody reads before all of it is there.
            "--replica-preserve-commit-order=OFF".into(),
            "--relay-log-purge=ON".into(),
        ],
    };
    watcher.begin("starting the restored database", 0, false);
    let scratch = options.start(data, &turn.work.join("run")).await?;
    if cut.replayed > 0 {
        apply(&scratch, &description.gtid_executed, &cut.have, watcher).await?;
    }
    watcher.end();
    let summary = Summary {
        base: copy.id.clone(),
        base_time: description.consistent.clone(),
        replayed: cut.replayed,
        restored_to: cut.last.map_or(description.consistent, clock),
        gtid_executed: cut.have,
        not_restored: cut.beyond,
        // The lease alone writes every ten seconds.
        ends_early: matches!(target, Target::Time(wanted) if !cut.is_past && cut.last.unwrap_or(covered) + 60_000_000 < *wanted),
        not_restored_times: cut.beyond_times.map(|(first, last)| (clock(first), clock(last))),
    };
    Ok((scratch, summary))
}

/// The day before: clocks differ, and a segment lies under the day on which it was sent.
fn first_day(begun: OffsetDateTime) -> u32 {
    catalog::day(begun - time::Duration::days(1))
}

/// About how many octets of log follow a base copy, unpacked.
async fn octets_since(
    storage: &Storage,
    keys: &Keys,
    description: &Description,
) -> Result<u64, RestoreError> {
    let begun = OffsetDateTime::parse(&description.started, &Rfc3339)
        .map_err(|e| RestoreError::Files(e.to_string()))?;
    Ok(catalog::octets(storage, keys, first_day(begun)).await?)
}

/// Refuses a restore of so many octets of data and of log that the directory has no room for, with a tenth more for what the server needs.
fn room(into: &Path, data: u64, log: u64) -> Result<(), RestoreError> {
    let above = into.ancestors().find(|p| p.exists()).unwrap_or(into);
    let needed = data.saturating_add(log).saturating_mul(11) / 10;
    match Space::of(above) {
        Ok(Space { free, .. }) if free < needed => Err(RestoreError::Room {
            directory: into.display().to_string(),
            data: bytesize::ByteSize(data),
            log: bytesize::ByteSize(log),
            needed: bytesize::ByteSize(needed),
            free: bytesize::ByteSize(free),
        }),
        _ => Ok(()),
    }
}

/// Lets the server apply its relay logs, until it has `wanted`.
async fn apply(
    scratch: &Scratch,
    from: &GtidSet,
    wanted: &GtidSet,
    watcher: &Watcher,
) -> Result<(), RestoreError> {
    let failed = |e: mysql_async::Error| RestoreError::Mysqld(e.into());
    let mut conn = scratch.connect().await?;
    // Nobody of that name is ever asked: only the applier runs.
    conn.query_drop(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'backup.invalid', SOURCE_AUTO_POSITION = 0, \
         RELAY_LOG_FILE = 'relay.000001', RELAY_LOG_POS = 4 FOR CHANNEL ''",
    )
    .await
    .map_err(failed)?;
    conn.query_drop("START REPLICA SQL_THREAD FOR CHANNEL ''").await.map_err(failed)?;
    let total = wanted.subtract(from).count();
    watcher.begin("applying the log", total, false);
    let mut left = total;
    let mut moved = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let executed = sql::executed(&mut conn).await.map_err(failed)?;
        let now_left = wanted.subtract(&executed).count();
        watcher.set(total - now_left);
        if now_left == 0 {
            break;
        }
        if now_left < left {
            (left, moved) = (now_left, tokio::time::Instant::now());
        }
        let errors: Vec<String> = conn
            .query(
                "SELECT last_error_message FROM performance_schema.replication_applier_status_by_worker \
                 WHERE channel_name = '' AND last_error_number <> 0 \
                 UNION SELECT last_error_message FROM performance_schema.replication_applier_status_by_coordinator \
                 WHERE channel_name = '' AND last_error_number <> 0",
            )
            .await
            .map_err(failed)?;
        if !errors.is_empty() {
            return Err(RestoreError::Apply(errors.join("; ")));
        }
        let has_read_all: Option<u8> = conn.query_first(HAS_READ_ALL).await.map_err(failed)?;
        let longest = if has_read_all.is_some() { DONE } else { STUCK };
        if moved.elapsed() > longest {
            return Err(RestoreError::Apply(format!(
                "nothing was applied for {longest:?}, and these are left: {}. {}",
                wanted.subtract(&executed),
                scratch.said()
            )));
        }
    }
    conn.query_drop("STOP REPLICA FOR CHANNEL ''").await.map_err(failed)?;
    conn.query_drop("RESET REPLICA ALL FOR CHANNEL ''").await.map_err(failed)?;
    Ok(())
}
