//! `/etc/trivet/web.json`: what the web tier serves and where it passes the rest. Every default stands here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::store;
use trivet_base::config::{self, ConfigError, Invalid, Log, Metrics, TlsFiles, Validate};
use trivet_base::process::{descriptors, workers};
use trivet_http::proxy_protocol::{self, Trust};
use trivet_http::request::MOST_FIELDS;
use trivet_proxy::config::{BackendConfig, HealthConfig, Protocol, ServerAddress, validate_backends};

/// The whole configuration of `trivet-web`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of this node; answers carry it in logs and `/healthz`.
    pub node: String,
    /// Threads that carry connections; as many as there are cores for this process when absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Logs.
    #[serde(default)]
    pub log: Log,
    /// Metrics and status.
    #[serde(default = "default_metrics")]
    pub metrics: Metrics,
    /// How long requests in flight may take to finish after SIGTERM.
    #[serde(default = "config::default_shutdown_timeout", with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// After SIGTERM, how long requests are still accepted while `/healthz` already says 503: longer than the balancers
    /// need to notice.
    #[serde(default = "default_drain_delay", with = "humantime_serde")]
    pub drain_delay: Duration,
    /// Addresses to listen on, with mutual TLS.
    pub listen: Vec<SocketAddr>,
    /// The balancers and peers that tell the client's address in a PROXY header; anyone else is not served.
    #[serde(default)]
    pub proxy_protocol: Option<Trust>,
    /// The cluster's CA and this node's certificate: for the listeners and for the links to the peers.
    pub tls: TlsFiles,
    /// Limits of a connection.
    #[serde(default)]
    pub limits: Limits,
    /// The static files.
    #[serde(rename = "static")]
    pub files: Static,
    /// The app beside this web tier.
    pub app: App,
    /// The web tiers of the other nodes.
    #[serde(default)]
    pub peers: Peers,
}

/// `[limits]`: what one connection, and all together, may take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections; one more waits in the listen queue.
    pub max_connections: usize,
    /// From accept to the end of the TLS handshake.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// From the first to the last byte of a request's head.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// A kept-alive connection without a request. Longer than the balancer's, so that the balancer closes first and
    /// never writes a request into a connection that is going away.
    #[serde(with = "humantime_serde")]
    pub client_idle_timeout: Duration,
    /// The largest request head; above it 431. The balancers' and
    /// [`MOST_ADDED`](trivet_http::forwarded::MOST_ADDED) more.
    pub max_header_size: ByteSize,
    /// The most field lines of a request head; above it 431. The balancers' and
    /// [`MOST_ADDED_FIELDS`](trivet_http::forwarded::MOST_ADDED_FIELDS) more.
    pub max_header_fields: usize,
    /// The longest request target; above it 414. No less than the balancers'.
    pub max_target_length: ByteSize,
    /// The largest request body; above it 413. Absent, any: the balancers have a limit already.
    pub max_body_size: Option<ByteSize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            client_idle_timeout: Duration::from_secs(90),
            // Twice the balancer's defaults: ample room for what forwarding adds.
            max_header_size: ByteSize::kib(64),
            max_header_fields: 128,
            max_target_length: ByteSize::kib(16),
            max_body_size: None,
        }
    }
}

/// `[static]`: files that are served without asking the app.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {
    /// The folder; its inside is the site's path space.
    pub root: PathBuf,
    /// Files up to this size are kept in memory; larger ones are read from disk for each request.
    #[serde(default = "default_max_memory_file")]
    pub max_memory_file: ByteSize,
    /// All files in memory together, their compressed forms included; what does not fit is read from disk.
    #[serde(default = "default_max_memory")]
    pub max_memory: ByteSize,
    /// The file that answers for its folder.
    #[serde(default = "default_index")]
    pub index: String,
    /// The value of `Cache-Control` on static files.
    #[serde(default = "default_cache_control")]
    pub cache_control: String,
    /// Make gzip and brotli forms at start, where the folder has none beside the file.
    #[serde(default = "yes")]
    pub compress: bool,
}

/// `[app]`: the program that answers what no file answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// In plain text; a loopback address or a unix socket, for nothing protects this link.
    pub address: ServerAddress,
    /// What is spoken with it.
    #[serde(default)]
    pub protocol: Protocol,
    /// It is known to read or discard every request's body, and to send none after HEAD, 204 and 304, as most servers do and
    /// small ones do not. Without, a connection over which such a message went is closed after it.
    #[serde(default)]
    pub trusted_framing: bool,
    /// How its health is checked.
    #[serde(default)]
    pub health: HealthConfig,
    /// Requests in flight at a time, to the app or to peers in its place; further ones queue.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// Requests that queue at a time; a further one is answered 503 at once.
    #[serde(default = "default_max_queued")]
    pub max_queued: usize,
    /// How long a request queues before it is answered 503.
    #[serde(default = "default_queue_timeout", with = "humantime_serde")]
    pub queue_timeout: Duration,
    /// Connecting, to the app or to a peer.
    #[serde(default = "default_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// From the end of the request to the first byte of the answer, and between two reads of its body.
    #[serde(default = "default_response_timeout", with = "humantime_serde")]
    pub response_timeout: Duration,
    /// Who else is asked for one request after the first: the app beside us and the peers.
    #[serde(default = "default_retries")]
    pub retries: usize,
    /// How long an unused connection is kept, to the app or to a peer. Below what they allow themselves.
    #[serde(default = "default_idle_timeout", with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Unused connections kept, all together.
    #[serde(default = "default_max_idle_connections")]
    pub max_idle_connections: usize,
}

/// `[peers]`: asked once, when the app of this node is down.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {
    /// The web tiers of the other nodes; empty on a cluster of one.
    #[serde(default)]
    pub backends: Vec<BackendConfig>,
    /// Begin connections to them with a PROXY header: for peers whose `proxy_protocol` asks for it.
    #[serde(default)]
    pub send_proxy_protocol: Option<proxy_protocol::Version>,
}

fn default_metrics() -> Metrics {
    Metrics { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9602)) }
}

fn default_drain_delay() -> Duration {
    // An interval of the balancer's health check, its timeout, and some.
    Duration::from_secs(1)
}

fn default_max_memory_file() -> ByteSize {
    ByteSize::mib(1)
}

fn default_max_memory() -> ByteSize {
    ByteSize::mib(256)
}

fn default_index() -> String {
    "index.html".into()
}

fn default_cache_control() -> String {
    "public, max-age=3600".into()
}

/// As many as there are connections: an app that can do less at a time says so.
fn default_max_in_flight() -> usize {
    Limits::default().max_connections
}

/// As the balancer's.
fn default_max_queued() -> usize {
    1000
}

/// As the balancer's.
fn default_queue_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_connect_timeout() -> Duration {
    Duration::from_millis(300)
}

fn default_response_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_retries() -> usize {
    // With three nodes: the app beside us once more, and two peers.
    3
}

fn default_idle_timeout() -> Duration {
    // Below what servers usually allow (Node.js closes after 5 s, our own web tier after 90), so that it is us who close, and
    // no request meets a connection that is going away.
    Duration::from_secs(4)
}

fn default_max_idle_connections() -> usize {
    256
}

fn yes() -> bool {
    true
}

impl Config {
    /// Threads that carry connections.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(workers::cores)
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        if self.node.is_empty() {
            return Invalid::err("node", "is empty; write the node's name");
        }
        self.log.validate("log")?;
        config::threads(self.threads)?;
        config::positive("shutdown_timeout", self.shutdown_timeout)?;
        if self.drain_delay >= self.shutdown_timeout {
            return Invalid::err(
                "drain_delay",
                "must be shorter than shutdown_timeout, or nothing could finish",
            );
        }
        config::not_empty("listen", &self.listen)?;
        for (i, address) in self.listen.iter().enumerate() {
            // Port 0 is a new port each time.
            let twice = self.listen[..i].contains(address) || *address == self.metrics.listen;
            if twice && address.port() != 0 {
                return Invalid::err(
                    "listen",
                    format_args!("{address} stands here twice, or is metrics.listen too"),
                );
            }
        }
        Trust::validate(self.proxy_protocol.as_ref(), "proxy_protocol")?;
        self.tls.validate("tls")?;
        self.limits.validate()?;
        let (connections, descriptors) = (self.limits.max_connections as u64, self.descriptors());
        descriptors::fit("limits.max_connections", connections, descriptors)?;
        self.files.validate()?;
        self.app.validate()?;
        self.peers.validate(&self.node)
    }

    fn check_files(&self) -> Result<(), ConfigError> {
        // Read at a start alone; what a start would refuse is better known before.
        trivet_tls::mutual_server_config(&self.tls, &[])?;
        trivet_tls::client_config(&self.tls, &[])?;
        store::check(&self.files).map_err(|e| ConfigError::at(&e.path, "static.root", e.source))
    }

    fn warnings(&self) -> Vec<String> {
        descriptors::scarce(self.descriptors()).into_iter().collect()
    }
}

impl Config {
    /// Descriptors that this configuration may take: a connection has one, and one more for a file, and each request to the app
    /// or a peer has one.
    pub fn descriptors(&self) -> u64 {
        let connections = 2_u64.saturating_mul(self.limits.max_connections as u64);
        let in_use = connections.saturating_add(self.app.max_in_flight as u64);
        descriptors::wanted(in_use, self.app.max_idle_connections, 1 + self.peers.backends.len())
    }
}

impl Limits {
    fn validate(&self) -> Result<(), Invalid> {
        if self.max_connections == 0 {
            return Invalid::err("limits.max_connections", "must be at least 1");
        }
        config::positive("limits.handshake_timeout", self.handshake_timeout)?;
        config::positive("limits.header_timeout", self.header_timeout)?;
        config::positive("limits.client_idle_timeout", self.client_idle_timeout)?;
        config::heads_fit("limits", self.max_header_size, self.max_target_length)?;
        if !(1..=MOST_FIELDS).contains(&self.max_header_fields) {
            return Invalid::err("limits.max_header_fields", format!("must be between 1 and {MOST_FIELDS}"));
        }
        Ok(())
    }
}

impl Static {
    fn validate(&self) -> Result<(), Invalid> {
        config::absolute("static.root", &self.root)?;
        if self.index.is_empty() || self.index.starts_with('.') || self.index.contains(['/', '\0']) {
            return Invalid::err(
                "static.index",
                "must be the name of a visible file, such as \"index.html\"",
            );
        }
        match http::HeaderValue::from_str(&self.cache_control) {
            Ok(_) => Ok(()),
            Err(e) => Invalid::err("static.cache_control", e),
        }
    }
}

impl App {
    fn validate(&self) -> Result<(), Invalid> {
        let is_here = match &self.address {
            ServerAddress::Fixed(address) => address.ip().is_none_or(|at| at.ip().is_loopback()),
            ServerAddress::Name(..) => false,
        };
        if !is_here {
            return Invalid::err(
                "app.address",
                format_args!(
                    "{} is neither a loopback address nor a unix socket; the link to the app is plain HTTP, so the app must run on the same node",
                    self.address
                ),
            );
        }
        if self.address.is_unix() && self.health.port.is_some() {
            return Invalid::err(
                "app.health.port",
                "says nothing where app.address is a unix socket, which has no port",
            );
        }
        self.health.validate("app.health", false)?;
        if self.max_in_flight == 0 {
            return Invalid::err("app.max_in_flight", "must be at least 1");
        }
        config::positive("app.connect_timeout", self.connect_timeout)?;
        config::positive("app.response_timeout", self.response_timeout)?;
        config::positive("app.idle_timeout", self.idle_timeout)
    }
}

impl Peers {
    fn validate(&self, node: &str) -> Result<(), Invalid> {
        if self.backends.is_empty() {
            return Ok(());
        }
        validate_backends("peers.backends", &self.backends, true)?;
        if let Some(i) = self.backends.iter().position(|b| b.name == super::upstreams::APP) {
            return Invalid::err(
                format!("peers.backends[{i}].name"),
                "\"app\" is the name of the app itself here",
            );
        }
        match self.backends.iter().position(|b| b.name == node) {
            Some(i) => Invalid::err(
                format!("peers.backends[{i}].name"),
                format_args!("\"{node}\" is this node itself; list the other nodes only"),
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
