//! What happens to a request: the engine of balancer and web tier, strict about what it reads, and plain about what it writes.
//!
//! [`server`] accepts connections, within what one client may have ([`admission`]). One task a connection: HTTP/1 has one
//! request at a time in its hands ([`http1`]), HTTP/2 many side by side
//! ([`http2`]); what becomes of a request is the same ([`serve`]):
//!
//! ```text
//! head (scan, request) → steps::admit → Service::route ─┬→ an answer of our own
//!                                                       └→ forward: back end (upstream) → head (response) → relay (pump)
//! ```
//!
//! A message is taken apart and put together anew: what leaves here has one reading. What every request passes, whatever its
//! protocol, is in [`trivet_http::steps`]; what a program adds is its [`Service`]. [`exchange`] is one request's line in the access log,
//! and its metrics.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use crate::admission::Admission;
use crate::exchange::Exchange;
use crate::http1::Connection;
use crate::server::{Drain, Limits};
use crate::sticky::Session;
use crate::upstream::{HttpBackend, HttpPool, Io};
use trivet_base::process::Shutdown;
use trivet_http::changes::Changes;
use trivet_http::refusal::Refusal;
use trivet_http::request::Request;
use trivet_http::steps::{Endpoints, Peer, Policy};
use trivet_pool::Scope;

pub mod admission;
pub mod answer;
pub mod check;
pub mod config;
mod data_sink;
mod downstream;
pub mod exchange;
mod forward;
mod http1;
mod http2;
pub mod log_limiter;
mod personal;
mod serve;
pub mod server;
pub mod sticky;
mod timer;
mod transfer_timeout;
pub mod troubles;
mod tunnel;
pub mod upstream;

/// What a program does with the requests that the engine reads.
pub trait Service: Send + Sync + 'static {
    /// Decides who answers a request, whose [`Exchange::admitted`] is there.
    fn route(&self, request: &Request, exchange: &mut Exchange) -> impl Future<Output = Route> + Send;
    /// The page that the site of `host` has for an error, with its media type. `accept` is what the client asks for.
    fn error_page(
        &self,
        _status: StatusCode,
        _host: &str,
        _accept: Option<&[u8]>,
    ) -> Option<(HeaderValue, Bytes)> {
        None
    }
    /// Adds fields to a request that goes to `backend`.
    fn add_fields(&self, _backend: &HttpBackend, _add: &mut dyn FnMut(&[u8], &[u8])) {}
}

/// Who answers.
pub enum Route {
    /// We do.
    Answer(Answer),
    /// We do, with the error page of the status; the reason is for the log.
    Error(StatusCode, String),
    /// We do, with the error page of the refusal's status; it is counted among the others.
    Refusal(Refusal),
    /// A back end.
    Forward(Destination),
}

/// What holds for a request in the place of what the server and the pool say; what is absent is as they say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// From its head to the last byte of its answer.
    pub request_timeout: Option<Duration>,
    /// From its last byte to the first of its answer, and between any two parts of the answer.
    pub response_timeout: Option<Duration>,
    /// How long an answer that is a stream may rest.
    pub stream_timeout: Option<Duration>,
    /// Octets of its body; no more than were let in.
    pub max_body_size: Option<u64>,
    /// Octets of its body that are there before a back end is taken.
    pub buffer_request: Option<u64>,
}

/// Where a request is sent.
pub struct Destination {
    /// What holds for its requests.
    pub terms: Terms,
    pub pool: Arc<HttpPool>,
    /// Which of its back ends may get it.
    pub scope: Scope,
    /// What it says of the back end that it is to go to, where the pool has sessions that stay; `scope` says so, too.
    pub session: Option<Session>,
    /// Back ends tried after the first.
    pub retries: usize,
    /// What it is asked for in the place of the client's target.
    pub target: Option<String>,
    /// What changes of the request's fields.
    pub fields: Option<Arc<Changes>>,
}

/// An answer of our own.
pub struct Answer {
    pub status: StatusCode,
    /// Fields. `Date`, `Connection`, and what [`trivet_http::steps::respond`] says are added, and `Content-Length` if it is
    /// missing.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The body; left out for HEAD.
    pub content: Content,
    /// Whether the connection ends with it.
    pub close: bool,
}

/// The body of an [`Answer`].
pub enum Content {
    /// From memory.
    Memory(Bytes),
    /// So many octets of a file, from where it stands.
    File(tokio::fs::File, u64),
}

impl Content {
    /// Its length in octets.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One server's HTTP.
pub struct Engine<S> {
    service: S,
    policy: Policy,
    limits: Limits,
    admission: Arc<Admission>,
    shutdown: Shutdown,
}

impl<S: Service> Engine<S> {
    /// An engine for `service`.
    pub fn new(
        service: S,
        policy: Policy,
        limits: Limits,
        admission: Arc<Admission>,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        Arc::new(Self { service, policy, limits, admission, shutdown })
    }

    /// Serves one connection until it ends; `endpoints` are its two ends, as a PROXY header tells them to back ends. It ends as
    /// `drain` says.
    pub async fn serve(self: Arc<Self>, io: impl Io, peer: Peer, endpoints: Endpoints, drain: Drain) {
        Connection::new(self, io, peer, endpoints, drain).serve().await;
    }

    /// As [`serve`](Self::serve), but a connection that begins with the preface of HTTP/2 (RFC 9113 section 3.3, prior
    /// knowledge) is handed back, with what was read of it.
    pub async fn serve_or_hand_over<D: Io>(
        self: Arc<Self>,
        io: D,
        peer: Peer,
        endpoints: Endpoints,
        drain: Drain,
    ) -> Option<(D, Vec<u8>)> {
        let mut connection = Connection::new(self, io, peer, endpoints, drain);
        connection.hands_over = true;
        connection.serve().await
    }
}
