//! Where backups lie: a folder, a bucket, a folder of another machine. One way to write, read, list and delete objects, whichever it
//! is, by OpenDAL.
//!
//! An object is there whole or not at all, and is never changed after that.

#[cfg(test)]
mod tests;

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::options::ReadOptions;
use opendal::{ErrorKind, Operator, services};
use time::OffsetDateTime;

use trivet_tls::private;

use crate::config::{Repository, S3, Sftp};

/// One step at the storage takes no longer; a file is sent in many.
const STEP: Duration = Duration::from_secs(30);

/// A large object is written in parts of this: within [`STEP`] on 2 Mbit/s, and S3 allows none that are below 5 MiB.
const PART: usize = 5 << 20;

/// Passing troubles (a 503, a connection that breaks) are tried again so many times, a second apart and more.
const RETRIES: usize = 3;

/// Unfinished objects; what is older than a day in here is of nobody.
const UNFINISHED: &str = "tmp/";

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

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its path from the root of the storage, `log/20260102/…`.
    pub path: String,
    /// Octets.
    pub size: u64,
}

/// One place. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    operator: Operator,
    place: String,
    location: String,
    folder: Option<PathBuf>,
    /// A key that had to be copied, as long as it is used.
    _key: Option<Arc<tempfile::TempPath>>,
    /// Without this, a written object is whole by itself (S3).
    renames: bool,
}

impl Storage {
    /// `name` is the repository's, for messages. Nothing is asked of the storage yet, but that a folder must exist: a disk that is not
    /// mounted must not be taken for an empty one.
    pub fn open(name: &str, repository: &Repository) -> Result<Self, StorageError> {
        if let Some(folder) = &repository.folder {
            return Self::folder(name, folder);
        }
        if let Some(s3) = &repository.s3 {
            return Self::s3(name, s3);
        }
        match &repository.sftp {
            Some(sftp) => Self::sftp(name, sftp),
            None => {
                Err(StorageError::Absent { place: name.into(), reason: "the repository has no place".into() })
            }
        }
    }

    fn folder(name: &str, folder: &Path) -> Result<Self, StorageError> {
        let place = format!("repository {name} in {}", folder.display());
        if !folder.is_dir() {
            let reason = "there is no such folder: make it, or mount the disk it is on".into();
            return Err(StorageError::Absent { place, reason });
        }
        let root = folder.to_string_lossy();
        let service = services::Fs::default().root(&root);
        Self::build(place, folder.display().to_string(), Some(folder.into()), true, Operator::new(service))
    }

    fn s3(name: &str, s3: &S3) -> Result<Self, StorageError> {
        let prefix = s3.prefix.trim_matches('/');
        let location = format!("{}/{}/{prefix}", s3.endpoint.trim_end_matches('/'), s3.bucket);
        let inside = if prefix.is_empty() { String::new() } else { format!("{prefix} of ") };
        let place = format!("repository {name} in {inside}bucket {} at {}", s3.bucket, s3.endpoint);
        let secret = |file: &Path| {
            let text = private::password(file);
            text.map_err(|e| StorageError::Absent { place: place.clone(), reason: e.to_string() })
        };
        // The HTTP client of all services that speak HTTP; once is enough, and more do no harm.
        opendal::install_default();
        let service = services::S3::default()
            .bucket(&s3.bucket)
            .endpoint(&s3.endpoint)
            .region(&s3.region)
            .root(&format!("/{prefix}"))
            .access_key_id(&secret(&s3.access_key_file)?)
            .secret_access_key(&secret(&s3.secret_key_file)?)
            // What the files say, and nothing that lies about in the environment.
            .disable_config_load()
            .disable_ec2_metadata();
        Self::build(place, location, None, false, Operator::new(service))
    }

    fn sftp(name: &str, sftp: &Sftp) -> Result<Self, StorageError> {
        let place = format!("repository {name} at {}@{}:{}", sftp.user, sftp.host, sftp.path);
        let host = if sftp.host.contains(':') { format!("[{}]", sftp.host) } else { sftp.host.clone() };
        let location =
            format!("sftp://{}@{host}:{}/{}", sftp.user, sftp.port, sftp.path.trim_end_matches('/'));
        let service = services::Sftp::default()
            .endpoint(&format!("ssh://{host}:{}", sftp.port))
            .user(&sftp.user)
            .root(&sftp.path)
            .known_hosts_strategy("strict");
        let copied = private_key(&sftp.key_file).map_err(|e| StorageError::Absent {
            place: place.clone(),
            reason: format!("{}: cannot be read: {e}", sftp.key_file.display()),
        })?;
        let key = copied.as_deref().unwrap_or(&sftp.key_file);
        let service = service.key(&key.to_string_lossy());
        let storage = Self::build(place, location, None, true, Operator::new(service))?;
        Ok(Self { _key: copied.map(Arc::new), ..storage })
    }

    fn build(
        place: String,
        location: String,
        folder: Option<PathBuf>,
        renames: bool,
        operator: opendal::Result<Operator>,
    ) -> Result<Self, StorageError> {
        let operator = operator
            .map_err(|e| StorageError::Failed { place: place.clone(), reason: e.message().into() })?;
        let operator = operator
            .layer(TimeoutLayer::new().with_timeout(STEP).with_io_timeout(STEP))
            .layer(RetryLayer::new().with_max_times(RETRIES).with_jitter());
        Ok(Self { operator, place, location, folder, _key: None, renames })
    }

    /// For nothing that should last.
    #[cfg(test)]
    pub fn in_memory(name: &str) -> Self {
        let place = format!("repository {name} in memory");
        Self::build(place, name.into(), None, false, Operator::new(services::Memory::default()))
            .unwrap_or_else(|e| unreachable!("{e}"))
    }

    /// The repository and where it is, as messages name it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where it is, without the repository's name: the same for all who mean the same place.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The whole object.
    pub async fn read(&self, path: &str) -> Result<Bytes, StorageError> {
        self.operator.read(path).await.map(|b| b.to_bytes()).map_err(|e| self.error(path, &e))
    }

    /// `length` octets from `offset`.
    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let options =
            ReadOptions { range: (offset..offset.saturating_add(length)).into(), ..ReadOptions::default() };
        self.operator
            .read_options(path, options)
            .await
            .map(|b| b.to_bytes())
            .map_err(|e| self.error(path, &e))
    }

    /// Writes an object that is not there yet. It is on disk, as far as the storage can tell, when this returns.
    pub async fn write(&self, path: &str, content: Bytes) -> Result<(), StorageError> {
        if !self.renames {
            return self.put(path, content).await.map_err(|e| self.error(path, &e));
        }
        let unfinished = format!("{UNFINISHED}{}", unique());
        let written = self.put(&unfinished, content).await;
        let written = match written {
            Ok(()) => self.in_place(&unfinished, path).await,
            Err(e) => Err(self.error(path, &e)),
        };
        if written.is_err() {
            // What is left of it is in nobody's way, but for its room.
            let _ = self.operator.delete(&unfinished).await;
        }
        written
    }

    /// Writes an object of which there must be one, and refuses when there is one already: of two who write at once one is refused. (SFTP
    /// knows no such thing; there it is looked up first.)
    pub async fn create(&self, path: &str, content: Bytes) -> Result<(), StorageError> {
        if let Some(folder) = &self.folder {
            let unfinished = format!("{UNFINISHED}{}", unique());
            let written = self.operator.write(&unfinished, content).await.map(drop);
            let linked = match written.map_err(|e| self.error(path, &e)) {
                Ok(()) => self.linked(folder, &unfinished, path).await,
                Err(e) => Err(e),
            };
            let _ = self.operator.delete(&unfinished).await;
            return linked;
        }
        if !self.renames && self.operator.info().capability().write_with_if_not_exists {
            let written = self.operator.write_with(path, content).if_not_exists(true).await;
            return match written {
                Err(e) if e.kind() == ErrorKind::ConditionNotMatch => Err(self.is_there(path)),
                written => written.map(drop).map_err(|e| self.error(path, &e)),
            };
        }
        if self.exists(path).await? {
            return Err(self.is_there(path));
        }
        self.write(path, content).await
    }

    fn is_there(&self, path: &str) -> StorageError {
        self.failed(&format!("{path} is there already: somebody else has just made it"))
    }

    /// link(2) makes no second name where there is one.
    async fn linked(&self, folder: &Path, unfinished: &str, path: &str) -> Result<(), StorageError> {
        let unfinished = folder.join(unfinished);
        self.on_disk(unfinished.clone()).await?;
        self.parent_of(path).await?;
        let there = folder.join(path);
        let named = there.clone();
        let linked = tokio::task::spawn_blocking(move || std::fs::hard_link(unfinished, named)).await;
        match linked.map_err(std::io::Error::other).flatten() {
            Ok(()) => self.on_disk(there.parent().unwrap_or(folder).into()).await,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(self.is_there(path)),
            Err(e) => Err(self.failed(&e.to_string())),
        }
    }

    async fn parent_of(&self, path: &str) -> Result<(), StorageError> {
        let Some((parent, _)) = path.rsplit_once('/') else { return Ok(()) };
        self.operator.create_dir(&format!("{parent}/")).await.map_err(|e| self.error(path, &e))
    }

    /// In parts, each of which has [`STEP`]: in S3 a multipart upload, which is there when it is complete.
    async fn put(&self, path: &str, content: Bytes) -> opendal::Result<()> {
        self.operator.write_with(path, content).chunk(PART).await.map(drop)
    }

    async fn in_place(&self, unfinished: &str, path: &str) -> Result<(), StorageError> {
        if let Some(folder) = &self.folder {
            self.on_disk(folder.join(unfinished)).await?;
        }
        self.parent_of(path).await?;
        self.operator.rename(unfinished, path).await.map_err(|e| self.error(path, &e))?;
        match &self.folder {
            Some(folder) => self.on_disk(folder.join(path).parent().unwrap_or(folder).into()).await,
            None => Ok(()),
        }
    }

    /// fsync(2) of a file or of a folder's names.
    async fn on_disk(&self, path: PathBuf) -> Result<(), StorageError> {
        tokio::task::spawn_blocking(move || std::fs::File::open(path)?.sync_all())
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|e| self.failed(&e.to_string()))
    }

    /// All objects below a folder (`log/`), in the order of their paths. None when there is no such folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, StorageError> {
        let listed = match self.operator.list_with(folder).recursive(true).await {
            Ok(listed) => listed,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.error(folder, &e)),
        };
        let mut objects = Vec::with_capacity(listed.len());
        for entry in listed.into_iter().filter(|e| e.metadata().is_file()) {
            // Not every service tells the size in a listing.
            let size = match entry.metadata().content_length() {
                0 => self
                    .operator
                    .stat(entry.path())
                    .await
                    .map_err(|e| self.error(entry.path(), &e))?
                    .content_length(),
                size => size,
            };
            objects.push(Object { path: entry.path().to_owned(), size });
        }
        objects.sort();
        Ok(objects)
    }

    /// The names of the folders in a folder, `20260102`; none when there is no such folder.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let listed = match self.operator.list(folder).await {
            Ok(listed) => listed,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.error(folder, &e)),
        };
        let mut names: Vec<String> = listed
            .iter()
            .filter(|e| e.metadata().is_dir() && e.path() != folder)
            .map(|e| e.name().trim_end_matches('/').to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.operator.delete(path).await.map_err(|e| self.error(path, &e))
    }

    /// Removes unfinished objects that nobody has written to for so long.
    pub async fn sweep(&self, idle: Duration) -> Result<(), StorageError> {
        if !self.renames {
            return Ok(());
        }
        let oldest = OffsetDateTime::now_utc() - idle;
        for object in self.list(UNFINISHED).await? {
            let seen = match self.operator.stat(&object.path).await {
                Ok(seen) => seen,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(self.error(&object.path, &e)),
            };
            let seconds = seen.last_modified().map(|t| t.into_inner().as_second());
            if seconds.is_some_and(|s| s < oldest.unix_timestamp()) {
                self.delete(&object.path).await?;
            }
        }
        Ok(())
    }

    /// Whether there is such an object.
    pub async fn exists(&self, path: &str) -> Result<bool, StorageError> {
        self.operator.exists(path).await.map_err(|e| self.error(path, &e))
    }

    fn failed(&self, reason: &str) -> StorageError {
        let place = self.place.clone();
        let reason = reason.to_owned();
        if is_full(&reason) {
            StorageError::Full { place, reason }
        } else {
            StorageError::Failed { place, reason }
        }
    }

    fn error(&self, path: &str, e: &opendal::Error) -> StorageError {
        let place = self.place.clone();
        // The innermost cause is what the storage said; the rest is what the library was about.
        let mut said = e.message().to_owned();
        let mut cause = std::error::Error::source(e);
        while let Some(inner) = cause {
            said = format!("{said}: {inner}");
            cause = inner.source();
        }
        match e.kind() {
            ErrorKind::NotFound => StorageError::NoObject { place, object: path.into() },
            ErrorKind::PermissionDenied => StorageError::Refused { place, reason: said },
            _ if is_full(&said) => StorageError::Full { place, reason: said },
            _ => StorageError::Failed { place, reason: said },
        }
    }
}

/// ssh takes no key that others can read when it is one's own file, and a credential of a service is root's and its group's: a copy, then.
fn private_key(file: &Path) -> std::io::Result<Option<tempfile::TempPath>> {
    let seen = std::fs::metadata(file)?;
    if seen.uid() != rustix::process::geteuid().as_raw() || seen.mode() & 0o077 == 0 {
        return Ok(None);
    }
    let mut copy = tempfile::NamedTempFile::new()?;
    copy.write_all(&std::fs::read(file)?)?;
    Ok(Some(copy.into_temp_path()))
}

/// ENOSPC and EDQUOT in the words of the C library, of sftp-server and of S3.
fn is_full(said: &str) -> bool {
    ["No space left", "Disk quota exceeded", "StorageFull", "QuotaExceeded", "EntityTooLarge"]
        .iter()
        .any(|s| said.contains(s))
}

/// A name that no other write has, on this node or another.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}-{:x}-{}", std::process::id(), now.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}
