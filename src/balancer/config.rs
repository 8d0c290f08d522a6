//! The balancer's configuration file. docs/balancer.md explains every key; every default stands in [`defaults`].

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Deserialize;

use crate::config::{self, ConfigError, Invalid, Log, Metrics, TlsFiles, Validate};
use crate::http::forwarded::MOST_ADDED_FIELDS;
use crate::http::frames::FrameRates;
use crate::http::proxy_protocol::{self, Trust};
use crate::http::request::MOST_FIELDS;
use crate::pool::timing::Timing;
use crate::process::{descriptors, workers};
use crate::proxy::admission::RequestRate;
use crate::proxy::config::{BackendConfig, HealthConfig, Protocol, validate_backends};
use crate::tls::options::{CertificateFiles, PublicTls};
use crate::tls::site::SiteCertificates;

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

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// Whether a request in plain text is sent to HTTPS. Without, it is served as it comes: for a balancer behind something
    /// that ends TLS itself.
    #[serde(default = "defaults::redirect")]
    pub redirect: bool,
    /// The port that clients are sent to: where they reach `https.listen` by another, because something in front maps ports. The
    /// first listener's own without.
    #[serde(default)]
    pub redirect_port: Option<u16>,
    /// The proxies in front, which tell the client's address in a PROXY header; anyone else is not served.
    #[serde(default)]
    pub proxy_protocol: Option<Trust>,
}

/// `[https]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Https {
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// The site's certificate, followed by its intermediates (PEM). It comes before `certificates`.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Certificates for other names, or of another kind of key. The first of all is shown to clients that name no host,
    /// or an unknown one.
    #[serde(default)]
    pub certificates: Vec<CertificateFiles>,
    /// Protocol versions, ALPN, session tickets, client certificates.
    #[serde(default)]
    pub tls: PublicTls,
    /// The names this site answers to; a request for another is answered 421. `[domain]` when empty.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// From accept to the end of the TLS handshake.
    #[serde(default = "defaults::handshake_timeout", with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its last.
    #[serde(default = "defaults::header_timeout", with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    #[serde(default = "defaults::client_idle_timeout", with = "humantime_serde")]
    pub client_idle_timeout: Duration,
    /// How long a client may pause while sending a body or taking an answer.
    #[serde(default = "defaults::client_timeout", with = "humantime_serde")]
    pub client_timeout: Duration,
    /// As `client_timeout`, for upgraded connections (WebSocket), in both directions.
    #[serde(default = "defaults::tunnel_timeout", with = "humantime_serde")]
    pub tunnel_timeout: Duration,
    /// Below this many bytes a second, averaged from the tenth second on, a body or an answer is given up.
    #[serde(default = "defaults::min_rate")]
    pub min_rate: ByteSize,
    /// From a request's head to the last byte of its answer; upgraded connections are not meant.
    #[serde(default = "defaults::request_timeout", with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long an answer that is a stream (`text/event-stream`, `application/grpc`) may rest; `response_timeout` and
    /// `request_timeout` are not for those.
    #[serde(default = "defaults::stream_timeout", with = "humantime_serde")]
    pub stream_timeout: Duration,
    /// Connections at a time, all listeners of `[http]` and `[https]` together; further ones wait in the kernel's queue.
    #[serde(default = "defaults::max_connections")]
    pub max_connections: usize,
    /// Connections at a time from one client address (IPv6: from one /64); a further one is closed. 0: any number.
    #[serde(default = "defaults::max_connections_per_address")]
    pub max_connections_per_address: usize,
    /// Requests a second of one client address; above it 429. Absent: any number.
    #[serde(default)]
    pub request_rate: Option<RequestRate>,
    /// Networks of proxies of ours in front, which speak for many clients: what they say about a client is believed, and
    /// the limits for one client do not apply to them.
    #[serde(default, deserialize_with = "config::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The proxies in front, which tell the client's address in a PROXY header; anyone else is not served.
    #[serde(default)]
    pub proxy_protocol: Option<Trust>,
    /// Concurrent requests on one HTTP/2 connection.
    #[serde(default = "defaults::max_streams")]
    pub max_streams: u32,
    /// HTTP/2 frames a second of one connection, by kind; above it the connection is ended.
    #[serde(default)]
    pub http2_frames: FrameRates,
    /// The largest request head; above it 431.
    #[serde(default = "defaults::max_header_size")]
    pub max_header_size: ByteSize,
    /// The most field lines of a request head, 256 at most; above it 431.
    #[serde(default = "defaults::max_header_fields")]
    pub max_header_fields: usize,
    /// The longest request target; above it 414.
    #[serde(default = "defaults::max_target_length")]
    pub max_target_length: ByteSize,
    /// The largest request body; above it 413.
    #[serde(default = "defaults::max_body_size")]
    pub max_body_size: ByteSize,
    /// `Strict-Transport-Security: max-age` (RFC 6797); "0s" sends none.
    #[serde(default = "defaults::hsts_max_age", with = "humantime_serde")]
    pub hsts_max_age: Duration,
    /// `includeSubDomains` (RFC 6797 section 6.1.2): for the names below the site's as well.
    #[serde(default)]
    pub hsts_include_subdomains: bool,
    /// `preload`: the site asks to stand in browsers' lists (<https://hstspreload.org>).
    #[serde(default)]
    pub hsts_preload: bool,
}

/// `[web]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Web {
    /// The nodes' web tiers.
    pub backends: Vec<BackendConfig>,
    /// Mutual TLS to them; without it requests and checks go in plain text, for back ends on a network that needs none.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Their active checks.
    #[serde(default)]
    pub health: HealthConfig,
    /// TCP connect and TLS handshake, each.
    #[serde(default = "defaults::connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// From the last byte of the request to the first of the answer, and between any two parts of the answer.
    #[serde(default = "defaults::response_timeout", with = "humantime_serde")]
    pub response_timeout: Duration,
    /// How long an unused connection to a back end is kept. Below the back end's own idle timeout.
    #[serde(default = "defaults::backend_idle_timeout", with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Further back ends tried when one fails.
    #[serde(default = "defaults::retries")]
    pub retries: usize,
    /// Unused connections kept, all back ends together.
    #[serde(default = "defaults::max_idle_connections")]
    pub max_idle_connections: usize,
    /// Requests in flight at a time, all back ends together; further ones queue.
    #[serde(default = "defaults::max_in_flight")]
    pub max_in_flight: usize,
    /// Requests in flight at one back end at a time; while all have as many, further ones queue.
    #[serde(default = "defaults::max_in_flight_per_backend")]
    pub max_in_flight_per_backend: usize,
    /// Requests that queue at a time; a further one is answered 503 at once.
    #[serde(default = "defaults::max_queued")]
    pub max_queued: usize,
    /// How long a request queues before it is answered 503.
    #[serde(default = "defaults::queue_timeout", with = "humantime_serde")]
    pub queue_timeout: Duration,
    /// What is spoken with them.
    #[serde(default)]
    pub protocol: Protocol,
    /// The back ends are known to read or discard every request's body, and to send none after HEAD, 204 and 304: Trivet's
    /// web tier, nginx and HAProxy do. Without, a connection over which such a message went is closed after it.
    #[serde(default)]
    pub trusted_framing: bool,
    /// Tell back ends the client's address in a PROXY header, too. Such a connection serves one client only.
    #[serde(default)]
    pub send_proxy_protocol: Option<proxy_protocol::Version>,
}

/// `[local_check]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalCheck {
    /// `GET /healthz` here is 200 when this balancer can serve, else 503.
    pub listen: SocketAddr,
}

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
        Timing { interval: self.interval, timeout: self.timeout, rise: self.rise, fall: self.fall }
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

/// Every default of this file, with its reason.
pub mod defaults {
    use super::{ByteSize, Duration, MOST_ADDED_FIELDS, MOST_FIELDS};

    /// The most that `https.max_header_fields` may be: a web tier must be able to take what forwarding adds.
    pub const MOST_HEADER_FIELDS: usize = MOST_FIELDS - MOST_ADDED_FIELDS;

    /// Nothing of a site is for the eyes of the network in between.
    pub fn redirect() -> bool {
        true
    }
    /// Longer than keepalived's check interval and its advert take together.
    pub fn drain_delay() -> Duration {
        Duration::from_secs(1)
    }
    /// Ample for two round trips on a bad mobile link.
    pub fn handshake_timeout() -> Duration {
        Duration::from_secs(5)
    }
    /// As HAProxy's usual `timeout http-request 10s`.
    pub fn header_timeout() -> Duration {
        Duration::from_secs(10)
    }
    /// Browsers reuse connections for about a minute.
    pub fn client_idle_timeout() -> Duration {
        Duration::from_secs(60)
    }
    /// As HAProxy's usual `timeout client 30s`.
    pub fn client_timeout() -> Duration {
        Duration::from_secs(30)
    }
    /// As HAProxy's usual `timeout tunnel 1h`.
    pub fn tunnel_timeout() -> Duration {
        Duration::from_secs(3600)
    }
    /// Slower than any working link, faster than a drip.
    pub fn min_rate() -> ByteSize {
        ByteSize::b(500)
    }
    /// About 40 KB each with TLS: some 400 MB at the limit.
    pub fn max_connections() -> usize {
        10_000
    }
    /// A large office behind one address, and no more than a fortieth of all.
    pub fn max_connections_per_address() -> usize {
        256
    }
    /// RFC 9113 section 6.5.2 recommends no fewer than 100.
    pub fn max_streams() -> u32 {
        100
    }
    /// As nginx's `large_client_header_buffers 4 8k`.
    pub fn max_header_size() -> ByteSize {
        ByteSize::kib(32)
    }
    /// As HAProxy's `tune.http.maxhdr`, about.
    pub fn max_header_fields() -> usize {
        100
    }
    /// Longer than any download that is still wanted.
    pub fn request_timeout() -> Duration {
        Duration::from_secs(3600)
    }
    /// As long as an upgraded connection may.
    pub fn stream_timeout() -> Duration {
        tunnel_timeout()
    }
    /// RFC 9110 section 4.1 asks for at least 8000 octets.
    pub fn max_target_length() -> ByteSize {
        ByteSize::kib(8)
    }
    /// Larger uploads are rare enough to be asked for.
    pub fn max_body_size() -> ByteSize {
        ByteSize::mib(100)
    }
    /// One year, as the preload list asks.
    pub fn hsts_max_age() -> Duration {
        Duration::from_secs(365 * 24 * 3600)
    }
    /// The nodes share a network: a connect takes well under a millisecond or is lost.
    pub fn connect_timeout() -> Duration {
        Duration::from_millis(300)
    }
    /// As HAProxy's usual `timeout server 30s`.
    pub fn response_timeout() -> Duration {
        Duration::from_secs(30)
    }
    /// Below the web tier's own 60 s, so that the side that opened a connection closes it.
    pub fn backend_idle_timeout() -> Duration {
        Duration::from_secs(50)
    }
    /// With three nodes every back end is tried once.
    pub fn retries() -> usize {
        2
    }
    /// Enough for a few thousand requests a second at usual latencies.
    pub fn max_idle_connections() -> usize {
        256
    }
    /// A WebSocket or a long poll of every client, and as much again beside.
    pub fn max_in_flight() -> usize {
        2 * max_connections()
    }
    /// One web tier may have to carry all clients.
    pub fn max_in_flight_per_backend() -> usize {
        max_connections()
    }
    /// What is worth waiting for, and costs some 10 MB.
    pub fn max_queued() -> usize {
        1000
    }
    /// Visitors wait that long for a page, and hardly longer.
    pub fn queue_timeout() -> Duration {
        Duration::from_secs(5)
    }
    /// A loaded node may take longer to accept than it takes to cross the network.
    pub fn database_connect_timeout() -> Duration {
        Duration::from_millis(500)
    }
    /// Twice what an election takes (6.6 to 7.6 s after a crash), so that an app sees slowness instead of an error.
    pub fn wait_for_primary() -> Duration {
        Duration::from_secs(15)
    }
    /// Readers who have not just written do not mind a few seconds; those who have wait for their own write.
    pub fn max_lag() -> Duration {
        Duration::from_secs(5)
    }
    /// Each costs the member a few milliseconds of a core: a hundred are in within a second, and nobody starves meanwhile.
    pub fn max_connecting() -> usize {
        8
    }
    /// Three apps with full pools are below a hundred.
    pub fn database_max_connections() -> usize {
        1000
    }
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
                    if crate::tls::server_name(&name).is_none() {
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
            crate::tls::client_config(files, &[])?;
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        let authority = self.web.as_ref().and_then(|w| w.tls.as_ref()).map(|t| t.ca.as_path());
        let files = self.https.as_ref().map(Https::certificates).unwrap_or_default();
        let mut all = crate::tls::site::gaps(&files, authority);
        all.extend(descriptors::scarce(self.descriptors()));
        all
    }
}

impl Https {
    fn validate(&self) -> Result<(), Invalid> {
        config::not_empty("https.listen", &self.listen)?;
        Trust::validate(self.proxy_protocol.as_ref(), "https.proxy_protocol")?;
        if let Some(rate) = self.request_rate {
            for (key, n) in [("rate", rate.rate), ("burst", rate.burst)] {
                if n == 0 {
                    return Invalid::err(format!("https.request_rate.{key}"), "must be at least 1");
                }
            }
            if !(1..=128).contains(&rate.ipv6_prefix) {
                return Invalid::err("https.request_rate.ipv6_prefix", "must be from 1 to 128");
            }
        }
        self.validate_certificates()?;
        self.tls.validate("https.tls")?;
        config::unique("https.server_names", self.server_names.iter().map(String::as_str))?;
        for (key, d) in [
            ("https.handshake_timeout", self.handshake_timeout),
            ("https.header_timeout", self.header_timeout),
            ("https.client_idle_timeout", self.client_idle_timeout),
            ("https.client_timeout", self.client_timeout),
            ("https.tunnel_timeout", self.tunnel_timeout),
            ("https.request_timeout", self.request_timeout),
            ("https.stream_timeout", self.stream_timeout),
        ] {
            config::positive(key, d)?;
        }
        for (key, n) in [
            ("https.max_connections", self.max_connections as u64),
            ("https.max_streams", u64::from(self.max_streams)),
        ] {
            if n == 0 {
                return Invalid::err(key, "must be at least 1");
            }
        }
        config::heads_fit("https", self.max_header_size, self.max_target_length)?;
        for (key, n) in self.http2_frames.all() {
            if n == 0 {
                return Invalid::err(format!("https.http2_frames.{key}"), "must be at least 1");
            }
        }
        if self.hsts_preload
            && !(self.hsts_include_subdomains && self.hsts_max_age >= defaults::hsts_max_age())
        {
            return Invalid::err(
                "https.hsts_preload",
                "the lists ask for hsts_include_subdomains and an hsts_max_age of a year",
            );
        }
        if !(1..=defaults::MOST_HEADER_FIELDS).contains(&self.max_header_fields) {
            let most = defaults::MOST_HEADER_FIELDS;
            return Invalid::err("https.max_header_fields", format!("must be between 1 and {most}"));
        }
        Ok(())
    }
}

impl Https {
    /// Every certificate of the site, the first being the one for clients without a known name.
    pub fn certificates(&self) -> Vec<CertificateFiles> {
        let first = self.certificate.clone().zip(self.key.clone());
        let first = first.map(|(certificate, key)| CertificateFiles { certificate, key });
        first.into_iter().chain(self.certificates.iter().cloned()).collect()
    }

    fn validate_certificates(&self) -> Result<(), Invalid> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => return Invalid::err("https.key", "is missing; https.certificate needs it"),
            (None, Some(_)) => {
                return Invalid::err("https.certificate", "is missing; https.key belongs to it");
            }
            (Some(certificate), Some(key)) => {
                config::absolute("https.certificate", certificate)?;
                config::absolute("https.key", key)?;
            }
            (None, None) if self.certificates.is_empty() => {
                return Invalid::err(
                    "https.certificate",
                    "is missing; name it and https.key, or https.certificates",
                );
            }
            (None, None) => {}
        }
        for (number, files) in self.certificates.iter().enumerate() {
            files.validate(&format!("https.certificates[{number}]"))?;
        }
        let all = self.certificates();
        let files: Vec<String> = all.iter().map(|f| f.certificate.display().to_string()).collect();
        config::unique("https.certificates", files.iter().map(String::as_str))
    }
}

impl Web {
    fn validate(&self) -> Result<(), Invalid> {
        validate_backends("web.backends", &self.backends, self.tls.is_some())?;
        if let Some(tls) = &self.tls {
            tls.validate("web.tls")?;
        }
        self.health.validate("web.health")?;
        config::positive("web.connect_timeout", self.connect_timeout)?;
        config::positive("web.response_timeout", self.response_timeout)?;
        for (key, n) in [
            ("web.max_in_flight", self.max_in_flight),
            ("web.max_in_flight_per_backend", self.max_in_flight_per_backend),
        ] {
            if n == 0 {
                return Invalid::err(key, "must be at least 1");
            }
        }
        Ok(())
    }
}

impl Database {
    fn validate(&self) -> Result<(), Invalid> {
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

#[cfg(test)]
mod tests;
