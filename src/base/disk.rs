//! The space of a file system.

use std::path::Path;

/// Octets of a file system; `statvfs(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What is left for those who are not root: what root alone may use is of no use to a service.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl Space {
    /// Of the file system that a path is on. May hang where the disk hangs.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let seen = rustix::fs::statvfs(path)?;
        Ok(Self {
            free: seen.f_bavail.saturating_mul(seen.f_frsize),
            total: seen.f_blocks.saturating_mul(seen.f_frsize),
        })
    }
}
