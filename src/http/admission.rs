//! How much one client may ask for: connections at a time, and requests a second.
//!
//! A client is an IPv4 address, or a prefix of IPv6 addresses: whoever has one IPv6 address usually has 2⁶⁴ of them. What
//! is remembered about clients is bounded: connections are counted only while they are open, and of request rates at
//! most [`requests::TRACKED`] are kept.
//!
//! ```text
//! accept → Admission::connection(address)? → the permit lives as long as the connection
//!          request head → Admission::request(address)? → else 429 with Retry-After
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::Deserialize;

mod connections;
mod prefix;
pub mod requests;

use connections::Open;
pub use connections::Permit as ConnectionPermit;
use prefix::Prefix;
use requests::Buckets;

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

/// What providers give to one customer, at least (RFC 6177).
fn usual_prefix() -> u8 {
    64
}

/// The client has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} connections are open from there already")]
pub struct Refused {
    /// The limit.
    pub limit: usize,
}

/// The client has sent as many requests as it may; after this time it may send one (RFC 9110 section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl RetryAfter {
    /// The value of the field `Retry-After`: whole seconds, at least one.
    pub fn seconds(self) -> u64 {
        self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0 || self.0.is_zero())
    }
}

/// Counts what clients do and says when it is too much. Cheap to share: one for a server.
#[derive(Debug)]
pub struct Admission {
    open: Arc<Open>,
    limit: usize,
    requests: Option<Buckets>,
    exempt: Vec<IpNet>,
}

impl Admission {
    /// For these rules.
    pub fn new(rules: &Rules) -> Arc<Self> {
        Arc::new(Self {
            open: Arc::default(),
            limit: rules.connections,
            requests: rules.requests.map(Buckets::new),
            exempt: rules.exempt.clone(),
        })
    }

    /// Refuses nobody: for tiers whose clients are tiers.
    pub fn unlimited() -> Arc<Self> {
        Self::new(&Rules::default())
    }

    /// A client connects. The permit counts until it is dropped.
    pub fn connection(&self, address: IpAddr) -> Result<ConnectionPermit, Refused> {
        if self.limit == 0 || self.is_exempt(address) {
            return Ok(ConnectionPermit::uncounted());
        }
        Open::take(&self.open, Prefix::new(address, 64), self.limit).ok_or(Refused { limit: self.limit })
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
