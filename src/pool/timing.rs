//! When back ends are checked, and what follows from the answers.

use std::time::Duration;

use trivet_base::config::{self, Invalid};

/// How often a back end is checked, and how many answers change its state. Fields absent from a file keep the default of
/// the section they stand in, so this type has no defaults of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start of one check to the start of the next. Each wait is spread by ±10 %, so that nodes that started
    /// together do not check in lockstep.
    pub interval: Duration,
    /// A check that has no answer by then has failed.
    pub timeout: Duration,
    /// Good checks in a row that bring a back end back.
    pub rise: u32,
    /// Checks **without an answer** in a row that take it out. An answer that says "no" takes it out at once.
    pub fall: u32,
}

impl Timing {
    /// Refuses values with which no back end could ever be up, or down.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        config::positive(&format!("{key}.interval"), self.interval)?;
        config::positive(&format!("{key}.timeout"), self.timeout)?;
        for (name, n) in [("rise", self.rise), ("fall", self.fall)] {
            if n == 0 {
                return Invalid::err(format!("{key}.{name}"), "must be at least 1");
            }
        }
        Ok(())
    }
}
