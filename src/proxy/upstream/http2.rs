//! Back ends that speak HTTP/2: one request on a connection that others share.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{Method, StatusCode};

use crate::data_sink::DataSink;
use crate::upstream::UpstreamConfig;
use crate::upstream::http2::connections::{Connections, Place};
use trivet_http::body;
use trivet_http::pump::{Sink, Source};
use trivet_http::response::{BadResponse, Response};
use trivet_http::steps::Endpoints;
use trivet_http::websocket::Challenge;

mod connections;

/// How one back end is reached by HTTP/2.
pub(super) struct Http2 {
    scheme: &'static str,
    /// For the settings of a new connection.
    patience: Duration,
    connections: Arc<Connections>,
}

impl Http2 {
    pub(super) fn new(config: UpstreamConfig) -> Self {
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        Self { scheme, patience: config.connect_timeout, connections: Connections::new(config) }
    }

    /// A place for one request, on a connection that is there unless `new` is asked for; and whether it was there.
    pub(super) async fn open(&self, client: Endpoints, new: bool) -> io::Result<(Session, bool)> {
        let (place, reused) = self.connections.place(client, new).await?;
        let session = Session {
            outlet: None,
            tunnel: None,
            answer: Answer::None,
            trailer: Vec::new(),
            scheme: self.scheme,
            patience: self.patience,
            place,
        };
        Ok((session, reused))
    }

    /// Closes connections that have been unused for too long, or are more than `most_idle`.
    pub(super) fn sweep(&self, most_idle: usize) {
        self.connections.sweep(most_idle);
    }
}

/// What has come of the answer.
enum Answer {
    /// Nothing was asked.
    None,
    Head(ResponseFuture),
    Content(RecvStream),
}

/// One request and its answer. Dropped before both are whole, it takes the request back (RFC 9113 section 8.7).
pub(crate) struct Session {
    // In this order: the stream ends, then its place is free.
    outlet: Option<DataSink>,
    /// The client's side of a WebSocket, until it is open, and what would be answered to it in HTTP/1.1.
    tunnel: Option<(DataSink, Challenge)>,
    answer: Answer,
    trailer: Vec<u8>,
    scheme: &'static str,
    patience: Duration,
    place: Place,
}

/// Why there is no head.
pub(crate) enum NoHead {
    /// The back end says that it has done nothing with the request (RFC 9113 section 8.7).
    Unprocessed,
    /// The stream or its connection ended.
    Broken(io::Error),
    /// What came is no head.
    Bad(BadResponse),
}

impl From<h2::Error> for NoHead {
    fn from(e: h2::Error) -> Self {
        let reason = e.reason().filter(|_| e.is_remote());
        let unprocessed = (e.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
            || (e.is_go_away() && reason == Some(h2::Reason::NO_ERROR));
        if unprocessed { Self::Unprocessed } else { Self::Broken(io::Error::other(e.to_string())) }
    }
}

impl Session {
    /// Sends the head of the request; `end` when nothing follows.
    pub(crate) async fn send(&mut self, head: http::Request<()>, end: bool) -> Result<(), NoHead> {
        // Nothing has been sent yet.
        let mut sender = self.place.sender().await.map_err(|_| NoHead::Unprocessed)?;
        let (answer, stream) = sender.send_request(head, end)?;
        self.answer = Answer::Head(answer);
        self.outlet = (!end).then(|| DataSink::new(stream));
        Ok(())
    }

    /// Sends an extended CONNECT (RFC 8441 section 4). The answer will be that which `challenge` demands in HTTP/1.1.
    pub(crate) async fn send_connect(
        &mut self,
        head: http::Request<()>,
        challenge: Challenge,
    ) -> Result<(), NoHead> {
        self.send(head, false).await?;
        // Not before it is open: until then an end of the request's content would be the end of the tunnel.
        self.tunnel = self.outlet.take().map(|outlet| (outlet, challenge));
        Ok(())
    }

    /// Whether the back end takes an extended CONNECT.
    pub(crate) async fn takes_extended_connect(&self) -> bool {
        self.place.takes_extended_connect(self.patience).await
    }

    /// Keeps further requests from the connection: this one has waited for too long on it.
    pub(crate) fn give_up(&self) {
        self.place.give_up();
    }

    /// `https` or `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The next head of an answer, which may be an interim one.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<Response, NoHead>> {
        let Answer::Head(answer) = &mut self.answer else {
            return Poll::Ready(Err(NoHead::Broken(io::ErrorKind::NotConnected.into())));
        };
        // RFC 9113 section 8.6: there is no 101.
        let checked = |response: Response| match response.status {
            101 => Err(NoHead::Bad(BadResponse::Upgrade)),
            _ => Ok(response),
        };
        // When there is nothing of this kind, the call that follows must not be made: an interim answer that came in between
        // would be lost.
        if let Some(interim) = ready!(answer.poll_informational(cx)) {
            let interim = interim?;
            let head = Response::from_http2(interim.status(), interim.headers(), method, false);
            return Poll::Ready(head.map_err(NoHead::Bad).and_then(checked));
        }
        let (head, content) = ready!(Pin::new(answer).poll(cx))?.into_parts();
        let bodiless = content.is_end_stream();
        self.answer = Answer::Content(content);
        let opened = self.tunnel.take().filter(|_| head.status.is_success());
        let Some((outlet, challenge)) = opened else {
            let head = Response::from_http2(head.status, &head.headers, method, bodiless);
            return Poll::Ready(head.map_err(NoHead::Bad).and_then(checked));
        };
        self.outlet = Some(outlet);
        let mut fields = head.headers;
        challenge.meet(&mut fields);
        let head = Response::from_http2(StatusCode::SWITCHING_PROTOCOLS, &fields, method, false);
        Poll::Ready(head.map_err(NoHead::Bad))
    }
}

impl Source for Session {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let error = |e: h2::Error| io::Error::other(e.to_string());
        let Answer::Content(content) = &mut self.answer else { return Poll::Ready(Ok(0)) };
        loop {
            match ready!(content.poll_data(cx)) {
                Some(Ok(data)) => {
                    // What is taken here is on its way: the back end may send as much again.
                    content.flow_control().release_capacity(data.len()).map_err(error)?;
                    if !data.is_empty() {
                        buffer.extend_from_slice(&data);
                        return Poll::Ready(Ok(data.len()));
                    }
                }
                Some(Err(e)) => return Poll::Ready(Err(error(e))),
                None => {
                    if let Some(trailers) = ready!(content.poll_trailers(cx)).map_err(error)? {
                        self.trailer = body::trailer_lines(&trailers);
                    }
                    return Poll::Ready(Ok(0));
                }
            }
        }
    }

    fn trailer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailer)
    }
}

impl Sink for Session {
    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outlet.as_mut().map_or_else(|| Poll::Ready(Err(closed())), |o| o.poll_put(cx, bytes))
    }

    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        n: usize,
    ) -> Poll<io::Result<usize>> {
        self.outlet.as_mut().map_or_else(|| Poll::Ready(Err(closed())), |o| o.poll_take(cx, buffer, n))
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outlet.as_mut().map_or(Poll::Ready(Ok(())), |o| o.poll_push(cx))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, trailer: &[u8]) -> Poll<io::Result<()>> {
        self.outlet.as_mut().map_or(Poll::Ready(Ok(())), |o| o.poll_end(cx, trailer))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}
