//! A log that nobody reads, as when journald stands still: requests are answered all the same, and what is missing is told.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;
use support::authority::Authority;
use support::backend::Backend;
use support::balancer_config::{BalancerConfig, SITE};
use support::built::built;
use support::client::Wire;
use support::one_back_end::get;
use support::until;

/// A balancer whose log is read when the test reads it, and not before.
struct Balancer {
    child: Child,
    log: BufReader<ChildStderr>,
    seen: Vec<Value>,
}

impl Balancer {
    fn start(config: &BalancerConfig<'_>, authority: &Authority) -> Self {
        let mut child = Command::new(built("trivet-balancer"))
            .arg("--config")
            .arg(config.write(authority))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, seen: Vec::new() }
    }

    /// Reads lines until this one came.
    fn read_until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut text = String::new();
            assert!(self.log.read_line(&mut text).unwrap() > 0, "the log ended");
            let line: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            self.seen.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }

    fn stop(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    fn address(&mut self, key: &str) -> std::net::SocketAddr {
        let is_it = |line: &Value| line["message"] == "listening" && line["key"] == key;
        let line = match self.seen.iter().find(|line| is_it(line)) {
            Some(line) => line.clone(),
            None => self.read_until(is_it),
        };
        line["address"].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests whose lines are more than a pipe and the queue hold: 7 MB.
const REQUESTS: u64 = 900;

async fn fill_the_log(wire: &mut Wire, path: &str) {
    for _ in 0..REQUESTS {
        wire.send(&get(path)).await;
        assert_eq!(wire.answer().await.expect("an answer").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_no_request_and_says_afterwards_what_is_missing() {
    let authority = Authority::new();
    let backend = Backend::start("node0", authority.mutual_server("node0")).await;
    let config =
        BalancerConfig { back_ends: vec![("node0".into(), backend.address)], ..BalancerConfig::default() };
    let mut balancer = Balancer::start(&config, &authority);
    balancer.read_until(|line| line["message"] == "serving");
    let (https, metrics) = (balancer.address("https.listen"), balancer.address("metrics.listen"));

    let path = format!("/{}", "a".repeat(8000));
    let mut wire = Wire::tls(https, SITE, authority.browser(&[b"http/1.1"])).await;
    fill_the_log(&mut wire, &path).await;
    let line = balancer.read_until(|line| line["lost"].is_u64());
    assert_eq!(line["level"], "WARN");
    wire.send(&get("/afterwards")).await;
    assert_eq!(wire.answer().await.expect("an answer").status, 200);
    balancer.read_until(|line| line["path"] == "/afterwards");

    let lost = line["lost"].as_u64().unwrap();
    let logged = balancer.seen.iter().filter(|line| line["path"] == path.as_str()).count() as u64;
    assert_eq!(logged + lost, REQUESTS, "each is in the log or in the count");
    let mut scrape = Wire::plain(metrics).await;
    scrape.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let text = scrape.answer().await.unwrap().body;
    assert!(text.contains(&format!("trivet_log_dropped_total{{log=\"access\"}} {lost}\n")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_when_it_is_told_to_although_nobody_reads_its_log() {
    let authority = Authority::new();
    let backend = Backend::start("node0", authority.mutual_server("node0")).await;
    let config =
        BalancerConfig { back_ends: vec![("node0".into(), backend.address)], ..BalancerConfig::default() };
    let mut balancer = Balancer::start(&config, &authority);
    balancer.read_until(|line| line["message"] == "serving");
    let https = balancer.address("https.listen");
    let mut wire = Wire::tls(https, SITE, authority.browser(&[b"http/1.1"])).await;
    fill_the_log(&mut wire, &format!("/{}", "a".repeat(8000))).await;
    drop(wire);
    balancer.stop();
    until("it ends", || std::future::ready(balancer.child.try_wait().unwrap().is_some())).await;
    assert!(balancer.child.wait().unwrap().success());
}

#[test]
fn what_was_said_last_is_in_the_log_of_a_program_that_ends() {
    let authority = Authority::new();
    let config = BalancerConfig {
        back_ends: vec![("node0".into(), "127.0.0.1:1".parse().unwrap())],
        ..BalancerConfig::default()
    };
    let mut balancer = Balancer::start(&config, &authority);
    balancer.read_until(|line| line["message"] == "serving");
    balancer.stop();
    assert!(balancer.child.wait().unwrap().success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut balancer.log, &mut rest).unwrap();
    assert!(rest.contains("stopping"), "{rest}");
}
