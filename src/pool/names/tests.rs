use parking_lot::Mutex;
use serde_json::Value;

use super::super::*;
use super::*;

/// Good for ever.
struct Good;

#[async_trait]
impl Check for Good {
    async fn check(&self, _: Duration) -> Verdict {
        Verdict::Good(Value::Null)
    }
}

/// Says what it was told to.
struct Script(Mutex<Found>);

#[async_trait]
impl Resolve for Script {
    async fn resolve(&self, host: &str) -> Found {
        assert_eq!(host, "app.internal");
        self.0.lock().clone()
    }
}

fn none() -> Family {
    Family::Answered(Vec::new())
}

fn failed() -> Family {
    Family::Failed("no answer".into())
}

/// Both families answered, with these.
fn found(addresses: &[&str]) -> Found {
    let all: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let (v4, v6) = all.into_iter().partition(IpAddr::is_ipv4);
    Found { v4: Family::Answered(v4), v6: Family::Answered(v6) }
}

const LIMITS: NameLimits = NameLimits {
    interval: Duration::from_secs(10),
    hold: Duration::from_secs(30),
    most: 4,
    networks: Vec::new(),
};

const TIMING: Timing = Timing::steady(Duration::from_millis(500), Duration::from_millis(400), 2, 2);

/// A pool, and a name that follows what a script says.
struct Scene {
    pool: Arc<Pool<()>>,
    script: Arc<Script>,
    named: Named<()>,
}

fn member(name: &str, address: SocketAddr) -> NewBackend<()> {
    NewBackend { spec: Spec::new(name, address), check: Arc::new(Good), transport: () }
}

impl Scene {
    fn new(limits: NameLimits, members: Vec<NewBackend<()>>) -> Self {
        let few = PoolLimits { max_in_flight: 100, max_queued: 2, queue_timeout: Duration::from_secs(5) };
        let pool = Pool::new("web", members, few);
        let script = Arc::new(Script(Mutex::new(found(&[]))));
        let place = ("app.internal", 8080);
        let named = Named::new(pool.clone(), "app", place, limits, script.clone(), Box::new(member));
        Self { pool, script, named }
    }

    /// Asks, and tells whom the pool has.
    async fn says(&mut self, found: Found) -> Vec<String> {
        *self.script.0.lock() = found;
        self.named.ask().await;
        self.pool.backends().iter().map(|b| b.name().to_owned()).collect()
    }

    async fn has(&mut self, addresses: &[&str]) -> Vec<String> {
        self.says(found(addresses)).await
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn what_stays_keeps_its_health_its_weight_and_what_it_has_in_hand() {
    let mut scene = Scene::new(LIMITS, Vec::new());
    scene.has(&["10.0.0.1", "10.0.0.2"]).await;
    scene.pool.first_round(TIMING).await;
    let kept = scene.pool.backend("app/10.0.0.2").unwrap();
    assert_eq!(kept.address().to_string(), "10.0.0.2:8080");
    kept.set_weight(7);
    let _in_hand = scene.pool.hold(&kept).unwrap();
    scene.has(&["10.0.0.2", "10.0.0.3"]).await;
    pass(LIMITS.hold).await;
    assert_eq!(scene.has(&["10.0.0.3", "10.0.0.2"]).await, ["app/10.0.0.2", "app/10.0.0.3"]);
    let now = scene.pool.backend("app/10.0.0.2").unwrap();
    assert!(Arc::ptr_eq(&now, &kept) && now.is_usable());
    assert_eq!((now.load().weight(), now.load().in_flight()), (7, 1));
}

#[tokio::test(start_paused = true)]
async fn an_address_goes_when_answers_have_not_had_it_for_long_enough() {
    let mut scene = Scene::new(LIMITS, Vec::new());
    let both = ["app/10.0.0.1", "app/10.0.0.2"];
    assert_eq!(scene.has(&["10.0.0.1", "10.0.0.2"]).await, both);
    // Flapping answers, each of which has one of them.
    for n in 0..20 {
        pass(LIMITS.interval).await;
        assert_eq!(scene.has(&[["10.0.0.1", "10.0.0.2"][n % 2]]).await, both, "{n}");
    }
    let second = scene.pool.backend("app/10.0.0.2").unwrap();
    for _ in 0..3 {
        assert_eq!(scene.has(&["10.0.0.1"]).await, both);
        pass(LIMITS.hold / 3 - Duration::from_millis(1)).await;
    }
    pass(Duration::from_millis(3)).await;
    assert_eq!(scene.has(&["10.0.0.1"]).await, ["app/10.0.0.1"]);
    assert!(!second.is_usable(), "nothing new goes there");
    // A name that is gone.
    assert_eq!(scene.has(&[]).await, ["app/10.0.0.1"]);
    pass(LIMITS.hold).await;
    assert!(scene.has(&[]).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_everything_stays() {
    let mut scene = Scene::new(LIMITS, Vec::new());
    let both = ["app/10.0.0.1", "app/2001:db8::1"];
    assert_eq!(scene.has(&["10.0.0.1", "2001:db8::1"]).await, both);
    for says in [
        Found { v4: failed(), v6: failed() },
        // Whether the name has none is not known.
        Found { v4: failed(), v6: none() },
        Found { v4: none(), v6: failed() },
        Found { v4: Family::NotAsked, v6: failed() },
        // Where nobody may be led.
        found(&[
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "255.255.255.255",
        ]),
        found(&["::ffff:127.0.0.1"]),
    ] {
        assert_eq!(scene.says(says.clone()).await, both);
        pass(LIMITS.hold * 2).await;
        assert_eq!(scene.says(says.clone()).await, both, "{says:?}");
    }
    // Missing once, and then nobody answers.
    assert_eq!(scene.has(&["10.0.0.1"]).await, both);
    pass(LIMITS.hold * 2).await;
    assert_eq!(scene.says(Found { v4: failed(), v6: failed() }).await, both);
    assert_eq!(scene.has(&["10.0.0.1", "2001:db8::1"]).await, both);
    // Of one family alone there is an answer.
    let v4 = Found { v4: found(&["10.0.0.2"]).v4, v6: failed() };
    scene.says(v4.clone()).await;
    pass(LIMITS.hold).await;
    assert_eq!(scene.says(v4).await, ["app/2001:db8::1", "app/10.0.0.2"]);
}

#[tokio::test(start_paused = true)]
async fn of_too_many_those_that_are_there_stay_and_what_answers_have_comes_before_what_is_kept() {
    let mut scene = Scene::new(LIMITS, Vec::new());
    let first = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"];
    let there = first.map(|a| format!("app/{a}"));
    assert_eq!(scene.has(&first).await, there);
    let many: Vec<String> = (0..10_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(scene.has(&many).await, there);
    let now = scene.has(&["10.0.1.1", "10.0.2.1", "10.0.2.2"]).await;
    assert_eq!(now.len(), 4, "{now:?}");
    for name in ["app/10.0.1.1", "app/10.0.2.1", "app/10.0.2.2"] {
        assert!(now.iter().any(|n| n == name), "{now:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn networks_say_where_addresses_may_be() {
    let networks = vec!["10.1.0.0/16".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
    let mut scene = Scene::new(NameLimits { networks, ..LIMITS }, Vec::new());
    assert_eq!(scene.has(&["10.2.0.1", "127.0.0.1", "10.1.0.1"]).await, ["app/10.1.0.1", "app/127.0.0.1"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_another_back_end_has_is_left_to_it() {
    let fixed = member("fixed", "10.0.0.1:8080".parse().unwrap());
    let mut scene = Scene::new(LIMITS, vec![fixed]);
    assert_eq!(scene.has(&["10.0.0.1", "10.0.0.2"]).await, ["fixed", "app/10.0.0.2"]);
    scene.has(&[]).await;
    pass(LIMITS.hold).await;
    assert_eq!(scene.has(&[]).await, ["fixed"], "it is not the name's to remove");
    scene.pool.remove("fixed");
    assert_eq!(scene.has(&["10.0.0.1"]).await, ["app/10.0.0.1"], "as soon as it is free");
}

#[tokio::test(start_paused = true)]
async fn a_name_of_ever_new_addresses_has_a_bounded_number_of_names() {
    let mut scene = Scene::new(NameLimits { hold: Duration::ZERO, ..LIMITS }, Vec::new());
    let mut seen = BTreeSet::new();
    for n in 0..3_000_u32 {
        let two = [n, n + 1].map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()).to_string());
        let now = scene.has(&[&two[0], &two[1]]).await;
        assert_eq!(now.len(), 2, "{now:?}");
        seen.extend(now);
    }
    assert!(seen.len() <= MOST_NAMED + LIMITS.most, "{}", seen.len());
    let addresses: Vec<_> = scene.pool.backends().iter().map(|b| b.address().to_string()).collect();
    assert_eq!(addresses, ["10.0.11.183:8080", "10.0.11.184:8080"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_again_at_the_interval_and_sooner_while_there_is_none() {
    let scene = Scene::new(LIMITS, Vec::new());
    let (pool, script) = (scene.pool.clone(), scene.script.clone());
    tokio::spawn(scene.named.follow(Duration::from_secs(2), Heartbeats::default()));
    *script.0.lock() = found(&["10.0.0.1"]);
    tokio::time::sleep(SOON * 2).await;
    assert_eq!(pool.backends().len(), 1);
    *script.0.lock() = found(&["10.0.0.1", "10.0.0.2"]);
    tokio::time::sleep(LIMITS.interval / 2).await;
    assert_eq!(pool.backends().len(), 1);
    tokio::time::sleep(LIMITS.interval).await;
    assert_eq!(pool.backends().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_a_start_without_an_answer_the_last_known_addresses_are_used() {
    let folder = std::env::temp_dir().join(format!("trivet-names-of-{}", std::process::id()));
    let scene = |limits| {
        let mut scene = Scene::new(limits, Vec::new());
        scene.named = scene.named.remembered_in(&folder);
        scene
    };
    let nobody = || Found { v4: failed(), v6: failed() };
    let mut first = scene(LIMITS);
    assert!(first.says(nobody()).await.is_empty(), "nothing is known yet");
    first.has(&["10.0.0.1", "10.0.0.2"]).await;

    let mut second = scene(LIMITS);
    assert_eq!(second.says(nobody()).await, ["app/10.0.0.1", "app/10.0.0.2"]);
    assert_eq!(second.has(&["10.0.0.2"]).await, ["app/10.0.0.1", "app/10.0.0.2"]);
    pass(LIMITS.hold).await;
    assert_eq!(second.has(&["10.0.0.2"]).await, ["app/10.0.0.2"], "they are held to answers as all are");

    let mut third = scene(LIMITS);
    assert!(third.has(&[]).await.is_empty(), "who answers knows better");
    assert!(scene(LIMITS).says(nobody()).await.is_empty(), "and is remembered");
    third.has(&["10.0.0.1"]).await;
    let networks = vec!["10.9.0.0/16".parse().unwrap()];
    let mut fourth = scene(NameLimits { networks, ..LIMITS });
    assert!(fourth.says(nobody()).await.is_empty(), "where they may not be any more");
    std::fs::remove_dir_all(&folder).unwrap();
}
