//! Why a transfer did not come about.

use std::future::Future;

use trivet_base::process::Failure;

/// Why a transfer, or a step of it, did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A server did not answer, or refused a statement.
    #[error("{server}: {error}")]
    Sql {
        /// Which one, as people call it.
        server: &'static str,
        /// Its words.
        error: mysql_async::Error,
    },
    /// A program of MySQL's failed, or is not there.
    #[error("{program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// Something that an operator has to decide or to do first.
    #[error("{0}")]
    Refused(String),
    /// Files of this machine.
    #[error("{what}: {error}")]
    File {
        /// Which.
        what: String,
        /// The system's words.
        error: std::io::Error,
    },
}

/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`: the account may not do it.
pub const NO_RIGHT: u16 = 1227;

impl TransferError {
    /// A refusal in these words.
    pub fn refused(words: impl Into<String>) -> Self {
        Self::Refused(words.into())
    }

    /// Whether a server refused a statement with this number (MySQL's error reference).
    pub fn is_code(&self, code: u16) -> bool {
        matches!(self, Self::Sql { error: mysql_async::Error::Server(e), .. } if e.code == code)
    }
}

impl From<TransferError> for Failure {
    fn from(e: TransferError) -> Self {
        Self::run(e)
    }
}

/// The result of an answer of MySQL's.
pub type Answer<T> = Result<T, mysql_async::Error>;

/// What people call the server that is left.
pub const SOURCE: &str = "the source";

/// What people call the server that is entered.
pub const MEMBER: &str = "this node's member";

/// A server's answer, or that it gave none.
pub async fn answer<T>(
    server: &'static str,
    answer: impl Future<Output = Answer<T>>,
) -> Result<T, TransferError> {
    answer.await.map_err(|error| TransferError::Sql { server, error })
}

/// The source's answer, or that it gave none.
pub async fn source<T>(given: impl Future<Output = Answer<T>>) -> Result<T, TransferError> {
    answer(SOURCE, given).await
}

/// The answer of the cluster's member, or that it gave none.
pub async fn member<T>(given: impl Future<Output = Answer<T>>) -> Result<T, TransferError> {
    answer(MEMBER, given).await
}
