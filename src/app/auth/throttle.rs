//! Wrong passwords, counted: per account and address, per address, and per account.
//!
//! Kept in memory, on purpose: a guesser must not be able to make the primary write. So each node counts for itself, and
//! a guesser who reaches all of them has that many times the attempts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One address may try several accounts (an office behind one address), but not that many.
const PER_ADDRESS: u32 = 10;
/// One account may be tried from several addresses; the higher limit keeps a stranger from locking its owner out soon.
const PER_ACCOUNT: u32 = 20;
/// More entries than this are not kept; the oldest go.
const MOST_ENTRIES: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Pair(String, IpAddr),
    Address(IpAddr),
    Account(String),
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    failures: u32,
}

/// Counts failures in fixed windows.
#[derive(Debug)]
pub struct Throttle {
    attempts: u32,
    window: Duration,
    counts: Mutex<HashMap<Key, Count>>,
}

impl Throttle {
    /// `attempts` wrong passwords per account and address within `window`.
    pub fn new(attempts: u32, window: Duration) -> Self {
        Self { attempts, window, counts: Mutex::new(HashMap::new()) }
    }

    fn keys(&self, account: &str, address: IpAddr) -> [(Key, u32); 3] {
        let account = account.to_lowercase();
        let address = network(address);
        [
            (Key::Pair(account.clone(), address), self.attempts),
            (Key::Address(address), self.attempts.saturating_mul(PER_ADDRESS)),
            (Key::Account(account), self.attempts.saturating_mul(PER_ACCOUNT)),
        ]
    }

    /// Counts an attempt before its password is looked at, so that parallel ones cannot slip through; `Err` says how
    /// long to wait.
    pub fn attempt(&self, account: &str, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut counts = self.counts.lock();
        let keys = self.keys(account, address);
        for (key, limit) in &keys {
            if let Some(count) = counts.get(key) {
                let age = now.saturating_duration_since(count.since);
                if age < self.window && count.failures >= *limit {
                    return Err(self.window - age);
                }
            }
        }
        if counts.len() >= MOST_ENTRIES {
            let window = self.window;
            counts.retain(|_, c| now.saturating_duration_since(c.since) < window);
            if counts.len() >= MOST_ENTRIES {
                counts.clear();
            }
        }
        for (key, _) in keys {
            let count = counts.entry(key).or_insert(Count { since: now, failures: 0 });
            if now.saturating_duration_since(count.since) >= self.window {
                *count = Count { since: now, failures: 0 };
            }
            count.failures += 1;
        }
        Ok(())
    }

    /// The password was right: the account's count from this address is forgotten, the attempt is taken off the others.
    pub fn succeeded(&self, account: &str, address: IpAddr) {
        let mut counts = self.counts.lock();
        for (key, _) in self.keys(account, address) {
            if matches!(key, Key::Pair(..)) {
                counts.remove(&key);
            } else if let Some(count) = counts.get_mut(&key) {
                count.failures = count.failures.saturating_sub(1);
            }
        }
    }
}

/// What one customer of a provider has: an IPv4 address, or an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_sixth_wrong_password_waits_and_the_window_ends() {
        let t = Throttle::new(5, WINDOW);
        let now = Instant::now();
        for _ in 0..5 {
            t.attempt("Editor", ip("192.0.2.1"), now).unwrap();
        }
        assert_eq!(
            t.attempt("editor", ip("192.0.2.1"), now + Duration::from_secs(20)),
            Err(Duration::from_secs(40))
        );
        t.attempt("editor", ip("192.0.2.2"), now).expect("another address is another matter");
        t.attempt("editor", ip("192.0.2.1"), now + WINDOW).expect("the window is over");
    }

    #[test]
    fn a_right_password_clears_the_account_from_that_address() {
        let t = Throttle::new(2, WINDOW);
        let now = Instant::now();
        for _ in 0..50 {
            t.attempt("editor", ip("192.0.2.1"), now).unwrap();
            t.succeeded("editor", ip("192.0.2.1"));
        }
    }

    #[test]
    fn one_address_cannot_try_every_account_nor_many_addresses_one() {
        let t = Throttle::new(2, WINDOW);
        let now = Instant::now();
        let tries =
            (0..100).filter(|i| t.attempt(&format!("user{i}"), ip("2001:db8::1"), now).is_ok()).count();
        assert_eq!(tries, 20);
        assert!(t.attempt("fresh", ip("2001:db8::ffff"), now).is_err(), "the same /64");
        let tries = (0..100).filter(|i| t.attempt("one", ip(&format!("192.0.2.{i}")), now).is_ok()).count();
        assert_eq!(tries, 40);
    }
}
