use super::*;

#[test]
fn a_moment_is_a_time_a_transaction_or_latest() {
    assert_eq!("latest".parse(), Ok(Target::Latest));
    assert_eq!("2026-01-02T03:04:05.25Z".parse(), Ok(Target::Time(1_767_323_045_250_000)));
    assert_eq!("2026-01-02T04:04:05.25+01:00".parse(), Ok(Target::Time(1_767_323_045_250_000)));
    let uuid = "6F0B1E6E-7d0a-4b7e-9f43-0a77a1ab0001";
    let gtid = |tag: &str, number| Target::Gtid { uuid: uuid.to_lowercase(), tag: tag.into(), number };
    assert_eq!(format!("{uuid}:47").parse(), Ok(gtid("", 47)));
    assert_eq!(format!("{uuid}:Nightly:47").parse(), Ok(gtid("nightly", 47)));
    for wrong in [
        "",
        "yesterday",
        "2026-01-02",
        "2026-01-02T03:04:05",
        &format!("{uuid}:1-5"),
        &format!("{uuid}:0"),
        &format!("x{uuid}:1"),
    ] {
        let said = wrong.parse::<Target>().unwrap_err();
        assert!(said.contains("is no moment"), "{wrong}: {said}");
    }
}

#[test]
fn a_directory_that_was_not_finished_is_taken_away_by_the_last_who_works_on_it() {
    let at = tempfile::tempdir().unwrap();
    let content = |name: &str| std::fs::write(at.path().join(name).join("ibdata1"), "half");
    let begun = |name: &str| {
        let unfinished = Arc::new(Unfinished::new(&at.path().join(name)));
        std::fs::create_dir_all(at.path().join(name)).unwrap();
        content(name).unwrap();
        unfinished
    };
    let one = begun("new");
    let other = one.clone();
    drop(one);
    assert!(at.path().join("new/ibdata1").exists(), "a thread still writes to it");
    drop(other);
    assert!(!at.path().join("new").exists());

    std::fs::create_dir(at.path().join("empty")).unwrap();
    drop(begun("empty"));
    assert_eq!(std::fs::read_dir(at.path().join("empty")).unwrap().count(), 0);

    begun("done").is_finished();
    assert!(at.path().join("done/ibdata1").exists());

    std::fs::create_dir(at.path().join("theirs")).unwrap();
    content("theirs").unwrap();
    drop(begun("theirs"));
    assert!(at.path().join("theirs/ibdata1").exists(), "what others have put there stays");
}

#[test]
fn a_restore_that_has_no_room_is_refused_with_numbers_before_it_begins() {
    let at = tempfile::tempdir().unwrap();
    let into = at.path().join("new/data");
    assert!(room(&into, 1000, 1000).is_ok());
    let refused = room(&into, 1 << 60, 1 << 50).unwrap_err().to_string();
    assert!(
        refused.contains("1.0 EiB") && refused.contains("1.0 PiB") && refused.contains("are free"),
        "{refused}"
    );
}

#[test]
fn relay_logs_are_joined_and_hold_the_transactions_in_their_order_by_one_clock() {
    use crate::log::tests::{format, set, transaction};
    let keys = crate::keys::Keys::generate();
    let at = tempfile::tempdir().unwrap();
    let mut builder = crate::log::segment::Builder::new(&format(), set("1-4")).unwrap();
    let mut relay = Relay::new(at.path());
    let target = Target::Latest;
    let mut cut = Cut::new(&target, set("1-4"));
    // Each is counted by its own number; after the seventh another member counts, and then a new file of its own.
    for number in [5, 6, 7, 40, 41, 9] {
        let (next, events) = transaction(number, number);
        builder.add(&next, &events);
        let segment = Segment::open(&builder.finish().unwrap().seal(&keys).unwrap(), &keys).unwrap();
        for run in cut.take(&segment).unwrap() {
            relay.add(&segment, &run).unwrap();
        }
        assert!(cut.take(&segment).unwrap().is_empty(), "all of it is there");
    }
    relay.finish().unwrap();
    let index = std::fs::read_to_string(at.path().join("relay.index")).unwrap();
    assert_eq!(index, "./relay.000001\n./relay.000002\n./relay.000003\n", "one for each clock");
    let mut found = Vec::new();
    for name in index.lines() {
        let log = std::fs::read(at.path().join(name)).unwrap();
        let mut rest = log.strip_prefix(&frame::MAGIC).unwrap();
        while let Some((event, after)) = frame::next_event(rest).unwrap() {
            if let Some(t) = frame::Transaction::of(&frame::format(&format()).unwrap(), event).unwrap() {
                found.push((t.number, t.clock.after, t.clock.sequence));
            }
            rest = after;
        }
    }
    assert_eq!(found, [(5, 0, 1), (6, 1, 2), (7, 2, 3), (40, 3, 4), (41, 4, 5), (9, 5, 6)]);
}

#[test]
fn what_does_not_depend_on_one_another_stays_so_and_nothing_depends_on_what_another_clock_counted() {
    let mut clock = OneClock::default();
    let mut next = |member, after, sequence| {
        let (here, _) = clock.next(Some(member), Clock { after, sequence });
        (here.after, here.sequence)
    };
    // Three that depend on the first alone, and one that depends on the third.
    assert_eq!(next(1, 99, 100), (0, 1));
    assert_eq!([next(1, 100, 101), next(1, 100, 102), next(1, 102, 103)], [(1, 2), (1, 3), (3, 4)]);
    // Another member: after all of them, whatever it depends on there. Its second one depends on something of before as well.
    assert_eq!([next(2, 7, 900), next(2, 880, 901), next(2, 900, 902)], [(4, 5), (4, 6), (5, 7)]);
    // The same member's next file, and a place that is left out.
    assert_eq!([next(2, 0, 1), next(2, 0, 2), next(2, 2, 4)], [(7, 8), (7, 9), (9, 10)]);
}
