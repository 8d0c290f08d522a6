//! Waits for locks are bounded, and an error names who holds them.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::error::TransferError;

/// How long a statement waits for a lock of others, in seconds (`lock_wait_timeout`, whose default is a year). What waits for a lock of the whole
/// server keeps all writers waiting behind it.
pub const LIMIT: u32 = 10;

/// `ER_LOCK_WAIT_TIMEOUT`.
pub const TIMED_OUT: u16 = 1205;

/// So many sessions are named.
const SHOWN: usize = 5;

/// A session that holds locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// As `KILL` takes it.
    pub connection: u64,
    /// `user@host`.
    pub account: String,
    /// For how long it has been in its state, in seconds.
    pub seconds: u64,
    /// The statement that it runs, or what it does.
    pub statement: String,
    /// What it has locked: `database.table`, GLOBAL for the whole server.
    pub objects: String,
}

/// Metadata locks that others hold, those of the whole server first: LOCK TABLES and statements that write have them.
const METADATA: &str = "\
    SELECT t.processlist_id, CONCAT(COALESCE(t.processlist_user, ''), '@', COALESCE(t.processlist_host, '')), COALESCE(t.processlist_time, 0), \
     LEFT(COALESCE(t.processlist_info, t.processlist_command, ''), 120), \
     GROUP_CONCAT(DISTINCT COALESCE(CONCAT_WS('.', m.object_schema, m.object_name), m.object_type) SEPARATOR ', ') \
    FROM performance_schema.metadata_locks m JOIN performance_schema.threads t ON t.thread_id = m.owner_thread_id \
    WHERE m.lock_status = 'GRANTED' AND m.object_type IN ('GLOBAL', 'COMMIT', 'SCHEMA', 'TABLE') \
     AND COALESCE(m.object_schema, '') <> 'performance_schema' \
     AND t.processlist_id IS NOT NULL AND t.processlist_id <> CONNECTION_ID() \
    GROUP BY 1, 2, 3, 4 ORDER BY MAX(m.object_type IN ('GLOBAL', 'COMMIT')) DESC, 3 DESC";

/// 5.7 does not watch metadata locks by itself. What has run for longest is the likeliest.
const SESSIONS: &str = "\
    SELECT id, CONCAT(user, '@', host), time, LEFT(COALESCE(info, command), 120), COALESCE(db, '') FROM information_schema.processlist \
    WHERE command NOT IN ('Sleep', 'Daemon', 'Binlog Dump', 'Binlog Dump GTID') AND id <> CONNECTION_ID() ORDER BY time DESC";

/// Who holds locks on a server now, the likeliest to be in the way first. Empty when nobody does, or the account may not see it.
pub async fn holders(conn: &mut Conn) -> Vec<Holder> {
    for query in [METADATA, SESSIONS] {
        let rows: Vec<(u64, String, u64, String, String)> = conn.query(query).await.unwrap_or_default();
        if !rows.is_empty() {
            let holder = |(connection, account, seconds, statement, objects)| Holder {
                connection,
                account,
                seconds,
                statement,
                objects,
            };
            return rows.into_iter().map(holder).collect();
        }
    }
    Vec::new()
}

/// For people: `connection 12 (app@10.0.0.3, 40 s: SELECT …) holds shop.orders`.
pub fn told(holders: &[Holder]) -> String {
    let one = |h: &Holder| {
        format!(
            "connection {} ({}, {} s: {}) holds {}",
            h.connection,
            h.account,
            h.seconds,
            h.statement.split_whitespace().collect::<Vec<_>>().join(" "),
            if h.objects.is_empty() { "locks" } else { &h.objects }
        )
    };
    match holders {
        [] => "nobody who is seen holds one now (PROCESS shows the account more)".into(),
        some => some.iter().take(SHOWN).map(one).collect::<Vec<_>>().join("; "),
    }
}

/// The error of a statement; one that waited for a lock for too long says who holds locks on that server. `what` is what was to be done.
pub async fn named(error: TransferError, what: &str, conn: &mut Conn) -> TransferError {
    if error.is_code(TIMED_OUT) { timed_out(what, conn).await } else { error }
}

/// That a lock was not to be had in time.
pub async fn timed_out(what: &str, conn: &mut Conn) -> TransferError {
    let holders = holders(conn).await;
    TransferError::refused(format!(
        "{what} waited {LIMIT} s for locks of others: {}. Let it end, or KILL it, and run the command again",
        told(&holders)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_named_and_a_crowd_is_cut() {
        let holder = |connection| Holder {
            connection,
            account: "app@10.0.0.3".into(),
            seconds: 40,
            statement: "SELECT *\n  FROM a".into(),
            objects: "shop.a".into(),
        };
        assert_eq!(told(&[holder(12)]), "connection 12 (app@10.0.0.3, 40 s: SELECT * FROM a) holds shop.a");
        let crowd: Vec<Holder> = (0..20).map(holder).collect();
        assert!(told(&crowd).contains("connection 4 ") && !told(&crowd).contains("connection 5 "));
        assert!(told(&[]).contains("PROCESS"));
    }
}
