//! A segment: a piece of the binary log that stands in the storage as one object.
//!
//! Opened (`age --decrypt | zstd --decompress`) it is a binary log as MySQL writes them, from its first octets over the format and the
//! transactions that came before to whole transactions, so that `mysqlbinlog` reads it.

use std::io;

use bytes::Bytes;
use mysql_common::binlog::events::FormatDescriptionEvent;

use trivet_keeper_api::gtid::GtidSet;

use super::frame::{self, Transaction};
use crate::keys::{Keys, SealError};

/// zstd's default.
const LEVEL: i32 = 3;

/// The largest that a segment may be when it is unpacked: one transaction may be larger than a segment should be, and no larger than
/// Group Replication lets it be (`group_replication_transaction_size_limit`, 2 GiB at most).
const LARGEST: usize = 3 << 30;

/// Why a segment could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SegmentError {
    /// Another key, or altered.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It opened, and is no binary log.
    #[error("it holds no binary log as it should: {0}")]
    Content(String),
}

impl From<io::Error> for SegmentError {
    fn from(e: io::Error) -> Self {
        Self::Content(e.to_string())
    }
}

/// A segment while transactions are added.
#[derive(Debug)]
pub struct Builder {
    format: Vec<u8>,
    parsed: FormatDescriptionEvent<'static>,
    before: GtidSet,
    after: GtidSet,
    content: Vec<u8>,
    first: u64,
    last: u64,
    transactions: u64,
}

/// What is to be written.
#[derive(Debug)]
pub struct Finished {
    /// All transactions up to the end of this segment.
    pub after: GtidSet,
    /// The earliest and the latest commit in it, microseconds since 1970.
    pub times: (u64, u64),
    /// How many transactions it has.
    pub transactions: u64,
    /// The plain binary log.
    pub log: Vec<u8>,
}

impl Builder {
    /// After `before`, in the format that the server has told by its format description event.
    pub fn new(format: &[u8], before: GtidSet) -> io::Result<Self> {
        let parsed = frame::format(format)?;
        let after = before.clone();
        Ok(Self {
            format: format.into(),
            parsed,
            before,
            after,
            content: Vec::new(),
            first: u64::MAX,
            last: 0,
            transactions: 0,
        })
    }

    /// A transaction's events, as they came. One that is there already is passed over.
    pub fn add(&mut self, transaction: &Transaction, events: &[u8]) {
        if self.after.contains(&transaction.uuid, &transaction.tag, transaction.number) {
            return;
        }
        self.after.insert(&transaction.uuid, &transaction.tag, transaction.number);
        self.content.extend_from_slice(events);
        self.first = self.first.min(transaction.committed);
        self.last = self.last.max(transaction.committed);
        self.transactions += 1;
    }

    /// No transaction was added.
    pub fn is_empty(&self) -> bool {
        self.transactions == 0
    }

    /// Whether a format description event reads events as the segment's own does.
    pub fn has_format(&self, event: &[u8]) -> bool {
        frame::format(event).is_ok_and(|other| frame::same_format(&self.parsed, &other))
    }

    /// Octets of the transactions.
    pub fn size(&self) -> usize {
        self.content.len()
    }

    /// All transactions up to here.
    pub fn after(&self) -> &GtidSet {
        &self.after
    }

    /// The segment, and in its place one that follows it.
    pub fn finish(&mut self) -> io::Result<Finished> {
        let previous = frame::previous_gtids_event(&self.parsed, &self.before)?;
        let mut log = Vec::with_capacity(4 + self.format.len() + previous.len() + self.content.len());
        log.extend_from_slice(&frame::MAGIC);
        log.extend_from_slice(&self.format);
        log.extend_from_slice(&previous);
        // Its room goes with it: one large transaction is no reason to keep as much for ever.
        log.append(&mut std::mem::take(&mut self.content));
        let finished = Finished {
            after: self.after.clone(),
            times: (self.first, self.last),
            transactions: self.transactions,
            log,
        };
        self.before = self.after.clone();
        (self.first, self.last, self.transactions) = (u64::MAX, 0, 0);
        Ok(finished)
    }
}

impl Finished {
    /// Packed and sealed, as it lies in the storage.
    pub fn seal(&self, keys: &Keys) -> io::Result<Bytes> {
        Ok(keys.seal(&zstd::bulk::compress(&self.log, LEVEL)?))
    }
}

/// A segment that was read.
#[derive(Debug)]
pub struct Segment {
    log: Vec<u8>,
    format: FormatDescriptionEvent<'static>,
    before: GtidSet,
    head: usize,
}

/// A transaction in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Who and when.
    pub transaction: Transaction,
    /// Its events.
    pub events: &'a [u8],
}

impl Segment {
    /// Unseals and unpacks an object.
    pub fn open(sealed: &[u8], keys: &Keys) -> Result<Self, SegmentError> {
        let packed = keys.open(sealed)?;
        let mut log = Vec::new();
        let unpacked = zstd::stream::read::Decoder::new(&packed[..])?;
        io::Read::read_to_end(&mut io::Read::take(unpacked, LARGEST as u64), &mut log)?;
        Self::parse(log)
    }

    fn parse(log: Vec<u8>) -> Result<Self, SegmentError> {
        let content = |why: &str| SegmentError::Content(why.to_owned());
        let rest = log.strip_prefix(&frame::MAGIC).ok_or_else(|| content("its first octets are others"))?;
        let (event, rest) = frame::next_event(rest)?.ok_or_else(|| content("it is empty"))?;
        let format = frame::format(event)?;
        let (event, rest) = frame::next_event(rest)?.ok_or_else(|| content("it ends after its format"))?;
        let before = frame::previous_gtids(&format, event)?;
        let head = log.len() - rest.len();
        Ok(Self { before, head, format, log })
    }

    /// Its size unpacked, in octets.
    pub fn size(&self) -> u64 {
        self.log.len() as u64
    }

    /// The transactions before it.
    pub fn before(&self) -> &GtidSet {
        &self.before
    }

    /// Everything before its first transaction: how a log that is made of its transactions has to begin.
    pub fn beginning(&self) -> &[u8] {
        &self.log[..self.head]
    }

    /// Whether a log that begins as another segment does can go on with the transactions of this one.
    pub fn continues(&self, other: &FormatDescriptionEvent<'_>) -> bool {
        frame::same_format(&self.format, other)
    }

    /// `server_id` of the member that it was read from, by the head of its format description event.
    pub fn member(&self) -> Option<u32> {
        let octets = self.log.get(frame::MAGIC.len() + 5..)?.first_chunk()?;
        Some(u32::from_le_bytes(*octets))
    }

    /// How its events are read.
    pub fn format(&self) -> &FormatDescriptionEvent<'static> {
        &self.format
    }

    /// Its transactions, in their order.
    pub fn entries(&self) -> Result<Vec<Entry<'_>>, SegmentError> {
        let mut entries = Vec::new();
        let mut rest = &self.log[self.head..];
        while let Some((event, _)) = frame::next_event(rest)? {
            let transaction = Transaction::of(&self.format, event)?
                .ok_or_else(|| SegmentError::Content("a transaction begins without its GTID".into()))?;
            let length = usize::try_from(transaction.length).unwrap_or(usize::MAX);
            let (events, after) = rest
                .split_at_checked(length)
                .ok_or_else(|| SegmentError::Content("its last transaction is cut short".into()))?;
            entries.push(Entry { transaction, events });
            rest = after;
        }
        Ok(entries)
    }

    /// All transactions up to its end.
    pub fn after(&self) -> Result<GtidSet, SegmentError> {
        let mut after = self.before.clone();
        for Entry { transaction: t, .. } in self.entries()? {
            after.insert(&t.uuid, &t.tag, t.number);
        }
        Ok(after)
    }
}
