use super::*;
use crate::PoolLimits;

fn budget(ratio: f64, min_per_second: u32) -> RetryBudget {
    RetryBudget::new("web", RetryLimits { ratio, min_per_second })
}

/// How many retries there may be, of a hundred that are wanted.
fn taken(budget: &RetryBudget, now: Instant) -> usize {
    (0..100).filter(|_| budget.take(now)).count()
}

#[tokio::test(start_paused = true)]
async fn retries_are_a_share_of_the_requests_of_the_last_ten_seconds_and_some_a_second() {
    let budget = budget(0.2, 1);
    let began = Instant::now();
    let at = |seconds| began + Duration::from_secs(seconds);
    (0..100).for_each(|_| budget.window.count(REQUESTS, at(0)));
    assert_eq!(taken(&budget, at(3)), 20 + 10);
    assert_eq!(taken(&budget, at(9)), 0, "they are spent");
    // The requests are forgotten before the retries.
    assert_eq!(taken(&budget, at(10)), 0);
    assert_eq!(taken(&budget, at(12)), 0);
    assert_eq!(taken(&budget, at(13)), 10);
    (0..50).for_each(|_| budget.window.count(REQUESTS, at(30)));
    assert_eq!(taken(&budget, at(30)), 20, "whatever was long ago");
    assert_eq!(taken(&budget, at(1000)), 10);
}

#[tokio::test(start_paused = true)]
async fn a_pool_without_a_budget_has_no_bound() {
    let pool = Pool::<()>::new("web", Vec::new(), PoolLimits::NONE);
    let now = Instant::now();
    assert!((0..100).all(|_| pool.may_retry(now)));
    pool.limit_retries(RetryLimits { ratio: 0.5, min_per_second: 0 });
    assert!(!pool.may_retry(now));
    pool.count_request(now);
    assert!(!pool.may_retry(now), "half of one is none");
    pool.count_request(now);
    assert!(pool.may_retry(now) && !pool.may_retry(now));
}

#[test]
fn limits_that_say_nothing_are_refused() {
    let refused = |ratio, min_per_second| {
        RetryLimits { ratio, min_per_second }.validate("web.retry_budget").err().map(|e| e.key)
    };
    for ratio in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(ratio, 3).as_deref(), Some("web.retry_budget.ratio"), "{ratio}");
    }
    assert_eq!(refused(0.0, 0).as_deref(), Some("web.retry_budget"));
    assert_eq!((refused(0.0, 1), refused(0.2, 0), refused(100.0, 0)), (None, None, None));
}
