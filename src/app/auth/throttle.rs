//! Wrong passwords, counted: per account and address, per address, and per account.
//!
//! Kept in memory, on purpose: a guesser must not be able to make the primary write. So each node counts for itself, and
//! a guesser who reaches all of them has that many times the attempts.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

use parking_lot::Mutex;

use crate::text::rules;

/// One address may try several accounts (an office behind one address), but not that many.
const PER_ADDRESS: u32 = 10;
/// One account may be tried from several addresses; the higher limit keeps a stranger from locking its owner out soon.
const PER_ACCOUNT: u32 = 20;
/// Entries that are kept at most, about 150 octets each.
///
/// When there are more within one window, those go that count least, of them the oldest: whoever makes up accounts to be
/// forgotten makes entries of one attempt each, and the account that is really guessed at has more.
const MOST_ENTRIES: usize = 100_000;
/// What stays when there is no more room; fewer than all, so that not every attempt has to choose.
const KEPT_ENTRIES: usize = MOST_ENTRIES / 2;

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

impl Count {
    fn weight(&self) -> (u32, Instant) {
        (self.failures, self.since)
    }
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
        // Longer than any name may be: those are one account, and no key takes more room than a name does.
        let account = if account.len() > rules::NAME { String::new() } else { account.to_lowercase() };
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
            make_room(&mut counts, self.window, now);
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

/// Forgets what is over; when that is not enough, what counts least.
fn make_room(counts: &mut HashMap<Key, Count>, window: Duration, now: Instant) {
    counts.retain(|_, c| now.saturating_duration_since(c.since) < window);
    if counts.len() <= KEPT_ENTRIES {
        return;
    }
    let mut weights: Vec<_> = counts.values().map(Count::weight).collect();
    let surplus = weights.len() - KEPT_ENTRIES;
    let (_, least, _) = weights.select_nth_unstable(surplus);
    let least = *least;
    // Entries that weigh the same as the least may be more than there is room for: so not all of them stay.
    let heavier = counts.values().filter(|c| c.weight() > least).count();
    let mut equals = KEPT_ENTRIES.saturating_sub(heavier);
    counts.retain(|_, c| match c.weight().cmp(&least) {
        Ordering::Greater => true,
        Ordering::Equal if equals > 0 => {
            equals -= 1;
            true
        }
        Ordering::Equal => false,
        Ordering::Less => false,
    });
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

    /// `count` attempts, each at an account made up for it and from a /64 of its own.
    fn made_up(t: &Throttle, count: u32, now: Instant) {
        for i in 0..count {
            let (high, low) = ((i >> 16) as u16, i as u16);
            let address = IpAddr::from([0x2001, 0xdb8, high, low, 0, 0, 0, 1]);
            t.attempt(&format!("made-up{i}"), address, now).unwrap();
        }
    }

    #[test]
    fn made_up_accounts_do_not_make_the_attacked_one_forgotten() {
        let t = Throttle::new(5, WINDOW);
        let now = Instant::now();
        let guess = |i: u8| t.attempt("editor", ip(&format!("192.0.2.{i}")), now);
        for i in 0..100 {
            guess(i).unwrap();
        }
        assert!(guess(200).is_err());
        made_up(&t, 120_000, now + Duration::from_millis(1));
        assert!(guess(201).is_err(), "still as many wrong passwords as before");
        assert!(t.counts.lock().len() <= MOST_ENTRIES);
    }

    #[test]
    fn attempts_at_the_same_moment_do_not_make_the_table_grow() {
        let t = Throttle::new(5, WINDOW);
        made_up(&t, 120_000, Instant::now());
        assert!(t.counts.lock().len() <= MOST_ENTRIES);
    }

    #[test]
    fn a_name_that_no_account_can_have_takes_no_room() {
        let t = Throttle::new(5, WINDOW);
        let now = Instant::now();
        for i in 0..10 {
            let _ = t.attempt(&format!("{i}{}", "x".repeat(100_000)), ip("192.0.2.1"), now);
        }
        assert_eq!(t.counts.lock().len(), 3);
    }
}
