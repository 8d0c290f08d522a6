//! The balancer's configuration file. docs/balancer.md explains every key; every default stands in [`defaults`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::error_pages::ErrorPages;
use trivet_base::address::Address;
use trivet_base::config::{self, ConfigError, Invalid, Log, Metrics, Validate};
use trivet_base::process::{descriptors, handover, workers};
use trivet_http::proxy_protocol::Trust;
use trivet_proxy::config::ServerAddress;
use trivet_proxy::upstream::IdleLimit;
use trivet_tls::options::CertificateFiles;
use trivet_tls::site::SiteCertificates;

mod control;
mod database;
pub mod defaults;
pub mod fields;
mod listeners;
mod names;
mod pools;
mod site_limits;
pub mod sites;
mod tcp;

pub use control::{Control, Peer, Program};
pub use database::{Database, KeeperHealth, Member};
pub use fields::{Cors, FieldRules};
pub use listeners::{Http, Https};
pub use names::Resolving;
pub use pools::{HashKey, Server, Web};
pub use site_limits::SiteLimits;
pub use sites::{Route, Site};
pub use tcp::{Sni, Tcp, TcpPool, TcpServer};

/// The whole file. HTTP needs `[https]` and `[web]`; the gateway needs `[database]`; a process runs any of these and of `[tcp.NAME]`.
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
    /// The process's own folder, where a process that is to take over from it finds it; without one there is no such reload.
    #[serde(default)]
    pub runtime_directory: Option<PathBuf>,
    /// How long a process that another one has taken over from finishes what it has.
    #[serde(default = "defaults::drain_timeout", with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Processes that may be doing so at a time; the oldest of more is told to stop.
    #[serde(default = "defaults::max_draining")]
    pub max_draining: usize,
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
    /// The back ends of the site: the pool `web`.
    #[serde(default)]
    pub web: Option<Web>,
    /// Further names of the site of `domain`, which are sent to its first: the apex beside www, for one.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// A folder with the error pages of the site of `domain`, `503.html` and so on.
    #[serde(default)]
    pub error_pages: Option<PathBuf>,
    /// What is done with some requests of the site of `domain`. The first that is for a request counts.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// What holds for requests to the site of `domain` where their route says nothing else.
    #[serde(default)]
    pub limits: SiteLimits,
    /// What changes of the fields of requests to the site of `domain`.
    #[serde(default)]
    pub request_fields: FieldRules,
    /// And of the answers.
    #[serde(default)]
    pub response_fields: FieldRules,
    /// Whether answers say what most sites do, where the app says nothing of it.
    #[serde(default)]
    pub security_headers: bool,
    /// Which other sites' pages may use it.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// Further pools, by their names.
    #[serde(default)]
    pub pools: BTreeMap<String, Web>,
    /// Sites beside the one of `domain`, by their names.
    #[serde(default)]
    pub sites: BTreeMap<String, Site>,
    /// The site that answers for names that none has; without, they are answered 421.
    #[serde(default)]
    pub default_site: Option<String>,
    /// What keepalived asks.
    #[serde(default)]
    pub local_check: Option<LocalCheck>,
    /// Commands of operators; without, there are none.
    #[serde(default)]
    pub control: Option<Control>,
    /// The cluster's virtual addresses, so that `/status` can say which of them are held here.
    #[serde(default)]
    pub virtual_addresses: Vec<IpAddr>,
    /// The database gateway.
    #[serde(default)]
    pub database: Option<Database>,
    /// Services of other protocols, by their names.
    #[serde(default)]
    pub tcp: BTreeMap<String, Tcp>,
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
        let is_gateway = self.all_pools().next().is_none() && self.tcp.is_empty();
        let port = if is_gateway { 9605 } else { 9601 };
        self.metrics.clone().unwrap_or(Metrics { listen: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    /// Threads that carry connections.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(workers::cores)
    }

    /// How this process hands over to another one, where it does.
    pub fn handover(&self) -> Option<handover::Options> {
        self.runtime_directory.as_ref().map(|directory| handover::Options {
            directory: directory.clone(),
            drain_timeout: self.drain_timeout,
            max_draining: self.max_draining,
        })
    }

    /// The most that a request's body may have, wherever it goes.
    pub fn largest_body(&self, https: &Https) -> u64 {
        let sites = self.all_sites();
        let of_sites = sites.iter().filter_map(|site| site.limits.max_body_size);
        let of_routes = sites.iter().flat_map(|site| site.routes).filter_map(|route| route.max_body_size);
        // One that has less has its word only for those that are for it, and that is not known before a request is admitted.
        of_sites.chain(of_routes).map(|size| size.as_u64()).fold(https.max_body_size.as_u64(), u64::max)
    }

    /// The names the site of `domain` answers to, lower case.
    pub fn server_names(&self) -> Vec<String> {
        let names = self.https.as_ref().map(|h| h.server_names.as_slice()).unwrap_or_default();
        let names = if names.is_empty() { self.domain.as_slice() } else { names };
        names.iter().map(|n| n.to_ascii_lowercase()).collect()
    }

    /// Every site; the one of `domain`, which is called [`MAIN`], first.
    pub fn all_sites(&self) -> Vec<AnySite<'_>> {
        let main = AnySite {
            name: MAIN,
            key: String::new(),
            names: self.server_names(),
            aliases: self.aliases.iter().map(|n| n.to_ascii_lowercase()).collect(),
            pool: defaults::pool(),
            routes: &self.routes,
            limits: &self.limits,
            error_pages: self.error_pages.as_deref(),
            request_fields: &self.request_fields,
            response_fields: &self.response_fields,
            security_headers: self.security_headers,
            cors: self.cors.as_ref(),
        };
        let others = self.sites.iter().map(|(name, site)| AnySite {
            name,
            key: format!("sites.{name}."),
            names: site.names(),
            aliases: site.aliases(),
            pool: site.pool.clone(),
            routes: &site.routes,
            limits: &site.limits,
            error_pages: site.error_pages.as_deref(),
            request_fields: &site.request_fields,
            response_fields: &site.response_fields,
            security_headers: site.security_headers,
            cors: site.cors.as_ref(),
        });
        Some(main).filter(|main| !main.names.is_empty()).into_iter().chain(others).collect()
    }

    /// Every pool, by its name, and where it stands.
    pub fn all_pools(&self) -> impl Iterator<Item = (&str, String, &Web)> {
        let web = self.web.iter().map(|web| ("web", "web".to_owned(), web));
        web.chain(self.pools.iter().map(|(name, pool)| (name.as_str(), format!("pools.{name}"), pool)))
    }

    /// The folder for the last known addresses of back ends by name.
    pub fn addresses(&self) -> Option<PathBuf> {
        self.runtime_directory.as_ref().map(|own| own.join("addresses"))
    }

    /// Every certificate of every site, those of `[https]` first: the first of all is the one for clients without a known name.
    pub fn certificates(&self) -> Vec<CertificateFiles> {
        let first = self.https.as_ref().map(Https::certificates).unwrap_or_default();
        first.into_iter().chain(self.sites.values().flat_map(|s| s.certificates.iter().cloned())).collect()
    }

    /// The connections that are let in, by the key that says how many.
    fn connections(&self) -> Vec<(String, u64)> {
        let https = self.https.as_ref().map(|h| ("https.max_connections".into(), h.max_connections as u64));
        let database = self.database.as_ref();
        let database = database.map(|d| ("database.max_connections".into(), d.max_connections as u64));
        let tcp = self.tcp.iter();
        let tcp = tcp.map(|(name, t)| (format!("tcp.{name}.max_connections"), t.max_connections as u64));
        https.into_iter().chain(database).chain(tcp).collect()
    }

    /// Descriptors that this configuration may take: a client's connection has one, and each request in flight; a connection to
    /// a member of the database group, or of a TCP service, has two.
    pub fn descriptors(&self) -> u64 {
        let https = self.https.as_ref().map_or(0, |h| h.max_connections as u64);
        let pools = || self.all_pools().map(|(_, _, pool)| pool);
        let requests = pools().fold(0_u64, |sum, p| sum.saturating_add(p.max_in_flight as u64));
        let database = self.database.as_ref().map_or(0, |d| 2_u64.saturating_mul(d.max_connections as u64));
        let tcp = self.tcp.values().map(|t| 2_u64.saturating_mul(t.max_connections as u64));
        let tcp = tcp.fold(0, u64::saturating_add);
        let in_use = https.saturating_add(requests).saturating_add(database).saturating_add(tcp);
        let kept = |p: &Web| IdleLimit::of_all(p.max_idle_connections, p.most_backends());
        let kept = pools().fold(0_usize, |sum, p| sum.saturating_add(kept(p)));
        let checks: usize = pools().map(Web::most_backends).sum();
        // A member is asked whether it is the primary, and whether it is a replica.
        let checks = checks + self.database.as_ref().map_or(0, |d| 2 * d.members.len());
        let tcp = self.tcp.values().flat_map(Tcp::pools);
        let checks = checks + tcp.map(|(_, pool)| pool.most_backends()).sum::<usize>();
        descriptors::wanted(in_use, kept, checks)
    }

    /// The file of the cluster's authority, which the site's clients may know as a root.
    pub fn authority(&self) -> Option<PathBuf> {
        self.web.as_ref().and_then(|web| web.tls.as_ref()).map(|files| files.ca.clone())
    }

    fn listen_addresses(&self) -> Vec<(String, SocketAddr)> {
        fn all(key: &str, list: &[SocketAddr]) -> impl Iterator<Item = (String, SocketAddr)> {
            list.iter().map(move |a| (key.to_owned(), *a))
        }
        let mut found = vec![("metrics.listen".to_owned(), self.metrics().listen)];
        found.extend(self.http.iter().flat_map(|h| all("http.listen", &h.listen)));
        found.extend(self.https.iter().flat_map(|h| all("https.listen", &h.listen)));
        found.extend(self.local_check.iter().map(|c| ("local_check.listen".to_owned(), c.listen)));
        found.extend(self.control.iter().filter_map(|c| Some(("control.listen".to_owned(), c.listen?))));
        if let Some(database) = &self.database {
            found.extend(all("database.write_listen", &database.write_listen));
            found.extend(all("database.read_listen", &database.read_listen));
        }
        for (name, tcp) in &self.tcp {
            found.extend(all(&format!("tcp.{name}.listen"), &tcp.listen));
        }
        found
    }
}

/// A back end that is a listener of this balancer.
struct Sent<'a> {
    /// The service whose back end it is.
    from: String,
    key: String,
    name: &'a str,
    to: SocketAddr,
    listener: &'a str,
    to_service: String,
}

impl Sent<'_> {
    /// After it was sent on this `way`, too.
    fn comes_back(&self, way: &[&Self]) -> Invalid {
        let on: String =
            way.iter().map(|s| format!(", which sends to {} ({})", s.listener, s.name)).collect();
        Invalid {
            key: self.key.clone(),
            reason: format!(
                "\"{}\" has the address {}, which is {} of this balancer{on}: what is sent there would come back for ever; write where the back \
                 end itself listens",
                self.name, self.to, self.listener
            ),
        }
    }
}

/// A site, however it is written down.
pub struct AnySite<'a> {
    pub name: &'a str,
    /// What stands before its keys.
    pub key: String,
    pub names: Vec<String>,
    pub aliases: Vec<String>,
    pub pool: String,
    pub routes: &'a [Route],
    pub limits: &'a SiteLimits,
    /// The folder of its error pages.
    pub error_pages: Option<&'a Path>,
    pub request_fields: &'a FieldRules,
    pub response_fields: &'a FieldRules,
    pub security_headers: bool,
    pub cors: Option<&'a Cors>,
}

/// The largest share of a back end, as HAProxy has it.
pub const MOST_WEIGHT: u32 = 256;

/// What the site of `domain` is called where others have their names.
pub const MAIN: &str = "main";

impl Config {
    fn validate_sites(&self) -> Result<(), Invalid> {
        for (name, section, pool) in self.all_pools() {
            if section != "web" {
                named(&section, name, "web")?;
            }
            // Orders are for every process of the cluster that has a pool of the name.
            if name.starts_with("database-") {
                return Invalid::err(
                    section.clone(),
                    "the pools of the database gateway are called so: give it another name",
                );
            }
            pool.validate(&section)?;
            if pool.sticky.as_ref().is_some_and(|s| s.secret(self.ticket_secret()).is_none()) {
                return Invalid::err(
                    format!("{section}.sticky.secret"),
                    "is missing: a file with one secret for all balancers, such as `openssl rand -hex 32` prints, here or as \
                     https.tls.ticket_secret",
                );
            }
        }
        let sites = self.all_sites();
        if sites.is_empty() {
            return Invalid::err("domain", "is missing; it is the name that the site answers to");
        }
        for (name, site) in &self.sites {
            named(&format!("sites.{name}"), name, MAIN)?;
            site.validate(&format!("sites.{name}"))?;
        }
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        let mut rules = Vec::with_capacity(sites.len());
        for site in &sites {
            let main = if self.aliases.is_empty() { "https.server_names" } else { "aliases" };
            let key = if site.key.is_empty() { main.to_owned() } else { format!("{}names", site.key) };
            for name in site.names.iter().chain(&site.aliases) {
                if name.ends_with('.') {
                    return Invalid::err(
                        key,
                        format_args!("\"{name}\" is known without the dot at its end: leave it out"),
                    );
                }
                // `*.example.org` is for one label more, as in certificates.
                if trivet_tls::server_name(name.strip_prefix("*.").unwrap_or(name)).is_none() {
                    return Invalid::err(key, format_args!("\"{name}\" is no host name"));
                }
                if let Some(other) = taken.insert(name, site.name) {
                    let whose = if other == site.name {
                        "stands here twice".into()
                    } else {
                        format!("is a name of the site {other}")
                    };
                    return Invalid::err(key, format_args!("\"{name}\" {whose}"));
                }
            }
            let first = site.names.first().filter(|name| name.starts_with("*.") && !site.aliases.is_empty());
            if let Some(first) = first {
                return Invalid::err(
                    format!("{}aliases", site.key),
                    format_args!(
                        "are sent to the first name, and \"{first}\" is no address: put one without * before it"
                    ),
                );
            }
            let is_pool = |name: &str| self.all_pools().any(|(pool, ..)| pool == name).then_some(());
            if is_pool(&site.pool).is_none() {
                let key = if site.key.is_empty() { "web".into() } else { format!("{}pool", site.key) };
                return Invalid::err(key, format_args!("there is no pool \"{}\"", site.pool));
            }
            site.limits.validate(&format!("{}limits", site.key))?;
            rules.push(sites::rules(site, &(), is_pool)?);
            self.validate_cookies(site)?;
            if let Some(folder) = site.error_pages {
                config::absolute(&format!("{}error_pages", site.key), folder)?;
            }
        }
        sites::no_circles(&sites, &rules)?;
        match &self.default_site {
            Some(name) if !sites.iter().any(|site| site.name == name) => {
                Invalid::err("default_site", format_args!("there is no site \"{name}\""))
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    /// Refuses a site whose names no certificate has.
    pub fn each_site_has_a_certificate(&self, table: &SiteCertificates) -> Result<(), ConfigError> {
        for site in self.all_sites() {
            if let Some(reason) = site.without_certificate(table) {
                return Err(ConfigError::at("", format!("{}names", site.key), reason));
            }
        }
        Ok(())
    }

    /// The file with the cluster's ticket secret.
    pub fn ticket_secret(&self) -> Option<&Path> {
        self.https.as_ref()?.tls.ticket_secret.as_deref()
    }

    /// Refuses back ends that are where the balancer itself listens, when what is sent there would come back: at once, or by way of other
    /// services of this balancer.
    fn nothing_comes_back(&self) -> Result<(), Invalid> {
        let listened_on = self.listen_addresses();
        // The service of HTTP is one, whichever of its listeners it is.
        let service = |listener: &str| match listener {
            "http.listen" | "https.listen" => Some("http".to_owned()),
            other => other.strip_suffix(".listen").filter(|name| name.starts_with("tcp.")).map(str::to_owned),
        };
        let mut sent: Vec<Sent<'_>> = Vec::new();
        let mut add = |from: String, key: String, name, address: &ServerAddress| {
            let ServerAddress::Fixed(Address::Ip(to)) = *address else { return };
            // `::ffff:127.0.0.1` is 127.0.0.1.
            let ip = to.ip().to_canonical();
            let local = ip.is_loopback() || ip.is_unspecified() || self.virtual_addresses.contains(&ip);
            let is_here = |at: &SocketAddr| {
                let own = at.ip().to_canonical();
                at.port() == to.port() && (own == ip || (own.is_unspecified() && local))
            };
            let here = listened_on.iter().filter(|(_, at)| is_here(at));
            sent.extend(here.filter_map(|(listener, _)| {
                let (from, key, to_service) = (from.clone(), key.clone(), service(listener)?);
                Some(Sent { from, key, name, to, listener, to_service })
            }));
        };
        for (_, section, pool) in self.all_pools() {
            for (number, server) in pool.backends.iter().enumerate() {
                let key = format!("{section}.backends[{number}].address");
                add("http".into(), key, &server.name, &server.address);
            }
        }
        for (name, tcp) in &self.tcp {
            let by_name =
                tcp.sni.iter().enumerate().map(|(number, sni)| (format!("sni[{number}].pool"), &sni.pool));
            for (place, pool) in tcp.pool.iter().map(|pool| ("pool".to_owned(), pool)).chain(by_name) {
                for (number, server) in pool.backends.iter().enumerate() {
                    let key = format!("tcp.{name}.{place}.backends[{number}].address");
                    add(format!("tcp.{name}"), key, &server.name, &server.address);
                }
            }
        }
        for first in &sent {
            let mut way = vec![first];
            let mut seen = BTreeSet::from([first.to_service.as_str()]);
            while let Some(last) = way.last() {
                if last.to_service == first.from {
                    return Err(first.comes_back(&way[1..]));
                }
                let next = sent.iter().find(|s| {
                    s.from == last.to_service
                        && (s.to_service == first.from || !seen.contains(s.to_service.as_str()))
                });
                match next {
                    Some(next) => {
                        seen.insert(&next.to_service);
                        way.push(next);
                    }
                    None => {
                        way.pop();
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses two pools of one site that would overwrite each other's cookies.
    fn validate_cookies(&self, site: &AnySite<'_>) -> Result<(), Invalid> {
        let served = site.routes.iter().filter_map(|route| route.pool.as_deref()).chain([&*site.pool]);
        let served: BTreeSet<&str> = served.collect();
        let mut taken = BTreeMap::new();
        for (name, section, pool) in self.all_pools().filter(|(name, ..)| served.contains(name)) {
            let Some(sticky) = &pool.sticky else { continue };
            if let Some(other) = taken.insert(&sticky.cookie, name) {
                return Invalid::err(
                    format!("{section}.sticky.cookie"),
                    format_args!(
                        "\"{}\" is the cookie of the pool {other}, too, and the site {} has both: another name for one of them",
                        sticky.cookie, site.name
                    ),
                );
            }
        }
        Ok(())
    }
}

/// Refuses a name that cannot stand in logs and metrics, or is another's.
fn named(key: &str, name: &str, taken: &str) -> Result<(), Invalid> {
    if name == taken {
        return Invalid::err(key, format_args!("\"{taken}\" is another's name already"));
    }
    is_name(key, name)
}

/// Refuses a name that cannot stand in logs and metrics.
fn is_name(key: &str, name: &str) -> Result<(), Invalid> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(good) {
        return Invalid::err(key, "is no name; it has letters, digits, - _ and .");
    }
    Ok(())
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        if self.node.is_empty() {
            return Invalid::err("node", "is empty");
        }
        is_name("node", &self.node)?;
        self.log.validate("log")?;
        config::threads(self.threads)?;
        config::positive("shutdown_timeout", self.shutdown_timeout)?;
        if self.drain_delay > self.shutdown_timeout {
            return Invalid::err("drain_delay", "is longer than shutdown_timeout, of which it is a part");
        }
        self.handover().map_or(Ok(()), |options| options.validate())?;
        let serves = self.all_pools().next().is_some();
        if !serves && self.database.is_none() && self.tcp.is_empty() {
            return Invalid::err(
                "",
                "has neither [web] nor [database] nor a [tcp.NAME]: there is nothing to balance",
            );
        }
        match &self.https {
            Some(https) if serves => {
                https.validate(self.sites.values().any(|site| !site.certificates.is_empty()))?;
                self.validate_sites()?;
            }
            Some(_) => {
                return Invalid::err("web", "is missing; [https] needs back ends to send requests to");
            }
            None if serves => {
                let section = self.all_pools().next().map(|(_, section, _)| section).unwrap_or_default();
                return Invalid::err("https", format_args!("is missing; [{section}] is reached through it"));
            }
            None => {}
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
        if self.local_check.is_some() && !serves {
            return Invalid::err("local_check", "tells of [web], which is missing");
        }
        if let Some(database) = &self.database {
            database.validate()?;
        }
        if let Some(control) = &self.control {
            control.validate(self.runtime_directory.as_deref())?;
        }
        for (name, tcp) in &self.tcp {
            let section = format!("tcp.{name}");
            is_name(&section, name)?;
            tcp.validate(&section)?;
        }
        self.nothing_comes_back()?;
        for (key, connections) in self.connections() {
            descriptors::fit(&key, connections, self.descriptors())?;
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
        if let Some(https) = &self.https {
            let certificates = self.certificates();
            SiteCertificates::check_new(&certificates)?;
            let table = SiteCertificates::load_beside(&certificates, self.authority())?;
            table.server_config(&https.tls)?;
            self.each_site_has_a_certificate(&table)?;
        }
        // Those to other nodes are read at a start alone, and what a start would refuse is better known before.
        let pools = self.all_pools().filter_map(|(_, _, pool)| pool.tls.as_ref());
        let control = self.control.iter().filter_map(|c| c.tls.as_ref());
        for files in pools.chain(self.database.iter().map(|d| &d.tls)).chain(control) {
            trivet_tls::client_config(files, &[])?;
        }
        for (name, _, pool) in self.all_pools() {
            pool.sticky.as_ref().map(|sticky| sticky.read(name, self.ticket_secret())).transpose()?;
        }
        for site in self.all_sites() {
            let rules = sites::rules(&site, &(), |_| Some(()));
            rules.map_err(|e| ConfigError::at("", e.key, e.reason))?.read_files()?;
            site.error_pages.map(ErrorPages::read).transpose()?;
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        let mut all = trivet_tls::site::gaps(&self.certificates(), self.authority().as_deref());
        all.extend(descriptors::scarce(self.descriptors()));
        all
    }
}

#[cfg(test)]
mod tests;
