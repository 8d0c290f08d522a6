//! Whether both servers have the same rows, while nobody writes.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use trivet_mysql::identifier;
use trivet_mysql::progress::Watcher;

use crate::cli::Compare;
use crate::error::{TransferError, member, source};
use crate::server::literals;

/// Compares every table of the databases; what differs, in words. Columns that one side alone has (a generated key) are in no checksum of the
/// other: such tables are counted.
pub async fn compare(
    from: &mut Conn,
    to: &mut Conn,
    databases: &[String],
    how: Compare,
    generated_keys: bool,
    watcher: &Watcher,
) -> Result<Vec<String>, TransferError> {
    if how == Compare::None {
        return Ok(Vec::new());
    }
    let query = format!(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' \
         AND table_schema IN ({}) ORDER BY 1, 2",
        literals(databases)
    );
    let theirs: Vec<(String, String)> = source(from.query(&query)).await?;
    let ours: Vec<(String, String)> = member(to.query(&query)).await?;
    let mut differ = Vec::new();
    for (database, table) in theirs.iter().filter(|t| !ours.contains(t)) {
        differ.push(format!("{database}.{table} is missing in the cluster"));
    }
    for (database, table) in ours.iter().filter(|t| !theirs.contains(t)) {
        differ.push(format!("{database}.{table} is missing at the source"));
    }
    watcher.begin("comparing tables", theirs.len() as u64, false);
    for (database, table) in theirs.iter().filter(|t| ours.contains(t)) {
        let name = format!("{}.{}", identifier(database), identifier(table));
        let count =
            how == Compare::Count || (generated_keys && has_generated_key(to, database, table).await?);
        let (a, b) = if count {
            let query = format!("SELECT COUNT(*) FROM {name}");
            let (a, b): (Result<Option<u64>, _>, Result<Option<u64>, _>) =
                tokio::join!(source(from.query_first(&query)), member(to.query_first(&query)));
            (a?, b?)
        } else {
            let query = format!("CHECKSUM TABLE {name}");
            let (a, b): (Result<Option<Sum>, _>, Result<Option<Sum>, _>) =
                tokio::join!(source(from.query_first(&query)), member(to.query_first(&query)));
            (a?.and_then(|(_, sum)| sum), b?.and_then(|(_, sum)| sum))
        };
        if a != b || a.is_none() {
            let shown = |n: Option<u64>| n.map_or_else(|| "nothing".into(), |n| n.to_string());
            let what = if count { "rows" } else { "checksum" };
            differ.push(format!(
                "{database}.{table}: {what} {} at the source, {} in the cluster",
                shown(a),
                shown(b)
            ));
        }
        watcher.add(1);
    }
    Ok(differ)
}

/// `CHECKSUM TABLE`: the table's name, and the sum.
type Sum = (String, Option<u64>);

async fn has_generated_key(to: &mut Conn, database: &str, table: &str) -> Result<bool, TransferError> {
    let there: Option<u8> = member(to.query_first(format!(
        "SELECT 1 FROM information_schema.columns WHERE table_schema = {} AND table_name = {} AND column_name = 'my_row_id' \
         AND extra LIKE '%INVISIBLE%'",
        crate::server::literal(database),
        crate::server::literal(table)
    )))
    .await?;
    Ok(there.is_some())
}
