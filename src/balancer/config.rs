//! The balancer's configuration file. docs/balancer.md explains every key; every default stands in [`defaults`].

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use trivet_base::config::{self, ConfigError, Invalid, Log, Metrics, Validate};
use trivet_base::process::{descriptors, workers};
use trivet_http::proxy_protocol::Trust;
use trivet_tls::site::SiteCertificates;

mod database;
pub mod defaults;
mod listeners;
mod pools;

pub use database::{Database, KeeperHealth, Member};
pub use listeners::{Http, Https};
pub use pools::Web;

/// The whole file. HTTP needs `[https]` and `[web]`; the gateway needs `[database]`; a process runs either or both.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, for `/status`.
    pub node: String,
    /// The site's name; the default of `https.server_names`.
    #[serde(default)]
    pub domain: Option<String>,
    /// How long a stop waits for requests and connections in flight.
    #[serde(default = "config::default_shutdown_timeout", with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// After a stop was asked for, how long new connections are still accepted while `[local_check]` already answers
    /// 503, so that the virtual address can move before anyone is refused.
    #[serde(default = "defaults::drain_delay", with = "humantime_serde")]
    pub drain_delay: Duration,
    /// Threads that carry connections; as many as there are cores for this process when absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// Where `/metrics` and `/status` are served.
    #[serde(default)]
    pub metrics: Option<Metrics>,
    /// Plain HTTP, which redirects to HTTPS unless told to serve.
    #[serde(default)]
    pub http: Option<Http>,
    /// What the public reaches.
    #[serde(default)]
    pub https: Option<Https>,
    /// The back ends of the site.
    #[serde(default)]
    pub web: Option<Web>,
    /// What keepalived asks.
    #[serde(default)]
    pub local_check: Option<LocalCheck>,
    /// The cluster's virtual addresses, so that `/status` can say which of them are held here.
    #[serde(default)]
    pub virtual_addresses: Vec<IpAddr>,
    /// The database gateway.
    #[serde(default)]
    pub database: Option<Database>,
}

/// `[local_check]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalCheck {
    /// `GET /healthz` here is 200 when this balancer can serve, else 503.
    pub listen: SocketAddr,
}

impl Config {
    /// Where `/metrics` and `/status` are served: as configured, else 9601, or 9605 for a process that is only gateway.
    pub fn metrics(&self) -> Metrics {
        let port = if self.web.is_some() { 9601 } else { 9605 };
        self.metrics.clone().unwrap_or(Metrics { listen: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    /// Threads that carry connections.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(workers::cores)
    }

    /// The names the site answers to, lower case.
    pub fn server_names(&self) -> Vec<String> {
        let names = self.https.as_ref().map(|h| h.server_names.as_slice()).unwrap_or_default();
        let names = if names.is_empty() { self.domain.as_slice() } else { names };
        names.iter().map(|n| n.to_ascii_lowercase()).collect()
    }

    /// The connections that are let in, by the key that says how many.
    fn connections(&self) -> Vec<(&'static str, u64)> {
        let https = self.https.as_ref().map(|h| ("https.max_connections", h.max_connections as u64));
        let database = self.database.as_ref().map(|d| ("database.max_connections", d.max_connections as u64));
        https.into_iter().chain(database).collect()
    }

    /// Descriptors that this configuration may take: a client's connection has one, and each request in flight; a connection to
    /// a member of the database group has two.
    pub fn descriptors(&self) -> u64 {
        let https = self.https.as_ref().map_or(0, |h| h.max_connections as u64);
        let requests = self.web.as_ref().map_or(0, |w| w.max_in_flight as u64);
        let database = self.database.as_ref().map_or(0, |d| 2_u64.saturating_mul(d.max_connections as u64));
        let in_use = https.saturating_add(requests).saturating_add(database);
        let kept = self.web.as_ref().map_or(0, |w| w.max_idle_connections);
        let checks = self.web.as_ref().map_or(0, |w| w.backends.len());
        // A member is asked whether it is the primary, and whether it is a replica.
        let checks = checks + self.database.as_ref().map_or(0, |d| 2 * d.members.len());
        descriptors::wanted(in_use, kept, checks)
    }

    fn listen_addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        fn all(key: &'static str, list: &[SocketAddr]) -> impl Iterator<Item = (&'static str, SocketAddr)> {
            list.iter().map(move |a| (key, *a))
        }
        let mut found = vec![("metrics.listen", self.metrics().listen)];
        found.extend(self.http.iter().flat_map(|h| all("http.listen", &h.listen)));
        found.extend(self.https.iter().flat_map(|h| all("https.listen", &h.listen)));
        found.extend(self.local_check.iter().map(|c| ("local_check.listen", c.listen)));
        if let Some(database) = &self.database {
            found.extend(all("database.write_listen", &database.write_listen));
            found.extend(all("database.read_listen", &database.read_listen));
        }
        found
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        if self.node.is_empty() {
            return Invalid::err("node", "is empty");
        }
        self.log.validate("log")?;
        config::threads(self.threads)?;
        config::positive("shutdown_timeout", self.shutdown_timeout)?;
        if self.drain_delay > self.shutdown_timeout {
            return Invalid::err("drain_delay", "is longer than shutdown_timeout, of which it is a part");
        }
        if self.web.is_none() && self.database.is_none() {
            return Invalid::err("", "has neither [web] nor [database]: there is nothing to balance");
        }
        match (&self.https, &self.web) {
            (Some(https), Some(web)) => {
                https.validate()?;
                web.validate()?;
                if self.server_names().is_empty() {
                    return Invalid::err("domain", "is missing; it is the name that the site answers to");
                }
                for name in self.server_names() {
                    if trivet_tls::server_name(&name).is_none() {
                        return Invalid::err(
                            "https.server_names",
                            format_args!("\"{name}\" is no host name"),
                        );
                    }
                }
            }
            (Some(_), None) => {
                return Invalid::err("web", "is missing; [https] needs back ends to send requests to");
            }
            (None, Some(_)) => return Invalid::err("https", "is missing; [web] is reached through it"),
            (None, None) => {}
        }
        if let Some(http) = &self.http {
            config::not_empty("http.listen", &http.listen)?;
            if http.redirect_port == Some(0) {
                return Invalid::err("http.redirect_port", "must be a port, 443 for one");
            }
            if http.redirect_port.is_some() && !http.redirect {
                return Invalid::err("http.redirect_port", "says nothing where http.redirect is false");
            }
            Trust::validate(http.proxy_protocol.as_ref(), "http.proxy_protocol")?;
            if self.https.is_none() {
                return Invalid::err(
                    "http",
                    "needs [https], to which it redirects and whose limits hold for it",
                );
            }
        }
        if self.local_check.is_some() && self.web.is_none() {
            return Invalid::err("local_check", "tells of [web], which is missing");
        }
        if let Some(database) = &self.database {
            database.validate()?;
        }
        for (key, connections) in self.connections() {
            descriptors::fit(key, connections, self.descriptors())?;
        }
        let mut seen = HashSet::new();
        for (key, address) in self.listen_addresses() {
            // Port 0 lets the system choose, which tests use.
            if address.port() != 0 && !seen.insert(address) {
                return Invalid::err(key, format_args!("{address} is listened on twice"));
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), ConfigError> {
        let authority = self.web.as_ref().and_then(|w| w.tls.as_ref()).map(|t| t.ca.clone());
        if let Some(https) = &self.https {
            SiteCertificates::check_new(&https.certificates())?;
            SiteCertificates::load_beside(&https.certificates(), authority)?.server_config(&https.tls)?;
        }
        // Those to other nodes are read at a start alone, and what a start would refuse is better known before.
        for files in
            self.web.iter().filter_map(|w| w.tls.as_ref()).chain(self.database.iter().map(|d| &d.tls))
        {
            trivet_tls::client_config(files, &[])?;
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        let authority = self.web.as_ref().and_then(|w| w.tls.as_ref()).map(|t| t.ca.as_path());
        let files = self.https.as_ref().map(Https::certificates).unwrap_or_default();
        let mut all = trivet_tls::site::gaps(&files, authority);
        all.extend(descriptors::scarce(self.descriptors()));
        all
    }
}

#[cfg(test)]
mod tests;
