//! An app for the web tier to stand in front of: plain HTTP/1.1, with the failures that stories need.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::backend::{find, refused};

/// What the app does with a request that is not a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Answers.
    Serve,
    /// Answers 500.
    Fail,
    /// Reads the request and closes the connection.
    HangUp,
    /// As `HangUp`, unless the request is the connection's first: a server that closed an idle connection just now.
    HangUpWhenKept,
    /// Reads the request and says nothing more.
    Hang,
    /// Answers when [`App::release`] is called.
    Wait,
}

struct State {
    name: String,
    act: Mutex<Act>,
    well: Mutex<bool>,
    seen: Mutex<Vec<String>>,
    accepted: AtomicUsize,
    released: CancellationToken,
    killed: CancellationToken,
}

impl State {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            act: Mutex::new(Act::Serve),
            well: Mutex::new(true),
            seen: Mutex::default(),
            accepted: AtomicUsize::new(0),
            released: CancellationToken::new(),
            killed: CancellationToken::new(),
        })
    }
}

async fn accept_all<S: Stream>(accept: impl AsyncFn() -> S, state: Arc<State>) {
    let killed = state.killed.clone();
    loop {
        tokio::select! {
            stream = accept() => {
                let (state, killed) = (state.clone(), killed.clone());
                tokio::spawn(async move {
                    state.accepted.fetch_add(1, Ordering::SeqCst);
                    tokio::select! { _ = serve(stream, state) => {} () = killed.cancelled() => {} }
                });
            }
            () = killed.cancelled() => return,
        }
    }
}

/// A connection.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

pub struct App {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl App {
    pub async fn start(name: &str) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), name).await
    }

    pub async fn start_at(address: SocketAddr, name: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State::new(name);
        let accept = async move || listener.accept().await.unwrap().0;
        tokio::spawn(accept_all(accept, state.clone()));
        Self { address, state }
    }

    /// Listens on a unix socket: its `address` is none.
    pub async fn start_on_socket(path: &Path, name: &str) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = State::new(name);
        let accept = async move || listener.accept().await.unwrap().0;
        tokio::spawn(accept_all(accept, state.clone()));
        Self { address: ([0, 0, 0, 0], 0).into(), state }
    }

    pub fn does(&self, act: Act) {
        *self.state.act.lock() = act;
    }

    pub fn is_well(&self, well: bool) {
        *self.state.well.lock() = well;
    }

    pub fn release(&self) {
        self.state.released.cancel();
    }

    /// Ends it as SIGKILL would, and returns when it is gone: a listener that still takes connections and resets them is
    /// another failure than none.
    pub async fn kill(&self) {
        self.state.killed.cancel();
        refused(self.address).await;
    }

    /// Connections so far, those of checks included.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// The requests so far, heads and bodies, without health checks.
    pub fn seen(&self) -> Vec<String> {
        self.state.seen.lock().clone()
    }

    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|r| r.split(' ').nth(1) == Some(path)).count()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.state.killed.cancel();
    }
}

async fn serve(mut stream: impl Stream, state: Arc<State>) -> Option<()> {
    let mut buffer = Vec::new();
    for nth in 0.. {
        let request = read(&mut stream, &mut buffer).await?;
        let answer = if request.starts_with("GET /healthz ") {
            answer(if *state.well.lock() { 200 } else { 503 }, "{}")
        } else {
            let act = *state.act.lock();
            state.seen.lock().push(request.clone());
            match act {
                Act::Serve | Act::Fail => {}
                Act::HangUp => return None,
                Act::HangUpWhenKept if nth > 0 => return None,
                Act::HangUpWhenKept => {}
                Act::Hang => std::future::pending().await,
                Act::Wait => state.released.cancelled().await,
            }
            let line = request.lines().next().unwrap_or_default();
            let status = if act == Act::Fail { 500 } else { 200 };
            answer(status, &format!("{} answers {line}", state.name))
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
    None
}

fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn read(stream: &mut impl Stream, buffer: &mut Vec<u8>) -> Option<String> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length =
        head.lines().find_map(|l| l.strip_prefix("content-length:")).map_or(0, |v| v.trim().parse().unwrap());
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&buffer.drain(..end + length).collect::<Vec<_>>()).into_owned())
}
