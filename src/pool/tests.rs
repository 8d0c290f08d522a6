use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::Timing;
use super::*;
use crate::process::Heartbeats;

const TIMING: Timing =
    Timing { interval: Duration::from_millis(500), timeout: Duration::from_millis(400), rise: 2, fall: 2 };

/// Answers what it was told to, the last answer for ever.
struct Script(Mutex<VecDeque<Verdict>>);

#[async_trait]
impl Check for Script {
    async fn check(&self, _: Duration) -> Verdict {
        let mut answers = self.0.lock();
        if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
    }
}

fn good() -> Verdict {
    Verdict::Good(Value::Null)
}

fn silent() -> Verdict {
    Verdict::Silent("no answer".into())
}

fn refused() -> Verdict {
    Verdict::Refused("draining".into(), Value::Null)
}

fn pool(backends: &[(&str, u8, Verdict)]) -> Arc<Pool> {
    let backends = backends
        .iter()
        .map(|(name, tier, verdict)| {
            let spec = Spec { name: (*name).into(), address: "192.0.2.1:1".parse().unwrap(), tier: *tier };
            let check: Arc<dyn Check> = Arc::new(Script(Mutex::new([verdict.clone()].into())));
            (spec, check)
        })
        .collect();
    Pool::new("web", backends)
}

async fn checked(backends: &[(&str, u8, Verdict)]) -> Arc<Pool> {
    let pool = pool(backends);
    pool.first_round(TIMING).await;
    pool
}

fn picked(pool: &Pool, n: usize) -> Vec<String> {
    (0..n).map(|_| pool.pick(&Tried::default()).map_or_else(|| "-".into(), |b| b.name().into())).collect()
}

fn record(pool: &Pool, verdict: Verdict) {
    pool.backends()[0].record(verdict, Instant::now(), &TIMING);
}

#[tokio::test]
async fn nothing_is_used_before_its_first_check() {
    let pool = pool(&[("a", 0, good())]);
    assert!(pool.pick(&Tried::default()).is_none());
    pool.first_round(TIMING).await;
    assert_eq!(picked(&pool, 1), ["a"]);
}

#[tokio::test]
async fn healthy_back_ends_take_turns_and_the_others_are_skipped() {
    let pool = checked(&[("a", 0, good()), ("b", 0, silent()), ("c", 0, good())]).await;
    assert_eq!(picked(&pool, 4), ["a", "c", "a", "c"]);
}

#[tokio::test]
async fn a_request_does_not_meet_the_same_back_end_twice() {
    let pool = checked(&[("a", 0, good()), ("b", 0, good())]).await;
    let mut tried = Tried::default();
    let first = pool.pick(&tried).unwrap();
    tried.add(&first);
    let second = pool.pick(&tried).unwrap();
    assert_ne!(first.name(), second.name());
    tried.add(&second);
    assert!(pool.pick(&tried).is_none());
}

#[tokio::test]
async fn every_back_end_is_asked_first_in_turn_also_when_one_fails_each_request() {
    let pool = checked(&[("a", 0, good()), ("b", 0, good()), ("c", 0, good())]).await;
    let mut first = Vec::new();
    for _ in 0..30 {
        let mut tried = Tried::default();
        let asked = pool.pick(&tried).unwrap();
        first.push(asked.name().to_owned());
        tried.add(&asked);
        if asked.name() == "a" {
            // Asking whether there is another has no effect, however often.
            assert!((0..7).all(|_| pool.has_any(&tried) && pool.has_usable(&tried)));
            assert_ne!(pool.pick(&tried).unwrap().name(), "a");
        }
    }
    for name in ["a", "b", "c"] {
        assert_eq!(first.iter().filter(|n| *n == name).count(), 10, "{name} of {first:?}");
    }
}

#[tokio::test]
async fn whether_there_is_another_is_asked_as_it_is_picked() {
    let pool = checked(&[("a", 0, good()), ("b", 1, silent()), ("c", 0, refused())]).await;
    let mut tried = Tried::default();
    assert!(pool.has_usable(&tried) && pool.has_any(&tried));
    tried.add(&pool.pick_any(&tried).unwrap());
    assert!(!pool.has_usable(&tried), "b does not answer");
    assert!(pool.has_any(&tried));
    tried.add(&pool.pick_any(&tried).unwrap());
    assert!(!pool.has_any(&tried), "c says no");
    assert!(pool.pick_any(&tried).is_none());
}

#[tokio::test]
async fn a_higher_tier_serves_only_while_the_lower_one_cannot() {
    let pool = checked(&[("local", 0, good()), ("peer", 1, good())]).await;
    assert_eq!(picked(&pool, 2), ["local", "local"]);
    record(&pool, refused());
    assert_eq!(picked(&pool, 2), ["peer", "peer"]);
}

#[tokio::test]
async fn silence_counts_fall_times_and_a_refusal_at_once() {
    let pool = checked(&[("a", 0, good())]).await;
    record(&pool, silent());
    assert_eq!(pool.usable(), 1);
    record(&pool, silent());
    assert_eq!(pool.usable(), 0);
    record(&pool, good());
    assert_eq!(pool.usable(), 0, "rise is 2");
    record(&pool, good());
    assert_eq!(pool.usable(), 1);
    record(&pool, refused());
    assert_eq!(pool.usable(), 0);
    assert_eq!(pool.status()[0]["reason"], "draining");
}

#[tokio::test(start_paused = true)]
async fn a_failed_connect_ejects_until_the_next_good_check_that_began_later() {
    let pool = checked(&[("a", 0, good()), ("b", 0, good())]).await;
    let a = pool.backend("a").unwrap().clone();
    let before = Instant::now();
    tokio::time::advance(Duration::from_millis(1)).await;
    a.eject("refused");
    assert_eq!(picked(&pool, 3), ["b", "b", "b"]);
    a.record(good(), before, &TIMING);
    assert!(!a.is_usable(), "that check began before the failure");
    tokio::time::advance(Duration::from_millis(1)).await;
    a.record(good(), Instant::now(), &TIMING);
    assert!(a.is_usable());
}

#[tokio::test]
async fn when_all_are_ejected_one_is_tried_all_the_same() {
    let pool = checked(&[("a", 0, good()), ("b", 0, silent())]).await;
    pool.backends()[0].eject("hiccup");
    pool.backends()[1].eject("hiccup");
    assert_eq!(picked(&pool, 2), ["a", "a"], "b's checks are bad");
}

#[tokio::test]
async fn when_nobody_answers_checks_one_that_did_not_say_no_may_be_tried() {
    let pool = checked(&[("a", 0, silent()), ("b", 0, refused()), ("c", 0, silent())]).await;
    assert!(pool.pick(&Tried::default()).is_none());
    let mut tried = Tried::default();
    for _ in 0..2 {
        let backend = pool.pick_any(&tried).unwrap();
        assert_ne!(backend.name(), "b");
        tried.add(&backend);
    }
    assert!(pool.pick_any(&tried).is_none());
    pool.backends()[0].set_drained(true);
    assert_eq!(pool.pick_any(&Tried::default()).unwrap().name(), "c");
}

#[tokio::test]
async fn drained_back_ends_are_not_used_whatever_their_checks_say() {
    let pool = checked(&[("a", 0, good()), ("b", 0, good())]).await;
    assert!(pool.set_drained("a", true));
    assert!(!pool.set_drained("nobody", true));
    assert_eq!(picked(&pool, 2), ["b", "b"]);
    pool.set_drained("a", false);
    assert_eq!(pool.usable(), 2);
}

#[tokio::test]
async fn of_two_that_claim_one_role_neither_is_believed() {
    let pool = checked(&[("a", 0, good()), ("b", 0, refused())]).await;
    assert_eq!(pool.only().unwrap().name(), "a");
    pool.backends()[1].record(good(), Instant::now(), &TIMING);
    pool.backends()[1].record(good(), Instant::now(), &TIMING);
    assert!(pool.only().is_none());
}

#[tokio::test]
async fn who_waits_for_a_loss_is_told() {
    let pool = checked(&[("a", 0, good())]).await;
    let mut changes = pool.subscribe();
    let a = pool.backends()[0].clone();
    let waiting = tokio::spawn(async move { a.lost().await });
    record(&pool, refused());
    waiting.await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
}

/// Comes back for nobody: it forgets its own time-out.
struct Stuck;

#[async_trait]
impl Check for Stuck {
    async fn check(&self, _: Duration) -> Verdict {
        std::future::pending().await
    }
}

#[tokio::test]
async fn checks_that_stand_still_are_missed() {
    let spec = Spec { name: "a".into(), address: "192.0.2.1:1".parse().unwrap(), tier: 0 };
    let check: Arc<dyn Check> = Arc::new(Stuck);
    let pool = Pool::new("web", vec![(spec, check)]);
    let heartbeats = Heartbeats::default();
    pool.run_checks(TIMING, &heartbeats);
    assert_eq!(heartbeats.missed(std::time::Instant::now()), None);
    let later = std::time::Instant::now() + Duration::from_secs(5);
    assert!(heartbeats.missed(later).unwrap().starts_with("the checks of web/a has not come round"));
}

#[tokio::test(start_paused = true)]
async fn checks_repeat_at_their_interval() {
    let pool = pool(&[("a", 0, good())]);
    pool.run_checks(TIMING, &Heartbeats::default());
    tokio::time::sleep(TIMING.interval + Duration::from_millis(1)).await;
    assert_eq!(picked(&pool, 1), ["a"]);
}
