//! What the source had at a moment, and whether the cluster has all of it.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::channel::Status;
use crate::error::{TransferError, member, source};
use crate::filter::Position;
use crate::server::literal;
use crate::state::State;

/// `ER_PARSE_ERROR`.
pub const NO_SUCH_STATEMENT: u16 = 1064;

/// What the source had executed at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// Where its binary log ended.
    pub position: Position,
    /// `@@gtid_executed`; none when it has no GTIDs.
    pub gtids: Option<String>,
}

impl Goal {
    /// What the source has now.
    pub async fn of(from: &mut Conn) -> Result<Self, TransferError> {
        // Its name since 8.2, and the one before.
        let row: Option<Row> = match from.query_first("SHOW BINARY LOG STATUS").await {
            Err(mysql_async::Error::Server(e)) if e.code == NO_SUCH_STATEMENT => {
                source(from.query_first("SHOW MASTER STATUS")).await?
            }
            other => source(std::future::ready(other)).await?,
        };
        let position = row
            .and_then(|row| Some(Position { file: row.get(0)?, offset: row.get(1)? }))
            .ok_or_else(|| {
                TransferError::refused("the source does not say where its binary log ends: it writes none")
            })?;
        let gtids: Option<(String, String)> =
            source(from.query_first("SELECT @@global.gtid_mode, @@global.gtid_executed")).await?;
        Ok(Self { position, gtids: gtids.filter(|(mode, _)| mode == "ON").map(|(_, set)| one_line(&set)) })
    }

    /// Whether the cluster has all of it: by GTIDs, which mean the same in every log. Without them by the position, as long as the channel reads
    /// the log that it is a position of.
    pub async fn is_reached(
        &self,
        state: &State,
        status: &Status,
        to: &mut Conn,
    ) -> Result<bool, TransferError> {
        match (&self.gtids, &state.copied) {
            (Some(gtids), Some(_)) => has(to, state, gtids).await,
            _ => Ok(is_applied(&self.position, &state.uuid, status)),
        }
    }
}

/// Whether the cluster has these transactions of the source: executed, or in the copy.
pub async fn has(to: &mut Conn, state: &State, gtids: &str) -> Result<bool, TransferError> {
    let copied = state.copied.as_deref().unwrap_or_default();
    let all: Option<u8> = member(to.query_first(format!(
        "SELECT GTID_SUBSET({}, CONCAT(@@global.gtid_executed, ',', {}))",
        literal(gtids),
        literal(copied)
    )))
    .await?;
    Ok(all == Some(1))
}

fn is_applied(goal: &Position, uuid: &str, status: &Status) -> bool {
    // Empty until it has connected for the first time.
    (status.source_uuid.is_empty() || status.source_uuid == uuid) && status.applied.reaches(goal)
}

/// MySQL writes a set of GTIDs with a line for each server.
pub fn one_line(set: &str) -> String {
    set.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_in_the_log_of_its_own_server_alone() {
        let at = |file: &str, offset| Position { file: file.into(), offset };
        let status = |source: &str, applied| Status {
            source_uuid: source.into(),
            receives: true,
            applies: true,
            received: at("", 0),
            applied,
            behind_seconds: None,
            trouble: String::new(),
        };
        let goal = at("binlog.000009", 100);
        assert!(is_applied(&goal, "a", &status("a", at("binlog.000010", 4))));
        assert!(!is_applied(&goal, "a", &status("b", at("binlog.000010", 4))));
        assert!(!is_applied(&goal, "a", &status("a", at("mysql-bin.000010", 4))));
        assert!(!is_applied(&goal, "a", &status("a", at("binlog.000009", 99))));
    }

    #[test]
    fn sets_of_gtids_are_one_line() {
        assert_eq!(one_line("a:1-3,\nb:7"), "a:1-3,b:7");
    }
}
