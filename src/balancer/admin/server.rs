//! Where commands come in: the control socket, for operators of this node, and a port for the other balancers and gateways, over
//! mutual TLS. HTTP/1 with JSON.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use trivet_balancer_api::{Command, Figures, Orders, Question, Refused};
use trivet_base::process::connections::{serve_each, serve_http1};
use trivet_base::process::unix_socket::Unnamed;
use trivet_base::process::{Beat, Shutdown};
use trivet_tls::stream::Stream;

use super::{Admin, CommandError, troubles};

/// A few operators; and each peer keeps one.
const MAX_CONNECTIONS: usize = 64;
/// A handshake between two nodes takes milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The head of a request; also ends a connection that stays idle.
const HEADER: Duration = Duration::from_secs(30);
/// What a command may take: to be written down, and told to peers that do not answer.
const GRACE: Duration = Duration::from_secs(10);
/// Octets of a request's body.
const MAX_BODY: usize = 8 << 20;
/// Between two rounds in which all is told to all.
pub const ROUND: Duration = Duration::from_secs(5);
/// Who may use the socket: its owner, root, and its group.
const MODE: u32 = 0o660;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Operator,
    Peer,
}

impl Admin {
    /// A socket that is to be at `path`.
    pub fn bind(path: &Path) -> io::Result<Unnamed> {
        Unnamed::bind(path, MODE)
    }

    /// Serves operators until another process has taken over, or this one stops.
    pub async fn serve_operators(self: Arc<Self>, socket: Unnamed, mut shutdown: Shutdown) -> io::Result<()> {
        let listener = socket.publish()?;
        let stopping = shutdown.clone();
        // The process before may have been told something since this one has read it.
        self.take_in_file().await;
        serve_each(listener, MAX_CONNECTIONS, shutdown.wait(), |stream, ending| {
            self.clone().connection(stream, Asker::Operator, stopping.clone(), ending)
        })
        .await;
        Ok(())
    }

    /// Serves the others likewise.
    pub async fn serve_peers(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        mut shutdown: Shutdown,
    ) {
        let stopping = shutdown.clone();
        serve_each(listener, MAX_CONNECTIONS, shutdown.wait(), |stream, ending| {
            let (admin, tls, stopping) = (self.clone(), tls.clone(), stopping.clone());
            async move {
                let accepted = tokio::time::timeout(HANDSHAKE, Stream::accept(stream, tls)).await;
                match accepted {
                    Ok(Ok(stream)) => admin.connection(stream, Asker::Peer, stopping, ending).await,
                    Ok(Err(e)) => tracing::debug!(error = %e, "TLS handshake of the control port refused"),
                    Err(_) => {}
                }
            }
        })
        .await;
    }

    /// Tells all to all, again and again, until another process has taken over, or this one stops.
    pub async fn keep_up(self: Arc<Self>, beat: Beat, mut shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(ROUND);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = ticks.tick() => {}, () = shutdown.wait() => return beat.finish() }
            beat.beat();
            // A disk that stands still, and a peer that does, stop no requests.
            let _rest = beat.rest();
            self.tidy().await;
            let (_, heard) = self.peers.tell(&self.orders()).await;
            self.hear(heard).await;
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        asker: Asker,
        shutdown: Shutdown,
        ending: CancellationToken,
    ) {
        let service = service_fn(|request| {
            let (admin, stopping) = (self.clone(), shutdown.is_stopping());
            async move { Ok::<_, Infallible>(admin.respond(request, asker, stopping).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER);
        if let Err(e) = serve_http1(&http, stream, service, ending.cancelled(), GRACE).await {
            tracing::debug!(error = %e, "control connection");
        }
    }

    async fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        asker: Asker,
        stopping: bool,
    ) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = tokio::time::timeout(HEADER, Limited::new(body, MAX_BODY).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(e)) => return refused(StatusCode::BAD_REQUEST, &e),
            Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, &"the request did not come to its end"),
        };
        match (asker, head.method, head.uri.path()) {
            (Asker::Operator, Method::GET, "/list") => answer(StatusCode::OK, &self.list()),
            (Asker::Operator, Method::GET, "/connections") => answer(StatusCode::OK, &self.connections()),
            (Asker::Operator, Method::GET, "/sessions") => answer(StatusCode::OK, &self.sessions()),
            (Asker::Operator, Method::GET, "/errors") => answer(StatusCode::OK, &troubles::last()),
            (Asker::Operator, Method::GET, "/figures") => {
                let own = Figures { name: self.name(), text: self.figures(), error: None };
                let mut all = vec![own];
                all.extend(self.peers.figures().await);
                answer(StatusCode::OK, &all)
            }
            (Asker::Peer, Method::GET, "/figures") => answer(StatusCode::OK, &self.figures()),
            (Asker::Operator, Method::GET, "/summaries") => {
                let mut all = vec![self.summary(stopping)];
                all.extend(self.peers.summaries().await);
                answer(StatusCode::OK, &all)
            }
            (Asker::Operator, Method::POST, "/route") => match serde_json::from_slice::<Question>(&body) {
                Err(e) => refused(StatusCode::BAD_REQUEST, &e),
                Ok(question) => match self.explain(&question) {
                    Ok(explained) => answer(StatusCode::OK, &explained),
                    Err(why) => refused(StatusCode::CONFLICT, &why),
                },
            },
            (Asker::Peer, Method::GET, "/summary") => answer(StatusCode::OK, &self.summary(stopping)),
            (Asker::Operator, Method::POST, "/command") => match serde_json::from_slice::<Command>(&body) {
                Err(e) => refused(StatusCode::BAD_REQUEST, &e),
                Ok(command) => match self.command(command).await {
                    Ok(done) => answer(StatusCode::OK, &done),
                    Err(e @ CommandError::Store { .. }) => refused(StatusCode::INTERNAL_SERVER_ERROR, &e),
                    Err(e) => refused(StatusCode::CONFLICT, &e),
                },
            },
            (Asker::Peer, Method::POST, "/orders") => match serde_json::from_slice::<Orders>(&body) {
                Err(e) => refused(StatusCode::BAD_REQUEST, &e),
                Ok(orders) => {
                    self.hear(vec![orders]).await;
                    answer(StatusCode::OK, &*self.orders())
                }
            },
            _ => refused(StatusCode::NOT_FOUND, &"this balancer does not know the command"),
        }
    }
}

fn answer(status: StatusCode, document: &impl Serialize) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec(document).unwrap_or_else(|_| Value::Null.to_string().into_bytes());
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refused(status: StatusCode, error: &impl ToString) -> Response<Full<Bytes>> {
    answer(status, &Refused { error: error.to_string() })
}
