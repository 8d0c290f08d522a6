//! MySQL's own programs: `mysqldump` writes, this process looks at every line, and `mysql` loads, or a file takes it.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use trivet_mysql::progress::Watcher;

use crate::error::TransferError;
use crate::filter::Filter;
use crate::locks;

/// Complaints are lines; a megabyte of them is enough for anybody.
const WORDS: u64 = 1 << 20;

/// What every dump is made with: one snapshot of InnoDB's tables without locks on them, everything that belongs to a database, and nothing
/// that only the server knows that it comes from.
const OPTIONS: [&str; 11] = [
    "--single-transaction",
    "--quick",
    "--hex-blob",
    "--routines",
    "--events",
    "--triggers",
    "--no-tablespaces",
    "--set-gtid-purged=OFF",
    "--skip-column-statistics",
    "--max-allowed-packet=1G",
    "--default-character-set=utf8mb4",
];

/// A dump that is about to be made.
pub struct Dump<'a> {
    /// `mysqldump`.
    pub program: &'a Path,
    /// Its `--defaults-file`.
    pub options: &'a Path,
    /// More of its options.
    pub more: &'a [&'a str],
    /// The databases; not empty.
    pub databases: &'a [String],
}

/// MySQL's programs read the user's own login file after the options that they are given, and it goes before them.
const LOGIN_FILE: (&str, &str) = ("MYSQL_TEST_LOGIN_FILE", "/dev/null");

/// FLUSH TABLES WITH READ LOCK keeps the writers waiting behind it for as long as it waits itself. `loose-`: not all versions of mysqldump know it.
fn bounded() -> String {
    format!("--loose-init-command=SET SESSION lock_wait_timeout = {}", locks::LIMIT)
}

impl Dump<'_> {
    /// Writes it, changed by `filter`, to `to`. It is whole when this returns without an error.
    pub async fn write<W: AsyncWrite + Unpin>(
        &self,
        filter: &mut Filter,
        to: &mut W,
        watcher: &Watcher,
    ) -> Result<(), TransferError> {
        let mut child = Command::new(self.program)
            .arg(format!("--defaults-file={}", self.options.display()))
            .env(LOGIN_FILE.0, LOGIN_FILE.1)
            .arg(bounded())
            .args(OPTIONS)
            .args(self.more)
            .arg("--databases")
            .arg("--")
            .args(self.databases)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| cannot_run("mysqldump", self.program, &e))?;
        let words = complaints(&mut child);
        let piped = match child.stdout.take() {
            Some(out) => pipe(BufReader::with_capacity(1 << 20, out), filter, to, watcher).await,
            None => Ok(()),
        };
        if piped.is_err() {
            // Nobody reads it any more.
            let _ = child.start_kill();
        }
        let ended = ended("mysqldump", child, words).await;
        // Whoever takes the dump has its own words for why it does so no more.
        piped.map_err(|e| TransferError::File { what: "the dump".into(), error: e })?;
        ended?;
        if filter.is_whole {
            Ok(())
        } else {
            Err(TransferError::Program { program: "mysqldump", reason: "its dump has no end".into() })
        }
    }
}

async fn pipe<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut from: BufReader<R>,
    filter: &mut Filter,
    to: &mut W,
    watcher: &Watcher,
) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = from.read_until(b'\n', &mut line).await?;
        if count == 0 {
            return to.flush().await;
        }
        filter.line(&mut line);
        to.write_all(&line).await?;
        watcher.add(count as u64);
    }
}

/// `mysql`, which loads what is written to it.
pub struct Load {
    child: Child,
    words: JoinHandle<String>,
}

impl Load {
    /// Starts it. `first` is run when it has connected.
    pub fn start(program: &Path, options: &Path, first: &str) -> Result<Self, TransferError> {
        let mut child = Command::new(program)
            .arg(format!("--defaults-file={}", options.display()))
            .env(LOGIN_FILE.0, LOGIN_FILE.1)
            .args(["--max-allowed-packet=1G", "--default-character-set=utf8mb4", "--binary-mode"])
            .arg(format!("--init-command={first}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| cannot_run("mysql", program, &e))?;
        let words = complaints(&mut child);
        Ok(Self { child, words })
    }

    /// Writes a dump into it, and waits until it is loaded.
    pub async fn take(
        mut self,
        dump: &Dump<'_>,
        filter: &mut Filter,
        watcher: &Watcher,
    ) -> Result<(), TransferError> {
        let Some(mut input) = self.child.stdin.take() else { return Ok(()) };
        let dumped = dump.write(filter, &mut input, watcher).await;
        if !matches!(dumped, Ok(()) | Err(TransferError::File { .. })) {
            // Half a dump ends between two statements, or in one that `mysql` would run.
            let _ = self.child.start_kill();
        }
        drop(input);
        let loaded = ended("mysql", self.child, self.words).await;
        match dumped {
            // Its words say why it reads no more.
            Err(TransferError::File { .. }) => loaded.and(dumped),
            Err(_) => dumped,
            Ok(()) => loaded,
        }
    }
}

fn cannot_run(program: &'static str, path: &Path, e: &std::io::Error) -> TransferError {
    TransferError::Program {
        program,
        reason: format!(
            "{} cannot be run: {e}; --programs names the folder with MySQL's programs",
            path.display()
        ),
    }
}

/// Reads what a program complains of, so that it does not stop for want of a reader.
fn complaints(child: &mut Child) -> JoinHandle<String> {
    let stderr = child.stderr.take();
    tokio::spawn(async move {
        let mut words = Vec::new();
        if let Some(stderr) = stderr {
            let mut head = stderr.take(WORDS);
            let _ = head.read_to_end(&mut words).await;
            let _ = tokio::io::copy(&mut head.into_inner(), &mut tokio::io::sink()).await;
        }
        String::from_utf8_lossy(&words).into_owned()
    })
}

/// Waits for a program; what it complained of when it failed.
async fn ended(
    program: &'static str,
    mut child: Child,
    words: JoinHandle<String>,
) -> Result<(), TransferError> {
    let status = child.wait().await;
    let words = words.await.unwrap_or_default();
    let reason = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("{} ({status})", words.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(e) => e.to_string(),
    };
    Err(TransferError::Program { program, reason })
}
