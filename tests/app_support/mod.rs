//! What the site's integration tests share: real databases, a gateway that can be cut, a site in this process, and a
//! client that speaks HTTP to it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

use serde_json::Value;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, MySqlConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use trivet_app::auth::hash_password;
use trivet_app::config::Config;
use trivet_app::db::Db;
use trivet_app::store::idempotency::Keyed;
use trivet_app::store::users::Add;
use trivet_app::{Site, run};
use trivet_base::config;
use trivet_base::process::{Phase, Shutdown};

pub const PASSWORD: &str = "correct horse battery staple";

/// A database of this test's own on the real servers; `None`, said out loud, when there are none.
pub struct Database {
    pub name: String,
    pub primary: MySqlConnection,
    pub replica: Option<MySqlConnection>,
    primary_url: String,
    replica_url: Option<String>,
    ca: String,
    // Some tests stop replication or make the primary read-only: one test at a time, whichever process it is in.
    _turn: MySqlConnection,
}

fn options(url: &str, ca: &str) -> MySqlConnectOptions {
    MySqlConnectOptions::from_str(url).unwrap().ssl_mode(MySqlSslMode::VerifyIdentity).ssl_ca(Path::new(ca))
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Database {
    pub async fn fresh(test: &str) -> Option<Self> {
        let Ok(url) = std::env::var("TRIVET_TEST_MYSQL_URL") else {
            eprintln!(
                "SKIPPED {test}: TRIVET_TEST_MYSQL_URL is not set; run `tests/mysql.py run cargo test --test app_site`"
            );
            return None;
        };
        let ca = std::env::var("TRIVET_TEST_MYSQL_CA").expect("TRIVET_TEST_MYSQL_CA");
        let replica_url = std::env::var("TRIVET_TEST_MYSQL_REPLICA_URL").ok();
        let mut turn = options(&url, &ca).connect().await.expect("the test's MySQL");
        let got: Option<i64> =
            sqlx::query_scalar("SELECT GET_LOCK('trivet-tests', 600)").fetch_one(&mut turn).await.unwrap();
        assert_eq!(got, Some(1));
        let mut primary = options(&url, &ca).connect().await.unwrap();
        let name = format!("trivet_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut replica = None;
        execute(&mut primary, "SET GLOBAL super_read_only = OFF").await;
        execute(&mut primary, "SET GLOBAL read_only = OFF").await;
        execute(&mut primary, &format!("CREATE DATABASE {name}")).await;
        if let Some(url) = &replica_url {
            let mut connection = options(url, &ca).connect().await.unwrap();
            execute(&mut connection, "START REPLICA SQL_THREAD").await;
            replica = Some(connection);
        }
        let mut this = Self { name, primary, replica, primary_url: url, replica_url, ca, _turn: turn };
        this.replica_catches_up().await;
        Some(this)
    }

    fn url(&self, base: &str, port: Option<u16>) -> String {
        let (before, _) = base.rsplit_once('/').unwrap();
        let before = match port {
            Some(port) => format!("{}:{port}", before.rsplit_once(':').unwrap().0),
            None => before.to_owned(),
        };
        format!("{before}/{}", self.name)
    }

    fn port(base: &str) -> u16 {
        base.rsplit_once('/').unwrap().0.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// A gateway to the primary.
    pub async fn write_gateway(&self) -> Gateway {
        Gateway::to(Self::port(&self.primary_url)).await
    }

    /// A gateway to the replica.
    pub async fn read_gateway(&self) -> Gateway {
        Gateway::to(Self::port(self.replica_url.as_ref().unwrap_or(&self.primary_url))).await
    }

    pub fn config(&self, write: &Gateway, read: &Gateway) -> Config {
        let mut config: Config = config::parse(Path::new("test.toml"), "").unwrap();
        config.site.base_url = "http://site.test".into();
        config.site.page_size = 3;
        config.database.write_url = Some(self.url(&self.primary_url, Some(write.port)));
        config.database.read_url =
            Some(self.url(self.replica_url.as_ref().unwrap_or(&self.primary_url), Some(read.port)));
        config.database.ca_file = Some(self.ca.clone().into());
        config.database.acquire_timeout = Duration::from_secs(3);
        config.database.write_timeout = Duration::from_secs(3);
        config
    }

    /// Waits until the replica has everything.
    pub async fn replica_catches_up(&mut self) {
        let Some(replica) = &mut self.replica else { return };
        let set: String =
            sqlx::query_scalar("SELECT @@global.gtid_executed").fetch_one(&mut self.primary).await.unwrap();
        let late: i64 = sqlx::query_scalar("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 20)")
            .bind(set)
            .fetch_one(replica)
            .await
            .unwrap();
        assert_eq!(late, 0, "the replica does not catch up");
    }

    pub async fn on_primary(&mut self, sql: &str) {
        execute(&mut self.primary, sql).await;
    }

    pub async fn on_replica(&mut self, sql: &str) {
        execute(self.replica.as_mut().expect("a replica"), sql).await;
    }

    pub async fn count(&mut self, table: &str) -> i64 {
        let sql = format!("SELECT COUNT(*) FROM {}.{table}", self.name);
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.primary).await.unwrap()
    }

    /// Waits until a transaction of this server waits for a lock.
    pub async fn someone_waits_for_a_lock(&mut self) {
        let start = Instant::now();
        loop {
            // Not innodb_trx: it reads what everybody asks as text, which a password's hash is not.
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_row_lock_current_waits'",
            )
            .fetch_one(&mut self.primary)
            .await
            .unwrap();
            if waiting > 0 {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "nobody waits for a lock");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deadlocks so far.
    pub async fn deadlocks(&mut self) -> i64 {
        sqlx::query_scalar(
            "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'",
        )
        .fetch_one(&mut self.primary)
        .await
        .unwrap()
    }

    /// Another connection to the primary, in this test's database.
    pub async fn connection(&self) -> MySqlConnection {
        options(&self.url(&self.primary_url, None), &self.ca).connect().await.unwrap()
    }

    /// Ends every connection that uses this test's database, on both servers.
    pub async fn kill_connections(&mut self) -> usize {
        let mut killed = 0;
        for server in [Some(&mut self.primary), self.replica.as_mut()].into_iter().flatten() {
            let ids: Vec<u64> =
                sqlx::query_scalar("SELECT id FROM information_schema.processlist WHERE db = ?")
                    .bind(&self.name)
                    .fetch_all(&mut *server)
                    .await
                    .unwrap();
            for id in ids {
                // It may have ended by itself.
                let _ = sqlx::raw_sql(AssertSqlSafe(format!("KILL {id}"))).execute(&mut *server).await;
                killed += 1;
            }
        }
        killed
    }
}

pub async fn execute(connection: &mut MySqlConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// Accepted and closed.
    Shut,
    /// Accepted, and kept waiting until the door is another.
    Held,
}

/// A TCP gateway that can be cut like the real one: connections closed, new ones refused at once or kept waiting.
pub struct Gateway {
    pub port: u16,
    door: watch::Sender<Door>,
    cut: watch::Sender<u64>,
    connections: Arc<Mutex<Vec<Arc<Link>>>>,
}

/// One connection through the gateway.
#[derive(Default)]
struct Link {
    /// When the client asked something that has not been answered.
    asked: Mutex<Option<Instant>>,
    /// The client's next request is passed on, its answer is not.
    last: AtomicBool,
    muted: AtomicBool,
    cut: Notify,
}

impl Link {
    async fn pass(&self, client: TcpStream, server: TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let requests = async {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                let last = self.last.load(Ordering::SeqCst);
                self.muted.store(last, Ordering::SeqCst);
                *self.asked.lock().unwrap() = Some(Instant::now());
                if to_server.write_all(&bytes[..n]).await.is_err() {
                    return;
                }
                if last {
                    // Time for the server to do it.
                    return tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        };
        let answers = async {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
                *self.asked.lock().unwrap() = None;
                if !self.muted.load(Ordering::SeqCst) && to_client.write_all(&bytes[..n]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = requests => {}, () = answers => {}, () = self.cut.notified() => {} }
        *self.asked.lock().unwrap() = None;
    }
}

impl Gateway {
    async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let door = watch::Sender::new(Door::Open);
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (cut, generation) = watch::channel(0);
        let (doors, links) = (door.subscribe(), connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut generation, mut door) = (generation.clone(), doors.clone());
                generation.mark_unchanged();
                let links: Arc<Mutex<Vec<Arc<Link>>>> = links.clone();
                tokio::spawn(async move {
                    // A client that left while it waited is noticed when its connection is used.
                    if door.wait_for(|d| *d != Door::Held).await.is_ok_and(|d| *d == Door::Shut) {
                        return;
                    }
                    let link = Arc::new(Link::default());
                    links.lock().unwrap().push(link.clone());
                    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    tokio::select! {
                        () = link.pass(client, server) => {}
                        _ = generation.changed() => {}
                    }
                });
            }
        });
        Self { port, door, cut, connections }
    }

    /// Closes every connection, and new ones at once.
    pub fn close(&self) {
        self.shut();
        self.cut.send_modify(|n| *n += 1);
    }

    /// Closes new connections at once.
    fn shut(&self) {
        self.door.send_replace(Door::Shut);
    }

    /// Closes new connections at once, and every one but that whose next answer is swallowed.
    pub fn close_the_rest(&self) {
        self.shut();
        for link in self.connections.lock().unwrap().iter().filter(|l| !l.last.load(Ordering::SeqCst)) {
            link.cut.notify_one();
        }
    }

    /// Closes every connection; new ones wait, as they do while there is no primary.
    pub fn hold(&self) {
        self.door.send_replace(Door::Held);
        self.cut.send_modify(|n| *n += 1);
    }

    pub fn open(&self) {
        self.door.send_replace(Door::Open);
    }

    /// Waits for a connection whose client has been waiting for an answer for 300 ms. That answer still arrives; the next
    /// request is delivered to the server, and then the connection breaks before its answer.
    pub async fn swallow_the_answer_after_a_slow_one(&self) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < Duration::from_secs(10), "nobody waits");
            for link in self.connections.lock().unwrap().iter() {
                if link.asked.lock().unwrap().is_some_and(|t| t.elapsed() > Duration::from_millis(300)) {
                    link.last.store(true, Ordering::SeqCst);
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A site in this process.
pub struct Running {
    pub address: SocketAddr,
    pub site: Arc<Site>,
    pub stop: watch::Sender<Phase>,
    pub task: tokio::task::JoinHandle<Result<(), trivet_base::process::Failure>>,
}

impl Running {
    pub async fn start(config: Config) -> Self {
        let db =
            Db::new(config.database.connect_options(Path::new("test")).unwrap(), config.database.clone());
        let site = Arc::new(Site::new(config, db));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, shutdown) = Shutdown::channel();
        let task = tokio::spawn(run(listener, site.clone(), shutdown));
        Self { address, site, stop, task }
    }

    /// Waits until requests are answered.
    pub async fn ready(self) -> Self {
        let start = Instant::now();
        while self.get("/healthz").await.status != 200 {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "not ready: {}",
                self.get("/healthz").await.body
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self
    }

    pub async fn add_user(&self, name: &str, editor: bool) {
        let password_hash = hash_password(PASSWORD.as_bytes()).unwrap();
        let add = Add { name, password_hash: &password_hash, editor };
        let added = self.site.db.write(&Keyed::new(&add)).await.unwrap();
        assert!(added.value);
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::new("GET", path)).await
    }

    pub async fn send(&self, request: Request) -> Answer {
        tokio::time::timeout(Duration::from_secs(30), request.send(self.address)).await.expect("an answer")
    }

    /// Signs in through the API.
    pub async fn login(&self, name: &str) -> Token {
        let body = serde_json::json!({"name": name, "password": PASSWORD});
        let answer = self.send(Request::new("POST", "/api/login").json(&body)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Token(answer.json()["token"].as_str().unwrap().to_owned())
    }

    /// A browser with a session.
    pub async fn browser(&self, name: &str) -> Browser {
        let mut browser = Browser { address: self.address, cookies: BTreeMap::new() };
        let form = browser.get("/sign-in").await;
        let answer = browser
            .submit(
                "/sign-in",
                &[("csrf", &form.field("csrf")), ("name", name), ("password", PASSWORD), ("next", "/")],
            )
            .await;
        assert_eq!(answer.status, 303, "{}", answer.body);
        browser
    }
}

/// A bearer token.
#[derive(Clone)]
pub struct Token(pub String);

/// A request, built up.
#[derive(Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: String::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn token(self, token: &Token) -> Self {
        self.header("authorization", &format!("Bearer {}", token.0))
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string();
        self.header("content-type", "application/json")
    }

    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        self.body = fields.iter().map(|(n, v)| format!("{n}={}", encode(v))).collect::<Vec<_>>().join("&");
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    pub async fn send(self, address: SocketAddr) -> Answer {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut text =
            format!("{} {} HTTP/1.1\r\nhost: site.test\r\nconnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{}", self.body.len(), self.body));
        // A request that is refused by its head is answered before all of it was read (RFC 9112 section 9.6): the write ends, the answer is there.
        match stream.write_all(text.as_bytes()).await {
            Err(e) if !matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("{e}")
            }
            _ => (),
        }
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        Answer::parse(&String::from_utf8(bytes).expect("UTF-8"))
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|l| l.split_once(": "))
            .map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()))
            .collect();
        Self { status, headers, body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Where the page's form is sent to.
    pub fn action(&self) -> String {
        let page = scraper::Html::parse_document(&self.body);
        let form = scraper::Selector::parse("form.writing").unwrap();
        let form = page.select(&form).next().unwrap_or_else(|| panic!("no form in {}", self.body));
        form.value().attr("action").unwrap().to_owned()
    }

    /// The value of a form's field, as a browser sees it.
    pub fn field(&self, name: &str) -> String {
        let page = scraper::Html::parse_document(&self.body);
        let find = |selector: &str| {
            let selector = scraper::Selector::parse(selector).unwrap();
            page.select(&selector).next()
        };
        if let Some(input) = find(&format!("main input[name={name}]")) {
            return input.value().attr("value").unwrap_or_default().to_owned();
        }
        let area = find(&format!("main textarea[name={name}]"))
            .unwrap_or_else(|| panic!("no {name} in {}", self.body));
        area.text().collect()
    }

    /// What a reader reads.
    pub fn text(&self) -> String {
        let page = scraper::Html::parse_document(&self.body);
        page.root_element().text().collect::<Vec<_>>().join(" ")
    }
}

/// Keeps cookies.
pub struct Browser {
    address: SocketAddr,
    pub cookies: BTreeMap<String, String>,
}

impl Browser {
    pub async fn send(&mut self, mut request: Request) -> Answer {
        if !self.cookies.is_empty() {
            let cookies: Vec<_> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
            request = request.header("cookie", &cookies.join("; "));
        }
        let answer = tokio::time::timeout(Duration::from_secs(30), request.send(self.address))
            .await
            .expect("an answer");
        for (name, value) in &answer.headers {
            if name == "set-cookie" {
                let (name, rest) = value.split_once('=').unwrap();
                let (value, attributes) = rest.split_once(';').unwrap();
                assert!(
                    attributes.contains("HttpOnly") && attributes.contains("SameSite=Lax"),
                    "{attributes}"
                );
                if attributes.contains("Max-Age=0") {
                    self.cookies.remove(name);
                } else {
                    self.cookies.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        answer
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::new("GET", path)).await
    }

    pub async fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.send(Request::new("POST", path).form(fields).header("origin", "http://site.test")).await
    }

    /// The same cookies towards another node.
    pub fn moved_to(&self, other: &Running) -> Self {
        Self { address: other.address, cookies: self.cookies.clone() }
    }
}
