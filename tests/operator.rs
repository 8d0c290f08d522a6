//! The operator's command as its users meet it.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use support::built::built;
use trivet_base::config::TlsFiles;
use trivet_operator::cluster::Cluster;
use trivet_operator::status::{self, Verdict};
use trivet_tls as tls;
use trivet_tls::options::{CertificateFiles, PublicTls};
use trivet_tls::site::SiteCertificates;

const PATIENCE: Duration = Duration::from_secs(10);

fn trivet(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(built("trivet")).args(arguments).env_remove("NO_COLOR").output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// Two nodes with these addresses.
    fn new(first: &str, second: &str) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        let all = json!(["balancer", "app", "database"]);
        world.write(&json!({
            "name": "trivet", "domain": "www.foobar.com", "virtual_addresses": ["10.77.0.50"],
            "nodes": [
                {"name": "node1", "address": first, "roles": all},
                {"name": "node2", "address": second, "roles": all}
            ]
        }));
        world
    }

    fn write(&self, cluster: &Value) {
        std::fs::write(self.cluster(), cluster.to_string()).unwrap();
    }

    fn cluster(&self) -> PathBuf {
        self.dir.path().join("cluster.json")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("secrets")
    }

    fn init(&self, more: &[&str]) -> (i32, String, String) {
        let (cluster, out) = (self.cluster(), self.out());
        let mut arguments =
            vec!["secrets", "init", "--cluster", cluster.to_str().unwrap(), "--out", out.to_str().unwrap()];
        arguments.extend(more);
        trivet(&arguments)
    }

    fn files(&self, node: &str) -> TlsFiles {
        let dir = self.out().join(node);
        TlsFiles { ca: dir.join("ca.pem"), certificate: dir.join("node.pem"), key: dir.join("node.key") }
    }
}

/// A TLS connection between what `server` and `client` are configured for, and one byte each way over it.
fn talk(server: Arc<ServerConfig>, client: Arc<rustls::ClientConfig>, name: &str) -> Result<(), String> {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let serving = std::thread::spawn(move || {
        let mut stream = StreamOwned::new(ServerConnection::new(server).unwrap(), a);
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).and_then(|_| stream.write_all(b"hi\n"))
    });
    let connection = ClientConnection::new(client, tls::server_name(name).unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, b);
    let mut line = String::new();
    let said = stream.write_all(b"hello\n").and_then(|()| BufReader::new(&mut stream).read_line(&mut line));
    drop(stream);
    let served = serving.join().unwrap();
    said.map_err(|e| format!("client: {e}"))?;
    served.map_err(|e| format!("server: {e}"))
}

#[test]
fn two_nodes_with_their_secrets_recognise_each_other_and_nobody_else() {
    let world = World::new("10.77.0.11", "10.77.0.12");
    assert_eq!(world.init(&[]).0, 0);
    let server = || tls::mutual_server_config(&world.files("node1"), &[]).unwrap();
    let client = || tls::client_config(&world.files("node2"), &[]).unwrap();
    for name in ["node1", "10.77.0.11", "localhost", "127.0.0.1"] {
        talk(server(), client(), name).unwrap();
    }
    for name in ["node2", "10.77.0.12", "www.foobar.com"] {
        assert!(talk(server(), client(), name).unwrap_err().contains("not valid for name"), "{name}");
    }
    let stranger = World::new("10.77.0.11", "10.77.0.12");
    stranger.init(&[]);
    let strange_client = tls::client_config(&stranger.files("node2"), &[]).unwrap();
    assert!(talk(server(), strange_client, "node1").is_err());
    let strange_server = tls::mutual_server_config(&stranger.files("node1"), &[]).unwrap();
    assert!(talk(strange_server, client(), "node1").is_err());
}

#[test]
fn the_site_certificate_is_for_the_domain() {
    let world = World::new("10.77.0.11", "10.77.0.12");
    world.init(&[]);
    let dir = world.out().join("node1");
    let files = CertificateFiles { certificate: dir.join("site.pem"), key: dir.join("site.key") };
    let site = SiteCertificates::load(&[files]).unwrap().server_config(&PublicTls::default()).unwrap();
    talk(site.config, tls::client_config(&world.files("node2"), &[]).unwrap(), "www.foobar.com").unwrap();
}

#[test]
fn secrets_are_for_the_owner_alone_and_the_report_says_where_each_goes() {
    let world = World::new("10.77.0.11", "10.77.0.12");
    let (code, said, complained) = world.init(&[]);
    assert_eq!((code, complained.as_str()), (0, ""));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.out()), 0o700);
    assert_eq!(mode(&world.out().join("node1")), 0o700);
    assert_eq!(mode(&world.out().join("node1/node.key")), 0o600);
    assert_eq!(mode(&world.out().join("ca/ca.key")), 0o600);
    for expected in ["node2/ root@10.77.0.12:/var/lib/trivet/secrets/", "ca.key offline", "www.foobar.com"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    let password = std::fs::read_to_string(world.out().join("node1/app-password")).unwrap();
    assert!(!said.contains(&password), "secrets are not printed");
}

#[test]
fn a_second_run_is_refused_with_the_remedy() {
    let world = World::new("10.77.0.11", "10.77.0.12");
    world.init(&[]);
    let key = std::fs::read(world.out().join("ca/ca.key")).unwrap();
    let (code, said, complained) = world.init(&[]);
    assert_eq!((code, said.as_str()), (1, ""));
    assert!(complained.starts_with("trivet: ") && complained.contains("--missing"), "{complained}");
    assert_eq!(std::fs::read(world.out().join("ca/ca.key")).unwrap(), key);
    let (code, said, _) = world.init(&["--missing"]);
    assert!(code == 0 && said.contains("is complete"), "{said}");
}

#[test]
fn bad_arguments_and_bad_cluster_files_end_with_64() {
    let world = World::new("10.77.0.11", "10.77.0.11");
    let file = world.cluster();
    let (code, _, complained) = world.init(&[]);
    assert_eq!(code, 64);
    let expected = format!(
        "trivet: {}: nodes[1].address: node1 and node2 have the same address, 10.77.0.11\n",
        file.display()
    );
    assert_eq!(complained, expected);
    assert!(!world.out().exists());

    let (code, _, complained) =
        trivet(&["secrets", "init", "--cluster", "/nonexistent.json", "--out", "/nix/store/secrets"]);
    assert!(
        code == 64 && complained.starts_with("trivet: /nonexistent.json: cannot be read"),
        "{complained}"
    );

    let good = World::new("10.77.0.11", "10.77.0.12");
    let file = good.cluster();
    let (code, _, complained) =
        trivet(&["secrets", "init", "--cluster", file.to_str().unwrap(), "--out", "/nix/store/secrets"]);
    assert!(code == 64 && complained.contains("is below /nix/store"), "{complained}");
    for wrong in
        [&["status", "--cluster", "/nonexistent.json"][..], &["status", "--timeout", "soon"], &["frob"], &[]]
    {
        assert_eq!(trivet(wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn a_cluster_that_does_not_answer_is_unknown_with_exit_status_2() {
    // Addresses for documentation, RFC 5737: nobody is there.
    let world = World::new("192.0.2.1", "192.0.2.2");
    let file = world.cluster();
    let ask = |more: &[&str]| {
        let mut arguments = vec!["status", "--cluster", file.to_str().unwrap(), "--timeout", "200ms"];
        arguments.extend(more);
        trivet(&arguments)
    };
    let (code, said, _) = ask(&[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("unknown: no node answers") && said.contains("HELD BY"), "{said}");
    assert!(!said.contains('\x1b'), "no colours into a pipe");
    let (code, said, _) = ask(&["--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &json["verdict"]), (2, &json!("unknown")));
}

/// Programs of a node on an address of their own, each with one answer.
async fn programs(address: &str, files: &TlsFiles, answers: &[(u16, bool, Value)]) {
    let tls = tls::mutual_server_config(files, &[]).unwrap();
    for (port, secure, answer) in answers.iter().cloned() {
        let at: SocketAddr = format!("{address}:{port}").parse().unwrap();
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        let acceptor = secure.then(|| tokio_rustls::TlsAcceptor::from(tls.clone()));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), answer.to_string());
                tokio::spawn(async move {
                    match acceptor {
                        None => say(tcp, &answer).await,
                        Some(acceptor) => match acceptor.accept(tcp).await {
                            Ok(stream) => say(stream, &answer).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
    }
}

async fn say<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    answer: &str,
) -> Option<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 4096];
    stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
    let text =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

fn keeper(name: &str, role: &str) -> Value {
    json!({"node": name, "member_state": "ONLINE", "role": role, "primary": "node1", "majority": true,
           "lag_seconds": 0.0, "phase": "online", "reason": "", "server_version": "9.7.4"})
}

#[tokio::test(flavor = "multi_thread")]
async fn status_asks_every_program_of_every_node_and_sees_their_certificates() {
    // Not loopback addresses as far as the cluster file is concerned, so the file's check is passed by.
    let addresses = ["127.77.0.11", "127.77.0.12"];
    let all = json!(["app", "database"]);
    let cluster: Cluster = serde_json::from_value(json!({
        "name": "trivet", "domain": "www.foobar.com", "virtual_addresses": [],
        "nodes": [
            {"name": "node1", "address": addresses[0], "roles": all},
            {"name": "node2", "address": addresses[1], "roles": all}
        ]
    }))
    .unwrap();
    let world = World::new("10.77.0.11", "10.77.0.12");
    world.init(&[]);
    let backend = |name: &str, usable: bool| json!({"name": name, "usable": usable, "reason": "because"});
    for (i, name) in ["node1", "node2"].into_iter().enumerate() {
        let role = if i == 0 { "PRIMARY" } else { "SECONDARY" };
        let gateway = json!({"write": [backend("node1", true)], "read": [backend("node2", true)]});
        programs(
            addresses[i],
            &world.files(name),
            &[
                (9602, false, json!({"version": "0.1.0", "backends": [backend("app", i == 0)]})),
                (9603, false, json!({"version": "0.1.0"})),
                (9605, false, json!({"version": "0.1.0", "database": gateway})),
                (8443, true, json!({})),
                (8008, true, keeper(name, role)),
            ],
        )
        .await;
    }
    let report = status::gather(&cluster, &world.out().join("node1"), PATIENCE).await;
    let problems: Vec<_> = report.problems.iter().map(|p| (p.node.as_deref(), p.what.as_str())).collect();
    assert_eq!(problems, [(Some("node2"), "the app is down (because)")]);
    assert_eq!(report.verdict, Verdict::Degraded);
    for (node, role) in report.nodes.iter().zip(["PRIMARY", "SECONDARY"]) {
        assert_eq!(node.database.as_ref().unwrap().role.as_deref(), Some(role));
        let days: BTreeMap<_, _> = node.certificates.iter().map(|(n, c)| (*n, c.days_left)).collect();
        assert_eq!(days, BTreeMap::from([("keeper", Some(1825)), ("web", Some(1825))]));
    }

    // Without a node's secrets the keepers tell nothing, and it says why.
    let report = status::gather(&cluster, Path::new("/nonexistent"), PATIENCE).await;
    let silent: Vec<_> =
        report.problems.iter().filter(|p| p.what.starts_with("keeper does not answer")).collect();
    assert!(silent.len() == 2 && silent[0].what.contains("/nonexistent/ca.pem"), "{silent:?}");
    assert!(report.nodes[0].certificates["keeper"].days_left.is_some(), "certificates are shown to everyone");
}

#[test]
fn on_the_node_itself_units_that_gave_up_and_open_secrets_are_told() {
    // The documentation's networks have no such address; the loopback interface has.
    let world = World::new("192.0.2.1", "192.0.2.2");
    assert_eq!(world.init(&[]).0, 0);
    let here = if_addrs::get_if_addrs().unwrap().into_iter().map(|i| i.ip()).find(|ip| !ip.is_loopback());
    let Some(here) = here else {
        eprintln!("this machine has no address but loopback: SKIPPED");
        return;
    };
    world.write(&json!({
        "name": "trivet", "domain": "www.foobar.com", "virtual_addresses": [],
        "nodes": [{"name": "node1", "address": here, "roles": ["monitoring"]}]
    }));
    let secrets = world.out().join("node1");
    let password = secrets.join("app-password");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let bin = world.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let systemctl =
        "#!/bin/sh\nprintf 'Result=start-limit-hit\\nId=prometheus.service\\nActiveState=failed\\n'\n";
    std::fs::write(bin.join("systemctl"), systemctl).unwrap();
    std::fs::set_permissions(bin.join("systemctl"), std::fs::Permissions::from_mode(0o755)).unwrap();

    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new(built("trivet"))
        .args(["status", "--json", "--cluster", world.cluster().to_str().unwrap(), "--secrets"])
        .arg(&secrets)
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("systemd has given up prometheus.service (start-limit-hit)"), "{said}");
    assert!(said.contains(&format!("{} is secret, and every user", password.display())), "{said}");
    assert!(!said.contains("node.key is secret"), "{said}");
}
