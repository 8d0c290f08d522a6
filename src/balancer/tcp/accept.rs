//! The accept loops of a service whose connections are passed on as they are, and how it ends: of the database gateway and of each
//! `[tcp.NAME]`.
//!
//! ```text
//! accept → may this client? → max_connections → the worker with the fewest connections → the service's own way to a back end
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listeners::Listener;
use super::sessions::Sessions;
use trivet_base::process::workers::Workers;
use trivet_base::process::{Phase, Shutdown};

/// How long a service finishes what it has.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// After a stop was asked for, how long new connections are still accepted, where the service does not decide that by itself.
    pub delay: Duration,
    /// After it was asked to stop.
    pub shutdown: Duration,
    /// After another process has taken over.
    pub drain: Duration,
}

/// Why a service ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A stop was asked for.
    Stop,
    /// The same, after another process had taken over.
    StopAfterHandover,
    /// Another process has taken over, and the time to finish is over.
    TimeIsOver,
}

/// Who may still come in, and who has to go.
pub struct Gate {
    slots: Arc<Semaphore>,
    /// Nothing new is taken any more.
    pub ending: CancellationToken,
    /// Another process takes what is new.
    pub handed_over: CancellationToken,
    /// What is left ends now.
    pub cut: CancellationToken,
    /// What is carried.
    pub sessions: Arc<Sessions>,
}

impl Gate {
    /// For so many connections at a time.
    pub fn new(max_connections: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(max_connections)),
            ending: CancellationToken::new(),
            handed_over: CancellationToken::new(),
            cut: CancellationToken::new(),
            sessions: Arc::default(),
        }
    }
}

/// What becomes of a connection for which there is no slot.
pub enum Full {
    /// It waits, and the next ones in the kernel's queue.
    Waits,
    /// It was told so, and is closed.
    Refused,
}

/// A service that carries connections.
pub trait Carrier: Send + Sync + 'static {
    /// Which of its listeners a connection came in at.
    type Door: Copy + Send + Sync + 'static;
    /// What an admitted client holds as long as its connection is open.
    type Permit: Send;

    /// As in logs.
    fn name(&self, door: Self::Door) -> &str;

    fn gate(&self) -> &Gate;

    /// Whether a client may connect, before it costs anything. `None` is a connection to be closed.
    fn admit(&self, door: Self::Door, from: SocketAddr) -> Option<Self::Permit>;

    /// There is no slot for this connection.
    fn full(&self, door: Self::Door, client: &TcpStream) -> Full;

    /// Serves a connection to its end, which is at once when [`Gate::cut`] is cancelled.
    fn carry(
        self: Arc<Self>,
        door: Self::Door,
        client: TcpStream,
        from: SocketAddr,
        permit: Self::Permit,
    ) -> impl Future<Output = ()> + Send;

    /// Returns when nothing new is to be accepted any more, and how long what is open then has.
    fn last_orders(&self, why: Why, times: Times) -> impl Future<Output = Duration> + Send;
}

/// Serves until `shutdown`, and then until every connection has ended, or the time for it is over. Where another process has taken
/// over, connections stay as they are for as long as they may.
pub async fn serve<C: Carrier>(
    carrier: Arc<C>,
    listeners: Vec<Listener<C::Door>>,
    workers: Arc<Workers>,
    mut shutdown: Shutdown,
    times: Times,
) {
    let tasks = TaskTracker::new();
    let name = listeners.first().map(|l| carrier.name(l.door).to_owned()).unwrap_or_default();
    for listener in listeners {
        tokio::spawn(accept_loop(carrier.clone(), listener, workers.clone(), tasks.clone()));
    }
    shutdown.wait().await;
    let mut why = Why::Stop;
    if shutdown.phase() == Phase::HandedOver {
        carrier.gate().handed_over.cancel();
        tasks.close();
        why = tokio::select! {
            () = tasks.wait() => return,
            () = shutdown.wait_for_stop() => Why::StopAfterHandover,
            () = tokio::time::sleep(times.drain) => Why::TimeIsOver,
        };
    }
    let left = carrier.last_orders(why, times).await;
    carrier.gate().ending.cancel();
    tasks.close();
    if tokio::time::timeout(left, tasks.wait()).await.is_err() {
        let (connections, Times { shutdown, drain, .. }) = (tasks.len(), times);
        tracing::warn!(listener = name, connections, shutdown_timeout = ?shutdown, drain_timeout = ?drain, "connections cut off: their time to finish is over");
        carrier.gate().cut.cancel();
        tasks.wait().await;
    }
}

async fn accept_loop<C: Carrier>(
    carrier: Arc<C>,
    listener: Listener<C::Door>,
    workers: Arc<Workers>,
    tasks: TaskTracker,
) {
    let door = listener.door;
    loop {
        let (client, from) = tokio::select! {
            // Who comes now may wait in the queue for the next process.
            biased;
            () = carrier.gate().ending.cancelled() => return,
            () = carrier.gate().handed_over.cancelled() => return,
            accepted = listener.listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    counter!("trivet_accept_errors_total").increment(1);
                    tracing::warn!(error = %e, listener = carrier.name(door), "cannot accept a connection");
                    // Out of descriptors: accepting again at once would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Before a slot is waited for: one client alone cannot take them all.
        let Some(permit) = carrier.admit(door, from) else { continue };
        // From here on the end waits for it.
        let counts = tasks.token();
        let slots = carrier.gate().slots.clone();
        let slot = match slots.clone().try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => match carrier.full(door, &client) {
                Full::Refused => continue,
                Full::Waits => tokio::select! {
                    slot = slots.acquire_owned() => match slot {
                        Ok(slot) => slot,
                        Err(_) => return,
                    },
                    () = carrier.gate().cut.cancelled() => return,
                },
            },
        };
        let carrier = carrier.clone();
        workers.place().serve(client, move |client| async move {
            let (_slot, _counts) = (slot, counts);
            carrier.carry(door, client, from, permit).await;
        });
    }
}
