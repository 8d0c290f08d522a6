//! The HTTP side as a gateway and a peer meet it, with certificates.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::AsyncReadExt;

use super::*;
use crate::model::Cluster;
use crate::report::{Observation, Record, Report};
use trivet_base::config::TlsFiles;
use trivet_base::process::Phase;
use trivet_http::client::{Client, ClientError, Target};
use trivet_tls as tls;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

/// Writes CA, certificate and key of `name` into `directory`.
fn files(directory: &Path, authority: &Authority, name: &str) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &authority.issuer).unwrap();
    let write = |kind: &str, text: String| {
        let path = directory.join(format!("{name}.{kind}"));
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        ca: write("ca", authority.pem.clone()),
        certificate: write("pem", certificate.pem()),
        key: write("key", key.serialize_pem()),
    }
}

struct Keeper {
    board: Arc<Board>,
    address: String,
    stop: tokio::sync::watch::Sender<Phase>,
    task: tokio::task::JoinHandle<()>,
    directory: tempfile::TempDir,
    authority: Authority,
}

const SECOND: Duration = Duration::from_secs(1);

async fn keeper() -> Keeper {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    let tls =
        tls::mutual_server_config(&files(directory.path(), &authority, "node1"), &[b"http/1.1"]).unwrap();
    let cluster = Cluster {
        me: "node1".into(),
        members: vec!["node1".into()],
        group_name: "g".into(),
        digest: "d".into(),
    };
    let board = Arc::new(Board::new(cluster, SECOND, Record::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, shutdown) = Shutdown::channel();
    let task = tokio::spawn(serve(listener, tls, router(board.clone()), shutdown));
    Keeper { board, address, stop, task, directory, authority }
}

impl Keeper {
    fn client(&self) -> Client {
        let files = files(self.directory.path(), &self.authority, "node2");
        self.client_with(tls::client_config(&files, &[]).unwrap())
    }

    fn client_with(&self, config: Arc<rustls::ClientConfig>) -> Client {
        let name = tls::server_name("node1").unwrap();
        Client::new(Target { address: self.address.clone(), host: "node1".into(), tls: Some((config, name)) })
    }

    async fn status(&self, client: &Client, path: &str) -> u16 {
        client.get(path, SECOND).await.unwrap().status.as_u16()
    }
}

fn online(role: &str) -> Observation {
    serde_json::from_value(json!({
        "server_uuid": "u1", "server_version": "9.7.4", "member_state": "ONLINE", "role": role,
        "primary": "node1", "view_id": "1:1", "majority": true,
        "view": [{"name": "node1", "address": "x:1", "uuid": "u1", "state": "ONLINE", "role": role}],
        "gtid_executed": "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001:1-5", "gtid_received": "", "gtid_purged": "",
        "lag_seconds": 2.0, "super_read_only": role != "PRIMARY", "user_schemas": [], "mysql_group_name": "g",
        "clone_plugin": true, "start_on_boot": false, "bootstrap_group": false, "clone": null, "last_error": null
    }))
    .unwrap()
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_cluster_is_refused() {
    let keeper = keeper().await;
    keeper.board.observed(online("PRIMARY"), Instant::now());
    assert_eq!(keeper.status(&keeper.client(), "/primary").await, 200);

    let mut roots = rustls::RootCertStore::empty();
    for certificate in tls::load_certificates(&keeper.directory.path().join("node1.ca")).unwrap() {
        roots.add(certificate).unwrap();
    }
    let anonymous = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    keeper.client_with(Arc::new(anonymous)).get("/primary", SECOND).await.expect_err("no certificate");

    // A certificate with the right name, from somebody else's CA.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut strange = files(elsewhere.path(), &authority(), "node2");
    strange.ca = keeper.directory.path().join("node1.ca");
    let client = keeper.client_with(tls::client_config(&strange, &[]).unwrap());
    client.get("/primary", SECOND).await.expect_err("another CA");

    // And the other way round: a keeper that shows another node's certificate is not believed.
    let files = files(keeper.directory.path(), &keeper.authority, "node2");
    let target = Target {
        address: keeper.address.clone(),
        host: "node3".into(),
        tls: Some((tls::client_config(&files, &[]).unwrap(), tls::server_name("node3").unwrap())),
    };
    let e = Client::new(target).get("/primary", SECOND).await.expect_err("wrong name");
    assert!(matches!(e, ClientError::Tls(..)), "{e}");
}

#[tokio::test]
async fn plain_text_gets_no_answer() {
    let keeper = keeper().await;
    let target = Target { address: keeper.address.clone(), host: "node1".into(), tls: None };
    Client::new(target).get("/primary", SECOND).await.expect_err("plain text");
}

#[tokio::test]
async fn answers_follow_the_role() {
    let keeper = keeper().await;
    let client = keeper.client();
    for (role, primary, replica) in [("PRIMARY", 200, 503), ("SECONDARY", 503, 200)] {
        keeper.board.observed(online(role), Instant::now());
        assert_eq!(keeper.status(&client, "/primary").await, primary, "{role}");
        assert_eq!(keeper.status(&client, "/replica").await, replica, "{role}");
        assert_eq!(keeper.status(&client, "/health").await, 200, "{role}");
    }
    assert_eq!(keeper.status(&client, "/").await, 404);
}

#[tokio::test]
async fn replicas_are_asked_about_their_lag() {
    let keeper = keeper().await;
    let client = keeper.client();
    keeper.board.observed(online("SECONDARY"), Instant::now());
    for (query, status) in [
        ("max_lag=5", 200),
        ("max_lag=2.5", 200),
        ("max_lag=5s", 200),
        ("max_lag=1s", 503),
        ("max_lag=0", 503),
        ("max_lag=soon", 400),
        ("max_lag=-1", 400),
        ("max_lag=NaN", 400),
        ("lag=5", 400),
    ] {
        assert_eq!(keeper.status(&client, &format!("/replica?{query}")).await, status, "{query}");
    }
}

#[tokio::test]
async fn what_is_stale_or_unknown_is_answered_503() {
    let keeper = keeper().await;
    let client = keeper.client();
    for path in ["/primary", "/replica", "/health"] {
        assert_eq!(keeper.status(&client, path).await, 503, "{path} before the first look");
    }
    keeper.board.observed(online("PRIMARY"), Instant::now() - Duration::from_millis(1100));
    for path in ["/primary", "/replica", "/health"] {
        assert_eq!(keeper.status(&client, path).await, 503, "{path} when stale");
    }
    // The peers are told all the same, without the stale part.
    let answer = client.get("/state", SECOND).await.unwrap();
    let report: Report = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status.as_u16(), report.node.as_str(), report.observation), (200, "node1", None));
}

#[tokio::test]
async fn health_tells_the_contracts_fields() {
    let keeper = keeper().await;
    keeper.board.observed(online("PRIMARY"), Instant::now());
    let answer = keeper.client().get("/health", SECOND).await.unwrap();
    let health: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    for field in [
        "node",
        "member_state",
        "role",
        "primary",
        "view_id",
        "majority",
        "gtid_executed",
        "gtid_received",
        "lag_seconds",
        "super_read_only",
        "phase",
        "reason",
    ] {
        assert!(health.get(field).is_some(), "{field} is missing in {health}");
    }
    assert_eq!((&health["role"], &health["phase"]), (&json!("PRIMARY"), &json!("starting")));
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once() {
    let keeper = keeper().await;
    let client = keeper.client();
    assert_eq!(keeper.status(&client, "/health").await, 503);
    keeper.stop.send(Phase::Stopping).unwrap();
    tokio::time::timeout(SECOND, keeper.task).await.expect("stops while a connection is kept open").unwrap();
}

#[tokio::test]
async fn a_connection_that_never_says_hello_does_not_hold_others_up() {
    let keeper = keeper().await;
    let mut silent = TcpStream::connect(&keeper.address).await.unwrap();
    assert_eq!(keeper.status(&keeper.client(), "/health").await, 503);
    let mut byte = [0];
    let closed =
        tokio::time::timeout(HANDSHAKE + SECOND, silent.read(&mut byte)).await.expect("closed in time");
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_look_can_be_asked_for_and_is_not_waited_for_when_mysqld_hangs() {
    let keeper = keeper().await;
    let client = keeper.client();
    keeper.board.observed(online("SECONDARY"), Instant::now());
    // Nobody looks: as with a hung mysqld, the answer is the one that is known.
    assert_eq!(keeper.status(&client, "/primary?look=now").await, 503);
    let board = keeper.board.clone();
    let observer = tokio::spawn(async move {
        loop {
            board.look_wanted().await;
            board.observed(online("PRIMARY"), Instant::now());
        }
    });
    // A machine that is busy with other tests may need more than one question.
    let mut answers = 0;
    while keeper.status(&client, "/primary?look=now").await != 200 {
        answers += 1;
        assert!(answers < 100, "the look that was asked for changes nothing");
    }
    observer.abort();
    assert_eq!(keeper.status(&client, "/primary?look=later").await, 400);
}
