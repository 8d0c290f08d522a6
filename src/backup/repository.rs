//! Base copies and files in restic's format, by rustic's library: packed, sealed, deduplicated, checked. `restic` and `rustic` open it
//! with the cluster's key as the password.
//!
//! ```text
//! trivet.json        whose it is
//! key/age1….age      the key, sealed for the recovery key of that name
//! restic/            the repository
//! base/              the ids of base copies that were found whole
//! log/               the binary log (crate::log)
//! ```

mod backend;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use bytes::Bytes;
use rustic_core::repofile::{Chunker, IndexFile, SnapshotFile};
use rustic_core::{
    BackupOptions, CheckOptions, ConfigOptions, Credentials, FileType, KeyOptions, LocalDestination,
    LsOptions, OpenStatus, ParentOptions, PathList, PruneOptions, RepositoryBackends, RepositoryOptions,
    RestoreOptions, RusticError, SnapshotOptions, WriteBackend,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::runtime::Handle;

use trivet_base::disk::Space;
use trivet_keeper_api::gtid::GtidSet;

use crate::keys::Keys;
use crate::progress::{Bars, Watcher};
use crate::storage::{Storage, StorageError};
use backend::Backend;

/// What this program writes and reads. A later one is refused and left alone.
const FORMAT: u32 = 1;

const MARK: &str = "trivet.json";

/// The folder of the ids of base copies that were found whole.
const WHOLE: &str = "base/";

/// Where the key lies, sealed for this recovery key (`age1…`).
pub fn recovery_object(public: &str) -> String {
    format!("key/{public}.age")
}

/// Data files change in pages of 16 KiB, in place. Pieces of a fixed length stay where they are, so that only those with a changed page
/// are new; 512 KiB is the least that restic's index is made for.
const PIECE: bytesize::ByteSize = bytesize::ByteSize::kib(512);

/// Why a repository could not be opened, written or read. Nothing was changed by trying.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RepositoryError {
    /// The storage's trouble.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Somebody else's.
    #[error("{place} is that of cluster {theirs}, and this is {ours}: give each cluster a place of its own")]
    OtherCluster {
        /// The repository and where it is.
        place: String,
        /// Its cluster.
        theirs: String,
        /// This cluster.
        ours: String,
    },
    /// Made by a program that is newer.
    #[error(
        "{place} is in format {theirs}, and this program knows {FORMAT}: use the version of Trivet that wrote it, or a later one"
    )]
    Newer {
        /// The repository and where it is.
        place: String,
        /// Its format.
        theirs: u32,
    },
    /// It was there before.
    #[error(
        "{place} is empty, and this cluster has a repository there: is it mounted, is the bucket the right one? (A folder must be the same \
         on all nodes.) If it is gone for good: DELETE FROM trivet_cluster.repository WHERE id = '{id}' on the primary, and a new one is made"
    )]
    Vanished {
        /// The repository and where it is.
        place: String,
        /// Its id.
        id: String,
    },
    /// It belongs to a group that was there before this one.
    #[error(
        "{place} belongs to another history of this cluster, that of a group before this one was formed anew (from a restore or from empty \
         servers): give this one a folder or prefix of its own (repositories.{name}), and keep that one to restore from"
    )]
    OtherHistory {
        /// The repository and where it is.
        place: String,
        /// The repository's name.
        name: String,
    },
    /// It has what the group gave up.
    #[error(
        "{place} has transactions that the group gave up when it was bootstrapped by force ({given_up}); the group uses their numbers for \
         others. Give this cluster a folder or prefix of its own (repositories.{name}), and keep that one to restore from"
    )]
    GivenUp {
        /// The repository and where it is.
        place: String,
        /// The repository's name.
        name: String,
        /// The transactions.
        given_up: GtidSet,
    },
    /// The table could not be read.
    #[error("{place}: whether it belongs to this group could not be asked: {reason}")]
    Unknown {
        /// The repository and where it is.
        place: String,
        /// The primary's words.
        reason: String,
    },
    /// There is nothing.
    #[error("{place} is empty: nothing was backed up there yet")]
    Empty {
        /// The repository and where it is.
        place: String,
    },
    /// The password is another.
    #[error(
        "{place} is sealed with another key: give the key of the cluster that made it (key.identity_file), or open it with the recovery key \
         (--recovery-key FILE)"
    )]
    OtherKey {
        /// The repository and where it is.
        place: String,
    },
    /// Not as it was written.
    #[error(
        "{place} is damaged: {reason}. What other repositories have is not touched by this; `restic repair` may save the rest"
    )]
    Damaged {
        /// The repository and where it is.
        place: String,
        /// What is wrong with what.
        reason: String,
    },
    /// No such snapshot.
    #[error("{place} has no copy {wanted}; it has {there}")]
    NoCopy {
        /// The repository and where it is.
        place: String,
        /// What was asked for.
        wanted: String,
        /// Those that are there.
        there: String,
    },
    /// Anything else.
    #[error("{place}: {reason}")]
    Failed {
        /// The repository and where it is.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    format: u32,
    cluster: String,
    /// Its id in `trivet_cluster.repository` (crate::history).
    id: String,
}

/// A copy in the repository.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The first digits of its id, as restic shows it.
    pub id: String,
    /// When it was begun.
    pub time: OffsetDateTime,
    /// `base`, `files`.
    pub label: String,
    /// The node or cluster it is of.
    pub host: String,
    /// What the maker wrote beside it, JSON.
    pub description: Option<String>,
    /// Octets of what was copied.
    pub size: u64,
    /// Octets that it added to the storage.
    pub added: u64,
    pub(crate) snapshot: SnapshotFile,
}

impl From<SnapshotFile> for Copy {
    fn from(snapshot: SnapshotFile) -> Self {
        let summary = snapshot.summary.as_ref();
        Self {
            id: snapshot.id.to_string(),
            time: OffsetDateTime::from_unix_timestamp_nanos(snapshot.time.timestamp().as_nanosecond())
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            label: snapshot.label.clone(),
            host: snapshot.hostname.clone(),
            description: snapshot.description.clone(),
            size: summary.map_or(0, |s| s.total_bytes_processed),
            added: summary.map_or(0, |s| s.data_added_packed),
            snapshot,
        }
    }
}

/// An open repository. Its methods block: call them from threads that may.
pub struct Repository {
    /// The storage beneath.
    pub storage: Storage,
    name: String,
    id: String,
    handle: Handle,
    backend: Arc<Backend>,
    watcher: Watcher,
    credentials: Credentials,
    open: rustic_core::Repository<OpenStatus>,
}

/// How a repository is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Its id.
    pub id: String,
    /// rustic never deletes from it.
    pub append_only: bool,
}

impl Repository {
    /// Opens it for `cluster`, or for any cluster when that is `None` (a disaster's operator has only the storage and the key).
    pub fn open(
        name: &str,
        storage: Storage,
        keys: &Keys,
        cluster: Option<&str>,
        watcher: Watcher,
    ) -> Result<Self, RepositoryError> {
        let handle = Handle::current();
        let place = storage.place().to_owned();
        let text = match handle.block_on(storage.read(MARK)) {
            Ok(text) => text,
            Err(e) if e.is_no_object() => return Err(RepositoryError::Empty { place }),
            Err(e) => return Err(e.into()),
        };
        let damaged = |e: serde_json::Error| RepositoryError::Damaged {
            place: place.clone(),
            reason: format!("{MARK}: {e}"),
        };
        // A newer one may have other members beside this.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format > FORMAT {
            return Err(RepositoryError::Newer { place, theirs: format });
        }
        let mark: Mark = serde_json::from_slice(&text).map_err(damaged)?;
        if let Some(ours) = cluster.filter(|c| **c != mark.cluster) {
            return Err(RepositoryError::OtherCluster { place, theirs: mark.cluster, ours: ours.into() });
        }
        let backend = Arc::new(Backend::new(storage.clone(), handle.clone()));
        let credentials = keys.credentials(&mark.id);
        let wrong = |e: Box<RusticError>| told(&backend, &place, &e);
        let repository = unopened(&backend, &watcher).map_err(wrong)?;
        if repository.config_id().map_err(wrong)?.is_none() {
            return Err(RepositoryError::Damaged { place, reason: "restic/config is absent".into() });
        }
        let open = repository.open(&credentials).map_err(wrong)?;
        keys.has_opened(&mark.id, open.key());
        let credentials = Credentials::Masterkey(open.key());
        Ok(Self { storage, name: name.into(), id: mark.id, handle, backend, watcher, credentials, open })
    }

    /// Makes it, or goes on where an interrupted run has left off. The mark comes last: with it, all is there.
    pub fn make(
        name: &str,
        storage: Storage,
        keys: &Keys,
        cluster: &str,
        new: &New,
        watcher: Watcher,
    ) -> Result<Self, RepositoryError> {
        let handle = Handle::current();
        let place = storage.place().to_owned();
        let backend = Arc::new(Backend::new(storage.clone(), handle.clone()));
        let credentials = Credentials::password(keys.password().expose_secret());
        let wrong = |e: Box<RusticError>| told(&backend, &place, &e);
        let repository = unopened(&backend, &watcher).map_err(wrong)?;
        if repository.config_id().map_err(wrong)?.is_none() {
            keys.forget(&new.id);
            // A key without its repository would be tried for the one that is made now.
            let keys = handle.block_on(storage.list(&format!("{}keys/", backend::FOLDER)))?;
            for key in keys {
                handle.block_on(storage.delete(&key.path))?;
            }
            let config = ConfigOptions::default()
                .set_chunker(Chunker::FixedSize)
                .set_chunk_size(PIECE)
                .set_append_only(new.append_only);
            repository.init(&credentials, &KeyOptions::default(), &config).map_err(wrong)?;
        } else {
            repository.open(&credentials).map_err(wrong)?;
        }
        handle.block_on(seal(&storage, keys))?;
        let mark = Mark { format: FORMAT, cluster: cluster.into(), id: new.id.clone() };
        let text = serde_json::to_vec_pretty(&mark).unwrap_or_default();
        handle.block_on(storage.create(MARK, Bytes::from(text)))?;
        Self::open(name, storage, keys, Some(cluster), watcher)
    }

    /// Seals the key for a recovery key that has come since.
    pub async fn seal(&self, keys: &Keys) -> Result<(), RepositoryError> {
        Ok(seal(&self.storage, keys).await?)
    }

    /// Whether something is there that is in restic's format.
    pub async fn is_begun(storage: &Storage) -> Result<bool, RepositoryError> {
        Ok(storage.exists(&format!("{}config", backend::FOLDER)).await?)
    }

    /// rustic's steps use one up.
    fn again(&self) -> Result<rustic_core::Repository<OpenStatus>, RepositoryError> {
        // A storage's trouble that rustic got over is not that of what comes now.
        self.backend.take_error();
        unopened(&self.backend, &self.watcher)
            .and_then(|r| r.open(&self.credentials))
            .map_err(|e| self.told(&e))
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id in `trivet_cluster.repository`.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn told(&self, e: &RusticError) -> RepositoryError {
        told(&self.backend, self.storage.place(), e)
    }

    /// Copies a folder or files as a snapshot. Folders stand in it under their own names, or as `/` with `as_root`.
    pub fn copy(
        &self,
        paths: &[PathBuf],
        label: &str,
        host: &str,
        description: String,
        as_root: bool,
    ) -> Result<Copy, RepositoryError> {
        let wrong = |e: Box<RusticError>| self.told(&e);
        let open = self.again()?.to_indexed_ids().map_err(wrong)?;
        let snapshot = SnapshotOptions::default()
            .label(label.to_owned())
            .host(host.to_owned())
            .description(description)
            .to_snapshot()
            .map_err(wrong)?;
        let mut options = BackupOptions::default().parent_opts(ParentOptions::default().force(true));
        if as_root {
            options = options.as_path(PathBuf::from("/"));
        }
        let source = PathList::from_iter(paths.iter().cloned());
        self.backend.take_packs();
        let copy: Copy = match open.backup(&options, &source, snapshot) {
            Ok(copy) => copy.into(),
            Err(e) => {
                let error = self.told(&e);
                self.take_back();
                return Err(error);
            }
        };
        // rustic passes over what it cannot read, with a line in its log. Of a living folder that may be; a database has to be whole.
        if as_root {
            let there =
                paths.iter().try_fold((0, 0), |sum, path| measured(path).map(|m| (sum.0 + m.0, sum.1 + m.1)));
            let there =
                there.map_err(|e| self.failed(format!("what was copied cannot be looked at: {e}")))?;
            let copied = copy
                .snapshot
                .summary
                .as_ref()
                .map_or((0, 0), |s| (s.total_files_processed, s.total_bytes_processed));
            if copied != there {
                // Where nothing may be deleted it stays, and is never restored.
                let _ = self.open.delete_snapshots(&[copy.snapshot.id]);
                return Err(self.failed(format!(
                    "the copy has {} files and {} octets of {} and {}: not all could be read, and it is of no use",
                    copied.0, copied.1, there.0, there.1
                )));
            }
            let text = serde_json::json!({"files": copied.0, "octets": copied.1}).to_string();
            self.handle.block_on(self.storage.write(&whole(&copy), Bytes::from(text)))?;
        }
        Ok(copy)
    }

    /// Deletes the packs of a copy that has failed, but for those that an index has: the next one finds these and uses them. The others
    /// would fill a storage that is full with what nobody has, until two prunings later.
    fn take_back(&self) {
        let packs = self.backend.take_packs();
        if packs.is_empty() || self.open.config().append_only == Some(true) {
            return;
        }
        let indexed = self.open.stream_files::<IndexFile>().and_then(|files| {
            let mut indexed = HashSet::new();
            for file in files {
                let IndexFile { packs, packs_to_delete, .. } = file?.1;
                indexed.extend(packs.iter().chain(&packs_to_delete).map(|p| *p.id));
            }
            Ok(indexed)
        });
        // Of a storage that does not answer they stay: pruning finds them.
        let Ok(indexed) = indexed else { return };
        for pack in packs.iter().filter(|p| !indexed.contains(p)) {
            if self.backend.remove(FileType::Pack, pack, false).is_err() {
                break;
            }
        }
        self.backend.take_error();
    }

    fn failed(&self, reason: String) -> RepositoryError {
        RepositoryError::Failed { place: self.storage.place().into(), reason }
    }

    /// All copies with this label, the oldest first; base copies that are whole alone.
    pub fn copies(&self, label: &str) -> Result<Vec<Copy>, RepositoryError> {
        Ok(self.all(label)?.0)
    }

    /// All copies with this label, and beside them base copies that are not known to be whole: of runs that were interrupted, or that failed
    /// where nothing may be deleted. The oldest first.
    pub fn all(&self, label: &str) -> Result<(Vec<Copy>, Vec<Copy>), RepositoryError> {
        let copies = self.snapshots(label)?;
        if label != crate::base::LABEL {
            return Ok((copies, Vec::new()));
        }
        let whole_ones = self.handle.block_on(self.storage.list(WHOLE))?;
        Ok(copies.into_iter().partition(|c| whole_ones.iter().any(|o| o.path == whole(c))))
    }

    fn snapshots(&self, label: &str) -> Result<Vec<Copy>, RepositoryError> {
        self.backend.take_error();
        let mut snapshots = self.open.get_all_snapshots().map_err(|e| self.told(&e))?;
        snapshots.retain(|s| s.label == label);
        snapshots.sort_by(|a, b| a.time.cmp(&b.time));
        Ok(snapshots.into_iter().map(Copy::from).collect())
    }

    /// The storage, and all copies with this label, the oldest first.
    pub async fn into_copies(self, label: &'static str) -> Result<(Storage, Vec<Copy>), RepositoryError> {
        let (storage, (copies, _)) = self.into_all(label).await?;
        Ok((storage, copies))
    }

    /// The storage, and what [`all`](Self::all) returns.
    pub async fn into_all(
        self,
        label: &'static str,
    ) -> Result<(Storage, (Vec<Copy>, Vec<Copy>)), RepositoryError> {
        let storage = self.storage.clone();
        let copies = blocking(storage.place(), move || self.all(label)).await?;
        Ok((storage, copies))
    }

    /// Brings a copy's files into a directory, which is made when it is not there, and must be empty. Owners are those who restore.
    pub fn fetch(&self, copy: &Copy, into: &Path) -> Result<(), RepositoryError> {
        if std::fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(self.failed(format!(
                "{}: is not empty; nothing was restored. Give a directory that is new",
                into.display()
            )));
        }
        let wrong = |e: Box<RusticError>| self.told(&e);
        let open = self.again()?.to_indexed().map_err(wrong)?;
        let node = open.node_from_snapshot_and_path(&copy.snapshot, "").map_err(wrong)?;
        let ls = open.ls(&node, &LsOptions::default()).map_err(wrong)?;
        let destination =
            LocalDestination::new(&format!("{}/", into.display()), true, false).map_err(wrong)?;
        let options = RestoreOptions::default().no_ownership(true);
        let plan = open.prepare_restore(&options, ls.clone(), &destination, false).map_err(wrong)?;
        if let Some(Space { free, .. }) = Space::of(into).ok().filter(|space| space.free < plan.restore_size)
        {
            return Err(self.failed(format!(
                "{}: {} are needed and {} are free; nothing was restored. Give a directory with more room",
                into.display(),
                bytesize::ByteSize(plan.restore_size),
                bytesize::ByteSize(free)
            )));
        }
        // rustic's threads panic when they cannot read or write.
        let restored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            open.restore(plan, &options, ls, &destination)
        }));
        match restored {
            Ok(restored) => restored.map_err(wrong)?,
            Err(panic) => return Err(self.panicked(into, &*panic)),
        }
        // As mysqld has it: data is for whoever runs the server.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
        std::fs::set_permissions(into, mode).map_err(|e| self.failed(format!("{}: {e}", into.display())))
    }

    /// What ended a restore: the storage's words when it was the storage.
    fn panicked(&self, into: &Path, panic: &(dyn std::any::Any + Send)) -> RepositoryError {
        if let Some(e) = self.backend.take_error() {
            return below(self.storage.place(), e);
        }
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason was told");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        self.failed(format!("{}: the files could not be written or read: {said}", into.display()))
    }

    /// What was begun with this repository ends soon, with an error, when what this returns is dropped.
    pub fn ends_with(&self) -> impl Send + use<> {
        struct Ends(Arc<Backend>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        Ends(self.backend.clone())
    }

    /// Reads everything that is there, and compares it with its checksums.
    pub fn check(&self) -> Result<(), RepositoryError> {
        self.backend.take_error();
        let options = CheckOptions::default().read_data(true);
        let results = self.open.check(options).map_err(|e| self.told(&e))?;
        results.is_ok().map_err(|e| RepositoryError::Damaged {
            place: self.storage.place().into(),
            reason: one_line(&e),
        })
    }

    /// Takes these copies away, and the data that no other has.
    pub fn forget(&self, copies: &[Copy]) -> Result<(), RepositoryError> {
        let wrong = |e: Box<RusticError>| self.told(&e);
        self.backend.take_error();
        let ids: Vec<_> = copies.iter().map(|c| c.snapshot.id).collect();
        for copy in copies.iter().filter(|c| c.label == crate::base::LABEL) {
            self.handle.block_on(self.storage.delete(&whole(copy)))?;
        }
        if !ids.is_empty() {
            self.open.delete_snapshots(&ids).map_err(wrong)?;
        }
        // In two steps, as rustic does it: what is unused now is deleted by a later run, so that a copy that is being made keeps what
        // it refers to.
        let options = PruneOptions::default();
        let plan = self.open.prune_plan(&options).map_err(wrong)?;
        self.open.prune(&options, plan).map_err(wrong)
    }
}

async fn seal(storage: &Storage, keys: &Keys) -> Result<(), StorageError> {
    let Some((public, sealed)) = keys.sealed_for_recovery() else { return Ok(()) };
    let object = recovery_object(&public);
    if !storage.exists(&object).await? {
        storage.write(&object, sealed).await?;
    }
    Ok(())
}

/// What says that a base copy is whole.
fn whole(copy: &Copy) -> String {
    format!("{WHOLE}{}.json", &*copy.snapshot.id.to_hex())
}

/// How many files are in a folder and below, and their octets.
fn measured(folder: &Path) -> std::io::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let seen = entry.metadata()?;
        if seen.is_dir() {
            let inner = measured(&entry.path())?;
            sum = (sum.0 + inner.0, sum.1 + inner.1);
        } else if seen.is_file() {
            sum = (sum.0 + 1, sum.1 + seen.len());
        }
    }
    Ok(sum)
}

/// Waits for work with rustic on a thread that may wait.
pub async fn blocking<T, E>(place: &str, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<RepositoryError> + Send + 'static,
{
    let place = place.to_owned();
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(RepositoryError::Failed { place, reason: e.to_string() }.into()))
}

fn unopened(
    backend: &Arc<Backend>,
    watcher: &Watcher,
) -> Result<rustic_core::Repository<()>, Box<RusticError>> {
    let backends = RepositoryBackends::new(backend.clone(), None);
    let options = RepositoryOptions::default().no_cache(true);
    rustic_core::Repository::new_with_progress(&options, &backends, Bars(watcher.clone()))
}

/// What rustic could not read or write.
fn below(place: &str, e: StorageError) -> RepositoryError {
    match e {
        StorageError::NoObject { object, .. } => {
            RepositoryError::Damaged { place: place.into(), reason: format!("{object} is absent") }
        }
        e => e.into(),
    }
}

fn told(backend: &Backend, place: &str, e: &RusticError) -> RepositoryError {
    // The storage's own words are clearer than those of whoever used it.
    if let Some(storage) = backend.take_error() {
        return below(place, storage);
    }
    let place = place.to_owned();
    if e.is_incorrect_password() {
        return RepositoryError::OtherKey { place };
    }
    let reason = one_line(e);
    if reason.contains("MAC check failed") || reason.contains("erification") {
        return RepositoryError::Damaged { place, reason };
    }
    RepositoryError::Failed { place, reason }
}

/// rustic's errors are pages; the message is the line that matters, of it and of each cause.
fn one_line(e: &RusticError) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = Some(e);
    while let Some(inner) = cause {
        let text = inner.to_string();
        let message = text.split_once("Message:\n").map_or(text.as_str(), |(_, rest)| rest);
        let message = message.split("\n\n").next().unwrap_or(message);
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        if !said.contains(&message) {
            said.push(message.trim_end_matches('.').to_owned());
        }
        cause = inner.source();
    }
    said.join(": ")
}
