//! The keeper's HTTP over mutual TLS. Every answer comes from the board; nothing here waits for mysqld.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use trivet_base::process::Shutdown;
use trivet_base::process::connections::{serve_each, serve_http1};

use super::board::Board;
use super::verdict::{self, No};

/// Gateways and peers keep one connection each; a cluster has a few dozen at most.
const MAX_CONNECTIONS: usize = 256;
/// A handshake between two nodes takes milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The head of a request; also ends a connection that stays idle, since the next head never comes.
const HEADER: Duration = Duration::from_secs(30);

/// The routes.
pub fn router(board: Arc<Board>) -> Router {
    Router::new()
        .route("/primary", get(primary))
        .route("/replica", get(replica))
        .route("/health", get(health))
        .route("/state", get(state))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "only /primary, /replica, /health and /state are here\n")
        })
        .with_state(board)
}

/// How long an answer waits for a look that the question asked for.
const LOOK: Duration = Duration::from_millis(80);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrimaryQuery {
    look: Option<Look>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Look {
    Now,
}

async fn primary(
    State(board): State<Arc<Board>>,
    query: Result<Query<PrimaryQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match query {
        Ok(Query(PrimaryQuery { look: Some(Look::Now) })) => board.look_now(LOOK).await,
        Ok(_) => {}
        Err(e) => return (StatusCode::BAD_REQUEST, format!("{e}\n")).into_response(),
    }
    answer(&board, "primary", verdict::primary(&board.facts(Instant::now())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaQuery {
    max_lag: Option<String>,
}

async fn replica(
    State(board): State<Arc<Board>>,
    query: Result<Query<ReplicaQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let max_lag = match query.map_err(|e| e.to_string()).and_then(|Query(q)| parse_lag(q.max_lag.as_deref()))
    {
        Ok(max_lag) => max_lag,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    };
    answer(&board, "replica", verdict::replica(&board.facts(Instant::now()), max_lag))
}

/// A duration as in the configuration, or a plain number of seconds.
fn parse_lag(text: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map(Some).map_err(|e| format!("max_lag: {e}"));
    }
    humantime::parse_duration(text).map(Some).map_err(|e| format!("max_lag: {e}; write for example 5s"))
}

/// Short, because gateways ask several times a second.
fn answer(board: &Board, question: &str, verdict: Result<(), No>) -> Response {
    let node = &board.cluster().me;
    match verdict {
        Ok(()) => (StatusCode::OK, Json(json!({"node": node, question: true}))).into_response(),
        Err(No { reason, draining }) => {
            let no = json!({"node": node, question: false, "reason": reason, "draining": draining});
            (StatusCode::SERVICE_UNAVAILABLE, Json(no)).into_response()
        }
    }
}

async fn health(State(board): State<Arc<Board>>) -> Response {
    let now = Instant::now();
    let status = match verdict::health(&board.facts(now)) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(board.report(now))).into_response()
}

async fn state(State(board): State<Arc<Board>>) -> Response {
    Json(board.report(Instant::now())).into_response()
}

/// Serves until stopping is asked for, then lets requests in flight finish (its caller limits how long).
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, mut shutdown: Shutdown) {
    let acceptor = TlsAcceptor::from(tls);
    serve_each(listener, MAX_CONNECTIONS, shutdown.wait(), |stream, ending| {
        connection(stream, acceptor.clone(), router.clone(), ending)
    })
    .await;
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router, ending: CancellationToken) {
    let peer = stream.peer_addr().map(|a| a.to_string()).unwrap_or_default();
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            metrics::counter!("trivet_keeper_handshakes_refused_total").increment(1);
            tracing::debug!(peer, error = %e, "TLS handshake refused");
            return;
        }
        Err(_) => return,
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER);
    let service = TowerToHyperService::new(router);
    if let Err(e) = serve_http1(&http, stream, service, ending.cancelled(), HEADER).await {
        tracing::debug!(peer, error = %e, "connection");
    }
}

#[cfg(test)]
mod tests;
