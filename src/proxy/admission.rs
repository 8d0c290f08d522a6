//! How much one client may ask for: connections at a time, and requests a second.
//!
//! A client is an IPv4 address, or a prefix of IPv6 addresses: whoever has one IPv6 address usually has 2⁶⁴ of them. What
//! is remembered about clients is bounded: connections are counted only while they are open, and of request rates at
//! most [`requests::TRACKED`] are kept.
//!
//! ```text
//! accept → Admission::connection(address)? → the permit lives as long as the connection
//!          Admission::penance(address)     → how long it waits, for what its client sent before
//!          request head → Admission::request(address)? → else 429 with Retry-After
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use ipnet::IpNet;
use serde::Deserialize;

mod connections;
mod prefix;
pub mod requests;

use connections::Open;
pub use connections::Permit as ConnectionPermit;
use prefix::Prefix;
use requests::Buckets;

use trivet_http::refusal::RetryAfter;

/// What one client may ask for.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Connections at a time from one IPv4 address or one IPv6 /64; 0 is any number.
    pub connections: usize,
    /// Requests a second; none is any number.
    pub requests: Option<RequestRate>,
    /// Networks to which neither applies.
    pub exempt: Vec<IpNet>,
}

/// `request_rate`: a token bucket for each client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRate {
    /// Requests a second, on average.
    pub rate: u32,
    /// Requests at once, before the average is asked for.
    pub burst: u32,
    /// Bits of an IPv6 address that make a client.
    #[serde(default = "usual_prefix")]
    pub ipv6_prefix: u8,
}

/// Malformed requests of one client that cost it nothing. A visitor behind the same address as one who asks without a pause
/// waits with it, a second at most for each connection.
const MALFORMED: RequestRate = RequestRate { rate: 1, burst: 20, ipv6_prefix: 64 };

/// What providers give to one customer, at least (RFC 6177).
fn usual_prefix() -> u8 {
    64
}

/// The client has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} connections are open from there already")]
pub struct Refused {
    pub limit: usize,
}

/// Counts what clients do and says when it is too much. Cheap to share: one for a server.
#[derive(Debug)]
pub struct Admission {
    open: Arc<Open>,
    limit: usize,
    requests: Option<Buckets>,
    malformed: Option<Buckets>,
    exempt: Vec<IpNet>,
}

impl Admission {
    /// For these rules.
    pub fn new(rules: &Rules) -> Arc<Self> {
        Arc::new(Self {
            open: Arc::default(),
            limit: rules.connections,
            requests: rules.requests.map(Buckets::new),
            malformed: Some(Buckets::new(MALFORMED)),
            exempt: rules.exempt.clone(),
        })
    }

    /// Refuses nobody: for tiers whose clients are tiers.
    pub fn unlimited() -> Arc<Self> {
        let open = Arc::default();
        Arc::new(Self { open, limit: 0, requests: None, malformed: None, exempt: Vec::new() })
    }

    /// A client connects. The permit counts until it is dropped.
    pub fn connection(&self, address: IpAddr) -> Result<ConnectionPermit, Refused> {
        if self.limit == 0 || self.is_exempt(address) {
            return Ok(ConnectionPermit::uncounted());
        }
        Open::take(&self.open, Prefix::new(address, 64), self.limit).ok_or(Refused { limit: self.limit })
    }

    /// A client sent a request that was malformed and could not be answered.
    pub fn malformed(&self, address: IpAddr) {
        if let Some(buckets) = self.malformed.as_ref().filter(|_| !self.is_exempt(address)) {
            // With an empty bucket it waits already.
            let _ = buckets.take(address, Instant::now());
        }
    }

    /// How long a new connection of this client waits before it is served: some libraries answer the reset of a malformed
    /// request by a new connection with the same request, without a pause.
    pub fn penance(&self, address: IpAddr) -> Duration {
        match &self.malformed {
            Some(buckets) if !self.is_exempt(address) => buckets.wait(address, Instant::now()),
            _ => Duration::ZERO,
        }
    }

    /// A client sends a request.
    pub fn request(&self, address: IpAddr) -> Result<(), RetryAfter> {
        match &self.requests {
            Some(buckets) if !self.is_exempt(address) => buckets.take(address, Instant::now()),
            _ => Ok(()),
        }
    }

    /// Whether the limits do not apply to `address`.
    pub fn is_exempt(&self, address: IpAddr) -> bool {
        // Without rules, as on the inner tiers, not even the address is looked at.
        !self.exempt.is_empty() && {
            let address = address.to_canonical();
            self.exempt.iter().any(|net| net.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests;
