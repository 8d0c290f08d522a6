use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::timing::Timing;
use super::*;
use trivet_base::process::Heartbeats;

pub(crate) const TIMING: Timing =
    Timing::steady(Duration::from_millis(500), Duration::from_millis(400), 2, 2);

/// Answers what it was told to, the last answer for ever.
struct Script(Mutex<VecDeque<Verdict>>);

#[async_trait]
impl Check for Script {
    async fn check(&self, _: Duration) -> Verdict {
        let mut answers = self.0.lock();
        if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
    }
}

pub(crate) fn good() -> Verdict {
    Verdict::Good(Value::Null)
}

pub(crate) fn silent() -> Verdict {
    Verdict::Silent("no answer".into())
}

pub(crate) fn refused() -> Verdict {
    Verdict::Refused("draining".into(), Value::Null)
}

pub(crate) const LIMITS: PoolLimits =
    PoolLimits { max_in_flight: 100, max_queued: 2, queue_timeout: Duration::from_secs(5) };

/// A back end that says this for ever; its address follows from its name.
pub(crate) fn member(name: &str, tier: u8, verdict: Verdict) -> NewBackend<()> {
    let address = SocketAddr::from(([192, 0, 2, 1], name.bytes().map(u16::from).sum()));
    let check = Arc::new(Script(Mutex::new([verdict].into())));
    NewBackend { spec: Spec { tier, ..Spec::new(name, address) }, check, transport: () }
}

fn pool(backends: &[(&str, u8, Verdict)]) -> Arc<Pool<()>> {
    let backends = backends.iter().map(|(name, tier, verdict)| member(name, *tier, verdict.clone()));
    Pool::new("web", backends.collect(), LIMITS)
}

pub(crate) async fn checked(backends: &[(&str, u8, Verdict)]) -> Arc<Pool<()>> {
    let pool = pool(backends);
    pool.first_round(TIMING).await;
    pool
}

fn pick(pool: &Arc<Pool<()>>, tried: &Tried<()>) -> Option<Arc<Backend<()>>> {
    pool.pick(Scope::ANSWERING, tried).ok().map(|lease| lease.backend().clone())
}

fn pick_any(pool: &Arc<Pool<()>>, tried: &Tried<()>) -> Option<Arc<Backend<()>>> {
    pool.pick(Scope::ANY, tried).ok().map(|lease| lease.backend().clone())
}

pub(crate) fn picked(pool: &Arc<Pool<()>>, n: usize) -> Vec<String> {
    (0..n).map(|_| pick(pool, &Tried::default()).map_or_else(|| "-".into(), |b| b.name().into())).collect()
}

pub(crate) fn record(pool: &Pool<()>, verdict: Verdict) {
    pool.backends()[0].record(verdict, Instant::now(), &TIMING);
}

#[tokio::test]
async fn nothing_is_used_before_its_first_check() {
    let pool = pool(&[("a", 0, good())]);
    assert!(pick(&pool, &Tried::default()).is_none());
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
    let first = pick(&pool, &tried).unwrap();
    tried.add(&first);
    let second = pick(&pool, &tried).unwrap();
    assert_ne!(first.name(), second.name());
    tried.add(&second);
    assert!(pick(&pool, &tried).is_none());
}

#[tokio::test]
async fn every_back_end_is_asked_first_in_turn_also_when_one_fails_each_request() {
    let pool = checked(&[("a", 0, good()), ("b", 0, good()), ("c", 0, good())]).await;
    let mut first = Vec::new();
    for _ in 0..30 {
        let mut tried = Tried::default();
        let asked = pick(&pool, &tried).unwrap();
        first.push(asked.name().to_owned());
        tried.add(&asked);
        if asked.name() == "a" {
            // Asking whether there is another has no effect, however often.
            assert!(
                (0..7).all(|_| pool.has_other(Scope::ANY, &tried) && pool.has_usable(Scope::ANY, &tried))
            );
            assert_ne!(pick(&pool, &tried).unwrap().name(), "a");
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
    assert!(pool.has_usable(Scope::ANY, &tried) && pool.has_other(Scope::ANY, &tried));
    tried.add(&pick_any(&pool, &tried).unwrap());
    assert!(!pool.has_usable(Scope::ANY, &tried), "b does not answer");
    assert!(pool.has_other(Scope::ANY, &tried));
    tried.add(&pick_any(&pool, &tried).unwrap());
    assert!(!pool.has_other(Scope::ANY, &tried), "c says no");
    assert!(pick_any(&pool, &tried).is_none());
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

#[tokio::test]
async fn a_machine_on_which_nobody_listens_is_down_and_not_silent() {
    let pool = checked(&[("a", 0, good())]).await;
    for _ in 0..2 {
        record(&pool, Verdict::Failed("connection refused".into()));
    }
    assert_eq!(pool.usable(), 0);
    assert!(!pool.backends()[0].is_silent());
    assert!(pool.pick(Scope::ANY, &Tried::default()).is_ok(), "it may be about to start");
    record(&pool, silent());
    assert!(pool.backends()[0].is_silent());
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
    assert!(pick(&pool, &Tried::default()).is_none());
    let mut tried = Tried::default();
    for _ in 0..2 {
        let backend = pick_any(&pool, &tried).unwrap();
        assert_ne!(backend.name(), "b");
        tried.add(&backend);
    }
    assert!(pick_any(&pool, &tried).is_none());
    pool.backends()[0].set_drained(true);
    assert_eq!(pick_any(&pool, &Tried::default()).unwrap().name(), "c");
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
    let stuck = NewBackend { check: Arc::new(Stuck), ..member("a", 0, good()) };
    let pool = Pool::new("web", vec![stuck], LIMITS);
    let heartbeats = Heartbeats::default();
    pool.run_checks(TIMING, &heartbeats);
    assert_eq!(heartbeats.missed(tokio::time::Instant::now()), None);
    let later = tokio::time::Instant::now() + Duration::from_secs(5);
    assert!(heartbeats.missed(later).unwrap().starts_with("the checks of web/a has not come round"));
}

#[tokio::test(start_paused = true)]
async fn checks_repeat_at_their_interval() {
    let pool = pool(&[("a", 0, good())]);
    pool.run_checks(TIMING, &Heartbeats::default());
    tokio::time::sleep(TIMING.interval + Duration::from_millis(1)).await;
    assert_eq!(picked(&pool, 1), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn while_the_checks_contradict_what_is_believed_they_come_at_the_fast_interval() {
    let timing = Timing {
        interval: Duration::from_secs(60),
        fast_interval: Some(Duration::from_secs(1)),
        jitter: 0,
        ..TIMING
    };
    // Silent twice, which is a fall, then good twice, which is a rise.
    let script = [good(), silent(), silent(), good(), good()];
    let member = NewBackend { check: Arc::new(Script(Mutex::new(script.into()))), ..member("a", 0, good()) };
    let pool = Pool::new("web", vec![member], LIMITS);
    pool.first_round(timing).await;
    pool.run_checks(timing, &Heartbeats::default());
    let a = pool.backend("a").unwrap().clone();
    let turns = async |to: Health| {
        let began = Instant::now();
        while a.health() != to {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        began.elapsed().as_secs()
    };
    assert!(turns(Health::Down).await <= 62, "the second silence is heard a second after the first");
    assert!((60..=62).contains(&turns(Health::Up).await), "it is down, and quiet, for an interval");
}

#[tokio::test]
async fn a_fallback_is_asked_when_nobody_is_up_and_not_when_it_is_drained() {
    let app = NewBackend {
        spec: Spec { fallback: true, ..member("app", 0, good()).spec },
        ..member("app", 0, refused())
    };
    let pool = Pool::new("app", vec![app, member("peer", 1, silent()), member("other", 1, good())], LIMITS);
    pool.first_round(TIMING).await;
    let mut tried = Tried::default();
    let mut order = Vec::new();
    while let Some(backend) = pick_any(&pool, &tried) {
        order.push(backend.name().to_owned());
        tried.add(&backend);
    }
    assert_eq!(order, ["other", "app", "peer"]);
    let first =
        |pool: &Arc<Pool<()>>| pool.pick(Scope::FIRST_TIER, &Tried::default()).map(|l| l.name().to_owned());
    assert_eq!(first(&pool), Ok("app".into()), "whatever it says");
    pool.set_drained("app", true);
    assert_eq!(first(&pool), Err(Unavailable::None));
}

#[tokio::test]
async fn a_lease_counts_until_it_is_dropped_and_room_is_kept_for_nobody() {
    let few = |name| NewBackend {
        spec: Spec { max_in_flight: 2, ..member(name, 0, good()).spec },
        ..member(name, 0, good())
    };
    let pool = Pool::new("web", vec![few("a"), few("b")], PoolLimits { max_in_flight: 3, ..LIMITS });
    pool.first_round(TIMING).await;
    let take = || pool.pick(Scope::ANY, &Tried::default());
    let (a, b) = (take().unwrap(), take().unwrap());
    assert_eq!([a.name(), b.name()], ["a", "b"]);
    let third = take().unwrap();
    assert_eq!(pool.status()[0]["in_flight"], 2);
    assert_eq!(take().map(|_| ()), Err(Unavailable::Busy), "three in all");
    drop(a);
    assert_eq!(take().unwrap().name(), "b", "it is its turn");
    let mut tried = Tried::default();
    tried.add(b.backend());
    let second = pool.pick(Scope::ANY, &tried).unwrap();
    assert_eq!(second.name(), "a");
    assert_eq!(pool.pick(Scope::ANY, &tried).map(|_| ()), Err(Unavailable::Busy));
    assert!(pool.has_other(Scope::ANY, &tried), "busy is not gone");
    drop((b, third, second));
    assert_eq!(pool.status()[0]["in_flight"], 0);
}

/// One back end that may have one request in hand, and that request.
async fn busy() -> (Arc<Pool<()>>, Lease<()>) {
    let one = NewBackend {
        spec: Spec { max_in_flight: 1, ..member("a", 0, good()).spec },
        ..member("a", 0, good())
    };
    let pool = Pool::new("web", vec![one], LIMITS);
    pool.first_round(TIMING).await;
    let lease = pool.pick(Scope::ANY, &Tried::default()).unwrap();
    (pool, lease)
}

pub(crate) type Waiting = tokio::task::JoinHandle<Result<Lease<()>, Unavailable>>;

async fn wait(pool: &Arc<Pool<()>>) -> Waiting {
    let pool = pool.clone();
    let waiting =
        tokio::spawn(async move { pool.lease(Scope::ANY, &Tried::default(), Duration::ZERO).await });
    tokio::task::yield_now().await;
    waiting
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_served_first_and_who_left_is_passed_over() {
    let (pool, lease) = busy().await;
    let (first, second) = (wait(&pool).await, wait(&pool).await);
    assert_eq!(
        pool.lease(Scope::ANY, &Tried::default(), Duration::ZERO).await.map(|_| ()),
        Err(Unavailable::QueueFull)
    );
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let third = wait(&pool).await;
    drop(lease);
    let lease = second.await.unwrap().unwrap();
    assert!(!third.is_finished());
    drop(lease);
    drop(third.await.unwrap().unwrap());
    assert_eq!(pool.status()[0]["in_flight"], 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_queue_timeout() {
    let (pool, lease) = busy().await;
    let waiting = wait(&pool).await;
    let began = Instant::now();
    assert_eq!(waiting.await.unwrap().map(|_| ()), Err(Unavailable::QueueTimeout));
    assert_eq!(began.elapsed(), LIMITS.queue_timeout);
    // Nothing is left of it.
    drop(lease);
    assert!(pool.pick(Scope::ANY, &Tried::default()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_there_is_nobody_left_to_wait_for() {
    let (pool, _lease) = busy().await;
    let waiting = wait(&pool).await;
    record(&pool, refused());
    assert_eq!(waiting.await.unwrap().map(|_| ()), Err(Unavailable::None));
}

#[tokio::test(start_paused = true)]
async fn a_back_end_that_is_added_serves_those_who_wait() {
    let (pool, _lease) = busy().await;
    pool.run_checks(TIMING, &Heartbeats::default());
    let waiting = wait(&pool).await;
    pool.add(member("b", 0, good())).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().name(), "b");
}

#[tokio::test(start_paused = true)]
async fn back_ends_come_and_go_and_what_is_in_flight_is_finished() {
    let pool = checked(&[("a", 0, good())]).await;
    let heartbeats = Heartbeats::default();
    pool.run_checks(TIMING, &heartbeats);
    let mut changes = pool.subscribe();
    let b = pool.add(member("b", 0, good())).unwrap();
    assert!(pool.add(member("b", 0, good())).is_err(), "it is there");
    assert_eq!(picked(&pool, 2), ["a", "a"], "it has not been checked");
    changes.wait_for(|_| b.is_usable()).await.unwrap();
    let mut turns = picked(&pool, 2);
    turns.sort();
    assert_eq!(turns, ["a", "b"]);
    let lease = pool.hold(&b).unwrap();
    assert!(pool.remove("b").is_some() && pool.remove("b").is_none());
    assert_eq!(picked(&pool, 2), ["a", "a"]);
    lease.lost().await;
    assert_eq!(lease.load().in_flight(), 1);
    drop((lease, b));
    // Its checks have ended, and nobody misses them.
    tokio::time::sleep(TIMING.interval * 3).await;
    let long_after = tokio::time::Instant::now();
    assert_eq!(heartbeats.missed(long_after), None);
    assert!(pool.add(member("b", 0, good())).is_ok(), "its name is free again");
}

#[tokio::test]
async fn weights_may_change_and_none_is_nothing() {
    let pool = checked(&[("a", 0, good()), ("b", 0, good())]).await;
    assert!(pool.set_weight("b", 3) && !pool.set_weight("nobody", 3));
    assert_eq!(picked(&pool, 40).iter().filter(|name| *name == "b").count(), 30);
    pool.set_weight("b", 0);
    assert_eq!(picked(&pool, 3), ["a", "a", "a"]);
    assert_eq!(pool.status()[1]["usable"], false);
    pool.set_weight("b", 1);
    assert_eq!(pool.usable(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_further_attempt_comes_before_those_that_have_had_none_and_waits_no_longer_in_all() {
    let few = |name| NewBackend {
        spec: Spec { max_in_flight: 1, ..member(name, 0, good()).spec },
        ..member(name, 0, good())
    };
    let pool = Pool::new("web", vec![few("a"), few("b")], LIMITS);
    pool.first_round(TIMING).await;
    let (a, b) = (
        pool.pick(Scope::ANY, &Tried::default()).unwrap(),
        pool.pick(Scope::ANY, &Tried::default()).unwrap(),
    );
    let (first, second) = (wait(&pool).await, wait(&pool).await);
    let mut tried = Tried::default();
    tried.add(a.backend());
    let again = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.lease(Scope::ANY, &tried, LIMITS.queue_timeout / 2).await })
    };
    tokio::task::yield_now().await;
    drop(b);
    let again = again.await.unwrap().unwrap();
    assert_eq!(again.name(), "b", "although the queue was full");
    assert!(!first.is_finished() && !second.is_finished());
    for waiting in [first, second] {
        waiting.abort();
        assert!(waiting.await.is_err());
    }
    drop((a, again));
    let began = Instant::now();
    let _all = [(); 2].map(|()| pool.pick(Scope::ANY, &Tried::default()).unwrap());
    let late = pool.lease(Scope::ANY, &Tried::default(), LIMITS.queue_timeout / 2).await;
    assert_eq!((late.err(), began.elapsed()), (Some(Unavailable::QueueTimeout), LIMITS.queue_timeout / 2));
}

#[tokio::test]
async fn one_that_is_busy_is_no_refuge() {
    let one = NewBackend {
        spec: Spec { max_in_flight: 1, ..member("b", 0, good()).spec },
        ..member("b", 0, good())
    };
    let pool = Pool::new("web", vec![member("a", 0, good()), one], LIMITS);
    pool.first_round(TIMING).await;
    let mut tried = Tried::default();
    tried.add(&pool.backend("a").unwrap());
    assert!(pool.has_usable(Scope::ANY, &tried));
    let _busy = pool.hold(&pool.backend("b").unwrap()).unwrap();
    assert!(!pool.has_usable(Scope::ANY, &tried) && pool.has_other(Scope::ANY, &tried));
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_follows_a_time_that_it_was_down_and_not_the_start_of_the_process() {
    let slow = |name: &str| NewBackend {
        spec: Spec { slow_start: Duration::from_secs(30), ..member(name, 0, good()).spec },
        ..member(name, 0, good())
    };
    let pool = Pool::new("web", vec![slow("a"), slow("b")], LIMITS);
    pool.first_round(TIMING).await;
    let share = |pool: &Pool<()>| pool.status()[0]["effective_weight"].as_f64().unwrap();
    assert_eq!(share(&pool), 1.0);
    let served = |pool: &Arc<Pool<()>>| picked(pool, 110).iter().filter(|name| *name == "a").count();
    record(&pool, refused());
    record(&pool, good());
    record(&pool, good());
    assert_eq!((share(&pool), served(&pool)), (0.1, 10));
    tokio::time::advance(Duration::from_secs(15)).await;
    assert_eq!(share(&pool), 0.55);
    // An ejection is a matter of moments.
    pool.backends()[0].eject("refused");
    tokio::time::advance(Duration::from_secs(15)).await;
    record(&pool, good());
    assert_eq!((share(&pool), served(&pool)), (1.0, 55));
}
