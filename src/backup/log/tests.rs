use bytes::Bytes;
use mysql_common::binlog::consts::{BinlogVersion, EventType};
use mysql_common::binlog::events::{FormatDescriptionEvent, GtidEvent};
use mysql_common::packets::Tag;
use mysql_common::proto::MySerialize;

use trivet_keeper_api::gtid::GtidSet;

use super::catalog::{self, LogError, Name, Walk};
use super::frame::{self, Transaction};
use super::segment::{Builder, Segment};
use crate::keys::Keys;
use crate::storage::Storage;

const UUID: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";

fn event(kind: EventType, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(19 + content.len()).unwrap();
    let mut event = vec![0; 4];
    event.push(kind as u8);
    event.extend_from_slice(&1_u32.to_le_bytes());
    event.extend_from_slice(&length.to_le_bytes());
    event.extend_from_slice(&[0; 6]);
    event.extend_from_slice(content);
    event
}

/// What a server without checksums says of its events.
pub fn format() -> Vec<u8> {
    let mut content = Vec::new();
    FormatDescriptionEvent::new(BinlogVersion::Version4)
        .with_server_version(&b"8.4.9"[..])
        .serialize(&mut content);
    // No checksums, and the event's own.
    content.extend_from_slice(&[0, 0, 0, 0, 0]);
    event(EventType::FORMAT_DESCRIPTION_EVENT, &content)
}

/// A transaction that was committed at this second.
pub fn transaction(number: u64, second: u64) -> (Transaction, Vec<u8>) {
    transaction_with(number, second, &[])
}

/// A transaction that has this beside.
pub fn transaction_with(number: u64, second: u64, content: &[u8]) -> (Transaction, Vec<u8>) {
    let mut rest = event(EventType::ROWS_QUERY_EVENT, content);
    rest.extend(event(EventType::XID_EVENT, &number.to_le_bytes()));
    let sid: [u8; 16] = std::array::from_fn(|i| {
        let digits: String = UUID.chars().filter(|c| *c != '-').collect();
        u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()
    });
    let of_length = |length: u64| {
        let gtid = GtidEvent::new(sid, number)
            .with_lc_typecode()
            .with_last_committed(number - 1)
            .with_sequence_number(number)
            .with_immediate_commit_timestamp(second * 1_000_000)
            .with_original_commit_timestamp(second * 1_000_000)
            .with_tx_length(length)
            .with_original_server_version(80_409)
            .with_immediate_server_version(80_409);
        let mut content = Vec::new();
        gtid.serialize(&mut content);
        event(EventType::GTID_EVENT, &content)
    };
    // The length is written in as many octets as it takes.
    let length = of_length(100 + rest.len() as u64).len() + rest.len();
    let mut events = of_length(length as u64);
    events.extend_from_slice(&rest);
    assert_eq!(events.len(), length);
    let parsed = Transaction::of(&frame::format(&format()).unwrap(), &events[..events.len() - rest.len()])
        .unwrap()
        .unwrap();
    assert_eq!((parsed.uuid.as_str(), parsed.number, parsed.committed), (UUID, number, second * 1_000_000));
    (parsed, events)
}

pub fn set(text: &str) -> GtidSet {
    if text.is_empty() { GtidSet::default() } else { format!("{UUID}:{text}").parse().unwrap() }
}

/// A segment with these transactions, each committed at the second of its number.
pub fn sealed(keys: &Keys, before: &str, numbers: std::ops::RangeInclusive<u64>) -> Bytes {
    let mut builder = Builder::new(&format(), set(before)).unwrap();
    for number in numbers {
        let (transaction, events) = transaction(number, number);
        builder.add(&transaction, &events);
    }
    builder.finish().unwrap().seal(keys).unwrap()
}

fn name(token: u64, number: u64, last: u64) -> Name {
    Name { token, number, first: 0, last: last * 1_000_000, day: 20_260_102 }
}

#[test]
fn a_segment_comes_back_as_it_was_and_tells_what_was_before_it() {
    let keys = Keys::generate();
    let mut builder = Builder::new(&format(), set("1-4")).unwrap();
    assert!(builder.is_empty());
    for number in [5, 6, 4, 6, 7] {
        let (transaction, events) = transaction(number, number);
        builder.add(&transaction, &events);
    }
    let finished = builder.finish().unwrap();
    assert_eq!(
        (finished.transactions, finished.times),
        (3, (5_000_000, 7_000_000)),
        "4 and the second 6 were there already"
    );
    assert!(finished.log.starts_with(&frame::MAGIC));
    let segment = Segment::open(&finished.seal(&keys).unwrap(), &keys).unwrap();
    assert_eq!((segment.before(), segment.after().unwrap()), (&set("1-4"), set("1-7")));
    let numbers: Vec<u64> = segment.entries().unwrap().iter().map(|e| e.transaction.number).collect();
    assert_eq!(numbers, [5, 6, 7]);
    // The next one goes on there.
    let (eighth, events) = transaction(8, 8);
    builder.add(&eighth, &events);
    let next = Segment::open(&builder.finish().unwrap().seal(&keys).unwrap(), &keys).unwrap();
    assert_eq!(next.before(), &set("1-7"));
}

#[test]
fn a_log_that_is_cut_short_or_makes_no_sense_is_an_error_and_no_panic() {
    let keys = Keys::generate();
    let mut builder = Builder::new(&format(), set("1-4")).unwrap();
    let (fifth, events) = transaction(5, 5);
    builder.add(&fifth, &events);
    let log = builder.finish().unwrap().log;
    let open = |log: &[u8]| {
        let sealed = keys.seal(&zstd::bulk::compress(log, 3).unwrap());
        Segment::open(&sealed, &keys).and_then(|segment| segment.after())
    };
    assert_eq!(open(&log).unwrap(), set("1-5"));
    for length in 0..log.len() {
        // Cut between two transactions it is whole, and has none.
        assert!(open(&log[..length]).map_or(true, |after| after == set("1-4")), "{length}");
    }
    for at in 0..log.len() {
        let mut altered = log.clone();
        altered[at] = altered[at].wrapping_add(200);
        let _ = open(&altered);
    }
}

#[test]
fn the_names_of_segments_say_who_wrote_them_and_sort_as_the_log_goes() {
    let one = name(7, 42, 9);
    assert_eq!(Name::parse(&one.to_string()), Some(one));
    assert!(name(7, 9, 9) < name(7, 10, 1) && name(7, 10, 9) < name(8, 1, 1));
    for other in [
        "log/20260102/x",
        "restic/config",
        "log/20260102/1-2-3-4.age",
        "log/20260102/1-2-3-4-5.binlog.zst.age",
    ] {
        assert_eq!(Name::parse(other), None, "{other}");
    }
}

/// Walks from what a base copy has, and says what came of it.
async fn walked(storage: &Storage, keys: &Keys, names: &[Name], base: &str) -> Result<GtidSet, LogError> {
    let mut walk = Walk::new(storage, keys, names.to_vec(), set(base), 2_000_000);
    while walk.next().await?.is_some() {}
    Ok(walk.have)
}

#[tokio::test]
async fn the_log_is_one_however_its_writers_overlapped_and_a_gap_is_told() {
    let (storage, keys) = (Storage::in_memory("m"), Keys::generate());
    // The second holder read the first one's end before a late segment of it came; that one's number sorts before.
    let names = [name(1, 1, 5), name(1, 2, 9), name(2, 1, 12), name(3, 1, 14)];
    for (name, before, numbers) in [
        (names[0], "1-2", 3..=5),
        (names[1], "1-9", 10..=11),
        (names[2], "1-5", 6..=9),
        (names[3], "1-11", 12..=14),
    ] {
        storage.write(&name.to_string(), sealed(&keys, before, numbers)).await.unwrap();
    }
    assert_eq!(walked(&storage, &keys, &names, "1-2").await.unwrap(), set("1-14"));
    assert_eq!(
        walked(&storage, &keys, &names, "1-7").await.unwrap(),
        set("1-14"),
        "also from the middle of one"
    );
    let gap = walked(&storage, &keys, &[names[0], names[1], names[3]], "1-2").await.unwrap_err();
    assert!(matches!(&gap, LogError::Gap { missing, .. } if *missing == set("6-9")), "{gap}");
}

#[tokio::test]
async fn a_damaged_segment_is_missed_only_when_nothing_else_has_what_was_in_it() {
    let (storage, keys) = (Storage::in_memory("m"), Keys::generate());
    let names = [name(1, 1, 1), name(1, 2, 5), name(1, 3, 9)];
    storage.write(&names[0].to_string(), Bytes::from_static(b"rotten")).await.unwrap();
    storage.write(&names[1].to_string(), sealed(&keys, "1-2", 3..=5)).await.unwrap();
    storage.write(&names[2].to_string(), sealed(&keys, "1-5", 6..=9)).await.unwrap();
    assert_eq!(
        walked(&storage, &keys, &names, "1-2").await.unwrap(),
        set("1-9"),
        "the base copy has what was in the first"
    );
    storage.write(&names[1].to_string(), Bytes::from_static(b"rotten")).await.unwrap();
    let said = walked(&storage, &keys, &names, "1-2").await.unwrap_err().to_string();
    assert!(said.contains(&names[1].to_string()) && said.contains("damaged"), "{said}");
    let from_later = walked(&storage, &keys, &names, "1-5").await;
    assert!(from_later.is_err(), "what was in it after the base copy is not known: {from_later:?}");
}

#[tokio::test]
async fn the_room_for_a_log_is_reckoned_unpacked() {
    let keys = Keys::generate();
    let storage = Storage::in_memory("main");
    assert_eq!(catalog::octets(&storage, &keys, 0).await.unwrap(), 0);
    let (mut packed, mut unpacked) = (0, 0);
    for number in 1..=3 {
        let first = (number - 1) * 1000 + 1;
        let sealed = sealed(&keys, &format!("1-{first}"), first + 1..=first + 1000);
        packed += sealed.len() as u64;
        unpacked += Segment::open(&sealed, &keys).unwrap().size();
        storage.write(&name(1, number, first).to_string(), sealed).await.unwrap();
    }
    assert!(unpacked > 2 * packed, "{packed} octets become {unpacked}");
    assert_eq!(catalog::octets(&storage, &keys, 20_260_102).await.unwrap(), unpacked);
    assert_eq!(catalog::octets(&storage, &keys, 20_260_103).await.unwrap(), 0, "of later days there is none");
    // One that cannot be read says nothing of the others.
    storage.write(&name(1, 4, 4000).to_string(), Bytes::from(vec![7; 1 << 20])).await.unwrap();
    let with_it = catalog::octets(&storage, &keys, 0).await.unwrap();
    assert!(with_it > unpacked + (1 << 20), "{with_it}");
}

#[test]
fn a_transaction_keeps_everything_but_its_place_in_the_clock_with_and_without_a_tag() {
    let format = frame::format(&format()).unwrap();
    let rest = event(EventType::XID_EVENT, &7_u64.to_le_bytes());
    for tag in [None, Some("nightly")] {
        let whole = |length: u64| {
            let gtid = match tag {
                None => GtidEvent::new([7; 16], 47).with_lc_typecode(),
                Some(tag) => GtidEvent::new_tagged([7; 16], Tag::new(tag).unwrap(), 47),
            };
            let gtid = gtid
                .with_last_committed(3)
                .with_sequence_number(5)
                .with_immediate_commit_timestamp(1_767_323_045_250_000)
                .with_original_commit_timestamp(1_767_323_045_000_000)
                .with_tx_length(length)
                .with_original_server_version(90_704)
                .with_immediate_server_version(90_704);
            let mut content = Vec::new();
            gtid.serialize(&mut content);
            let kind = if tag.is_some() { EventType::GTID_TAGGED_LOG_EVENT } else { EventType::GTID_EVENT };
            [event(kind, &content), rest.clone()].concat()
        };
        let length = whole(100).len() as u64;
        let events = whole(length);
        assert_eq!(events.len() as u64, length);
        let read = |events: &[u8]| {
            let (first, rest) = frame::next_event(events).unwrap().unwrap();
            (Transaction::of(&format, first).unwrap().unwrap(), rest.to_vec())
        };
        let (before, _) = read(&events);
        for clock in [(0, 1), (250, 251), (1 << 40, (1 << 40) + 9)] {
            let clock = frame::Clock { after: clock.0, sequence: clock.1 };
            let changed = frame::with_clock(&format, &events, clock).unwrap();
            let (after, left) = read(&changed);
            assert_eq!(
                (after.clock, after.length, left),
                (clock, changed.len() as u64, rest.clone()),
                "{tag:?}"
            );
            assert_eq!(Transaction { clock: before.clock, length, ..after }, before, "{tag:?}");
        }
    }
}
