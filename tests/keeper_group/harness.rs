//! Real mysqld and keepers on this machine, as many as a test wants.
//!
//! mysqld comes from the lab's root file system, as for the other tests with MySQL (tests/mysql.py); without one a test says
//! that it is skipped.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::built::built;
use support::mysql::{free_port, mysqld};
use tokio::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions};
use trivet_base::config::TlsFiles;
use trivet_http::client::{Client, Target};
use trivet_tls as tls;

pub const GROUP: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
/// A loaded machine needs a minute for what takes seconds.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// One group at a time: several would only wait for one another's processor.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([name, &pid.to_string()]).status();
}

pub fn copy_folder(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// All that a command printed.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// One node: mysqld under a supervisor that restarts it as systemd would, and a keeper.
pub struct Node {
    pub name: String,
    pub home: PathBuf,
    pub mysql_port: u16,
    pub keeper_port: u16,
    pub files: TlsFiles,
    pub arguments: Vec<String>,
    wanted: Arc<AtomicBool>,
    pub pid: Arc<AtomicU32>,
    supervisor: Option<std::thread::JoinHandle<()>>,
    keeper: Option<Child>,
}

impl Node {
    pub fn start_mysqld(&mut self) {
        self.wanted.store(true, Ordering::SeqCst);
        let (wanted, pid, arguments) = (self.wanted.clone(), self.pid.clone(), self.arguments.clone());
        let log = std::fs::File::create(self.home.join("stderr.log")).unwrap();
        self.supervisor = Some(std::thread::spawn(move || {
            while wanted.load(Ordering::SeqCst) {
                let mut child = Command::new(&arguments[0])
                    .args(&arguments[1..])
                    // A clone ends with a restart, which mysqld asks its parent for.
                    .env("MYSQLD_PARENT_PID", std::process::id().to_string())
                    .stdout(Stdio::null())
                    .stderr(log.try_clone().unwrap())
                    .spawn()
                    .unwrap();
                pid.store(child.id(), Ordering::SeqCst);
                let _ = child.wait();
                pid.store(0, Ordering::SeqCst);
            }
        }));
    }

    /// As a power cut does.
    pub fn kill_mysqld(&mut self) {
        self.end_mysqld("-KILL");
    }

    /// In order; waits for it.
    pub fn stop_mysqld(&mut self) {
        self.end_mysqld("-TERM");
    }

    fn end_mysqld(&mut self, with: &str) {
        self.wanted.store(false, Ordering::SeqCst);
        let mut told = 0;
        while self.supervisor.as_ref().is_some_and(|s| !s.is_finished()) {
            let pid = self.pid.load(Ordering::SeqCst);
            if pid != told && pid != 0 {
                signal(pid, with);
                told = pid;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.supervisor = None;
    }

    pub fn start_keeper(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.home.join("keeper.log")).unwrap();
        let child = Command::new(built("trivet-keeper"))
            .arg("--config")
            .arg(self.home.join("keeper.json"))
            .env_remove("NOTIFY_SOCKET")
            .stderr(log)
            .spawn()
            .unwrap();
        self.keeper = Some(child);
    }

    pub fn stop_keeper(&mut self) {
        if let Some(mut child) = self.keeper.take() {
            signal(child.id(), "-TERM");
            let _ = child.wait();
        }
    }

    pub async fn sql(&self) -> MySqlConnection {
        MySqlConnectOptions::new()
            .socket(self.home.join("mysqld.sock"))
            .username("root")
            .ssl_mode(MySqlSslMode::Disabled)
            .connect()
            .await
            .unwrap()
    }

    pub async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.sql().await).await.unwrap();
    }

    /// Waits until mysqld takes connections.
    pub async fn until_answering(&self) {
        let begun = Instant::now();
        let options = MySqlConnectOptions::new()
            .socket(self.home.join("mysqld.sock"))
            .username("root")
            .ssl_mode(MySqlSslMode::Disabled);
        while let Err(e) = options.connect().await {
            assert!(begun.elapsed() < PATIENCE, "{}: {e}", self.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The number after the last of the group's transactions here, which must be without gaps.
    pub async fn next_number(&self, group: &str) -> u64 {
        let executed: String = sqlx::query_scalar("SELECT @@global.gtid_executed")
            .fetch_one(&mut self.sql().await)
            .await
            .unwrap();
        let begins = format!("{group}:1-");
        let numbers = executed.split(',').find_map(|source| source.trim().strip_prefix(&begins));
        let numbers = numbers.unwrap_or_else(|| panic!("{executed}"));
        numbers.parse::<u64>().unwrap_or_else(|e| panic!("{executed}: {e}")) + 1
    }

    pub async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.sql().await).await.unwrap()
    }
}

/// A running gateway.
pub struct Gateway {
    port: u16,
    child: Child,
}

impl Gateway {
    /// A connection of the app's, for writing.
    pub async fn connect(&self) -> Result<MySqlConnection, sqlx::Error> {
        MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username("trivet_app")
            .password("app")
            .database("trivet")
            .ssl_mode(MySqlSslMode::Required)
            .connect()
            .await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Group {
    pub nodes: Vec<Node>,
    clients: Vec<Client>,
    pub template: PathBuf,
    authority: Issuer<'static, KeyPair>,
    ca: String,
    mysqld: Vec<String>,
    /// Removed last, when nothing runs in it any more.
    _directory: tempfile::TempDir,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Drop for Group {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.stop_keeper();
            node.kill_mysqld();
        }
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = std::fs::read_to_string(node.home.join("keeper.log")).unwrap_or_default();
                eprintln!("---- keeper of {}\n{log}", node.name);
                let log = std::fs::read_to_string(node.home.join("error.log")).unwrap_or_default();
                let errors: Vec<&str> = log.lines().filter(|l| l.contains("[ERROR]")).collect();
                eprintln!("---- mysqld of {}\n{}", node.name, errors.join("\n"));
            }
        }
    }
}

fn certificates(home: &Path, name: &str, authority: &Issuer<'_, KeyPair>, ca: &str) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.into(), "127.0.0.1".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, authority).unwrap();
    let write = |file: &str, text: &str| {
        write_secret(&home.join(file), text);
        home.join(file)
    };
    TlsFiles {
        ca: write("ca.pem", ca),
        certificate: write("node.pem", &certificate.pem()),
        key: write("node.key", &key.serialize_pem()),
    }
}

fn settings(node: &Node, number: usize) -> Vec<String> {
    let home = node.home.display();
    let port = node.mysql_port;
    let mut settings: Vec<String> = [
        format!("--datadir={home}/data"),
        format!("--socket={home}/mysqld.sock"),
        format!("--pid-file={home}/mysqld.pid"),
        format!("--log-error={home}/error.log"),
        format!("--port={port}"),
        format!("--report-port={port}"),
        format!("--server-id={number}"),
        format!("--ssl-ca={home}/ca.pem"),
        format!("--ssl-cert={home}/node.pem"),
        format!("--ssl-key={home}/node.key"),
        format!("--loose-group-replication-recovery-ssl-ca={home}/ca.pem"),
        format!("--loose-group-replication-group-name={GROUP}"),
        format!("--loose-group-replication-local-address=127.0.0.1:{port}"),
    ]
    .into();
    settings.extend(
        [
            "--bind-address=127.0.0.1",
            "--report-host=127.0.0.1",
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=32M",
            "--innodb-redo-log-capacity=16M",
            "--super-read-only=ON",
            "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON",
            "--log-bin=binlog",
            "--require-secure-transport=ON",
            "--plugin-load-add=group_replication.so",
            "--plugin-load-add=mysql_clone.so",
            "--loose-group-replication-communication-stack=MYSQL",
            "--loose-group-replication-start-on-boot=OFF",
            "--loose-group-replication-ssl-mode=VERIFY_IDENTITY",
            "--loose-group-replication-recovery-use-ssl=ON",
            "--loose-group-replication-recovery-ssl-verify-server-cert=ON",
            "--loose-group-replication-exit-state-action=READ_ONLY",
            "--loose-group-replication-unreachable-majority-timeout=10",
            "--loose-group-replication-member-expel-timeout=0",
            "--loose-group-replication-autorejoin-tries=0",
            "--loose-group-replication-message-cache-size=134217728",
        ]
        .map(String::from),
    );
    settings
}

impl Group {
    /// `count` empty members and their keepers, all started; nothing when this machine has no mysqld.
    pub async fn start(count: usize) -> Option<Self> {
        let Some((command, options)) = mysqld() else {
            eprintln!("keeper_group: no mysqld here (./lab install makes one): SKIPPED");
            return None;
        };
        let alone = ALONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let template = directory.path().join("template");
        let base: Vec<String> = command
            .into_iter()
            .chain(["--no-defaults".into(), "--user=root".into()])
            .chain(options)
            .collect();
        let initialize = [format!("--datadir={}", template.display()), "--initialize-insecure".into()];
        let done = Command::new(&base[0]).args(&base[1..]).args(initialize).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // Each copy makes a server UUID of its own.
        let _ = std::fs::remove_file(template.join("auto.cnf"));

        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = params.self_signed(&key).unwrap().pem();
        let authority = Issuer::new(params, key);
        let mut group = Self {
            nodes: Vec::new(),
            clients: Vec::new(),
            template,
            authority,
            ca,
            mysqld: base,
            _directory: directory,
            _alone: alone,
        };
        group.add(count);
        for node in &mut group.nodes {
            node.start_mysqld();
            node.start_keeper();
        }
        Some(group)
    }

    /// So many more nodes, which are to be started, and the configuration of all that follows from it.
    pub fn add(&mut self, count: usize) {
        for i in self.nodes.len() + 1..=self.nodes.len() + count {
            let home = self._directory.path().join(format!("node{i}"));
            std::fs::create_dir(&home).unwrap();
            copy_folder(&self.template, &home.join("data"));
            let name = format!("node{i}");
            let files = certificates(&home, &name, &self.authority, &self.ca);
            let mut node = Node {
                name,
                home,
                mysql_port: free_port(),
                keeper_port: free_port(),
                files,
                arguments: Vec::new(),
                wanted: Arc::default(),
                pid: Arc::default(),
                supervisor: None,
                keeper: None,
            };
            node.arguments = self.mysqld.iter().cloned().chain(settings(&node, i)).collect();
            let tls = (tls::client_config(&node.files, &[]).unwrap(), tls::server_name(&node.name).unwrap());
            let address = format!("127.0.0.1:{}", node.keeper_port);
            self.clients.push(Client::new(Target { address, host: node.name.clone(), tls: Some(tls) }));
            self.nodes.push(node);
        }
        for i in 0..self.nodes.len() {
            self.configure(i, |_| {});
        }
    }

    /// Writes the configuration of a keeper, with a change; it is read when the keeper starts.
    pub fn configure(&self, i: usize, change: impl FnOnce(&mut Value)) {
        let node = &self.nodes[i];
        let members: Vec<Value> = self
            .nodes
            .iter()
            .map(|n| {
                json!({"name": n.name, "mysql": format!("127.0.0.1:{}", n.mysql_port),
                       "keeper": format!("127.0.0.1:{}", n.keeper_port)})
            })
            .collect();
        let path = |file: &str| node.home.join(file).display().to_string();
        write_secret(path("replication-password").as_ref(), "replication");
        write_secret(path("app-password").as_ref(), "app");
        let mut config = json!({
            "node": node.name, "group_name": GROUP, "listen": format!("127.0.0.1:{}", node.keeper_port),
            "tls": node.files, "log": {"format": "text"},
            "metrics": {"listen": format!("127.0.0.1:{}", free_port())},
            "state_directory": path("state"), "control_socket": path("control.sock"), "members": members,
            // A fresh server lets root in without a password, over the socket.
            "mysql": {"socket": path("mysqld.sock"), "user": "root",
                      "data_directory": path("data"),
                      "replication_password_file": path("replication-password"),
                      "app_password_file": path("app-password")},
            // The machine that runs the tests may be busy.
            "timing": {"observe_timeout": "2s", "stale": "3s", "peer_timeout": "2s"}
        });
        change(&mut config);
        std::fs::write(path("keeper.json"), config.to_string()).unwrap();
    }

    /// A gateway in front of the members, with its port for writes. It ends with what is returned.
    pub async fn gateway(&self) -> Gateway {
        let members: Vec<Value> = self
            .nodes
            .iter()
            .map(|n| {
                json!({"name": n.name, "address": format!("127.0.0.1:{}", n.mysql_port),
                       "keeper": format!("127.0.0.1:{}", n.keeper_port)})
            })
            .collect();
        let port = free_port();
        let config = json!({
            "node": "node1", "log": {"format": "text"},
            "metrics": {"listen": format!("127.0.0.1:{}", free_port())},
            "database": {
                "write_listen": [format!("127.0.0.1:{port}")], "read_listen": [format!("127.0.0.1:{}", free_port())],
                "members": members, "tls": self.nodes[0].files, "connect_timeout": "5s", "wait_for_primary": "120s",
                "health": {"interval": "150ms", "timeout": "5s", "rise": 1, "fall": 3}
            }
        });
        let file = self._directory.path().join("gateway.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(self._directory.path().join("gateway.log")).unwrap();
        let mut command = Command::new(built("trivet-balancer"));
        let child =
            command.arg("--config").arg(file).env_remove("NOTIFY_SOCKET").stderr(log).spawn().unwrap();
        let gateway = Gateway { port, child };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the gateway does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gateway
    }

    /// The operator's command, given on node `i`.
    pub fn trivet(&self, i: usize, arguments: &[&str]) -> Output {
        let socket = self.nodes[i].home.join("control.sock");
        let mut command = Command::new(built("trivet"));
        command.args(arguments).arg("--keeper").arg(socket).stdin(Stdio::null()).output().unwrap()
    }

    /// Asks what forcing node `i` would do, which does nothing, until the answer has these words: a keeper learns of the others
    /// within a second of their start, and not at once.
    pub async fn until_told(&self, i: usize, words: &[&str]) {
        let begun = Instant::now();
        loop {
            let asked = self.trivet(i, &["database", "force-bootstrap", &self.nodes[i].name]);
            assert_eq!(asked.status.code(), Some(1), "nobody consents");
            let told = said(&asked);
            if words.iter().all(|w| told.contains(w)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "node{} does not tell {words:?}: {told}", i + 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Certificates for node `i` by an authority that nobody here trusts.
    pub fn strange_certificates(&self, i: usize) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let folder = self.nodes[i].home.join("strange");
        std::fs::create_dir(&folder).unwrap();
        certificates(&folder, &self.nodes[i].name, &Issuer::new(params, key), &ca)
    }

    /// Waits until `/health` of node `i` has this value in `field`.
    pub async fn until_field(&self, i: usize, field: &str, value: &Value) {
        let begun = Instant::now();
        loop {
            let health = self.health(i).await;
            if health[field] == *value {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{field} of node{} is not {value}: {health}", i + 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the keeper of node `i` warns of something in these words.
    pub async fn until_warned(&self, i: usize, words: &str) {
        let begun = Instant::now();
        loop {
            let health = self.health(i).await;
            if health["warnings"].to_string().contains(words) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "node{} does not warn of {words:?}: {health}", i + 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until another node than `i` answers `/primary` with yes, and returns it.
    pub async fn until_primary_is_not(&self, i: usize) -> usize {
        let begun = Instant::now();
        loop {
            for other in (0..self.nodes.len()).filter(|other| *other != i) {
                if self.status(other, "/primary").await == 200 {
                    return other;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "no other primary than node{}", i + 1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn health(&self, i: usize) -> Value {
        match self.clients[i].get("/health", Duration::from_secs(5)).await {
            Ok(answer) => serde_json::from_slice(&answer.body).unwrap(),
            Err(e) => json!({"phase": "no answer", "reason": e.to_string()}),
        }
    }

    pub async fn status(&self, i: usize, path: &str) -> u16 {
        self.clients[i].get(path, Duration::from_secs(5)).await.map_or(0, |a| a.status.as_u16())
    }

    /// Waits until node `i` is in `phase`, and returns what it says then.
    pub async fn until(&self, i: usize, phase: &str) -> Value {
        let begun = Instant::now();
        loop {
            let health = self.health(i).await;
            if health["phase"] == phase {
                return health;
            }
            assert!(begun.elapsed() < PATIENCE, "node{} is not {phase} but {health}", i + 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until all are ONLINE in one view; returns the primary.
    pub async fn until_whole(&self) -> usize {
        let begun = Instant::now();
        loop {
            let mut seen = Vec::new();
            for i in 0..self.nodes.len() {
                seen.push(self.health(i).await);
            }
            let online = |h: &Value| {
                let view = h["view"].as_array().map_or(&[][..], Vec::as_slice);
                h["phase"] == "online"
                    && view.iter().filter(|m| m["state"] == "ONLINE").count() == self.nodes.len()
            };
            if seen.iter().all(online) {
                let mut primaries = Vec::new();
                for i in 0..self.nodes.len() {
                    if self.status(i, "/primary").await == 200 {
                        primaries.push(i);
                    }
                }
                if let [primary] = primaries[..] {
                    return primary;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "the group is not whole: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// As `trivet secrets` writes it: a keeper warns of one that others may read.
pub fn write_secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
