//! The replication channel on the group's primary (MySQL manual, "CHANGE REPLICATION SOURCE TO").
//!
//! The source's transactions keep their GTIDs. So the channel may begin at any position before what is missing: the group leaves out
//! what it has. The password is given to START REPLICA and lies in no table, and a mysqld that is started anew starts no channel: it may be
//! the primary no more.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use serde::Serialize;
use tokio::time::timeout;

use trivet_mysql::escaped;

use crate::error::{MEMBER, TransferError, answer};
use crate::filter::Position;
use crate::server::{Remote, literal};

/// Its name.
pub const CHANNEL: &str = "trivet_import";

/// Between two tries to connect, in seconds; MySQL's own default is 60.
const RETRY: u32 = 5;

/// What the server says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `@@server_uuid` of the server that it is connected to, or was; empty when it never was.
    pub source_uuid: String,
    /// Whether it is connected to the source and reads.
    pub receives: bool,
    /// Whether it applies what was received.
    pub applies: bool,
    /// What the source's log was read to.
    pub received: Position,
    /// What is applied.
    pub applied: Position,
    /// How old the transaction is that is being applied, in seconds; none when the server does not know.
    pub behind_seconds: Option<u64>,
    /// Its last troubles, empty without one.
    pub trouble: String,
}

/// Where a channel goes.
pub struct Channel<'a> {
    /// Its name.
    pub name: &'a str,
    /// The server to follow.
    pub source: &'a Remote,
    /// From where, or by the GTIDs that are missing.
    pub from: Option<&'a Position>,
    /// What is applied; everything else is left out.
    pub databases: &'a [String],
    /// Tables without a primary key get one.
    pub generate_keys: bool,
}

impl Channel<'_> {
    /// The statements that make it and start it, in order. The last has the password.
    pub fn statements(&self) -> [String; 3] {
        let source = self.source;
        let from = match self.from {
            Some(at) => format!(
                "SOURCE_AUTO_POSITION = 0, SOURCE_LOG_FILE = {}, SOURCE_LOG_POS = {}",
                literal(&at.file),
                at.offset
            ),
            None => "SOURCE_AUTO_POSITION = 1".into(),
        };
        let tls = match (&source.ca, source.plain) {
            (_, true) => "SOURCE_SSL = 0, GET_SOURCE_PUBLIC_KEY = 1".to_owned(),
            (Some(ca), false) => {
                format!("SOURCE_SSL = 1, SOURCE_SSL_CA = {}", literal(&ca.display().to_string()))
            }
            (None, false) => "SOURCE_SSL = 1".to_owned(),
        };
        // Rows only: statements of the source would be run with all rights here.
        let keys = if self.generate_keys { ", REQUIRE_TABLE_PRIMARY_KEY_CHECK = GENERATE" } else { "" };
        let name = literal(self.name);
        let patterns: Vec<String> =
            self.databases.iter().map(|d| literal(&format!("{}.%", pattern(d)))).collect();
        [
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = {}, SOURCE_PORT = {}, {from}, {tls}, REQUIRE_ROW_FORMAT = 1, \
                 SOURCE_CONNECT_RETRY = {RETRY}, SOURCE_RETRY_COUNT = 0{keys} FOR CHANNEL {name}",
                literal(&source.host),
                source.port,
            ),
            format!(
                "CHANGE REPLICATION FILTER REPLICATE_WILD_DO_TABLE = ({}) FOR CHANNEL {name}",
                patterns.join(", ")
            ),
            format!(
                "START REPLICA USER = {} PASSWORD = {} FOR CHANNEL {name}",
                literal(&source.user),
                literal(&source.password)
            ),
        ]
    }

    /// Makes it anew on a server, and starts it.
    pub async fn start(&self, server: &'static str, conn: &mut Conn) -> Result<(), TransferError> {
        remove(server, conn, self.name).await?;
        for statement in self.statements() {
            answer(server, conn.query_drop(statement)).await?;
        }
        Ok(())
    }
}

/// A database's name in a pattern, taken literally.
pub(crate) fn pattern(database: &str) -> String {
    let mut name = escaped(database, '%');
    name = name.replace('_', "\\_");
    name
}

/// What the server says of the channel; nothing when there is none.
pub async fn status(
    server: &'static str,
    conn: &mut Conn,
    name: &str,
) -> Result<Option<Status>, TransferError> {
    // A channel that is not there is an error of its own (3074).
    let rows: Vec<Row> = answer(server, conn.query("SHOW REPLICA STATUS")).await?;
    Ok(rows.iter().find(|row| text(row, "Channel_Name") == name).map(|row| {
        let place = |file: &str, offset: &str| Position {
            file: text(row, file),
            offset: text(row, offset).parse().unwrap_or_default(),
        };
        let troubles = [text(row, "Last_IO_Error"), text(row, "Last_SQL_Error")];
        Status {
            source_uuid: text(row, "Source_UUID"),
            receives: text(row, "Replica_IO_Running") == "Yes",
            applies: text(row, "Replica_SQL_Running") == "Yes",
            received: place("Source_Log_File", "Read_Source_Log_Pos"),
            applied: place("Relay_Source_Log_File", "Exec_Source_Log_Pos"),
            behind_seconds: text(row, "Seconds_Behind_Source").parse().ok(),
            trouble: troubles.iter().filter(|t| !t.is_empty()).cloned().collect::<Vec<_>>().join("; "),
        }
    }))
}

/// A column as text; empty for NULL and for one that is not there.
pub(crate) fn text(row: &Row, column: &str) -> String {
    let Some(value) =
        row.columns_ref().iter().position(|c| c.name_str() == column).and_then(|i| row.as_ref(i))
    else {
        return String::new();
    };
    match value {
        mysql_async::Value::Bytes(octets) => String::from_utf8_lossy(octets).into_owned(),
        mysql_async::Value::Int(n) => n.to_string(),
        mysql_async::Value::UInt(n) => n.to_string(),
        _ => String::new(),
    }
}

/// How long a channel may take to stop: it ends the transaction that it applies first. MySQL's own limit (`rpl_stop_replica_timeout`) is a year.
const STOPPED: Duration = Duration::from_mins(1);

/// Stops it, and keeps it. After an error the connection is of no more use.
pub async fn stop(server: &'static str, conn: &mut Conn, name: &str) -> Result<(), TransferError> {
    let stop = conn.query_drop(format!("STOP REPLICA FOR CHANNEL {}", literal(name)));
    match timeout(STOPPED, answer(server, stop)).await {
        Ok(stopped) => stopped,
        Err(_) => Err(TransferError::refused(format!(
            "the channel {name} has not stopped within {} s: it applies a large transaction. Run the command again when it is done",
            STOPPED.as_secs()
        ))),
    }
}

/// Stops it and takes it away, when it is there.
pub async fn remove(server: &'static str, conn: &mut Conn, name: &str) -> Result<(), TransferError> {
    if status(server, conn, name).await?.is_some() {
        stop(server, conn, name).await?;
        answer(server, conn.query_drop(format!("RESET REPLICA ALL FOR CHANNEL {}", literal(name)))).await?;
    }
    Ok(())
}

/// Whether a mysqld that is started anew starts its channels. It would apply what it had received without the filter, which is not kept, and
/// before the group has said whether it may.
pub async fn keep_still_at_start(conn: &mut Conn, still: bool) -> Result<(), TransferError> {
    let statement = if still {
        "SET PERSIST_ONLY skip_replica_start = ON"
    } else {
        // That it is not there is a warning.
        "RESET PERSIST IF EXISTS skip_replica_start"
    };
    answer(MEMBER, conn.query_drop(statement)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Remote {
        Remote {
            host: "db.example.org".into(),
            port: 3306,
            user: "mover".into(),
            password: "it's".into(),
            ca: None,
            plain: false,
        }
    }

    #[test]
    fn patterns_take_database_names_literally_and_the_password_stands_in_the_last_statement_alone() {
        let position = Position { file: "binlog.000001".into(), offset: 4 };
        let source = source();
        let databases = ["my_shop".to_owned(), "b%".to_owned()];
        let channel = Channel {
            name: CHANNEL,
            source: &source,
            from: Some(&position),
            databases: &databases,
            generate_keys: false,
        };
        let [change, filter, start] = channel.statements();
        assert!(change.contains("SOURCE_LOG_FILE = 'binlog.000001', SOURCE_LOG_POS = 4"), "{change}");
        assert!(change.contains("SOURCE_SSL = 1"), "{change}");
        assert!(!change.contains("PASSWORD") && !filter.contains("PASSWORD"), "{change}");
        assert!(filter.contains(r"('my\\_shop.%', 'b\\%.%')"), "{filter}");
        assert!(start.contains(r"PASSWORD = 'it\'s'"), "{start}");
    }
}
