//! Which back end takes the next request (`balance`, docs/balancer.md).
#![allow(missing_docs)]

use std::collections::BTreeMap;

use support::app::{Act, App};
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, PATIENT_CHECKS, SITE};
use support::client::Wire;
use support::program::{Program, call};
use support::until;

/// Back ends a, b and c, each with keys of its own.
struct Scene {
    apps: Vec<App>,
    balancer: Program,
}

fn write(authority: &Authority, apps: &[App], keys: [&str; 3], web: &str) -> std::path::PathBuf {
    let config = BalancerConfig {
        http: Some("redirect = false"),
        https: "trusted_proxies = [\"127.0.0.1\"]",
        back_ends: vec![("placeholder".into(), apps[0].address)],
        plain_back_ends: true,
        web: &format!("{PATIENT_CHECKS}\n{web}"),
        ..BalancerConfig::default()
    };
    let path = config.write(authority);
    let servers = apps.iter().zip(["a", "b", "c"]).zip(keys);
    let servers: Vec<_> = servers
        .map(|((app, name), keys)| format!("{{ name = \"{name}\", address = \"{}\"{keys} }}", app.address))
        .collect();
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|l| l.starts_with("backends = ")).unwrap();
    authority.write("balancer.toml", &text.replace(line, &format!("backends = [{}]", servers.join(", "))))
}

impl Scene {
    async fn start(keys: [&str; 3], web: &str) -> Self {
        let authority = Authority::new();
        let mut apps = Vec::new();
        for name in ["a", "b", "c"] {
            apps.push(App::start(name).await);
        }
        let balancer = Program::start(&write(&authority, &apps, keys, web));
        Self { apps, balancer }
    }

    /// Who answered.
    async fn ask(&self, path: &str, fields: &str) -> String {
        let mut wire = Wire::plain(self.balancer.address("http.listen")).await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n{fields}Connection: close\r\n\r\n")).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.head);
        answer.body.split(' ').next().unwrap().to_owned()
    }

    async fn metrics(&self) -> String {
        let mut wire = Wire::plain(self.balancer.address("metrics.listen")).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        wire.answer().await.unwrap().body
    }

    /// A request whose answer is not waited for.
    async fn begin(&self, path: &str) -> Wire {
        let mut wire = Wire::plain(self.balancer.address("http.listen")).await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        wire
    }

    async fn shares(&self, n: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..n {
            *shares.entry(self.ask("/", "").await).or_default() += 1;
        }
        shares
    }
}

fn shares<const N: usize>(of: [(&str, usize); N]) -> BTreeMap<String, usize> {
    of.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_gets_its_weight_and_a_backup_nothing_while_another_can_serve() {
    let scene = Scene::start([", weight = 3", ", weight = 1", ", backup = true"], "").await;
    assert_eq!(scene.shares(40).await, shares([("a", 30), ("b", 10)]));
    scene.apps[0].is_well(false);
    scene.apps[1].is_well(false);
    until("the backup serves", || async { scene.ask("/", "").await == "c" }).await;
    assert_eq!(scene.shares(5).await, shares([("c", 5)]));
    scene.apps[1].is_well(true);
    until("it rests again", || async { scene.ask("/", "").await == "b" }).await;
    assert_eq!(scene.shares(5).await, shares([("b", 5)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_may_have_a_limit_of_its_own() {
    let scene = Scene::start([", max_in_flight = 1", "", ", weight = 0"], "").await;
    scene.apps[0].does(Act::Wait);
    let mut waits = scene.begin("/first").await;
    until("it has its only one", || async { scene.apps[0].count("/first") == 1 }).await;
    assert_eq!(scene.shares(10).await, shares([("b", 10)]), "and c has no weight");
    scene.apps[0].release();
    assert_eq!(waits.answer().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_where_all_are_full_a_request_waits_and_they_are_served_in_their_order() {
    let one = ", max_in_flight = 1";
    let scene = Scene::start([one, one, ", backup = true"], "max_queued = 3\nqueue_timeout = \"1h\"").await;
    for app in &scene.apps[..2] {
        app.does(Act::Wait);
    }
    let _first = scene.begin("/1").await;
    until("a has its only one", || async { scene.apps[0].count("/1") == 1 }).await;
    let _second = scene.begin("/2").await;
    until("b has its only one", || async { scene.apps[1].count("/2") == 1 }).await;
    let mut waiting = Vec::new();
    for n in 3..=5 {
        waiting.push(scene.begin(&format!("/{n}")).await);
        until("it waits", || async {
            scene.metrics().await.contains(&format!("trivet_pool_queued{{pool=\"web\"}} {}\n", n - 2))
        })
        .await;
    }
    assert_eq!(scene.begin("/6").await.answer().await.unwrap().status, 503, "no more may wait");
    scene.apps[1].release();
    for (n, wire) in (3..=5).zip(&mut waiting) {
        assert_eq!(wire.answer().await.unwrap().body, format!("b answers GET /{n} HTTP/1.1"));
    }
    let order: Vec<String> =
        scene.apps[1].seen().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(order, ["/2", "/3", "/4", "/5"]);
    assert_eq!(scene.apps[2].seen(), Vec::<String>::new(), "a backup is for those that are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_hash_meets_the_same_back_end_and_follows_it_nowhere_but_when_it_is_gone() {
    let scene = Scene::start([""; 3], "balance = \"hash\"\nhash = { cookie = \"id\" }").await;
    let mut homes = BTreeMap::new();
    for user in 0..30 {
        let fields = format!("Cookie: other=1; id=user{user}\r\n");
        let home = scene.ask("/", &fields).await;
        for path in ["/a", "/b"] {
            assert_eq!(scene.ask(path, &fields).await, home, "user {user}");
        }
        homes.insert(fields, home);
    }
    let all: std::collections::BTreeSet<_> = homes.values().collect();
    assert_eq!(all.len(), 3, "{homes:?}");
    assert_eq!(scene.shares(9).await, shares([("a", 3), ("b", 3), ("c", 3)]), "without a cookie, in turn");
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..3 {
        met.insert(scene.ask("/", "Cookie: id=; other=1\r\n").await);
    }
    assert_eq!(met.len(), 3, "likewise with an empty one");
    scene.apps[1].is_well(false);
    until("b is out", || async { !scene.shares(3).await.contains_key("b") }).await;
    for (fields, home) in &homes {
        let now = scene.ask("/", fields).await;
        assert!(now == *home || home == "b", "{fields}: {home} has become {now}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_comes_back_gets_a_tenth_of_its_share_at_first() {
    let scene = Scene::start([""; 3], "slow_start = \"1000h\"").await;
    assert_eq!(
        scene.shares(9).await,
        shares([("a", 3), ("b", 3), ("c", 3)]),
        "not at the start of the process"
    );
    scene.apps[1].is_well(false);
    until("b is out", || async { !scene.shares(3).await.contains_key("b") }).await;
    scene.apps[1].is_well(true);
    until("b is back", || async { scene.shares(21).await.contains_key("b") }).await;
    assert_eq!(scene.shares(63).await, shares([("a", 30), ("b", 3), ("c", 30)]));
    let metrics = scene.metrics().await;
    let counted = metrics.lines().find(|l| l.starts_with("trivet_backend_slow_starts_total{")).unwrap();
    assert!(counted.contains("backend=\"b\"") && counted.ends_with(" 1"), "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_meets_the_same_back_end_also_behind_a_trusted_proxy() {
    let scene = Scene::start([""; 3], "balance = \"hash\"\nhash = \"client\"").await;
    let mut homes = std::collections::BTreeSet::new();
    for n in 1..=30 {
        // Of one network, which is one client for nginx's ip_hash.
        for client in [format!("192.0.2.{n}"), format!("2001:db8::{n}")] {
            let fields = format!("X-Forwarded-For: {client}\r\n");
            let home = scene.ask("/", &fields).await;
            assert_eq!(scene.ask("/other", &fields).await, home, "{client}");
            homes.insert(home);
        }
    }
    assert_eq!(homes.len(), 3, "{homes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_algorithm_serves_from_all() {
    for web in [
        "balance = \"least-requests\"",
        "balance = \"random\"",
        "balance = \"peak-ewma\"\newma_decay = \"1s\"",
        "balance = \"hash\"\nhash = \"path\"\nhash_balance_factor = 0",
    ] {
        let scene = Scene::start([""; 3], web).await;
        let mut met = std::collections::BTreeSet::new();
        for n in 0..60 {
            met.insert(scene.ask(&format!("/{n}"), "").await);
        }
        assert_eq!(met.len(), 3, "{web}: {met:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_together_with_nothing_is_refused_with_its_key() {
    let authority = Authority::new();
    let apps = [App::start("a").await, App::start("b").await, App::start("c").await];
    for (keys, web, words) in [
        ([""; 3], "balance = \"best\"", "unknown variant `best`"),
        ([""; 3], "balance = \"hash\"", "web.hash: is missing"),
        ([""; 3], "hash = \"client\"", "web.hash: says nothing where balance is not \"hash\""),
        ([""; 3], "balance = \"hash\"\nhash = { cookie = \"a b\" }", "web.hash.cookie: \"a b\" is no name"),
        ([""; 3], "balance = \"hash\"\nhash = { field = \"a b\" }", "web.hash.field: \"a b\" is no name"),
        ([""; 3], "hash_balance_factor = 100", "web.hash_balance_factor: must be above 100"),
        ([""; 3], "ewma_decay = \"0s\"", "web.ewma_decay: must be longer than zero"),
        (
            [""; 3],
            "balance = \"hash\"\nhash = \"path\"\nslow_start = \"30s\"",
            "web.slow_start: does not go with",
        ),
        ([""; 3], "retry_budget = { ratio = -1 }", "web.retry_budget.ratio: must be from 0 to 100"),
        (
            [""; 3],
            "retry_budget = { ratio = 0, min_per_second = 0 }",
            "web.retry_budget: lets nothing be sent again",
        ),
        ([""; 3], "circuit_breaker = { failures = 0 }", "web.circuit_breaker.failures: is a percentage"),
        ([""; 3], "circuit_breaker = { window = \"1ms\" }", "web.circuit_breaker.window: must be at least"),
        ([""; 3], "circuit_breaker = { trials = 0 }", "web.circuit_breaker.trials: must be at least 1"),
        ([""; 3], "circuit_breaker = { pause = \"1s\" }", "unknown field `pause`"),
        ([", max_in_flight = 0", "", ""], "", "web.backends[0].max_in_flight: must be at least 1"),
        ([", weight = 0", ", backup = true", ", weight = 0"], "", "web.backends: has none of weight"),
        ([", wieght = 1", "", ""], "", "unknown field `wieght`"),
    ] {
        let config = write(&authority, &apps, keys, web);
        let (code, said) = call(&["--config", config.to_str().unwrap(), "--check"]);
        assert_eq!(code, 64, "{web}: {said}");
        assert!(said.contains(words), "{web}: {said}");
    }
}
