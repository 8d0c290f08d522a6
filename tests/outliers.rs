//! Back ends whose checks are good and whose answers are not (`outliers`, docs/balancer.md).
#![allow(missing_docs)]

use std::time::Duration;

use serde_json::Value;
use support::app::{Act, App};
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, SITE};
use support::client::Wire;
use support::program::Program;
use support::until;

const CHECKS: &str = "health = { interval = \"100ms\", timeout = \"10s\" }";

struct Scene {
    apps: Vec<App>,
    balancer: Program,
}

impl Scene {
    async fn start(web: &str) -> Self {
        let authority = Authority::new();
        let mut apps = Vec::new();
        for name in ["a", "b", "c"] {
            apps.push(App::start(name).await);
        }
        let config = BalancerConfig {
            http: Some("redirect = false"),
            back_ends: apps.iter().zip(["a", "b", "c"]).map(|(app, n)| (n.into(), app.address)).collect(),
            plain_back_ends: true,
            web: &format!("{CHECKS}\n{web}"),
            ..BalancerConfig::default()
        };
        let balancer = Program::start(&config.write(&authority));
        Self { apps, balancer }
    }

    async fn status(&self, request: &str) -> u16 {
        let mut wire = Wire::plain(self.balancer.address("http.listen")).await;
        wire.send(&format!(
            "{request} HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ))
        .await;
        wire.answer().await.map_or(0, |a| a.status)
    }

    async fn told(&self, path: &str) -> String {
        let mut wire = Wire::plain(self.balancer.address("metrics.listen")).await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        wire.answer().await.unwrap().body
    }

    /// Of those that are passed over, names and why.
    async fn outliers(&self) -> Vec<(String, String)> {
        let status: Value = serde_json::from_str(&self.told("/status").await).unwrap();
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let all = status["backends"].as_array().unwrap().iter().filter(|b| b["outlier"] == true);
        all.map(|b| (text(&b["name"]), text(&b["reason"]))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_answers_500_costs_a_handful_of_requests_and_comes_back_once_it_is_well() {
    let scene = Scene::start("outliers = { ejection = \"500ms\" }").await;
    scene.apps[1].does(Act::Fail);
    let mut failed = 0;
    for _ in 0..60 {
        failed += usize::from(scene.status("POST /").await == 500);
    }
    assert!((5..10).contains(&failed), "{failed} of 60, where 20 would have been a third");
    let metrics = scene.told("/metrics").await;
    let counted = metrics.lines().find(|l| l.starts_with("trivet_backend_outliers_total{")).unwrap();
    assert!(counted.contains("backend=\"b\"") && counted.contains("reason=\"errors\""), "{counted}");

    scene.apps[1].does(Act::Serve);
    let served = scene.apps[1].seen().len();
    until("it is served from again", || async {
        assert_eq!(scene.status("GET /").await, 200);
        scene.apps[1].seen().len() > served + 3
    })
    .await;
    assert_eq!(scene.outliers().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_breaks_off_is_passed_over() {
    let scene = Scene::start("outliers = { ejection = \"1h\", max_ejection = \"1h\" }").await;
    scene.apps[2].does(Act::HangUp);
    let mut failed = 0;
    for _ in 0..60 {
        failed += usize::from(scene.status("POST /").await == 502);
    }
    assert_eq!(failed, 5);
    let outliers = scene.outliers().await;
    assert!(outliers.len() == 1 && outliers[0].0 == "c", "{outliers:?}");
    assert!(outliers[0].1.starts_with("outlier: the back end closed the connection"), "{outliers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_accepts_and_says_nothing_keeps_nobody() {
    let scene =
        Scene::start("outliers = { slow_after = \"200ms\", ejection = \"1h\", max_ejection = \"1h\" }").await;
    scene.apps[0].does(Act::Hang);
    let scene = &scene;
    let asked = (0..60).map(|i| async move {
        tokio::time::sleep(Duration::from_millis(20 * i)).await;
        scene.status("GET /").await
    });
    let statuses = futures_util::future::join_all(asked).await;
    assert!(statuses.iter().all(|s| *s == 200), "what may be sent twice went elsewhere: {statuses:?}");
    assert_eq!(scene.outliers().await[0].0, "a");
    let served = scene.apps[0].seen().len();
    assert!(served < 20, "{served} of 60 went there");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_back_end_breaks_off_retries_are_a_share_of_the_requests() {
    let scene =
        Scene::start("outliers = { errors = 0 }\nretry_budget = { ratio = 0.5, min_per_second = 0 }").await;
    scene.apps.iter().for_each(|app| app.does(Act::HangUp));
    for _ in 0..40 {
        assert_eq!(scene.status("GET /").await, 502);
    }
    let asked: usize = scene.apps.iter().map(|app| app.seen().len()).sum();
    // Half as many again; without a budget they would be 120.
    assert!((45..=60).contains(&asked), "{asked} for 40 requests");
    let metrics = scene.told("/metrics").await;
    let spent = metrics.lines().find(|l| l.starts_with("trivet_retry_budget_spent_total{")).unwrap();
    assert!(spent.contains("pool=\"web\""), "{spent}");
    let told = "; not sent again: the pool's retry_budget is spent";
    scene.balancer.logged(|l| l["status"] == 502 && l["reason"].as_str().is_some_and(|r| r.ends_with(told)));
    // What finds nobody there was not sent, and goes elsewhere whatever the budget.
    scene.apps[0].kill().await;
    scene.apps[1].kill().await;
    scene.apps[2].does(Act::Serve);
    for _ in 0..6 {
        assert_eq!(scene.status("GET /").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_all_of_which_fails_is_left_alone_and_told_so() {
    let scene = Scene::start("circuit_breaker = { min_requests = 10, open = \"1h\", window = \"1h\" }").await;
    scene.apps.iter().for_each(|app| app.does(Act::Fail));
    for _ in 0..10 {
        assert_eq!(scene.status("GET /").await, 500, "as it was answered");
    }
    let asked = || scene.apps.iter().map(|app| app.seen().len()).sum::<usize>();
    assert_eq!(asked(), 10);
    for _ in 0..5 {
        let mut wire = Wire::plain(scene.balancer.address("http.listen")).await;
        wire.send(&format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n")).await;
        let answer = wire.answer().await.unwrap();
        let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        assert!(answer.status == 503 && (3000..=3600).contains(&wait), "{}", answer.head);
        assert_eq!(answer.head.to_ascii_lowercase().matches("retry-after").count(), 1);
    }
    assert_eq!(asked(), 10, "nobody was asked");
    let metrics = scene.told("/metrics").await;
    for line in [
        "trivet_circuit_open{pool=\"web\"} 1",
        "trivet_circuit_opened_total{pool=\"web\"} 1",
        "trivet_http_refused_total{reason=\"circuit_open\"} 5",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
    scene.balancer.logged(|l| l["reason"] == "most requests to the pool fail (circuit_breaker)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_was_left_alone_is_tried_and_serves_again() {
    for act in [Act::Fail, Act::HangUp] {
        let scene = Scene::start(
            "outliers = { errors = 0 }\ncircuit_breaker = { min_requests = 10, open = \"100ms\", window = \"1h\" }",
        )
        .await;
        scene.apps.iter().for_each(|app| app.does(act));
        until("it is left alone", || async { scene.status("POST /").await == 503 }).await;
        // While they fail, those that try do, and it stays so.
        let tried = scene.apps[0].seen().len();
        until("some try", || async {
            scene.status("POST /").await;
            scene.apps[0].seen().len() > tried + 2
        })
        .await;
        scene.apps.iter().for_each(|app| app.does(Act::Serve));
        until("it serves again", || async { scene.status("POST /").await == 200 }).await;
        until("all are let through", || async {
            scene.told("/metrics").await.contains("trivet_circuit_open{pool=\"web\"} 0") || {
                scene.status("POST /").await;
                false
            }
        })
        .await;
        for _ in 0..20 {
            assert_eq!(scene.status("POST /").await, 200, "{act:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_fails_everywhere_takes_nobody_out() {
    let scene = Scene::start("").await;
    scene.apps.iter().for_each(|app| app.does(Act::Fail));
    for _ in 0..60 {
        assert_eq!(scene.status("GET /").await, 500, "as it was answered");
    }
    assert_eq!(scene.outliers().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_outliers_nobody_is_passed_over() {
    let scene = Scene::start("outliers = { errors = 0 }").await;
    scene.apps[1].does(Act::Fail);
    let mut failed = 0;
    for _ in 0..60 {
        failed += usize::from(scene.status("POST /").await == 500);
    }
    assert_eq!(failed, 20);
}
