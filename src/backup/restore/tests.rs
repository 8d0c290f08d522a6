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
