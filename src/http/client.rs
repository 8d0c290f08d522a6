//! A small HTTP client for one fixed target: health checks, keeper to keeper, the operator's command.
//!
//! One connection is kept open and reused; a check that finds it closed opens a new one. Every call has a deadline that
//! covers connect, TLS handshake, request and body, so a hung peer costs no more than that.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;

use crate::proxy_protocol;
use trivet_base::address::UNIX;
use trivet_tls::stream::Stream;

/// Where requests go. `address` is `host:port` or `unix:/path`; `tls` holds the client configuration and the name that the peer's
/// certificate must carry.
#[derive(Clone)]
pub struct Target {
    /// `host:port`, as [`TcpStream::connect`] takes it, or `unix:/path`, where no TLS is spoken.
    pub address: String,
    /// The value of the `Host` header.
    pub host: String,
    /// TLS, or plain text when absent.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub method: Method,
    /// In origin form: a path, with its query.
    pub path: String,
    /// The host that is asked for; the target's when absent.
    pub host: Option<String>,
    /// Further fields; none that the connection is about.
    pub fields: HeaderMap,
    pub body: Bytes,
}

impl Ask {
    /// `GET path` of the target's own host.
    pub fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            host: None,
            fields: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

/// Status and body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The whole body, at most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

/// The largest body a call accepts, in bytes. What is asked for here is status text, not data.
pub const MAX_BODY: usize = 1 << 20;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The deadline passed, at whatever step.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// TCP connect failed.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, #[source] std::io::Error),
    /// The TLS handshake failed: wrong certificate, wrong name, no client certificate.
    #[error("TLS with {0}: {1}")]
    Tls(String, #[source] std::io::Error),
    /// The peer spoke no proper HTTP, or closed early.
    #[error("HTTP: {0}")]
    Http(String),
}

impl ClientError {
    /// Whether the other machine was heard: nobody listens there (RFC 9293 section 3.5.2), or whoever does breaks off.
    pub fn is_sign_of_life(&self) -> bool {
        match self {
            // The machine is this one.
            Self::Connect(address, _) if address.starts_with(UNIX) => true,
            Self::Connect(_, e) | Self::Tls(_, e) => {
                matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
            }
            _ => false,
        }
    }
}

/// A client for one target.
pub struct Client {
    target: Target,
    proxy_protocol: Option<proxy_protocol::Version>,
    is_http2: bool,
    connection: Mutex<Option<Sender>>,
}

/// What requests are sent with.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(target: Target) -> Self {
        Self { target, proxy_protocol: None, is_http2: false, connection: Mutex::new(None) }
    }

    /// Begins each connection with a PROXY header that tells our own address.
    pub fn with_proxy_protocol(mut self, version: Option<proxy_protocol::Version>) -> Self {
        self.proxy_protocol = version;
        self
    }

    /// Speaks HTTP/2: the target's TLS configuration must offer it, and nothing else.
    pub fn with_http2(mut self) -> Self {
        self.is_http2 = true;
        self
    }

    /// `GET path`, all within `deadline`.
    pub async fn get(&self, path: &str, deadline: Duration) -> Result<Answer, ClientError> {
        self.ask(&Ask::get(path), deadline).await
    }

    /// `POST path` with JSON in its `body`, all within `deadline`. It may be sent twice.
    pub async fn post(&self, path: &str, body: Bytes, deadline: Duration) -> Result<Answer, ClientError> {
        let fields = HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]);
        self.ask(&Ask { method: Method::POST, fields, body, ..Ask::get(path) }, deadline).await
    }

    /// A connection of its own on which nothing has been said: TCP, and TLS where it is spoken.
    pub async fn reach(&self, deadline: Duration) -> Result<Stream, ClientError> {
        let connected = tokio::time::timeout(deadline, self.open()).await;
        connected.unwrap_or(Err(ClientError::Timeout(deadline)))
    }

    /// Sends a request that may be sent twice, all within `deadline`.
    pub async fn ask(&self, ask: &Ask, deadline: Duration) -> Result<Answer, ClientError> {
        tokio::time::timeout(deadline, self.exchange(ask))
            .await
            .unwrap_or(Err(ClientError::Timeout(deadline)))
    }

    async fn exchange(&self, ask: &Ask) -> Result<Answer, ClientError> {
        // The connection is taken out while in use: a call that is cancelled by its deadline leaves none behind, so
        // the next call never reads the late answer of this one.
        let kept = self.connection.lock().await.take();
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            // An error here may be the peer closing a kept connection just now; the request can be repeated (RFC 9110 section
            // 9.2.2), on a connection that is new.
            if let Ok((answer, keep)) = self.send(&mut sender, ask).await {
                self.keep(sender, keep).await;
                return Ok(answer);
            }
        }
        let mut sender = self.connect().await?;
        let (answer, keep) = self.send(&mut sender, ask).await?;
        self.keep(sender, keep).await;
        Ok(answer)
    }

    async fn keep(&self, sender: Sender, keep: bool) {
        if keep {
            *self.connection.lock().await = Some(sender);
        }
    }

    async fn send(&self, sender: &mut Sender, ask: &Ask) -> Result<(Answer, bool), ClientError> {
        let host = ask.host.as_ref().unwrap_or(&self.target.host).as_str();
        let request = Request::builder().method(ask.method.clone());
        let request = match sender {
            Sender::Http1(_) => request.uri(&ask.path).header(http::header::HOST, host),
            Sender::Http2(_) => {
                let scheme = if self.target.tls.is_some() { "https" } else { "http" };
                request.uri(format!("{scheme}://{host}{}", ask.path)).version(Version::HTTP_2)
            }
        };
        let mut request =
            request.body(Full::new(ask.body.clone())).map_err(|e| ClientError::Http(e.to_string()))?;
        request.headers_mut().extend(ask.fields.clone());
        let response = sender.send(request).await.map_err(|e| ClientError::Http(e.to_string()))?;
        let close = response.headers().get(http::header::CONNECTION).is_some_and(|v| v == "close");
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|e| ClientError::Http(e.to_string()))?
            .to_bytes();
        Ok((Answer { status, body }, !close))
    }

    async fn connect(&self) -> Result<Sender, ClientError> {
        handshake(TokioIo::new(self.open().await?), self.is_http2).await
    }

    async fn open(&self) -> Result<Stream, ClientError> {
        let address = &self.target.address;
        let failed = |e| ClientError::Connect(address.clone(), e);
        if let Some(path) = address.strip_prefix(UNIX) {
            let mut unix = UnixStream::connect(path).await.map_err(failed)?;
            if let Some(version) = self.proxy_protocol {
                let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                unix.write_all(&proxy_protocol::write_own(version, here, here)).await.map_err(failed)?;
            }
            return Ok(Stream::Unix(unix));
        }
        let mut tcp = TcpStream::connect(address).await.map_err(failed)?;
        // A check is one small write; Nagle's algorithm would only delay it.
        let _ = tcp.set_nodelay(true);
        if let Some(version) = self.proxy_protocol {
            let (own, remote) = (tcp.local_addr().map_err(failed)?, tcp.peer_addr().map_err(failed)?);
            let header = proxy_protocol::write_own(version, own, remote);
            tcp.write_all(&header).await.map_err(failed)?;
        }
        match &self.target.tls {
            None => Ok(Stream::Plain(tcp)),
            Some((config, name)) => Stream::connect(tcp, config.clone(), name.clone())
                .await
                .map_err(|e| ClientError::Tls(address.clone(), e)),
        }
    }
}

async fn handshake(io: TokioIo<Stream>, is_http2: bool) -> Result<Sender, ClientError> {
    let error = |e: hyper::Error| ClientError::Http(e.to_string());
    // Errors of a connection reach the caller through its sender.
    if is_http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(error)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::handshake(io).await.map_err(error)?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Sender::Http1(sender))
}

#[cfg(test)]
mod tests;
