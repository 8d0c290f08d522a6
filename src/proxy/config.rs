//! The parts of a configuration that describe back ends of HTTP and their checks, shared by balancer, gateway and web.

use std::net::SocketAddr;

use serde::Deserialize;

use trivet_base::config::{self, Invalid};

mod address;
mod health;

pub use address::ServerAddress;
pub use health::{Checked, HealthConfig, Kind, TcpHealthConfig, statuses};

/// One back end of an HTTP pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// Its name: in logs, metrics and `/status`, and in its certificate unless `server_name` says otherwise.
    pub name: String,
    /// Address and port. Never a host name: a resolver that hangs must not be able to stop the site.
    pub address: SocketAddr,
    /// The DNS name its certificate must carry; its `name` when absent.
    #[serde(default)]
    pub server_name: Option<String>,
}

impl BackendConfig {
    /// The name its certificate must carry.
    pub fn tls_name(&self) -> &str {
        self.server_name.as_deref().unwrap_or(&self.name)
    }
}

/// What is spoken with the back ends of an HTTP pool, by their checks, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// `"http/1.1"`
    #[default]
    #[serde(rename = "http/1.1")]
    Http1,
    /// `"h2"`: over TLS by ALPN, in plain text by prior knowledge (RFC 9113 section 3.3).
    #[serde(rename = "h2")]
    Http2,
}

impl Protocol {
    /// Its name in ALPN (RFC 7301).
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// What all back ends have, wherever they are.
pub struct Member<'a> {
    pub name: &'a str,
    pub address: String,
    /// The name its certificate must carry.
    pub tls_name: &'a str,
}

/// As [`validate_members`].
pub fn validate_backends(key: &str, backends: &[BackendConfig], tls: bool) -> Result<(), Invalid> {
    let members = backends.iter().map(|b| Member {
        name: &b.name,
        address: b.address.to_string(),
        tls_name: b.tls_name(),
    });
    validate_members(key, &members.collect::<Vec<_>>(), tls)
}

/// Checks a list of back ends: not empty, names and addresses unique, names usable in certificates when TLS is spoken.
pub fn validate_members(key: &str, backends: &[Member<'_>], tls: bool) -> Result<(), Invalid> {
    config::not_empty(key, backends)?;
    config::unique(key, backends.iter().map(|b| b.name))?;
    config::unique(key, backends.iter().map(|b| b.address.as_str()))?;
    for (i, backend) in backends.iter().enumerate() {
        if backend.name.is_empty() {
            return Invalid::err(format!("{key}[{i}].name"), "is empty");
        }
        if tls && trivet_tls::server_name(backend.tls_name).is_none() {
            return Invalid::err(
                format!("{key}[{i}]"),
                format_args!("\"{}\" cannot stand in a certificate as a DNS name", backend.tls_name),
            );
        }
    }
    Ok(())
}
