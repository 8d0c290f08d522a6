//! A scratch mysqld: a server on a data directory of ours, that only its own socket reaches, and that is gone when it is dropped.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use trivet_base::passwd;
pub use trivet_mysql::program;

/// The account that a scratch server's owner uses: the unix user that runs it, by auth_socket.
const ACCOUNT: &str = "trivet-restore";

/// A new data directory is made within this, on a slow disk.
const INITIALISE: Duration = Duration::from_mins(3);

/// A server on a copy reads its redo log first.
const START: Duration = Duration::from_mins(30);

/// An orderly stop writes what is in memory.
const STOP: Duration = Duration::from_mins(10);

/// Why a scratch server could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MysqldError {
    /// The program is not there or may not be run.
    #[error("{program}: cannot be run: {reason} (mysql.programs)")]
    Program {
        /// Its path.
        program: String,
        /// The system's words.
        reason: String,
    },
    /// It ended or did not answer; what it wrote last.
    #[error("{what}: {said}")]
    Failed {
        /// What was tried.
        what: String,
        /// The last lines of its error log.
        said: String,
    },
    /// It refused a statement.
    #[error("the scratch server: {0}")]
    Sql(String),
    /// Files.
    #[error("{0}")]
    Files(String),
}

impl From<mysql_async::Error> for MysqldError {
    fn from(e: mysql_async::Error) -> Self {
        Self::Sql(e.to_string())
    }
}

/// What a data directory asks of the server that opens it: settings that are fixed when it is made, and plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// `mysqld`'s version, `8.4.3`.
    pub version: String,
    /// `name=value` of `innodb_page_size` and others that cannot be changed later.
    pub fixed: Vec<String>,
    /// Libraries of plugins.
    pub plugins: Vec<String>,
}

impl Shape {
    /// Asks a server for its own.
    pub async fn of(conn: &mut Conn) -> Result<Self, mysql_async::Error> {
        let version: String = conn.query_first("SELECT @@global.version").await?.unwrap_or_default();
        let mut fixed = Vec::new();
        for name in [
            "innodb_page_size",
            "innodb_data_file_path",
            "lower_case_table_names",
            "innodb_checksum_algorithm",
        ] {
            let value: Option<String> =
                conn.query_first(format!("SELECT CAST(@@global.{name} AS CHAR)")).await?;
            fixed.extend(value.map(|value| format!("{name}={value}")));
        }
        let plugins = conn
            .query("SELECT DISTINCT plugin_library FROM information_schema.plugins WHERE plugin_library IS NOT NULL AND plugin_status = 'ACTIVE'")
            .await?;
        Ok(Self { version, fixed, plugins })
    }
}

/// How a scratch server is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder with `mysqld`.
    pub programs: PathBuf,
    /// What the data directory asks for.
    pub shape: Shape,
    /// `--innodb-buffer-pool-size`, in MiB.
    pub buffer_pool_mib: u32,
    /// More options, as on the command line.
    pub more: Vec<String>,
}

/// A running scratch server.
pub struct Scratch {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Options {
    fn command(&self, data: &Path) -> Command {
        let mut command = std::process::Command::new(program(&self.programs, "mysqld"));
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        if rustix::process::geteuid().is_root() {
            // mysqld refuses to be root unless it is told so; nobody but root reaches this one.
            command.arg("--user=root");
        }
        command.args(self.shape.fixed.iter().map(|f| format!("--{f}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own, and it does not outlive this process.
        command.process_group(0);
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
    }

    /// Makes a new data directory.
    pub async fn initialise(&self, data: &Path) -> Result<(), MysqldError> {
        let log = data.with_extension("log");
        let mut command = self.command(data);
        command.arg("--initialize-insecure").arg(format!("--log-error={}", log.display()));
        let mut child = self.spawn(&mut command)?;
        let status = tokio::time::timeout(INITIALISE, child.wait()).await;
        match status {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(failed(
                &format!("a data directory could not be made in {} ({status})", data.display()),
                &log,
            )),
            Ok(Err(e)) => Err(MysqldError::Files(e.to_string())),
            Err(_) => Err(failed(&format!("a data directory was not made within {INITIALISE:?}"), &log)),
        }
    }

    /// Starts a server on a data directory and waits until it answers. `work` is an absolute folder for its socket and logs.
    pub async fn start(&self, data: &Path, work: &Path) -> Result<Scratch, MysqldError> {
        let files = |e: io::Error| MysqldError::Files(format!("{}: {e}", work.display()));
        std::fs::create_dir_all(work).map_err(files)?;
        let socket = work.join("mysql.sock");
        let log = work.join("mysqld.log");
        let init = work.join("init.sql");
        let _ = std::fs::remove_file(&log);
        std::fs::write(&init, account_statements()).map_err(files)?;
        let mut command = self.command(data);
        for option in [
            format!("--socket={}", socket.display()),
            format!("--pid-file={}", work.join("mysqld.pid").display()),
            format!("--log-error={}", log.display()),
            format!("--init-file={}", init.display()),
            format!("--innodb-buffer-pool-size={}M", self.buffer_pool_mib),
            "--skip-networking".into(),
            "--mysqlx=OFF".into(),
            "--skip-log-bin".into(),
            "--gtid-mode=ON".into(),
            "--enforce-gtid-consistency=ON".into(),
            "--skip-replica-start".into(),
            "--relay-log=relay".into(),
            "--server-id=4000000999".into(),
            // What is in the copy is not to begin to live here.
            "--event-scheduler=OFF".into(),
            "--secure-file-priv=NULL".into(),
            "--innodb-flush-log-at-trx-commit=2".into(),
            "--loose-group-replication-start-on-boot=OFF".into(),
        ] {
            command.arg(option);
        }
        let own = ["mysql_clone.so", "auth_socket.so"];
        let others = self.shape.plugins.iter().map(String::as_str).filter(|p| !own.contains(p));
        command.args(own.into_iter().chain(others).map(|p| format!("--plugin-load-add={p}")));
        command.args(&self.more);
        let child = self.spawn(&mut command)?;
        let mut scratch = Scratch { child, socket, log };
        scratch.answers().await?;
        Ok(scratch)
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, MysqldError> {
        command.spawn().map_err(|e| MysqldError::Program {
            program: program(&self.programs, "mysqld").display().to_string(),
            reason: e.to_string(),
        })
    }
}

/// Run by the server itself before anybody can connect. Outside the binary log and without a GTID.
fn account_statements() -> String {
    let user = whoami();
    [
        "SET SQL_LOG_BIN = 0".to_owned(),
        "SET GLOBAL super_read_only = OFF".to_owned(),
        "SET GLOBAL read_only = OFF".to_owned(),
        format!("DROP USER IF EXISTS '{ACCOUNT}'@'localhost'"),
        format!("CREATE USER '{ACCOUNT}'@'localhost' IDENTIFIED WITH auth_socket AS '{user}'"),
        format!("GRANT ALL ON *.* TO '{ACCOUNT}'@'localhost' WITH GRANT OPTION"),
    ]
    .iter()
    .map(|s| format!("{s};\n"))
    .collect()
}

/// The name of the unix user, as auth_socket sees it.
fn whoami() -> String {
    let id = rustix::process::geteuid().as_raw();
    passwd::find(|account| account.user == id)
        .map(|account| account.name)
        .unwrap_or_else(|| std::env::var("USER").unwrap_or_else(|_| "root".into()))
}

impl Scratch {
    /// A connection with all rights.
    pub async fn connect(&self) -> Result<Conn, MysqldError> {
        let opts = OptsBuilder::default()
            .socket(Some(self.socket.display().to_string()))
            .user(Some(ACCOUNT))
            .stmt_cache_size(0);
        Ok(Conn::new(opts).await?)
    }

    /// Its socket, for `mysql --socket`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The account to use there.
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The last lines of its error log, for messages.
    pub fn said(&self) -> String {
        tail(&self.log)
    }

    async fn answers(&mut self) -> Result<(), MysqldError> {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(failed(
                    &format!("a scratch server ended while it started ({status})"),
                    &self.log,
                ));
            }
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(5), self.connect()).await {
                return Ok(());
            }
            if began.elapsed() > START {
                return Err(failed(
                    &format!("a scratch server has not answered within {START:?}"),
                    &self.log,
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops it in order, so that its files are a whole database. With `leave_no_trace` the account of ours is taken away first.
    pub async fn stop(mut self, leave_no_trace: bool) -> Result<(), MysqldError> {
        let mut conn = self.connect().await?;
        if leave_no_trace {
            conn.query_drop("SET SQL_LOG_BIN = 0").await?;
            conn.query_drop(format!("DROP USER '{ACCOUNT}'@'localhost'")).await?;
        }
        // The answer may be lost with the server.
        let _ = conn.query_drop("SHUTDOWN").await;
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                Err(failed(&format!("a scratch server did not stop well ({status})"), &self.log))
            }
            Ok(Err(e)) => Err(MysqldError::Files(e.to_string())),
            Err(_) => Err(failed(&format!("a scratch server has not stopped within {STOP:?}"), &self.log)),
        }
    }

    /// Until it ends by itself.
    pub async fn ended(&mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }
}

fn failed(what: &str, log: &Path) -> MysqldError {
    MysqldError::Failed { what: what.into(), said: tail(log) }
}

/// The last lines of a log that tell of errors, or the last ones.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default();
    let errors: Vec<&str> = text.lines().filter(|l| l.contains("[ERROR]")).collect();
    let lines = if errors.is_empty() { text.lines().collect() } else { errors };
    let last: Vec<&str> = lines.iter().rev().take(3).rev().map(|l| l.trim()).collect();
    if last.is_empty() { "it wrote nothing".into() } else { last.join(" / ") }
}
