//! Doing what was decided: statements in the right order, each under a deadline. One action at a time.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

use super::accounts;
use super::config::Config;
use super::credentials::Credentials;
use super::decide::Action;
use super::sql::{Sql, SqlError, quote, within};
use trivet_keeper_api::gtid::GtidSet;

/// Setting a variable, looking something up.
const SHORT: Duration = Duration::from_secs(10);
/// Leaving ERROR; longer when transactions are still being rolled back.
const STOP: Duration = Duration::from_secs(60);
/// From START GROUP_REPLICATION of a bootstrap to ONLINE. There is nobody to wait for.
const BOOTSTRAP: Duration = Duration::from_secs(60);
/// A clone takes as long as the data is large; this only ends one that nobody watches.
const CLONE: Duration = Duration::from_secs(24 * 3600);
/// Applying what was received before a complete outage, without any progress.
const DRAIN_STALL: Duration = Duration::from_secs(30);

/// Runs an action; the text says what was done, for the log.
pub async fn execute(
    config: &Config,
    credentials: &Credentials,
    action: &Action,
) -> Result<String, SqlError> {
    let mut sql = Sql::connect(&config.mysql, SHORT).await?;
    let outcome = match action {
        Action::ClearBootstrapFlag => {
            sql.run("SET GLOBAL group_replication_bootstrap_group = OFF", SHORT).await.map(|()| String::new())
        }
        Action::SetReadOnly => {
            sql.run("SET GLOBAL super_read_only = ON", SHORT).await.map(|()| String::new())
        }
        Action::StopGroup => sql.run("STOP GROUP_REPLICATION", STOP).await.map(|()| String::new()),
        Action::Join => join(&mut sql, config, credentials).await.map(|()| "in the group".into()),
        Action::Bootstrap { first } => bootstrap(&mut sql, config, credentials, *first).await,
        Action::Clone { donor } => clone(&mut sql, config, credentials, donor).await,
        // Not one connection's business: the runner's.
        Action::HandOver { .. } => Err(SqlError::Refused("a hand-over is no statement".into())),
        Action::EnsureAccounts => {
            accounts::ensure_all(&mut sql, &config.mysql, credentials).await.map(|changed| changed.join(", "))
        }
    };
    if outcome.is_ok() {
        sql.close().await;
    }
    outcome
}

/// Enters a bootstrap by force into the group's table, on the primary. `gtids` is what the group went on with. The transaction's
/// own GTID is `mark:1`, so that every set of transactions tells whether it is from before or after; done again, nothing comes of it.
pub async fn mark_fork(config: &Config, mark: &str, gtids: &GtidSet) -> Result<(), SqlError> {
    let mut sql = Sql::connect(&config.mysql, SHORT).await?;
    wait_writable(&mut sql).await?;
    accounts::ensure_cluster_tables(&mut sql).await?;
    let insert = format!(
        "SET gtid_next = {gtid}; INSERT INTO trivet_cluster.fork (mark, gtids) VALUES ({mark}, {gtids}); \
         SET gtid_next = 'AUTOMATIC'",
        gtid = quote(&format!("{mark}:1")),
        mark = quote(mark),
        gtids = quote(&gtids.to_string())
    );
    sql.run(&insert, SHORT).await?;
    sql.close().await;
    Ok(())
}

/// The first member of a group becomes writable a moment after it is ONLINE.
async fn wait_writable(sql: &mut Sql) -> Result<(), SqlError> {
    let begun = Instant::now();
    while sql.text("SELECT CAST(@@global.super_read_only AS CHAR)", SHORT).await?.as_deref() != Some("0") {
        if begun.elapsed() > SHORT {
            return Err(SqlError::Refused("the primary is read-only (super_read_only)".into()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn start_group(
    sql: &mut Sql,
    config: &Config,
    credentials: &Credentials,
    deadline: Duration,
) -> Result<(), SqlError> {
    // From the configuration of the keeper rather than of mysqld: a member that is added later must not cost the others a
    // restart.
    let seeds: Vec<String> = config.members.iter().map(|m| m.mysql.to_string()).collect();
    sql.run(&format!("SET GLOBAL group_replication_group_seeds = {}", quote(&seeds.join(","))), SHORT)
        .await?;
    // Credentials given here stay in mysqld's memory: none lie in its tables, and none get lost with a channel.
    let start = format!(
        "START GROUP_REPLICATION USER = {}, PASSWORD = {}",
        quote(&config.mysql.replication_user),
        quote(&credentials.replication)
    );
    sql.run(&start, deadline).await
}

/// Ends the sessions that are left from before this member fell out of its group: the app's, and whoever else's transaction
/// holds row locks. A network that was cut ends none of them for hours, nor does a member that leaves its group; and what the
/// group has since written to those rows, perhaps the very same write sent again, could not be applied here.
async fn end_sessions(sql: &mut Sql, config: &Config) {
    const QUERY: &str = "SELECT DISTINCT p.id FROM performance_schema.processlist p \
                         LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id \
                         WHERE p.id <> CONNECTION_ID() AND p.user NOT IN ('system user', 'event_scheduler') \
                         AND (p.user = ? OR t.trx_rows_locked > 0 OR t.trx_rows_modified > 0)";
    let query = sqlx::query_scalar::<_, u64>(QUERY).bind(&config.mysql.app_user);
    let sessions = match within(SHORT, query.fetch_all(sql.inner())).await {
        Ok(sessions) => sessions,
        Err(e) => return tracing::warn!(error = %e, "the sessions on this member could not be listed"),
    };
    let mut ended = 0;
    for id in sessions {
        // One that has gone by itself meanwhile is no error.
        ended += u32::from(sql.run(&format!("KILL CONNECTION {id}"), SHORT).await.is_ok());
    }
    if ended > 0 {
        tracing::info!(sessions = ended, "ended what was left from before this member fell out of its group");
    }
}

async fn join(sql: &mut Sql, config: &Config, credentials: &Credentials) -> Result<(), SqlError> {
    end_sessions(sql, config).await;
    forget_applied(sql).await;
    let joined = start_group(sql, config, credentials, config.timing.join_timeout).await;
    if matches!(joined, Err(SqlError::Refused(_))) {
        // What is left in the relay logs may be what stands in the way. The group has all of it, or this member would not
        // join; the next attempt fetches it from there.
        reset_applier(sql).await;
    }
    joined
}

/// Relay logs are not synchronised, so a power cut may leave a torn event at their end, at which every later start of the group
/// fails. Where all that was received is applied they are of no more use, and nothing is lost with them.
async fn forget_applied(sql: &mut Sql) {
    if backlog(sql).await.is_ok_and(|waiting| waiting.is_empty()) {
        reset_applier(sql).await;
    }
}

/// Deletes the applier channel's relay logs (MySQL manual, "RESET REPLICA Statement"); a member that was never in a group has
/// no such channel. A refusal is no reason not to try the rest.
async fn reset_applier(sql: &mut Sql) {
    let channel = "SELECT channel_name FROM performance_schema.replication_connection_status \
                   WHERE channel_name = 'group_replication_applier'";
    let reset = "RESET REPLICA FOR CHANNEL 'group_replication_applier'";
    let outcome = match sql.text(channel, SHORT).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => sql.run(reset, STOP).await,
        Err(e) => Err(e),
    };
    if let Err(e) = outcome {
        tracing::warn!(error = %e, "the relay logs of the group's channel could not be reset");
    }
}

async fn bootstrap(
    sql: &mut Sql,
    config: &Config,
    credentials: &Credentials,
    first: bool,
) -> Result<String, SqlError> {
    if first {
        accounts::ensure_replication_locally(sql, &config.mysql, credentials).await?;
    } else {
        end_sessions(sql, config).await;
        drain(sql).await?;
        forget_applied(sql).await;
    }
    sql.run("SET GLOBAL group_replication_bootstrap_group = ON", SHORT).await?;
    let started = start_group(sql, config, credentials, BOOTSTRAP).await;
    // Whatever became of it: left ON, the flag would found a second group at the next start. When this connection has
    // just broken, the next look finds the flag and clears it.
    let cleared = sql.run("SET GLOBAL group_replication_bootstrap_group = OFF", SHORT).await;
    started?;
    cleared?;
    // Nobody may join before the first member is ONLINE, and peers see that from our reports only.
    wait_online(sql).await?;
    Ok("the group is formed; this member is ONLINE".into())
}

async fn wait_online(sql: &mut Sql) -> Result<(), SqlError> {
    let begun = Instant::now();
    loop {
        let state = sql
            .text(
                "SELECT member_state FROM performance_schema.replication_group_members \
                 WHERE member_id = @@server_uuid",
                SHORT,
            )
            .await?
            .unwrap_or_default();
        if state == "ONLINE" {
            return Ok(());
        }
        if state != "RECOVERING" || begun.elapsed() > BOOTSTRAP {
            return Err(SqlError::Refused(format!(
                "the member is {state} {:.0} s after it started the group",
                begun.elapsed().as_secs_f64()
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Applies what the applier channel had received before the outage, so that the group starts with everything committed:
/// a primary must not take writes that depend on rows it has not applied yet.
async fn drain(sql: &mut Sql) -> Result<(), SqlError> {
    let mut waiting = backlog(sql).await?;
    if waiting.is_empty() {
        return Ok(());
    }
    tracing::info!(transactions = waiting.count(), gtids = %waiting, "applying what was received before the outage");
    sql.run("START REPLICA SQL_THREAD FOR CHANNEL 'group_replication_applier'", SHORT).await?;
    let mut progress = Instant::now();
    let outcome = loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = backlog(sql).await?;
        if now.is_empty() {
            break Ok(());
        }
        if now != waiting {
            waiting = now;
            progress = Instant::now();
        } else if progress.elapsed() > DRAIN_STALL {
            break Err(SqlError::Refused(format!(
                "the applier makes no progress on {waiting}, which was received before the outage; see \
                 performance_schema.replication_applier_status_by_worker"
            )));
        }
    };
    sql.run("STOP REPLICA SQL_THREAD FOR CHANNEL 'group_replication_applier'", STOP).await?;
    outcome
}

async fn backlog(sql: &mut Sql) -> Result<GtidSet, SqlError> {
    let text = sql
        .text(
            "SELECT GTID_SUBTRACT(received_transaction_set, @@global.gtid_executed) \
             FROM performance_schema.replication_connection_status \
             WHERE channel_name = 'group_replication_applier'",
            SHORT,
        )
        .await?;
    text.unwrap_or_default()
        .parse()
        .map_err(|e: trivet_keeper_api::gtid::BadGtidSet| SqlError::Refused(e.to_string()))
}

async fn clone(
    sql: &mut Sql,
    config: &Config,
    credentials: &Credentials,
    donor: &str,
) -> Result<String, SqlError> {
    let address: SocketAddr = config
        .members
        .iter()
        .find(|m| m.name == donor)
        .map(|m| m.mysql)
        .ok_or_else(|| SqlError::Refused(format!("the donor {donor} is not configured")))?;
    let prepare = format!(
        "SET GLOBAL clone_ssl_ca = @@global.ssl_ca; SET GLOBAL clone_valid_donor_list = {}; \
         SET GLOBAL super_read_only = OFF",
        quote(&format!("{}:{}", address.ip(), address.port()))
    );
    sql.run(&prepare, SHORT).await?;
    let statement = format!(
        "CLONE INSTANCE FROM {}@{}:{} IDENTIFIED BY {} REQUIRE SSL",
        quote(&config.mysql.replication_user),
        quote(&address.ip().to_string()),
        address.port(),
        quote(&credentials.replication)
    );
    match sql.run(&statement, CLONE).await {
        // mysqld restarts at the end of a clone, and the connection ends with it.
        Ok(()) | Err(SqlError::Gone(_)) => Ok("cloned; mysqld restarts with the data".into()),
        Err(e) => {
            // It goes on as what it was. When this fails, too, the next look finds the member writable.
            let _ = sql.run("SET GLOBAL super_read_only = ON", SHORT).await;
            Err(e)
        }
    }
}
