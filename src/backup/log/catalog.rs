//! Which segments there are, and in which order.
//!
//! `log/20260102/0000000007-0000000042-1767323040123456-1767323042123456.binlog.zst.age`: the day on which it was written, the fencing
//! number of the lease it was written under, its number under that lease, the first and the last commit in it in microseconds since
//! 1970. The names sort as the log goes on.

use std::fmt;

use time::OffsetDateTime;

use trivet_keeper_api::gtid::GtidSet;

use super::segment::{Segment, SegmentError};
use crate::keys::Keys;
use crate::storage::{Storage, StorageError};

/// The folder of the log in a storage.
pub const FOLDER: &str = "log/";

const ENDING: &str = ".binlog.zst.age";

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

/// The last segment, if there is any: where whoever goes on has to begin.
pub async fn last(storage: &Storage) -> Result<Option<Name>, StorageError> {
    let mut found: Option<Name> = None;
    // Clocks differ, so that a later segment may lie in an earlier day's folder: the one before the last is looked at, too.
    for folder in storage.folders(FOLDER).await?.iter().rev().take(2) {
        let objects = storage.list(&format!("{FOLDER}{folder}/")).await?;
        found = found.max(objects.iter().filter_map(|o| Name::parse(&o.path)).max());
    }
    Ok(found)
}

/// Reads one segment.
pub async fn read(storage: &Storage, keys: &Keys, name: &Name) -> Result<Segment, LogError> {
    let object = name.to_string();
    let sealed = storage.read(&object).await?;
    let wrong = |error| LogError::Segment { place: storage.place().into(), object: object.clone(), error };
    Segment::open(&sealed, keys).map_err(wrong)
}

/// Walks over the log from what `have` holds, and says of each segment what it adds.
pub struct Walk<'a> {
    storage: &'a Storage,
    keys: &'a Keys,
    names: std::vec::IntoIter<Name>,
    /// All transactions up to where the walk is.
    pub have: GtidSet,
}

impl<'a> Walk<'a> {
    /// `names` in order; those whose transactions are all in `have` are passed over.
    pub fn new(storage: &'a Storage, keys: &'a Keys, names: Vec<Name>, have: GtidSet) -> Self {
        Self { storage, keys, names: names.into_iter(), have }
    }

    /// The next segment that has something new, and its name. A gap before it is an error.
    pub async fn next(&mut self) -> Result<Option<(Name, Segment)>, LogError> {
        for name in self.names.by_ref() {
            let segment = read(self.storage, self.keys, &name).await?;
            let wrong = |error| LogError::Segment {
                place: self.storage.place().into(),
                object: name.to_string(),
                error,
            };
            let after = segment.after().map_err(wrong)?;
            if after.is_subset(&self.have) {
                continue;
            }
            let missing = segment.before().subtract(&self.have);
            if !missing.is_empty() {
                return Err(LogError::Gap {
                    place: self.storage.place().into(),
                    object: name.to_string(),
                    missing,
                });
            }
            return Ok(Some((name, segment)));
        }
        Ok(None)
    }

    /// How many segments are left, at most.
    pub fn left(&self) -> usize {
        self.names.len()
    }
}
