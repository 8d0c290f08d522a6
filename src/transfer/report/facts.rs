//! What a server is: version, databases, size.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde::Serialize;

use crate::error::{TransferError, member, source};
use crate::server::{literal, literals};

/// MySQL's own, and what Trivet keeps for itself.
const NOT_THESE: &str =
    "'mysql', 'sys', 'information_schema', 'performance_schema', 'ndbinfo', 'trivet_cluster'";

/// A server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// As the server says it.
    pub text: String,
    /// First and second number: the series, within which servers replicate in both directions.
    pub series: (u32, u32),
    /// The third.
    pub patch: u32,
}

impl Version {
    /// Reads `8.4.3-log`.
    pub fn parse(text: &str) -> Self {
        let number = |part: Option<&str>| {
            part.map(|p| p.chars().take_while(char::is_ascii_digit).collect::<String>())
                .and_then(|p| p.parse().ok())
                .unwrap_or_default()
        };
        let mut parts = text.split('.');
        let series = (number(parts.next()), number(parts.next()));
        Self { text: text.into(), series, patch: number(parts.next()) }
    }
}

/// How much there is to copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Tables.
    pub tables: u64,
    /// Rows, as the optimizer estimates them.
    pub rows: u64,
    /// Data without indexes, in octets.
    pub octets: u64,
}

/// What is asked of a server once.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its version.
    pub version: Version,
    /// `@@server_uuid`.
    pub uuid: String,
    /// Databases to import, in the order of their names.
    pub databases: Vec<String>,
    /// The source's other databases.
    pub others: Vec<String>,
    /// Those that were wanted and are not there.
    pub missing: Vec<String>,
    /// How much they are.
    pub size: Size,
}

impl Facts {
    /// Of the source. `wanted` is empty for all databases.
    pub async fn of(conn: &mut Conn, wanted: &[String]) -> Result<Self, TransferError> {
        let version =
            version(conn).await.map_err(|error| TransferError::Sql { server: "the source", error })?;
        if version.text.contains("MariaDB") {
            return Err(TransferError::refused(format!(
                "the source is MariaDB ({}), whose binary log MySQL cannot follow: its GTIDs and row events are of another kind. Export it with \
                 mariadb-dump and load the file while the application is stopped (docs/moving.md)",
                version.text
            )));
        }
        if version.series < (5, 7) {
            return Err(TransferError::refused(format!(
                "the source is MySQL {}; 5.7 is the oldest that can be followed: upgrade it first",
                version.text
            )));
        }
        let uuid: Option<String> = source(conn.query_first("SELECT @@global.server_uuid")).await?;
        let all = databases(conn).await?;
        let missing = wanted.iter().filter(|w| !all.contains(w)).cloned().collect();
        let (databases, others): (Vec<String>, Vec<String>) =
            all.into_iter().partition(|d| wanted.is_empty() || wanted.contains(d));
        let mut size = Size::default();
        if !databases.is_empty() {
            let row: Option<(u64, u64, u64)> = source(conn.query_first(format!(
                "SELECT COUNT(*), CAST(COALESCE(SUM(table_rows), 0) AS UNSIGNED), CAST(COALESCE(SUM(data_length), 0) AS UNSIGNED) \
                 FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_schema IN ({})",
                literals(&databases)
            )))
            .await?;
            let (tables, rows, octets) = row.unwrap_or_default();
            size = Size { tables, rows, octets };
        }
        Ok(Self { version, uuid: uuid.unwrap_or_default(), databases, others, missing, size })
    }

    /// Of this node's member, without databases.
    pub async fn of_member(conn: &mut Conn) -> Result<Self, TransferError> {
        let version = member(version(conn)).await?;
        let uuid: Option<String> = member(conn.query_first("SELECT @@global.server_uuid")).await?;
        Ok(Self {
            version,
            uuid: uuid.unwrap_or_default(),
            databases: Vec::new(),
            others: Vec::new(),
            missing: Vec::new(),
            size: Size::default(),
        })
    }
}

/// The source's databases, in the order of their names.
pub(crate) async fn databases(conn: &mut Conn) -> Result<Vec<String>, TransferError> {
    source(conn.query(format!(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ({NOT_THESE}) ORDER BY schema_name"
    )))
    .await
}

async fn version(conn: &mut Conn) -> Result<Version, mysql_async::Error> {
    let text: Option<String> = conn.query_first("SELECT VERSION()").await?;
    Ok(Version::parse(&text.unwrap_or_default()))
}

/// A global variable as text; none when the server does not know it, or it is empty.
pub(crate) async fn variable(conn: &mut Conn, name: &str) -> Result<Option<String>, mysql_async::Error> {
    let row: Option<(String, String)> =
        conn.query_first(format!("SHOW GLOBAL VARIABLES WHERE variable_name = {}", literal(name))).await?;
    Ok(row.map(|(_, value)| value).filter(|v| !v.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_what_distributions_add() {
        for (text, series, patch) in [
            ("8.4.3", (8, 4), 3),
            ("5.7.44-log", (5, 7), 44),
            ("9.7.4-2", (9, 7), 4),
            ("8.0.36-0ubuntu0.22.04.1", (8, 0), 36),
        ] {
            let version = Version::parse(text);
            assert_eq!((version.series, version.patch), (series, patch), "{text}");
        }
    }
}
