//! An attempt that failed.

use std::time::Duration;

/// A failed attempt, and how long to leave it before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// What failed, in MySQL's words.
    pub error: String,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// Until the next attempt; zero when it may be made.
    pub wait: Duration,
}
