//! What can go wrong between the app and MySQL, sorted by what may be done next.

use sqlx::mysql::MySqlDatabaseError;

/// The outcome of a read or a write that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No database took the request within its deadline. Nothing was changed.
    #[error("no database could be asked: {0}")]
    Unavailable(String),
    /// The connection was lost while the transaction was being committed, and no primary could be asked in time whether it
    /// happened.
    #[error("the outcome of a write is unknown: {0}")]
    UnknownOutcome(String),
    /// A statement failed for a reason that a repetition will not mend. Nothing was changed.
    #[error("a query failed: {0}")]
    Query(#[source] sqlx::Error),
}

/// What one failed attempt says about the connection and the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The connection is gone or useless; the server rolls an open transaction back. Another one may work.
    Lost,
    /// The server takes no writes (any more): a demoted primary, `super_read_only`. Another connection leads elsewhere.
    ReadOnly,
    /// Another transaction was in the way: deadlock, lock wait, failed certification. The same may work in a moment.
    Conflict,
    /// None of these: a mistake in the statement, a violated constraint.
    Permanent,
}

impl Kind {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::ReadOnly => "read_only",
            Self::Conflict => "conflict",
            Self::Permanent => "query",
        }
    }

    /// Sorts an error of sqlx. The numbers are those of MySQL's "Server Error Message Reference".
    pub fn of(e: &sqlx::Error) -> Self {
        match e {
            sqlx::Error::Database(_) => number(e).map_or(Self::Permanent, Self::of_number),
            // CR_SERVER_GONE_ERROR and CR_SERVER_LOST (2006, 2013) of other drivers are here.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Lost,
            _ => Self::Permanent,
        }
    }

    /// Whether an error that answers COMMIT leaves no doubt that nothing was committed. In doubt are a lost connection,
    /// 1180 (an error during COMMIT) and 3100 (the group's hook failed: the transaction may be on its way to the others
    /// while this member leaves).
    pub fn rolls_back_at_commit(e: &sqlx::Error) -> bool {
        matches!(number(e), Some(1290 | 1836 | 1792 | 1205 | 1213 | 3101))
    }

    fn of_number(number: u16) -> Self {
        match number {
            // ER_OPTION_PREVENTS_STATEMENT (super_read_only), ER_READ_ONLY_MODE, read-only transaction. While
            // `group_replication_set_as_primary` moves the role, 4094: statements are held off, and 3098: Group Replication
            // refuses a change (as it refuses one of a table without a primary key, of which the site has none).
            1290 | 1836 | 1792 | 3098 | 4094 => Self::ReadOnly,
            // Too many connections, a failed handshake, shutdown, a blocked host, network errors.
            1040 | 1042 | 1043 | 1053 | 1129 | 1152 | 1158..=1161 | 1184 => Self::Lost,
            // A killed or interrupted session, offline mode, "server is not available", disconnected for inactivity.
            1317 | 3032 | 3168 | 3169 | 4031 => Self::Lost,
            // The account or the database is not there yet (the keeper makes both), or is being cloned.
            1044 | 1045 | 1049 | 1130 => Self::Lost,
            // Client numbers that a gateway sends in place of a server: no server, gone, lost.
            2002 | 2003 | 2006 | 2013 => Self::Lost,
            // An error during COMMIT; a failed hook of Group Replication: the member is leaving, or lost the majority.
            1180 | 3100 => Self::Lost,
            // Deadlock, lock wait timeout; 3101: rolled back during COMMIT, which is how certification fails; a group that
            // could not reach the asked-for consistency in time.
            1213 | 1205 | 3101 | 3796..=3798 => Self::Conflict,
            _ => Self::Permanent,
        }
    }
}

/// Whether a server does not have what the statement names: on a replica, a migration that has not come yet. Unknown column,
/// no such table, a table that has just been changed.
pub(super) fn lacks_schema(e: &sqlx::Error) -> bool {
    matches!(number(e), Some(1054 | 1146 | 1412))
}

fn number(e: &sqlx::Error) -> Option<u16> {
    match e {
        sqlx::Error::Database(d) => {
            d.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
        }
        _ => None,
    }
}

/// True for ER_DUP_ENTRY.
pub fn is_duplicate(e: &sqlx::Error) -> bool {
    matches!(e, sqlx::Error::Database(d) if d.is_unique_violation())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failover_says_is_not_taken_for_a_mistake_in_the_statement() {
        for (number, kind) in [
            (1290, Kind::ReadOnly),
            (1836, Kind::ReadOnly),
            (3098, Kind::ReadOnly),
            (4094, Kind::ReadOnly),
            (3032, Kind::Lost),
            (1053, Kind::Lost),
            (1045, Kind::Lost),
            (1040, Kind::Lost),
            (2003, Kind::Lost),
            (3100, Kind::Lost),
            (1180, Kind::Lost),
            (3101, Kind::Conflict),
            (1213, Kind::Conflict),
            (1205, Kind::Conflict),
            (3797, Kind::Conflict),
            (1062, Kind::Permanent),
            (1064, Kind::Permanent),
            (1146, Kind::Permanent),
        ] {
            assert_eq!(Kind::of_number(number), kind, "{number}");
        }
        assert_eq!(Kind::of(&sqlx::Error::PoolTimedOut), Kind::Lost);
        assert_eq!(Kind::of(&sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())), Kind::Lost);
        assert_eq!(Kind::of(&sqlx::Error::RowNotFound), Kind::Permanent);
    }
}
