use time::macros::datetime;

use super::*;

fn every(hours: i64, from: OffsetDateTime, count: i64) -> Vec<OffsetDateTime> {
    (0..count).map(|n| from + time::Duration::hours(hours * n)).collect()
}

#[test]
fn the_last_of_each_period_is_kept_and_the_newest_always() {
    let retention = Retention { hourly: 0, daily: 3, weekly: 0, monthly: 2 };
    // Four a day from the first of January to the tenth of March.
    let times = every(6, datetime!(2026-01-01 00:00 UTC), 4 * 69);
    let kept: Vec<_> = kept(&times, None, &retention).into_iter().collect();
    assert_eq!(
        kept,
        [
            datetime!(2026-02-28 18:00 UTC),
            datetime!(2026-03-08 18:00 UTC),
            datetime!(2026-03-09 18:00 UTC),
            datetime!(2026-03-10 18:00 UTC)
        ]
    );
}

#[test]
fn periods_without_a_copy_are_not_counted() {
    let retention = Retention { hourly: 0, daily: 2, weekly: 0, monthly: 0 };
    let times =
        [datetime!(2026-01-01 00:00 UTC), datetime!(2026-01-20 00:00 UTC), datetime!(2026-02-20 00:00 UTC)];
    assert_eq!(kept(&times, None, &retention).into_iter().collect::<Vec<_>>(), times[1..]);
    assert!(kept(&[], None, &retention).is_empty());
}

#[test]
fn the_copy_that_was_proven_last_is_kept_although_the_retention_has_no_place_for_it() {
    let retention = Retention { hourly: 0, daily: 1, weekly: 0, monthly: 0 };
    let times = every(24, datetime!(2026-01-01 00:00 UTC), 5);
    assert_eq!(
        kept(&times, Some(times[1]), &retention).into_iter().collect::<Vec<_>>(),
        [times[1], times[4]]
    );
    // It may be gone: whoever owns the storage can delete it.
    let gone = datetime!(2025-12-01 00:00 UTC);
    assert_eq!(kept(&times, Some(gone), &retention).into_iter().collect::<Vec<_>>(), [times[4]]);
}
