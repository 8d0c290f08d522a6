//! Which segments there are, and in which order.
//!
//! `log/20260102/0000000007-0000000042-1767323040123456-1767323042123456.binlog.zst.age`: the day on which it was written, the fencing
//! number of the lease it was written under, its number under that lease, the first and the last commit in it in microseconds since
//! 1970. The names sort as the log goes on.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use trivet_keeper_api::gtid::GtidSet;

use super::segment::{Segment, SegmentError};
use crate::keys::Keys;
use crate::storage::{Storage, StorageError};

/// The folder of the log in a storage.
pub const FOLDER: &str = "log/";

const ENDING: &str = ".binlog.zst.age";

/// So many segments are read at once: the way to a storage is long, and each of them may be as large as `stream.segment_size`.
const AHEAD: usize = 4;

/// By so many segments is estimated what all are unpacked: at most 16 MiB each, unless a transaction is larger.
const SAMPLES: usize = 4;

/// Why the log could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The storage's trouble.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// One segment is not as it was written.
    #[error("{place}: {object}: {error}")]
    Segment {
        /// The repository and where it is.
        place: String,
        /// The segment's path.
        object: String,
        /// What is wrong.
        error: SegmentError,
    },
    /// The chain is broken.
    #[error(
        "{place}: the log has a gap: {missing} are missing before {object}. A restore can go no further than to what was before it, or \
         begin with a base copy that has them"
    )]
    Gap {
        /// The repository and where it is.
        place: String,
        /// The first segment after the gap.
        object: String,
        /// The transactions that nothing has.
        missing: GtidSet,
    },
}

/// The name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The fencing number of the lease.
    pub token: u64,
    /// Counted from 1 under each lease.
    pub number: u64,
    /// First commit, microseconds since 1970.
    pub first: u64,
    /// Last commit, microseconds since 1970.
    pub last: u64,
    /// The day in whose folder it is, `20260102`.
    pub day: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, number, first, last, day } = self;
        write!(f, "{FOLDER}{day:08}/{token:010}-{number:010}-{first}-{last}{ENDING}")
    }
}

impl Name {
    /// Reads a path; `None` when it is none of ours.
    pub fn parse(path: &str) -> Option<Self> {
        let (day, name) = path.strip_prefix(FOLDER)?.strip_suffix(ENDING)?.split_once('/')?;
        let mut parts = name.split('-').map(|p| p.parse().ok());
        let name = Self {
            day: day.parse().ok()?,
            token: parts.next()??,
            number: parts.next()??,
            first: parts.next()??,
            last: parts.next()??,
        };
        parts.next().is_none().then_some(name)
    }
}

/// The folder for what is written now.
pub fn day(now: OffsetDateTime) -> u32 {
    let date = now.to_offset(time::UtcOffset::UTC).date();
    u32::try_from(date.year()).unwrap_or(0) * 10_000
        + u32::from(u8::from(date.month())) * 100
        + u32::from(date.day())
}

/// All segments from a day on (`20260102`), in order.
pub async fn list(storage: &Storage, from: u32) -> Result<Vec<Name>, StorageError> {
    let mut names = Vec::new();
    for folder in storage.folders(FOLDER).await? {
        if folder.parse::<u32>().is_ok_and(|day| day >= from) {
            let objects = storage.list(&format!("{FOLDER}{folder}/")).await?;
            names.extend(objects.iter().filter_map(|o| Name::parse(&o.path)));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Octets of all segments from a day on, unpacked. An estimate: by the [`SAMPLES`] largest of them, because none tells its size without
/// being read. As many as they have in the storage when none of those can be read.
pub async fn octets(storage: &Storage, keys: &Keys, from: u32) -> Result<u64, LogError> {
    let mut sum: u64 = 0;
    let mut largest: Vec<(u64, Name)> = Vec::new();
    for folder in storage.folders(FOLDER).await? {
        if folder.parse::<u32>().is_ok_and(|day| day >= from) {
            let objects = storage.list(&format!("{FOLDER}{folder}/")).await?;
            sum += objects.iter().map(|o| o.size).sum::<u64>();
            largest.extend(objects.iter().filter_map(|o| Some((o.size, Name::parse(&o.path)?))));
            largest.sort_unstable_by(|a, b| b.cmp(a));
            largest.truncate(SAMPLES);
        }
    }
    let (mut packed, mut unpacked) = (0, 0);
    for (size, name) in &largest {
        match read(storage, keys, name).await {
            Ok((segment, _)) => (packed, unpacked) = (packed + size, unpacked + segment.size()),
            // Whether it is needed, the restore finds out.
            Err(LogError::Segment { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    if packed == 0 {
        return Ok(sum);
    }
    let estimate = u128::from(sum) * u128::from(unpacked) / u128::from(packed);
    Ok(u64::try_from(estimate).unwrap_or(u64::MAX))
}

/// The last segments, the newest first: where whoever goes on has to begin. Of the last two days on which there are any: clocks differ, so
/// that a later segment may lie in an earlier day's folder.
pub async fn newest(storage: &Storage) -> Result<Vec<Name>, StorageError> {
    let mut found = Vec::new();
    for folder in storage.folders(FOLDER).await?.iter().rev().take(2) {
        let objects = storage.list(&format!("{FOLDER}{folder}/")).await?;
        found.extend(objects.iter().filter_map(|o| Name::parse(&o.path)));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The last segment, if there is any.
pub async fn last(storage: &Storage) -> Result<Option<Name>, StorageError> {
    Ok(newest(storage).await?.first().copied())
}

fn damaged(storage: &Storage, name: &Name, error: SegmentError) -> LogError {
    LogError::Segment { place: storage.place().into(), object: name.to_string(), error }
}

/// Reads one segment, and all transactions up to its end.
pub async fn read(storage: &Storage, keys: &Keys, name: &Name) -> Result<(Segment, GtidSet), LogError> {
    let sealed = storage.read(&name.to_string()).await?;
    opened(storage, keys, name, &sealed)
}

fn opened(
    storage: &Storage,
    keys: &Keys,
    name: &Name,
    sealed: &[u8],
) -> Result<(Segment, GtidSet), LogError> {
    let wrong = |error| damaged(storage, name, error);
    let segment = Segment::open(sealed, keys).map_err(wrong)?;
    let after = segment.after().map_err(wrong)?;
    Ok((segment, after))
}

/// Walks over the log from what `have` holds, and says of each segment what it adds.
///
/// Segments overlap where a holder of the lease went on while another began, and need not stand in the order in which they follow one
/// another. So one that does not connect yet is set aside, and so is one that cannot be read: it is missed only when nothing else has
/// what was in it.
pub struct Walk<'a> {
    storage: &'a Storage,
    keys: &'a Keys,
    names: std::vec::IntoIter<Name>,
    /// Read from the storage already, or just being read.
    ahead: VecDeque<(Name, Reading)>,
    /// What is older is in `have` as a whole, microseconds since 1970.
    covered: u64,
    aside: Vec<Aside>,
    unreadable: Option<LogError>,
    /// All transactions up to the end of the last segment.
    pub have: GtidSet,
}

/// Ends with whoever wants it.
struct Reading(JoinHandle<Result<Bytes, StorageError>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Aside {
    name: Name,
    before: GtidSet,
    after: GtidSet,
}

impl<'a> Walk<'a> {
    /// `names` in order; those whose transactions are all in `have` are passed over. Everything that was committed before `covered` is in
    /// `have`.
    pub fn new(storage: &'a Storage, keys: &'a Keys, names: Vec<Name>, have: GtidSet, covered: u64) -> Self {
        Self {
            storage,
            keys,
            names: names.into_iter(),
            ahead: VecDeque::new(),
            covered,
            aside: Vec::new(),
            unreadable: None,
            have,
        }
    }

    /// The next segment that has something new, and its name. At the end: what could not be read, or a gap, is an error.
    pub async fn next(&mut self) -> Result<Option<(Name, Segment)>, LogError> {
        loop {
            self.aside.retain(|aside| !aside.after.is_subset(&self.have));
            if let Some(at) = self.aside.iter().position(|aside| aside.before.is_subset(&self.have)) {
                let Aside { name, after, .. } = self.aside.remove(at);
                let (segment, _) = read(self.storage, self.keys, &name).await?;
                self.have = self.have.union(&after);
                return Ok(Some((name, segment)));
            }
            let Some((name, sealed)) = self.sealed().await else { break };
            let read = sealed
                .map_err(LogError::from)
                .and_then(|sealed| opened(self.storage, self.keys, &name, &sealed));
            let (segment, after) = match read {
                Ok(read) => read,
                Err(error @ LogError::Segment { .. }) => {
                    if name.last >= self.covered {
                        self.unreadable.get_or_insert(error);
                    }
                    continue;
                }
                // Taken away since it was listed, because it is not needed.
                Err(LogError::Storage(e)) if e.is_no_object() => continue,
                Err(e) => return Err(e),
            };
            if after.is_subset(&self.have) {
                continue;
            }
            if segment.before().is_subset(&self.have) {
                self.have = self.have.union(&after);
                return Ok(Some((name, segment)));
            }
            self.aside.push(Aside { name, before: segment.before().clone(), after });
        }
        if let Some(error) = self.unreadable.take() {
            return Err(error);
        }
        match self.aside.first() {
            None => Ok(None),
            Some(Aside { name, before, .. }) => Err(LogError::Gap {
                place: self.storage.place().into(),
                object: name.to_string(),
                missing: before.subtract(&self.have),
            }),
        }
    }

    /// The next object, while those after it are read.
    async fn sealed(&mut self) -> Option<(Name, Result<Bytes, StorageError>)> {
        while self.ahead.len() < AHEAD
            && let Some(name) = self.names.next()
        {
            let storage = self.storage.clone();
            let reading = tokio::spawn(async move { storage.read(&name.to_string()).await });
            self.ahead.push_back((name, Reading(reading)));
        }
        let (name, mut reading) = self.ahead.pop_front()?;
        let read = (&mut reading.0).await.unwrap_or_else(|e| {
            Err(StorageError::Failed { place: self.storage.place().into(), reason: e.to_string() })
        });
        Some((name, read))
    }

    /// How many segments are left, at most.
    pub fn left(&self) -> usize {
        self.names.len() + self.ahead.len()
    }
}
