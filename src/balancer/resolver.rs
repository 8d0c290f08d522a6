//! DNS, asked for the addresses of back ends.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use ipnet::IpNet;

use super::config::Resolving;
use trivet_pool::names::{Family, Found, Resolve};

/// Questions to a server before it is given up: a datagram may be lost.
const ATTEMPTS: u32 = 2;

/// Asks DNS servers.
pub struct Dns {
    /// These servers; those of /etc/resolv.conf when there are none (resolv.conf(5)).
    pub servers: Vec<SocketAddr>,
    /// How long both questions may take.
    pub timeout: Duration,
    /// Whether addresses of IPv4, and of IPv6, are asked for.
    pub families: (bool, bool),
}

impl Dns {
    /// As a pool says. A family of which no network is used is not asked for.
    pub fn new(resolving: &Resolving<'_>) -> Self {
        let asked = |is_asked: fn(&IpNet) -> bool| {
            resolving.networks.is_empty() || resolving.networks.iter().any(is_asked)
        };
        Self {
            servers: resolving.servers.to_vec(),
            timeout: resolving.timeout,
            families: (asked(|net| net.addr().is_ipv4()), asked(|net| net.addr().is_ipv6())),
        }
    }

    /// A resolver as the files say now: they may change while we run, so it is not kept. It has no cache, either, which the
    /// servers have.
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.servers.as_slice() {
            [] => TokioResolver::builder_tokio()?,
            servers => {
                let servers = servers.iter().map(|at| {
                    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut c| {
                        c.port = at.port();
                        c
                    });
                    NameServerConfig::new(at.ip(), true, connections.into())
                });
                let config = ResolverConfig::from_name_servers(servers.collect());
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.timeout = self.timeout / ATTEMPTS;
        options.attempts = ATTEMPTS as usize - 1;
        builder.build()
    }

    async fn family(&self, resolver: &TokioResolver, host: &str, kind: RecordType) -> Family {
        let asked = tokio::time::timeout(self.timeout, resolver.lookup(host, kind)).await;
        match asked {
            Ok(Ok(found)) => {
                let addresses = found.answers().iter().filter_map(|record| match &record.data {
                    RData::A(a) => Some(IpAddr::V4(a.0)),
                    RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                    _ => None,
                });
                Family::Answered(addresses.collect())
            }
            Ok(Err(e)) if has_none(&e) => Family::Answered(Vec::new()),
            Ok(Err(e)) => Family::Failed(e.to_string()),
            Err(_) => Family::Failed(format!("it took longer than {:?}", self.timeout)),
        }
    }
}

/// Whether a server says that there is no such name, or no such address of it (RFC 2308 section 2).
fn has_none(e: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = e else { return false };
    matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
}

#[async_trait]
impl Resolve for Dns {
    async fn resolve(&self, host: &str) -> Found {
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(e) => {
                let failed = || Family::Failed(format!("/etc/resolv.conf: {e}"));
                return Found { v4: failed(), v6: failed() };
            }
        };
        // In full, as nginx and HAProxy read it: with a search list a server that fails for one name, and says of the next one that it
        // is not there, would seem to know.
        let host = &format!("{host}.");
        let ask = async |wanted: bool, kind| match wanted {
            true => self.family(&resolver, host, kind).await,
            false => Family::NotAsked,
        };
        let (v4, v6) = self.families;
        let (v4, v6) = tokio::join!(ask(v4, RecordType::A), ask(v6, RecordType::AAAA));
        Found { v4, v6 }
    }
}
