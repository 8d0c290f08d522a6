use super::*;

/// A primary that does not answer: connections are taken and nothing is said.
async fn silent() -> (tokio::net::TcpListener, Lease) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let primary = Primary { address, user: "u", password: "p", ca: std::path::Path::new("/dev/null") };
    let lease = Lease { ttl: Duration::from_millis(600), ..Lease::new(&primary, "a-job", "node1") };
    (listener, lease)
}

#[tokio::test]
async fn a_primary_that_says_nothing_is_not_waited_for_for_ever() {
    let (_listener, lease) = silent().await;
    let error = lease.ask("something").await.unwrap_err();
    assert!(matches!(&error, LeaseError::Timeout { name, .. } if name == "a-job"), "{error}");
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_lost_before_another_may_have_it() {
    let (_listener, lease) = silent().await;
    let lost = CancellationToken::new();
    let since = Instant::now();
    lease.clone().renew("something".into(), since, lost.clone()).await;
    assert!(lost.is_cancelled());
    assert!(since.elapsed() < lease.ttl, "{:?}", since.elapsed());
}
