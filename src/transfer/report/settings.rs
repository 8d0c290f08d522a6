//! Checks of the two servers' settings, and of the account's rights.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::facts::{Facts, variable};
use super::rights::Rights;
use super::{Findings, Severity, log};
use crate::error::{TransferError, member, source};
use crate::server::Remote;

/// What the account at the source needs on `*.*`, and what for.
const RIGHTS: [(&str, &str); 7] = [
    ("SELECT", "to copy"),
    ("RELOAD", "for the instant of FLUSH TABLES WITH READ LOCK in which the snapshot is taken"),
    ("REPLICATION SLAVE", "to follow"),
    ("REPLICATION CLIENT", "to know the position"),
    ("SHOW VIEW", "to copy views"),
    ("TRIGGER", "to copy triggers, which nobody sees without it"),
    ("EVENT", "to copy events"),
];

pub(super) async fn look(
    remote: &Remote,
    from: &mut Conn,
    to: &mut Conn,
    facts: &Facts,
    target: &Facts,
    findings: &mut Findings,
) -> Result<(), TransferError> {
    versions(facts, target, findings);
    log::look(from, to, &facts.databases, findings).await?;
    modes(from, to, findings).await?;
    rights(from, &facts.databases, findings).await?;
    if facts.uuid == target.uuid {
        findings.add(
            Severity::Blocker,
            "server-uuid",
            Vec::new(),
            "the source has this member's own server_uuid",
            "It is this member itself, or a copy of its disk: in that case remove auto.cnf from the source's data directory and restart it.",
        );
    }
    findings.each(
        Severity::Blocker,
        "missing-database",
        facts.missing.clone(),
        "databases that --from names are not at the source, or its account may not see them:",
        "",
    );
    if facts.missing.is_empty() && facts.databases.is_empty() {
        findings.add(
            Severity::Blocker,
            "no-database",
            Vec::new(),
            "there is no database to import, or the account may see none",
            "",
        );
    }
    if remote.plain {
        findings.add(
            Severity::Warning,
            "tls",
            Vec::new(),
            "the source is asked without TLS: what is copied may be seen and changed on the way",
            "",
        );
    } else if remote.ca.is_none() {
        findings.add(
            Severity::Warning,
            "tls",
            Vec::new(),
            "TLS is used, and the source's certificate is not verified",
            "--source-ca names the CA that it must come from (ca.pem in the source's data directory, when mysqld made it itself).",
        );
    }
    Ok(())
}

fn versions(facts: &Facts, target: &Facts, findings: &mut Findings) {
    let (source, cluster) = (&facts.version, &target.version);
    if source.series > cluster.series {
        findings.add(
            Severity::Blocker,
            "version",
            Vec::new(),
            format!("the source is newer ({}) than the cluster ({}); MySQL replicates to the same or a newer series", source.text, cluster.text),
            "Upgrade the cluster first, or export and load a dump.",
        );
    } else if source.series == (5, 7) {
        findings.add(
            Severity::Warning,
            "version",
            Vec::new(),
            format!("MySQL supports following a server of the series before ({} follows {})", cluster.text, source.text),
            "It works for row events as far as the formats of both go; try it with a copy of the source, or go by way of 8.0. There is no way back from the cluster to this source.",
        );
    } else if source.series < cluster.series {
        findings.add(
            Severity::Note,
            "version",
            Vec::new(),
            format!("the source ({}) is older than the cluster ({}): it cannot follow the cluster after the cut-over (--back)", source.text, cluster.text),
            "The way back is then a dump: trivet database export.",
        );
    }
}

async fn modes(from: &mut Conn, to: &mut Conn, findings: &mut Findings) -> Result<(), TransferError> {
    let theirs = source(variable(from, "sql_mode")).await?.unwrap_or_default();
    let ours = member(variable(to, "sql_mode")).await?.unwrap_or_default();
    let differ = |a: &str, b: &str| -> Vec<String> {
        a.split(',').filter(|m| !m.is_empty() && !b.split(',').any(|o| o == *m)).map(str::to_owned).collect()
    };
    let (only_theirs, only_ours) = (differ(&theirs, &ours), differ(&ours, &theirs));
    if !only_theirs.is_empty() || !only_ours.is_empty() {
        let list = |modes: &[String]| if modes.is_empty() { "nothing".into() } else { modes.join(", ") };
        findings.add(
            Severity::Warning,
            "sql-mode",
            Vec::new(),
            format!(
                "sql_mode differs: the source alone has {}, the cluster alone {}",
                list(&only_theirs),
                list(&only_ours)
            ),
            "The application's statements meet the cluster's mode after the cut-over; let the application set its own, or set it in services.trivet.database.settings.",
        );
    }
    let zone = "SELECT CONCAT(@@global.time_zone, ' / ', @@global.system_time_zone)";
    let theirs: Option<String> = source(from.query_first(zone)).await?;
    let ours: Option<String> = member(to.query_first(zone)).await?;
    if theirs != ours {
        findings.add(
            Severity::Warning,
            "time-zone",
            Vec::new(),
            format!(
                "time_zone / system_time_zone differ: {} at the source, {} in the cluster. TIMESTAMP columns keep their moments; NOW(), and what sessions \
                 read without a zone of their own, differ",
                theirs.unwrap_or_default(),
                ours.unwrap_or_default()
            ),
            "Let the application set time_zone in its sessions.",
        );
    }
    let names = "SELECT COUNT(*) FROM mysql.time_zone_name";
    // The account at the source need not read mysql.*.
    let theirs: Option<u64> = from.query_first(names).await.unwrap_or(None);
    let ours: Option<u64> = member(to.query_first(names)).await?;
    if theirs.unwrap_or(0) > 0 && ours == Some(0) {
        findings.add(
            Severity::Warning,
            "time-zone-names",
            Vec::new(),
            "the source knows time zones by name ('Europe/Berlin'), the cluster does not: a statement that names one stops the channel, and CONVERT_TZ gives NULL",
            "On the primary: mysql_tzinfo_to_sql /usr/share/zoneinfo | mysql mysql",
        );
    }
    Ok(())
}

async fn rights(from: &mut Conn, databases: &[String], findings: &mut Findings) -> Result<(), TransferError> {
    let rights = source(Rights::of(from)).await?;
    let roles: Option<String> = from.query_first("SELECT CURRENT_ROLE()").await.unwrap_or(None);
    let has = |right: &str| rights.globally(right) && databases.iter().all(|d| rights.within(d, right));
    let missing: Vec<String> = RIGHTS
        .iter()
        .filter(|(right, _)| !has(right))
        .map(|(right, what_for)| format!("{right}, {what_for}"))
        .collect();
    let by_role = roles.is_some_and(|r| r != "NONE");
    findings.each(
        if by_role { Severity::Warning } else { Severity::Blocker },
        "rights",
        missing,
        "the account at the source lacks rights:",
        "GRANT SELECT, RELOAD, REPLICATION SLAVE, REPLICATION CLIENT, SHOW VIEW, TRIGGER, EVENT, PROCESS, LOCK TABLES ON *.* TO it",
    );
    Ok(())
}
