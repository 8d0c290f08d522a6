//! A source and a group of real mysqld, without keepers: what is tried here is between the servers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Row as _};
use support::built::built;
use support::mysql::{free_port, mysqld};
use tokio::time::Instant;

const GROUP: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0012";
pub const ACCOUNT: &str = "mover";
const PASSWORD: &str = "it's a secret";
/// A loaded machine needs a minute for what takes seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// One story at a time: several would only wait for one another's processor.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A running mysqld, which is gone with this.
pub struct Server {
    pub home: PathBuf,
    pub port: u16,
    child: Child,
    command: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.home.join("error.log")).unwrap_or_default();
            let errors: Vec<&str> = log.lines().filter(|l| l.contains("[ERROR]")).collect();
            eprintln!("---- mysqld in {}\n{}", self.home.display(), errors.join("\n"));
        }
    }
}

/// An empty data directory, made once.
fn template(base: &[String]) -> &'static Path {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = TEMPLATE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let data = format!("--datadir={}", folder.path().join("data").display());
        let done =
            Command::new(&base[0]).args(&base[1..]).args([&data, "--initialize-insecure"]).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        // Each copy makes a server UUID of its own.
        let _ = std::fs::remove_file(folder.path().join("data/auto.cnf"));
        folder
    });
    folder.path()
}

fn spawned(command: &[String]) -> Child {
    Command::new(&command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Server {
    async fn start(base: &[String], home: &Path, number: usize, more: &[&str]) -> Self {
        std::fs::create_dir(home).unwrap();
        let copied =
            Command::new("cp").arg("-a").arg(template(base).join("data")).arg(home).status().unwrap();
        assert!(copied.success());
        let port = free_port();
        let options = [
            format!("--datadir={}/data", home.display()),
            format!("--socket={}/mysqld.sock", home.display()),
            format!("--log-error={}/error.log", home.display()),
            format!("--port={port}"),
            format!("--report-port={port}"),
            format!("--server-id={number}"),
            format!("--loose-group-replication-local-address=127.0.0.1:{port}"),
        ];
        let fixed = [
            "--bind-address=127.0.0.1",
            "--report-host=127.0.0.1",
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--skip-name-resolve",
            "--log-bin=binlog",
            "--innodb-buffer-pool-size=32M",
            "--innodb-redo-log-capacity=16M",
            "--innodb-flush-log-at-trx-commit=2",
            "--sync-binlog=0",
        ];
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let command: Vec<String> =
            base.iter().cloned().chain(options).chain(words(&fixed)).chain(words(more)).collect();
        let child = spawned(&command);
        let server = Self { home: home.to_owned(), port, child, command };
        server.answers().await;
        server
    }

    async fn answers(&self) {
        let begun = Instant::now();
        while let Err(e) = self.options().connect().await {
            assert!(begun.elapsed() < PATIENCE, "{}: {e}", self.home.display());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills it, as a loss of power would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills it, and starts it anew.
    pub async fn restart(&mut self) {
        self.kill();
        self.child = spawned(&self.command);
        self.answers().await;
    }

    fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new()
            .socket(self.home.join("mysqld.sock"))
            .username("root")
            .ssl_mode(MySqlSslMode::Disabled)
            .pipes_as_concat(false)
            .no_engine_substitution(false)
    }

    pub async fn sql(&self) -> MySqlConnection {
        self.options().connect().await.unwrap()
    }

    pub async fn run(&self, sql: &str) {
        self.tried(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Each statement by itself: of several that are sent at once MySQL takes the semicolon into a trigger's body, and mysqldump writes it
    /// into a comment that nobody can read.
    pub async fn tried(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut conn = self.sql().await;
        let mut is_quoted = false;
        let statements = sql.split(|c| {
            is_quoted ^= c == '\'';
            c == ';' && !is_quoted
        });
        for statement in statements.map(str::trim).filter(|s| !s.is_empty()) {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await?;
        }
        Ok(())
    }

    /// A session that stays, after this statement.
    pub async fn session(&self, sql: &'static str) -> MySqlConnection {
        let mut conn = self.sql().await;
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn
    }

    /// The names of its binary logs, the oldest first.
    pub async fn binary_logs(&self) -> Vec<String> {
        let rows = sqlx::raw_sql("SHOW BINARY LOGS").fetch_all(&mut self.sql().await).await.unwrap();
        rows.iter().map(|row| row.get_unchecked(0)).collect()
    }

    /// The first column of all rows, as text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let query = format!("SELECT CAST(q.x AS CHAR) FROM ({sql}) q");
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut self.sql().await).await.unwrap()
    }

    /// Waits until a query gives this.
    pub async fn until(&self, sql: &str, expected: &[&str]) {
        let begun = Instant::now();
        loop {
            let seen = self.texts(sql).await;
            if seen == expected {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{sql}: {seen:?}, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A source, and the members of a group.
pub struct Scene {
    pub source: Server,
    pub members: Vec<Server>,
    pub folder: PathBuf,
    _directory: tempfile::TempDir,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Scene {
    /// A source with these options, and a group of so many members; nothing when this machine has no mysqld.
    pub async fn start(source: &[&str], members: usize) -> Option<Self> {
        let Some((command, options)) = mysqld() else {
            eprintln!("transfer: no mysqld here (./lab install makes one): SKIPPED");
            return None;
        };
        let alone = ALONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().to_owned();
        clients(&command, &folder);
        let base: Vec<String> = command
            .into_iter()
            // With --no-defaults it would not read what it has persisted either.
            .chain(["--defaults-file=/dev/null".into(), "--user=root".into()])
            .chain(options)
            .collect();
        let source = Server::start(&base, &folder.join("source"), 10, source).await;
        source.run(&format!("CREATE USER {ACCOUNT}@'%' IDENTIFIED BY 'it\\'s a secret'")).await;
        source.run(&format!("GRANT ALL ON *.* TO {ACCOUNT}@'%'")).await;
        let mut scene = Self { source, members: Vec::new(), folder, _directory: directory, _alone: alone };
        for i in 0..members {
            let home = scene.folder.join(format!("member{i}"));
            let name = format!("--loose-group-replication-group-name={GROUP}");
            let member = Server::start(
                &base,
                &home,
                i + 1,
                &[
                    &name,
                    "--gtid-mode=ON",
                    "--enforce-gtid-consistency=ON",
                    "--plugin-load-add=group_replication.so",
                    "--loose-group-replication-communication-stack=MYSQL",
                    "--loose-group-replication-start-on-boot=OFF",
                    "--loose-group-replication-ssl-mode=REQUIRED",
                    "--loose-group-replication-recovery-use-ssl=ON",
                    "--loose-group-replication-message-cache-size=134217728",
                ],
            )
            .await;
            scene.join(&member).await;
            scene.members.push(member);
        }
        Some(scene)
    }

    async fn join(&self, member: &Server) {
        Self::join_at(member, self.members.first()).await;
    }

    /// Lets a member into the group of another one, or make a group of its own.
    pub async fn join_at(member: &Server, other: Option<&Server>) {
        let seeds = other.map(|o| format!("127.0.0.1:{}", o.port)).unwrap_or_default();
        let on = if other.is_none() { "ON" } else { "OFF" };
        member
            .run(&format!(
                "SET SQL_LOG_BIN = 0; CREATE USER IF NOT EXISTS r@'%' IDENTIFIED BY 'r' REQUIRE SSL; \
                 GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO r@'%'; SET SQL_LOG_BIN = 1; \
                 SET GLOBAL group_replication_group_seeds = '{seeds}'; SET GLOBAL group_replication_bootstrap_group = {on}; \
                 START GROUP_REPLICATION USER = 'r', PASSWORD = 'r'; SET GLOBAL group_replication_bootstrap_group = OFF"
            ))
            .await;
        let state = "SELECT member_state AS x FROM performance_schema.replication_group_members WHERE member_id = @@server_uuid";
        member.until(state, &["ONLINE"]).await;
    }

    /// The group's first member: its primary, unless a test moves it.
    pub fn member(&self) -> &Server {
        &self.members[0]
    }

    /// Runs `trivet database STEP` on a member's node.
    pub fn on(&self, member: &Server, step: &str, arguments: &[&str]) -> Output {
        // One that waits for ever fails, and leaves nothing behind.
        Command::new("timeout")
            .arg(PATIENCE.as_secs().to_string())
            .arg(built("trivet"))
            .args(["database", step])
            .args(arguments)
            .arg("--socket")
            .arg(member.home.join("mysqld.sock"))
            .arg("--programs")
            .arg(&self.folder)
            .output()
            .unwrap()
    }

    /// `trivet database import`, with the password.
    pub fn import(&self, arguments: &[&str]) -> Output {
        self.import_on(self.member(), arguments)
    }

    pub fn import_on(&self, member: &Server, arguments: &[&str]) -> Output {
        built("trivet-transfer");
        let password = self.folder.join("password");
        let mut all = arguments.to_vec();
        let file = password.display().to_string();
        all.extend(["--password-file", &file]);
        self.on(member, "import", &all)
    }

    /// `mysql://…/DATABASES`.
    pub fn url(&self, databases: &str) -> String {
        format!("mysql://{ACCOUNT}@127.0.0.1:{}/{databases}", self.source.port)
    }

    /// The source's databases are copied, and followed.
    pub fn follows(&self, databases: &str) {
        good(&self.import(&["--from", &self.url(databases), "--until-caught-up"]));
    }

    /// Loads a file into a server.
    pub fn load(&self, server: &Server, file: &Path) -> Output {
        Command::new(self.folder.join("mysql"))
            .args(["--no-defaults", "--user=root", "--socket"])
            .arg(server.home.join("mysqld.sock"))
            .stdin(std::fs::File::open(file).unwrap())
            .output()
            .unwrap()
    }
}

/// MySQL's clients, run by the same loader as its server, and the password.
fn clients(mysqld: &[String], folder: &Path) {
    let server = Path::new(mysqld.last().unwrap());
    for name in ["mysql", "mysqldump"] {
        let program = server.ancestors().nth(2).unwrap().join("bin").join(name);
        let words: Vec<String> =
            mysqld[..mysqld.len() - 1].iter().cloned().chain([program.display().to_string()]).collect();
        let file = folder.join(name);
        std::fs::write(&file, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let password = folder.join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// All that a command printed.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a command printed, which succeeded.
pub fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    said(output)
}

/// What a command printed, which refused.
pub fn bad(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    said(output)
}
