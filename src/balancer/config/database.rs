//! The database gateway: `[database]`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::defaults;
use trivet_base::config::{self, Invalid, TlsFiles};
use trivet_pool::timing::Timing;
use trivet_proxy::config::{BackendConfig, validate_backends};
/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Connections accepted here go to the primary.
    pub write_listen: Vec<SocketAddr>,
    /// Connections accepted here go to replicas in turn, or to the primary when there is none.
    #[serde(default)]
    pub read_listen: Vec<SocketAddr>,
    /// The members of the group.
    pub members: Vec<Member>,
    /// Mutual TLS to the keepers.
    pub tls: TlsFiles,
    /// How the keepers are asked.
    #[serde(default)]
    pub health: KeeperHealth,
    /// A replica that is further behind gets no reads. "0s": any lag will do.
    #[serde(default = "defaults::max_lag", with = "humantime_serde")]
    pub max_lag: Duration,
    /// TCP connect to a member and its greeting, together.
    #[serde(default = "defaults::database_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Connections that are being opened to one member at a time; further ones queue.
    #[serde(default = "defaults::max_connecting")]
    pub max_connecting: usize,
    /// How long a new connection waits for a member to serve it while there is none, before it is told so and closed.
    #[serde(default = "defaults::wait_for_primary", with = "humantime_serde")]
    pub wait_for_primary: Duration,
    /// Connections at a time, both listeners together; a further one is told so and closed at once.
    #[serde(default = "defaults::database_max_connections")]
    pub max_connections: usize,
}

/// One member of the database group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The node's name, which the keeper's certificate must carry.
    pub name: String,
    /// Where its mysqld listens.
    pub address: SocketAddr,
    /// Where its keeper listens.
    pub keeper: SocketAddr,
}

/// `database.health`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeeperHealth {
    /// See [`Timing::interval`].
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// See [`Timing::timeout`].
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// See [`Timing::rise`].
    pub rise: u32,
    /// See [`Timing::fall`].
    pub fall: u32,
}

impl KeeperHealth {
    /// The same values as the pool takes them.
    pub fn timing(&self) -> Timing {
        Timing::steady(self.interval, self.timeout, self.rise, self.fall)
    }
}

impl Default for KeeperHealth {
    fn default() -> Self {
        Self {
            // A change of the primary is seen within 200 ms; an answer costs the keeper some 50 µs.
            interval: Duration::from_millis(150),
            timeout: Duration::from_millis(300),
            // The keeper is the authority; its first word counts.
            rise: 1,
            // About a second of silence. An election takes six, so sooner gains nothing, and a busy machine is silent, too.
            fall: 3,
        }
    }
}

impl Database {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        config::not_empty("database.write_listen", &self.write_listen)?;
        let members: Vec<BackendConfig> = self
            .members
            .iter()
            .map(|m| BackendConfig { name: m.name.clone(), address: m.address, server_name: None })
            .collect();
        validate_backends("database.members", &members, true)?;
        let keepers: Vec<String> = self.members.iter().map(|m| m.keeper.to_string()).collect();
        config::unique("database.members", keepers.iter().map(String::as_str))?;
        self.tls.validate("database.tls")?;
        self.health.timing().validate("database.health")?;
        config::positive("database.connect_timeout", self.connect_timeout)?;
        if self.max_connecting == 0 {
            return Invalid::err("database.max_connecting", "must be at least 1");
        }
        if self.max_connections == 0 {
            return Invalid::err("database.max_connections", "must be at least 1");
        }
        Ok(())
    }
}
