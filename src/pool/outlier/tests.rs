use std::net::SocketAddr;

use async_trait::async_trait;
use serde_json::Value;

use super::*;
use crate::{Check, NewBackend, PoolLimits, Scope, Spec, Tried, Verdict, timing::Timing};

const LIMITS: OutlierLimits = OutlierLimits {
    errors: 5,
    slow_after: Duration::from_secs(1),
    slow_factor: 10,
    ejection: Duration::from_secs(10),
    max_ejection: Duration::from_secs(60),
};

struct Well;

#[async_trait]
impl Check for Well {
    async fn check(&self, _: Duration) -> Verdict {
        Verdict::Good(Value::Null)
    }
}

async fn pool(n: u16, limits: OutlierLimits) -> Arc<Pool<()>> {
    let member = |i: u16| NewBackend {
        spec: Spec::new(
            char::from(b'a' + u8::try_from(i).unwrap()).to_string(),
            SocketAddr::from(([127, 0, 0, 1], 1000 + i)),
        ),
        check: Arc::new(Well),
        transport: (),
    };
    let pool = Pool::new("web", (0..n).map(member).collect(), PoolLimits::NONE);
    pool.watch_outliers(limits);
    let timing = Timing::steady(Duration::from_secs(1), Duration::from_secs(1), 1, 1);
    pool.first_round(timing).await;
    pool
}

/// Sends `n` requests, of which those to a back end of these names fail. How many failed.
fn requests(pool: &Arc<Pool<()>>, n: usize, broken: &str) -> usize {
    let fails = |lease: &Lease<()>| broken.contains(lease.name());
    let mut failed = 0;
    for _ in 0..n {
        let lease = pool.pick(Scope::ANY, &Tried::default()).unwrap();
        if fails(&lease) {
            failed += 1;
            lease.failed("errors", "it answers 500");
        } else {
            lease.answered(Duration::from_millis(10), Instant::now());
        }
    }
    failed
}

fn outliers(pool: &Pool<()>) -> String {
    pool.backends().iter().filter(|b| b.is_outlier()).map(|b| b.name().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_with_errors_costs_a_handful_and_its_time_out_grows() {
    let pool = pool(3, LIMITS).await;
    assert_eq!(requests(&pool, 300, "b"), 5);
    assert_eq!(outliers(&pool), "b");
    for seconds in [10, 20, 40, 60, 60] {
        tokio::time::sleep(Duration::from_millis(seconds * 1000 - 1)).await;
        assert_eq!(requests(&pool, 30, "b"), 0, "before {seconds} s are over");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(requests(&pool, 30, "b"), 1, "it is tried with one after {seconds} s");
    }
    // Mended, it has its share again; after a while what was is forgotten.
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!((requests(&pool, 30, ""), outliers(&pool).as_str()), (0, ""));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(requests(&pool, 30, "b"), 5);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(outliers(&pool), "", "ten seconds, as for the first time");
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_in_between_begins_the_count_anew() {
    let pool = pool(3, LIMITS).await;
    for _ in 0..10 {
        requests(&pool, 12, "b");
        requests(&pool, 3, "");
    }
    assert_eq!(outliers(&pool), "");
}

#[tokio::test(start_paused = true)]
async fn half_of_the_pool_stays() {
    let pool = pool(6, LIMITS).await;
    requests(&pool, 60, "a");
    requests(&pool, 60, "ab");
    assert_eq!(outliers(&pool), "ab");
    requests(&pool, 600, "abc");
    assert_eq!(outliers(&pool), "abc");
    requests(&pool, 600, "abcd");
    assert_eq!(outliers(&pool), "abc");
    let two = super::tests::pool(2, LIMITS).await;
    requests(&two, 60, "a");
    assert_eq!(outliers(&two), "a");
    let one = super::tests::pool(1, LIMITS).await;
    assert_eq!((requests(&one, 60, "a"), outliers(&one).as_str()), (60, ""));
}

#[tokio::test(start_paused = true)]
async fn where_most_fare_alike_nobody_is_an_outlier() {
    let pool = pool(5, LIMITS).await;
    requests(&pool, 200, "abcde");
    assert_eq!(
        outliers(&pool),
        "",
        "the fault is not theirs: an address that fails wherever it is asked for"
    );
    requests(&pool, 200, "abc");
    assert_eq!(outliers(&pool), "");
}

#[tokio::test(start_paused = true)]
async fn answers_that_take_far_longer_than_the_others_are_slow() {
    let pool = pool(3, LIMITS).await;
    let answer = |slow: Duration, others: Duration| {
        for _ in 0..300 {
            let lease = pool.pick(Scope::ANY, &Tried::default()).unwrap();
            lease.answered(if lease.name() == "c" { slow } else { others }, Instant::now());
        }
    };
    answer(Duration::from_millis(900), Duration::from_millis(10));
    assert_eq!(outliers(&pool), "", "below slow_after nothing is slow");
    answer(Duration::from_millis(500), Duration::from_millis(500));
    answer(Duration::from_secs(3), Duration::from_millis(500));
    assert_eq!(outliers(&pool), "", "the others take long, too");
    answer(Duration::from_millis(20), Duration::from_millis(20));
    answer(Duration::from_secs(3), Duration::from_millis(20));
    assert_eq!(outliers(&pool), "c");
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_nobody_while_the_others_answer_is_found_before_a_time_out() {
    let pool = pool(3, LIMITS).await;
    requests(&pool, 30, "");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let then = Instant::now();
    let mut held = Vec::new();
    let mut in_vain = false;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let lease = pool.pick(Scope::ANY, &Tried::default()).unwrap();
        if lease.name() == "a" {
            held.push(lease);
        } else {
            lease.answered(Duration::from_millis(10), Instant::now());
        }
        in_vain = in_vain || held.first().is_some_and(|l| l.waits_in_vain(then, Instant::now()));
    }
    assert!(in_vain);
    assert_eq!(outliers(&pool), "a");
    assert!(held.len() < 10, "{} wait", held.len());
    // All that wait there may go elsewhere.
    assert!(held.iter().all(|l| l.waits_in_vain(then, Instant::now())));
}

#[tokio::test(start_paused = true)]
async fn long_polls_are_no_silence() {
    let pool = pool(3, LIMITS).await;
    let then = Instant::now();
    // Each back end holds some for long, and answers others meanwhile.
    let held: Vec<_> = (0..30).map(|_| pool.pick(Scope::ANY, &Tried::default()).unwrap()).collect();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        requests(&pool, 3, "");
        assert!(!held.iter().any(|l| l.waits_in_vain(then, Instant::now())));
    }
    assert_eq!(outliers(&pool), "");
}
