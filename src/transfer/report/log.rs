//! Checks of the source's binary log: whether everything is in it, and in which form.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::facts::variable;
use super::{Findings, Severity};
use crate::channel::text;
use crate::error::{NO_RIGHT, TransferError, member, source};
use crate::goal::NO_SUCH_STATEMENT;

/// Four steps, each of which leaves the server running (MySQL manual, "Enabling GTID Transactions Online").
const GTID_STEPS: &str = "Turn them on, which needs no restart: SET GLOBAL enforce_gtid_consistency = WARN; when the error log stays quiet, \
     SET GLOBAL enforce_gtid_consistency = ON; SET GLOBAL gtid_mode = OFF_PERMISSIVE; SET GLOBAL gtid_mode = ON_PERMISSIVE; wait until \
     SHOW STATUS LIKE 'Ongoing_anonymous_transaction_count' is 0 on it and its replicas have all; SET GLOBAL gtid_mode = ON. Write the last of both into its \
     my.cnf, too.";

pub(super) async fn look(
    from: &mut Conn,
    to: &mut Conn,
    databases: &[String],
    findings: &mut Findings,
) -> Result<(), TransferError> {
    let value = |v: Option<String>| v.unwrap_or_default();
    let log = value(source(variable(from, "log_bin")).await?);
    if log != "ON" {
        findings.add(
            Severity::Blocker,
            "log-bin",
            Vec::new(),
            "the source writes no binary log, which is what the cluster follows",
            "Write log_bin = binlog and a server_id into its my.cnf and restart it; or export it and load the dump while the application is stopped.",
        );
        return Ok(());
    }
    // A server that knows no other format any more does not know the variable either.
    let format = source(variable(from, "binlog_format")).await?;
    if let Some(format) = format.filter(|f| f != "ROW") {
        findings.add(
            Severity::Blocker,
            "binlog-format",
            Vec::new(),
            format!("the source's binlog_format is {format}; a group needs rows"),
            "SET GLOBAL binlog_format = ROW, in its my.cnf too; sessions that are open keep the old format until they are ended.",
        );
    }
    let mode = value(source(variable(from, "gtid_mode")).await?);
    if mode != "ON" {
        findings.add(
            Severity::Blocker,
            "gtid-mode",
            Vec::new(),
            format!(
                "the source's gtid_mode is {mode}. A channel without GTIDs would start in a group, but after a change of the primary nobody could tell \
                 where it has to go on"
            ),
            GTID_STEPS,
        );
    }
    let image = value(source(variable(from, "binlog_row_image")).await?);
    if image != "FULL" {
        findings.add(
            Severity::Warning,
            "row-image",
            Vec::new(),
            format!("the source's binlog_row_image is {image}"),
            "Rows are found by their keys alone then. FULL lets the cluster notice a row that is not as it was.",
        );
    }
    let (id, own) =
        (value(source(variable(from, "server_id")).await?), value(member(variable(to, "server_id")).await?));
    if id == own || id == "0" {
        findings.add(
            Severity::Blocker,
            "server-id",
            Vec::new(),
            format!(
                "the source's server_id is {id}, and this member's {own}: they must differ, and none may be 0"
            ),
            "SET GLOBAL server_id = … at the source, in its my.cnf too.",
        );
    }
    let limit: u64 =
        value(member(variable(to, "group_replication_transaction_size_limit")).await?).parse().unwrap_or(0);
    if limit > 0 {
        findings.add(
            Severity::Note,
            "transaction-size",
            Vec::new(),
            format!("a transaction of the source that is larger than {} stops the channel", bytesize::ByteSize(limit)),
            "Divide large UPDATE and DELETE statements while the cluster follows, or raise group_replication_transaction_size_limit on all members.",
        );
    }
    filters(from, databases, findings).await?;
    replica(from, findings).await
}

/// Which databases are not written to the binary log (MySQL manual, "Replication and Binary Logging Options"): rows go by the database of
/// their table, statements of DDL by the one that the session uses.
async fn filters(
    from: &mut Conn,
    databases: &[String],
    findings: &mut Findings,
) -> Result<(), TransferError> {
    let row: Option<Row> = status(from, "SHOW BINARY LOG STATUS", "SHOW MASTER STATUS").await?.pop();
    let list = |column: &str| -> Vec<String> {
        let names = row.as_ref().map(|row| text(row, column)).unwrap_or_default();
        names.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned).collect()
    };
    let (only, never) = (list("Binlog_Do_DB"), list("Binlog_Ignore_DB"));
    if only.is_empty() && never.is_empty() {
        return Ok(());
    }
    let unwritten: Vec<String> =
        databases.iter().filter(|d| !is_written(d, &only, &never)).cloned().collect();
    findings.each(
        Severity::Blocker,
        "binlog-filter",
        unwritten,
        "databases are not written to the source's binary log (binlog_do_db, binlog_ignore_db), which is what the cluster follows:",
        "Take these options out of its my.cnf and restart it, or leave these databases out of --from.",
    );
    findings.add(
        Severity::Warning,
        "binlog-filter",
        Vec::new(),
        format!(
            "the source writes some databases only to its binary log (binlog_do_db: {}; binlog_ignore_db: {}): a CREATE, ALTER or DROP of an imported table is not \
             written when the session uses a database that is left out",
            only.join(", "),
            never.join(", ")
        ),
        "Take these options out of its my.cnf and restart it, or let nobody change tables of one database while another is used.",
    );
    Ok(())
}

/// `binlog_do_db` alone counts when there is one.
fn is_written(database: &str, only: &[String], never: &[String]) -> bool {
    if only.is_empty() { !never.iter().any(|d| d == database) } else { only.iter().any(|d| d == database) }
}

/// A server that the source follows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// The channel's name, empty for the default one.
    pub channel: String,
    /// `host:port`.
    pub place: String,
    /// Whether it applies, or tries to.
    pub runs: bool,
    /// Its filters, `Replicate_Do_DB: a`.
    pub filters: Vec<String>,
}

impl Upstream {
    /// For people.
    pub fn told(&self) -> String {
        let channel =
            if self.channel.is_empty() { String::new() } else { format!(", channel {}", self.channel) };
        let filters = if self.filters.is_empty() {
            String::new()
        } else {
            format!(", filters {}", self.filters.join("; "))
        };
        format!("{}{channel}{}{filters}", self.place, if self.runs { "" } else { ", stopped" })
    }
}

/// Whom the source follows; channels of a group are no servers.
pub(crate) async fn upstreams(from: &mut Conn) -> Result<Vec<Upstream>, TransferError> {
    let rows = status(from, "SHOW REPLICA STATUS", "SHOW SLAVE STATUS").await?;
    Ok(rows.iter().map(upstream).filter(|u| !u.channel.starts_with("group_replication_")).collect())
}

fn upstream(row: &Row) -> Upstream {
    let either = |new: &str, old: &str| {
        let value = text(row, new);
        if value.is_empty() { text(row, old) } else { value }
    };
    let filters = ["Do_DB", "Ignore_DB", "Do_Table", "Ignore_Table", "Wild_Do_Table", "Wild_Ignore_Table"]
        .map(|kind| format!("Replicate_{kind}"));
    let receives = either("Replica_IO_Running", "Slave_IO_Running");
    let applies = either("Replica_SQL_Running", "Slave_SQL_Running");
    Upstream {
        channel: text(row, "Channel_Name"),
        place: format!("{}:{}", either("Source_Host", "Master_Host"), either("Source_Port", "Master_Port")),
        runs: (receives != "No" && !receives.is_empty()) || applies == "Yes",
        filters: filters
            .iter()
            .map(|column| (column, text(row, column)))
            .filter(|(_, value)| !value.is_empty())
            .map(|(column, value)| format!("{column} {value}"))
            .collect(),
    }
}

/// What a server that follows another has in its own binary log.
async fn replica(from: &mut Conn, findings: &mut Findings) -> Result<(), TransferError> {
    let upstreams = upstreams(from).await?;
    if upstreams.is_empty() {
        return Ok(());
    }
    let objects: Vec<String> = upstreams.iter().map(Upstream::told).collect();
    // Its name since 8.0.26, and the one before.
    let written = match source(variable(from, "log_replica_updates")).await? {
        Some(value) => Some(value),
        None => source(variable(from, "log_slave_updates")).await?,
    };
    if written.as_deref() != Some("ON") {
        findings.add(
            Severity::Blocker,
            "log-replica-updates",
            objects.clone(),
            "the source is itself a replica, and what it gets from its own source is not in its binary log (log_replica_updates is OFF):",
            "Write log_replica_updates = ON into its my.cnf and restart it, or import from its own source.",
        );
    }
    findings.add(
        Severity::Warning,
        "replica",
        objects,
        "the source is itself a replica, and super_read_only does not keep it from applying what its own source has; what its filters leave out is not imported:",
        "Import from its own source. Or stop the application, let this one catch up and STOP REPLICA there before the cut-over, which refuses until then.",
    );
    Ok(())
}

/// A statement by its name of now, and by the one before.
async fn status(from: &mut Conn, now: &str, before: &str) -> Result<Vec<Row>, TransferError> {
    match from.query(now).await {
        Err(mysql_async::Error::Server(e)) if e.code == NO_SUCH_STATEMENT => source(from.query(before)).await,
        // That the right is missing is a finding of its own.
        Err(mysql_async::Error::Server(e)) if e.code == NO_RIGHT => Ok(Vec::new()),
        other => source(std::future::ready(other)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_that_the_log_leaves_out_are_known() {
        let names = |n: &[&str]| n.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>();
        let (none, shop, blog) = (names(&[]), names(&["shop"]), names(&["blog"]));
        assert!(is_written("shop", &none, &none) && is_written("shop", &shop, &none));
        assert!(!is_written("shop", &blog, &none) && !is_written("shop", &none, &shop));
        assert!(is_written("shop", &shop, &shop), "binlog_do_db alone counts when there is one");
    }

    #[test]
    fn a_server_that_is_followed_is_told_with_its_filters() {
        let upstream = Upstream {
            channel: String::new(),
            place: "db0:3306".into(),
            runs: false,
            filters: vec!["Replicate_Do_DB shop".into()],
        };
        assert_eq!(upstream.told(), "db0:3306, stopped, filters Replicate_Do_DB shop");
    }
}
