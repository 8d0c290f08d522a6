//! The storages that `tests/storage` has made, each on a small file system of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::proxy::Proxy;
use crate::config::{Repository, S3, Sftp};
use crate::storage::{Patience, Storage};

/// A file system that is larger is none that was made for this.
const LARGEST: u64 = 256 << 20;

/// Long enough for a good network on a busy machine, short enough to be waited for.
pub const PATIENCE: Patience = Patience {
    step: Duration::from_secs(3),
    retries: 2,
    pause: Duration::from_millis(100),
    slowest: 1 << 20,
};

/// One storage, empty, the proxy on the way to it, and the file system beneath.
#[derive(Debug)]
pub struct Place {
    /// For messages.
    pub kind: &'static str,
    /// None before a folder.
    pub proxy: Option<Proxy>,
    repository: Repository,
    disk: PathBuf,
    _credentials: TempDir,
}

/// A variable of `tests/storage`; without it the test has nothing to run against.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    if value.is_none() {
        println!("SKIPPED: {name} is not set; tests/storage sets it");
    }
    value
}

/// A number that no other place has, so that each is empty.
fn number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// All that are there.
pub async fn all() -> Vec<Place> {
    let mut places = Vec::new();
    places.extend(folder());
    places.extend(over_network().await);
    places
}

/// Those with a network between.
pub async fn over_network() -> Vec<Place> {
    let mut places = Vec::new();
    places.extend(sftp().await);
    places.extend(s3().await);
    places
}

/// A folder.
pub fn folder() -> Option<Place> {
    let disk = small(variable("TRIVET_TEST_FOLDER")?);
    let path = disk.join(format!("repository-{}", number()));
    fs::create_dir(&path).unwrap();
    let repository = Repository { folder: Some(path), s3: None, sftp: None, append_only: false };
    Some(Place { kind: "folder", proxy: None, repository, disk, _credentials: TempDir::new().unwrap() })
}

async fn sftp() -> Option<Place> {
    let server: SocketAddr = variable("TRIVET_TEST_SFTP")?.parse().unwrap();
    let disk = small(variable("TRIVET_TEST_SFTP_DISK")?);
    let proxy = Proxy::to(server).await;
    let sftp = Sftp {
        host: proxy.address.ip().to_string(),
        port: proxy.address.port(),
        user: "root".into(),
        path: format!("{}/{}", variable("TRIVET_TEST_SFTP_ROOT")?, number()),
        key_file: variable("TRIVET_TEST_SFTP_KEY")?.into(),
    };
    let repository = Repository { folder: None, s3: None, sftp: Some(sftp), append_only: false };
    Some(Place { kind: "sftp", proxy: Some(proxy), repository, disk, _credentials: TempDir::new().unwrap() })
}

async fn s3() -> Option<Place> {
    trivet_tls::install_provider();
    let address = variable("TRIVET_TEST_S3")?;
    let (server, bucket) = address.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let disk = small(variable("TRIVET_TEST_S3_DISK")?);
    let proxy = Proxy::to(server.parse().unwrap()).await;
    let credentials = TempDir::new().unwrap();
    let file = |name: &str| {
        let file = credentials.path().join(name);
        fs::write(&file, name).unwrap();
        file
    };
    let s3 = S3 {
        bucket: bucket.into(),
        endpoint: format!("http://{}", proxy.address),
        region: "us-east-1".into(),
        prefix: number().to_string(),
        access_key_file: file("key"),
        secret_key_file: file("secret"),
    };
    let repository = Repository { folder: None, s3: Some(s3), sftp: None, append_only: false };
    Some(Place { kind: "s3", proxy: Some(proxy), repository, disk, _credentials: credentials })
}

/// Nothing is filled but a small file system that was mounted for it.
fn small(mounted: String) -> PathBuf {
    let path = PathBuf::from(mounted);
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(&path), device(path.parent().unwrap()), "{}: nothing is mounted there", path.display());
    let size = rustix::fs::statvfs(&path).unwrap();
    assert!(size.f_blocks * size.f_frsize <= LARGEST, "{}: is too large to be filled", path.display());
    path
}

impl Place {
    /// Opens it with [`PATIENCE`].
    pub fn storage(&self) -> Storage {
        Storage::open_with("main", &self.repository, PATIENCE).unwrap()
    }

    /// The folder that it is, where it is one.
    pub fn path(&self) -> PathBuf {
        self.repository.folder.clone().unwrap()
    }

    /// The network to it; only of those that have one.
    pub fn network(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    /// Leaves so many octets of room.
    pub fn fill(&self, leave: u64) {
        let size = rustix::fs::statvfs(small(self.disk.display().to_string()).as_path()).unwrap();
        let free = size.f_bavail * size.f_frsize;
        let ballast = vec![1; usize::try_from(free.saturating_sub(leave)).unwrap()];
        fs::write(self.disk.join("ballast"), ballast).unwrap();
    }

    /// Takes away what [`fill`](Self::fill) wrote.
    pub fn make_room(&self) {
        fs::remove_file(self.disk.join("ballast")).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The next one has all the room. What S3 keeps goes with its server.
        let _ = fs::remove_file(self.disk.join("ballast"));
        if let Some(folder) = &self.repository.folder {
            let _ = fs::remove_dir_all(folder);
        }
        if let Some(path) = self.repository.sftp.as_ref().and_then(|s| Path::new(&s.path).file_name()) {
            let _ = fs::remove_dir_all(self.disk.join(path));
        }
    }
}
