use super::*;

fn folder(at: &Path) -> Storage {
    Storage::folder("main", at).unwrap()
}

#[tokio::test]
async fn an_object_is_there_whole_under_its_name_and_nothing_unfinished_stays() {
    let at = tempfile::tempdir().unwrap();
    for storage in [folder(at.path()), Storage::in_memory("m")] {
        storage.write("log/20260102/a.age", Bytes::from_static(b"abcdef")).await.unwrap();
        storage.write("log/20260103/b.age", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(&storage.read("log/20260102/a.age").await.unwrap()[..], b"abcdef");
        assert_eq!(&storage.read_range("log/20260102/a.age", 2, 3).await.unwrap()[..], b"cde");
        assert_eq!(storage.folders("log/").await.unwrap(), ["20260102", "20260103"]);
        let listed = storage.list("log/").await.unwrap();
        assert_eq!(
            listed.iter().map(|o| (o.path.as_str(), o.size)).collect::<Vec<_>>(),
            [("log/20260102/a.age", 6), ("log/20260103/b.age", 1)]
        );
        assert!(storage.list(UNFINISHED).await.unwrap().is_empty());
        storage.delete("log/20260102/a.age").await.unwrap();
        storage.delete("log/20260102/a.age").await.unwrap();
        assert!(storage.read("log/20260102/a.age").await.unwrap_err().is_no_object());
        assert!(storage.list("nothing/").await.unwrap().is_empty());
        assert!(storage.folders("nothing/").await.unwrap().is_empty());
    }
}

#[test]
fn a_folder_that_is_not_there_is_no_empty_one() {
    let at = tempfile::tempdir().unwrap();
    let refused = Storage::folder("main", &at.path().join("mnt")).unwrap_err().to_string();
    assert!(refused.contains("make it, or mount the disk it is on"), "{refused}");
}

#[tokio::test]
async fn a_place_without_rights_or_room_is_told_as_that() {
    let said =
        Storage::in_memory("m").failed("write failed: No space left on device (os error 28)").to_string();
    assert!(said.contains("the storage is full"), "{said}");
    let denied = opendal::Error::new(ErrorKind::PermissionDenied, "SignatureDoesNotMatch");
    let said = Storage::in_memory("m").error("x", &denied).to_string();
    assert!(said.contains("refused (SignatureDoesNotMatch)"), "{said}");
}
