//! One request of an HTTP/2 connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{Method, StatusCode, Version};
use tokio::time::Instant;

use crate::answer::Head;
use crate::data_sink::DataSink;
use crate::downstream::{After, ClientConnection, Common, Downstream, Ending, Interim, Started};
use crate::exchange::{self, Exchange, Outcome};
use crate::http1::{LINGER, LINGER_OCTETS};
use crate::http2::stalls::Stalls;
use crate::timer::Timer;
use crate::{Engine, Service, serve};
use trivet_http::body::{self, Framing};
use trivet_http::pump::{Sink, Source};
use trivet_http::request::Request;
use trivet_http::response::BadResponse;
use trivet_http::websocket;

/// What the requests of one connection share.
pub(super) struct Shared {
    pub(super) connection: Arc<ClientConnection>,
    pub(super) stalls: Stalls,
    /// Octets of requests' content.
    pub(super) taken: AtomicU64,
}

/// The content of a request.
pub(super) struct Inlet {
    shared: Arc<Shared>,
    stream: RecvStream,
    trailer: Vec<u8>,
}

impl Source for Inlet {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let error = |e: h2::Error| io::Error::other(e.to_string());
        loop {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // What is taken here is on its way: the client may send as much again.
                    self.stream.flow_control().release_capacity(data.len()).map_err(error)?;
                    self.shared.taken.fetch_add(data.len() as u64, Ordering::Relaxed);
                    if !data.is_empty() {
                        buffer.extend_from_slice(&data);
                        return Poll::Ready(Ok(data.len()));
                    }
                }
                Some(Err(e)) => return Poll::Ready(Err(error(e))),
                None => {
                    if let Some(trailers) = ready!(self.stream.poll_trailers(cx)).map_err(error)? {
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

/// The answer to a request: its head, which goes with what comes first, and its content.
pub(super) struct Reply {
    respond: SendResponse<Bytes>,
    /// A head that is made and not yet sent.
    head: Option<http::Response<()>>,
    outlet: Option<DataSink>,
}

impl Reply {
    /// What carries the content, after the head.
    fn outlet(&mut self) -> io::Result<&mut DataSink> {
        if let Some(head) = self.head.take() {
            let stream =
                self.respond.send_response(head, false).map_err(|e| io::Error::other(e.to_string()))?;
            self.outlet = Some(DataSink::new(stream));
        }
        self.outlet.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Sink for Reply {
    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outlet()?.poll_put(cx, bytes)
    }

    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        n: usize,
    ) -> Poll<io::Result<usize>> {
        self.outlet()?.poll_take(cx, buffer, n)
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outlet()?.poll_push(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, trailer: &[u8]) -> Poll<io::Result<()>> {
        if let Some(head) = self.head.take_if(|_| trailer.is_empty()) {
            let sent = self.respond.send_response(head, true);
            return Poll::Ready(sent.map(|_| ()).map_err(|e| io::Error::other(e.to_string())));
        }
        self.outlet()?.poll_end(cx, trailer)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.outlet {
            Some(outlet) => outlet.stream().poll_reset(cx).map(|_| ()),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // The stream's end went with the last octets.
        Poll::Ready(())
    }
}

/// A stream, as forwarding sees it.
pub(super) struct Stream<S> {
    common: Common<S>,
    shared: Arc<Shared>,
    inlet: Inlet,
    buffer: BytesMut,
    reply: Reply,
    failed: bool,
    /// What the client asked for is open, and the stream carries its octets.
    tunnel: bool,
}

impl<S: Service> Stream<S> {
    pub(super) fn new(
        engine: Arc<Engine<S>>,
        shared: Arc<Shared>,
        body: RecvStream,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let limits = &engine.limits;
        let step = limits.header_timeout.min(limits.client_timeout).max(Duration::from_millis(1));
        let (timer, connection) = (Timer::new(step), shared.connection.clone());
        Self {
            common: Common { engine, connection, timer, fields: Vec::new() },
            inlet: Inlet { shared: shared.clone(), stream: body, trailer: Vec::new() },
            shared,
            buffer: BytesMut::new(),
            reply: Reply { respond, head: None, outlet: None },
            failed: false,
            tunnel: false,
        }
    }

    /// Serves the request.
    pub(super) async fn serve(mut self, parts: http::request::Parts) {
        let bodiless = self.inlet.stream.is_end_stream()
            || match self.ends_at_once(&parts).await {
                Ok(ends) => ends,
                Err(_) => return self.left(&parts),
            };
        match Request::from_http2(&parts, bodiless, self.common.engine.limits.max_header_fields) {
            Ok(request) => {
                if serve::serve(&mut self, &request).await != After::Cut && request.has_body() {
                    self.linger().await;
                }
            }
            Err(refusal) => {
                let (method, peer) = (Some(parts.method), self.shared.connection.peer.address);
                let mut exchange = Exchange::start(method, Some(Version::HTTP_2), Some(peer));
                let target = parts.uri.path_and_query().map_or("", |t| t.as_str());
                exchange.path = exchange::shown(target.as_bytes());
                serve::refuse(&mut self, &mut exchange, &refusal, None).await;
            }
        }
    }

    /// Whether a request that usually has no content has none although its stream goes on: some clients end it by an empty
    /// frame of its own, and to a back end it should look as from any other.
    async fn ends_at_once(&mut self, parts: &http::request::Parts) -> io::Result<bool> {
        let usual = parts.method.is_safe() || parts.method == Method::DELETE;
        let says = [CONTENT_LENGTH, EXPECT].iter().any(|name| parts.headers.contains_key(name));
        if !usual || says || parts.extensions.get::<Protocol>().is_some() {
            return Ok(false);
        }
        self.common.timer.set(Instant::now() + self.common.engine.limits.header_timeout);
        let (inlet, buffer, timer) = (&mut self.inlet, &mut self.buffer, &mut self.common.timer);
        std::future::poll_fn(|cx| match inlet.poll_fill(cx, buffer) {
            // Trailers make it content that is merely empty.
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(inlet.trailer.is_empty())),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(false)),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            // Later than this it is content that pauses.
            Poll::Pending => timer.poll(cx).map(|()| Ok(false)),
        })
        .await
    }

    /// The client has taken its request back before all of it was there.
    fn left(&self, parts: &http::request::Parts) {
        let (method, peer) = (Some(parts.method.clone()), self.shared.connection.peer.address);
        let mut exchange = Exchange::start(method, Some(Version::HTTP_2), Some(peer));
        let target = parts.uri.path_and_query().map_or("", |t| t.as_str());
        exchange.path = exchange::shown(target.as_bytes());
        exchange.reason = Some("the client has gone".into());
        exchange.finish(Outcome { aborted: true, ..Outcome::default() });
    }

    /// Takes what the client still sends of a request that was answered before its end: some take the reset of their stream
    /// for the answer (RFC 9113 section 8.1).
    async fn linger(&mut self) {
        let mut most = LINGER_OCTETS;
        let (inlet, buffer) = (&mut self.inlet, &mut self.buffer);
        let listen = std::future::poll_fn(|cx| {
            loop {
                buffer.clear();
                match ready!(inlet.poll_fill(cx, buffer)) {
                    Ok(n @ 1..) if n <= most => most -= n,
                    _ => return Poll::Ready(()),
                }
            }
        });
        let _ = tokio::time::timeout(LINGER, listen).await;
    }
}

impl<S: Service> Downstream<S> for Stream<S> {
    type Content = Inlet;
    type Sink = Reply;

    fn common(&mut self) -> &mut Common<S> {
        &mut self.common
    }

    fn content(&mut self) -> (&mut Inlet, &mut BytesMut) {
        (&mut self.inlet, &mut self.buffer)
    }

    fn sink(&mut self) -> &mut Reply {
        &mut self.reply
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        self.reply.poll_reset(cx).is_ready()
    }

    fn tell(&mut self, _: &Request, interim: Interim) {
        let head = match interim {
            Interim::Of(mut response) => {
                let head = response.take_http2(|_| false);
                self.common.fields = response.recycle();
                head
            }
            Interim::Continue => {
                let mut head = http::Response::new(());
                *head.status_mut() = StatusCode::CONTINUE;
                head
            }
        };
        // The end of the stream is noticed elsewhere.
        self.failed |= self.reply.respond.send_informational(head).is_err();
    }

    fn poll_told(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.failed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }

    /// HTTP/2 has no upgrades (RFC 9113 section 8.6): a switch is told as the success of the CONNECT of RFC 8441.
    fn start(
        &mut self,
        request: Option<&Request>,
        exchange: &Exchange,
        head: Head<'_>,
    ) -> Result<Started, BadResponse> {
        let (is_bodiless, is_switch) = match &head {
            Head::Relayed { response, .. } => {
                (matches!(response.framing, Framing::None | Framing::Length(0)), false)
            }
            Head::Own(answer) => (answer.is_bodiless(request) || answer.content.is_empty(), false),
            Head::Switch(response) => {
                let challenge = request.and_then(Request::websocket).ok_or(BadResponse::Upgrade)?;
                if !challenge.is_met(response.fields()) {
                    return Err(BadResponse::WebSocket);
                }
                (false, true)
            }
        };
        let accept = websocket::ACCEPT.as_bytes();
        let dropped = |name: &[u8]| is_switch && name.eq_ignore_ascii_case(accept);
        let mut head = head.into_http2(exchange, &self.common.engine.policy, dropped);
        if is_switch {
            *head.status_mut() = StatusCode::OK;
            self.tunnel = true;
        }
        self.reply.head = Some(head);
        let framing = if is_bodiless { Framing::None } else { Framing::Close };
        Ok(Started { head: Vec::new(), framing, after: After::Next })
    }

    fn ended(&mut self, how: Ending) {
        if how == Ending::Stalled {
            self.shared.stalls.add(Instant::now());
        }
        // RFC 9113 section 8.1.1: what is not whole must not end as if it were. RFC 8441 section 5: a TCP connection that
        // was reset is CANCEL.
        let reason = if self.tunnel { Reason::CANCEL } else { Reason::INTERNAL_ERROR };
        if let Some(outlet) = self.reply.outlet.as_mut().filter(|_| how != Ending::Whole) {
            outlet.stream().send_reset(reason);
        }
    }
}
