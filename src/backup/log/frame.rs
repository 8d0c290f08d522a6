//! A binary log as octets: events one after another, cut into transactions (MySQL's source documentation, "Binary Log Events").
//!
//! Events are kept as they came; only their heads are read here. What is inside of a GTID event is mysql_common's business.

use std::io;

use flate2::Crc;
use mysql_common::binlog::consts::{BinlogVersion, EventType};
use mysql_common::binlog::events::{
    Event, FormatDescriptionEvent, GtidEvent, PreviousGtidsEvent, PreviousGtidsSid,
};
use mysql_common::packets::{GnoInterval, Tag};
use mysql_common::proto::MySerialize;
use mysql_common::uuid::Uuid;

use trivet_keeper_api::gtid::GtidSet;

/// The first octets of a binary log.
pub const MAGIC: [u8; 4] = *b"\xfebin";

/// Length of an event's head.
const HEAD: usize = 19;

/// What an event is, by the fifth octet of its head.
pub fn is(event: &[u8], kind: EventType) -> bool {
    event.get(4) == Some(&(kind as u8))
}

/// The first event of `log`, by the length in its head, and the rest. `Ok(None)` at the end.
pub fn next_event(log: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    if log.is_empty() {
        return Ok(None);
    }
    let length = log
        .get(9..13)
        .and_then(|l| l.try_into().ok())
        .map(|l| u32::from_le_bytes(l) as usize)
        .ok_or_else(|| bad("the head of an event is cut short"))?;
    if length < HEAD || length > log.len() {
        return Err(bad(format_args!(
            "an event says that it has {length} octets, and {} are there",
            log.len()
        )));
    }
    Ok(Some(log.split_at(length)))
}

fn bad(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

/// What the first event of a transaction says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The server or the group that numbered it, in text.
    pub uuid: String,
    /// Its tag, or empty.
    pub tag: String,
    /// Its number.
    pub number: u64,
    /// When it was committed first, in microseconds since 1970, by the clock of the member that was the primary.
    pub committed: u64,
    /// Octets of the whole transaction, this event included.
    pub length: u64,
    /// The logical clock of the binary log that it was read from, by which appliers with several threads go. It begins anew with each file, and
    /// each member has its own.
    pub clock: Clock,
}

/// A place in a logical clock: the transaction's own, and that of the last one it depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// `last_committed`
    pub after: u64,
    /// `sequence_number`
    pub sequence: u64,
}

impl Transaction {
    /// Reads a GTID event, plain or tagged. `None` for any other event.
    pub fn of(format: &FormatDescriptionEvent<'_>, event: &[u8]) -> io::Result<Option<Self>> {
        if is(event, EventType::ANONYMOUS_GTID_EVENT) {
            return Err(bad("a transaction has no GTID: gtid_mode must be ON"));
        }
        if !is(event, EventType::GTID_EVENT) && !is(event, EventType::GTID_TAGGED_LOG_EVENT) {
            return Ok(None);
        }
        let event = Event::read(format, event)?;
        let gtid: GtidEvent = event.read_event()?;
        let length = gtid.tx_length();
        if length == 0 {
            return Err(bad("a transaction does not tell its length: the server is older than MySQL 8.0.2"));
        }
        Ok(Some(Self {
            uuid: Uuid::from_bytes(gtid.sid()).to_string(),
            tag: gtid.tag().map(ToString::to_string).unwrap_or_default(),
            number: gtid.gno(),
            committed: match gtid.original_commit_timestamp() {
                0 => gtid.immediate_commit_timestamp(),
                original => original,
            },
            length,
            clock: Clock { after: gtid.last_committed(), sequence: gtid.sequence_number() },
        }))
    }
}

/// Where the logical clock stands in a GTID event without a tag: after its head, flags (1), the source's UUID (16), the number (8) and what follows is of
/// (1, always 2). `last_committed` and `sequence_number` have eight octets each.
const CLOCK: usize = HEAD + 1 + 16 + 8 + 1;

/// The events of a transaction, which begin with its GTID event, with another place in the logical clock, and with a new checksum when `format` has
/// checksums.
pub fn with_clock(format: &FormatDescriptionEvent<'_>, events: &[u8], clock: Clock) -> io::Result<Vec<u8>> {
    let Some((event, rest)) = next_event(events)? else { return Ok(Vec::new()) };
    let footer = if has_checksums(format) { 4 } else { 0 };
    let mut changed = if is(event, EventType::GTID_TAGGED_LOG_EVENT) {
        tagged_with_clock(format, event, footer, clock)?
    } else {
        let mut changed = event[..event.len() - footer].to_vec();
        let numbers = changed.get_mut(CLOCK..CLOCK + 16).ok_or_else(|| bad("a GTID event is cut short"))?;
        numbers[..8].copy_from_slice(&clock.after.to_le_bytes());
        numbers[8..].copy_from_slice(&clock.sequence.to_le_bytes());
        changed
    };
    if footer > 0 {
        let mut crc = Crc::new();
        crc.update(&changed);
        changed.extend_from_slice(&crc.sum().to_le_bytes());
    }
    changed.extend_from_slice(rest);
    Ok(changed)
}

/// The same for a GTID event with a tag, without its checksum: its numbers are of many lengths, and one of them is the transaction's length.
fn tagged_with_clock(
    format: &FormatDescriptionEvent<'_>,
    event: &[u8],
    footer: usize,
    clock: Clock,
) -> io::Result<Vec<u8>> {
    let gtid: GtidEvent = Event::read(format, event)?.read_event()?;
    let rest = gtid.tx_length().checked_sub(event.len() as u64);
    let rest = rest.ok_or_else(|| bad("a transaction is shorter than its first event"))?;
    let gtid = gtid.with_last_committed(clock.after).with_sequence_number(clock.sequence);
    let mut length = event.len();
    // The length of a length: it settles at once, or after one more octet.
    for _ in 0..4 {
        let mut changed = event[..HEAD].to_vec();
        gtid.clone().with_tx_length(rest + length as u64).serialize(&mut changed);
        if changed.len() + footer == length {
            changed[9..13].copy_from_slice(&u32::try_from(length).map_err(bad)?.to_le_bytes());
            return Ok(changed);
        }
        length = changed.len() + footer;
    }
    Err(bad("the length of a transaction with a tag does not settle"))
}

fn has_checksums(format: &FormatDescriptionEvent<'_>) -> bool {
    matches!(format.footer().get_checksum_alg(), Ok(Some(alg)) if alg as u8 != 0)
}

/// The format description event at the head of a log, which says how the others are read.
pub fn format(event: &[u8]) -> io::Result<FormatDescriptionEvent<'static>> {
    if !is(event, EventType::FORMAT_DESCRIPTION_EVENT) {
        return Err(bad("a binary log must begin with its format"));
    }
    let plain = FormatDescriptionEvent::new(BinlogVersion::Version4);
    let event = Event::read(&plain, event)?;
    let format: FormatDescriptionEvent<'_> = event.read_event()?;
    Ok(format.with_footer(event.footer()).into_owned())
}

/// The set in a previous-GTIDs event: what came before this log.
pub fn previous_gtids(format: &FormatDescriptionEvent<'_>, event: &[u8]) -> io::Result<GtidSet> {
    if !is(event, EventType::PREVIOUS_GTIDS_EVENT) {
        return Err(bad("a segment must tell what came before it"));
    }
    let event = Event::read(format, event)?;
    lengths_fit(event.data())
        .ok_or_else(|| bad("the transactions before a segment are told in a form that is none"))?;
    let previous: PreviousGtidsEvent<'_> = event.read_event()?;
    let mut text = Vec::new();
    for sid in previous.sids() {
        let tag = sid.tag().map(|t| format!(":{t}")).unwrap_or_default();
        let intervals: String =
            sid.intervals().iter().map(|i| format!(":{}-{}", i.start(), i.end() - 1)).collect();
        text.push(format!("{}{tag}{intervals}", Uuid::from_bytes(sid.uuid())));
    }
    text.join(",").parse().map_err(bad)
}

/// Whether the counts in a previous-GTIDs event are those of what is there: mysql_common makes room for as many as they say. The form is
/// that of mysql_common's `PreviousGtidsEvent`: how many sources, and of each its UUID, its tag, and how many intervals of two numbers.
fn lengths_fit(content: &[u8]) -> Option<()> {
    let number = |octets: &[u8]| Some(u64::from_le_bytes(octets.try_into().ok()?));
    let (head, mut rest) = content.split_at_checked(8)?;
    let head = number(head)?;
    let is_tagged = head >> 56 != 0;
    let sources = if is_tagged { (head >> 8) & ((1 << 48) - 1) } else { head & ((1 << 56) - 1) };
    if sources > content.len() as u64 / 24 {
        return None;
    }
    for _ in 0..sources {
        rest = rest.get(16..)?;
        if is_tagged {
            // A tag has at most 32 characters, so that its length is one octet, doubled.
            let (length, after) = rest.split_first()?;
            if length & 1 != 0 {
                return None;
            }
            rest = after.get(usize::from(length >> 1)..)?;
        }
        let (intervals, after) = rest.split_at_checked(8)?;
        let length = number(intervals)?.checked_mul(16)?;
        rest = after.get(usize::try_from(length).ok()?..)?;
    }
    Some(())
}

/// A previous-GTIDs event for the head of a segment, with a checksum when the log has them.
pub fn previous_gtids_event(format: &FormatDescriptionEvent<'_>, previous: &GtidSet) -> io::Result<Vec<u8>> {
    let mut sids = Vec::new();
    for (uuid, tag, intervals) in previous.sources() {
        let tag = match tag {
            "" => None,
            tag => Some(Tag::new(tag.to_owned()).map_err(bad)?),
        };
        let intervals = intervals.iter().map(|(first, last)| GnoInterval::new(*first, last + 1)).collect();
        sids.push(PreviousGtidsSid::new(*Uuid::parse_str(uuid).map_err(bad)?.as_bytes(), tag, intervals));
    }
    let mut content = Vec::new();
    PreviousGtidsEvent::new(sids).serialize(&mut content);
    let checked = has_checksums(format);
    let length = HEAD + content.len() + if checked { 4 } else { 0 };
    let length = u32::try_from(length).map_err(bad)?;
    // Time and server say nothing here. LOG_EVENT_IGNORABLE_F: who does not know the event passes it over.
    let mut event = Vec::with_capacity(length as usize);
    event.extend_from_slice(&[0; 4]);
    event.push(EventType::PREVIOUS_GTIDS_EVENT as u8);
    event.extend_from_slice(&[0; 4]);
    event.extend_from_slice(&length.to_le_bytes());
    event.extend_from_slice(&[0; 4]);
    event.extend_from_slice(&0x80_u16.to_le_bytes());
    event.extend_from_slice(&content);
    if checked {
        let mut crc = Crc::new();
        crc.update(&event);
        event.extend_from_slice(&crc.sum().to_le_bytes());
    }
    Ok(event)
}

/// Whether two formats read events alike.
pub fn same_format(a: &FormatDescriptionEvent<'_>, b: &FormatDescriptionEvent<'_>) -> bool {
    a.server_version_raw() == b.server_version_raw()
        && a.event_type_header_lengths() == b.event_type_header_lengths()
        && a.footer() == b.footer()
}
