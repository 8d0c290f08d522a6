//! What can go wrong with a storage, in words that say where and what to do.

use opendal::ErrorKind;

/// So much of what a storage says is told; some answer with a page.
const LONGEST: usize = 400;

/// RFC 4918, section 11.5.
const INSUFFICIENT_STORAGE: u16 = 507;

/// Of a storage that is slow, silent or hangs.
pub(super) const UNANSWERED: &str =
    "it has not answered in time: see that it is reachable and not overloaded";

/// Why an object could not be written, read, listed or deleted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The place itself is not there.
    #[error("{place}: {reason}")]
    Absent {
        /// The repository and where it is.
        place: String,
        /// What is absent, and the remedy.
        reason: String,
    },
    /// Wrong credentials, or too few rights.
    #[error(
        "{place}: refused ({reason}): the key is wrong or may not do this; see that its files hold what the storage gave you, \
         and that it may list, read and write"
    )]
    Refused {
        /// The repository and where it is.
        place: String,
        /// The storage's words.
        reason: String,
    },
    /// No room.
    #[error(
        "{place}: the storage is full ({reason}): make room, or keep less (retention); nothing that was there is harmed"
    )]
    Full {
        /// The repository and where it is.
        place: String,
        /// The storage's words.
        reason: String,
    },
    /// The object is not there.
    #[error("{place}: there is no {object}")]
    NoObject {
        /// The repository and where it is.
        place: String,
        /// Its path.
        object: String,
    },
    /// Not reachable, too slow, or anything else.
    #[error("{place}: {reason}")]
    Failed {
        /// The repository and where it is.
        place: String,
        /// The storage's words.
        reason: String,
    },
}

impl StorageError {
    /// Whether the object is simply not there.
    pub fn is_no_object(&self) -> bool {
        matches!(self, Self::NoObject { .. })
    }
}

/// What OpenDAL says of an object, in our words.
pub(super) fn told(place: &str, path: &str, e: &opendal::Error) -> StorageError {
    // The innermost cause is what the storage said; the rest is what the library was about.
    let mut said = e.message().to_owned();
    let mut cause = std::error::Error::source(e);
    while let Some(inner) = cause {
        said = format!("{said}: {inner}");
        cause = inner.source();
    }
    let status = server_error(e);
    let place = place.to_owned();
    match e.kind() {
        ErrorKind::NotFound => StorageError::NoObject { place, object: path.into() },
        // Before what is refused: a quota is a 403 to some.
        _ if is_full(&said) || status == Some(INSUFFICIENT_STORAGE) => {
            StorageError::Full { place, reason: short(&said) }
        }
        ErrorKind::PermissionDenied => StorageError::Refused { place, reason: short(&said) },
        _ if status == Some(500) => {
            // Some answer with a page for people.
            let words = if said.trim_start().starts_with('<') {
                String::new()
            } else {
                format!(" ({})", short(&said))
            };
            let reason = format!("the server answered 500{words}: see its log, and whether its disk is full");
            StorageError::Failed { place, reason }
        }
        _ if said.contains("timeout") => StorageError::Failed { place, reason: UNANSWERED.into() },
        _ => StorageError::Failed { place, reason: short(&said) },
    }
}

/// The status of an HTTP response that is told with an error, when it says that the server failed.
fn server_error(e: &opendal::Error) -> Option<u16> {
    let text = e.to_string();
    let (_, status) = text.split_once("status: 5")?;
    status.get(..2)?.parse().ok().map(|rest: u16| 500 + rest)
}

/// A failure in the words of an I/O error.
pub(super) fn failed(place: &str, said: &str) -> StorageError {
    let (place, reason) = (place.to_owned(), short(said));
    if is_full(said) { StorageError::Full { place, reason } } else { StorageError::Failed { place, reason } }
}

fn short(said: &str) -> String {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

/// ENOSPC and EDQUOT in the words of the C library, of sftp-server and of S3.
fn is_full(said: &str) -> bool {
    ["No space left", "Disk quota exceeded", "StorageFull", "QuotaExceeded", "EntityTooLarge"]
        .iter()
        .any(|s| said.contains(s))
}
