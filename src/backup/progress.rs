//! How far long work has come, and rustic's bars for it.

use rustic_core::{Progress, ProgressBars, ProgressType, RusticProgress};

pub use trivet_mysql::progress::{Watcher, show};

/// rustic's bars, as a watcher.
#[derive(Debug, Clone)]
pub(crate) struct Bars(pub(crate) Watcher);

impl ProgressBars for Bars {
    fn progress(&self, kind: ProgressType, what: &str) -> Progress {
        let what = what.trim_end_matches("...").trim();
        self.0.begin(what, 0, matches!(kind, ProgressType::Bytes));
        Progress::new(self.clone())
    }
}

impl RusticProgress for Bars {
    fn is_hidden(&self) -> bool {
        false
    }
    fn set_length(&self, length: u64) {
        self.0.set_total(length);
    }
    fn set_title(&self, _: &str) {}
    fn inc(&self, more: u64) {
        self.0.add(more);
    }
    fn finish(&self) {}
}
