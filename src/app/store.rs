//! What is asked of the database, one module per table.

pub mod articles;
pub mod comments;
pub mod housekeeping;
pub mod idempotency;
pub mod sessions;
pub mod texts;
pub mod users;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A moment of the database, which keeps UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(#[serde(with = "time::serde::rfc3339")] pub OffsetDateTime);

impl Moment {
    /// From the seconds since 1970 that queries select, by [`seconds`].
    fn from_seconds(seconds: i64) -> Self {
        Self(OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }

    /// "22 November 2026".
    pub fn date(self) -> String {
        format!("{} {} {}", self.0.day(), self.0.month(), self.0.year())
    }

    /// "22 November 2026, 19:34 UTC".
    pub fn date_and_time(self) -> String {
        format!("{}, {:02}:{:02} UTC", self.date(), self.0.hour(), self.0.minute())
    }

    /// For a `datetime` attribute.
    pub fn machine(self) -> String {
        self.0.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
    }
}

/// Selects a DATETIME as whole seconds since 1970; UNIX_TIMESTAMP would be 0 before 1970.
macro_rules! seconds {
    ($column:literal) => {
        concat!("TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', ", $column, ")")
    };
}
pub(crate) use seconds;

/// One page of a list.
#[derive(Debug, Clone, Serialize)]
pub struct Page<T> {
    /// What stands on it.
    pub items: Vec<T>,
    /// Its number, from 1.
    pub page: u32,
    /// How many items a full page has.
    pub page_size: u32,
    /// How many items there are on all pages.
    pub total: u64,
}

impl<T> Page<T> {
    /// The number of the last page; 1 when there is nothing.
    pub fn pages(&self) -> u32 {
        pages(self.total, self.page_size)
    }
}

fn pages(total: u64, page_size: u32) -> u32 {
    u32::try_from(total.div_ceil(u64::from(page_size.max(1)))).unwrap_or(u32::MAX).max(1)
}

/// Which page of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// From 1.
    pub page: u32,
    pub size: u32,
}

impl PageRequest {
    /// Items before the page.
    pub fn offset(self) -> u64 {
        u64::from(self.page.saturating_sub(1)) * u64::from(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_up() {
        for (total, size, expected) in
            [(0, 10, 1), (1, 10, 1), (10, 10, 1), (11, 10, 2), (100, 10, 10), (5, 0, 5)]
        {
            assert_eq!(pages(total, size), expected, "{total} by {size}");
        }
        assert_eq!(pages(u64::MAX, 1), u32::MAX);
    }

    #[test]
    fn the_offset_never_overflows() {
        assert_eq!(PageRequest { page: 1, size: 10 }.offset(), 0);
        assert_eq!(PageRequest { page: 3, size: 10 }.offset(), 20);
        assert_eq!(PageRequest { page: 0, size: 10 }.offset(), 0);
        assert_eq!(PageRequest { page: u32::MAX, size: 100 }.offset(), (u64::from(u32::MAX) - 1) * 100);
    }

    #[test]
    fn moments_are_written_for_people_and_machines() {
        let m = Moment::from_seconds(1_795_376_077);
        assert_eq!(m.date_and_time(), "22 November 2026, 19:34 UTC");
        assert_eq!(m.machine(), "2026-11-22T19:34:37Z");
        assert_eq!(Moment::from_seconds(-1).machine(), "1969-12-31T23:59:59Z");
    }
}
