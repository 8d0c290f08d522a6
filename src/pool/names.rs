//! Back ends by name: DNS is asked again and again, and each address that it tells is a back end.
//!
//! An address that is new is added, and used from its first good check on; one that answers no longer have is drained and removed
//! after [`NameLimits::hold`]; all others stay as they are, with their health, their connections and what they have in hand. While
//! nobody answers, or not with an address that may be used, everything stays: a resolver that fails stops no site.
//!
//! As HAProxy's `server-template` with `resolvers`, and nginx's `server … resolve`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use metrics::{counter, gauge};
use tokio::time::Instant;

use super::rounds::spread;
use super::timing::Timing;
use super::{NewBackend, Pool};
use trivet_base::process::Heartbeats;

mod memory;

use memory::Memory;

/// How soon a name is asked for again that has no address yet.
const SOON: Duration = Duration::from_secs(1);
/// Addresses of one name that are back ends of their own in metrics. Their series stay for the life of the process, so a name whose
/// addresses are others each time must not have one for each.
const MOST_NAMED: usize = 1024;
/// What an answer may be late for by a busy machine's fault.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for the addresses of a name.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// Asks once, and answers within a time of its own.
    async fn resolve(&self, host: &str) -> Found;
}

/// What there is of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Family {
    /// These addresses; none where the name has none, or does not exist (RFC 2308).
    Answered(Vec<IpAddr>),
    /// Nobody answered, or said that it cannot. With the reason.
    Failed(String),
    /// It is not asked for.
    NotAsked,
}

/// What was found, by family: of two questions one may fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub v4: Family,
    pub v6: Family,
}

/// What is done with answers.
#[derive(Debug, Clone)]
pub struct NameLimits {
    /// From one question to the next.
    pub interval: Duration,
    /// How long an address is kept that answers no longer have (HAProxy's `hold obsolete` and `hold nx`).
    pub hold: Duration,
    /// Addresses of a name that are used.
    pub most: usize,
    /// Where they must be; with none, anywhere but where [`is_usual`] says no.
    pub networks: Vec<IpNet>,
}

impl NameLimits {
    fn allows(&self, address: IpAddr) -> bool {
        match self.networks.as_slice() {
            [] => is_usual(address),
            networks => networks.iter().any(|net| net.contains(&address)),
        }
    }
}

/// Whether another machine can be there. An answer that leads to this one would open to everybody what listens on loopback for
/// those on it alone, and one of a link may be a cloud's metadata service.
pub fn is_usual(address: IpAddr) -> bool {
    let never = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    let link = match address {
        IpAddr::V4(four) => four.is_link_local() || four.is_broadcast() || four.octets()[0] == 0,
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    !never && !link
}

/// Makes the back end of this name at an address that was found.
pub type Make<T> = Box<dyn Fn(&str, SocketAddr) -> NewBackend<T> + Send + Sync>;

/// A name, and what is known of its addresses.
pub struct Named<T> {
    pool: Arc<Pool<T>>,
    /// What its back ends' names begin with.
    server: String,
    host: String,
    port: u16,
    limits: NameLimits,
    resolver: Arc<dyn Resolve>,
    make: Make<T>,
    there: BTreeMap<IpAddr, There>,
    /// Those that had a name of their own.
    named: BTreeSet<IpAddr>,
    memory: Option<Memory>,
    added: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Whether anything was asked before.
    has_asked: bool,
    /// What was said last, so that it is not said again every time.
    said: String,
}

struct There {
    /// Of its back end.
    name: String,
    /// Since when answers do not have it.
    missing: Option<Instant>,
}

impl<T: Send + Sync + 'static> Named<T> {
    /// The addresses of `host` as back ends of `pool`, `server` with each address. Nothing is asked yet.
    pub fn new(
        pool: Arc<Pool<T>>,
        server: &str,
        (host, port): (&str, u16),
        limits: NameLimits,
        resolver: Arc<dyn Resolve>,
        make: Make<T>,
    ) -> Self {
        Self {
            pool,
            server: server.into(),
            host: host.into(),
            port,
            limits,
            resolver,
            make,
            there: BTreeMap::new(),
            named: BTreeSet::new(),
            memory: None,
            added: None,
            has_asked: false,
            said: String::new(),
        }
    }

    /// Keeps the last known addresses in a folder, for a process that starts while nobody answers.
    pub fn remembered_in(mut self, folder: &Path) -> Self {
        self.memory = Some(Memory::new(folder, self.pool.name(), &self.server));
        self
    }

    /// Has this called when back ends were added, whose first check is then still to come: what is known of their names is not known to
    /// them yet.
    pub fn when_added(&mut self, call: Arc<dyn Fn() + Send + Sync>) {
        self.added = Some(call);
    }

    /// Asks once, and has the pool follow the answer.
    pub async fn ask(&mut self) {
        let found = self.resolver.resolve(&self.host).await;
        self.take(found, Instant::now());
    }

    /// Goes on asking, for ever. `heartbeats` expects it to, though each question may take as long as `within`.
    pub async fn follow(mut self, within: Duration, heartbeats: Heartbeats) {
        let name = format!("the addresses of {}/{}", self.pool.name(), self.server);
        let beat = heartbeats.expect(name, (self.limits.interval + within) * 2 + PATIENCE);
        loop {
            beat.beat();
            let none_yet = self.there.is_empty();
            let wait = if none_yet { self.limits.interval.min(SOON) } else { self.limits.interval };
            // Nodes that start together would otherwise ask together, for ever.
            tokio::time::sleep(spread(wait, Timing::JITTER)).await;
            self.ask().await;
        }
    }

    fn take(&mut self, Found { v4, v6 }: Found, now: Instant) {
        let has = |family: &Family| matches!(family, Family::Answered(_));
        let (has_v4, has_v6) = (has(&v4), has(&v6));
        let (mut found, mut refused, mut failed) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for family in [v4, v6] {
            match family {
                Family::Answered(all) => {
                    for address in all.into_iter().map(|a| a.to_canonical()) {
                        if self.limits.allows(address) { &mut found } else { &mut refused }.insert(address);
                    }
                }
                Family::Failed(why) => failed.push(why),
                Family::NotAsked => {}
            }
        }
        let result = match (found.is_empty(), refused.is_empty(), failed.is_empty()) {
            (false, ..) => "found",
            (true, false, _) => "refused",
            (true, true, false) => "failed",
            (true, true, true) => "none",
        };
        counter!("trivet_pool_resolutions_total", "pool" => self.pool.name().to_owned(), "result" => result)
            .increment(1);
        let answered = matches!(result, "found" | "none");
        let is_first = !std::mem::replace(&mut self.has_asked, true);
        let before: Vec<IpAddr> = self.there.keys().copied().collect();
        if answered {
            self.lose(&found, |address| if address.is_ipv4() { has_v4 } else { has_v6 }, now);
        } else if is_first {
            // There may be those that a process before this one knew.
            found = self.memory.as_ref().map(Memory::read).unwrap_or_default();
            found.retain(|address| self.limits.allows(*address));
        }
        let left_out = self.get(&found);
        if !self.there.keys().eq(&before) || (answered && is_first) {
            self.remember();
        }
        if let Some(added) = &self.added
            && self.there.keys().any(|address| !before.contains(address))
        {
            added();
        }
        self.say(result, &refused, &failed, left_out);
        gauge!("trivet_pool_addresses", "pool" => self.pool.name().to_owned(), "backend" => self.server.clone())
            .set(self.there.len() as f64);
    }

    /// Has the pool lose those that have been missing for long. What nobody was `asked` about successfully is not missing.
    fn lose(&mut self, found: &BTreeSet<IpAddr>, asked: impl Fn(&IpAddr) -> bool, now: Instant) {
        let hold = self.limits.hold;
        let mut gone = Vec::new();
        for (address, there) in &mut self.there {
            if found.contains(address) {
                there.missing = None;
            } else if asked(address) && now.duration_since(*there.missing.get_or_insert(now)) >= hold {
                gone.push(*address);
            }
        }
        gone.iter().for_each(|address| self.remove(address));
    }

    /// Has the pool get those that are new. How many are left out.
    fn get(&mut self, found: &BTreeSet<IpAddr>) -> usize {
        let mut left_out = 0;
        for address in found {
            if self.there.contains_key(address) {
                continue;
            }
            if self.there.len() >= self.limits.most {
                // One that answers have comes before one that is merely kept.
                let missing = self.there.iter().filter_map(|(a, t)| Some((t.missing?, *a))).min();
                let Some((_, longest)) = missing else {
                    left_out += 1;
                    continue;
                };
                self.remove(&longest);
            }
            let name = self.name(*address);
            // Another name, or a fixed back end, may have the same address.
            match self.pool.add((self.make)(&name, SocketAddr::new(*address, self.port))) {
                Ok(_) => _ = self.there.insert(*address, There { name, missing: None }),
                Err(_) => left_out += 1,
            }
        }
        left_out
    }

    fn remember(&self) {
        let written = self.memory.as_ref().map(|memory| memory.write(self.there.keys()));
        if let Some(Err(e)) = written {
            tracing::warn!(pool = self.pool.name(), backend = self.server, error = %e, "a name's addresses cannot be kept for the next process");
        }
    }

    fn remove(&mut self, address: &IpAddr) {
        if let Some(there) = self.there.remove(address) {
            self.pool.remove(&there.name);
        }
    }

    /// `app/10.77.0.21`; one of a few once there were many.
    fn name(&mut self, address: IpAddr) -> String {
        if self.named.len() < MOST_NAMED {
            self.named.insert(address);
        }
        if self.named.contains(&address) {
            return format!("{}/{address}", self.server);
        }
        let taken: BTreeSet<&str> = self.there.values().map(|t| t.name.as_str()).collect();
        let mut free = (1..).map(|n| format!("{}/other-{n}", self.server));
        free.find(|name| !taken.contains(name.as_str())).unwrap_or_default()
    }

    fn say(&mut self, result: &str, refused: &BTreeSet<IpAddr>, failed: &[String], left_out: usize) {
        let mut words = Vec::new();
        match result {
            "none" => words.push("it has no address".to_owned()),
            "refused" => words.push("it has no address that may be used".to_owned()),
            _ => {}
        }
        words.extend(failed.iter().map(|why| format!("no answer: {why}")));
        if let Some(first) = refused.first() {
            words.push(format!("{} addresses are not in resolve_networks, {first} for one", refused.len()));
        }
        if left_out > 0 {
            words.push(format!(
                "{left_out} addresses are left out: more than resolve_max_addresses, or another back end's"
            ));
        }
        let now = words.join("; ");
        if now != self.said {
            let (pool, backend, name) = (self.pool.name(), &self.server, &self.host);
            if now.is_empty() {
                tracing::info!(pool, backend, name, "the name is resolved again");
            } else {
                tracing::warn!(
                    pool,
                    backend,
                    name,
                    kept = self.there.len(),
                    reason = now,
                    "resolving a back end's name"
                );
            }
            self.said = now;
        }
    }
}

#[cfg(test)]
mod tests;
