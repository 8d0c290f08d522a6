use std::sync::atomic::{AtomicUsize, Ordering};

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

/// What an answer takes.
const ANSWER: Duration = Duration::from_secs(1);

/// Keeps a lease of 30 s by what `answers` says, one after the other and then for ever nothing, until it is lost: when, and after how many
/// tries. The clock is the test's.
async fn kept(answers: &[Result<bool, &'static str>]) -> (Duration, usize) {
    let (since, lost, tries) = (Instant::now(), CancellationToken::new(), AtomicUsize::new(0));
    keep("a-job", TTL, since, &lost, || {
        let answer = answers.get(tries.fetch_add(1, Ordering::Relaxed)).copied();
        async move {
            match answer {
                Some(answer) => {
                    tokio::time::sleep(ANSWER).await;
                    answer
                }
                None => std::future::pending().await,
            }
        }
    })
    .await;
    assert!(lost.is_cancelled());
    (since.elapsed(), tries.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_is_lost_before_another_may_have_it() {
    let (after, tries) = kept(&[]).await;
    assert!(after < TTL, "{after:?}");
    assert_eq!(tries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_refuses_is_asked_again_until_the_lease_is_lost() {
    let refused = [Err("no primary"); 1000];
    let (after, tries) = kept(&refused).await;
    assert!(after < TTL, "{after:?}");
    assert!((2..1000).contains(&tries), "{tries}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_lasts_from_when_it_was_asked_for() {
    let (after, tries) = kept(&[Ok(true), Err("no primary"), Ok(true)]).await;
    let last_asked = 2 * (TTL / 3) + ANSWER;
    assert!(after > last_asked + TTL / 2 && after < last_asked + TTL - TTL / 6 + RETRY, "{after:?}");
    assert_eq!(tries, 4);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_has_become_anothers_is_lost_at_once() {
    let (after, tries) = kept(&[Ok(true), Ok(false), Ok(true)]).await;
    assert_eq!(tries, 2, "and is not asked for again");
    assert!(after <= 2 * (TTL / 3 + ANSWER), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_back_is_renewed_no_more() {
    let lost = CancellationToken::new();
    lost.cancel();
    keep("a-job", TTL, Instant::now(), &lost, || async { Err::<bool, _>("asked") }).await;
}
