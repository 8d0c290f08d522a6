use std::fs;

use age::x25519::Identity;
use tempfile::TempDir;

use super::*;
use crate::config;

const OURS: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";

/// A folder that is a storage, one that is a database, and their key.
struct Place {
    storage: TempDir,
    data: TempDir,
    keys: Keys,
}

impl Place {
    fn new() -> Self {
        let place =
            Self { storage: TempDir::new().unwrap(), data: TempDir::new().unwrap(), keys: Keys::generate() };
        fs::create_dir(place.data.path().join("trivet")).unwrap();
        let table: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(place.data.path().join("trivet/articles.ibd"), table).unwrap();
        fs::write(place.data.path().join("ibdata1"), vec![7; 100_000]).unwrap();
        place
    }

    fn storage(&self) -> Storage {
        let repository = config::Repository {
            folder: Some(self.storage.path().into()),
            s3: None,
            sftp: None,
            append_only: false,
        };
        Storage::open("main", &repository).unwrap()
    }

    fn open(&self, keys: &Keys, cluster: &str) -> Result<Repository, RepositoryError> {
        Repository::open("main", self.storage(), keys, Some(cluster), Watcher::default())
    }

    fn made(&self) -> Repository {
        self.made_with(&self.keys)
    }

    fn made_with(&self, keys: &Keys) -> Repository {
        let new = New { id: "an-id".into(), append_only: false };
        Repository::make("main", self.storage(), keys, OURS, &new, Watcher::default()).unwrap()
    }

    fn copied(&self, repository: &Repository) -> Copy {
        repository.copy(&[self.data.path().into()], "base", OURS, "{}".into(), true).unwrap()
    }

    /// The files below `folder` of the storage.
    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.storage.path().join(folder)];
        while let Some(at) = left.pop() {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { left.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

/// Runs where one may block, beside a runtime.
fn with_runtime(work: impl FnOnce() + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::task::spawn_blocking(work).await }).unwrap();
}

#[test]
fn what_was_copied_comes_back_and_a_second_copy_adds_what_has_changed() {
    with_runtime(|| {
        let place = Place::new();
        let first = place.copied(&place.made());
        // One page of 16 KiB.
        let table = place.data.path().join("trivet/articles.ibd");
        let mut octets = fs::read(&table).unwrap();
        octets[5_000_000..5_016_384].fill(9);
        fs::write(&table, &octets).unwrap();
        let repository = place.open(&place.keys, OURS).unwrap();
        let second = place.copied(&repository);
        assert!(second.added < first.added / 4, "{} of {}", second.added, first.added);
        assert_eq!(repository.copies("base").unwrap().len(), 2);

        let into = TempDir::new().unwrap();
        let fetched = into.path().join("new");
        repository.fetch(&second, &fetched).unwrap();
        assert_eq!(fs::read(fetched.join("trivet/articles.ibd")).unwrap(), octets);
        assert_eq!(fs::read(fetched.join("ibdata1")).unwrap(), vec![7; 100_000]);
        let refused = repository.fetch(&second, &fetched).unwrap_err().to_string();
        assert!(refused.contains("is not empty"), "{refused}");

        repository.forget(&[first]).unwrap();
        assert_eq!(repository.copies("base").unwrap().len(), 1);
        repository.check().unwrap();
    });
}

#[test]
fn another_key_another_cluster_and_a_newer_format_are_told_apart() {
    with_runtime(|| {
        let place = Place::new();
        place.made();
        let said = |r: Result<Repository, RepositoryError>| r.err().unwrap().to_string();
        assert!(said(place.open(&Keys::generate(), OURS)).contains("sealed with another key"));
        let other = OURS.replace("0001", "0002");
        assert!(said(place.open(&place.keys, &other)).contains("is that of cluster"));
        fs::write(place.storage.path().join(MARK), r#"{"format": 2, "cluster": "x", "more": 1}"#).unwrap();
        assert!(said(place.open(&place.keys, OURS)).contains("is in format 2"));
        fs::write(place.storage.path().join(MARK), "{").unwrap();
        assert!(said(place.open(&place.keys, OURS)).contains("is damaged: trivet.json"));
    });
}

#[test]
fn a_repository_whose_making_was_interrupted_is_gone_on_with() {
    with_runtime(|| {
        let place = Place::new();
        let repository = place.made();
        assert_eq!(repository.id(), "an-id");
        place.copied(&repository);
        fs::remove_file(place.storage.path().join(MARK)).unwrap();
        let said = place.open(&place.keys, OURS).err().unwrap().to_string();
        assert!(said.contains("is empty"), "{said}");
        assert_eq!(place.made().copies("base").unwrap().len(), 1);

        // A key that was written before restic/config was.
        let place = Place::new();
        place.made();
        for object in ["restic/config", MARK] {
            fs::remove_file(place.storage.path().join(object)).unwrap();
        }
        place.copied(&place.made());
    });
}

#[test]
fn two_who_make_a_repository_at_once_do_not_overwrite_one_another() {
    with_runtime(|| {
        let place = Place::new();
        place.made();
        let new = New { id: "another".into(), append_only: false };
        let late = Repository::make("main", place.storage(), &place.keys, OURS, &new, Watcher::default());
        let said = late.err().unwrap().to_string();
        assert!(said.contains("trivet.json is there already"), "{said}");
        assert_eq!(place.open(&place.keys, OURS).unwrap().id(), "an-id");
    });
}

#[test]
fn an_object_of_any_kind_that_was_altered_or_is_gone_is_noticed() {
    with_runtime(|| {
        for kind in ["restic/config", "restic/keys", "restic/index", "restic/snapshots", "restic/data"] {
            for gone in [false, true] {
                let place = Place::new();
                place.copied(&place.made());
                let object = if kind == "restic/config" {
                    place.storage.path().join(kind)
                } else {
                    place.objects(kind).remove(0)
                };
                if gone {
                    fs::remove_file(&object).unwrap();
                } else {
                    let mut octets = fs::read(&object).unwrap();
                    let middle = octets.len() / 2;
                    octets[middle] ^= 1;
                    fs::write(&object, octets).unwrap();
                }
                let noticed = place.open(&place.keys.afresh(), OURS).and_then(|repository| {
                    let copies = repository.copies("base")?;
                    repository.check()?;
                    let into = TempDir::new().unwrap();
                    let last = copies.last().ok_or(RepositoryError::Empty { place: String::new() })?;
                    repository.fetch(last, &into.path().join("new"))
                });
                let said = noticed.unwrap_err().to_string();
                println!("{kind}, {}: {said}", if gone { "gone" } else { "altered" });
                assert!(!said.contains('\n'), "{said}");
            }
        }
    });
}

#[test]
fn the_recovery_key_leads_to_the_password() {
    with_runtime(|| {
        let place = Place::new();
        let safe = Identity::generate();
        let key = TempDir::new().unwrap();
        let files = config::Key {
            identity_file: key.path().join("key"),
            recovery_file: Some(key.path().join("recovery")),
        };
        fs::write(&files.identity_file, Identity::generate().to_string().expose_secret()).unwrap();
        fs::write(files.recovery_file.as_ref().unwrap(), safe.to_public().to_string()).unwrap();
        place.made_with(&Keys::read(&files).unwrap());

        let recovered = |safe: &Identity| {
            let sealed = fs::read(place.storage.path().join(recovery_object(&safe.to_public().to_string())));
            Keys::from_identity(safe.to_string().expose_secret()).unwrap().recover(&sealed.unwrap()).unwrap()
        };
        let repository = place.open(&recovered(&safe), OURS).unwrap();

        // Another recovery key, in the place of one that was lost.
        let new = Identity::generate();
        fs::write(files.recovery_file.as_ref().unwrap(), new.to_public().to_string()).unwrap();
        let keys = Keys::read(&files).unwrap();
        Handle::current().block_on(repository.seal(&keys)).unwrap();
        place.open(&recovered(&new), OURS).unwrap();
    });
}

#[test]
fn a_repository_that_was_opened_needs_its_password_no_more_and_another_key_opens_nothing() {
    with_runtime(|| {
        let place = Place::new();
        place.copied(&place.made());
        for key in place.objects("restic/keys") {
            fs::remove_file(key).unwrap();
        }
        assert_eq!(place.open(&place.keys, OURS).unwrap().copies("base").unwrap().len(), 1);
        assert!(place.open(&place.keys.afresh(), OURS).is_err());
        assert!(place.open(&Keys::generate(), OURS).is_err());
    });
}

#[test]
fn a_base_copy_that_is_not_known_to_be_whole_is_never_chosen() {
    with_runtime(|| {
        let place = Place::new();
        let repository = place.made();
        let whole_one = place.copied(&repository);
        let cut_short = place.copied(&repository);
        fs::remove_file(place.storage.path().join(whole(&cut_short))).unwrap();
        let (copies, unfinished) = repository.all("base").unwrap();
        assert_eq!(copies.iter().map(|c| &c.id).collect::<Vec<_>>(), [&whole_one.id]);
        assert_eq!(unfinished.iter().map(|c| &c.id).collect::<Vec<_>>(), [&cut_short.id]);
        repository.forget(&[cut_short, whole_one.clone()]).unwrap();
        assert!(repository.all("base").unwrap().1.is_empty());
        assert!(!place.storage.path().join(whole(&whole_one)).exists());
    });
}

#[test]
fn a_restore_that_cannot_write_is_an_error_in_words() {
    with_runtime(|| {
        let place = Place::new();
        let repository = place.made();
        let copy = place.copied(&repository);
        let said =
            |repository: &Repository, into: &Path| repository.fetch(&copy, into).unwrap_err().to_string();
        // The largest is of files, which are read by threads that panic; the others are of folders.
        let packs = place.objects("restic/data");
        fs::remove_file(packs.iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap()).unwrap();
        let into = TempDir::new().unwrap();
        let gone = said(&repository, &into.path().join("gone"));
        assert!(gone.contains("is absent") && gone.contains("restic/data/"), "{gone}");
        drop(repository.ends_with());
        let interrupted = said(&repository, &into.path().join("interrupted"));
        assert!(interrupted.contains("it was interrupted"), "{interrupted}");
    });
}

#[test]
fn a_copy_that_could_not_read_everything_is_none() {
    with_runtime(|| {
        let place = Place::new();
        let repository = place.made();
        let table = place.data.path().join("trivet/articles.ibd");
        let whole = measured(place.data.path()).unwrap();
        assert_eq!(whole, (2, 12_100_000));
        place.copied(&repository);
        if rustix::process::geteuid().is_root() {
            println!(
                "SKIPPED: root can read every file, and another user is needed to have one that cannot be read"
            );
        } else {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&table, fs::Permissions::from_mode(0o000)).unwrap();
            let refused =
                repository.copy(&[place.data.path().into()], "base", OURS, "{}".into(), true).unwrap_err();
            assert!(refused.to_string().contains("not all could be read"), "{refused}");
            assert_eq!(repository.copies("base").unwrap().len(), 1);
        }
    });
}
