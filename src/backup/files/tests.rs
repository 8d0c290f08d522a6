use std::fs;

use tempfile::TempDir;

use super::*;
use crate::config;
use crate::keys::Keys;
use crate::repository::{New, Repository};
use crate::storage::Storage;

const OURS: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_node_come_back_as_they_were_and_what_is_not_there_is_told() {
    let (vault, site, back) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let uploads = site.path().join("uploads");
    fs::create_dir(&uploads).unwrap();
    let storage =
        config::Repository { folder: Some(vault.path().into()), s3: None, sftp: None, append_only: false };
    let storage = Storage::open("main", &storage).unwrap();
    let keys = Keys::generate();
    let into = back.path().to_owned();
    tokio::task::spawn_blocking(move || {
        let new = New { id: "an-id".into(), append_only: false };
        let repository = Repository::make("main", storage, &keys, OURS, &new, Watcher::default()).unwrap();
        assert!(choose("main", repository.copies(LABEL).unwrap(), "node1", &Target::Latest).is_err());
        for text in ["first", "second"] {
            fs::write(uploads.join("letter"), text).unwrap();
            repository.copy(std::slice::from_ref(&uploads), LABEL, "node1", String::new(), false).unwrap();
        }
        let chosen = |node: &str, to: &str| {
            choose("main", repository.copies(LABEL).unwrap(), node, &to.parse().unwrap())
        };
        let copies = repository.copies(LABEL).unwrap();
        let letter = |copy: &Copy, name: &str| {
            let into = into.join(name);
            repository.fetch(copy, &into).unwrap();
            fs::read_to_string(into.join(uploads.strip_prefix("/").unwrap()).join("letter")).unwrap()
        };
        assert_eq!(letter(&chosen("node1", "latest").unwrap(), "latest"), "second");
        let micros = u64::try_from(copies[1].time.unix_timestamp_nanos() / 1000).unwrap() - 1;
        let before = choose("main", copies, "node1", &Target::Time(micros)).unwrap();
        assert_eq!(letter(&before, "before"), "first");

        let told = |node: &str, to: &str| chosen(node, to).unwrap_err().to_string();
        assert!(told("node9", "latest").contains("there is node1"), "{}", told("node9", "latest"));
        assert!(told("node1", "2001-01-01T00:00:00Z").contains("is before it"));
        assert!(told("node1", &format!("{OURS}:1")).contains("give a time"));
    })
    .await
    .unwrap();
}
