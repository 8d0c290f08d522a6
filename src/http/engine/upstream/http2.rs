//! Back ends that speak HTTP/2: Pingora's connector makes and keeps the connections and shares each among requests.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Method};
use pingora::connectors::http::v2::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use pingora::utils::tls::CertKey;

use super::super::body;
use super::super::outlet::Outlet;
use super::super::pump::{Sink, Source};
use super::super::response::{BadResponse, Response};
use super::Reach;
use crate::http::proxy_protocol;
use crate::http::steps::Endpoints;

/// Requests on one connection at a time; a back end may allow fewer.
const MOST_STREAMS: usize = 100;
/// Content of answers that a back end may send ahead of what clients take (RFC 9113 section 6.9), for one request and in
/// all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How one back end is reached by HTTP/2.
pub struct Http2 {
    connector: Arc<Connector>,
    peer: HttpPeer,
    send_proxy_protocol: Option<proxy_protocol::Version>,
    idle_timeout: Duration,
}

impl Http2 {
    /// To where `reach` leads; over TLS with our certificate, and the name that the back end's must carry, in `tls`.
    /// `connector` may be shared by all back ends.
    pub fn new(connector: Arc<Connector>, reach: &Reach, tls: Option<(Arc<CertKey>, &str)>) -> Arc<Self> {
        // A name, never empty: without one Pingora verifies nothing.
        let name = tls.as_ref().map_or_else(|| reach.address.to_string(), |(_, name)| (*name).to_owned());
        let mut peer = HttpPeer::new(reach.address, tls.is_some(), name);
        peer.client_cert_key = tls.map(|(identity, _)| identity);
        let options = &mut peer.options;
        options.set_http_version(2, 2);
        options.max_h2_streams = MOST_STREAMS;
        options.connection_timeout = Some(reach.connect_timeout);
        // TCP connect and TLS handshake have connection_timeout each.
        options.total_connection_timeout = Some(reach.connect_timeout * 2);
        options.h2_stream_window_size = Some(STREAM_WINDOW);
        options.h2_connection_window_size = Some(CONNECTION_WINDOW);
        let Reach { send_proxy_protocol, idle_timeout, .. } = *reach;
        Arc::new(Self { connector, peer, send_proxy_protocol, idle_timeout })
    }

    /// `https` or `http`, as the pseudo header field has it.
    pub fn scheme(&self) -> &'static str {
        if self.peer.tls() { "https" } else { "http" }
    }

    /// A place for one request, on a connection that is there unless `new` is asked for.
    pub(super) async fn open(self: &Arc<Self>, client: Endpoints, new: bool) -> io::Result<(Session, bool)> {
        let mut peer = Box::new(self.peer.clone());
        if let Some(version) = self.send_proxy_protocol {
            proxy_protocol::dial(&mut peer, version, client);
        }
        let of = |inner| Session {
            inner: Some(inner),
            outlet: None,
            http2: self.clone(),
            peer: peer.clone(),
            trailer: Vec::new(),
        };
        if !new {
            // An error here means that the kept connection is no good.
            if let Ok(Some(session)) = self.connector.reused_http_session(&*peer).await {
                return Ok((of(session), true));
            }
        }
        match self.connector.new_http_session::<_, ()>(&*peer).await {
            Ok(HttpSession::H2(session)) => Ok((of(session), false)),
            Ok(_) => Err(io::Error::other("the back end does not speak HTTP/2")),
            Err(e) => Err(io::Error::other(one_line(&e))),
        }
    }
}

/// One request and its answer.
pub(crate) struct Session {
    inner: Option<Http2Session>,
    outlet: Option<Outlet>,
    http2: Arc<Http2>,
    peer: Box<HttpPeer>,
    trailer: Vec<u8>,
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

impl Session {
    /// Sends the head of the request; `end` when nothing follows.
    pub(crate) fn send(&mut self, head: http::Request<()>, end: bool) -> io::Result<()> {
        let Some(inner) = &mut self.inner else { return Err(io::ErrorKind::NotConnected.into()) };
        let (parts, ()) = head.into_parts();
        inner
            .write_request_header(Box::new(RequestHeader::from(parts)), end)
            .map_err(|e| io::Error::other(one_line(&e)))?;
        if !end {
            self.outlet = inner.take_request_body_writer().map(Outlet::new);
        }
        Ok(())
    }

    /// `https` or `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        self.http2.scheme()
    }

    /// The head of the answer. (Interim answers are not handed out by the library.)
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<Response, NoHead>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err(NoHead::Broken(io::ErrorKind::NotConnected.into())));
        };
        if let Err(e) = ready!(inner.poll_read_response_header(cx)) {
            let reason = e.reason().filter(|_| e.is_remote());
            let unprocessed = (e.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
                || (e.is_go_away() && reason == Some(h2::Reason::NO_ERROR));
            return Poll::Ready(Err(if unprocessed {
                NoHead::Unprocessed
            } else {
                NoHead::Broken(io::Error::other(e.to_string()))
            }));
        }
        let bodiless = inner.response_finished();
        let Some(head) = inner.response_header() else {
            return Poll::Ready(Err(NoHead::Broken(io::ErrorKind::UnexpectedEof.into())));
        };
        Poll::Ready(Response::from_http2(head.status, &head.headers, method, bodiless).map_err(NoHead::Bad))
    }

    fn poll_trailer(&mut self, cx: &mut Context<'_>) -> Poll<Option<HeaderMap>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        // Nothing is lost when this future is dropped: what it waits for stays with the stream.
        let trailers = pin!(inner.read_trailers());
        trailers.poll(cx).map(|trailers| trailers.ok().flatten())
    }
}

impl Source for Session {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            let Some(inner) = &mut self.inner else { return Poll::Ready(Ok(0)) };
            match ready!(inner.poll_read_response_body(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    buffer.extend_from_slice(&data);
                    return Poll::Ready(Ok(data.len()));
                }
                Some(Err(e)) => return Poll::Ready(Err(io::Error::other(e.to_string()))),
                None => {
                    if let Some(trailers) = ready!(self.poll_trailer(cx)) {
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
}

impl Drop for Session {
    fn drop(&mut self) {
        // Before the stream's place is given back: what is unfinished is reset.
        self.outlet = None;
        if let Some(inner) = self.inner.take() {
            self.http2.connector.release_http_session(inner, &*self.peer, Some(self.http2.idle_timeout));
        }
    }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

fn one_line(e: &pingora::Error) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
