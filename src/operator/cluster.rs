//! The cluster file, `/etc/trivet/cluster.json`: the one description of the cluster, as the operator's command reads it.
//! It holds no secrets. The NixOS modules write it; by hand it may be TOML as well.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use trivet_base::config::{self, Invalid, Validate};

/// Where the NixOS modules put the file.
pub const DEFAULT_FILE: &str = "/etc/trivet/cluster.json";

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// A name for people; the cluster's CA carries it.
    pub name: String,
    /// The site's domain, `www.foobar.com`.
    pub domain: String,
    /// Further names that `site.pem` carries: aliases, and sites without a certificate of their own.
    #[serde(default)]
    pub certificate_names: Vec<String>,
    /// The addresses that clients use, held by one balancer at a time.
    pub virtual_addresses: Vec<IpAddr>,
    /// The cluster CA's certificate on the nodes.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name, a DNS label: certificates carry it.
    pub name: String,
    /// The address by which the other nodes reach it.
    pub address: IpAddr,
    /// What it does.
    pub roles: Vec<Role>,
}

impl Node {
    /// Whether the node has `role`.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// What a node can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Balancer and keepalived: may hold the virtual addresses.
    Balancer,
    /// Web tier, app and database gateway.
    App,
    /// mysqld and keeper: a member of the group.
    Database,
    /// Prometheus and Alertmanager.
    Monitoring,
}

impl Cluster {
    /// The node that this machine is, by its addresses.
    pub fn here(&self) -> Option<&Node> {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        self.nodes.iter().find(|n| interfaces.iter().any(|i| i.ip() == n.address))
    }

    /// The nodes with `role`.
    pub fn with(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| n.is(role))
    }

    /// Every name that `site.pem` is for, the domain first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.domain).chain(&self.certificate_names).map(String::as_str)
    }
}

impl Validate for Cluster {
    fn validate(&self) -> Result<(), Invalid> {
        if self.name.is_empty() || self.name.len() > 64 {
            // The upper bound of a common name, RFC 5280 appendix A.
            return Invalid::err("name", "must have 1 to 64 characters");
        }
        if !is_domain(&self.domain) {
            return Invalid::err(
                "domain",
                format_args!("\"{}\" is not a domain name in lower case", self.domain),
            );
        }
        for (i, name) in self.certificate_names.iter().enumerate() {
            // `*.foobar.com` is for one label (RFC 9525 section 6.3).
            if !is_domain(name.strip_prefix("*.").unwrap_or(name)) {
                return Invalid::err(
                    format!("certificate_names[{i}]"),
                    format_args!("\"{name}\" is not a domain name in lower case"),
                );
            }
        }
        config::unique("certificate_names", self.names())?;
        if let Some(ca) = &self.ca {
            config::absolute("ca", ca)?;
        }
        config::not_empty("nodes", &self.nodes)?;
        config::unique("nodes", self.nodes.iter().map(|n| n.name.as_str()))?;
        for (i, node) in self.nodes.iter().enumerate() {
            let key = format!("nodes[{i}]");
            if !is_label(&node.name) || node.name == "ca" || node.name == "localhost" {
                return Invalid::err(
                    format!("{key}.name"),
                    format_args!(
                        "\"{}\" cannot name a node: write a host name of lower-case letters, digits and hyphens, \
                         other than \"ca\" and \"localhost\"",
                        node.name
                    ),
                );
            }
            if node.address.is_unspecified() || node.address.is_loopback() || node.address.is_multicast() {
                return Invalid::err(
                    format!("{key}.address"),
                    format_args!("{} is no address by which other nodes reach {}", node.address, node.name),
                );
            }
            if let Some(other) = self.nodes[..i].iter().find(|o| o.address == node.address) {
                return Invalid::err(
                    format!("{key}.address"),
                    format_args!("{} and {} have the same address, {}", other.name, node.name, node.address),
                );
            }
            config::not_empty(&format!("{key}.roles"), &node.roles)?;
        }
        for (i, address) in self.virtual_addresses.iter().enumerate() {
            let key = format!("virtual_addresses[{i}]");
            if self.virtual_addresses[..i].contains(address) {
                return Invalid::err(key, format_args!("{address} stands here twice"));
            }
            if let Some(node) = self.nodes.iter().find(|n| n.address == *address) {
                return Invalid::err(
                    key,
                    format_args!(
                        "{address} is {}'s own address; a virtual address must be free to move",
                        node.name
                    ),
                );
            }
        }
        Ok(())
    }
}

fn is_domain(name: &str) -> bool {
    name.split('.').all(is_label) && name.len() <= 253
}

/// A label of a host name: RFC 1123 section 2.1, lower case, since names are compared as text.
fn is_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && !s.starts_with('-')
        && !s.ends_with('-')
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests;
