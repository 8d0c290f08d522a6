//! Storages that are full, slow, silent or die in the middle: what is kept stays whole, and goes on afterwards.
//!
//! Against a folder, a real sshd and a server that speaks S3, which `tests/storage` makes. What stands here is the repository layer, as the
//! service and the commands use it, without a database: copies through [`Repository`], the log as [`Archive`] resumes and sends it.

mod places;
mod proxy;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use crate::config;
use crate::keys::Keys;
use crate::log::archive::Archive;
use crate::log::catalog::{self, Name, Walk};
use crate::log::segment::Builder;
use crate::log::tests::{format, set, transaction_with};
use crate::progress::Watcher;
use crate::repository::{Copy, New, Repository, RepositoryError, blocking};
use crate::sql::Access;
use crate::storage::{Storage, StorageError};
use places::{PATIENCE, Place};
use proxy::Mode;

const CLUSTER: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";

/// Nothing may take as long as this, whatever the storage does: many steps with all their retries.
const FOREVER: Duration = Duration::from_secs(120);

/// Octets that cannot be compressed, and others for each seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(FOREVER, work).await.expect("it waits for ever")
}

/// The log of a place, written without a database: transactions 1, 2, … of 200 kB each, one in a segment.
struct Log {
    archive: Archive,
    number: u64,
}

impl Log {
    fn of(storage: Storage) -> Self {
        let mysql = config::Mysql {
            user: String::new(),
            password_file: "/".into(),
            ca: "/".into(),
            primary: "127.0.0.1:1".parse().unwrap(),
            members: Vec::new(),
            programs: "/".into(),
        };
        let archive = Archive {
            repository: "main".into(),
            id: String::new(),
            storage,
            keys: Keys::generate(),
            access: Access::new(&mysql, String::new()),
            members: Vec::new(),
            limits: config::Stream::default(),
            token: 1,
            number: 0,
            begin_after: None,
            progress: std::sync::Arc::default(),
        };
        Self { archive, number: 0 }
    }

    /// What a new connection to a member does: reads how far the log is, and sends the next transaction.
    async fn go_on(&mut self) -> Result<(), String> {
        let archived = self.archive.resume(&mut self.number).await.map_err(|e| e.to_string())?;
        let before = archived.unwrap_or_default();
        let next = before.count() + 1;
        let mut builder = Builder::new(&format(), before).unwrap();
        let (transaction, events) = transaction_with(next, next, &noise(200_000, next));
        builder.add(&transaction, &events);
        let sealed = builder.finish().unwrap().seal(&self.archive.keys).unwrap();
        self.number += 1;
        let seconds = next * 1_000_000;
        let name = Name { token: 1, number: self.number, first: seconds, last: seconds, day: 20_260_102 };
        self.archive.storage.write(&name.to_string(), sealed).await.map_err(|e| e.to_string())
    }

    /// Every transaction that the storage has, in the order of the log; a gap or a damaged segment is a panic.
    async fn numbers(&self) -> Vec<u64> {
        let storage = &self.archive.storage;
        let names = catalog::list(storage, 0).await.unwrap();
        let mut walk = Walk::new(storage, &self.archive.keys, names, set(""), 0);
        let mut numbers = Vec::new();
        while let Some((_, segment)) = walk.next().await.unwrap() {
            numbers.extend(segment.entries().unwrap().iter().map(|e| e.transaction.number));
        }
        numbers
    }
}

/// A folder that is copied, and the repository it is copied to.
struct Database {
    data: TempDir,
    keys: Keys,
}

impl Database {
    /// Files of these sizes.
    fn of(sizes: &[usize]) -> Self {
        let data = TempDir::new().unwrap();
        for (number, size) in sizes.iter().enumerate() {
            std::fs::write(data.path().join(format!("{number}.ibd")), noise(*size, number as u64 + 100))
                .unwrap();
        }
        Self { data, keys: Keys::generate() }
    }

    async fn make(&self, place: &Place) {
        let (storage, keys) = (place.storage(), self.keys.clone());
        let new = New { id: "an-id".into(), append_only: false };
        bounded(blocking("", move || {
            Repository::make("main", storage, &keys, CLUSTER, &new, Watcher::default()).map(drop)
        }))
        .await
        .unwrap();
    }

    /// Opens it as each piece of work does, and works.
    async fn with<T: Send + 'static>(
        &self,
        place: &Place,
        work: impl FnOnce(&Repository) -> Result<T, RepositoryError> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let (storage, keys) = (place.storage(), self.keys.clone());
        bounded(blocking("", move || {
            let repository = Repository::open("main", storage, &keys, Some(CLUSTER), Watcher::default())?;
            work(&repository)
        }))
        .await
    }

    async fn copied(&self, place: &Place) -> Result<Copy, RepositoryError> {
        let data = self.data.path().to_owned();
        self.with(place, move |r| r.copy(&[data], "base", CLUSTER, "{}".into(), true)).await
    }

    /// What is there is whole: one copy, every object as it was written, and the files come back.
    async fn is_kept(&self, place: &Place) {
        let data = self.data.path().to_owned();
        let kept = self.with(place, move |r| {
            let (copies, unfinished) = r.all("base")?;
            assert_eq!((copies.len(), unfinished.len()), (1, 0));
            r.check()?;
            let into = TempDir::new().unwrap();
            r.fetch(&copies[0], &into.path().join("new"))?;
            assert!(same(&data, &into.path().join("new")));
            Ok(())
        });
        kept.await.unwrap();
    }
}

fn same(one: &Path, other: &Path) -> bool {
    let files = |folder: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
            .into_iter()
            .map(|f| (f.file_name().unwrap().to_owned(), std::fs::read(f).unwrap()))
            .collect::<Vec<_>>()
    };
    files(one) == files(other)
}

/// What is to be done about a storage that is full. moto says no more than that it failed.
fn remedy(place: &Place) -> &'static str {
    if place.kind == "s3" { "whether its disk is full" } else { "is full" }
}

async fn octets(storage: &Storage, folder: &str) -> u64 {
    storage.list(folder).await.unwrap().iter().map(|o| o.size).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_storage_keeps_nothing_of_a_copy_and_has_it_once_there_is_room() {
    for place in places::all().await {
        // rustic writes packs of 32 MiB: there is room for one, and none for the second.
        let database = Database::of(&[40_000_000, 8_000_000]);
        database.make(&place).await;
        place.fill(42_000_000);
        let said = database.copied(&place).await.unwrap_err().to_string();
        println!("{}: {said}", place.kind);
        assert!(said.contains("repository main") && said.contains(remedy(&place)), "{said}");
        let storage = place.storage();
        assert_eq!(database.with(&place, |r| Ok(r.all("base")?.0.len())).await.unwrap(), 0, "{}", place.kind);
        assert_eq!(octets(&storage, "restic/data/").await, 0, "{}: what failed takes room", place.kind);
        assert_eq!(octets(&storage, "tmp/").await, 0, "{}", place.kind);
        place.make_room();
        database.copied(&place).await.unwrap();
        database.is_kept(&place).await;
        let stored = octets(&storage, "restic/data/").await;
        assert!(stored < 50_000_000, "{}: {stored} octets of 48 MB", place.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_without_a_gap_when_a_full_storage_has_room() {
    for place in places::all().await {
        let mut log = Log::of(place.storage());
        log.go_on().await.unwrap();
        for leave in [0, 100_000] {
            place.fill(leave);
            let said = bounded(log.go_on()).await.unwrap_err();
            println!("{}: {said}", place.kind);
            assert!(said.contains("repository main") && said.contains(remedy(&place)), "{said}");
            place.make_room();
            log.go_on().await.unwrap();
        }
        assert_eq!(log.numbers().await, [1, 2, 3], "{}", place.kind);
        assert_eq!(octets(&place.storage(), "tmp/").await, 0, "{}", place.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_no_gap_and_nothing_twice_wherever_its_storage_died() {
    for place in places::over_network().await {
        let mut log = Log::of(place.storage());
        log.go_on().await.unwrap();
        let mut failures = 0;
        // From the first octets of a listing over the middle of a segment to the answer to it.
        for octets in [1, 500, 2_000, 5_000, 20_000, 100_000, 200_000, 204_000, 210_000] {
            place.network().set_after(octets, Mode::Dead);
            failures += u32::from(bounded(log.go_on()).await.is_err());
            place.network().set(Mode::Passes);
            bounded(log.go_on()).await.unwrap();
        }
        println!("{}: died {failures} times", place.kind);
        assert!(failures >= 3, "{}: {failures}", place.kind);
        let numbers = log.numbers().await;
        let all: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, all, "{}", place.kind);
        // Whoever reads each object by itself finds nothing twice either.
        let names = catalog::list(&log.archive.storage, 0).await.unwrap();
        assert_eq!(names.len(), numbers.len(), "{}", place.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_storage_died_is_none_and_the_next_one_is_whole() {
    for place in places::over_network().await {
        let database = Database::of(&[6_000_000, 6_000_000]);
        database.make(&place).await;
        place.network().set_after(5_000_000, Mode::Dead);
        let said = database.copied(&place).await.unwrap_err().to_string();
        println!("{}: {said}", place.kind);
        assert!(said.contains("repository main"), "{said}");
        place.network().set(Mode::Passes);
        let (whole, unfinished) = database.with(&place, |r| r.all("base")).await.unwrap();
        assert!(whole.is_empty() && unfinished.is_empty(), "{}", place.kind);
        database.copied(&place).await.unwrap();
        database.is_kept(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_storage_died_is_an_error_and_the_next_one_is_whole() {
    for place in places::over_network().await {
        let database = Database::of(&[6_000_000, 6_000_000]);
        database.make(&place).await;
        database.copied(&place).await.unwrap();
        place.network().set_after(5_000_000, Mode::Dead);
        let into = TempDir::new().unwrap();
        let new = into.path().join("new");
        let fetched = database.with(&place, move |r| r.fetch(&r.copies("base")?[0], &new)).await;
        let said = fetched.unwrap_err().to_string();
        println!("{}: {said}", place.kind);
        assert!(said.contains("repository main"), "{said}");
        place.network().set(Mode::Passes);
        database.is_kept(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_storage_is_waited_for_and_one_that_hardly_moves_is_given_up() {
    for place in places::over_network().await {
        let storage = place.storage();
        let content = Bytes::from(noise(2_000_000, 1));
        place.network().set(Mode::Slow(2_000_000));
        bounded(storage.write("log/a", content.clone())).await.unwrap();
        assert!(bounded(storage.read("log/a")).await.unwrap() == content, "{}", place.kind);
        place.network().set(Mode::Slow(40_000));
        let said = bounded(storage.read("log/a")).await.unwrap_err().to_string();
        println!("{}: {said}", place.kind);
        assert!(said.contains("slow") || said.contains("not answered in time"), "{said}");
        let said = bounded(storage.write("log/b", content.clone())).await.unwrap_err().to_string();
        println!("{}: {said}", place.kind);
        assert!(said.contains("not answered in time"), "{said}");
        place.network().set(Mode::Passes);
        // What the network still had of it may have arrived since: then it is whole.
        match bounded(storage.read("log/b")).await {
            Ok(read) => assert!(read == content, "{}", place.kind),
            Err(e) => assert!(e.is_no_object(), "{e}"),
        }
        bounded(storage.write("log/b", content.clone())).await.unwrap();
        assert!(bounded(storage.read("log/b")).await.unwrap() == content, "{}", place.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_falls_silent_is_an_error_in_time_and_goes_on_when_it_speaks() {
    for place in places::over_network().await {
        let mut log = Log::of(place.storage());
        log.go_on().await.unwrap();
        place.network().set(Mode::Silent);
        let said = bounded(log.go_on()).await.unwrap_err();
        println!("{}: {said}", place.kind);
        assert!(said.contains("repository main") && said.contains("not answered in time"), "{said}");
        place.network().set(Mode::Passes);
        bounded(log.go_on()).await.unwrap();
        let numbers = log.numbers().await;
        assert!(numbers == [1, 2] || numbers == [1, 2, 3], "{}: {numbers:?}", place.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_connection_was_lost_in_the_middle_is_written_anew_and_holds_nothing_twice() {
    for place in places::over_network().await {
        let storage = place.storage();
        let content = Bytes::from(noise(7_000_000, 2));
        bounded(storage.write("log/a", Bytes::from_static(b"x"))).await.unwrap();
        // Longer than a step and shorter than two: what was under way arrives after all, while it is tried again.
        let pause = Mode::Pauses(PATIENCE.step * 3 / 2);
        for (path, octets, mode) in [
            ("log/b", 3_000_000, Mode::Strands),
            ("log/c", 6_000_000, Mode::Strands),
            ("log/d", 3_000_000, pause),
        ] {
            place.network().set_after(octets, mode);
            bounded(storage.write(path, content.clone())).await.unwrap();
            assert!(place.network().has_changed(), "{}", place.kind);
            assert!(bounded(storage.read(path)).await.unwrap() == content, "{}: {path}", place.kind);
            place.network().set(Mode::Passes);
        }
    }
}

#[tokio::test]
async fn a_folder_whose_disk_is_unmounted_is_not_written_to_and_its_log_goes_on_afterwards() {
    let (Some(place), Ok(mount)) = (places::folder(), std::env::var("TRIVET_TEST_MOUNT")) else { return };
    let mount = Path::new(&mount);
    let run = |program: &str, arguments: &[&Path]| {
        let done = std::process::Command::new(program).args(arguments).status().unwrap();
        assert!(done.success(), "{program} {arguments:?}");
    };
    let bind = || run("mount", &[Path::new("--bind"), &place.path(), mount]);
    let repository =
        config::Repository { folder: Some(mount.into()), s3: None, sftp: None, append_only: false };
    bind();
    let mut log = Log::of(Storage::open_with("main", &repository, PATIENCE).unwrap());
    log.go_on().await.unwrap();
    run("umount", &[mount]);
    let written = log.archive.storage.write("log/x", Bytes::from_static(b"x")).await.unwrap_err();
    println!("{written}");
    assert!(matches!(&written, StorageError::Absent { .. }), "{written}");
    let said = log.go_on().await.unwrap_err();
    assert!(said.contains("unmounted"), "{said}");
    assert!(std::fs::read_dir(mount).unwrap().next().is_none(), "it was written beneath the mount");
    bind();
    log.archive.storage = Storage::open_with("main", &repository, PATIENCE).unwrap();
    log.go_on().await.unwrap();
    assert_eq!(log.numbers().await, [1, 2]);
    run("umount", &[mount]);
}
