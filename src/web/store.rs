//! The static files of the site, in memory, by the path under which they are asked for.
//!
//! The folder is walked once, at start and at each reload; a request never names a file to the operating system, so no
//! spelling of a path can reach outside the folder. Files too large for memory are opened by the path that the walk
//! found, and only while they are still the file that it found.

mod compress;
mod load;
mod media;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderValue;

pub use load::{LoadError, Loaded, check, load};

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// No coding.
    Identity,
    /// RFC 1952
    Gzip,
    /// RFC 7932
    Brotli,
    /// RFC 8878
    Zstd,
}

impl Coding {
    /// All but identity, with the extension of a precompressed file beside the original.
    pub const STORED: [(Self, &'static str); 3] =
        [(Self::Brotli, "br"), (Self::Zstd, "zst"), (Self::Gzip, "gz")];

    /// Its name in `Content-Encoding` and `Accept-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// Where the bytes of a form are.
#[derive(Debug, Clone)]
pub enum Content {
    /// Here.
    Memory(Bytes),
    /// On disk: too large for memory.
    Disk(DiskFile),
}

impl Content {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk(file) => file.len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file on disk as the walk found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFile {
    /// Its path, without links.
    pub path: PathBuf,
    /// Its length.
    pub len: u64,
    /// Device, inode, and time of the last change: another file under the same path has others.
    pub identity: (u64, u64, i64, i64),
}

/// One representation of an asset (RFC 9110 section 3.2).
#[derive(Debug, Clone)]
pub struct Form {
    /// Its content coding.
    pub coding: Coding,
    /// Its bytes.
    pub content: Content,
    /// Its strong entity tag, a hash of these bytes: each coding has one of its own.
    pub etag: HeaderValue,
}

/// A file, in all its forms.
#[derive(Debug, Clone)]
pub struct Asset {
    /// The file without coding first, then the coded forms, smallest first.
    pub forms: Vec<Form>,
    /// `Content-Type`
    pub content_type: HeaderValue,
    /// When the file was last changed, in whole seconds; `None` when the file's time says nothing.
    pub modified: Option<SystemTime>,
    /// Hash of the file's bytes.
    hash: [u8; 32],
}

impl Asset {
    /// The form without coding.
    pub fn identity(&self) -> &Form {
        &self.forms[0]
    }

    /// The form in `coding`, if there is one.
    pub fn form(&self, coding: Coding) -> Option<&Form> {
        self.forms.iter().find(|f| f.coding == coding)
    }
}

/// What stands under a path.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A file, or the index of a folder (whose path ends in a slash).
    File(Arc<Asset>),
    /// A folder with an index, asked for without its slash: where to go instead, percent-encoded.
    Folder(HeaderValue),
}

/// All static files.
#[derive(Debug, Default)]
pub struct Store {
    entries: HashMap<Box<str>, Entry>,
    /// Files without links, so that a reload can take over what did not change.
    by_file: HashMap<PathBuf, Arc<Asset>>,
    memory: u64,
}

impl Store {
    /// What stands under `path`, which begins with a slash and is percent-decoded.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The number of files.
    pub fn files(&self) -> usize {
        self.by_file.len()
    }

    /// Bytes held in memory, all forms together.
    pub fn memory(&self) -> u64 {
        self.memory
    }
}

#[cfg(test)]
pub(crate) mod tests;
