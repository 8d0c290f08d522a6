//! Keeping the log: from a member into one repository, for as long as the lease is held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use metrics::counter;
use mysql_async::binlog::events::Event;
use mysql_common::binlog::consts::{BinlogVersion, EventType};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use trivet_keeper_api::gtid::GtidSet;

use super::catalog::{self, LogError, Name};
use super::frame::Transaction;
use super::segment::{Builder, Finished};
use super::source::{self, SILENCE, Source, SourceError};
use crate::config::{Member, Stream};
use crate::history::{self, Fork};
use crate::keys::Keys;
use crate::repository::RepositoryError;
use crate::sql::Access;
use crate::storage::{Storage, StorageError};

/// After a failure, and then twice as long each time up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The primary is asked every second, and has three to answer.
const HEARD: Duration = Duration::from_secs(5);

/// A member is left for another when it has not had for so long what the primary has, at two [`LOOK`]s. The next one stays for [`STAYS`]:
/// all may lag, and no change helps against a slow storage.
const LAG: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(1);
const STAYS: Duration = Duration::from_secs(30);

/// So many segments may be damaged at the end of the log: more is no accident of one write.
const MOST_DAMAGED: usize = 8;

/// A holder of the lease that was cut off may have written on under it for a moment; of older leases what they wrote is in what
/// followed.
const MOST_LEASES: usize = 4;

/// The heartbeat of MySQL 8.0.26 and later, which mysql_common has no name for.
const HEARTBEAT_V2: u8 = 41;

/// Why streaming was interrupted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Nobody to stream from.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The log in the repository.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The repository.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The repository is no longer this group's, or that could not be asked.
    #[error(transparent)]
    History(#[from] RepositoryError),
    /// Somebody else's turn.
    #[error(
        "the log was written under the lease {theirs}, and this is {ours}: another node streams, or the lease's table was made anew (set its \
         token above {theirs})"
    )]
    Fenced {
        /// The highest number in the repository.
        theirs: u64,
        /// Of this lease.
        ours: u64,
    },
    /// What came is not what a member sends.
    #[error("{member}: {reason}")]
    Stream {
        /// The member.
        member: String,
        /// Its trouble.
        reason: String,
    },
}

impl ArchiveError {
    /// The place itself is gone.
    fn is_absent(&self) -> bool {
        match self {
            Self::Storage(e) | Self::Log(LogError::Storage(e)) => matches!(e, StorageError::Absent { .. }),
            _ => false,
        }
    }
}

/// What is known of one repository's log, for status and metrics.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    archived: Option<GtidSet>,
    last_commit: u64,
    member: Option<String>,
    error: Option<String>,
    /// When it was found that nobody has what follows the archive, in seconds since 1970.
    purged_at: Option<i64>,
    /// What the primary had when, as long as it is not archived.
    seen: VecDeque<(Instant, GtidSet)>,
    /// When the primary was asked successfully last, or streaming began; `None` while this node does not stream.
    heard: Option<Instant>,
}

impl State {
    fn behind(&self, now: Instant) -> Option<Duration> {
        let unheard = now.saturating_duration_since(self.heard?);
        let waiting =
            self.seen.front().map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since));
        Some(if unheard > HEARD { waiting.max(unheard) } else { waiting })
    }
}

/// The state of a log, at one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// All transactions in the repository; null until it was read.
    pub archived: Option<GtidSet>,
    /// The latest commit in it, microseconds since 1970; 0 when none was written since the start.
    pub last_commit: u64,
    /// The member it streams from.
    pub member: Option<String>,
    /// Why it does not, when it does not.
    pub error: Option<String>,
    /// For how long the oldest transaction has been waiting that is not in the repository; as long as the primary does not say what it
    /// has, there may be one since it said so last. NaN (null) while this node does not stream.
    pub behind_seconds: f64,
}

impl Progress {
    /// The primary has executed these: they should be in the repository soon.
    pub fn primary_has(&self, executed: GtidSet) {
        let mut state = self.state.lock();
        state.heard = Some(Instant::now());
        let known = state.seen.back().is_some_and(|(_, last)| executed.is_subset(last));
        let archived = state.archived.as_ref().is_some_and(|a| executed.is_subset(a));
        if !known && !archived {
            state.seen.push_back((Instant::now(), executed));
            // Once a second comes one; of a log that is far behind the oldest says enough.
            if state.seen.len() > 4096 {
                state.seen.remove(1);
            }
        }
    }

    /// What the primary has had for [`LAG`], as long as it is not archived.
    fn expected(&self, now: Instant) -> GtidSet {
        let state = self.state.lock();
        let old = state.seen.iter().take_while(|(since, _)| now.saturating_duration_since(*since) > LAG);
        old.last().map(|(_, set)| set.clone()).unwrap_or_default()
    }

    /// The state now.
    pub fn report(&self) -> Report {
        let state = self.state.lock();
        Report {
            archived: state.archived.clone(),
            last_commit: state.last_commit,
            member: state.member.clone(),
            error: state.error.clone(),
            behind_seconds: state.behind(Instant::now()).map_or(f64::NAN, |d| d.as_secs_f64()),
        }
    }

    /// This node begins to stream, or ends.
    pub fn is_streaming(&self, streams: bool) {
        let mut state = self.state.lock();
        state.heard = streams.then(Instant::now);
        state.seen.clear();
    }

    fn archived(&self, set: GtidSet, last_commit: u64) {
        let mut state = self.state.lock();
        while state.seen.front().is_some_and(|(_, seen)| seen.is_subset(&set)) {
            state.seen.pop_front();
        }
        state.archived = Some(set);
        state.last_commit = state.last_commit.max(last_commit);
    }

    /// When it was found that nobody has what follows the archive, in seconds since 1970; `None` while the log goes on.
    pub fn purged_at(&self) -> Option<i64> {
        self.state.lock().purged_at
    }

    fn streams_from(&self, member: Option<&str>, error: Option<String>) {
        let mut state = self.state.lock();
        if member.is_some() {
            state.purged_at = None;
        }
        state.member = member.map(str::to_owned);
        state.error = error;
    }
}

/// The log of one repository.
pub struct Archive {
    /// The repository's name, for metrics and messages.
    pub repository: String,
    /// The repository's id, as in its `trivet.json`.
    pub id: String,
    /// Where it lies.
    pub storage: Storage,
    /// What it is sealed with.
    pub keys: Keys,
    /// How members are reached.
    pub access: Access,
    /// The members, in the order in which they are asked.
    pub members: Vec<Member>,
    /// When a segment is sent.
    pub limits: Stream,
    /// The fencing number of the lease this is done under.
    pub token: u64,
    /// Tells this stream apart from others of the same cluster.
    pub number: u32,
    /// What the last base copy has: a log that is begun begins there, if a member still has what followed.
    pub begin_after: Option<GtidSet>,
    /// What is known of it.
    pub progress: Arc<Progress>,
}

impl Archive {
    /// Streams until `stop`. Every trouble is told once, and tried again. On a stop what has come is still sent, when `may_finish`
    /// is not cancelled as well: a lease that is lost lets nobody write. Returns before that when the storage is absent, when all members
    /// have purged what follows the archive (it can go on after a base copy, of which there may be a newer one than `begin_after`), and when the
    /// repository is no longer the group's.
    pub async fn run(mut self, stop: CancellationToken, may_finish: CancellationToken) {
        let mut pause = PAUSE.0;
        let mut told = String::new();
        let mut number = 0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let Err(error) = self.stream(&mut number, &stop, &may_finish).await else { return };
            let is_purged = matches!(error, ArchiveError::Source(SourceError::Purged { .. }));
            let is_another = matches!(
                error,
                ArchiveError::History(
                    RepositoryError::OtherHistory { .. } | RepositoryError::Vanished { .. }
                )
            );
            let is_absent = error.is_absent();
            let error = error.to_string();
            counter!("trivet_backup_failures_total", "what" => "log", "repository" => self.repository.clone()).increment(1);
            if error == told {
                tracing::debug!(repository = self.repository, error, "the binary log is not archived");
            } else {
                tracing::warn!(
                    repository = self.repository,
                    error,
                    "the binary log is not archived; it is tried again"
                );
                told.clone_from(&error);
            }
            self.progress.streams_from(None, Some(error));
            if is_another {
                return;
            }
            if is_purged {
                self.progress
                    .state
                    .lock()
                    .purged_at
                    .get_or_insert_with(|| OffsetDateTime::now_utc().unix_timestamp());
                return;
            }
            // It may come back as another file system: whoever called opens it anew.
            if is_absent {
                return;
            }
            // The next one is asked first: this one may be in trouble that it does not know of.
            self.members.rotate_left(1);
            if began.elapsed() > PAUSE.1 {
                pause = PAUSE.0;
            }
            tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => return }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn stream(
        &self,
        number: &mut u64,
        stop: &CancellationToken,
        may_finish: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        // Each time: since the last connection the group may have been formed anew.
        let forks = history::ask(&self.access, &self.repository, &self.storage, &self.id).await?;
        if !forks.is_empty() {
            self.goes_on_from(&forks).await?;
        }
        let archived = self.resume(number).await?;
        let expected = self.progress.expected(Instant::now());
        let open = |after| source::open(&self.access, &self.members, after, &expected, self.number);
        let base = self.begin_after.as_ref();
        let (source, archived) = match (open(archived.as_ref().or(base)).await, &archived, base) {
            (Ok(source), _, _) => (source, archived.or_else(|| self.begin_after.clone())),
            // What is between the archive and the base copy is lost to the log: restores begin with the copy.
            (Err(SourceError::Purged { missing }), Some(had), Some(base))
                if had != base && had.is_subset(base) =>
            {
                tracing::error!(repository = self.repository, %missing, "the binary log has a gap; it goes on after the last base copy");
                (open(Some(base)).await?, Some(base.clone()))
            }
            // No log is there, so that no chain breaks: it begins now, and the next base copy is the first with a log.
            (Err(SourceError::Purged { .. }), None, _) => (open(None).await?, None),
            (Err(e), _, _) => return Err(e.into()),
        };
        let from = archived.unwrap_or_else(|| source.executed.clone());
        tracing::info!(repository = self.repository, member = source.member, after = %from, "the binary log is streamed");
        self.progress.archived(from.clone(), 0);
        self.progress.streams_from(Some(&source.member), None);
        Pump {
            archive: self,
            source,
            from,
            number,
            assembling: None,
            after_payload: false,
            builder: None,
            since: None,
            sending: None,
        }
        .run(stop, may_finish)
        .await
    }

    /// Refuses a log that has what the group gave up: its numbers come again, and would seem to be there already.
    async fn goes_on_from(&self, forks: &[Fork]) -> Result<(), ArchiveError> {
        let mut lasts = catalog::newest(&self.storage).await?;
        // Names sort by the lease first: what stays is the last of each.
        lasts.dedup_by_key(|name| name.token);
        for name in lasts.iter().take(MOST_LEASES) {
            match catalog::read(&self.storage, &self.keys, name).await {
                Ok((_, has)) => history::unbroken(&self.repository, self.storage.place(), [&has], forks)?,
                // What else it may say is not known; it is told when the log is resumed.
                Err(LogError::Segment { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// All transactions that are in the repository; `None` when there is no log yet. `number` is set to that of the last segment under
    /// this lease.
    pub(crate) async fn resume(&self, number: &mut u64) -> Result<Option<GtidSet>, ArchiveError> {
        let newest_first = catalog::newest(&self.storage).await?;
        let Some(last) = newest_first.first() else { return Ok(None) };
        if last.token > self.token {
            return Err(ArchiveError::Fenced { theirs: last.token, ours: self.token });
        }
        if last.token == self.token {
            *number = (*number).max(last.number);
        }
        let mut damaged = None;
        for name in newest_first.iter().take(MOST_DAMAGED) {
            match catalog::read(&self.storage, &self.keys, name).await {
                Ok((_, after)) => return Ok(Some(after)),
                // Members still have what was in it: it is streamed once more.
                Err(error @ LogError::Segment { .. }) => {
                    tracing::error!(repository = self.repository, %error, "a segment cannot be read; the log goes on before it");
                    damaged.get_or_insert(error);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(damaged.map_or_else(|| ArchiveError::Fenced { theirs: last.token, ours: self.token }, Into::into))
    }
}

/// One connection's life.
struct Pump<'a> {
    archive: &'a Archive,
    source: Source,
    from: GtidSet,
    number: &'a mut u64,
    /// The transaction that is coming in.
    assembling: Option<(Transaction, Vec<u8>)>,
    /// What follows a compressed transaction is its content once more, unpacked.
    after_payload: bool,
    /// None until the format is known.
    builder: Option<Builder>,
    /// When the first transaction came that is not sent.
    since: Option<Instant>,
    sending: Option<JoinHandle<Result<Sent, StorageError>>>,
}

struct Sent {
    after: GtidSet,
    last_commit: u64,
}

impl Pump<'_> {
    async fn run(
        mut self,
        stop: &CancellationToken,
        may_finish: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        let outcome = self.pump(stop, may_finish).await;
        if outcome.is_err() {
            // What is under way is whole or not at all; the next connection reads which.
            if let Some(sending) = self.sending.take() {
                let _ = sending.await;
            }
            return outcome;
        }
        if !may_finish.is_cancelled() {
            self.sent().await?;
            if self.builder.as_ref().is_some_and(|b| !b.is_empty()) {
                self.send()?;
                self.sent().await?;
            }
        }
        outcome
    }

    async fn pump(
        &mut self,
        stop: &CancellationToken,
        may_finish: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        let limits = &self.archive.limits;
        let largest = usize::try_from(limits.segment_size.as_u64()).unwrap_or(usize::MAX);
        let mut heard = Instant::now();
        let is_behind = !self.archive.progress.expected(Instant::now()).is_subset(&self.from);
        let (mut next_look, mut lags) = (Instant::now() + if is_behind { STAYS } else { LOOK }, false);
        loop {
            let size = self.builder.as_ref().map_or(0, Builder::size);
            let due = self.since.map(|since| since + limits.flush_interval);
            let is_full = size >= largest;
            if self.sending.is_none() && (is_full || due.is_some_and(|due| due <= Instant::now())) {
                self.send()?;
                continue;
            }
            let waits_for = if self.sending.is_none() { due } else { None };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = may_finish.cancelled() => return Ok(()),
                sent = joined(&mut self.sending), if self.sending.is_some() => {
                    self.sending = None;
                    self.note(sent)?;
                }
                () = until(waits_for), if waits_for.is_some() => {}
                // A full segment that cannot be sent yet holds the stream up: memory is bounded.
                event = self.source.stream.next(), if !is_full => {
                    heard = Instant::now();
                    match event {
                        Some(Ok(event)) => self.take(&event)?,
                        Some(Err(e)) => return Err(self.broken(e)),
                        None => return Err(self.broken("it has ended the stream")),
                    }
                }
                () = tokio::time::sleep_until(heard + SILENCE), if !is_full => {
                    return Err(self.broken(format_args!("it has been silent for {SILENCE:?}")));
                }
            }
            if is_full {
                heard = Instant::now();
            } else if next_look <= Instant::now() {
                next_look = Instant::now() + LOOK;
                let has = self.builder.as_ref().map_or(&self.from, Builder::after);
                let has_caught_up = self.source.executed.is_subset(has);
                let lagged = std::mem::replace(
                    &mut lags,
                    has_caught_up && !self.archive.progress.expected(Instant::now()).is_subset(has),
                );
                if lagged && lags {
                    return Err(self.broken(format_args!(
                        "for {LAG:?} it has not had what the primary has; another one is asked"
                    )));
                }
            }
        }
    }

    fn broken(&self, reason: impl std::fmt::Display) -> ArchiveError {
        ArchiveError::Stream { member: self.source.member.clone(), reason: reason.to_string() }
    }

    /// One event of the stream.
    fn take(&mut self, event: &Event) -> Result<(), ArchiveError> {
        let kind = event.header().event_type_raw();
        let mut octets = Vec::new();
        event.write(BinlogVersion::Version4, &mut octets).map_err(|e| self.broken(e))?;
        if kind == EventType::FORMAT_DESCRIPTION_EVENT as u8 {
            return self.format(&octets);
        }
        if kind == HEARTBEAT_V2
            || [
                EventType::HEARTBEAT_EVENT,
                EventType::ROTATE_EVENT,
                EventType::PREVIOUS_GTIDS_EVENT,
                EventType::STOP_EVENT,
            ]
            .iter()
            .any(|k| *k as u8 == kind)
        {
            return match &self.assembling {
                None => Ok(()),
                // Whatever it is, it is no part of a transaction, and a member sends whole ones.
                Some(_) if kind == HEARTBEAT_V2 || kind == EventType::HEARTBEAT_EVENT as u8 => Ok(()),
                Some((t, _)) => {
                    Err(self.broken(format_args!("transaction {}:{} was cut short", t.uuid, t.number)))
                }
            };
        }
        let begins = Transaction::of(event.fde(), &octets).map_err(|e| self.broken(e))?;
        match (&mut self.assembling, begins) {
            (None, Some(transaction)) => {
                self.after_payload = false;
                self.assembling = Some((transaction, octets));
            }
            (Some((t, _)), Some(_)) => {
                let reason = format!("transaction {}:{} was cut short by the next", t.uuid, t.number);
                return Err(self.broken(reason));
            }
            (Some((_, events)), None) => events.extend_from_slice(&octets),
            (None, None) if self.after_payload => return Ok(()),
            (None, None) => {
                return Err(self.broken(format_args!("an event of kind {kind} is part of no transaction")));
            }
        }
        let Some((transaction, events)) = &self.assembling else { return Ok(()) };
        let (has, of) = (events.len() as u64, transaction.length);
        if has > of {
            let reason = format!(
                "transaction {}:{} is longer than it says: {has} octets, not {of}",
                transaction.uuid, transaction.number
            );
            return Err(self.broken(reason));
        }
        if has == of {
            self.after_payload = kind == EventType::TRANSACTION_PAYLOAD_EVENT as u8;
            let Some((transaction, events)) = self.assembling.take() else { return Ok(()) };
            let Some(builder) = &mut self.builder else {
                return Err(self.broken("it has not told its format"));
            };
            builder.add(&transaction, &events);
            if !builder.is_empty() {
                self.since.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// The format of what follows. A member tells it at every file's head; a segment has one.
    fn format(&mut self, octets: &[u8]) -> Result<(), ArchiveError> {
        if self.builder.as_ref().is_some_and(|b| b.has_format(octets)) {
            return Ok(());
        }
        if self.builder.as_ref().is_some_and(|b| !b.is_empty()) {
            return Err(self.broken("it was upgraded in the middle of a stream"));
        }
        let before = self.builder.as_ref().map_or_else(|| self.from.clone(), |b| b.after().clone());
        let builder = Builder::new(octets, before).map_err(|e| self.broken(e))?;
        self.builder = Some(builder);
        Ok(())
    }

    /// Begins to send what has come.
    fn send(&mut self) -> Result<(), ArchiveError> {
        self.since = None;
        let finished = match self.builder.as_mut().map(Builder::finish) {
            Some(Ok(finished)) => finished,
            Some(Err(e)) => return Err(self.broken(e)),
            None => return Ok(()),
        };
        *self.number += 1;
        let name = Name {
            token: self.archive.token,
            number: *self.number,
            first: finished.times.0,
            last: finished.times.1,
            day: catalog::day(OffsetDateTime::now_utc()),
        };
        let (storage, keys, repository) =
            (self.archive.storage.clone(), self.archive.keys.clone(), self.archive.repository.clone());
        self.sending = Some(tokio::spawn(send(storage, keys, repository, name, finished)));
        Ok(())
    }

    /// Waits for what is being sent.
    async fn sent(&mut self) -> Result<(), ArchiveError> {
        if self.sending.is_some() {
            let sent = joined(&mut self.sending).await;
            self.sending = None;
            self.note(sent)?;
        }
        Ok(())
    }

    fn note(&mut self, sent: Result<Sent, StorageError>) -> Result<(), ArchiveError> {
        let sent = sent?;
        self.archive.progress.archived(sent.after, sent.last_commit);
        Ok(())
    }
}

async fn send(
    storage: Storage,
    keys: Keys,
    repository: String,
    name: Name,
    finished: Finished,
) -> Result<Sent, StorageError> {
    let transactions = finished.transactions;
    let (sealed, after) =
        tokio::task::spawn_blocking(move || (finished.seal(&keys), finished.after))
            .await
            .map_err(|e| StorageError::Failed { place: storage.place().into(), reason: e.to_string() })?;
    let sealed =
        sealed.map_err(|e| StorageError::Failed { place: storage.place().into(), reason: e.to_string() })?;
    let octets = sealed.len() as u64;
    storage.write(&name.to_string(), sealed).await?;
    counter!("trivet_backup_log_segments_total", "repository" => repository.clone()).increment(1);
    counter!("trivet_backup_log_transactions_total", "repository" => repository.clone())
        .increment(transactions);
    counter!("trivet_backup_log_octets_total", "repository" => repository).increment(octets);
    Ok(Sent { after, last_commit: name.last })
}

async fn joined(sending: &mut Option<JoinHandle<Result<Sent, StorageError>>>) -> Result<Sent, StorageError> {
    match sending {
        Some(task) => task.await.unwrap_or_else(|e| {
            Err(StorageError::Failed { place: "the task that sends a segment".into(), reason: e.to_string() })
        }),
        None => std::future::pending().await,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use super::*;
    use crate::config::Mysql;
    use crate::log::tests::{sealed, set};

    /// An archive in memory, of a group whose primary answers at `primary`.
    fn archive(keys: &Keys, primary: SocketAddr) -> Archive {
        let mysql: Mysql = serde_json::from_value(serde_json::json!({
            "password_file": "/password", "ca": "/ca.pem", "primary": primary,
            "members": [{"name": "node1", "address": primary}],
        }))
        .unwrap();
        Archive {
            repository: "main".into(),
            id: "a".into(),
            storage: Storage::in_memory("main"),
            keys: keys.clone(),
            access: Access::new(&mysql, "secret".into()),
            members: mysql.members,
            limits: Stream::default(),
            token: 7,
            number: 0,
            begin_after: None,
            progress: Arc::default(),
        }
    }

    fn nobody() -> SocketAddr {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn the_history_is_asked_for_before_every_connection() {
        let archive = archive(&Keys::generate(), nobody());
        let never = CancellationToken::new();
        for _ in 0..2 {
            let outcome = archive.stream(&mut 0, &never, &never).await;
            let Err(ArchiveError::History(RepositoryError::Unknown { .. })) = outcome else {
                panic!("{:?}", outcome.err());
            };
        }
    }

    #[tokio::test]
    async fn a_log_with_what_the_group_gave_up_is_not_gone_on_with() {
        let keys = Keys::generate();
        let archive = archive(&keys, nobody());
        // Under the lease before the last, somebody who was cut off wrote on.
        for (token, numbers) in [(1, 1..=4), (2, 5..=12), (3, 5..=9)] {
            let name = Name { token, number: 1, first: 0, last: numbers.end() * 1_000_000, day: 20_260_102 };
            let before = if token == 1 { "" } else { "1-4" };
            archive.storage.write(&name.to_string(), sealed(&keys, before, numbers)).await.unwrap();
        }
        let fork = |gtids| Fork { mark: "11111111-0000-0000-0000-000000000000".into(), gtids: set(gtids) };
        archive.goes_on_from(&[fork("1-12")]).await.unwrap();
        let refused = archive.goes_on_from(&[fork("1-9")]).await;
        let Err(ArchiveError::History(RepositoryError::GivenUp { given_up, .. })) = refused else {
            panic!("{:?}", refused.err());
        };
        assert_eq!(given_up, set("10-12"));
    }

    #[test]
    fn a_primary_that_does_not_say_what_it_has_is_not_taken_for_one_that_has_nothing_new() {
        let set =
            |text: &str| format!("6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001:{text}").parse::<GtidSet>().unwrap();
        let progress = Progress::default();
        assert!(progress.report().behind_seconds.is_nan(), "this node does not stream");
        progress.is_streaming(true);
        progress.archived(set("1-5"), 0);
        progress.primary_has(set("1-5"));
        let behind = |after| progress.state.lock().behind(Instant::now() + Duration::from_secs(after));
        assert_eq!(behind(1), Some(Duration::ZERO), "all is archived, and it was asked a moment ago");
        assert!(behind(60) >= Some(Duration::from_secs(60)), "nobody has heard of it for a minute");
        progress.primary_has(set("1-6"));
        assert!(behind(1) >= Some(Duration::from_secs(1)), "the sixth waits");
        let expected = |after| progress.expected(Instant::now() + after);
        assert!(expected(LAG / 2).is_empty(), "a member may take a moment to have it");
        assert_eq!(expected(LAG + LOOK), set("1-6"));
        progress.archived(set("1-6"), 0);
        assert_eq!(behind(1), Some(Duration::ZERO));
        progress.is_streaming(false);
        assert!(progress.report().behind_seconds.is_nan());
    }
}
