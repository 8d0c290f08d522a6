//! What requests are sent to: `[web]`, the pool of that name, and `[pools.NAME]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use serde::Deserialize;

use super::names::Resolving;
use super::{MOST_WEIGHT, defaults};
use trivet_base::config::{self, ConfigError, Invalid, TlsFiles};
use trivet_http::{forwarded, proxy_protocol, strict};
use trivet_pool::balance::{Hash, LeastRequests, PeakEwma, Random};
use trivet_pool::{Balance, BreakerLimits, OutlierLimits, RetryLimits, RoundRobin};
use trivet_proxy::config::{HealthConfig, Member, Protocol, ServerAddress, statuses, validate_members};
use trivet_proxy::sticky::{self, Sticky};
use trivet_tls::seal::Seal;

/// One back end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// In logs, metrics and `/status`.
    pub name: String,
    /// Where it listens.
    pub address: ServerAddress,
    /// The DNS name its certificate must carry; the host of `address` when absent, or `name` where that is none.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Its share in comparison with the others'; 0 is nothing.
    #[serde(default = "defaults::weight")]
    pub weight: u32,
    /// It serves only while none that is no backup can.
    #[serde(default)]
    pub backup: bool,
    /// Requests in flight at it at a time; `max_in_flight_per_backend` when absent.
    #[serde(default)]
    pub max_in_flight: Option<usize>,
}

impl Server {
    /// The name its certificate must carry.
    pub fn tls_name(&self) -> &str {
        self.server_name.as_deref().or(self.address.name()).unwrap_or(&self.name)
    }
}

/// `balance`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// See [`RoundRobin`].
    #[default]
    RoundRobin,
    /// See [`LeastRequests`].
    LeastRequests,
    /// See [`PeakEwma`].
    PeakEwma,
    /// See [`Random`].
    Random,
    /// See [`struct@Hash`].
    Hash,
}

/// `hash`: what of a request decides.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashKey {
    /// `"client"`: its address.
    Client,
    /// `"path"`, without the query.
    Path,
    /// `"host"`
    Host,
    /// `{ field = "…" }`: the first line of this name.
    Field(String),
    /// `{ cookie = "…" }`: the value of this cookie.
    Cookie(String),
}

impl HashKey {
    fn validate(&self, key: &str) -> Result<(), Invalid> {
        match self {
            Self::Field(name) if name.parse::<HeaderName>().is_err() => {
                Invalid::err(format!("{key}.field"), format_args!("\"{name}\" is no name of a field"))
            }
            Self::Field(name) if forwarded::is_ours(name.as_bytes()) => Invalid::err(
                format!("{key}.field"),
                format_args!(
                    "clients can forge \"{name}\": hash = \"client\" takes the address of the client"
                ),
            ),
            Self::Cookie(name) if name.is_empty() || name.contains(['=', ';', ' ']) => {
                Invalid::err(format!("{key}.cookie"), format_args!("\"{name}\" is no name of a cookie"))
            }
            _ => Ok(()),
        }
    }
}

impl Web {
    /// The algorithm, as a pool takes it.
    pub fn algorithm(&self) -> Box<dyn Balance> {
        match self.balance {
            Algorithm::RoundRobin => Box::new(RoundRobin::default()),
            Algorithm::LeastRequests => Box::new(LeastRequests::default()),
            Algorithm::PeakEwma => Box::new(PeakEwma::new(self.ewma_decay)),
            Algorithm::Random => Box::new(Random),
            Algorithm::Hash => Box::new(Hash::new(self.hash_balance_factor)),
        }
    }
}

/// `[POOL.sticky]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StickyConfig {
    /// The name of the cookie.
    pub cookie: String,
    /// A file with a secret that all balancers have, in the form of the tickets'; `https.tls.ticket_secret` when absent.
    #[serde(default)]
    pub secret: Option<PathBuf>,
    /// How long the cookie leads to its back end; until the browser ends when absent.
    #[serde(default, with = "humantime_serde")]
    pub max_age: Option<Duration>,
    /// For HTTPS alone.
    #[serde(default = "defaults::sticky_secure")]
    pub secure: bool,
    /// Not for scripts.
    #[serde(default = "defaults::sticky_http_only")]
    pub http_only: bool,
    /// What other sites' pages may send it with.
    #[serde(default)]
    pub same_site: SameSite,
}

/// `SameSite` (RFC 6265bis section 5.6.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// `"strict"`: nothing.
    Strict,
    /// `"lax"`: links.
    #[default]
    Lax,
    /// `"none"`: everything, for a site that stands in others' pages.
    None,
}

/// Browsers keep no cookie longer (RFC 6265bis section 5.5).
const LONGEST_MAX_AGE: Duration = Duration::from_secs(400 * 24 * 3600);

impl StickyConfig {
    /// Refuses what browsers would, by its keys. `key` is where it stands.
    fn validate(&self, key: &str) -> Result<(), Invalid> {
        if self.cookie.is_empty() || !self.cookie.bytes().all(strict::is_token) {
            return Invalid::err(
                format!("{key}.cookie"),
                format_args!(
                    "\"{}\" is no name of a cookie: letters, digits and - _ . among others",
                    self.cookie
                ),
            );
        }
        let prefix = ["__Secure-", "__Host-"].into_iter().find(|p| self.cookie.starts_with(p));
        if let Some(prefix) = prefix.filter(|_| !self.secure) {
            return Invalid::err(
                format!("{key}.secure"),
                format_args!(
                    "must be true for a cookie whose name begins with {prefix}: browsers drop it otherwise"
                ),
            );
        }
        if self.same_site == SameSite::None && !self.secure {
            return Invalid::err(
                format!("{key}.secure"),
                "must be true with same_site = \"none\": browsers drop the cookie otherwise",
            );
        }
        if let Some(age) = self.max_age
            && !(Duration::from_secs(1)..=LONGEST_MAX_AGE).contains(&age)
        {
            return Invalid::err(
                format!("{key}.max_age"),
                "must be from \"1s\" to \"400d\", the longest that browsers keep a cookie",
            );
        }
        self.secret.as_ref().map_or(Ok(()), |path| config::absolute(&format!("{key}.secret"), path))
    }

    /// The file that keys are derived from; `tickets` is the one of TLS.
    pub fn secret<'a>(&'a self, tickets: Option<&'a Path>) -> Option<&'a Path> {
        self.secret.as_deref().or(tickets)
    }

    /// What follows the cookie's value, but for its age.
    fn attributes(&self) -> String {
        let same_site = match self.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        let mut all = String::from("; Path=/");
        for (is_set, attribute) in [(self.secure, "; Secure"), (self.http_only, "; HttpOnly")] {
            if is_set {
                all.push_str(attribute);
            }
        }
        all + "; SameSite=" + same_site
    }

    /// The cookie of `pool`. Reads the file.
    pub fn read(&self, pool: &str, tickets: Option<&Path>) -> Result<Arc<Sticky>, ConfigError> {
        let missing = || ConfigError::at("", format!("{pool}.sticky.secret"), "is missing");
        let seal = Seal::load(self.secret(tickets).ok_or_else(missing)?, sticky::PURPOSE)?;
        Ok(Sticky::new(pool, &self.cookie, &self.attributes(), self.max_age.map(|age| age.as_secs()), seal))
    }
}

/// `outliers = { … }`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outliers {
    /// See [`OutlierLimits::errors`].
    pub errors: u32,
    /// See [`OutlierLimits::slow_after`].
    #[serde(with = "humantime_serde")]
    pub slow_after: Duration,
    /// See [`OutlierLimits::slow_factor`].
    pub slow_factor: u32,
    /// See [`OutlierLimits::ejection`].
    #[serde(with = "humantime_serde")]
    pub ejection: Duration,
    /// See [`OutlierLimits::max_ejection`].
    #[serde(with = "humantime_serde")]
    pub max_ejection: Duration,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            // As Envoy's consecutive_5xx.
            errors: 5,
            // What people notice, and more than a page takes that is well.
            slow_after: Duration::from_secs(1),
            slow_factor: 10,
            // As Envoy's base_ejection_time, but that a mended back end is back sooner.
            ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
        }
    }
}

impl Outliers {
    /// As a pool takes them.
    pub fn limits(&self) -> OutlierLimits {
        let Self { errors, slow_after, slow_factor, ejection, max_ejection } = *self;
        OutlierLimits { errors, slow_after, slow_factor, ejection, max_ejection }
    }
}

/// `outliers = { … }` of a pool of TCP, where nothing is known of answers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpOutliers {
    /// See [`OutlierLimits::errors`]; connections here.
    pub errors: u32,
    /// See [`OutlierLimits::ejection`].
    #[serde(with = "humantime_serde")]
    pub ejection: Duration,
    /// See [`OutlierLimits::max_ejection`].
    #[serde(with = "humantime_serde")]
    pub max_ejection: Duration,
}

impl Default for TcpOutliers {
    fn default() -> Self {
        let Outliers { errors, ejection, max_ejection, .. } = Outliers::default();
        Self { errors, ejection, max_ejection }
    }
}

impl TcpOutliers {
    /// As a pool takes them: nothing is slow.
    pub fn limits(&self) -> OutlierLimits {
        let Self { errors, ejection, max_ejection } = *self;
        OutlierLimits {
            errors,
            slow_after: Duration::MAX,
            ejection,
            max_ejection,
            ..Outliers::default().limits()
        }
    }
}

/// `retry_budget = { … }`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudget {
    /// See [`RetryLimits::ratio`].
    pub ratio: f64,
    /// See [`RetryLimits::min_per_second`].
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            // As Finagle's and Linkerd's.
            ratio: 0.2,
            // Thirty at once: what a back end that goes away on a small site leaves behind.
            min_per_second: 3,
        }
    }
}

impl RetryBudget {
    /// As a pool takes it.
    pub fn limits(&self) -> RetryLimits {
        let Self { ratio, min_per_second } = *self;
        RetryLimits { ratio, min_per_second }
    }
}

/// `[POOL.circuit_breaker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// See [`BreakerLimits::failures`].
    pub failures: u32,
    /// See [`BreakerLimits::window`].
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// See [`BreakerLimits::min_requests`].
    pub min_requests: u32,
    /// See [`BreakerLimits::open`].
    #[serde(with = "humantime_serde")]
    pub open: Duration,
    /// See [`BreakerLimits::trials`].
    pub trials: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            // As Hystrix's: percentage of errors, time and requests that they are looked for in, and time to sleep.
            failures: 50,
            window: Duration::from_secs(10),
            min_requests: 20,
            open: Duration::from_secs(5),
            // One could be lucky.
            trials: 3,
        }
    }
}

impl CircuitBreaker {
    /// As a pool takes it.
    pub fn limits(&self) -> BreakerLimits {
        let Self { failures, window, min_requests, open, trials } = *self;
        BreakerLimits { failures, window, min_requests, open, trials }
    }
}

/// `[web]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Web {
    /// The nodes' web tiers.
    pub backends: Vec<Server>,
    /// Which of them takes the next request.
    #[serde(default)]
    pub balance: Algorithm,
    /// What of a request decides where it goes, with `balance = "hash"`.
    #[serde(default)]
    pub hash: Option<HashKey>,
    /// Percent of its share that a back end may have in hand, with `balance = "hash"`; 0 is no bound.
    #[serde(default = "defaults::hash_balance_factor")]
    pub hash_balance_factor: u32,
    /// How long a slow answer is remembered, with `balance = "peak-ewma"`.
    #[serde(default = "defaults::ewma_decay", with = "humantime_serde")]
    pub ewma_decay: Duration,
    /// How long the share of a back end that has come back grows to the whole; zero has it whole at once.
    #[serde(default = "defaults::slow_start", with = "humantime_serde")]
    pub slow_start: Duration,
    /// Mutual TLS to them; without it requests and checks go in plain text, for back ends on a network that needs none.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Their active checks.
    #[serde(default)]
    pub health: HealthConfig,
    /// When one of them is passed over for what becomes of its requests.
    #[serde(default)]
    pub outliers: Outliers,
    /// The cookie by which a session stays on its back end; without it there is none.
    #[serde(default)]
    pub sticky: Option<StickyConfig>,
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
    /// Statuses of an answer that another back end is asked in the place of, `"503"` or `"502-504"`, where the request may be
    /// sent twice.
    #[serde(default)]
    pub retry_on: Vec<String>,
    /// How many requests may be sent to another back end after they were sent to one.
    #[serde(default)]
    pub retry_budget: RetryBudget,
    /// When the pool is left alone because most of its requests fail; never when absent.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreaker>,
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

impl Web {
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

    /// `section` is where it stands.
    pub(super) fn validate(&self, section: &str) -> Result<(), Invalid> {
        let key = |name: &str| format!("{section}.{name}");
        let members = self.backends.iter().map(|b| Member {
            name: &b.name,
            address: b.address.to_string(),
            tls_name: b.tls_name(),
        });
        validate_members(&key("backends"), &members.collect::<Vec<_>>(), self.tls.is_some())?;
        for (number, server) in self.backends.iter().enumerate() {
            let invalid =
                |key: &str, why: &str| Invalid::err(format!("{section}.backends[{number}].{key}"), why);
            if server.address.is_unix() {
                if self.tls.is_some() {
                    let why =
                        "is a unix socket, which is spoken to in plain text: give it a pool without tls";
                    return invalid("address", why);
                }
                if self.health.port.is_some() {
                    let why = "is a unix socket, which has no port that health.port could be in the place of";
                    return invalid("address", why);
                }
            }
            if server.max_in_flight == Some(0) {
                return Invalid::err(
                    format!("{section}.backends[{number}].max_in_flight"),
                    "must be at least 1",
                );
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
        match (self.balance, &self.hash) {
            (Algorithm::Hash, None) => {
                return Invalid::err(
                    key("hash"),
                    "is missing: what of a request decides, \"client\" for one",
                );
            }
            (Algorithm::Hash, Some(hash)) => hash.validate(&key("hash"))?,
            (_, Some(_)) => {
                return Invalid::err(key("hash"), "says nothing where balance is not \"hash\"");
            }
            (_, None) => {}
        }
        if self.balance == Algorithm::Hash && !self.slow_start.is_zero() {
            return Invalid::err(
                key("slow_start"),
                "does not go with balance = \"hash\": requests would move twice, away from the others and on",
            );
        }
        if (1..=100).contains(&self.hash_balance_factor) {
            return Invalid::err(
                key("hash_balance_factor"),
                "must be above 100, or 0 for no bound: with less no back end would have room",
            );
        }
        config::positive(&key("ewma_decay"), self.ewma_decay)?;
        if let Some(tls) = &self.tls {
            tls.validate(&key("tls"))?;
        }
        self.health.validate(&key("health"), self.tls.is_some())?;
        self.outliers.limits().validate(&key("outliers"))?;
        self.retry_budget.limits().validate(&key("retry_budget"))?;
        if let Some(breaker) = &self.circuit_breaker {
            breaker.limits().validate(&key("circuit_breaker"))?;
        }
        self.sticky.as_ref().map_or(Ok(()), |sticky| sticky.validate(&key("sticky")))?;
        self.resolving().validate(section, self.backends.iter().any(|b| b.address.name().is_some()))?;
        config::positive(&key("connect_timeout"), self.connect_timeout)?;
        config::positive(&key("response_timeout"), self.response_timeout)?;
        for text in &self.retry_on {
            if !statuses(text).is_some_and(|range| *range.start() >= 400 && *range.end() <= 599) {
                return Invalid::err(
                    key("retry_on"),
                    format_args!("\"{text}\" is no status of an error: write \"503\" or \"502-504\""),
                );
            }
        }
        for (name, n) in [
            ("max_in_flight", self.max_in_flight),
            ("max_in_flight_per_backend", self.max_in_flight_per_backend),
        ] {
            if n == 0 {
                return Invalid::err(key(name), "must be at least 1");
            }
        }
        Ok(())
    }
}
