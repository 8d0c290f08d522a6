use super::*;

#[tokio::test]
async fn the_socket_is_the_keepers_own_and_a_stale_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let first = bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse, "another keeper's is left alone");
    drop(first);
    assert!(path.exists(), "a keeper that was killed leaves its socket behind");
    bind(&path).unwrap();
}
