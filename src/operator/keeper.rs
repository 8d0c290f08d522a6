//! Talking to this node's keeper over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use trivet_keeper_api::Refused;

/// The largest answer, in bytes; they are a few lines.
const MAX_BODY: usize = 1 << 20;

/// Why a command brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Not root.
    #[error("{}: permission denied: only root may give the keeper commands", .0.display())]
    Denied(PathBuf),
    /// No keeper here.
    #[error(
        "no keeper listens on {} ({error}): run this on a node with the role database, and look at `systemctl status \
         trivet-keeper`", socket.display()
    )]
    NoKeeper {
        /// Where one was looked for.
        socket: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The keeper's own refusal.
    #[error("{0}")]
    Refused(String),
    /// Neither yes nor no. What was asked for may still happen.
    #[error(
        "the keeper has not answered within {0:?}; what was asked for may still happen: see `trivet status`"
    )]
    Timeout(Duration),
    /// Something that is no answer of a keeper.
    #[error("the keeper's answer makes no sense: {0}")]
    Nonsense(String),
}

/// Gives one command, all within `deadline`.
pub async fn command<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: &impl Serialize,
    deadline: Duration,
) -> Result<T, CommandError> {
    let body = serde_json::to_vec(body).map_err(|e| CommandError::Nonsense(e.to_string()))?;
    tokio::time::timeout(deadline, exchange(socket, method, path, body))
        .await
        .unwrap_or(Err(CommandError::Timeout(deadline)))
}

async fn exchange<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<T, CommandError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => CommandError::Denied(socket.to_owned()),
        _ => CommandError::NoKeeper { socket: socket.to_owned(), error: e },
    })?;
    let nonsense = |e: &dyn std::fmt::Display| CommandError::Nonsense(e.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| nonsense(&e))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "keeper")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| nonsense(&e))?;
    let response = sender.send_request(request).await.map_err(|e| nonsense(&e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| nonsense(&e))?;
    let body = body.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|e| nonsense(&e));
    }
    match serde_json::from_slice::<Refused>(&body) {
        Ok(refused) => Err(CommandError::Refused(refused.error)),
        Err(_) => Err(CommandError::Nonsense(format!("status {status}"))),
    }
}
