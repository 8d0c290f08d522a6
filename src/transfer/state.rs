//! What the cluster remembers of an import: a row in the group, so that it is on whichever node has the primary.

use std::path::PathBuf;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{TransferError, member};
use crate::filter::Position;
use crate::server::literal;

const TABLES: [&str; 2] = [
    "CREATE DATABASE IF NOT EXISTS trivet_cluster CHARACTER SET utf8mb4",
    "CREATE TABLE IF NOT EXISTS trivet_cluster.import \
     (id TINYINT UNSIGNED NOT NULL PRIMARY KEY, state JSON NOT NULL) ENGINE=InnoDB",
];

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The snapshot is being copied. What was copied is worth nothing before it is whole.
    Copying,
    /// The channel follows the source.
    Following,
    /// The cluster has taken the source's place.
    CutOver,
    /// The source follows the cluster.
    Back,
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How far it is.
    pub phase: Phase,
    /// The source's address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The account there.
    pub user: String,
    /// Its CA, when it is verified.
    pub ca: Option<PathBuf>,
    /// Without TLS.
    pub plain: bool,
    /// `@@server_uuid` of the source: another server at its address is not the same source.
    pub uuid: String,
    /// What is imported.
    pub databases: Vec<String>,
    /// Tables without a primary key get one.
    pub generate_keys: bool,
    /// From where the channel can go on: everything before it is applied. Transactions after it that are here already are left out by their
    /// GTIDs.
    pub position: Option<Position>,
    /// What the cluster had executed when it took the source's place: the source has all of it.
    pub executed: Option<String>,
    /// Whether the source was read-only before a cut-over made it so: `(read_only, super_read_only)`. Written down before that, so that an
    /// attempt that was killed is still undone by the next.
    #[serde(default)]
    pub source_before: Option<(bool, bool)>,
    /// What the source had executed when it was copied (GTIDs): the copy has it, under no GTIDs. Without it, positions are compared.
    #[serde(default)]
    pub copied: Option<String>,
    /// Databases that the source had when it was copied and that are not imported.
    #[serde(default)]
    pub others: Vec<String>,
    /// After the cut-over: what it has still to enable. None when it is done.
    #[serde(default)]
    pub events: Option<Vec<Event>>,
    /// When it was begun, in seconds of Unix time.
    pub begun: i64,
}

/// An event that ran at the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// `user@host`.
    pub definer: String,
}

impl State {
    /// Those of the source's databases that are neither imported nor were there when it was copied.
    pub fn made_since(&self, there: &[String]) -> Vec<String> {
        there.iter().filter(|d| !self.databases.contains(d) && !self.others.contains(d)).cloned().collect()
    }

    /// The one that the cluster remembers.
    pub async fn read(conn: &mut Conn) -> Result<Option<Self>, TransferError> {
        let there: Option<u8> = member(conn.query_first(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = 'trivet_cluster' AND table_name = 'import'",
        ))
        .await?;
        if there.is_none() {
            return Ok(None);
        }
        let text: Option<String> =
            member(conn.query_first("SELECT CAST(state AS CHAR) FROM trivet_cluster.import WHERE id = 1"))
                .await?;
        text.map(|text| {
            serde_json::from_str(&text).map_err(|e| {
                TransferError::refused(format!(
                    "trivet_cluster.import has what this version does not read ({e}); another version of trivet began the import"
                ))
            })
        })
        .transpose()
    }

    /// Remembers it.
    pub async fn write(&self, conn: &mut Conn) -> Result<(), TransferError> {
        for statement in TABLES {
            member(conn.query_drop(statement)).await?;
        }
        let text = serde_json::to_string(self).unwrap_or_default();
        member(conn.query_drop(format!("REPLACE INTO trivet_cluster.import VALUES (1, {})", literal(&text))))
            .await
    }

    /// Remembers how far the channel is, as long as it follows: another command may have gone on meanwhile.
    pub async fn note(conn: &mut Conn, position: &Position) -> Result<(), TransferError> {
        let text = serde_json::to_string(position).unwrap_or_default();
        member(conn.query_drop(format!(
            "UPDATE trivet_cluster.import SET state = JSON_SET(state, '$.position', CAST({} AS JSON)) \
             WHERE id = 1 AND state->>'$.phase' = 'following'",
            literal(&text)
        )))
        .await
    }

    /// Forgets whatever there was.
    pub async fn forget(conn: &mut Conn) -> Result<(), TransferError> {
        member(conn.query_drop("DELETE FROM trivet_cluster.import")).await
    }

    /// `host:port`, for people.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Now, in seconds of Unix time.
pub fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
