//! How fast a pump moves, and whose fault it is when it does not.

use std::time::Duration;

use tokio::time::Instant;

use trivet_http::pump::{Pump, Side};

/// The first ten seconds are free: a body may begin with a pause.
const FREE: Duration = Duration::from_secs(10);

/// Keeps time for one pump.
#[derive(Debug)]
pub struct TransferTimeout {
    client: Side,
    progress: u64,
    since: Instant,
    waited: Duration,
    waiting: Option<Instant>,
    /// What the client had acknowledged when it seemed late, and when that was.
    acknowledged: Option<(u64, Instant)>,
}

/// Who is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The client made no progress in its time.
    Client,
    /// The back end made no progress in its time.
    Backend,
}

/// Whether so many octets in this time are `rate` a second, and some.
pub fn takes(octets: u64, rate: u64, time: Duration) -> bool {
    octets > 0 && octets as f64 >= rate as f64 * time.as_secs_f64()
}

impl TransferTimeout {
    /// For a pump whose `client` side is the client's.
    pub fn new(client: Side, now: Instant) -> Self {
        Self { client, progress: 0, since: now, waited: Duration::ZERO, waiting: None, acknowledged: None }
    }

    /// Takes notice of a pump that waits. Only time in which the client was waited for counts against it.
    pub fn note(&mut self, pump: &Pump, now: Instant) {
        if pump.progress != self.progress {
            self.progress = pump.progress;
            self.since = now;
            self.acknowledged = None;
        }
        if let Some(since) = self.waiting.take() {
            self.waited += now - since;
        }
        if pump.waiting == self.client {
            self.waiting = Some(now);
        }
    }

    /// When the pump last moved.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When the wait is over, and who is late then.
    pub fn deadline(&self, client_timeout: Duration, backend_timeout: Duration) -> (Instant, Late) {
        match self.waiting {
            Some(_) => (self.since + client_timeout, Late::Client),
            None => (self.since + backend_timeout, Late::Backend),
        }
    }

    /// Whether a client that is past its [`deadline`](Self::deadline) takes octets all the same, as its acknowledgements
    /// tell ([`Peer::acknowledged`]): the kernel takes no more from us before much of what it holds has gone. It has half of
    /// its time again to show it, and shows it by `rate` octets a second: now and then an octet is no progress.
    ///
    /// [`Peer::acknowledged`]: trivet_http::steps::Peer::acknowledged
    pub fn excuses(
        &mut self,
        acknowledged: Option<u64>,
        rate: u64,
        client_timeout: Duration,
        now: Instant,
    ) -> bool {
        let Some(acknowledged) = acknowledged else { return false };
        let before = self.acknowledged.replace((acknowledged, now));
        let excused =
            before.is_none_or(|(before, then)| takes(acknowledged.saturating_sub(before), rate, now - then));
        if excused {
            self.since = now.checked_sub(client_timeout / 2).unwrap_or(now);
        }
        excused
    }

    /// Whether the client is slower than `rate` octets a second, over all the time it was waited for.
    pub fn is_too_slow(&self, content: u64, rate: u64) -> bool {
        self.waited > FREE && (content as f64) < rate as f64 * self.waited.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trivet_http::body::Framing;

    #[test]
    fn a_client_that_acknowledges_is_not_late() {
        let (start, timeout) = (Instant::now(), Duration::from_secs(30));
        let mut pump = Pump::new(Vec::new(), Framing::Close, Framing::Close, u64::MAX);
        pump.waiting = Side::Sink;
        let mut transfer = TransferTimeout::new(Side::Sink, start);
        transfer.note(&pump, start);
        let mut acknowledged = 1000;
        for _ in 0..10 {
            let (late, who) = transfer.deadline(timeout, timeout);
            assert_eq!(who, Late::Client);
            acknowledged += 15 * 500;
            assert!(transfer.excuses(Some(acknowledged), 500, timeout, late));
        }
        let (late, _) = transfer.deadline(timeout, timeout);
        acknowledged += 15 * 500 - 1;
        assert!(!transfer.excuses(Some(acknowledged), 500, timeout, late), "it takes less than it must");
        assert!(late - start < timeout * 6 + timeout / 2);
        // One that never took anything is late after half as much again.
        let mut transfer = TransferTimeout::new(Side::Sink, start);
        transfer.note(&pump, start);
        assert!(transfer.excuses(Some(0), 0, timeout, start + timeout));
        assert_eq!(transfer.deadline(timeout, timeout).0, start + timeout * 3 / 2);
        assert!(!transfer.excuses(Some(0), 0, timeout, start + timeout * 3 / 2));
        assert!(!TransferTimeout::new(Side::Sink, start).excuses(None, 0, timeout, start));
    }

    #[test]
    fn only_the_time_in_which_the_client_is_waited_for_counts() {
        let start = Instant::now();
        let mut pump = Pump::new(Vec::new(), Framing::Close, Framing::Close, u64::MAX);
        let mut transfer = TransferTimeout::new(Side::Sink, start);
        pump.waiting = Side::Source;
        transfer.note(&pump, start);
        transfer.note(&pump, start + Duration::from_secs(100));
        assert!(!transfer.is_too_slow(0, 500));
        pump.waiting = Side::Sink;
        transfer.note(&pump, start + Duration::from_secs(100));
        transfer.note(&pump, start + Duration::from_secs(109));
        assert!(!transfer.is_too_slow(0, 500));
        transfer.note(&pump, start + Duration::from_secs(111));
        assert!(transfer.is_too_slow(5000, 500));
        assert!(!transfer.is_too_slow(6000, 500));
    }
}
