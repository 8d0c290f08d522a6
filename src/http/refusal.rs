//! Why a request is not served, and the one place where that becomes a status.

use std::time::Duration;

use http::StatusCode;

use crate::body::BadBody;

/// The client has sent as many requests as it may; after this time it may send one (RFC 9110 section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl RetryAfter {
    /// The value of the field `Retry-After`: whole seconds, at least one.
    pub fn seconds(self) -> u64 {
        self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0 || self.0.is_zero())
    }
}

/// A request that is answered here and goes no further. The words are for the log; the client sees the status's page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// RFC 9112 section 2.2: a line of the head ends in LF without CR.
    #[error("a line of the head ends in a bare LF")]
    BareLf,
    /// RFC 9112 section 3: the request line is not method, target, version with one space between.
    #[error("malformed request line")]
    RequestLine,
    /// RFC 9112 section 6.3: both Content-Length and Transfer-Encoding.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// RFC 9110 section 8.6: more than one Content-Length, or a list of them.
    #[error("more than one Content-Length")]
    RepeatedLength,
    /// RFC 9110 section 8.6: Content-Length is not a number.
    #[error("Content-Length is not a number")]
    BadLength,
    /// RFC 9112 section 6.1: a transfer coding other than one single `chunked`.
    #[error("a transfer coding other than chunked")]
    TransferCoding,
    /// RFC 9112 section 3.2: no Host field, more than one, or no valid one.
    #[error("no Host, several, or a malformed one")]
    Host,
    /// RFC 9112 section 3.2: a target with a fragment, control characters, or of a form the method does not have.
    #[error("malformed request target")]
    Target,
    /// RFC 3986 section 6.2.2.3: `.` or `..` as a path segment, plain or percent-encoded.
    #[error("dot segments in the path")]
    DotSegments,
    /// RFC 9110 section 15.6.6: HTTP/1.2 and later, or a version that never was.
    #[error("unsupported protocol version")]
    Version,
    /// RFC 9110 section 7.6.1: Connection is no list of tokens, or names a field that every hop must read.
    #[error("malformed Connection, or one that names a field of the framing")]
    Connection,
    /// RFC 9112 section 7.1: the framing of a chunked body.
    #[error("{0}")]
    Body(#[from] BadBody),
    /// RFC 6585 section 5: more field lines than allowed.
    #[error("too many fields")]
    TooManyFields,
    /// RFC 9110 section 15.5.9: the head came too slowly.
    #[error("no complete head in time")]
    HeaderTimeout,
    /// RFC 9110 section 15.5.9: the body paused for too long.
    #[error("the body paused for too long")]
    BodyTimeout,
    /// RFC 9110 section 5.5, RFC 9112 section 5.1: a field name or value with characters it must not have.
    #[error("malformed field")]
    Field,
    /// RFC 9110 section 9.3.8 and 9.3.6: TRACE and CONNECT are not for this server.
    #[error("method not allowed")]
    Method,
    /// RFC 8441 section 4: an extended CONNECT for another protocol than WebSocket.
    #[error("a protocol other than websocket in an extended CONNECT")]
    Protocol,
    /// RFC 6585 section 5: the head is larger than allowed.
    #[error("the head is too large")]
    HeadTooLarge,
    /// RFC 9110 section 15.5.15.
    #[error("the target is too long")]
    TargetTooLong,
    /// RFC 9110 section 15.5.14.
    #[error("the body is too large")]
    BodyTooLarge,
    /// RFC 9110 section 15.5.9: the body came too slowly.
    #[error("the body came too slowly")]
    BodyTooSlow,
    /// RFC 9110 section 15.5.20: a name that this site does not have.
    #[error("not a name of this site")]
    Misdirected,
    /// RFC 9110 section 10.1.1: an expectation other than 100-continue.
    #[error("unknown expectation")]
    Expectation,
    /// RFC 6585 section 4: the client sends more requests than it may.
    #[error("too many requests from this client")]
    TooManyRequests(RetryAfter),
}

impl Refusal {
    /// The status a client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BareLf
            | Self::RequestLine
            | Self::LengthAndCoding
            | Self::RepeatedLength
            | Self::BadLength
            | Self::Host
            | Self::Target
            | Self::DotSegments
            | Self::Connection
            | Self::Body(_)
            | Self::Field => StatusCode::BAD_REQUEST,
            // RFC 9112 section 6.1: a server that does not understand a coding SHOULD respond with 501; but a coding
            // that is not understood is a body of unknown length, so 400 and close, as HAProxy does.
            Self::TransferCoding => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            // As RFC 9220 section 3 has it for HTTP/3.
            Self::Protocol => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeaderTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Whether the next request on the connection can still be told from this one: the head was well formed, and only what
    /// it asks for is not had here.
    pub fn leaves_connection(&self) -> bool {
        matches!(self, Self::Misdirected | Self::TooManyRequests(_))
    }

    /// The value of the metric's label `reason`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::RequestLine => "request_line",
            Self::LengthAndCoding => "length_and_coding",
            Self::RepeatedLength => "repeated_length",
            Self::BadLength => "bad_length",
            Self::TransferCoding => "transfer_coding",
            Self::Host => "host",
            Self::Target => "target",
            Self::DotSegments => "dot_segments",
            Self::Field => "field",
            Self::Version => "version",
            Self::Connection => "connection",
            Self::Body(_) => "body",
            Self::TooManyFields => "too_many_fields",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::Method => "method",
            Self::Protocol => "protocol",
            Self::HeadTooLarge => "head_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::Misdirected => "misdirected",
            Self::Expectation => "expectation",
            Self::TooManyRequests(_) => "too_many_requests",
        }
    }
}
