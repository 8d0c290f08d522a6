//! HTTP/2 (RFC 9113) from clients. The h2 library carries frames, streams and windows; what
//! becomes of a request is the same as with HTTP/1.1: the requests of a connection are served side by side, within the
//! connection's one task.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::Reason;
use h2::server::Builder;
use metrics::counter;
use tokio::time::{Instant, timeout};

use crate::downstream::ClientConnection;
use crate::http2::stalls::Stalls;
use crate::http2::stream::{Shared, Stream};
use crate::http2::watched::{Watched, abused, pushed};
use crate::http2::windows::{STREAM_WINDOW, Windows};
use crate::personal::Most;
use crate::server::{Drain, Limits};
use crate::timer::Timer;
use crate::transfer_timeout;
use crate::upstream::Io;
use crate::{Engine, Service};
use trivet_http::steps::{Endpoints, Peer};

mod stalls;
mod stream;
mod watched;
mod windows;

/// How long a client may take to see that the connection ends.
const LINGER: Duration = Duration::from_secs(2);

/// What one HTTP/2 connection may hold. What it may do is counted by [`trivet_http::frames`].
fn options(limits: &Limits) -> Builder {
    let mut h2 = Builder::new();
    // RFC 9113 section 6.5.2. More than four times as much ends the connection (HPACK bombs), as do more CONTINUATION
    // frames than such a list needs.
    h2.max_header_list_size(u32::try_from(limits.max_header_size).unwrap_or(u32::MAX));
    h2.max_concurrent_streams(limits.max_streams);
    // RFC 8441 section 3: WebSockets.
    h2.enable_connect_protocol();
    h2.initial_connection_window_size(STREAM_WINDOW * 2);
    h2.initial_window_size(STREAM_WINDOW);
    // Streams that either side reset are remembered for a while, for what was on its way.
    h2.max_concurrent_reset_streams(50);
    // What the library resets by itself is held to a rate (`watched`): its own limit is for the whole of a connection's life,
    // and that of a proxy in front may be long, with many clients on it.
    h2.max_local_error_reset_streams(None);
    h2.reset_stream_duration(Duration::from_secs(1));
    // Answers wait for the client's window at the back end, not here.
    h2.max_send_buffer_size(64 * 1024);
    h2
}

/// Why a connection ends.
enum End {
    /// Both sides are done, or the other is gone.
    Over,
    /// There was nothing to do for too long.
    Idle,
    /// The head of a request did not come in time.
    HeadTimeout,
    /// The client takes nothing.
    Stuck,
    /// The client takes too few of its answers.
    Stalled,
}

impl<S: Service> Engine<S> {
    /// Serves one connection of HTTP/2 until it ends. `begun` is what was read of it already; the rest is as with
    /// [`serve`](Self::serve).
    pub async fn serve_http2(
        self: Arc<Self>,
        io: impl Io,
        peer: Peer,
        endpoints: Endpoints,
        drain: Drain,
        begun: Vec<u8>,
    ) {
        let limits = &self.limits;
        let rates = (limits.http2_frames, limits.client_timeout);
        let (io, wire) = Watched::new(io, peer.clone(), rates, begun, self.admission.clone());
        let options = options(limits);
        let handshake = pushed(&wire, options.handshake::<_, Bytes>(io));
        let mut http2 = match timeout(limits.header_timeout, handshake).await {
            Ok(Some(Ok(connection))) => connection,
            Ok(Some(Err(e))) => {
                return tracing::debug!(client = %peer.address, error = %e, "HTTP/2 handshake");
            }
            Ok(None) => return,
            Err(_) => return late(),
        };
        let stalls = Stalls::new(limits.client_timeout * 2);
        let connection = ClientConnection::new(peer, endpoints, Most::SixEach);
        let shared = Arc::new(Shared { connection, stalls, taken: AtomicU64::new(0) });
        let mut windows = Windows::new(http2.ping_pong());
        let mut requests = FuturesUnordered::new();
        // Told GOAWAY before its first request, a client would begin anew, and be told the same.
        let is_late = drain.going_away.is_cancelled();
        let told = if is_late { drain.closing } else { drain.going_away };
        let mut closing = pin!(told.cancelled_owned());
        let mut is_closing = false;
        let step = limits.idle_timeout.min(limits.header_timeout).min(limits.client_timeout);
        let mut timer = Timer::new(step.max(Duration::from_millis(1)));
        let (mut stuck_at, mut acknowledged) = (None, None);
        let (mut idle_since, mut idle_taken) = (Instant::now(), None);
        let end = poll_fn(|cx| {
            if !is_closing && closing.as_mut().poll(cx).is_ready() {
                // RFC 9113 section 6.8. What has begun is finished.
                is_closing = true;
                http2.graceful_shutdown();
            }
            loop {
                let mut more = false;
                while let Poll::Ready(accepted) = http2.poll_accept(cx) {
                    let Some(Ok((request, respond))) = accepted else { return Poll::Ready(End::Over) };
                    wire.lock().accepted(respond.stream_id());
                    let (parts, body) = request.into_parts();
                    requests.push(Box::pin(
                        Stream::new(self.clone(), shared.clone(), body, respond).serve(parts),
                    ));
                    more = true;
                    if is_late && !is_closing {
                        is_closing = true;
                        http2.graceful_shutdown();
                    }
                }
                while let Poll::Ready(Some(())) = requests.poll_next_unpin(cx) {
                    more = true;
                    idle_since = Instant::now();
                }
                if !more {
                    break;
                }
            }
            windows.poll(cx, &mut http2, shared.taken.load(Ordering::Relaxed));
            if shared.stalls.are_too_many(Instant::now()) {
                return Poll::Ready(End::Stalled);
            }
            let now = Instant::now();
            let signs = {
                let mut wire = wire.lock();
                if let Poll::Ready(Err(_)) = wire.poll_push(cx) {
                    return Poll::Ready(End::Over);
                }
                wire.signs()
            };
            let head = signs.head_since.map(|since| (since + limits.header_timeout, End::HeadTimeout));
            let stuck = signs.stuck_since.map(|since| {
                // What it acknowledges while we wait, it takes; see `TransferTimeout::excuses`.
                let (of, at) = stuck_at.get_or_insert((since, since + limits.client_timeout));
                if *of != since {
                    (*of, *at, acknowledged) = (since, since + limits.client_timeout, None);
                }
                if *at <= now
                    && let Some(taken) = shared.connection.peer.acknowledged()
                    && acknowledged.replace((taken, now)).is_none_or(|(before, then): (u64, Instant)| {
                        transfer_timeout::takes(taken.saturating_sub(before), limits.min_rate, now - then)
                    })
                {
                    *at = now + limits.client_timeout / 2;
                }
                (*at, End::Stuck)
            });
            let idle = requests.is_empty().then(|| (idle_since + limits.idle_timeout, End::Idle));
            let next = [head, stuck, idle].into_iter().flatten().min_by_key(|(at, _)| *at);
            let Some((at, end)) = next else { return Poll::Pending };
            if at <= now {
                // Closed, it would lose what it has not taken yet.
                let taking = shared.connection.peer.is_taking();
                if !matches!(end, End::Idle) || taking.is_none() || taking == idle_taken {
                    return Poll::Ready(end);
                }
                (idle_since, idle_taken) = (now, taking);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            timer.set(at);
            ready!(timer.poll(cx));
            // It is looked at again whether the time is really over.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        match end {
            End::Over | End::Stuck => {
                // Each request notices, and says in the log how far it came.
                drop(http2);
                let _ = timeout(LINGER, async { while requests.next().await.is_some() {} }).await;
                return;
            }
            End::Idle => http2.graceful_shutdown(),
            End::HeadTimeout => {
                late();
                http2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            End::Stalled => {
                abused(
                    &shared.connection.peer,
                    "slow_reader",
                    "the answers of too many requests are not taken",
                );
                http2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
        }
        drop(requests);
        let over = poll_fn(|cx| {
            while let Poll::Ready(accepted) = http2.poll_accept(cx) {
                if !matches!(accepted, Some(Ok(_))) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        });
        // An error here means that the other side has gone, which is what was asked for.
        let _ = timeout(LINGER, pushed(&wire, over)).await;
    }
}

fn late() {
    counter!("trivet_http_refused_total", "reason" => "header_timeout").increment(1);
}
