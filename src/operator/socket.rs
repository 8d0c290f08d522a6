//! Giving a program of this node a command over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// The largest answer, in bytes: a balancer may have thousands of connections to tell of.
const MAX_BODY: usize = 32 << 20;

/// A program that takes commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Keeper,
    /// A balancer or a database gateway.
    Balancer,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Balancer => "balancer",
        }
    }

    fn who_may(self) -> &'static str {
        match self {
            Self::Keeper => "only root may give the keeper commands",
            Self::Balancer => "only root and the socket's group may give the balancer commands",
        }
    }

    fn where_it_is(self) -> &'static str {
        match self {
            Self::Keeper => {
                "run this on a node with the role database, and look at `systemctl status trivet-keeper`"
            }
            Self::Balancer => {
                "run this on a node with the role balancer or app, and look at `systemctl status trivet-balancer trivet-gateway`"
            }
        }
    }
}

/// Why a command brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Another user.
    #[error("{}: permission denied: {}", .socket.display(), .program.who_may())]
    Denied { program: Program, socket: PathBuf },
    /// None here.
    #[error("no {} listens on {} ({error}): {}", .program.name(), .socket.display(), .program.where_it_is())]
    Absent { program: Program, socket: PathBuf, error: io::Error },
    /// The program's own refusal.
    #[error("{0}")]
    Refused(String),
    /// Neither yes nor no. What was asked for may still happen.
    #[error(
        "the {} has not answered within {deadline:?}; what was asked for may still happen: see `trivet status`",
        .program.name()
    )]
    Timeout { program: Program, deadline: Duration },
    /// Something that is no answer of such a program.
    #[error("the {}'s answer makes no sense: {why}", .program.name())]
    Nonsense { program: Program, why: String },
}

/// What every refusal says.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// Gives one command, all within `deadline`.
pub async fn command<T: DeserializeOwned>(
    program: Program,
    socket: &Path,
    method: Method,
    path: &str,
    body: &impl Serialize,
    deadline: Duration,
) -> Result<T, CommandError> {
    let nonsense = |e: serde_json::Error| CommandError::Nonsense { program, why: e.to_string() };
    let body = serde_json::to_vec(body).map_err(nonsense)?;
    tokio::time::timeout(deadline, exchange(program, socket, method, path, body))
        .await
        .unwrap_or(Err(CommandError::Timeout { program, deadline }))
}

async fn exchange<T: DeserializeOwned>(
    program: Program,
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<T, CommandError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => CommandError::Denied { program, socket: socket.to_owned() },
        _ => CommandError::Absent { program, socket: socket.to_owned(), error: e },
    })?;
    let nonsense = |e: &dyn std::fmt::Display| CommandError::Nonsense { program, why: e.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| nonsense(&e))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, program.name())
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
        Err(_) => Err(nonsense(&format_args!("status {status}"))),
    }
}
