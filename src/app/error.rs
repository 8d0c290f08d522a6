//! What can go wrong with a request, and the one place where that becomes a status.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::db::DbError;
use super::text::rules::Problems;

/// Why a request was not answered as asked. What the client is told hides internals; the log has them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such page, article, …
    #[error("not found")]
    NotFound,
    #[error("sign-in needed")]
    SignInNeeded,
    /// Signed in, but not allowed.
    #[error("forbidden: {0}")]
    Forbidden(&'static str),
    /// Name or password is wrong.
    #[error("wrong name or password")]
    WrongPassword,
    /// The request cannot be understood.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// Fields of a form or of a JSON body are not as they must be.
    #[error("invalid fields")]
    Invalid(Problems),
    /// Somebody else changed it first; the version that stands.
    #[error("conflict with version {0}")]
    Conflict(u32),
    /// The idempotency key stands for another request.
    #[error("idempotency key reused")]
    KeyReused,
    /// Too many wrong passwords.
    #[error("too many attempts")]
    TooManyAttempts(Duration),
    /// No database, or no primary: nothing was changed.
    #[error("unavailable: {0}")]
    Unavailable(String),
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    #[error("internal: {0}")]
    Internal(String),
}

impl From<DbError> for Error {
    fn from(e: DbError) -> Self {
        match e {
            DbError::Unavailable(reason) => Self::Unavailable(reason),
            DbError::UnknownOutcome(reason) => Self::OutcomeUnknown(reason),
            DbError::Query(e) => Self::Internal(e.to_string()),
        }
    }
}

/// What the client is told, independent of its form. Responses carry it as an extension until the outermost layer, which
/// knows whether a person or a program asked, writes it down.
#[derive(Debug, Clone)]
pub struct Problem {
    pub status: StatusCode,
    /// For programs.
    pub code: &'static str,
    /// For people: what happened, and what to do next.
    pub message: String,
    /// Field → what is wrong with it.
    pub fields: Problems,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The version that stands, in a conflict.
    pub version: Option<u32>,
}

/// When a client should come back after a failover has begun: a planned one takes a second.
const RETRY_SOON: Duration = Duration::from_secs(2);

impl Problem {
    /// A problem that is only a status.
    pub fn of_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::BAD_REQUEST => ("bad_request", "The request could not be understood."),
            StatusCode::NOT_FOUND => ("not_found", "There is nothing at this address."),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "This address does not take that method.")
            }
            StatusCode::REQUEST_TIMEOUT => ("timeout", "The request took too long to arrive."),
            StatusCode::PAYLOAD_TOO_LARGE => {
                ("too_large", "That is more than this site takes in one request.")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ("unsupported_media_type", "That content type is not taken here.")
            }
            StatusCode::UNPROCESSABLE_ENTITY => {
                ("invalid", "The contents of the request are not as they must be.")
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                ("unavailable", "The site is busy. Please try again in a moment.")
            }
            StatusCode::GATEWAY_TIMEOUT => ("timeout", "The answer took too long. Please try again."),
            _ => ("error", "Something went wrong."),
        };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_SOON);
        Self { status, code, message: message.into(), fields: Problems::new(), retry_after, version: None }
    }

    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), ..Self::of_status(status) }
    }
}

impl From<&Error> for Problem {
    fn from(e: &Error) -> Self {
        use StatusCode as S;
        match e {
            Error::NotFound => Self::of_status(S::NOT_FOUND),
            Error::SignInNeeded => {
                Self::new(S::UNAUTHORIZED, "sign_in_needed", "You need to sign in for that.")
            }
            Error::Forbidden(why) => Self::new(S::FORBIDDEN, "forbidden", *why),
            Error::WrongPassword => {
                Self::new(S::UNAUTHORIZED, "wrong_password", "The name or the password is not right.")
            }
            Error::BadRequest(why) => Self::new(S::BAD_REQUEST, "bad_request", why.clone()),
            Error::Invalid(fields) => Self {
                fields: fields.clone(),
                ..Self::new(S::UNPROCESSABLE_ENTITY, "invalid", "Some fields need another look.")
            },
            Error::Conflict(version) => Self {
                version: Some(*version),
                ..Self::new(
                    S::CONFLICT,
                    "conflict",
                    "Somebody changed this article while you were editing it.",
                )
            },
            Error::KeyReused => Self::new(
                S::UNPROCESSABLE_ENTITY,
                "key_reused",
                "This Idempotency-Key was used for a different request.",
            ),
            Error::TooManyAttempts(wait) => Self {
                retry_after: Some(*wait),
                ..Self::new(
                    S::TOO_MANY_REQUESTS,
                    "too_many_attempts",
                    format!("Too many wrong passwords. Please wait {}.", minutes(*wait)),
                )
            },
            Error::Unavailable(_) => Self::new(
                S::SERVICE_UNAVAILABLE,
                "unavailable",
                "The database cannot take this right now; it usually can again within seconds. Nothing was changed.",
            ),
            Error::OutcomeUnknown(_) => Self::new(
                S::SERVICE_UNAVAILABLE,
                "outcome_unknown",
                "The connection to the database broke while this was being saved, so it may be saved or not. Sending \
                 it again is safe: it will not be saved twice.",
            ),
            Error::Internal(_) => Self::new(
                S::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong here. It has been logged.",
            ),
        }
    }
}

fn minutes(wait: Duration) -> String {
    match wait.as_secs().div_ceil(60) {
        0 | 1 => "a minute".into(),
        n => format!("{n} minutes"),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match &self {
            Self::Internal(e) => tracing::error!(error = e, "a request failed"),
            Self::Unavailable(e) | Self::OutcomeUnknown(e) => {
                tracing::warn!(error = e, "a request was refused")
            }
            _ => {}
        }
        Problem::from(&self).into_response()
    }
}
