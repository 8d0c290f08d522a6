//! A token bucket for each client, in bounded memory.
//!
//! The bucket is kept as in GCRA (ITU-T I.371 annex A): not as a number of tokens but as the moment at which it will be
//! full again, which is one number, needs no timer, and tells an entry that nobody needs any more: its moment has passed.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::admission::RequestRate;
use crate::admission::prefix::Prefix;
use trivet_http::refusal::RetryAfter;

/// Clients whose buckets are kept, at most. About 48 bytes each: 3 MB.
///
/// With more clients than this whose buckets are not full, that one is forgotten which is fullest: it loses least. The
/// ones that ask too much are never the fullest.
pub const TRACKED: usize = SHARDS * PER_SHARD;

const SHARDS: usize = 64;
const PER_SHARD: usize = 1024;

/// Nanoseconds since the table was made.
type Moment = u64;

#[derive(Debug)]
pub(super) struct Buckets {
    began: Instant,
    /// What one request costs.
    each: u64,
    /// How far a bucket may be from full.
    most: u64,
    ipv6_prefix: u8,
    /// Keyed by chance: nobody can choose addresses that meet in one shard.
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Prefix, Moment>>>,
}

impl Buckets {
    pub(super) fn new(rate: RequestRate) -> Self {
        let each = 1_000_000_000 / u64::from(rate.rate.max(1));
        Self {
            began: Instant::now(),
            each,
            most: each * u64::from(rate.burst.max(1)),
            ipv6_prefix: rate.ipv6_prefix,
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
        }
    }

    #[inline]
    fn moment(&self, now: Instant) -> Moment {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    #[inline]
    fn shard(&self, client: Prefix) -> MutexGuard<'_, HashMap<Prefix, Moment>> {
        self.shards[usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).unwrap_or(0)].lock()
    }

    /// How long it takes until one may be taken.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Duration {
        let now = self.moment(now);
        let client = Prefix::new(address, self.ipv6_prefix);
        let full_at = self.shard(client).get(&client).copied().unwrap_or(0);
        Duration::from_nanos((full_at + self.each).saturating_sub(now.saturating_add(self.most)))
    }

    pub(super) fn take(&self, address: IpAddr, now: Instant) -> Result<(), RetryAfter> {
        let now = self.moment(now);
        let client = Prefix::new(address, self.ipv6_prefix);
        let mut shard = self.shard(client);
        let full_at = shard.get(&client).copied().unwrap_or(0).max(now);
        let after = full_at + self.each;
        if after - now > self.most {
            return Err(RetryAfter(Duration::from_nanos(after - now - self.most)));
        }
        if shard.len() >= PER_SHARD && !shard.contains_key(&client) {
            make_room(&mut shard, now);
        }
        shard.insert(client, after);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn tracked(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }
}

fn make_room(shard: &mut HashMap<Prefix, Moment>, now: Moment) {
    shard.retain(|_, full_at| *full_at > now);
    if shard.len() >= PER_SHARD
        && let Some(fullest) = shard.iter().min_by_key(|(_, full_at)| **full_at).map(|(client, _)| *client)
    {
        shard.remove(&fullest);
    }
}
