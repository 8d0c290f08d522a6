//! Looking at the local mysqld: a few short queries on a connection of its own, all under one deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::config::Config;
use super::report::{CloneStatus, MemberState, Observation, Role, ViewMember};
use super::sql::{Sql, SqlError, within};
use trivet_keeper_api::gtid::GtidSet;

/// How long what hardly changes (versions, plugins, schemas) is taken for true.
const STATICS_LIFE: Duration = Duration::from_secs(5);

/// Looks, again and again, over one connection.
pub struct Observer {
    config: Arc<Config>,
    sql: Option<Sql>,
    statics: Option<(Instant, Statics)>,
    lag: Option<(Instant, f64)>,
}

/// How long a lag that was known counts as known although a look finds the applier between two transactions. It grows by the
/// time that has passed, as it does when nothing is applied at all.
const LAG_LIFE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
struct Statics {
    server_uuid: String,
    server_version: String,
    group_name: Option<String>,
    start_on_boot: bool,
    clone_plugin: bool,
    user_schemas: Vec<String>,
}

impl Observer {
    /// An observer that has not connected yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, sql: None, statics: None, lag: None }
    }

    /// One look, within `timing.observe_timeout`.
    pub async fn look(&mut self) -> Result<Observation, SqlError> {
        let deadline = self.config.timing.observe_timeout;
        // The connection is taken out and put back only after a clean answer: a late one must never be read as the
        // answer to the next question.
        let sql = self.sql.take();
        let statics = self.statics.take().filter(|(at, _)| sql.is_some() && at.elapsed() < STATICS_LIFE);
        let config = self.config.clone();
        let (sql, statics, mut observation) =
            match tokio::time::timeout(deadline, look(&config, sql, statics, deadline)).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(SqlError::Timeout(deadline)),
            };
        self.sql = Some(sql);
        self.statics = Some(statics);
        match observation.lag_seconds {
            Some(lag) => self.lag = Some((Instant::now(), lag)),
            None => observation.lag_seconds = still_known(self.lag, observation.member_state),
        }
        Ok(observation)
    }
}

impl Observer {
    /// The app's connections over the network, which are those of the gateways.
    pub async fn sessions(&mut self) -> Result<u64, SqlError> {
        let deadline = self.config.timing.observe_timeout;
        let mut sql = match self.sql.take() {
            Some(sql) => sql,
            None => Sql::connect(&self.config.mysql, deadline).await?,
        };
        let query = "SELECT COUNT(*) FROM performance_schema.processlist WHERE user = ? AND host LIKE '%:%'";
        let counted = sqlx::query_scalar::<_, i64>(query).bind(&self.config.mysql.app_user);
        let count = within(deadline, counted.fetch_one(sql.inner())).await?;
        self.sql = Some(sql);
        Ok(count.unsigned_abs())
    }
}

fn still_known(last: Option<(Instant, f64)>, state: MemberState) -> Option<f64> {
    let (at, lag) = last.filter(|(at, _)| state == MemberState::Online && at.elapsed() < LAG_LIFE)?;
    Some(lag + at.elapsed().as_secs_f64())
}

async fn look(
    config: &Config,
    sql: Option<Sql>,
    statics: Option<(Instant, Statics)>,
    deadline: Duration,
) -> Result<(Sql, (Instant, Statics), Observation), SqlError> {
    let mut sql = match sql {
        Some(sql) => sql,
        None => Sql::connect(&config.mysql, deadline).await?,
    };
    let statics = match statics {
        Some(statics) => statics,
        None => (Instant::now(), read_statics(&mut sql, deadline).await?),
    };
    let observation = read(config, &mut sql, &statics.1, deadline).await?;
    Ok((sql, statics, observation))
}

async fn read_statics(sql: &mut Sql, deadline: Duration) -> Result<Statics, SqlError> {
    let row = within(deadline, sqlx::query("SELECT @@server_uuid, @@version").fetch_one(sql.inner())).await?;
    let (server_uuid, server_version) = (text(&row, 0)?, text(&row, 1)?);
    // A plugin's variables are there while it is active. (information_schema.plugins is a temporary table on disk, which a
    // member without room cannot make.)
    let variables = within(
        deadline,
        sqlx::query(
            "SELECT variable_name, variable_value FROM performance_schema.global_variables WHERE variable_name IN \
             ('group_replication_group_name', 'group_replication_start_on_boot', 'clone_max_concurrency')",
        )
        .fetch_all(sql.inner()),
    )
    .await?;
    let variables: HashMap<String, String> =
        variables.iter().map(|r| Ok((text(r, 0)?, text(r, 1)?))).collect::<Result<_, SqlError>>()?;
    let schemas = within(
        deadline,
        sqlx::query(
            "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN \
             ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY schema_name LIMIT 5",
        )
        .fetch_all(sql.inner()),
    )
    .await?;
    Ok(Statics {
        server_uuid,
        server_version,
        group_name: variables.get("group_replication_group_name").cloned(),
        start_on_boot: variables.get("group_replication_start_on_boot").is_some_and(|v| v == "ON"),
        clone_plugin: variables.contains_key("clone_max_concurrency"),
        user_schemas: schemas.iter().map(|r| text(r, 0)).collect::<Result<_, _>>()?,
    })
}

async fn read(
    config: &Config,
    sql: &mut Sql,
    statics: &Statics,
    deadline: Duration,
) -> Result<Observation, SqlError> {
    // super_read_only is read before the role: a member that becomes primary is seen as primary before it is seen
    // writable, never the other way round.
    let bootstrap = match statics.group_name {
        Some(_) => "@@global.group_replication_bootstrap_group",
        None => "0",
    };
    let query = format!(
        "SELECT @@global.super_read_only, {bootstrap}, @@global.gtid_executed, @@global.gtid_purged, \
         (SELECT received_transaction_set FROM performance_schema.replication_connection_status \
          WHERE channel_name = 'group_replication_applier')"
    );
    let row = within(deadline, sqlx::query(sqlx::AssertSqlSafe(query)).fetch_one(sql.inner())).await?;
    let super_read_only = row.try_get::<i64, _>(0)? != 0;
    let bootstrap_group = row.try_get::<i64, _>(1)? != 0;
    let gtid_executed = gtids(&row, 2)?;
    let gtid_purged = gtids(&row, 3)?;
    let gtid_received = gtids(&row, 4)?;

    // The view's identifier before its members, so that what changes in between makes the view look older than it is, and
    // never newer.
    let applier = applier(sql, deadline).await?;
    let members = within(
        deadline,
        sqlx::query(
            "SELECT member_id, member_host, member_port, member_state, member_role \
             FROM performance_schema.replication_group_members ORDER BY member_host, member_port",
        )
        .fetch_all(sql.inner()),
    )
    .await?;
    let mut view = Vec::with_capacity(members.len());
    for row in &members {
        view.push(view_member(config, row)?);
    }
    let own = view.iter().find(|m| m.uuid == statics.server_uuid);
    let member_state = own.map_or(MemberState::Offline, |m| m.state);
    let role = own.map_or(Role::None, |m| m.role);
    if matches!(member_state, MemberState::Offline) {
        // Outside a group MySQL lists the member itself.
        view.clear();
    }

    let (view_id, lag_seconds) = match member_state {
        MemberState::Online | MemberState::Recovering => {
            applier.map_or((String::new(), None), |a| (a.view_id.clone(), a.lag(role)))
        }
        _ => (String::new(), None),
    };
    let mut clone = None;
    if statics.clone_plugin && member_state == MemberState::Offline {
        let query = "SELECT state, source, error_message FROM performance_schema.clone_status";
        let row = within(deadline, sqlx::query(query).fetch_optional(sql.inner())).await?;
        if let Some(row) = row {
            clone =
                Some(CloneStatus { state: text(&row, 0)?, source: text(&row, 1)?, error: text(&row, 2)? });
        }
    }
    let applier_error = match member_state {
        MemberState::Online => None,
        _ => applier_error(sql, deadline).await?,
    };
    let mut last_error = applier_error.clone().filter(|_| member_state == MemberState::Error);
    if member_state == MemberState::Error && last_error.is_none() {
        // MY-011712 says only that the server went read-only, after whatever the reason was.
        let query = "SELECT data FROM performance_schema.error_log WHERE subsystem = 'Repl' AND prio = 'Error' \
                     AND error_code <> 'MY-011712' ORDER BY logged DESC LIMIT 1";
        let row = within(deadline, sqlx::query(query).fetch_optional(sql.inner())).await?;
        last_error = row.map(|r| text(&r, 0)).transpose()?;
    }
    let primary = view.iter().find(|m| m.role == Role::Primary && m.state == MemberState::Online);
    Ok(Observation {
        server_uuid: statics.server_uuid.clone(),
        server_version: statics.server_version.clone(),
        member_state,
        role,
        primary: primary.map(|m| m.name.clone().unwrap_or_else(|| m.address.clone())),
        view_id,
        majority: has_majority(member_state, &view),
        view,
        gtid_executed,
        gtid_received,
        gtid_purged,
        lag_seconds,
        super_read_only,
        user_schemas: statics.user_schemas.clone(),
        mysql_group_name: statics.group_name.clone(),
        clone_plugin: statics.clone_plugin,
        start_on_boot: statics.start_on_boot,
        bootstrap_group,
        clone,
        last_error,
        applier_error,
    })
}

/// What replication failed with since it was started last: the worker knows the row, the coordinator the worker, the
/// connection only itself (MySQL manual, "Performance Schema Replication Tables").
async fn applier_error(sql: &mut Sql, deadline: Duration) -> Result<Option<String>, SqlError> {
    // A donor that cannot be reached while the member recovers is tried again, and is no failure yet.
    const TABLES: [(&str, &str); 3] = [
        ("replication_applier_status_by_worker", "'group_replication_applier', 'group_replication_recovery'"),
        (
            "replication_applier_status_by_coordinator",
            "'group_replication_applier', 'group_replication_recovery'",
        ),
        ("replication_connection_status", "'group_replication_applier'"),
    ];
    for (table, channels) in TABLES {
        let query = format!(
            "SELECT last_error_number, last_error_message FROM performance_schema.{table} \
             WHERE channel_name IN ({channels}) AND last_error_number <> 0 ORDER BY last_error_timestamp DESC LIMIT 1"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(query));
        if let Some(row) = within(deadline, query.fetch_optional(sql.inner())).await? {
            let number = row.try_get_unchecked::<i64, _>(0)?;
            return Ok(Some(format!("error {number}: {}", text(&row, 1)?)));
        }
    }
    Ok(None)
}

/// How far a member of a group has come.
struct Applier {
    view_id: String,
    /// Transactions that wait.
    queued: u64,
    /// How long ago the oldest one that is being applied was made, in microseconds; far below zero when none is.
    applying: f64,
}

impl Applier {
    fn lag(&self, role: Role) -> Option<f64> {
        match (role, self.applying) {
            (Role::Primary, _) => Some(0.0),
            // Two clocks differ a little: a transaction from the future is one that was made just now. What is far below
            // zero stands for "applies nothing".
            (_, micros) if micros > -1e11 => Some((micros / 1e6).max(0.0)),
            (_, _) if self.queued == 0 => Some(0.0),
            // Something waits and nothing is being applied: between two transactions, or stuck. In doubt: unknown.
            _ => None,
        }
    }
}

async fn applier(sql: &mut Sql, deadline: Duration) -> Result<Option<Applier>, SqlError> {
    let row = within(
        deadline,
        sqlx::query(
            "SELECT s.view_id, s.count_transactions_remote_in_applier_queue, GREATEST( \
               COALESCE((SELECT MAX(TIMESTAMPDIFF(MICROSECOND, applying_transaction_original_commit_timestamp, NOW(6))) \
                FROM performance_schema.replication_applier_status_by_worker \
                WHERE channel_name = 'group_replication_applier' AND applying_transaction <> ''), -1e12), \
               COALESCE((SELECT MAX(TIMESTAMPDIFF(MICROSECOND, processing_transaction_original_commit_timestamp, NOW(6))) \
                FROM performance_schema.replication_applier_status_by_coordinator \
                WHERE channel_name = 'group_replication_applier' AND processing_transaction <> ''), -1e12)) \
             FROM performance_schema.replication_group_member_stats s WHERE s.member_id = @@server_uuid",
        )
        .fetch_optional(sql.inner()),
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    // Outside a group some of it is NULL.
    let queued = row.try_get::<Option<u64>, _>(1)?.unwrap_or_default();
    Ok(Some(Applier { view_id: text(&row, 0)?, queued, applying: row.try_get(2)? }))
}

fn view_member(config: &Config, row: &MySqlRow) -> Result<ViewMember, SqlError> {
    let host = text(row, 1)?;
    let port = row.try_get::<Option<i64>, _>(2).ok().flatten().unwrap_or_default();
    let name = config
        .members
        .iter()
        .find(|m| m.mysql.ip().to_string() == host && i64::from(m.mysql.port()) == port)
        .map(|m| m.name.clone());
    Ok(ViewMember {
        name,
        address: format!("{host}:{port}"),
        uuid: text(row, 0)?,
        state: MemberState::from_mysql(&text(row, 3)?),
        role: Role::from_mysql(&text(row, 4)?),
    })
}

/// More than half of the view can be reached, as seen from a member that is in it.
pub fn has_majority(own: MemberState, view: &[ViewMember]) -> bool {
    let reachable =
        view.iter().filter(|m| matches!(m.state, MemberState::Online | MemberState::Recovering)).count();
    matches!(own, MemberState::Online | MemberState::Recovering) && reachable * 2 > view.len()
}

/// A text column; NULL is empty. Some columns of performance_schema are binary strings to a client.
fn text(row: &MySqlRow, i: usize) -> Result<String, SqlError> {
    let bytes: Option<Vec<u8>> = row.try_get_unchecked(i)?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

fn gtids(row: &MySqlRow, i: usize) -> Result<GtidSet, SqlError> {
    text(row, i)?.parse().map_err(|e: trivet_keeper_api::gtid::BadGtidSet| SqlError::Refused(e.to_string()))
}
