//! What the programs share that drive MySQL's own: names and strings in statements, where its programs are, what a server is in the group
//! and what it has executed, and how far long work has come.

pub mod progress;

use std::path::{Path, PathBuf};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use trivet_keeper_api::gtid::GtidSet;

/// A program of MySQL's: in this folder, or where Debian has it.
pub fn program(folder: &Path, name: &str) -> PathBuf {
    let beside = folder.join(name);
    let system = ["/usr/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    match system.into_iter().find(|path| path.exists()) {
        Some(system) if !beside.exists() => system,
        _ => beside,
    }
}

/// The inside of a string in these quotation marks.
pub fn escaped(text: &str, mark: char) -> String {
    text.replace('\\', "\\\\").replace(mark, &format!("\\{mark}"))
}

/// A name in a statement (MySQL manual, "Schema Object Names").
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What this server is in the group: `Ok(true)` for the primary, `Ok(false)` for a replica, or the state that it is in.
pub async fn role(conn: &mut Conn) -> Result<Result<bool, String>, Error> {
    let row: Option<(String, String)> = conn
        .query_first(
            "SELECT member_state, member_role FROM performance_schema.replication_group_members WHERE member_id = @@global.server_uuid",
        )
        .await?;
    let (state, role) = row.unwrap_or_else(|| ("in no group".into(), String::new()));
    Ok(if state == "ONLINE" { Ok(role == "PRIMARY") } else { Err(state) })
}

/// Every transaction that this server has executed.
pub async fn executed(conn: &mut Conn) -> Result<GtidSet, Error> {
    set(conn, "gtid_executed").await
}

/// Those of them that are in its binary log no more.
pub async fn purged(conn: &mut Conn) -> Result<GtidSet, Error> {
    set(conn, "gtid_purged").await
}

async fn set(conn: &mut Conn, variable: &str) -> Result<GtidSet, Error> {
    let text: Option<String> = conn.query_first(format!("SELECT @@global.{variable}")).await?;
    text.unwrap_or_default().parse().map_err(|e| Error::Other(Box::new(e)))
}
