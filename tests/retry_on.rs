//! Answers in whose place another back end's is given (`retry_on`, docs/balancer.md).
#![allow(missing_docs)]

use support::app::{Act, App};
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, PATIENT_CHECKS, SITE};
use support::client::{Answer, Wire};
use support::program::{Program, call};
use support::until;

struct Scene {
    apps: [App; 2],
    balancer: Program,
}

fn write(authority: &Authority, apps: &[App; 2], web: &str) -> std::path::PathBuf {
    let config = BalancerConfig {
        http: Some("redirect = false"),
        back_ends: apps.iter().zip(["a", "b"]).map(|(app, name)| (name.into(), app.address)).collect(),
        plain_back_ends: true,
        web: &format!("{PATIENT_CHECKS}\noutliers = {{ errors = 0 }}\n{web}"),
        ..BalancerConfig::default()
    };
    config.write(authority)
}

impl Scene {
    async fn start(web: &str) -> Self {
        let authority = Authority::new();
        let apps = [App::start("a").await, App::start("b").await];
        let balancer = Program::start(&write(&authority, &apps, web));
        Self { apps, balancer }
    }

    async fn ask(&self, request: &str, fields: &str, body: &str) -> Answer {
        let mut wire = Wire::plain(self.balancer.address("http.listen")).await;
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        wire.send(&format!("{request} HTTP/1.1\r\nHost: {SITE}\r\n{fields}{length}\r\n{body}")).await;
        wire.answer().await.unwrap()
    }

    /// The statuses of four requests, of which two would be each back end's.
    async fn four(&self, request: &str, fields: &str, body: &str) -> [u16; 4] {
        let mut statuses = [0; 4];
        for status in &mut statuses {
            *status = self.ask(request, fields, body).await.status;
        }
        statuses
    }

    async fn metrics(&self) -> String {
        let mut wire = Wire::plain(self.balancer.address("metrics.listen")).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        wire.answer().await.unwrap().body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_sent_twice_is_asked_of_another_back_end_after_such_an_answer() {
    let scene = Scene::start("retry_on = [\"500\", \"502-504\"]").await;
    scene.apps[0].does(Act::Fail);
    assert_eq!(scene.four("GET /get", "", "").await, [200; 4]);
    assert_eq!(scene.apps[0].count("/get"), 2, "it was asked as before");
    assert_eq!(scene.four("PUT /put", "", "whole").await, [200; 4]);
    let put: Vec<_> = scene.apps[1].seen().into_iter().filter(|r| r.starts_with("PUT ")).collect();
    assert!(put.len() == 4 && put.iter().all(|r| r.ends_with("\r\n\r\nwhole")), "{put:?}");
    assert_eq!(scene.four("POST /key", "Idempotency-Key: 1\r\n", "x").await, [200; 4]);
    assert!(scene.metrics().await.contains("trivet_http_retries_total{pool=\"web\",backend=\"b\"} 6"));

    // What may have been done is not done twice, nor what is no longer there to be sent.
    assert!(scene.four("POST /post", "", "x").await.contains(&500));
    assert_eq!(scene.apps[0].count("/post") + scene.apps[1].count("/post"), 4);
    assert!(scene.four("PUT /large", "", &"x".repeat(100_000)).await.contains(&500));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_other_can_be_asked_the_answer_is_given_as_it_is() {
    let scene = Scene::start("retry_on = [\"500\"]").await;
    scene.apps.iter().for_each(|app| app.does(Act::Fail));
    let answer = scene.ask("GET /both", "", "").await;
    assert!(answer.status == 500 && answer.body.ends_with(" answers GET /both HTTP/1.1"), "{}", answer.body);
    assert_eq!([scene.apps[0].count("/both"), scene.apps[1].count("/both")], [1, 1], "each is asked once");
    scene.apps[1].is_well(false);
    let down = "trivet_backend_up{pool=\"web\",backend=\"b\"} 0";
    until("b is down", || async { scene.metrics().await.contains(down) }).await;
    let answer = scene.ask("GET /alone", "", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "a answers GET /alone HTTP/1.1"));
    assert_eq!(scene.apps[1].count("/alone"), 0, "an answer is better than one that is down");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_statuses_and_further_tries_than_retries_are_as_before() {
    for web in ["", "retry_on = [\"503\"]", "retry_on = [\"500\"]\nretries = 0"] {
        let scene = Scene::start(web).await;
        scene.apps[0].does(Act::Fail);
        let mut statuses = scene.four("GET /", "", "").await;
        statuses.sort();
        assert_eq!(statuses, [200, 200, 500, 500], "{web}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_status_of_an_error_is_refused_with_its_key() {
    let authority = Authority::new();
    let apps = [App::start("a").await, App::start("b").await];
    for status in ["200", "399-404", "500-600", "5xx", "504-502", ""] {
        let config = write(&authority, &apps, &format!("retry_on = [\"{status}\"]"));
        let (code, said) = call(&["--config", config.to_str().unwrap(), "--check"]);
        assert_eq!(code, 64, "{status}: {said}");
        assert!(said.contains(&format!("web.retry_on: \"{status}\" is no status of an error")), "{said}");
    }
}
