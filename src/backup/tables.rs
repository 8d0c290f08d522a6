//! Single tables of a restored database, brought back beside the living ones: into a database of their own on the primary.

#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use mysql_async::prelude::Queryable;

use crate::cluster::Cluster;
use crate::mysqld::{MysqldError, Scratch, program};
use crate::progress::Watcher;
use crate::sql::identifier;

/// What every database for restored tables is called to begin with: the account for backups may write these alone.
pub const PREFIX: &str = "trivet_restored_";

/// Why tables did not come back.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// It was never there.
    #[error("there is no table {table} in the database of that moment; it has {there}")]
    Absent {
        /// The table.
        table: String,
        /// Tables of the same database, or the databases.
        there: String,
    },
    /// Somebody did this before.
    #[error("the database {0} is there already: drop it, or rename it, if what is in it is no longer wanted")]
    Exists(String),
    /// `mysqldump` or `mysql`.
    #[error("{table}: {reason}; what came back so far is in {database}")]
    Copy {
        /// The table.
        table: String,
        /// The program's words.
        reason: String,
        /// Where the others are.
        database: String,
    },
    /// The scratch server, or the primary.
    #[error(transparent)]
    Mysqld(#[from] MysqldError),
}

/// `database.table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
}

impl FromStr for Table {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('.') {
            Some((database, name)) if !database.is_empty() && !name.is_empty() => {
                Ok(Self { database: database.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is no table: give DATABASE.TABLE, several with commas between them")),
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// The database for tables of this moment, `trivet_restored_20260102t150405`. Not longer than MySQL's 64 characters.
pub fn database_for(moment: &str) -> String {
    let plain: String =
        moment.split('.').next().unwrap_or(moment).chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    format!("{PREFIX}{}", plain.chars().take(64 - PREFIX.len()).collect::<String>())
}

/// Copies tables from a restored database into `database` on the primary, and says how many rows each has there.
pub async fn bring_back(
    cluster: &Cluster,
    scratch: &Scratch,
    tables: &[Table],
    database: &str,
    watcher: &Watcher,
) -> Result<Vec<(Table, u64)>, TablesError> {
    let mut restored = scratch.connect().await?;
    let sql = |e: mysql_async::Error| TablesError::Mysqld(e.into());
    for table in tables {
        let there: Vec<String> = restored
            .exec(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'BASE TABLE'",
                (&table.database,),
            )
            .await
            .map_err(sql)?;
        if !there.contains(&table.name) {
            let there =
                if there.is_empty() { format!("no database {}", table.database) } else { there.join(", ") };
            return Err(TablesError::Absent { table: table.to_string(), there });
        }
    }
    let mut primary = cluster.access.primary().await.map_err(sql)?;
    let exists: Option<String> = primary
        .exec_first("SELECT schema_name FROM information_schema.schemata WHERE schema_name = ?", (database,))
        .await
        .map_err(sql)?;
    if exists.is_some() {
        return Err(TablesError::Exists(database.into()));
    }
    let into = identifier(database);
    primary.query_drop(format!("CREATE DATABASE {into} CHARACTER SET utf8mb4")).await.map_err(sql)?;
    let mut done = Vec::new();
    for table in tables {
        watcher.begin(&format!("bringing back {table}"), 0, false);
        let pipe = Pipe::new(cluster, scratch, table, database);
        let copied = tokio::task::spawn_blocking(move || pipe.run()).await;
        let failed = |reason: String| TablesError::Copy {
            table: table.to_string(),
            reason,
            database: database.into(),
        };
        copied.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
        let count = format!("SELECT COUNT(*) FROM {into}.{}", identifier(&table.name));
        let rows: Option<u64> = primary.query_first(count).await.map_err(sql)?;
        done.push((table.clone(), rows.unwrap_or(0)));
    }
    watcher.end();
    Ok(done)
}

/// `mysqldump` of the scratch server into `mysql` on the primary.
struct Pipe {
    programs: PathBuf,
    from: PathBuf,
    account: &'static str,
    table: Table,
    database: String,
    /// The way to the primary, the password in it: no argument, which everybody could read.
    options: String,
}

impl Pipe {
    fn new(cluster: &Cluster, scratch: &Scratch, table: &Table, database: &str) -> Self {
        Self {
            programs: cluster.config.mysql.programs.clone(),
            from: scratch.socket().to_owned(),
            account: scratch.account(),
            table: table.clone(),
            database: database.into(),
            options: cluster.access.client_options(),
        }
    }

    fn run(&self) -> Result<(), String> {
        let failed = |what: &str, e: std::io::Error| format!("{what}: {e}");
        let mut options = tempfile::NamedTempFile::new().map_err(|e| failed("the options of mysql", e))?;
        options.write_all(self.options.as_bytes()).map_err(|e| failed("the options of mysql", e))?;
        let mut dump = Command::new(program(&self.programs, "mysqldump"))
            .arg("--no-defaults")
            .arg(format!("--socket={}", self.from.display()))
            .arg(format!("--user={}", self.account))
            .args([
                "--single-transaction",
                "--no-tablespaces",
                "--skip-triggers",
                "--set-gtid-purged=OFF",
                "--hex-blob",
            ])
            .args(["--max-allowed-packet=1G", "--"])
            .args([&self.table.database, &self.table.name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed("mysqldump", e))?;
        let out = dump.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let mut load = Command::new(program(&self.programs, "mysql"))
            .arg(format!("--defaults-file={}", options.path().display()))
            .args(["--max-allowed-packet=1G", &format!("--database={}", self.database)])
            .stdin(out)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                let _ = dump.kill();
                failed("mysql", e)
            })?;
        let loaded = said(&mut load);
        let dumped = said(&mut dump);
        // Whoever ends first breaks the other's pipe: the reader's words are the cause.
        loaded.map_err(|e| format!("mysql: {e}"))?;
        dumped.map_err(|e| format!("mysqldump: {e}"))
    }
}

/// Waits for a program; what it complained of when it failed.
fn said(child: &mut std::process::Child) -> Result<(), String> {
    let mut words = String::new();
    if let Some(err) = &mut child.stderr {
        // Complaints are lines; a megabyte of them is enough for anybody.
        let _ = err.take(1 << 20).read_to_string(&mut words);
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ({status})", words.split_whitespace().collect::<Vec<_>>().join(" "))),
        Err(e) => Err(e.to_string()),
    }
}
