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
fn relay_logs_are_joined_and_hold_the_transactions_in_their_order() {
    use crate::log::tests::{format, set, transaction};
    let keys = crate::keys::Keys::generate();
    let at = tempfile::tempdir().unwrap();
    let mut builder = crate::log::segment::Builder::new(&format(), set("1-4")).unwrap();
    let mut relay = Relay::new(at.path());
    let mut all = Vec::new();
    let target = Target::Latest;
    let mut cut = Cut::new(&target, set("1-4"));
    for number in 5..8 {
        let (next, events) = transaction(number, number);
        builder.add(&next, &events);
        let segment = Segment::open(&builder.finish().unwrap().seal(&keys).unwrap(), &keys).unwrap();
        if number == 5 {
            all.extend_from_slice(segment.beginning());
        }
        all.extend_from_slice(&events);
        for run in cut.take(&segment).unwrap() {
            relay.add(&segment, &run).unwrap();
        }
        assert!(cut.take(&segment).unwrap().is_empty(), "all of it is there");
    }
    // Another member counts otherwise, and so does the next file of the same.
    for number in [40, 9] {
        let (next, events) = transaction(number, number);
        builder.add(&next, &events);
        let segment = Segment::open(&builder.finish().unwrap().seal(&keys).unwrap(), &keys).unwrap();
        for run in cut.take(&segment).unwrap() {
            relay.add(&segment, &run).unwrap();
        }
    }
    relay.finish().unwrap();
    assert_eq!(
        std::fs::read_to_string(at.path().join("relay.index")).unwrap(),
        "./relay.000001\n./relay.000002\n./relay.000003\n"
    );
    assert_eq!(std::fs::read(at.path().join("relay.000001")).unwrap(), all);
}
