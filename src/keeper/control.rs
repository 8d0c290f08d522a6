//! Commands for this node's keeper: HTTP over a unix socket that only root, or the keeper's own user, may use.
//!
//! They change who takes writes, so they are not on the network: whoever may give them is root on a node already.
//! Two locks: the socket is 0600, and the peer's user is asked of the kernel (`SO_PEERCRED`, unix(7)).

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use trivet_base::process::Shutdown;
use trivet_base::process::connections::{serve_each, serve_http1};

use super::board::Board;
use super::leave;
use super::model::Force;
use super::switchover::{Outcome, Switchover};
use trivet_keeper_api::{
    ForcePlan, ForceRequest, PrepareStopAnswer, Refused, SwitchoverAnswer, SwitchoverRequest,
};

/// MySQL's part of a switchover that an operator asked for.
const MOVE: Duration = Duration::from_secs(30);
/// The head of a request.
const HEADER: Duration = Duration::from_secs(5);
/// An operator and the unit of mysqld, each with one.
const MAX_CONNECTIONS: usize = 16;

/// What commands work on.
#[derive(Clone)]
pub struct Control {
    /// What is known.
    pub board: Arc<Board>,
    /// Moves the primary.
    pub switchover: Arc<Switchover>,
    /// Leads to the one that bootstraps.
    pub force: mpsc::Sender<Force>,
    commands: TaskTracker,
}

impl Control {
    pub fn new(board: Arc<Board>, switchover: Arc<Switchover>, force: mpsc::Sender<Force>) -> Self {
        Self { board, switchover, force, commands: TaskTracker::new() }
    }
}

fn router(control: Control) -> Router {
    Router::new()
        .route("/switchover", post(switchover))
        .route("/prepare-stop", post(prepare_stop))
        .route("/force-bootstrap", post(force_bootstrap))
        .fallback(|| async { refused(StatusCode::NOT_FOUND, "this keeper does not know the command") })
        .with_state(control)
}

fn refused(status: StatusCode, error: impl ToString) -> Response {
    (status, Json(Refused { error: error.to_string() })).into_response()
}

async fn switchover(State(control): State<Control>, Json(request): Json<SwitchoverRequest>) -> Response {
    let begun = Instant::now();
    // In a task of its own: a command that is interrupted at the terminal must not leave half of it undone.
    let task = control
        .commands
        .clone()
        .spawn(async move { control.switchover.run(request.to.as_deref(), MOVE).await });
    let answer = |primary, from| {
        Json(SwitchoverAnswer { primary, from, seconds: begun.elapsed().as_secs_f64() }).into_response()
    };
    match task.await {
        Ok(Ok(Outcome::Moved(moved))) => answer(moved.to, Some(moved.from)),
        Ok(Ok(Outcome::Nothing(primary))) => answer(primary, None),
        Ok(Err(e)) => refused(StatusCode::CONFLICT, e),
        Err(e) => refused(StatusCode::INTERNAL_SERVER_ERROR, e),
    }
}

async fn prepare_stop(State(control): State<Control>) -> Response {
    let task = control
        .commands
        .clone()
        .spawn(async move { leave::prepare(&control.board, &control.switchover).await });
    match task.await {
        Ok(done) => {
            tracing::info!(done, "mysqld is about to stop");
            Json(PrepareStopAnswer { done }).into_response()
        }
        Err(e) => refused(StatusCode::INTERNAL_SERVER_ERROR, e),
    }
}

async fn force_bootstrap(State(control): State<Control>, Json(request): Json<ForceRequest>) -> Response {
    let (answer, outcome) = oneshot::channel();
    let force = Force { node: request.node, token: request.token, answer };
    if control.force.try_send(force).is_err() {
        return refused(StatusCode::CONFLICT, "the keeper is busy with the same, or stopping");
    }
    match outcome.await {
        Ok(Ok(plan)) => Json::<ForcePlan>(plan).into_response(),
        Ok(Err(why)) => refused(StatusCode::CONFLICT, why),
        Err(_) => refused(StatusCode::CONFLICT, "the keeper is stopping"),
    }
}

/// A listener at `path`, for the keeper's own user alone. A socket that nobody listens on any more is replaced; anything else
/// that has the name is left alone, and is an error.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another keeper listens there")),
        // So it is where a file of another kind stands (unix(7)).
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file that is no socket",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until stopping is asked for, then waits for the commands that are carried out (its caller limits how long). `path` is
/// where the listener is bound: its owner is the keeper's own user.
pub async fn serve(listener: UnixListener, path: &Path, control: Control, shutdown: Shutdown) {
    let own = std::fs::metadata(path).map(|m| m.uid()).unwrap_or(0);
    let commands = control.commands.clone();
    serve_router(listener, own, router(control), commands, shutdown).await;
}

async fn serve_router(
    listener: UnixListener,
    own: u32,
    router: Router,
    commands: TaskTracker,
    mut shutdown: Shutdown,
) {
    serve_each(listener, MAX_CONNECTIONS, shutdown.wait(), |stream, ending| {
        connection(stream, own, router.clone(), ending)
    })
    .await;
    commands.close();
    commands.wait().await;
}

fn may_command(stream: &UnixStream, own: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

async fn connection(stream: UnixStream, own: u32, router: Router, ending: CancellationToken) {
    if !may_command(&stream, own) {
        return tracing::warn!("a user other than root tried to give the keeper a command");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER);
    let service = TowerToHyperService::new(router);
    // What is carried out is answered, however long it takes: its caller limits the wait.
    if let Err(e) = serve_http1(&http, stream, service, ending.cancelled(), MOVE).await {
        tracing::debug!(error = %e, "connection to the control socket");
    }
}

#[cfg(test)]
mod tests;
