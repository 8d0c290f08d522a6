use std::time::Duration;

use crate::tests::{LIMITS, TIMING, Waiting, checked, good, member, picked, record, refused};
use crate::{Lease, NewBackend, Pool, Scope, Spec, Tried, Unavailable};
use std::sync::Arc;

/// Of those whose session is on this back end.
fn on(pool: &Pool<()>, name: &str) -> Scope {
    Scope { sticky: Some(pool.backend(name).unwrap().id()), ..Scope::ANY }
}

fn goes_to(pool: &Arc<Pool<()>>, scope: Scope) -> String {
    pool.pick(scope, &Tried::default()).map_or_else(|e| e.to_string(), |lease| lease.name().to_owned())
}

async fn three() -> Arc<Pool<()>> {
    checked(&[("a", 0, good()), ("b", 0, good()), ("c", 1, good())]).await
}

#[tokio::test]
async fn a_session_stays_through_a_drain_a_weight_of_nothing_and_the_return_of_a_better_tier() {
    let pool = three().await;
    let (on_b, on_c) = (on(&pool, "b"), on(&pool, "c"));
    assert_eq!((goes_to(&pool, on_b), goes_to(&pool, on_b)), ("b".into(), "b".into()));
    assert_eq!(goes_to(&pool, on_c), "c", "a backup, whose turn is over");
    assert_eq!(picked(&pool, 4), ["a", "b", "a", "b"], "it took nobody's turn");
    pool.set_drained("b", true);
    assert_eq!((goes_to(&pool, on_b), picked(&pool, 2)), ("b".into(), vec!["a".into(), "a".into()]));
    pool.set_drained("b", false);
    pool.set_weight("b", 0);
    assert_eq!((goes_to(&pool, on_b), picked(&pool, 2)), ("b".into(), vec!["a".into(), "a".into()]));
    pool.set_drained("a", true);
    assert_eq!(goes_to(&pool, Scope { highest_tier: 0, ..on_c }), "no back end is up", "not for all");
}

#[tokio::test]
async fn a_session_moves_when_its_back_end_is_down_out_tried_or_gone() {
    let pool = three().await;
    let (on_a, a) = (on(&pool, "a"), pool.backend("a").unwrap());
    record(&pool, refused());
    assert_eq!(goes_to(&pool, on_a), "b");
    record(&pool, good());
    record(&pool, good());
    assert_eq!(goes_to(&pool, on_a), "a");
    a.eject("refused");
    assert_eq!(goes_to(&pool, on_a), "b");
    record(&pool, good());
    a.set_outlier(Some("it answers 500"));
    assert_eq!(goes_to(&pool, on_a), "b");
    a.set_outlier(None);
    assert_eq!(goes_to(&pool, on_a), "a");
    a.take_out(false, true);
    assert_eq!(goes_to(&pool, on_a), "b", "disabled");
    a.take_out(true, false);
    assert_eq!(goes_to(&pool, on_a), "a", "drained");
    let mut tried = Tried::default();
    tried.add(&a);
    assert_eq!(pool.pick(on_a, &tried).unwrap().name(), "b");
    pool.remove("a");
    assert_eq!(goes_to(&pool, on_a), "b");
}

/// `a` and `b` may have one request each, and have it.
async fn full() -> (Arc<Pool<()>>, [Lease<()>; 2]) {
    let few = |name| NewBackend {
        spec: Spec { max_in_flight: 1, ..member(name, 0, good()).spec },
        ..member(name, 0, good())
    };
    let pool = Pool::new("web", vec![few("a"), few("b")], LIMITS);
    pool.first_round(TIMING).await;
    let leases = [(); 2].map(|()| pool.pick(Scope::ANY, &Tried::default()).unwrap());
    (pool, leases)
}

async fn waits(pool: &Arc<Pool<()>>, scope: Scope) -> Waiting {
    let pool = pool.clone();
    let waiting = tokio::spawn(async move { pool.lease(scope, &Tried::default(), Duration::ZERO).await });
    tokio::task::yield_now().await;
    waiting
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_for_its_own_and_keeps_nobody_from_the_others() {
    let (pool, [a, b]) = full().await;
    let on_a = on(&pool, "a");
    // As many as may wait, and one more.
    let waiting = [waits(&pool, on_a).await, waits(&pool, on_a).await];
    let further = waits(&pool, on_a).await.await.unwrap();
    assert_eq!(further.map(|_| ()), Err(Unavailable::QueueFull));
    let anybody = waits(&pool, Scope::ANY).await;
    drop(b);
    let served = anybody.await.unwrap().unwrap();
    assert_eq!(served.name(), "b", "although the queue of a is full");
    drop(served);
    assert_eq!(pool.lease(Scope::ANY, &Tried::default(), Duration::ZERO).await.unwrap().name(), "b");
    assert!(waiting.iter().all(|w| !w.is_finished()), "b is free and not theirs");
    drop(a);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap().name(), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_moves_when_its_back_end_is_lost() {
    let (pool, [_a, b]) = full().await;
    pool.set_drained("a", true);
    let waiting = waits(&pool, on(&pool, "a")).await;
    drop(b);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    record(&pool, refused());
    assert_eq!(waiting.await.unwrap().unwrap().name(), "b");
}
