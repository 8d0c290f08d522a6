//! Balancer, web tier and app as processes: when they are ready, how they end, and what their threads share.
#![allow(missing_docs)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::PATIENCE;
use support::app::App;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, SITE};
use support::built::built;
use support::program::{Program, call, ended_unready};
use trivet_base::process::Failure;
use trivet_base::process::server::Server;

const WEB: &str = "trivet-web";

/// A balancer in plain text before one back end.
fn plain(authority: &Authority, back_end: SocketAddr, top: &str) -> PathBuf {
    let config = BalancerConfig {
        top,
        http: Some("redirect = false"),
        back_ends: vec![("first".into(), back_end)],
        plain_back_ends: true,
        sections: "[local_check]\nlisten = \"127.0.0.1:0\"",
        ..BalancerConfig::default()
    };
    config.write(authority)
}

/// A balancer before a back end that has not answered its first check yet, the connection of that check, and the socket on
/// which systemd would listen.
fn starting(authority: &Authority) -> (Program, TcpStream, UnixDatagram) {
    let back_end = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = plain(authority, back_end.local_addr().unwrap(), "");
    let notify = authority.path("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(built("trivet-balancer"));
    command.arg("--config").arg(config).env("NOTIFY_SOCKET", notify);
    let program = Program::begin(command);
    let (check, _) = back_end.accept().unwrap();
    check.set_read_timeout(Some(PATIENCE)).unwrap();
    (program, check, systemd)
}

fn answer_check(mut check: TcpStream) {
    let _ = check.read(&mut [0; 4096]).unwrap();
    check.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
}

/// The status of the answer to a request over `stream`, and the answer.
fn ask(mut stream: TcpStream, path: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(program: &Program) -> Value {
    let answer = ask(TcpStream::connect(program.address("metrics.listen")).unwrap(), "/status");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn ready_is_said_once_every_service_is_and_whoever_came_before_has_waited() {
    let authority = Authority::new();
    let (program, check, systemd) = starting(&authority);
    // Metrics wait for nobody, so this one is a service that has started.
    assert_eq!(status(&program)["backends"][0]["health"], "unknown");
    let early = TcpStream::connect(program.address("http.listen")).unwrap();
    systemd.set_nonblocking(true).unwrap();
    let said = systemd.recv(&mut [0; 4096]);
    assert!(said.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "{said:?}");

    answer_check(check);
    systemd.set_nonblocking(false).unwrap();
    let mut buffer = [0; 4096];
    let n = systemd.recv(&mut buffer).expect("READY=1");
    assert_eq!(&buffer[..n], b"READY=1\n");
    let local = ask(TcpStream::connect(program.address("local_check.listen")).unwrap(), "/healthz");
    assert!(local.starts_with("HTTP/1.1 200 "), "{local}");
    // The back end is gone, but it is the balancer that says so.
    assert!(ask(early, "/").starts_with("HTTP/1.1 50"));
}

#[test]
fn a_stop_while_it_starts_is_not_forgotten() {
    let authority = Authority::new();
    let (mut program, check, systemd) = starting(&authority);
    program.address("http.listen");
    program.signal("TERM");
    let mut buffer = [0; 4096];
    let n = systemd.recv(&mut buffer).expect("STOPPING=1");
    assert_eq!(&buffer[..n], b"STOPPING=1\n");
    answer_check(check);
    assert!(program.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_in_flight_a_stop_is_the_end() {
    let (authority, app) = (Authority::new(), App::start("first").await);
    let config = plain(&authority, app.address, "");
    let mut balancer = Program::start(&config);
    let mut web = Program::start_other(WEB, &web_tier(&authority, &app, "127.0.0.1:0", "127.0.0.1:0"));
    for program in [&mut balancer, &mut web] {
        program.signal("TERM");
        // Pingora's own grace period would be five minutes.
        assert!(program.ended().success());
        program.logged(|l| l["message"] == "stopped");
    }
}

fn program(name: &str, config: &Path) -> Command {
    let mut command = Command::new(built(name));
    command.arg("--config").arg(config);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_ends_the_process_with_status_1_and_the_key_that_names_it() {
    let (authority, app) = (Authority::new(), App::start("first").await);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(plain(&authority, app.address, "")).unwrap();
    let sections = ["metrics", "http", "https", "local_check"];
    for key in sections {
        let (before, after) = text.split_once(&format!("[{key}]")).unwrap();
        let after = after.replacen("127.0.0.1:0", &taken, 1);
        let config = authority.write("taken.toml", &format!("{before}[{key}]{after}"));
        let (code, said) = ended_unready(program("trivet-balancer", &config));
        let expected = format!("trivet-balancer: {key}.listen: cannot listen on {taken}: ");
        assert_eq!(code, 1, "{key}: {said}");
        assert!(said.lines().any(|l| l.starts_with(&expected)), "{key}: {said}");
    }
    for (key, listen, metrics) in
        [("listen", &*taken, "127.0.0.1:0"), ("metrics.listen", "127.0.0.1:0", &*taken)]
    {
        let config = web_tier(&authority, &app, listen, metrics);
        let (code, said) = ended_unready(program(WEB, &config));
        assert_eq!(code, 1, "{key}: {said}");
        let expected = format!("trivet-web: {key}: cannot listen on {taken}: ");
        assert!(said.lines().any(|l| l.starts_with(&expected)), "{key}: {said}");
    }
}

#[test]
fn an_address_in_use_ends_the_app_before_it_is_ready() {
    let authority = Authority::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (key, listen, metrics) in
        [("listen", &*taken, "127.0.0.1:0"), ("metrics.listen", "127.0.0.1:0", &*taken)]
    {
        // Nobody is there, which is no reason not to start.
        let url = "mysql://app@127.0.0.1:9/app";
        let config = json!({
            "listen": listen,
            "metrics": {"listen": metrics},
            "database": {"write_url": url, "read_url": url},
        });
        let config = authority.write("app.json", &config.to_string());
        let (code, said) = ended_unready(program("trivet-app", &config));
        assert_eq!(code, 1, "{key}: {said}");
        let expected = format!("trivet-app: {key}: cannot listen on {taken}: ");
        assert!(said.lines().any(|l| l.starts_with(&expected)), "{key}: {said}");
    }
}

/// Tells the process that this program starts itself as from the others.
const UNTAKEN: &str = "TRIVET_TEST_UNTAKEN";

#[test]
fn a_listener_that_a_service_cannot_take_ends_the_process_before_it_is_ready() {
    if std::env::var_os(UNTAKEN).is_some() {
        eprintln!("ended: {}", run_untaken().unwrap_err());
        return;
    }
    let mut itself = Command::new(std::env::current_exe().unwrap());
    let here = "a_listener_that_a_service_cannot_take_ends_the_process_before_it_is_ready";
    itself.args(["--exact", here, "--nocapture"]).env(UNTAKEN, "1");
    let (code, said) = ended_unready(itself);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("ended: https.listen: the socket was not bound"), "{said}");
}

/// A server whose sockets are bound, where one service serves and another finds its listener gone.
fn run_untaken() -> Result<(), Failure> {
    let mut server = Server::new();
    let socket = server.listen("https.listen", "127.0.0.1:0".parse().unwrap());
    let mut shutdown = server.shutdown();
    server.serves_clients("well", &[], move |start| async move {
        start.ready();
        shutdown.wait().await;
        Ok(())
    });
    server.serves_clients("http", &[], move |start| async move {
        let _first = socket.take_for_tokio()?;
        let _second = socket.take_for_tokio()?;
        start.ready();
        Ok(())
    });
    server.run("node1")
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_descriptors_are_told_by_a_check_and_by_a_start() {
    let (authority, app) = (Authority::new(), App::start("first").await);
    let any = "127.0.0.1:0";
    for (program, config, key) in [
        ("trivet-balancer", plain(&authority, app.address, ""), "https.max_connections"),
        (WEB, web_tier(&authority, &app, any, any), "limits.max_connections"),
    ] {
        let config = config.to_str().unwrap();
        // The default of 10,000 connections, in a shell that may have 4,096 descriptors.
        let call = |more: &[&str]| {
            let mut few = Command::new("prlimit");
            few.arg("--nofile=4096:4096").arg(built(program)).args(["--config", config]).args(more);
            ended_unready(few)
        };
        for more in [&["--check"][..], &["--check-files"], &[]] {
            let (code, said) = call(more);
            assert_eq!(code, 64, "{more:?}: {said}");
            let reason =
                format!("{program}: {config}: {key}: is 10000, but this process may open 4096 descriptors");
            assert!(said.starts_with(&reason), "{more:?}: {said}");
            assert!(!said.contains("\"listening\""), "{said}");
        }
    }
}

fn web_tier(authority: &Authority, app: &App, listen: &str, metrics: &str) -> PathBuf {
    let root = authority.path("www");
    std::fs::create_dir_all(&root).unwrap();
    let config = json!({
        "node": "node1",
        "listen": [listen],
        "metrics": {"listen": metrics},
        "tls": authority.files("node1"),
        "static": {"root": root},
        "app": {"address": app.address, "health": {"interval": "200ms", "timeout": "10s"}},
        "drain_delay": "0s",
    });
    authority.write("web.json", &config.to_string())
}

fn loads(program: &Program) -> Vec<u64> {
    let status = status(program);
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|w| w["connections"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_all_threads_and_stay_where_they_are() {
    let (authority, app) = (Authority::new(), App::start("first").await);
    let balancer = Program::start(&plain(&authority, app.address, "threads = 3"));
    let address = balancer.address("http.listen");
    let wires = open(address, 9);
    assert_eq!(loads(&balancer), [3, 3, 3]);
    // Every thread serves.
    drop(wires.into_iter().map(served).collect::<Vec<_>>());
    support::until("their places are free", || async { loads(&balancer) == [0, 0, 0] }).await;
    let answer = ask(TcpStream::connect(balancer.address("metrics.listen")).unwrap(), "/metrics");
    for worker in 0..3 {
        let line = format!("trivet_worker_connections{{worker=\"{worker}\"}} 0");
        assert!(answer.contains(&line), "{line} not in\n{answer}");
    }
    assert_eq!(app.count("/"), 9);
}

/// Connections that have been accepted, each: an answer has come over it.
fn open(address: SocketAddr, n: usize) -> Vec<TcpStream> {
    (0..n).map(|_| served_once(TcpStream::connect(address).unwrap())).collect()
}

fn served_once(mut stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET /first HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"GET /first HTTP/1.1") {
        let mut octet = [0];
        stream.read_exact(&mut octet).unwrap();
        answer.push(octet[0]);
    }
    stream
}

fn served(stream: TcpStream) {
    assert!(ask(stream, "/").starts_with("HTTP/1.1 200 "));
}

#[test]
fn bad_numbers_of_threads_exit_64() {
    let authority = Authority::new();
    for n in [0, 1025] {
        let config = plain(&authority, "127.0.0.1:9".parse().unwrap(), &format!("threads = {n}"));
        let (code, said) = call(&["--config", config.to_str().unwrap(), "--check"]);
        assert_eq!(code, 64, "{said}");
        assert!(said.contains("threads: must be from 1 to 1024"), "{said}");
    }
}
