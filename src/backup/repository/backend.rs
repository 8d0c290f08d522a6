//! restic's objects in our storage.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use tokio::runtime::Handle;

use crate::storage::{Storage, StorageError};

/// The folder of the repository in the storage.
pub(super) const FOLDER: &str = "restic/";

#[derive(Debug)]
pub(super) struct Backend {
    storage: Storage,
    handle: Handle,
    /// rustic tells of errors in words only.
    error: Mutex<Option<StorageError>>,
    has_ended: AtomicBool,
    /// Packs that were written, or of which a part may have been.
    packs: Mutex<Vec<Id>>,
}

impl Backend {
    /// Its methods are called from threads of rustic's, which wait.
    pub(super) fn new(storage: Storage, handle: Handle) -> Self {
        Self {
            storage,
            handle,
            error: Mutex::new(None),
            has_ended: AtomicBool::new(false),
            packs: Mutex::default(),
        }
    }

    /// The storage's last trouble, once.
    pub(super) fn take_error(&self) -> Option<StorageError> {
        self.error.lock().take()
    }

    /// The packs that were written since this was asked last.
    pub(super) fn take_packs(&self) -> Vec<Id> {
        std::mem::take(&mut self.packs.lock())
    }

    /// From here on nothing is read or written.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, StorageError>>) -> RusticResult<T> {
        if self.has_ended.load(Ordering::Relaxed) {
            return Err(RusticError::new(ErrorKind::Backend, "it was interrupted"));
        }
        self.handle.block_on(work).map_err(|e| {
            let told = RusticError::new(ErrorKind::Backend, e.to_string());
            *self.error.lock() = Some(e);
            told
        })
    }
}

/// As restic lays them out.
fn path(kind: FileType, id: &Id) -> String {
    let hex = id.to_hex();
    match kind {
        FileType::Config => format!("{FOLDER}config"),
        FileType::Pack => format!("{FOLDER}data/{}/{}", &hex[..2], &*hex),
        _ => format!("{FOLDER}{}/{}", kind.dirname(), &*hex),
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.storage.place().into()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        if kind == FileType::Config {
            let there = self.run(self.storage.exists(&path(kind, &Id::default())))?;
            return Ok(if there { vec![(Id::default(), 0)] } else { Vec::new() });
        }
        let objects = self.run(self.storage.list(&format!("{FOLDER}{}/", kind.dirname())))?;
        Ok(objects
            .iter()
            .filter_map(|o| {
                let id = o.path.rsplit('/').next()?.parse().ok()?;
                Some((id, u32::try_from(o.size).unwrap_or(u32::MAX)))
            })
            .collect())
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        self.run(self.storage.read(&path(kind, id)))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.run(self.storage.read_range(&path(kind, id), offset.into(), length.into()))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        path(kind, id)
    }
}

impl WriteBackend for Backend {
    fn write_bytes(&self, kind: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        let mut parts = content.into_vec();
        let content = match parts.len() {
            1 => parts.remove(0),
            _ => parts.concat().into(),
        };
        if kind == FileType::Config {
            // Of two who make a repository at once one would lose the key to the other's.
            return self.run(self.storage.create(&path(kind, id), content));
        }
        if kind == FileType::Pack {
            self.packs.lock().push(*id);
        }
        self.run(self.storage.write(&path(kind, id), content))
    }

    fn remove(&self, kind: FileType, id: &Id, _: bool) -> RusticResult<()> {
        self.run(self.storage.delete(&path(kind, id)))
    }
}
