//! What can go wrong between the app and MySQL, sorted by what may be done next.

use sqlx::mysql::MySqlDatabaseError;

/// The outcome of a read or a write that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No database took the request within its deadline. Nothing was changed.
    #[error("no database could be asked: {0}")]
    Unavailable(String),
    /// The connection was lost while the transaction was being committed: it may have happened or not.
    #[error("the outcome of a write is unknown: {0}")]
    UnknownOutcome(String),
    /// A statement failed for a reason that a repetition will not mend. Nothing was changed.
    #[error("a query failed: {0}")]
    Query(#[source] sqlx::Error),
}

/// What one failed attempt says about the connection and the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The connection is gone or useless; the server rolls an open transaction back.
    Lost,
    /// The server takes no writes (any more): a demoted primary, `super_read_only`.
    ReadOnly,
    /// The server rolled the transaction back and invites to try again.
    RolledBack,
    /// None of these: a mistake in the statement, a violated constraint.
    Permanent,
}

impl Kind {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::ReadOnly => "read_only",
            Self::RolledBack => "rolled_back",
            Self::Permanent => "query",
        }
    }

    /// Sorts an error of sqlx. The numbers are those of MySQL's "Server Error Message Reference".
    pub fn of(e: &sqlx::Error) -> Self {
        match e {
            sqlx::Error::Database(d) => d
                .try_downcast_ref::<MySqlDatabaseError>()
                .map_or(Self::Permanent, |d| Self::of_number(d.number())),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Lost,
            _ => Self::Permanent,
        }
    }

    fn of_number(number: u16) -> Self {
        match number {
            // ER_OPTION_PREVENTS_STATEMENT (super_read_only), ER_READ_ONLY_MODE, read-only transaction.
            1290 | 1836 | 1792 => Self::ReadOnly,
            // Offline mode, shutdown, network errors, a killed or interrupted session, too many connections.
            3032 | 1053 | 1040 | 1129 | 1152 | 1158..=1161 | 1184 | 1317 | 3169 | 4031 => Self::Lost,
            // The account or the database is not there yet (the keeper makes both), or is being cloned.
            1044 | 1045 | 1049 | 1130 => Self::Lost,
            // Deadlock, lock wait timeout, an error during commit, a failed Group Replication hook (3100: before_commit,
            // 3101: certification), a group that could not reach the asked-for consistency.
            1213 | 1205 | 1180 | 3100 | 3101 | 3796..=3798 => Self::RolledBack,
            _ => Self::Permanent,
        }
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
            (3032, Kind::Lost),
            (1053, Kind::Lost),
            (1045, Kind::Lost),
            (3100, Kind::RolledBack),
            (3101, Kind::RolledBack),
            (1213, Kind::RolledBack),
            (3797, Kind::RolledBack),
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
