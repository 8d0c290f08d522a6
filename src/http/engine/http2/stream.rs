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
use http::header::{CONTENT_LENGTH, DATE, EXPECT, HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::{Method, Response as Head, StatusCode, Version};
use tokio::time::Instant;

use super::super::answer;
use super::super::body::{self, Framing};
use super::super::client::{self, After, Begun, Client};
use super::super::connection::{LINGER, LINGER_OCTETS};
use super::super::field::Field;
use super::super::outlet::Outlet;
use super::super::pace::{Late, Pace};
use super::super::pump::{Pump, PumpError, Side, Source};
use super::super::request::Request;
use super::super::response::{BadResponse, Response};
use super::super::timer::Timer;
use super::super::upstream::{Carrier, HttpBackend, Link};
use super::super::websocket;
use super::super::{Answer, Content, Engine, Service};
use super::own_links::OwnLinks;
use super::stalls::Stalls;
use crate::http::exchange::{self, Exchange, Outcome};
use crate::http::head::RequestHead as _;
use crate::http::steps::{self, Endpoints, Peer};

/// What the requests of one connection share.
pub(super) struct Shared {
    pub(super) peer: Peer,
    pub(super) endpoints: Endpoints,
    pub(super) stalls: Stalls,
    /// Octets of requests' content.
    pub(super) taken: AtomicU64,
    pub(super) own_links: OwnLinks,
}

/// The content of a request.
struct Inlet {
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

/// A stream, as forwarding sees it.
pub(super) struct Stream<S> {
    engine: Arc<Engine<S>>,
    shared: Arc<Shared>,
    inlet: Inlet,
    buffer: BytesMut,
    respond: SendResponse<Bytes>,
    outlet: Option<Outlet>,
    /// A head that is made and not yet sent, and whether it is all of the answer.
    head: Option<(Head<()>, bool)>,
    timer: Timer,
    fields: Vec<Field>,
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
        Self {
            engine,
            inlet: Inlet { shared: shared.clone(), stream: body, trailer: Vec::new() },
            shared,
            buffer: BytesMut::new(),
            respond,
            outlet: None,
            head: None,
            timer: Timer::new(step),
            fields: Vec::new(),
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
        match Request::from_http2(&parts, bodiless, self.engine.limits.max_header_fields) {
            Ok(request) => {
                if client::serve(&mut self, &request).await != After::Cut && request.has_body() {
                    self.linger().await;
                }
            }
            Err(refusal) => {
                let (method, peer) = (Some(parts.method), self.shared.peer.address);
                let mut exchange = Exchange::start(method, Some(Version::HTTP_2), Some(peer));
                let target = parts.uri.path_and_query().map_or("", |t| t.as_str());
                exchange.path = exchange::shown(target.as_bytes());
                client::refuse(&mut self, &mut exchange, &refusal, None).await;
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
        self.timer.set(Instant::now() + self.engine.limits.header_timeout);
        let (inlet, buffer, timer) = (&mut self.inlet, &mut self.buffer, &mut self.timer);
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
        let (method, peer) = (Some(parts.method.clone()), self.shared.peer.address);
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

    fn send(&mut self, head: Head<()>, end: bool) -> io::Result<()> {
        let stream = self.respond.send_response(head, end).map_err(|e| io::Error::other(e.to_string()))?;
        if !end {
            self.outlet = Some(Outlet::new(stream));
        }
        Ok(())
    }

    /// Adds what we say on every answer.
    fn finish(&self, head: &mut Head<()>, exchange: &Exchange) {
        let map = head.headers_mut();
        if !map.contains_key(DATE) {
            map.insert(DATE, answer::date());
        }
        let has_hsts = map.contains_key(STRICT_TRANSPORT_SECURITY);
        let policy = &self.engine.policy;
        steps::respond(exchange.admitted.as_ref(), exchange.id(), policy, has_hsts, |name, value| {
            // What is set here is always a field value.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                map.insert(name.clone(), value);
            }
        });
    }

    /// Sends `len` octets of `source`; how many were sent, and why it ended early.
    async fn content(&mut self, mut source: impl Source, len: u64) -> (u64, Result<(), String>) {
        let Some(outlet) = &mut self.outlet else { return (0, Ok(())) };
        let limits = &self.engine.limits;
        let mut pump = Pump::new(Vec::new(), Framing::Length(len), Framing::Close, u64::MAX);
        let mut pace = Pace::new(Side::Sink, Instant::now());
        let mut buffer = BytesMut::new();
        let (timer, shared) = (&mut self.timer, &self.shared);
        let result = std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = pump.poll(cx, &mut source, &mut buffer, outlet) {
                return Poll::Ready(done.map_err(|e: PumpError| e.to_string()));
            }
            pace.note(&pump, Instant::now());
            let slow = pace.is_too_slow(pump.content, limits.min_rate);
            loop {
                // A disk has no deadline here.
                let (deadline, late) = pace.deadline(limits.client_timeout, limits.request_timeout);
                timer.set(deadline);
                if !slow {
                    ready!(timer.poll(cx));
                }
                let (taken, now) = (shared.peer.acknowledged(), Instant::now());
                if !slow
                    && late == Late::Client
                    && pace.excuses(taken, limits.min_rate, limits.client_timeout, now)
                {
                    continue;
                }
                if slow || late == Late::Client {
                    shared.stalls.add(now);
                }
                return Poll::Ready(Err(match (slow, late) {
                    (true, _) => "the client takes the answer too slowly".to_owned(),
                    (_, Late::Client) => "the client does not take the answer".to_owned(),
                    (_, Late::Backend) => "the file could not be read in time".to_owned(),
                }));
            }
        })
        .await;
        (pump.content, result)
    }
}

impl<S: Service> Client<S> for Stream<S> {
    fn engine(&self) -> &Arc<Engine<S>> {
        &self.engine
    }

    fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    fn endpoints(&self) -> Endpoints {
        self.shared.endpoints
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn own_link(&mut self, backend: &Arc<HttpBackend>) -> Option<Link> {
        self.shared.own_links.take(backend)
    }

    fn keep_own_link(&mut self, backend: &Arc<HttpBackend>, link: Link) {
        self.shared.own_links.keep(backend, link);
    }

    fn framing(&self, request: &Request) -> Framing {
        // RFC 9113 section 8.1: the stream ends it. The library holds it to its Content-Length.
        if request.has_body() { Framing::Close } else { Framing::None }
    }

    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        pump: &mut Pump,
        to: &mut Carrier,
    ) -> Poll<Result<(), PumpError>> {
        pump.poll(cx, &mut self.inlet, &mut self.buffer, to)
    }

    fn again(&mut self, pump: &mut Pump, head: Vec<u8>, to: Framing) -> bool {
        pump.again(head, to, &mut self.buffer)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.outlet {
            Some(outlet) => outlet.stream().poll_reset(cx).is_ready(),
            None => self.respond.poll_reset(cx).is_ready(),
        }
    }

    fn tell(&mut self, _: &Request, mut interim: Response) {
        let head = interim.take_http2(|_| false);
        // The end of the stream is noticed elsewhere.
        self.failed |= self.respond.send_informational(head).is_err();
        self.fields = interim.recycle();
    }

    fn tell_continue(&mut self, _: &Request) {
        let mut head = Head::new(());
        *head.status_mut() = StatusCode::CONTINUE;
        self.failed |= self.respond.send_informational(head).is_err();
    }

    fn poll_told(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.failed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }

    fn begin(&mut self, _: &Request, exchange: &Exchange, response: &mut Response, _early: bool) -> Begun {
        let end = matches!(response.framing, Framing::None | Framing::Length(0));
        let mut head = response.take_http2(|_| false);
        self.finish(&mut head, exchange);
        self.head = Some((head, end));
        let framing = if end { Framing::None } else { Framing::Close };
        Begun { head: Vec::new(), framing, after: After::Next }
    }

    fn commit(&mut self) -> io::Result<()> {
        match self.head.take() {
            Some((head, end)) => self.send(head, end),
            None => Ok(()),
        }
    }

    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        pump: &mut Pump,
        link: &mut Link,
    ) -> Poll<Result<(), PumpError>> {
        match &mut self.outlet {
            Some(outlet) => {
                let moved = pump.poll(cx, &mut link.carrier, &mut link.buffer, outlet);
                // The end of a stream whose other half was closed before is seen nowhere else.
                if self.tunnel && moved.is_pending() && outlet.stream().poll_reset(cx).is_ready() {
                    return Poll::Ready(Err(PumpError::Sink(io::ErrorKind::ConnectionReset.into())));
                }
                moved
            }
            None => pump.poll(cx, &mut link.carrier, &mut link.buffer, &mut tokio::io::sink()),
        }
    }

    fn ended(&mut self, cut: bool, stalled: bool) {
        if stalled {
            self.shared.stalls.add(Instant::now());
        }
        // RFC 9113 section 8.1.1: what is not whole must not end as if it were. RFC 8441 section 5: a TCP connection that
        // was reset is CANCEL.
        let reason = if self.tunnel { Reason::CANCEL } else { Reason::INTERNAL_ERROR };
        if let Some(outlet) = self.outlet.as_mut().filter(|_| cut) {
            outlet.stream().send_reset(reason);
        }
    }

    fn room(&mut self) -> &mut Vec<Field> {
        &mut self.fields
    }

    /// HTTP/2 has no upgrades (RFC 9113 section 8.6): what is told is that the CONNECT of RFC 8441 has succeeded.
    fn switch(
        &mut self,
        request: &Request,
        exchange: &Exchange,
        response: &mut Response,
    ) -> Result<(Vec<u8>, u16), BadResponse> {
        let challenge = request.websocket().ok_or(BadResponse::Upgrade)?;
        if !challenge.is_met(response.fields()) {
            return Err(BadResponse::WebSocket);
        }
        let accept = websocket::ACCEPT.as_bytes();
        let mut head = response.take_http2(|name| name.eq_ignore_ascii_case(accept));
        *head.status_mut() = StatusCode::OK;
        self.finish(&mut head, exchange);
        // That the client has gone is seen when the first octets are sent.
        self.failed |= self.send(head, false).is_err();
        self.tunnel = true;
        Ok((Vec::new(), StatusCode::OK.as_u16()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // The stream's end went with the last octets.
        Poll::Ready(())
    }

    async fn answer(&mut self, exchange: &mut Exchange, answer: Answer, request: Option<&Request>) -> After {
        let Answer { status, fields, content, .. } = answer;
        let mut head = Head::new(());
        *head.status_mut() = status;
        for (name, value) in fields {
            head.headers_mut().append(name, value);
        }
        let without = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !without && !head.headers().contains_key(CONTENT_LENGTH) {
            head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
        }
        self.finish(&mut head, exchange);
        let bodiless = without || content.is_empty() || request.is_some_and(|r| *r.method() == Method::HEAD);
        let (sent, result) = match self.send(head, bodiless) {
            Err(e) => (0, Err(e.to_string())),
            Ok(()) if bodiless => (0, Ok(())),
            Ok(()) => {
                let len = content.len();
                match content {
                    Content::Memory(bytes) => self.content(&bytes[..], len).await,
                    Content::File(file, _) => self.content(file, len).await,
                }
            }
        };
        if let Err(why) = &result {
            exchange.reason.get_or_insert_with(|| why.clone());
        }
        exchange.finish(Outcome { status: status.as_u16(), sent, received: 0, aborted: result.is_err() });
        self.ended(result.is_err(), false);
        if result.is_ok() { After::Next } else { After::Cut }
    }
}
