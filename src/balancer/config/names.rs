//! Back ends by name: the keys `resolvers` and `resolve_…` of a pool, of HTTP and of TCP alike.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use trivet_base::config::{self, Invalid};
use trivet_pool::names::NameLimits;
use trivet_proxy::config::ServerAddress;

/// The most that `resolve_max_addresses` may be: each is checked by itself.
const MOST_ADDRESSES: usize = 1024;

/// What a pool says about DNS.
#[derive(Debug, Clone, Copy)]
pub struct Resolving<'a> {
    /// The servers that are asked; those of /etc/resolv.conf when there are none.
    pub servers: &'a [SocketAddr],
    /// See [`NameLimits::interval`].
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// See [`NameLimits::hold`].
    pub hold: Duration,
    /// See [`NameLimits::most`].
    pub most: usize,
    /// See [`NameLimits::networks`].
    pub networks: &'a [IpNet],
}

impl Resolving<'_> {
    /// What is done with the addresses of names.
    pub fn limits(&self) -> NameLimits {
        NameLimits {
            interval: self.interval,
            hold: self.hold,
            most: self.most,
            networks: self.networks.to_vec(),
        }
    }

    /// The most back ends that there can be at these addresses.
    pub fn most_backends<'a>(&self, addresses: impl Iterator<Item = &'a ServerAddress>) -> usize {
        addresses.map(|address| if address.name().is_some() { self.most } else { 1 }).sum()
    }

    /// Refuses values that say nothing. `section` is where they stand, `has_names` whether a back end has a name as its address.
    pub(super) fn validate(&self, section: &str, has_names: bool) -> Result<(), Invalid> {
        let key = |name: &str| format!("{section}.{name}");
        config::positive(&key("resolve_interval"), self.interval)?;
        config::positive(&key("resolve_timeout"), self.timeout)?;
        if !(1..=MOST_ADDRESSES).contains(&self.most) {
            let why = format_args!("must be from 1 to {MOST_ADDRESSES}");
            return Invalid::err(key("resolve_max_addresses"), why);
        }
        if let Some(at) = self.servers.iter().find(|at| at.port() == 0) {
            return Invalid::err(
                key("resolvers"),
                format_args!("{at} has port 0; DNS servers listen on port 53"),
            );
        }
        if has_names {
            return Ok(());
        }
        for (name, is_said) in
            [("resolvers", !self.servers.is_empty()), ("resolve_networks", !self.networks.is_empty())]
        {
            if is_said {
                return Invalid::err(
                    key(name),
                    "says nothing where no back end has a name as its address, \"app.internal:8080\" for one",
                );
            }
        }
        Ok(())
    }
}
