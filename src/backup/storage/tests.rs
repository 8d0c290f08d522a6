use super::*;

fn folder(at: &Path) -> Storage {
    Storage::folder("main", at, Patience::default()).unwrap()
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

#[tokio::test]
async fn an_object_of_which_there_is_one_is_not_overwritten() {
    let at = tempfile::tempdir().unwrap();
    for storage in [folder(at.path()), Storage::in_memory("m")] {
        storage.create("restic/config", Bytes::from_static(b"mine")).await.unwrap();
        let refused = storage.create("restic/config", Bytes::from_static(b"yours")).await.unwrap_err();
        assert!(refused.to_string().contains("is there already"), "{refused}");
        assert_eq!(&storage.read("restic/config").await.unwrap()[..], b"mine");
        assert!(storage.list(UNFINISHED).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_an_interrupted_write_has_left_is_swept() {
    let at = tempfile::tempdir().unwrap();
    let storage = folder(at.path());
    storage.write("log/a", Bytes::from_static(b"x")).await.unwrap();
    let file = |name: &str| at.path().join(UNFINISHED).join(name);
    for name in ["left", "new"] {
        std::fs::write(file(name), "half").unwrap();
    }
    let two_days_ago = std::time::SystemTime::now() - Duration::from_hours(48);
    std::fs::File::options().append(true).open(file("left")).unwrap().set_modified(two_days_ago).unwrap();
    storage.sweep(Duration::from_hours(24)).await.unwrap();
    assert!(!file("left").exists() && file("new").exists());
    assert_eq!(&storage.read("log/a").await.unwrap()[..], b"x");
}

#[test]
fn a_folder_that_is_not_there_is_no_empty_one() {
    let at = tempfile::tempdir().unwrap();
    let refused =
        Storage::folder("main", &at.path().join("mnt"), Patience::default()).unwrap_err().to_string();
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

/// Runs against a server that speaks S3, when there is one: `TRIVET_TEST_S3=http://127.0.0.1:5000/bucket`, with the access key `key` and
/// the secret `secret`.
#[tokio::test]
async fn a_bucket_is_a_storage_like_any_other() {
    trivet_tls::install_provider();
    let Ok(place) = std::env::var("TRIVET_TEST_S3") else {
        println!("SKIPPED: TRIVET_TEST_S3 names no server");
        return;
    };
    let (endpoint, bucket) = place.rsplit_once('/').unwrap();
    let at = tempfile::tempdir().unwrap();
    let (access, secret) = (at.path().join("access"), at.path().join("secret"));
    std::fs::write(&access, "key\n").unwrap();
    std::fs::write(&secret, "secret\n").unwrap();
    let s3 = |bucket: &str, endpoint: &str| S3 {
        bucket: bucket.into(),
        endpoint: endpoint.into(),
        region: "us-east-1".into(),
        prefix: "site/".into(),
        access_key_file: access.clone(),
        secret_key_file: secret.clone(),
    };
    let storage = Storage::s3("main", &s3(bucket, endpoint), Patience::default()).unwrap();
    storage.write("log/20260102/a.age", Bytes::from(vec![7; 9_000_000])).await.unwrap();
    storage.write("log/20260103/b.age", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(storage.read("log/20260102/a.age").await.unwrap().len(), 9_000_000);
    assert_eq!(storage.read_range("log/20260102/a.age", 8_999_998, 2).await.unwrap().len(), 2);
    assert_eq!(storage.folders("log/").await.unwrap(), ["20260102", "20260103"]);
    let listed = storage.list("log/").await.unwrap();
    assert_eq!(listed.iter().map(|o| o.size).collect::<Vec<_>>(), [9_000_000, 1]);
    storage.delete("log/20260102/a.age").await.unwrap();
    assert!(storage.read("log/20260102/a.age").await.unwrap_err().is_no_object());
    assert!(!storage.exists("log/20260102/a.age").await.unwrap());

    let absent = Storage::s3("main", &s3("no-such-bucket", endpoint), Patience::default()).unwrap();
    let said = absent.write("x", Bytes::from_static(b"x")).await.unwrap_err().to_string();
    println!("no bucket: {said}");
    assert!(said.contains("bucket"), "{said}");
    let nobody = Storage::s3("main", &s3(bucket, "http://127.0.0.1:1"), Patience::default()).unwrap();
    let said = nobody.read("x").await.unwrap_err().to_string();
    println!("nobody there: {said}");
    assert!(said.contains("repository main in site of bucket"), "{said}");
}

#[test]
fn a_key_that_ssh_would_refuse_is_copied_for_it_and_the_copy_goes_with_its_user() {
    use std::os::unix::fs::PermissionsExt;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "a key").unwrap();
    assert!(private_key(key.path()).unwrap().is_none(), "0600 is as ssh wants it");
    std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o440)).unwrap();
    let copy = private_key(key.path()).unwrap().unwrap();
    let path = copy.to_path_buf();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a key");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    drop(copy);
    assert!(!path.exists());
}
