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
