//! When back ends are checked, and what follows from the answers.

use std::time::Duration;

use trivet_base::config::{self, Invalid};

/// How often a back end is checked, and how many answers change its state. Fields absent from a file keep the default of
/// the section they stand in, so this type has no defaults of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// The same, while the last checks say something else than what is believed: a change is known sooner (HAProxy's `fastinter`).
    pub fast_interval: Option<Duration>,
    /// Percent by which each wait is shorter or longer by chance, so that nodes that started together do not check in lockstep.
    pub jitter: u32,
    /// A check that has no answer by then has failed.
    pub timeout: Duration,
    /// Good checks in a row that bring a back end back.
    pub rise: u32,
    /// Checks **without an answer** in a row that take it out. An answer that says "no" takes it out at once.
    pub fall: u32,
}

impl Timing {
    /// Of what says nothing else about it, in percent.
    pub const JITTER: u32 = 10;

    /// The same interval always, with the usual jitter.
    pub const fn steady(interval: Duration, timeout: Duration, rise: u32, fall: u32) -> Self {
        Self { interval, fast_interval: None, jitter: Self::JITTER, timeout, rise, fall }
    }

    /// Refuses values with which no back end could ever be up, or down.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        config::positive(&format!("{key}.interval"), self.interval)?;
        config::positive(&format!("{key}.timeout"), self.timeout)?;
        if let Some(fast) = self.fast_interval {
            config::positive(&format!("{key}.fast_interval"), fast)?;
            if fast > self.interval {
                return Invalid::err(format!("{key}.fast_interval"), "is longer than the interval");
            }
        }
        if self.jitter > 50 {
            return Invalid::err(format!("{key}.jitter"), "is a percentage from 0 to 50");
        }
        for (name, n) in [("rise", self.rise), ("fall", self.fall)] {
            if n == 0 {
                return Invalid::err(format!("{key}.{name}"), "must be at least 1");
            }
        }
        Ok(())
    }
}
