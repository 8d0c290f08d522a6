//! A TCP proxy on loopback whose network gets worse when a test says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often in a second a slow network lets something through, at least.
const TICKS: u64 = 20;

/// What becomes of octets, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All goes through.
    Passes,
    /// So many octets a second in each direction of each connection.
    Slow(u64),
    /// Connections stay, new ones are made, and nothing goes through.
    Silent,
    /// The same, and after this time all goes through again.
    Pauses(Duration),
    /// Connections that are there stay silent for ever; new ones are as good as any.
    Strands,
    /// Connections are cut, and so is every new one.
    Dead,
}

#[derive(Debug)]
struct State {
    mode: watch::Sender<Mode>,
    /// After so many more octets the mode becomes this one.
    armed: Mutex<Option<(u64, Mode)>>,
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect to.
    pub address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A good network to `server`.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { mode: watch::channel(Mode::Passes).0, armed: Mutex::default() });
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(client, server, shared.clone()));
            }
        });
        Self { address, state, accepting }
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        *self.state.armed.lock() = None;
        self.state.mode.send_replace(mode);
    }

    /// Once so many more octets have come through; [`Mode::Pauses`] only so.
    pub fn set_after(&self, octets: u64, mode: Mode) {
        *self.state.armed.lock() = Some((octets, mode));
    }

    /// Whether what [`set_after`](Self::set_after) announced has come to pass.
    pub fn has_changed(&self) -> bool {
        self.state.armed.lock().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.mode.send_replace(Mode::Dead);
    }
}

async fn carry(client: TcpStream, server: SocketAddr, state: Arc<State>) {
    let mode = state.mode.subscribe();
    if *mode.borrow() == Mode::Dead {
        return;
    }
    let Ok(upstream) = TcpStream::connect(server).await else { return };
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = upstream.into_split();
    let was = *mode.borrow();
    // Both ends are dropped at once.
    tokio::select! {
        () = pump(client_reads, server_writes, &state, was) => {}
        () = pump(server_reads, client_writes, &state, was) => {}
        () = until_dead(mode) => {}
    }
}

async fn until_dead(mut mode: watch::Receiver<Mode>) {
    let _ = mode.wait_for(|mode| *mode == Mode::Dead).await;
}

/// `born` is the mode at the connection's beginning.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &Arc<State>, born: Mode) {
    let mut mode = state.mode.subscribe();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let most = match *mode.borrow() {
            Mode::Slow(rate) => usize::try_from(rate / TICKS).unwrap_or(1).clamp(1, buffer.len()),
            _ => buffer.len(),
        };
        let Ok(read @ 1..) = from.read(&mut buffer[..most]).await else { return };
        count(state, read as u64);
        let now = *mode.borrow_and_update();
        match now {
            Mode::Slow(rate) => tokio::time::sleep(Duration::from_millis(read as u64 * 1000 / rate)).await,
            Mode::Silent | Mode::Pauses(_) => {
                let _ = mode.wait_for(|mode| !matches!(mode, Mode::Silent | Mode::Pauses(_))).await;
            }
            Mode::Strands if born != Mode::Strands => until_dead(mode.clone()).await,
            Mode::Dead => return,
            Mode::Passes | Mode::Strands => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

fn count(state: &Arc<State>, octets: u64) {
    let mut armed = state.armed.lock();
    match &mut *armed {
        Some((left, _)) if *left > octets => *left -= octets,
        Some((_, mode)) => {
            state.mode.send_replace(*mode);
            if let Mode::Pauses(time) = *mode {
                let state = state.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    state.mode.send_replace(Mode::Passes);
                });
            }
            *armed = None;
        }
        None => {}
    }
}
