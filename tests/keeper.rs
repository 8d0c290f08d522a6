//! The keeper as a program: bad configuration, life without mysqld, stop.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use support::built::built;
use support::program::ended_unready;
use tokio::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// A folder with everything a keeper needs, except mysqld.
struct Node {
    directory: tempfile::TempDir,
    config: Value,
    metrics: String,
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(path("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate().unwrap();
        let node = CertificateParams::new(vec!["node1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(path("node.pem"), node.pem()).unwrap();
        std::fs::write(path("node.key"), key.serialize_pem()).unwrap();
        std::fs::write(path("replication-password"), "replication\n").unwrap();
        std::fs::write(path("app-password"), "app\n").unwrap();
        let (listen, metrics) = (free_address(), free_address());
        let config = json!({
            "node": "node1",
            "group_name": "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001",
            "listen": listen,
            "tls": {"ca": path("ca.pem"), "certificate": path("node.pem"), "key": path("node.key")},
            "metrics": {"listen": metrics},
            "state_directory": path("state"),
            "control_socket": path("control.sock"),
            "mysql": {
                "socket": path("mysqld.sock"),
                "replication_password_file": path("replication-password"),
                "app_password_file": path("app-password")
            },
            "members": [{"name": "node1", "mysql": "127.0.0.1:3306", "keeper": listen}]
        });
        Self { directory, config, metrics }
    }

    fn command(&self) -> Command {
        let file = self.directory.path().join("keeper.json");
        std::fs::write(&file, self.config.to_string()).unwrap();
        let mut command = Command::new(built("trivet-keeper"));
        command.arg("--config").arg(file).env_remove("NOTIFY_SOCKET");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn stop(mut child: Child) -> (Option<i32>, Duration) {
    let begun = Instant::now();
    let done = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(done.success());
    (child.wait().unwrap().code(), begun.elapsed())
}

#[test]
fn check_needs_neither_secrets_nor_network() {
    let mut node = Node::new();
    for key in ["ca", "certificate", "key"] {
        node.config["tls"][key] = json!("/nowhere/file.pem");
    }
    node.config["mysql"]["app_password_file"] = json!("/nowhere/password");
    node.config["listen"] = json!("192.0.2.1:8008");
    let output = node.run(&["--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_bad_configuration_ends_with_64_file_key_and_reason() {
    /// What it is called, how it is made, what must be said about it.
    type Mistake = (&'static str, fn(&mut Value, &Path), &'static str);
    let bad: [Mistake; 6] = [
        ("unknown key", |c, _| c["bootstrap"] = json!(true), "bootstrap"),
        ("unknown node", |c, _| c["node"] = json!("node9"), "node: \"node9\" is not among the members"),
        ("no certificate", |c, _| c["tls"]["certificate"] = json!("/nowhere/node.pem"), "/nowhere/node.pem"),
        (
            "no password",
            |c, _| c["mysql"]["app_password_file"] = json!("/nowhere/pw"),
            "/nowhere/pw: password",
        ),
        (
            "state directory is a file",
            |c, d| c["state_directory"] = json!(d.join("ca.pem")),
            "ca.pem: cannot be made",
        ),
        (
            "long password",
            |_, d| std::fs::write(d.join("replication-password"), "x".repeat(33)).unwrap(),
            "replication-password: is longer than 32",
        ),
    ];
    for (name, change, expected) in bad {
        let mut node = Node::new();
        let directory = node.directory.path().to_path_buf();
        change(&mut node.config, &directory);
        let output = node.run(&[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(64), "{name}: {said}");
        assert!(
            said.lines().any(|l| l.starts_with("trivet-keeper: /") && l.contains(expected)),
            "{name}: {said}"
        );
        assert!(TcpStream::connect(&node.metrics).is_err(), "{name}: nothing is bound");
    }
}

#[test]
fn an_address_in_use_ends_the_keeper_with_status_1_and_the_key_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (key, pointer) in [("listen", "/listen"), ("metrics.listen", "/metrics/listen")] {
        let mut node = Node::new();
        *node.config.pointer_mut(pointer).unwrap() = json!(taken);
        if key == "listen" {
            node.config["members"][0]["keeper"] = json!(taken);
        }
        let (code, said) = ended_unready(node.command());
        assert_eq!(code, 1, "{key}: {said}");
        let expected = format!("trivet-keeper: {key}: cannot listen on {taken}: ");
        assert!(said.lines().any(|l| l.starts_with(&expected)), "{key}: {said}");
    }
    let node = Node::new();
    let control = node.directory.path().join("control.sock");
    let _other = UnixListener::bind(&control).unwrap();
    let (code, said) = ended_unready(node.command());
    assert_eq!(code, 1, "{said}");
    let expected =
        format!("trivet-keeper: control_socket: cannot listen on {}: another keeper", control.display());
    assert!(said.lines().any(|l| l.starts_with(&expected)), "{said}");
}

#[test]
fn without_mysqld_the_keeper_is_there_to_say_so_and_stops_at_once() {
    let node = Node::new();
    let notify = node.directory.path().join("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut child = node.command().env("NOTIFY_SOCKET", &notify).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || log.lines().map_while(Result::ok).collect::<Vec<_>>());

    let (mut ready, mut status) = (false, String::new());
    let mut buffer = [0; 4096];
    while !ready || !status.contains("mysql-unreachable") {
        let n = socket.recv(&mut buffer).expect("READY=1 and a STATUS");
        for line in String::from_utf8_lossy(&buffer[..n]).lines() {
            ready |= line == "READY=1";
            if let Some(text) = line.strip_prefix("STATUS=") {
                status = text.to_owned();
            }
        }
    }
    let answer = get(&node.metrics, "/status").expect("status");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&body["node"], &body["phase"]), (&json!("node1"), &json!("mysql-unreachable")));
    let metrics = get(&node.metrics, "/metrics").expect("metrics");
    assert!(metrics.contains("trivet_keeper_member_online 0"), "{metrics}");
    assert!(metrics.contains("trivet_keeper_phase{phase=\"mysql-unreachable\"} 1"), "{metrics}");

    let (code, took) = stop(child);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let log = reader.join().unwrap();
    let reason = log.iter().find(|l| l.contains("mysql-unreachable")).expect("logged");
    let line: Value = serde_json::from_str(reason).expect("one JSON object a line");
    assert_eq!(line["level"], "WARN");
    assert!(node.directory.path().join("state/group.json").exists(), "the record can be written");
}

#[test]
fn the_watchdog_is_told_that_all_is_well_although_mysqld_does_not_answer() {
    let node = Node::new();
    let notify = node.directory.path().join("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = node.command();
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "3000000").stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let mut buffer = [0; 4096];
    // For longer than any of its loops may be missing.
    let begun = Instant::now();
    let mut told = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        let n = socket.recv(&mut buffer).expect("WATCHDOG=1");
        told += String::from_utf8_lossy(&buffer[..n]).lines().filter(|l| *l == "WATCHDOG=1").count();
    }
    assert!(told >= 4, "told {told} times in {:?}", begun.elapsed());
    assert_eq!(stop(child).0, Some(0));
}
