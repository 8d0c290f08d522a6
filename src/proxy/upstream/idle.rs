//! Connections to a back end that wait for their next request, each with the worker whose runtime watches its socket.
//!
//! Used by another worker, a connection would have that one woken up from here for whatever comes on it. So each worker takes its
//! own; one that has none left takes another's and has the socket watched here from then on: dearer than one of its own, and
//! cheaper than a new one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::upstream::{Checkout, UpstreamIo, is_quiet};
use trivet_base::process::workers;

struct Idle {
    checkout: Checkout,
    since: Instant,
    worker: usize,
}

/// Those of one back end.
pub(super) struct IdleConnections {
    /// One for each worker; where there are more workers than cores, some share one.
    shelves: Box<[Mutex<VecDeque<Idle>>]>,
    /// On all shelves.
    count: AtomicUsize,
    limit: IdleLimit,
    timeout: Duration,
}

/// How many may be kept, all back ends of a pool together: one that is asked more than others keeps more. Clones are the same.
#[derive(Debug, Clone)]
pub struct IdleLimit {
    most: usize,
    kept: Arc<AtomicUsize>,
}

impl IdleLimit {
    /// At most so many, but for [`EACH`](Self::EACH).
    pub fn new(most: usize) -> Self {
        Self { most, kept: Arc::default() }
    }

    /// A back end keeps so many whatever the others have: of hundreds each has a few requests at a time, now and then one more, and
    /// would open and close a connection each time.
    const EACH: usize = 8;

    /// Likewise, where all together may keep fewer than that.
    fn each(most: usize) -> usize {
        Self::EACH.min(most.max(1))
    }

    /// How many so many back ends keep at most, about.
    pub fn of_all(most: usize, backends: usize) -> usize {
        most.max(Self::each(most).saturating_mul(backends))
    }

    /// Of one back end, where it has all of them.
    pub(super) fn most(&self) -> usize {
        self.most.max(1)
    }

    fn take(&self, own: &AtomicUsize) -> bool {
        let more = |count| (count < self.most).then_some(count + 1);
        let taken = self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if taken {
            own.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let few = |count| (count < Self::each(self.most)).then_some(count + 1);
        let has_few = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, few).is_ok();
        if has_few {
            self.kept.fetch_add(1, Ordering::Relaxed);
        }
        has_few
    }

    fn put_back(&self, own: &AtomicUsize) {
        own.fetch_sub(1, Ordering::Relaxed);
        self.kept.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        // A back end may go while others stay.
        self.limit.kept.fetch_sub(self.count.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl IdleConnections {
    /// Keeps each for `timeout`.
    pub(super) fn new(limit: IdleLimit, timeout: Duration) -> Self {
        Self::on(workers::cores(), limit, timeout)
    }

    fn on(shelves: usize, limit: IdleLimit, timeout: Duration) -> Self {
        let shelves = (0..shelves).map(|_| Mutex::default()).collect();
        Self { shelves, count: AtomicUsize::new(0), limit, timeout }
    }

    /// One that its other side has not closed, as far as can be known, for the worker of this number.
    pub(super) fn take(&self, worker: usize, now: Instant) -> Option<Checkout> {
        let own = worker % self.shelves.len();
        // The youngest: the least likely to be closed just now.
        let found = self.usable(own, now, VecDeque::pop_back).or_else(|| {
            // Of others the oldest, which they would use last.
            let others = (0..self.shelves.len()).filter(|shelf| *shelf != own);
            let mut others = others.filter(|_| self.count.load(Ordering::Relaxed) > 0);
            others.find_map(|shelf| self.usable(shelf, now, VecDeque::pop_front))
        });
        let Idle { mut checkout, worker: watching, .. } = found?;
        if watching != worker
            && let UpstreamIo::Stream(stream) = &mut checkout.io
            && let Err(e) = stream.watch_here()
        {
            // It can be used from where it is.
            tracing::debug!(error = %e, "a connection to a back end stays with another worker");
        }
        checkout.reused = true;
        Some(checkout)
    }

    fn usable(
        &self,
        shelf: usize,
        now: Instant,
        next: impl Fn(&mut VecDeque<Idle>) -> Option<Idle>,
    ) -> Option<Idle> {
        loop {
            let mut idle = next(&mut self.shelves[shelf].lock())?;
            self.limit.put_back(&self.count);
            if now.saturating_duration_since(idle.since) < self.timeout && is_quiet(&mut idle.checkout.io) {
                return Some(idle);
            }
        }
    }

    /// Keeps one for the next request of this worker.
    pub(super) fn keep(&self, checkout: Checkout, worker: usize, now: Instant) {
        let mut shelf = self.shelves[worker % self.shelves.len()].lock();
        self.close_old(&mut shelf, now);
        if !self.limit.take(&self.count)
            // The oldest of its own makes room. Where others have all that may be kept, this one is too many.
            && shelf.pop_front().is_none()
        {
            return;
        }
        shelf.push_back(Idle { checkout, since: now, worker });
    }

    /// Closes what has been unused for too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        for shelf in &self.shelves {
            self.close_old(&mut shelf.lock(), now);
        }
    }

    fn close_old(&self, shelf: &mut VecDeque<Idle>, now: Instant) {
        while shelf.front().is_some_and(|i| now.saturating_duration_since(i.since) >= self.timeout) {
            shelf.pop_front();
            self.limit.put_back(&self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::BytesMut;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use trivet_tls::stream::Stream;

    const TIMEOUT: Duration = Duration::from_secs(50);

    /// A back end, and connections to it.
    struct Far(TcpListener);

    impl Far {
        async fn new() -> Self {
            Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
        }

        /// Both ends of a new connection: whose it is, and what is kept.
        async fn connect(&self) -> (TcpStream, Checkout, SocketAddr) {
            let near = TcpStream::connect(self.0.local_addr().unwrap()).await.unwrap();
            let (far, address) = self.0.accept().await.unwrap();
            let io = UpstreamIo::Stream(Stream::Plain(near));
            (far, Checkout { io, buffer: BytesMut::new(), reused: false }, address)
        }
    }

    fn address(checkout: &Checkout) -> SocketAddr {
        match &checkout.io {
            UpstreamIo::Stream(Stream::Plain(tcp)) => tcp.local_addr().unwrap(),
            _ => unreachable!(),
        }
    }

    #[tokio::test]
    async fn a_worker_takes_its_own_youngest_and_then_the_oldest_of_others() {
        let (far, idle, now) =
            (Far::new().await, IdleConnections::on(3, IdleLimit::new(10), TIMEOUT), Instant::now());
        let mut open = Vec::new();
        for worker in [0, 1, 1, 0] {
            let (end, checkout, address) = far.connect().await;
            idle.keep(checkout, worker, now);
            open.push((end, address));
        }
        let taken: Vec<_> = (0..4).map(|_| idle.take(1, now).unwrap()).collect();
        let expected = [2, 1, 0, 3].map(|i: usize| open[i].1);
        assert_eq!(taken.iter().map(address).collect::<Vec<_>>(), expected);
        assert!(taken.iter().all(|c| c.reused));
        assert!(idle.take(1, now).is_none());
        assert_eq!(idle.count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn never_are_more_kept_than_may_be_whoever_keeps_them() {
        let (far, idle, now) =
            (Far::new().await, IdleConnections::on(2, IdleLimit::new(2), TIMEOUT), Instant::now());
        let mut ends = Vec::new();
        for worker in [0, 0, 0, 1, 0] {
            let (end, checkout, _) = far.connect().await;
            idle.keep(checkout, worker, now);
            ends.push(end);
        }
        assert_eq!(idle.count.load(Ordering::Relaxed), 2);
        // The first two of worker 0 made room for later ones, and worker 1 found none.
        for (i, is_open) in [false, false, true, false, true].into_iter().enumerate() {
            let read = tokio::time::timeout(Duration::from_millis(50), ends[i].read(&mut [0; 1])).await;
            assert_eq!(read.is_err(), is_open, "connection {i}");
        }
    }

    #[tokio::test]
    async fn back_ends_share_what_may_be_kept_and_each_has_a_few() {
        for (most, busy_keeps, rare_keeps) in [(20, 20, 8), (3, 3, 3), (0, 1, 1)] {
            let (far, now, limit) = (Far::new().await, Instant::now(), IdleLimit::new(most));
            let [busy, rare] = [(); 2].map(|()| IdleConnections::on(1, limit.clone(), TIMEOUT));
            let mut ends = Vec::new();
            for idle in [&busy, &rare].into_iter().flat_map(|idle| [idle; 25]) {
                let (end, checkout, _) = far.connect().await;
                idle.keep(checkout, 0, now);
                ends.push(end);
            }
            let kept = |idle: &IdleConnections| idle.count.load(Ordering::Relaxed);
            assert_eq!((kept(&busy), kept(&rare)), (busy_keeps, rare_keeps), "{most}");
            assert!(limit.kept.load(Ordering::Relaxed) <= most + IdleLimit::of_all(most, 2));
            drop(busy);
            assert_eq!(limit.kept.load(Ordering::Relaxed), rare_keeps);
            assert!(rare.take(0, now).is_some());
            assert_eq!(limit.kept.load(Ordering::Relaxed), rare_keeps - 1);
        }
    }

    #[tokio::test]
    async fn what_is_closed_or_old_is_nobodys() {
        let (far, idle, now) =
            (Far::new().await, IdleConnections::on(2, IdleLimit::new(10), TIMEOUT), Instant::now());
        let (end, closed, _) = far.connect().await;
        drop(end);
        let (_old_end, old, _) = far.connect().await;
        let (_end, good, _) = far.connect().await;
        let its = address(&good);
        idle.keep(old, 0, now);
        idle.keep(good, 0, now + TIMEOUT / 2);
        idle.keep(closed, 0, now + TIMEOUT / 2);
        // Time for the end to be heard of.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(address(&idle.take(1, now + TIMEOUT).unwrap()), its);
        assert!(idle.take(0, now + TIMEOUT).is_none());
        assert_eq!(idle.count.load(Ordering::Relaxed), 0);
    }
}
