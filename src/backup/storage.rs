//! Where backups lie: a folder, a bucket, a folder of another machine. One way to write, read, list and delete objects, whichever it
//! is, by OpenDAL.
//!
//! An object is there whole or not at all, and is never changed after that.

mod error;
#[cfg(test)]
mod tests;
mod write;

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::{Buffer, ErrorKind, Operator, services};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout, timeout_at};

use trivet_tls::private;

use crate::config::{Repository, S3, Sftp};

pub use error::StorageError;

/// A large object is written in parts of this: S3 allows none that are below 5 MiB.
const PART: usize = 5 << 20;

/// For how long a storage is waited for that is slow or silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// One step takes no longer; an object is sent in many.
    pub step: Duration,
    /// Passing troubles (a 503, a connection that breaks) are tried again so many times.
    pub retries: usize,
    /// Before the first of these; before each further one twice as long as before the last.
    pub pause: Duration,
    /// What is read comes at so many octets a second, or is given up.
    pub slowest: u64,
}

impl Default for Patience {
    fn default() -> Self {
        // A part within a step on 2 Mbit/s, and nothing slower than that.
        let step = Duration::from_secs(30);
        Self { step, retries: 3, pause: Duration::from_secs(1), slowest: PART as u64 / step.as_secs() }
    }
}

impl Patience {
    /// Within which so many octets have to have been read: a storage that sends an octet now and then would else be waited for without end.
    fn reading(&self, octets: u64) -> Duration {
        let tries = u32::try_from(self.retries).unwrap_or(u32::MAX).saturating_add(2);
        self.step.saturating_mul(tries) + Duration::from_secs(octets / self.slowest)
    }
}

/// Unfinished objects; what is older than a day in here is of nobody.
const UNFINISHED: &str = "tmp/";

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
    /// Without retries.
    once: Operator,
    patience: Patience,
    place: String,
    location: String,
    folder: Option<Folder>,
    /// A key that had to be copied, as long as it is used.
    _key: Option<Arc<tempfile::TempPath>>,
    /// Without this, a written object is whole by itself (S3).
    renames: bool,
}

/// A folder, and which one its path named when it was opened.
#[derive(Debug, Clone)]
struct Folder {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

fn identity(folder: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(folder).map(|seen| (seen.dev(), seen.ino()))
}

impl Storage {
    /// `name` is the repository's, for messages. Nothing is asked of the storage yet, but that a folder must exist: a disk that is not
    /// mounted must not be taken for an empty one.
    pub fn open(name: &str, repository: &Repository) -> Result<Self, StorageError> {
        Self::open_with(name, repository, Patience::default())
    }

    /// [`open`](Self::open) with another patience than a site has.
    pub(crate) fn open_with(
        name: &str,
        repository: &Repository,
        patience: Patience,
    ) -> Result<Self, StorageError> {
        if let Some(folder) = &repository.folder {
            return Self::folder(name, folder, patience);
        }
        if let Some(s3) = &repository.s3 {
            return Self::s3(name, s3, patience);
        }
        match &repository.sftp {
            Some(sftp) => Self::sftp(name, sftp, patience),
            None => {
                Err(StorageError::Absent { place: name.into(), reason: "the repository has no place".into() })
            }
        }
    }

    fn folder(name: &str, path: &Path, patience: Patience) -> Result<Self, StorageError> {
        let place = format!("repository {name} in {}", path.display());
        let identity = match identity(path) {
            Ok(identity) if path.is_dir() => identity,
            _ => {
                let reason = "there is no such folder: make it, or mount the disk it is on".into();
                return Err(StorageError::Absent { place, reason });
            }
        };
        let service = services::Fs::default().root(&path.to_string_lossy());
        let folder = Some(Folder { path: path.into(), identity });
        Self::build(place, path.display().to_string(), folder, true, Operator::new(service), patience)
    }

    fn s3(name: &str, s3: &S3, patience: Patience) -> Result<Self, StorageError> {
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
        Self::build(place, location, None, false, Operator::new(service), patience)
    }

    fn sftp(name: &str, sftp: &Sftp, patience: Patience) -> Result<Self, StorageError> {
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
        let storage = Self::build(place, location, None, true, Operator::new(service), patience)?;
        Ok(Self { _key: copied.map(Arc::new), ..storage })
    }

    fn build(
        place: String,
        location: String,
        folder: Option<Folder>,
        renames: bool,
        operator: opendal::Result<Operator>,
        patience: Patience,
    ) -> Result<Self, StorageError> {
        let operator = operator
            .map_err(|e| StorageError::Failed { place: place.clone(), reason: e.message().into() })?;
        let Patience { step, retries, pause, .. } = patience;
        let once = operator.layer(TimeoutLayer::new().with_timeout(step).with_io_timeout(step));
        let retrying = RetryLayer::new().with_max_times(retries).with_min_delay(pause).with_jitter();
        let operator = once.clone().layer(retrying);
        Ok(Self { operator, once, patience, place, location, folder, _key: None, renames })
    }

    /// For nothing that should last.
    #[cfg(test)]
    pub fn in_memory(name: &str) -> Self {
        let place = format!("repository {name} in memory");
        let service = Operator::new(services::Memory::default());
        Self::build(place, name.into(), None, false, service, Patience::default())
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
        self.fetch(path, 0, None).await
    }

    /// `length` octets from `offset`.
    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        self.fetch(path, offset, Some(length)).await
    }

    async fn fetch(&self, path: &str, offset: u64, length: Option<u64>) -> Result<Bytes, StorageError> {
        let read = self.stream(path, offset, length).await;
        if read.as_ref().is_err_and(StorageError::is_no_object) {
            self.same_folder().await?;
        }
        read
    }

    async fn stream(&self, path: &str, offset: u64, length: Option<u64>) -> Result<Bytes, StorageError> {
        let wrong = |e: opendal::Error| self.error(path, &e);
        let begun = Instant::now();
        let reader = self.operator.reader(path).await.map_err(wrong)?;
        let mut stream = match length {
            Some(length) => reader.into_stream(offset..offset.saturating_add(length)).await,
            None => reader.into_stream(offset..).await,
        }
        .map_err(wrong)?;
        let (mut parts, mut octets) = (Vec::new(), 0);
        loop {
            let until = begun + self.patience.reading(octets);
            let Ok(next) = timeout_at(until, stream.try_next()).await else {
                return Err(self.failed(&format!(
                    "of {path} {octets} octets have come within {} s: it is too slow; see that it is not overloaded, and what the network \
                     to it does",
                    begun.elapsed().as_secs()
                )));
            };
            let Some(part) = next.map_err(wrong)? else { break };
            octets += part.len() as u64;
            parts.push(part);
        }
        Ok(parts.into_iter().flatten().collect::<Buffer>().to_bytes())
    }

    /// That the folder's path names the one that was opened: when its disk is unmounted, what is beneath must not be taken for it.
    async fn same_folder(&self) -> Result<(), StorageError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let identity = self.blocking(move || identity(&folder.path).map(|i| i == folder.identity)).await?;
        match identity {
            Ok(true) => Ok(()),
            _ => Err(StorageError::Absent {
                place: self.place.clone(),
                reason: "is not the folder any more that it was: the disk it is on was unmounted or mounted anew; see that it is mounted"
                    .into(),
            }),
        }
    }

    /// What asks the kernel of files, and may wait for them as long as a step.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<std::io::Result<T>, StorageError> {
        match timeout(self.patience.step, tokio::task::spawn_blocking(work)).await {
            Ok(done) => Ok(done.map_err(std::io::Error::other).flatten()),
            Err(_) => Err(self.failed(error::UNANSWERED)),
        }
    }

    /// All objects below a folder (`log/`), in the order of their paths. None when there is no such folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, StorageError> {
        self.same_folder().await?;
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
        self.same_folder().await?;
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
        error::failed(&self.place, reason)
    }

    fn error(&self, path: &str, e: &opendal::Error) -> StorageError {
        error::told(&self.place, path, e)
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
