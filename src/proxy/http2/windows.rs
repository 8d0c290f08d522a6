//! Windows for the content of requests (RFC 9113 section 6.9) that grow with the path.
//!
//! A window is what a client may send within one round trip, so a fixed one makes a far client slow, however fast its line. How
//! much comes within a round trip is measured by a PING, as gRPC does; when it is most of the window, the window doubles.
//! What may wait here grows with it, so all connections together have a bound.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::Connection;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// For one request at first and at most; a connection has twice that for all of its requests.
pub(super) const STREAM_WINDOW: u32 = 128 * 1024;
/// Enough for 80 MB a second at 100 ms.
const MOST: u32 = 8 * 1024 * 1024;
/// By how much the windows of all connections may have grown, in octets.
const MOST_GROWN: u64 = 256 * 1024 * 1024;
/// So much content makes it worth asking.
const WORTH: u64 = 16 * 1024;
/// After a PING that showed no need the next one waits, longer each time: each costs the client an answer.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

static GROWN: AtomicU64 = AtomicU64::new(0);

/// The windows of one connection.
pub(super) struct Windows {
    pings: Option<PingPong>,
    size: u32,
    /// Whether a PING is on its way.
    is_asking: bool,
    /// What had been taken when this was last looked at; while a PING is on its way, just before it was sent.
    taken: u64,
    /// What had been taken when the last PING was answered.
    answered: u64,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Windows {
    pub(super) fn new(pings: Option<PingPong>) -> Self {
        Self {
            pings,
            size: STREAM_WINDOW,
            is_asking: false,
            taken: 0,
            answered: 0,
            pause: PAUSE,
            not_before: None,
        }
    }

    /// Looks at how much content has been taken by now, and widens the windows if they hold it up.
    pub(super) fn poll<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection<T, Bytes>,
        taken: u64,
    ) {
        let Some(pings) = self.pings.as_mut().filter(|_| self.size < MOST) else { return };
        if !self.is_asking {
            // Most requests fit into the window, and are not held up by it.
            let worth = taken - self.answered >= WORTH;
            if worth && self.not_before.is_none_or(|at| at <= Instant::now()) {
                match pings.send_ping(Ping::opaque()) {
                    Ok(()) => self.is_asking = true,
                    Err(_) => self.pings = None,
                }
            }
            if !self.is_asking {
                self.taken = taken;
            }
            return;
        }
        match pings.poll_pong(cx) {
            Poll::Pending => {}
            Poll::Ready(Err(_)) => self.pings = None,
            Poll::Ready(Ok(_)) => {
                let came = taken - std::mem::replace(&mut self.taken, taken);
                (self.is_asking, self.answered) = (false, taken);
                let held_up = came * 3 >= u64::from(self.size) * 2;
                if held_up && self.grow() {
                    connection.set_target_window_size(self.size * 2);
                    // An error is a change that the client has not acknowledged yet; the next one says as much.
                    let _ = connection.set_initial_window_size(self.size);
                    (self.pause, self.not_before) = (PAUSE, None);
                } else {
                    self.not_before = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Doubles them, if all connections together may have that much more.
    fn grow(&mut self) -> bool {
        // The connection's window is twice a request's.
        let more = u64::from(self.size) * 2;
        if GROWN.fetch_add(more, Ordering::Relaxed) + more > MOST_GROWN {
            GROWN.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.size *= 2;
        true
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        GROWN.fetch_sub(u64::from(self.size - STREAM_WINDOW) * 2, Ordering::Relaxed);
    }
}
