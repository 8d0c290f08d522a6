//! Statements over mysqld's unix socket, each under a deadline.

use std::future::Future;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::config::Mysql;

/// Why a statement brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// No answer in time. What mysqld makes of the statement is not known.
    #[error("mysqld has not answered within {0:?}")]
    Timeout(Duration),
    /// The socket is gone, or mysqld closed the connection.
    #[error("mysqld is not running or closed the connection: {0}")]
    Gone(String),
    /// mysqld's own refusal.
    #[error("{0}")]
    Refused(String),
}

impl From<sqlx::Error> for SqlError {
    fn from(e: sqlx::Error) -> Self {
        match e {
            sqlx::Error::Database(d) => Self::Refused(d.message().to_owned()),
            sqlx::Error::Io(e) => Self::Gone(e.to_string()),
            e => Self::Refused(e.to_string()),
        }
    }
}

/// A connection that belongs to whoever uses it. After an error it must be dropped: an answer may still be under way.
pub struct Sql {
    connection: MySqlConnection,
}

impl Sql {
    /// Connects as the keeper's own account.
    pub async fn connect(mysql: &Mysql, deadline: Duration) -> Result<Self, SqlError> {
        let options = MySqlConnectOptions::new()
            .socket(&mysql.socket)
            .username(&mysql.user)
            // The socket is local, and auth_socket identifies by the peer's user id; mysqld counts it as secure.
            .ssl_mode(MySqlSslMode::Disabled)
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .disable_statement_logging();
        let connection = within(deadline, options.connect()).await?;
        Ok(Self { connection })
    }

    /// The connection, for queries; wrap them in [`within`].
    pub fn inner(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }

    /// Runs statements without results, as text (MySQL prepares no START GROUP_REPLICATION). Whatever is put into
    /// `sql` must be quoted with [`quote`].
    pub async fn run(&mut self, sql: &str, deadline: Duration) -> Result<(), SqlError> {
        within(deadline, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection)).await.map(drop)
    }

    /// The first column of the first row, `None` without a row or when it is NULL.
    pub async fn text(&mut self, sql: &str, deadline: Duration) -> Result<Option<String>, SqlError> {
        let query = sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(sql));
        Ok(within(deadline, query.fetch_optional(&mut self.connection)).await?.flatten())
    }

    /// Says good-bye; its failure concerns nobody.
    pub async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.connection.close()).await;
    }
}

/// Puts a deadline over a database future.
pub async fn within<T>(
    deadline: Duration,
    future: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SqlError> {
    match tokio::time::timeout(deadline, future).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(SqlError::Timeout(deadline)),
    }
}

/// A string literal (MySQL manual, "String Literals"; NO_BACKSLASH_ESCAPES is never set by us).
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\0' => out.push_str("\\0"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{1a}' => out.push_str("\\Z"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn literals_cannot_be_left() {
        for (text, literal) in [
            ("plain", "'plain'"),
            ("it's", r"'it\'s'"),
            (r"\", r"'\\'"),
            (r"\' OR 1=1 -- ", r"'\\\' OR 1=1 -- '"),
            ("a\0b\nc", r"'a\0b\nc'"),
            ("ü€", "'ü€'"),
        ] {
            assert_eq!(quote(text), literal);
        }
    }
}
