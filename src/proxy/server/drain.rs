//! How connections are told to end in order: all of them when the server stops, and those that came to an address that is to move to
//! another node when an operator orders that.

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What tells a connection to end.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// Cancelled once the requests in hand are the last: GOAWAY over HTTP/2 (RFC 9113 section 6.8), `Connection: close` over HTTP/1 (RFC
    /// 9112 section 9.6).
    pub going_away: CancellationToken,
    /// Cancelled once a connection that waits for a request is to be closed. Over HTTP/2 that is GOAWAY, too: it counts for one that was
    /// opened when `going_away` was cancelled already, and has had no request.
    pub closing: CancellationToken,
}

impl Drain {
    /// One that ends with this one, or before.
    fn child(&self) -> Self {
        Self { going_away: self.going_away.child_token(), closing: self.closing.child_token() }
    }
}

/// Of connections to the addresses that can move.
#[derive(Debug, Default)]
struct Moving {
    /// Of those that come now.
    now: Drain,
    /// Ends those that waited for a request when the addresses were drained.
    idle: CancellationToken,
}

/// The [`Drain`] of each connection of a server.
#[derive(Debug, Default)]
pub(super) struct Drains {
    /// Of all.
    pub(super) all: Drain,
    /// Which addresses can move to another node.
    addresses: Vec<IpAddr>,
    moving: Mutex<Moving>,
    drained: watch::Sender<bool>,
}

impl Drains {
    pub(super) fn with_moving(addresses: Vec<IpAddr>) -> Self {
        let all = Drain::default();
        let moving = Mutex::new(Moving { now: all.child(), ..Moving::default() });
        Self { moving, all, addresses, drained: watch::Sender::new(false) }
    }

    /// Of a connection to this address.
    pub(super) fn of(&self, address: IpAddr) -> Drain {
        match self.addresses.contains(&address) {
            true => self.moving.lock().now.clone(),
            false => self.all.clone(),
        }
    }

    /// Whether the addresses that can move are to be elsewhere. A second time it changes nothing; true where it does.
    pub(super) fn drain(&self, drained: bool) -> bool {
        if self.addresses.is_empty() {
            return false;
        }
        self.drained.send_if_modified(|before| {
            let changes = *before != drained;
            if changes && drained {
                let mut moving = self.moving.lock();
                moving.now.going_away.cancel();
                // Who comes while they are still here is answered once.
                moving.idle = std::mem::replace(&mut moving.now.closing, self.all.closing.child_token());
            } else if changes {
                // Who was told to end, ends; who comes now, stays.
                self.moving.lock().now = self.all.child();
            }
            *before = drained;
            changes
        })
    }

    /// Closes what waits for a request `delay` after it was drained: until then a request may be on its way. Never ends.
    pub(super) async fn close_idle(&self, delay: Duration) {
        let mut drained = self.drained.subscribe();
        loop {
            is(&mut drained, true).await;
            let idle = self.moving.lock().idle.clone();
            tokio::select! {
                biased;
                () = is(&mut drained, false) => continue,
                () = tokio::time::sleep(delay) => idle.cancel(),
            }
            is(&mut drained, false).await;
        }
    }
}

async fn is(drained: &mut watch::Receiver<bool>, wanted: bool) {
    drop(drained.wait_for(|now| *now == wanted).await);
}
