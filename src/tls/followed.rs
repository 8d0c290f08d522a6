//! Files that are read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use trivet_base::config::ConfigError;

/// What tells one state of a file from another: an atomic rename and a swapped symbolic link change the inode, writing in
/// place the size or the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    /// Of the file that `path` leads to.
    pub(super) fn of(path: &Path) -> Self {
        let stamp = std::fs::metadata(path).map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        Self(stamp.ok())
    }
}

/// What came of looking at the files again.
pub(super) enum Outcome<T> {
    Unchanged,
    Reloaded(T),
    Refused(ConfigError),
}

impl<T> Outcome<T> {
    /// Puts what was read where it is used.
    pub(super) fn keep(self, store: impl FnOnce(T)) -> Outcome<()> {
        match self {
            Self::Unchanged => Outcome::Unchanged,
            Self::Reloaded(read) => {
                store(read);
                Outcome::Reloaded(())
            }
            Self::Refused(e) => Outcome::Refused(e),
        }
    }
}

/// Files that belong together, as they were when they were last read.
#[derive(Debug)]
pub(super) struct Followed<const N: usize> {
    seen: [Stamp; N],
    refused: Option<ConfigError>,
}

impl<const N: usize> Followed<N> {
    /// To be made before the files are read for the first time: a change in between is found by the next look.
    pub(super) fn new(files: [&Path; N]) -> Self {
        Self { seen: files.map(Stamp::of), refused: None }
    }

    /// Reads the files again when they have changed, or when `all`.
    pub(super) fn look<T>(
        &mut self,
        files: [&Path; N],
        all: bool,
        read: impl FnOnce() -> Result<T, ConfigError>,
    ) -> Outcome<T> {
        let seen = files.map(Stamp::of);
        let changed = seen != self.seen;
        // A refused one is tried again each time: rights, clocks and the other file of the two may have been mended
        // without a trace in its stamp.
        if !changed && !all && self.refused.is_none() {
            return Outcome::Unchanged;
        }
        self.seen = seen;
        match read() {
            Ok(read) => {
                self.refused = None;
                Outcome::Reloaded(read)
            }
            Err(e) => {
                let news = changed || all || self.refused.as_ref() != Some(&e);
                self.refused = Some(e.clone());
                if news { Outcome::Refused(e) } else { Outcome::Unchanged }
            }
        }
    }

    /// Why the files as they are now are not used, when they are not.
    pub(super) fn refused(&self) -> Option<&ConfigError> {
        self.refused.as_ref()
    }
}
