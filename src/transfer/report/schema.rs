//! Checks of what is in the databases.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use trivet_mysql::identifier;

use super::facts::{Facts, variable};
use super::{Choices, Findings, Severity};
use crate::error::{TransferError, member, source};
use crate::server::literals;

/// What belongs to no table here.
const ACCOUNTS_OF_ITS_OWN: &str = "'mysql.sys', 'mysql.session', 'mysql.infoschema', 'root'";

pub(super) async fn look(
    from: &mut Conn,
    to: &mut Conn,
    facts: &Facts,
    target: &Facts,
    choices: Choices,
    findings: &mut Findings,
) -> Result<(), TransferError> {
    let these = literals(&facts.databases);
    target_is_free(to, &these, findings).await?;
    same_names(to, &facts.others, findings).await?;
    primary_keys(from, facts, &these, choices, findings).await?;
    engines(from, &these, findings).await?;
    foreign_keys(from, &these, findings).await?;
    character_sets(from, to, &these, findings).await?;
    names(from, to, &these, findings).await?;
    programs(from, to, &these, findings).await?;
    accounts(from, target, findings).await
}

async fn target_is_free(to: &mut Conn, these: &str, findings: &mut Findings) -> Result<(), TransferError> {
    let taken: Vec<(String, u64)> = member(to.query(format!(
        "SELECT table_schema, COUNT(*) FROM information_schema.tables WHERE table_schema IN ({these}) GROUP BY table_schema"
    )))
    .await?;
    findings.each(
        Severity::Blocker,
        "target-not-empty",
        taken.into_iter().map(|(database, count)| format!("{database} ({count} tables)")).collect(),
        "the cluster has databases of these names, with tables in them:",
        "Name the databases to import in --from, or drop those of the cluster when nobody needs them.",
    );
    Ok(())
}

/// No filter of a channel holds for CREATE PROCEDURE, FUNCTION and EVENT: they name no table, and a filter of databases would go by the one that
/// the session uses.
async fn same_names(to: &mut Conn, others: &[String], findings: &mut Findings) -> Result<(), TransferError> {
    if others.is_empty() {
        return Ok(());
    }
    let both: Vec<String> = member(to.query(format!(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name IN ({}) ORDER BY 1",
        literals(others)
    )))
    .await?;
    findings.each(
        Severity::Blocker,
        "same-name",
        both,
        "both the source and the cluster have databases of these names, which are not imported. A routine or event that is made in one of them at the \
         source while the cluster follows would be made in the cluster's:",
        "Name them in --from, too, or drop or rename those of one side.",
    );
    Ok(())
}

/// Group Replication refuses rows of a table that has neither a primary key nor a unique one without NULLs (3098).
async fn primary_keys(
    from: &mut Conn,
    facts: &Facts,
    these: &str,
    choices: Choices,
    findings: &mut Findings,
) -> Result<(), TransferError> {
    let tables: Vec<(String, String)> = source(from.query(format!(
        "SELECT t.table_schema, t.table_name FROM information_schema.tables t \
         WHERE t.table_type = 'BASE TABLE' AND t.table_schema IN ({these}) AND NOT EXISTS \
         (SELECT 1 FROM information_schema.statistics s WHERE s.table_schema = t.table_schema AND s.table_name = t.table_name \
          AND s.non_unique = 0 AND s.index_name NOT IN \
          (SELECT n.index_name FROM information_schema.statistics n WHERE n.table_schema = t.table_schema AND n.table_name = t.table_name \
           AND (n.nullable = 'YES' OR n.column_name IS NULL OR n.sub_part IS NOT NULL))) \
         ORDER BY 1, 2"
    )))
    .await?;
    if choices.generate_keys {
        findings.each(
            Severity::Note,
            "primary-key",
            tables.iter().map(|(d, t)| format!("{d}.{t}")).collect(),
            "tables without a primary key get an invisible one in the cluster (my_row_id):",
            "Changes of their rows are looked for in the whole table: slow in a large one.",
        );
        return Ok(());
    }
    // INVISIBLE since 8.0.23.
    let invisible =
        if (facts.version.series, facts.version.patch) >= ((8, 0), 23) { " INVISIBLE" } else { "" };
    let statements = tables
        .iter()
        .map(|(database, table)| {
            format!(
                "ALTER TABLE {}.{} ADD COLUMN my_row_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT{invisible} PRIMARY KEY FIRST;",
                identifier(database),
                identifier(table)
            )
        })
        .collect();
    findings.each(
        Severity::Blocker,
        "primary-key",
        statements,
        "tables have no primary key (a group refuses their rows, error 3098):",
        "Give each a key of its own, or run these statements at the source; or let --generate-keys give them one in the cluster alone.",
    );
    Ok(())
}

async fn engines(from: &mut Conn, these: &str, findings: &mut Findings) -> Result<(), TransferError> {
    let tables: Vec<(String, String, Option<String>)> = source(from.query(format!(
        "SELECT table_schema, table_name, engine FROM information_schema.tables \
         WHERE table_type = 'BASE TABLE' AND table_schema IN ({these}) AND (engine IS NULL OR engine <> 'InnoDB') ORDER BY 1, 2"
    )))
    .await?;
    let (broken, other): (Vec<_>, Vec<_>) = tables.into_iter().partition(|(_, _, engine)| engine.is_none());
    findings.each(
        Severity::Blocker,
        "broken-table",
        broken.into_iter().map(|(d, t, _)| format!("{d}.{t}")).collect(),
        "tables cannot be opened at the source:",
        "CHECK TABLE says why; repair or drop them.",
    );
    findings.each(
        Severity::Blocker,
        "engine",
        other
            .into_iter()
            .map(|(d, t, engine)| {
                let engine = engine.unwrap_or_default();
                format!("ALTER TABLE {}.{} ENGINE = InnoDB; -- is {engine}", identifier(&d), identifier(&t))
            })
            .collect(),
        "tables have another engine than InnoDB, which a group refuses:",
        "Run these statements at the source; each copies its table.",
    );
    Ok(())
}

/// Database, table, and the name of a key or an index.
type Name = (String, String, String);

/// One column of an index: its name, and what it is; none for an expression. The last is how much of it is in the index when it is a part.
type IndexColumn = (String, String, String, Option<String>, Option<u64>);

/// Database, table and columns that a foreign key refers to.
type Referred = (String, String, Vec<String>);

/// A foreign key must refer to exactly the columns of a unique key (`restrict_fk_on_non_standard_key` of 8.4, error 6125).
async fn foreign_keys(from: &mut Conn, these: &str, findings: &mut Findings) -> Result<(), TransferError> {
    type Column = (String, String, String, String, String, String);
    let columns: Vec<Column> = source(from.query(format!(
        "SELECT constraint_schema, table_name, constraint_name, referenced_table_schema, referenced_table_name, referenced_column_name \
         FROM information_schema.key_column_usage WHERE constraint_schema IN ({these}) AND referenced_table_name IS NOT NULL \
         ORDER BY constraint_schema, table_name, constraint_name, position_in_unique_constraint"
    )))
    .await?;
    if columns.is_empty() {
        return Ok(());
    }
    let unique: Vec<IndexColumn> = source(from.query(format!(
        "SELECT table_schema, table_name, index_name, column_name, sub_part FROM information_schema.statistics \
         WHERE non_unique = 0 AND table_schema IN ({these}) ORDER BY table_schema, table_name, index_name, seq_in_index"
    )))
    .await?;
    let mut keys: BTreeMap<Name, Vec<String>> = BTreeMap::new();
    for (database, table, index, column, part) in unique {
        // A part of a column is no whole column.
        let column = column.filter(|_| part.is_none()).unwrap_or_default();
        keys.entry((database, table, index)).or_default().push(column.to_lowercase());
    }
    let mut refers: BTreeMap<Name, Referred> = BTreeMap::new();
    for (database, table, name, other_database, other, column) in columns {
        let entry =
            refers.entry((database, table, name)).or_insert_with(|| (other_database, other, Vec::new()));
        entry.2.push(column.to_lowercase());
    }
    let mut outside = Vec::new();
    let mut odd = Vec::new();
    let chosen = these;
    for ((database, table, name), (other_database, other, columns)) in refers {
        let label =
            format!("{database}.{table}: {name}, to {other_database}.{other} ({})", columns.join(", "));
        if !chosen.split(", ").any(|d| d == crate::server::literal(&other_database)) {
            outside.push(label);
        } else if !keys
            .iter()
            .any(|((d, t, _), key)| *d == other_database && *t == other && sorted(key) == sorted(&columns))
        {
            odd.push(label);
        }
    }
    findings.each(
        Severity::Blocker,
        "foreign-key",
        odd,
        "foreign keys refer to columns that are no unique key, or only a part of one (error 6125 in the cluster):",
        "Add a unique key over exactly these columns at the source, or drop the foreign key.",
    );
    findings.each(
        Severity::Blocker,
        "foreign-key-outside",
        outside,
        "foreign keys refer to tables of databases that are not imported:",
        "Name those databases in --from, too, or drop the foreign keys.",
    );
    Ok(())
}

fn sorted(columns: &[String]) -> Vec<&String> {
    let mut columns: Vec<_> = columns.iter().collect();
    columns.sort();
    columns
}

async fn character_sets(
    from: &mut Conn,
    to: &mut Conn,
    these: &str,
    findings: &mut Findings,
) -> Result<(), TransferError> {
    let used: Vec<(String, String)> = source(from.query(format!(
        "SELECT table_schema, table_collation FROM information_schema.tables WHERE table_schema IN ({these}) AND table_collation IS NOT NULL \
         UNION SELECT table_schema, collation_name FROM information_schema.columns WHERE table_schema IN ({these}) AND collation_name IS NOT NULL \
         UNION SELECT schema_name, default_collation_name FROM information_schema.schemata WHERE schema_name IN ({these}) ORDER BY 1, 2"
    )))
    .await?;
    let known: BTreeSet<String> =
        member(to.query("SELECT collation_name FROM information_schema.collations"))
            .await?
            .into_iter()
            .collect();
    // utf8_general_ci was named utf8mb3_general_ci in 8.0.28; a server reads either.
    let now = |name: &str| {
        name.strip_prefix("utf8_").map_or_else(|| name.to_owned(), |rest| format!("utf8mb3_{rest}"))
    };
    let unknown: BTreeSet<String> =
        used.iter().map(|(_, c)| c).filter(|c| !known.contains(&now(c))).cloned().collect();
    findings.each(
        Severity::Blocker,
        "collation",
        unknown.into_iter().collect(),
        "collations are used that the cluster does not know:",
        "Convert these tables to another (ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4) at the source.",
    );
    let old: BTreeSet<&String> =
        used.iter().filter(|(_, c)| now(c).starts_with("utf8mb3_")).map(|(database, _)| database).collect();
    findings.each(
        Severity::Warning,
        "utf8mb3",
        old.into_iter().cloned().collect(),
        "databases use utf8mb3, which cannot hold every character and will be taken out of MySQL:",
        "It is imported as it is. Convert it when there is time.",
    );
    Ok(())
}

async fn names(
    from: &mut Conn,
    to: &mut Conn,
    these: &str,
    findings: &mut Findings,
) -> Result<(), TransferError> {
    let variable_of = "lower_case_table_names";
    let theirs = source(variable(from, variable_of)).await?.unwrap_or_default();
    let ours = member(variable(to, variable_of)).await?.unwrap_or_default();
    if theirs == ours {
        return Ok(());
    }
    let upper: Vec<String> = source(from.query(format!(
        "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE table_schema IN ({these}) \
         AND CAST(CONCAT(table_schema, table_name) AS BINARY) <> CAST(LOWER(CONCAT(table_schema, table_name)) AS BINARY) ORDER BY 1"
    )))
    .await?;
    findings.add(
        if upper.is_empty() { Severity::Warning } else { Severity::Blocker },
        "lower-case-table-names",
        upper,
        format!("lower_case_table_names is {theirs} at the source and {ours} in the cluster: names are found there in another way"),
        "It is fixed when a data directory is made. Let the application, views and routines write every name as it was created; tables with capital letters in their names have to be renamed first.",
    );
    Ok(())
}

/// Triggers, routines, events, views, and the accounts that they are defined by.
async fn programs(
    from: &mut Conn,
    to: &mut Conn,
    these: &str,
    findings: &mut Findings,
) -> Result<(), TransferError> {
    let mut definers: BTreeMap<String, u64> = BTreeMap::new();
    let mut counts = Vec::new();
    let mut events = Vec::new();
    for (kind, table, schema) in [
        ("triggers", "triggers", "trigger_schema"),
        ("routines", "routines", "routine_schema"),
        ("events", "events", "event_schema"),
        ("views", "views", "table_schema"),
    ] {
        let rows: Vec<String> = source(
            from.query(format!("SELECT definer FROM information_schema.{table} WHERE {schema} IN ({these})")),
        )
        .await?;
        if !rows.is_empty() {
            counts.push(format!("{} {kind}", rows.len()));
        }
        for definer in rows {
            *definers.entry(definer).or_default() += 1;
        }
        if kind == "events" {
            events = source(from.query(format!(
                "SELECT CONCAT(event_schema, '.', event_name) FROM information_schema.events \
                 WHERE event_schema IN ({these}) AND status = 'ENABLED' ORDER BY 1"
            )))
            .await?;
        }
    }
    if !counts.is_empty() {
        findings.add(
            Severity::Note,
            "programs",
            Vec::new(),
            format!(
                "{} are copied as they are; triggers do not fire for rows that come from the source",
                counts.join(", ")
            ),
            "",
        );
    }
    findings.each(
        Severity::Note,
        "events",
        events,
        "events run at the source. In the cluster they are disabled until the cut-over, which enables them:",
        "",
    );
    let accounts: BTreeSet<String> =
        member(to.query("SELECT CONCAT(user, '@', host) FROM mysql.user")).await?.into_iter().collect();
    findings.each(
        Severity::Warning,
        "definer",
        definers
            .into_iter()
            .filter(|(definer, _)| !accounts.contains(definer))
            .map(|(definer, count)| format!("{definer} ({count} objects)"))
            .collect(),
        "accounts that triggers, routines, events or views are defined by do not exist in the cluster; what they define fails when it is used (error 1449):",
        "Make these accounts on the primary before the cut-over (CREATE USER … ACCOUNT LOCK will do) and grant them what their programs need.",
    );
    Ok(())
}

async fn accounts(from: &mut Conn, target: &Facts, findings: &mut Findings) -> Result<(), TransferError> {
    // Needs rights on mysql.*, which the account need not have.
    let rows: Result<Vec<(String, String)>, _> = from
        .query(format!(
            "SELECT CONCAT(user, '@', host), plugin FROM mysql.user WHERE user NOT IN ({ACCOUNTS_OF_ITS_OWN}) ORDER BY 1"
        ))
        .await;
    let Ok(rows) = rows else {
        findings.add(Severity::Note, "accounts", Vec::new(), "accounts and their rights are not copied", "");
        return Ok(());
    };
    // MySQL 9.0 has it no more.
    let gone = target.version.series >= (9, 0);
    let native: Vec<String> = rows
        .iter()
        .filter(|(_, plugin)| plugin == "mysql_native_password")
        .map(|(name, _)| name.clone())
        .collect();
    findings.each(
        Severity::Note,
        "accounts",
        rows.into_iter().map(|(name, _)| name).collect(),
        "accounts and their rights are not copied; make on the primary those that are still needed (SHOW CREATE USER and SHOW GRANTS at the source show them):",
        "",
    );
    if gone {
        findings.each(
            Severity::Warning,
            "native-password",
            native,
            "accounts use mysql_native_password, which the cluster's MySQL has no more:",
            "They need a new password with caching_sha2_password, and clients that know it.",
        );
    }
    Ok(())
}
