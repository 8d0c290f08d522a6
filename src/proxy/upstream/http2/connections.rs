//! The connections of HTTP/2 to one back end: each shared among requests, made when there is none with room, and closed when
//! none has been on it for a while.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::upstream::UpstreamConfig;
use trivet_base::process::workers;
use trivet_http::steps::Endpoints;
use trivet_tls::stream::Stream;

/// Requests on one connection at a time; a back end may allow fewer.
const MOST_STREAMS: usize = 100;
/// Content of answers that a back end may send ahead of what clients take (RFC 9113 section 6.9), for one request and in
/// all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The largest frame that is taken (RFC 9113 section 4.2): larger ones are fewer.
const FRAME: u32 = 64 * 1024;
/// Octets of an answer's head, as RFC 9113 section 6.5.2 counts them.
const ANSWER_HEAD: u32 = 64 * 1024;
/// Content of requests that waits for the back end's window.
const SEND_BUFFER: usize = 64 * 1024;
/// Connections that a request waits for together with others, before it makes one of its own.
const SHARED_DIALS: usize = 10;

const NO_SETTINGS: &str = "the back end does not answer in HTTP/2";

/// Requests on a connection that another worker drives, which has to be woken up for each of their frames, before one of its own pays
/// for a worker that has none.
const FEW: usize = 10;

/// Whom a connection speaks for: one client alone where it begins with a PROXY header, else all.
type For = Option<Endpoints>;

type Dialled = Result<Arc<Connection>, Arc<io::Error>>;
/// A connection that is being made, and that many may wait for.
type Dial = Shared<oneshot::Receiver<Dialled>>;

/// All of one back end.
pub(super) struct Connections {
    config: UpstreamConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<For, Vec<Arc<Connection>>>,
    /// By the worker that will drive it.
    dials: HashMap<(For, usize), Dial>,
}

struct Connection {
    sender: SendRequest<Bytes>,
    /// The worker that drives it.
    worker: usize,
    requests: AtomicUsize,
    unused_since: Mutex<Instant>,
    /// No further request may use it.
    is_over: AtomicBool,
    /// Whether the back end's settings are certain to have come.
    has_settings: watch::Receiver<bool>,
}

impl Connection {
    fn has_room(&self) -> bool {
        // What is more than the back end allows would wait here, for as long as the others take. Before it has said how many
        // it allows, one is certain.
        let most = match *self.has_settings.borrow() {
            true => MOST_STREAMS.min(self.sender.current_max_send_streams()),
            false => 1,
        };
        !self.is_over.load(Ordering::Relaxed) && self.requests.load(Ordering::Relaxed) < most
    }

    /// Waits for the back end's settings; false when they do not come.
    async fn settings(&self, patience: Duration) -> bool {
        let mut has = self.has_settings.clone();
        matches!(timeout(patience, has.wait_for(|has| *has)).await, Ok(Ok(_)))
    }

    fn is_unused_for(&self, time: Duration) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && self.unused_since.lock().elapsed() >= time
    }
}

/// A request's place on a connection.
pub(super) struct Place(Arc<Connection>);

impl Place {
    /// What sends the request. An error means that the connection is ending.
    pub(super) async fn sender(&self) -> Result<SendRequest<Bytes>, h2::Error> {
        let mut sender = self.0.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await?;
        Ok(sender)
    }

    /// Whether the back end takes an extended CONNECT (RFC 8441 section 3), which its settings tell within `patience`.
    pub(super) async fn takes_extended_connect(&self, patience: Duration) -> bool {
        self.0.settings(patience).await && self.0.sender.is_extended_connect_protocol_enabled()
    }

    /// Keeps further requests from this connection.
    pub(super) fn give_up(&self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.unused_since.lock() = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    pub(super) fn new(config: UpstreamConfig) -> Arc<Self> {
        Arc::new(Self { config, state: Mutex::default() })
    }

    /// A place for one request of `client`, and whether the connection is one that was there; with `new`, it is not.
    pub(super) async fn place(self: &Arc<Self>, client: Endpoints, new: bool) -> io::Result<(Place, bool)> {
        let whom = self.config.send_proxy_protocol.map(|_| client);
        let here = workers::here();
        for _ in 0..if new { 0 } else { SHARED_DIALS } {
            let few = |c: &Connection| c.requests.load(Ordering::Relaxed) < FEW;
            if let Some(place) = self.free(&whom, |c| c.worker == here).or_else(|| self.free(&whom, few)) {
                return Ok((place, true));
            }
            let connection = match self.dial(whom, client).await {
                Ok(connection) => connection,
                // What others have will do, before a back end that they reach is thought to be down.
                Err(e) => return self.free(&whom, |_| true).map(|place| (place, true)).ok_or(e),
            };
            // Others waited for the same one.
            if let Some(place) = self.on(&connection) {
                return Ok((place, false));
            }
        }
        let connection = self.clone().connect(whom, client, 1).await?;
        Ok((Place(connection), false))
    }

    /// A place on a connection that is there, one of those that `which` names.
    fn free(&self, whom: &For, which: impl Fn(&Connection) -> bool) -> Option<Place> {
        let state = self.state.lock();
        let idle_timeout = self.config.idle_timeout;
        let with_room = |c: &&Arc<Connection>| which(c) && c.has_room() && !c.is_unused_for(idle_timeout);
        // The youngest: the least likely to be closed just now.
        let connection = state.open.get(whom)?.iter().rfind(with_room)?;
        connection.requests.fetch_add(1, Ordering::Relaxed);
        Some(Place(connection.clone()))
    }

    /// A place on this one.
    fn on(&self, connection: &Arc<Connection>) -> Option<Place> {
        // Counted under the lock, so that nobody takes the last place twice.
        let _state = self.state.lock();
        connection.has_room().then(|| {
            connection.requests.fetch_add(1, Ordering::Relaxed);
            Place(connection.clone())
        })
    }

    /// Makes a connection, or waits for the one that is being made. It is made to its end, whoever still waits.
    async fn dial(self: &Arc<Self>, whom: For, client: Endpoints) -> io::Result<Arc<Connection>> {
        let key = (whom, workers::here());
        let dial = {
            let mut state = self.state.lock();
            match state.dials.get(&key) {
                Some(dial) => dial.clone(),
                None => {
                    let (done, dial) = oneshot::channel();
                    let dial = dial.shared();
                    state.dials.insert(key, dial.clone());
                    let own = self.clone();
                    tokio::spawn(async move {
                        let made = own.clone().connect(whom, client, 0).await;
                        let made = match made {
                            Ok(connection) if !connection.settings(own.config.connect_timeout).await => {
                                connection.is_over.store(true, Ordering::Relaxed);
                                Err(io::Error::new(io::ErrorKind::TimedOut, NO_SETTINGS))
                            }
                            made => made,
                        };
                        own.state.lock().dials.remove(&key);
                        // Nobody may wait any more; the connection is there for the next request.
                        let _ = done.send(made.map_err(Arc::new));
                    });
                    dial
                }
            }
        };
        match dial.await {
            // What the system said stays what it said, to each of those that waited.
            Ok(made) => made.map_err(|e| match e.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(e.kind(), e.to_string()),
            }),
            Err(_) => {
                // Whoever made it is gone without a word; the next request makes another.
                self.state.lock().dials.remove(&key);
                Err(io::Error::other("the connection was given up"))
            }
        }
    }

    /// Makes a connection with so many `requests` on it, and has it driven until it ends.
    async fn connect(
        self: Arc<Self>,
        whom: For,
        client: Endpoints,
        requests: usize,
    ) -> io::Result<Arc<Connection>> {
        let io = self.config.dial(client).await?;
        let (sender, mut driver) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(MOST_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_header_list_size(ANSWER_HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake::<Stream, Bytes>(io)
            .await
            .map_err(io::Error::other)?;
        let (settled, has_settings) = watch::channel(false);
        let connection = Arc::new(Connection {
            sender,
            worker: workers::here(),
            requests: AtomicUsize::new(requests),
            unused_since: Mutex::new(Instant::now()),
            is_over: AtomicBool::new(false),
            has_settings,
        });
        self.state.lock().open.entry(whom).or_default().push(connection.clone());
        // Whoever drives it does not keep it: it ends when nobody else does.
        let (pool, own) = (Arc::downgrade(&self), Arc::downgrade(&connection));
        tokio::spawn(async move {
            let ping = driver.ping_pong();
            let telling = tell_settings(ping, settled);
            let ended = tokio::select! {
                ended = &mut driver => ended,
                never = telling => match never {},
            };
            if let Err(e) = ended {
                tracing::debug!(error = %e, "an HTTP/2 connection to a back end ended");
            }
            if let (Some(pool), Some(own)) = (pool.upgrade(), own.upgrade()) {
                own.is_over.store(true, Ordering::Relaxed);
                pool.remove(&whom, |c| Arc::ptr_eq(c, &own));
            }
        });
        Ok(connection)
    }

    fn remove(&self, whom: &For, which: impl Fn(&Arc<Connection>) -> bool) {
        let mut state = self.state.lock();
        if let Some(open) = state.open.get_mut(whom) {
            open.retain(|c| !which(c));
            if open.is_empty() {
                state.open.remove(whom);
            }
        }
    }

    /// Closes what has been unused for too long, or is more than `most_idle`, and lets go of what is over.
    pub(super) fn sweep(&self, most_idle: usize) {
        let mut state = self.state.lock();
        let unused = state.open.values().flatten().filter(|c| c.is_unused_for(Duration::ZERO));
        let mut since: Vec<Instant> = unused.map(|c| *c.unused_since.lock()).collect();
        since.sort_unstable();
        let surplus = since.len().saturating_sub(most_idle);
        // Those that have been unused for longer than this one go, too.
        let oldest_kept = since.get(surplus).copied();
        let stays = |c: &Arc<Connection>| {
            let is_surplus =
                c.is_unused_for(Duration::ZERO) && oldest_kept.is_some_and(|at| *c.unused_since.lock() < at);
            !c.is_over.load(Ordering::Relaxed) && !c.is_unused_for(self.config.idle_timeout) && !is_surplus
        };
        state.open.retain(|_, open| {
            open.retain(stays);
            !open.is_empty()
        });
    }
}

/// Tells when the back end's settings have come. They come first (RFC 9113 section 3.4), so they are there when a PING has
/// been answered.
async fn tell_settings(ping: Option<PingPong>, settled: watch::Sender<bool>) -> Infallible {
    if let Some(mut ping) = ping
        && ping.ping(Ping::opaque()).await.is_ok()
    {
        settled.send_replace(true);
    }
    std::future::pending().await
}
