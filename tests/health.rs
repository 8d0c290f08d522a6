//! What a back end is asked to find out whether it can serve (`health`, docs/balancer.md).
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, SITE};
use support::client::Wire;
use support::program::Program;
use support::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A back end that answers by its own lights.
struct App {
    address: SocketAddr,
    /// Heads of what it was asked.
    asked: Arc<Mutex<Vec<String>>>,
    accepted: Arc<AtomicUsize>,
}

impl App {
    async fn start(answer: impl Fn(&str) -> &'static str + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, accepted) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (of_server, counted, answer) = (asked.clone(), accepted.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (asked, answer) = (of_server.clone(), answer.clone());
                tokio::spawn(async move {
                    let (mut buffer, mut head) = ([0; 4096], String::new());
                    while let Ok(n @ 1..) = tcp.read(&mut buffer).await {
                        head.push_str(&String::from_utf8_lossy(&buffer[..n]));
                        if head.ends_with("\r\n\r\n") {
                            let said = answer(&head);
                            asked.lock().push(std::mem::take(&mut head));
                            let _ = tcp.write_all(said.as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { address, asked, accepted }
    }
}

/// The balancer before one app, checked as `health` says.
fn balancer(authority: &Authority, app: &App, health: &str) -> Program {
    let config = BalancerConfig {
        back_ends: vec![("app".into(), app.address)],
        plain_back_ends: true,
        web: &format!("health = {{ interval = \"100ms\", timeout = \"10s\", {health} }}"),
        ..BalancerConfig::default()
    };
    Program::start(&config.write(authority))
}

async fn status(program: &Program) -> Value {
    let mut wire = Wire::plain(program.address("metrics.listen")).await;
    wire.send("GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let status: Value = serde_json::from_str(&wire.answer().await.unwrap().body).unwrap();
    status["backends"][0].clone()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall well";
const ELSEWHERE: &str =
    "HTTP/1.1 301 Moved Permanently\r\nLocation: https://www.foobar.com/\r\nContent-Length: 0\r\n\r\n";
const WHO: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

/// As Django with `SECURE_SSL_REDIRECT` and `ALLOWED_HOSTS`, and a framework that builds addresses of the forwarded host.
fn strict_app(head: &str) -> &'static str {
    match (field(head, "host"), field(head, "x-forwarded-proto")) {
        (Some(SITE), Some("https")) => OK,
        (Some(SITE), _) => ELSEWHERE,
        _ => WHO,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_redirects_to_https_and_knows_its_names_is_up_when_it_is_checked_as_the_site() {
    let (authority, app) = (Authority::new(), App::start(strict_app).await);
    let plain = balancer(&authority, &app, "path = \"/\"");
    let said = status(&plain).await;
    assert_eq!((&said["health"], &said["reason"]), (&"down".into(), &"answered 400".into()));

    let (authority, app) = (Authority::new(), App::start(strict_app).await);
    let as_site = balancer(&authority, &app, &format!("path = \"/\", site = \"{SITE}\""));
    assert_eq!(status(&as_site).await["health"], "up");
    let head = app.asked.lock().first().cloned().unwrap();
    assert_eq!(field(&head, "x-forwarded-host"), Some(SITE), "{head}");
    assert_eq!(field(&head, "x-forwarded-port"), Some("443"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_asks_for_what_it_is_told_to_and_takes_the_statuses_it_is_told_for_good() {
    let (authority, app) = (Authority::new(), App::start(|_| ELSEWHERE).await);
    let health = "method = \"OPTIONS\", path = \"/ready?full=1\", host = \"inner.example\", fields = { X-Check = \"yes\" }, \
                  status = [\"204\", \"300-399\"]";
    let program = balancer(&authority, &app, health);
    assert_eq!(status(&program).await["health"], "up");
    let head = app.asked.lock().first().cloned().unwrap();
    assert!(head.starts_with("OPTIONS /ready?full=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(
        (field(&head, "host"), field(&head, "x-check")),
        (Some("inner.example"), Some("yes")),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_what_must_stand_in_it_takes_the_back_end_out() {
    let well = Arc::new(AtomicUsize::new(1));
    let of_app = well.clone();
    let ill = "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nnearly all is we";
    let app = App::start(move |_| if of_app.load(Ordering::Relaxed) == 1 { OK } else { ill }).await;
    let authority = Authority::new();
    let program = balancer(&authority, &app, "contains = \"all well\"");
    assert_eq!(status(&program).await["health"], "up");
    well.store(0, Ordering::Relaxed);
    until("it is down", || async { status(&program).await["health"] == "down" }).await;
    let said = status(&program).await["reason"].clone();
    assert_eq!(said, "answered 200 without \"all well\" in the body");
    well.store(1, Ordering::Relaxed);
    until("it is up again", || async { status(&program).await["health"] == "up" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_tcp_connects_and_asks_nothing() {
    let (authority, app) = (Authority::new(), App::start(|_| WHO).await);
    let program = balancer(&authority, &app, "kind = \"tcp\"");
    assert_eq!(status(&program).await["health"], "up");
    let before = app.accepted.load(Ordering::Relaxed);
    until("it is checked again", || async { app.accepted.load(Ordering::Relaxed) > before }).await;
    assert!(app.asked.lock().is_empty(), "{:?}", app.asked.lock());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_port_can_say_how_a_back_end_is() {
    let (authority, app) = (Authority::new(), App::start(|_| OK).await);
    let agent = App::start(|_| "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let program = balancer(&authority, &app, &format!("port = {}", agent.address.port()));
    let said = status(&program).await;
    assert_eq!((&said["health"], &said["reason"]), (&"down".into(), &"answered 503".into()));
    assert!(app.asked.lock().is_empty());
    let host = app.address.to_string();
    assert_eq!(
        field(&agent.asked.lock()[0], "host"),
        Some(host.as_str()),
        "it is asked about the one that serves"
    );
}
