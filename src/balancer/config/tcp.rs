//! Services of any protocol over TCP: `[tcp.NAME]`. docs/tcp.md explains every key.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::names::Resolving;
use super::pools::{CircuitBreaker, TcpOutliers};
use super::{MOST_WEIGHT, defaults};
use trivet_base::config::{self, Invalid};
use trivet_http::proxy_protocol::{Trust, Version};
use trivet_pool::balance::{Hash, LeastRequests, Random};
use trivet_pool::{Balance, RoundRobin};
use trivet_proxy::config::{Member, ServerAddress, TcpHealthConfig, validate_members};

/// `[tcp.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcp {
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// Where connections go; with `sni`, those for which it says nothing, which are refused without this.
    #[serde(default)]
    pub pool: Option<TcpPool>,
    /// Where connections of TLS go by the name that the client asks for. They are passed on encrypted.
    #[serde(default)]
    pub sni: Vec<Sni>,
    /// The proxies in front, which tell the client's address in a PROXY header; anyone else is not served.
    #[serde(default)]
    pub proxy_protocol: Option<Trust>,
    /// Networks of clients that are served; everybody when empty.
    #[serde(default, deserialize_with = "config::networks")]
    pub clients: Vec<IpNet>,
    /// Connections at a time, all listeners of the service together; further ones wait in the kernel's queue.
    #[serde(default = "defaults::tcp_max_connections")]
    pub max_connections: usize,
    /// Connections at a time from one client address (IPv6: from one /64); a further one is closed. 0: any number.
    #[serde(default)]
    pub max_connections_per_address: usize,
    /// From accept to the end of the PROXY header and of the ClientHello, where they are read.
    #[serde(default = "defaults::handshake_timeout", with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long nothing may pass, in either direction, before a connection is closed.
    #[serde(default = "defaults::tunnel_timeout", with = "humantime_serde")]
    pub idle_timeout: Duration,
}

/// `[[tcp.NAME.sni]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sni {
    /// Names, and `*.` with a name: every name below it.
    pub names: Vec<String>,
    /// Where their connections go.
    pub pool: TcpPool,
}

impl Sni {
    /// The names as they are compared.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(|name| name.to_ascii_lowercase())
    }
}

/// `pool` of a service, or of one of its names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpPool {
    /// The back ends.
    pub backends: Vec<TcpServer>,
    /// Which of them takes the next connection.
    #[serde(default)]
    pub balance: TcpAlgorithm,
    /// How long the share of a back end that has come back grows to the whole; zero has it whole at once.
    #[serde(default = "defaults::slow_start", with = "humantime_serde")]
    pub slow_start: Duration,
    /// Their active checks.
    #[serde(default)]
    pub health: TcpHealthConfig,
    /// When one of them is passed over for what becomes of its connections.
    #[serde(default)]
    pub outliers: TcpOutliers,
    /// When the pool is left alone because most of its connections reach no back end; never when absent.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// DNS servers that are asked for the names among `backends`; those of /etc/resolv.conf when there are none.
    #[serde(default)]
    pub resolvers: Vec<SocketAddr>,
    /// See [`Resolving::interval`].
    #[serde(default = "defaults::resolve_interval", with = "humantime_serde")]
    pub resolve_interval: Duration,
    /// How long an answer may take.
    #[serde(default = "defaults::resolve_timeout", with = "humantime_serde")]
    pub resolve_timeout: Duration,
    /// See [`Resolving::hold`].
    #[serde(default = "defaults::resolve_hold", with = "humantime_serde")]
    pub resolve_hold: Duration,
    /// See [`Resolving::most`].
    #[serde(default = "defaults::resolve_max_addresses")]
    pub resolve_max_addresses: usize,
    /// See [`Resolving::networks`].
    #[serde(default, deserialize_with = "config::networks")]
    pub resolve_networks: Vec<IpNet>,
    /// The TCP connect to one back end.
    #[serde(default = "defaults::tcp_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Further back ends tried when one cannot be reached.
    #[serde(default = "defaults::retries")]
    pub retries: usize,
    /// Connections to one back end at a time; while all have as many, further ones queue.
    #[serde(default = "defaults::max_in_flight_per_backend")]
    pub max_in_flight_per_backend: usize,
    /// Connections that queue at a time; a further one is closed at once.
    #[serde(default = "defaults::max_queued")]
    pub max_queued: usize,
    /// How long a connection queues before it is closed.
    #[serde(default = "defaults::queue_timeout", with = "humantime_serde")]
    pub queue_timeout: Duration,
    /// Tell back ends the client's address in a PROXY header.
    #[serde(default)]
    pub send_proxy_protocol: Option<Version>,
    /// Whether a back end whose checks fail loses the connections that it has.
    #[serde(default)]
    pub close_when_down: bool,
}

/// One back end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpServer {
    /// In logs, metrics and `/status`.
    pub name: String,
    /// Where it listens.
    pub address: ServerAddress,
    /// Its share in comparison with the others'; 0 is nothing.
    #[serde(default = "defaults::weight")]
    pub weight: u32,
    /// It serves only while none that is no backup can.
    #[serde(default)]
    pub backup: bool,
    /// Connections to it at a time; `max_in_flight_per_backend` when absent.
    #[serde(default)]
    pub max_in_flight: Option<usize>,
}

/// `balance`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcpAlgorithm {
    /// See [`RoundRobin`].
    #[default]
    RoundRobin,
    /// See [`LeastRequests`]; here they are connections.
    LeastConnections,
    /// See [`Random`].
    Random,
    /// See [`struct@Hash`]; what is hashed is the client's address.
    Hash,
}

impl TcpPool {
    /// The algorithm, as a pool takes it.
    pub fn algorithm(&self) -> Box<dyn Balance> {
        match self.balance {
            TcpAlgorithm::RoundRobin => Box::new(RoundRobin::default()),
            TcpAlgorithm::LeastConnections => Box::new(LeastRequests::default()),
            TcpAlgorithm::Random => Box::new(Random),
            TcpAlgorithm::Hash => Box::new(Hash::new(defaults::hash_balance_factor())),
        }
    }

    /// The keys about DNS.
    pub fn resolving(&self) -> Resolving<'_> {
        Resolving {
            servers: &self.resolvers,
            interval: self.resolve_interval,
            timeout: self.resolve_timeout,
            hold: self.resolve_hold,
            most: self.resolve_max_addresses,
            networks: &self.resolve_networks,
        }
    }

    /// The most back ends that there can be.
    pub fn most_backends(&self) -> usize {
        self.resolving().most_backends(self.backends.iter().map(|b| &b.address))
    }

    fn validate(&self, section: &str) -> Result<(), Invalid> {
        let key = |name: &str| format!("{section}.{name}");
        let members = self.backends.iter().map(|b| Member {
            name: &b.name,
            address: b.address.to_string(),
            tls_name: &b.name,
        });
        validate_members(&key("backends"), &members.collect::<Vec<_>>(), false)?;
        for (number, server) in self.backends.iter().enumerate() {
            if server.address.is_unix() && self.health.port.is_some() {
                return Invalid::err(
                    key(&format!("backends[{number}].address")),
                    "is a unix socket, which has no port that health.port could be in the place of",
                );
            }
            if server.max_in_flight == Some(0) {
                return Invalid::err(key(&format!("backends[{number}].max_in_flight")), "must be at least 1");
            }
        }
        if let Some(number) = self.backends.iter().position(|b| b.weight > MOST_WEIGHT) {
            return Invalid::err(
                key(&format!("backends[{number}].weight")),
                format_args!(
                    "must be at most {MOST_WEIGHT}: weights are shares in comparison with the others'"
                ),
            );
        }
        if self.backends.iter().all(|b| b.weight == 0 || b.backup) {
            return Invalid::err(key("backends"), "has none of weight that is no backup: nobody would serve");
        }
        if self.balance == TcpAlgorithm::Hash && !self.slow_start.is_zero() {
            return Invalid::err(
                key("slow_start"),
                "does not go with balance = \"hash\": connections would move twice, away from the others and on",
            );
        }
        self.health.validate(&key("health"), false)?;
        self.outliers.limits().validate(&key("outliers"))?;
        if let Some(breaker) = &self.circuit_breaker {
            breaker.limits().validate(&key("circuit_breaker"))?;
        }
        self.resolving().validate(section, self.backends.iter().any(|b| b.address.name().is_some()))?;
        config::positive(&key("connect_timeout"), self.connect_timeout)?;
        if self.max_in_flight_per_backend == 0 {
            return Invalid::err(key("max_in_flight_per_backend"), "must be at least 1");
        }
        Ok(())
    }
}

impl Tcp {
    /// Every pool of the service, by what stands in its place in the pool's name: nothing, or the first of its names.
    pub fn pools(&self) -> impl Iterator<Item = (Option<&str>, &TcpPool)> {
        let by_name = self.sni.iter().map(|sni| (sni.names.first().map(String::as_str), &sni.pool));
        self.pool.iter().map(|pool| (None, pool)).chain(by_name)
    }

    /// `section` is where it stands.
    pub(super) fn validate(&self, section: &str) -> Result<(), Invalid> {
        let key = |name: &str| format!("{section}.{name}");
        config::not_empty(&key("listen"), &self.listen)?;
        if self.pool.is_none() && self.sni.is_empty() {
            return Invalid::err(key("pool"), "is missing: name its back ends, or those of names in sni");
        }
        if let Some(pool) = &self.pool {
            pool.validate(&key("pool"))?;
        }
        let mut taken = HashSet::new();
        for (number, sni) in self.sni.iter().enumerate() {
            let place = key(&format!("sni[{number}]"));
            let names = format!("{place}.names");
            config::not_empty(&names, &sni.names)?;
            for name in sni.names() {
                let host = name.strip_prefix("*.").unwrap_or(&name);
                if host.parse::<std::net::IpAddr>().is_ok() {
                    return Invalid::err(
                        names,
                        format_args!("\"{name}\" is an address, which no client names"),
                    );
                }
                if host.ends_with('.') || trivet_tls::server_name(host).is_none() {
                    return Invalid::err(
                        names,
                        format_args!(
                            "\"{name}\" is no host name; write \"www.foobar.com\", or \"*.foobar.com\""
                        ),
                    );
                }
                if taken.contains(&name) {
                    return Invalid::err(names, format_args!("\"{name}\" has a pool already"));
                }
                taken.insert(name);
            }
            sni.pool.validate(&format!("{place}.pool"))?;
        }
        Trust::validate(self.proxy_protocol.as_ref(), &key("proxy_protocol"))?;
        if self.max_connections == 0 {
            return Invalid::err(key("max_connections"), "must be at least 1");
        }
        config::positive(&key("handshake_timeout"), self.handshake_timeout)?;
        config::positive(&key("idle_timeout"), self.idle_timeout)
    }
}
