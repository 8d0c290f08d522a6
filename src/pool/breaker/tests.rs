use super::*;
use crate::PoolLimits;

const LIMITS: BreakerLimits = BreakerLimits {
    failures: 50,
    window: Duration::from_secs(10),
    min_requests: 4,
    open: Duration::from_secs(5),
    trials: 2,
};

fn pool() -> Arc<Pool<()>> {
    let pool = Pool::new("web", Vec::new(), PoolLimits::NONE);
    pool.break_circuit(LIMITS);
    pool
}

/// So many requests, one after another, that fail or do not.
fn requests(pool: &Arc<Pool<()>>, n: u32, failed: bool) {
    for _ in 0..n {
        admitted(pool).ended(failed, Instant::now());
    }
}

fn admitted(pool: &Arc<Pool<()>>) -> Passage<()> {
    pool.admit(Instant::now()).ok().flatten().unwrap()
}

fn refused(pool: &Arc<Pool<()>>) -> Option<Duration> {
    pool.admit(Instant::now()).err()
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_most_of_whose_requests_fail_is_left_alone_and_a_few_try_before_all_do() {
    let pool = pool();
    requests(&pool, 2, false);
    requests(&pool, 2, true);
    assert_eq!(refused(&pool), Some(LIMITS.open));
    pass(3).await;
    assert_eq!(refused(&pool), Some(Duration::from_secs(2)));
    pass(2).await;
    let [mut first, mut second] = [(); 2].map(|()| admitted(&pool));
    assert_eq!(refused(&pool), Some(WHILE_OTHERS_TRY), "two try, and no more");
    first.ended(false, Instant::now());
    assert_eq!(refused(&pool), Some(WHILE_OTHERS_TRY), "one has done well, the other is on its way");
    second.ended(false, Instant::now());
    assert_eq!(refused(&pool), None);
    // What was is forgotten.
    requests(&pool, 3, true);
    assert_eq!(refused(&pool), None);
    requests(&pool, 1, true);
    assert_eq!(refused(&pool), Some(LIMITS.open));
}

#[tokio::test(start_paused = true)]
async fn one_that_tries_and_fails_has_it_left_alone_for_as_long_again() {
    let pool = pool();
    requests(&pool, 4, true);
    pass(5).await;
    let [mut first, mut second] = [(); 2].map(|()| admitted(&pool));
    first.ended(true, Instant::now());
    assert_eq!(refused(&pool), Some(LIMITS.open));
    pass(5).await;
    // One from before says nothing now.
    let third = admitted(&pool);
    second.ended(false, Instant::now());
    drop(third);
    requests(&pool, 1, false);
    let _fourth = admitted(&pool);
    assert!(refused(&pool).is_some(), "one has done well since, and one tries");
}

#[tokio::test(start_paused = true)]
async fn one_that_tries_and_comes_to_no_end_makes_room_for_another() {
    let pool = pool();
    requests(&pool, 4, true);
    pass(5).await;
    for _ in 0..10 {
        drop(admitted(&pool));
    }
    requests(&pool, 2, false);
    assert_eq!(refused(&pool), None);
}

#[tokio::test(start_paused = true)]
async fn few_requests_fewer_failures_and_old_ones_open_nothing() {
    let pool = pool();
    requests(&pool, 3, true);
    assert_eq!(refused(&pool), None, "three are few");
    pass(11).await;
    requests(&pool, 1, true);
    assert_eq!(refused(&pool), None, "they are forgotten");
    requests(&pool, 8, false);
    requests(&pool, 6, true);
    assert_eq!(refused(&pool), None, "seven of fifteen");
    // Those that were under way when it opened change nothing.
    let [mut late, mut later] = [(); 2].map(|()| admitted(&pool));
    requests(&pool, 1, true);
    assert_eq!(refused(&pool), Some(LIMITS.open), "eight of sixteen");
    pass(2).await;
    late.ended(true, Instant::now());
    assert_eq!(refused(&pool), Some(LIMITS.open - Duration::from_secs(2)));
    pass(3).await;
    later.ended(true, Instant::now());
    assert_eq!(refused(&pool), None);
}

#[test]
fn limits_that_say_nothing_are_refused() {
    let refused = |limits: BreakerLimits| limits.validate("web.circuit_breaker").err().map(|e| e.key);
    for (limits, key) in [
        (BreakerLimits { failures: 0, ..LIMITS }, "failures"),
        (BreakerLimits { failures: 101, ..LIMITS }, "failures"),
        (BreakerLimits { window: Duration::from_millis(999), ..LIMITS }, "window"),
        (BreakerLimits { min_requests: 0, ..LIMITS }, "min_requests"),
        (BreakerLimits { open: Duration::ZERO, ..LIMITS }, "open"),
        (BreakerLimits { trials: 0, ..LIMITS }, "trials"),
    ] {
        assert_eq!(refused(limits), Some(format!("web.circuit_breaker.{key}")));
    }
    assert_eq!(refused(LIMITS), None);
}
