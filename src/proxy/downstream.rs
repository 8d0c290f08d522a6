//! Whoever sent a request, as forwarding sees it: a connection of HTTP/1, or a stream of HTTP/2.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::answer::Head;
use crate::exchange::Exchange;
use crate::personal::{Most, PersonalConnections};
use crate::timer::Timer;
use crate::{Engine, Service};
use trivet_http::body::Framing;
use trivet_http::field::Field;
use trivet_http::pump::{Sink, Source};
use trivet_http::request::Request;
use trivet_http::response::{BadResponse, Response};
use trivet_http::steps::{Endpoints, Peer};

/// Whether the connection can carry another request. To a stream of HTTP/2 only [`After::Cut`] differs from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Yes.
    Next,
    /// No; it is closed in order.
    Close,
    /// No, and the client may still be sending.
    Linger,
    /// No, and the client must not take what it has got for the whole.
    Cut,
}

/// An answer that has begun.
pub(super) struct Started {
    /// The head, where it goes before the content; empty where it goes by itself.
    pub(super) head: Vec<u8>,
    /// How the content is framed.
    pub(super) framing: Framing,
    /// What becomes of the connection when all goes well.
    pub(super) after: After,
}

/// Word of progress (RFC 9110 section 15.2).
pub(super) enum Interim {
    /// A back end's.
    Of(Response),
    /// `100 Continue`, for a back end that will not say it.
    Continue,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Whole.
    Whole,
    /// Too early.
    Cut,
    /// Too early, because the client did not take it in time.
    Stalled,
}

/// What is the same for all requests of a client's connection.
pub(super) struct ClientConnection {
    pub(super) peer: Peer,
    pub(super) endpoints: Endpoints,
    pub(super) personal: PersonalConnections,
}

impl ClientConnection {
    pub(super) fn new(peer: Peer, endpoints: Endpoints, most_personal: Most) -> Arc<Self> {
        Arc::new(Self { peer, endpoints, personal: PersonalConnections::new(most_personal) })
    }
}

/// What every side towards a client has.
pub(super) struct Common<S> {
    pub(super) engine: Arc<Engine<S>>,
    pub(super) connection: Arc<ClientConnection>,
    pub(super) timer: Timer,
    /// Room for a head's fields that an earlier head used.
    pub(super) fields: Vec<Field>,
}

/// One side of an exchange: the client's.
pub(super) trait Downstream<S: Service>: Send {
    /// Where the content of its requests comes from.
    type Content: Source;
    /// Where the content of its answers goes.
    type Sink: Sink;

    fn common(&mut self) -> &mut Common<S>;
    /// The content of the request, and what was read of it and not yet used.
    fn content(&mut self) -> (&mut Self::Content, &mut BytesMut);
    /// Takes the answer, once it has [started](Self::start).
    fn sink(&mut self) -> &mut Self::Sink;
    /// Listens for the client's end while it is served. True when it has gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool;
    /// Takes an interim answer, to be told with [`poll_told`](Self::poll_told).
    fn tell(&mut self, request: &Request, interim: Interim);
    /// Ready when interim answers are on their way.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Begins the answer to `request`, when that could be read. An error is an answer that does not switch to what was asked
    /// for.
    fn start(
        &mut self,
        request: Option<&Request>,
        exchange: &Exchange,
        head: Head<'_>,
    ) -> Result<Started, BadResponse>;
    /// The answer has ended.
    fn ended(&mut self, how: Ending);
}
