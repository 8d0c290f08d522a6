//! Writing an object: whole or not at all, whatever happens in the middle.
//!
//! Where objects are renamed into their place, an attempt that fails is begun anew under another name. A writer that is tried again in the
//! middle would write a second time what it had written already.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use opendal::{ErrorKind, Operator};

use super::{Folder, PART, Storage, StorageError, UNFINISHED};

/// SFTP knows no error for this: OpenSSH's server answers a write that finds no room with SSH_FX_FAILURE and no words.
const SFTP_FAILURE: &str = "error kind Failure";

const FULL_BY_SFTP: &str = "the server took the file and not its content, and says no more than \"Failure\", as it does when its file system or \
                            a quota has no room";

/// An attempt that failed, and whether another may do better.
struct Attempt {
    error: StorageError,
    is_passing: bool,
}

impl Attempt {
    fn is_last(error: StorageError) -> Self {
        Self { error, is_passing: false }
    }
}

impl Storage {
    /// Writes an object that is not there yet. It is on disk, as far as the storage can tell, when this returns.
    pub async fn write(&self, path: &str, content: Bytes) -> Result<(), StorageError> {
        if !self.renames {
            // Each part is tried again by itself: S3 takes the last one of a number.
            return self.put(&self.operator, path, content).await.map_err(|a| a.error);
        }
        let mut pause = self.patience.pause;
        let mut attempts = 0;
        loop {
            let Err(failed) = self.attempt(path, content.clone()).await else { return Ok(()) };
            if !failed.is_passing || attempts == self.patience.retries {
                return Err(failed.error);
            }
            attempts += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
            // It may be in its place, and the answer alone was lost.
            let there = self.once.stat(path).await;
            if there.is_ok_and(|there| there.content_length() == content.len() as u64) {
                return Ok(());
            }
        }
    }

    async fn attempt(&self, path: &str, content: Bytes) -> Result<(), Attempt> {
        let unfinished = format!("{UNFINISHED}{}", unique());
        self.same_folder().await.map_err(Attempt::is_last)?;
        let written = match self.put(&self.once, &unfinished, content).await {
            Ok(()) => self.in_place(&unfinished, path).await,
            Err(e) => Err(e),
        };
        if written.is_err() {
            // What is left of it is in nobody's way, but for its room.
            let _ = self.once.delete(&unfinished).await;
        }
        written
    }

    /// Writes an object of which there must be one, and refuses when there is one already: of two who write at once one is refused. (SFTP
    /// knows no such thing; there it is looked up first.)
    pub async fn create(&self, path: &str, content: Bytes) -> Result<(), StorageError> {
        if let Some(folder) = &self.folder {
            let unfinished = format!("{UNFINISHED}{}", unique());
            self.same_folder().await?;
            let written = self.put(&self.once, &unfinished, content).await;
            let linked = match written {
                Ok(()) => self.linked(folder, &unfinished, path).await,
                Err(e) => Err(e.error),
            };
            let _ = self.once.delete(&unfinished).await;
            return linked;
        }
        if !self.renames && self.operator.info().capability().write_with_if_not_exists {
            let written = self.operator.write_with(path, content.clone()).if_not_exists(true).await;
            return match written {
                // Of an attempt before, whose answer was lost.
                Err(e) if e.kind() == ErrorKind::ConditionNotMatch && self.read(path).await? == content => {
                    Ok(())
                }
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
    async fn linked(&self, folder: &Folder, unfinished: &str, path: &str) -> Result<(), StorageError> {
        let unfinished = folder.path.join(unfinished);
        self.on_disk(&unfinished).await?;
        self.parent_of(path).await.map_err(|a| a.error)?;
        let there = folder.path.join(path);
        let named = there.clone();
        match self.blocking(move || std::fs::hard_link(unfinished, named)).await? {
            Ok(()) => self.on_disk(there.parent().unwrap_or(&folder.path)).await,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(self.is_there(path)),
            Err(e) => Err(self.failed(&e.to_string())),
        }
    }

    async fn parent_of(&self, path: &str) -> Result<(), Attempt> {
        let Some((parent, _)) = path.rsplit_once('/') else { return Ok(()) };
        self.once.create_dir(&format!("{parent}/")).await.map_err(|e| self.attempted(path, &e))
    }

    /// In parts, each of which has [`Patience::step`](super::Patience): in S3 a multipart upload, which is there when it is complete.
    async fn put(&self, operator: &Operator, path: &str, content: Bytes) -> Result<(), Attempt> {
        let wrong = |e: opendal::Error| match self.attempted(path, &e) {
            Attempt { error: StorageError::Failed { place, reason }, .. }
                if reason.contains(SFTP_FAILURE) =>
            {
                Attempt::is_last(StorageError::Full { place, reason: FULL_BY_SFTP.into() })
            }
            attempt => attempt,
        };
        let mut writer = operator.writer_with(path).chunk(PART).await.map_err(wrong)?;
        let written = match writer.write(content).await {
            Ok(()) => writer.close().await.map(drop),
            Err(e) => Err(e),
        };
        if written.is_err() && !self.renames {
            // Parts of an upload that is never completed are in no listing, and take room.
            let _ = writer.abort().await;
        }
        written.map_err(wrong)
    }

    async fn in_place(&self, unfinished: &str, path: &str) -> Result<(), Attempt> {
        if let Some(folder) = &self.folder {
            self.on_disk(&folder.path.join(unfinished)).await.map_err(Attempt::is_last)?;
        }
        self.parent_of(path).await?;
        self.once.rename(unfinished, path).await.map_err(|e| self.attempted(path, &e))?;
        let Some(folder) = &self.folder else { return Ok(()) };
        let parent = folder.path.join(path);
        self.on_disk(parent.parent().unwrap_or(&folder.path)).await.map_err(Attempt::is_last)?;
        // What went to where nothing is mounted any more is not kept.
        self.same_folder().await.map_err(Attempt::is_last)
    }

    /// fsync(2) of a file or of a folder's names.
    async fn on_disk(&self, path: &Path) -> Result<(), StorageError> {
        let path = path.to_owned();
        let synced = self.blocking(move || std::fs::File::open(path)?.sync_all()).await?;
        synced.map_err(|e| self.failed(&e.to_string()))
    }

    fn attempted(&self, path: &str, e: &opendal::Error) -> Attempt {
        let error = self.error(path, e);
        // ssh that cannot connect is no passing trouble to OpenDAL.
        let may_pass = e.is_temporary() || e.kind() == ErrorKind::Unexpected;
        let is_passing = may_pass && matches!(error, StorageError::Failed { .. });
        Attempt { error, is_passing }
    }
}

/// A name that no other write has, on this node or another.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}-{:x}-{}", std::process::id(), now.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}
