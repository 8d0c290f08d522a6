//! The site's configuration: one file, and the environment of the bring-your-own contract on top of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

use trivet_base::config::{self, ConfigError, Invalid, Log, Metrics, Validate};

/// Where an environment variable stands in error messages, in place of a file name.
const ENVIRONMENT: &str = "environment";

/// `app.json`, `app.toml`: everything has a default but the database's addresses, which may come from the environment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This node's name, for the log and the status page.
    pub node: Option<String>,
    /// Where HTTP is served to the web tier. `LISTEN` overrides it.
    pub listen: SocketAddr,
    /// What the site calls itself.
    pub site: Site,
    /// Where the articles are.
    pub database: Database,
    /// How long a sign-in lasts.
    pub session: Session,
    /// Limits on what one client may ask.
    pub limits: Limits,
    /// `[log]`.
    pub log: Log,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// How long requests in flight may take after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            site: Site::default(),
            database: Database::default(),
            session: Session::default(),
            limits: Limits::default(),
            log: Log::default(),
            metrics: Metrics { listen: SocketAddr::from(([127, 0, 0, 1], 9603)) },
            shutdown_timeout: config::default_shutdown_timeout(),
        }
    }
}

/// `[site]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// Shown in the header of every page.
    pub title: String,
    /// A line under the title of the front page.
    pub tagline: String,
    /// The address people type; forms sent from any other origin are refused.
    pub base_url: String,
    /// Articles on one page of a list, 1 to 100.
    pub page_size: u32,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            title: "Trivet".into(),
            tagline: "Notes on keeping one website up".into(),
            base_url: "https://www.foobar.com".into(),
            page_size: 10,
        }
    }
}

/// `[database]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `mysql://user:password@127.0.0.1:6446/trivet`; `DATABASE_WRITE_URL` overrides it.
    pub write_url: Option<String>,
    /// `mysql://user:password@127.0.0.1:6447/trivet`; `DATABASE_READ_URL` overrides it.
    pub read_url: Option<String>,
    /// The cluster's CA; when given, the server's certificate must be of this CA and carry the address that the URL
    /// names. `DATABASE_CA_FILE` overrides it.
    pub ca_file: Option<PathBuf>,
    /// Writes at a time, each on a connection to the primary; further ones wait in turn.
    pub write_pool: u32,
    /// Most connections to replicas, and as many to the primary for reads that find no replica.
    pub read_pool: u32,
    /// How long a read looks for a database that answers.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// How long one attempt to read may take before the primary is asked instead.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// How long a write may take, waiting for a new primary and all repetitions included.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long a replica may take to catch up with the reader's own last write.
    #[serde(with = "humantime_serde")]
    pub gtid_wait: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            write_url: None,
            read_url: None,
            ca_file: None,
            write_pool: 16,
            read_pool: 16,
            // An election takes 6.6 to 7.6 s after a crash.
            acquire_timeout: Duration::from_secs(12),
            read_timeout: Duration::from_secs(2),
            // Two elections, or one on a slow day; below `limits.request_timeout`.
            write_timeout: Duration::from_secs(20),
            gtid_wait: Duration::from_millis(500),
        }
    }
}

/// `[session]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Session {
    /// From sign-in to the end of the session, whatever happens in between.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
}

impl Default for Session {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body; an article in a form is percent-encoded and may be three times its text.
    pub body: bytesize::ByteSize,
    /// Longest that one request may take; must be shorter than the web tier's `response_timeout`.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Requests worked on at a time, readers and writers each; more are answered 503 at once.
    pub concurrent_requests: usize,
    /// Wrong passwords for one account from one address (IPv6: one /64) until it has to wait.
    pub sign_in_attempts: u32,
    /// The time in which those attempts count.
    #[serde(with = "humantime_serde")]
    pub sign_in_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: bytesize::ByteSize::mib(1),
            request_timeout: Duration::from_secs(25),
            concurrent_requests: 512,
            sign_in_attempts: 5,
            sign_in_window: Duration::from_secs(300),
        }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        if self.node.as_deref() == Some("") {
            return Invalid::err("node", "is empty; leave it out or name the node");
        }
        self.site.validate()?;
        self.database.validate()?;
        self.limits.validate()?;
        for (key, time) in [
            ("acquire_timeout", self.database.acquire_timeout),
            ("write_timeout", self.database.write_timeout),
        ] {
            if time >= self.limits.request_timeout {
                return Invalid::err(
                    format!("database.{key}"),
                    "must be shorter than limits.request_timeout, or nobody would hear how it ended",
                );
            }
        }
        if self.session.lifetime < Duration::from_secs(60) {
            return Invalid::err("session.lifetime", "is shorter than a minute; nobody could stay signed in");
        }
        if self.session.lifetime > Duration::from_secs(366 * 24 * 3600) {
            return Invalid::err("session.lifetime", "is longer than a year");
        }
        config::positive("shutdown_timeout", self.shutdown_timeout)?;
        self.log.validate("log")
    }
}

impl Site {
    fn validate(&self) -> Result<(), Invalid> {
        if self.title.trim().is_empty() {
            return Invalid::err("site.title", "is empty");
        }
        if !(1..=100).contains(&self.page_size) {
            return Invalid::err("site.page_size", "must be between 1 and 100");
        }
        let uri = http::Uri::from_str(&self.base_url)
            .ok()
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some());
        let Some(uri) = uri else {
            return Invalid::err("site.base_url", "must look like \"https://www.foobar.com\"");
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Invalid::err("site.base_url", "must not have a path: the site is served at the root");
        }
        Ok(())
    }

    /// `base_url` as a browser writes it in an `Origin` header.
    pub fn origin(&self) -> String {
        self.base_url.trim_end_matches('/').to_ascii_lowercase()
    }
}

impl Database {
    fn validate(&self) -> Result<(), Invalid> {
        for (key, url) in [("write_url", &self.write_url), ("read_url", &self.read_url)] {
            if let Some(url) = url {
                check_url(url).or_else(|reason| Invalid::err(format!("database.{key}"), reason))?;
            }
        }
        if let Some(path) = &self.ca_file {
            config::absolute("database.ca_file", path)?;
        }
        for (key, size) in [("write_pool", self.write_pool), ("read_pool", self.read_pool)] {
            if !(1..=1000).contains(&size) {
                return Invalid::err(format!("database.{key}"), "must be between 1 and 1000");
            }
        }
        config::positive("database.acquire_timeout", self.acquire_timeout)?;
        config::positive("database.read_timeout", self.read_timeout)?;
        config::positive("database.write_timeout", self.write_timeout)?;
        if self.gtid_wait >= self.read_timeout {
            return Invalid::err("database.gtid_wait", "must be shorter than database.read_timeout");
        }
        Ok(())
    }

    /// The options of the write and of the read pool; what is missing or unreadable is named.
    pub fn connect_options(&self, file: &Path) -> Result<[MySqlConnectOptions; 2], ConfigError> {
        let ca = self.ca_file.as_deref().map(|path| read_ca(file, path)).transpose()?;
        let one = |key: &str, variable: &str, url: &Option<String>| {
            let Some(url) = url else {
                let reason = format!("is not set; set it here or in the environment as {variable}");
                return Err(ConfigError::at(file, format!("database.{key}"), reason));
            };
            let options = MySqlConnectOptions::from_str(url)
                .map_err(|e| ConfigError::at(file, format!("database.{key}"), e))?;
            // Given a CA, verify (sqlx's default does not); without one the URL's own ssl-mode stands.
            Ok(match &ca {
                Some(pem) => options.ssl_mode(MySqlSslMode::VerifyIdentity).ssl_ca_from_pem(pem.clone()),
                None => options,
            })
        };
        Ok([
            one("write_url", "DATABASE_WRITE_URL", &self.write_url)?,
            one("read_url", "DATABASE_READ_URL", &self.read_url)?,
        ])
    }
}

fn read_ca(file: &Path, path: &Path) -> Result<Vec<u8>, ConfigError> {
    trivet_tls::load_certificates(path)?;
    std::fs::read(path)
        .map_err(|e| ConfigError::at(file, "database.ca_file", format_args!("{}: {e}", path.display())))
}

/// The reason never repeats the URL: it holds a password.
fn check_url(url: &str) -> Result<(), String> {
    if !url.starts_with("mysql://") {
        return Err("must start with mysql://".into());
    }
    let options = MySqlConnectOptions::from_str(url).map_err(|e| e.to_string())?;
    match options.get_database() {
        None | Some("") => Err("names no database; write mysql://user:password@host:port/DATABASE".into()),
        Some(_) => Ok(()),
    }
}

impl Limits {
    fn validate(&self) -> Result<(), Invalid> {
        if self.body.as_u64() < 4 * 1024 || self.body.as_u64() > 64 * 1024 * 1024 {
            return Invalid::err("limits.body", "must be between 4KiB and 64MiB");
        }
        config::positive("limits.request_timeout", self.request_timeout)?;
        config::positive("limits.sign_in_window", self.sign_in_window)?;
        if self.concurrent_requests == 0 {
            return Invalid::err("limits.concurrent_requests", "must be at least 1");
        }
        if self.sign_in_attempts == 0 {
            return Invalid::err("limits.sign_in_attempts", "must be at least 1");
        }
        Ok(())
    }
}

impl Config {
    /// Puts the environment of the contract over the file: `LISTEN`, `DATABASE_WRITE_URL`, `DATABASE_READ_URL` and
    /// `DATABASE_CA_FILE`. An empty variable counts as unset.
    pub fn apply_environment(&mut self, get: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
        let get = |name: &str| get(name).filter(|v| !v.is_empty());
        if let Some(listen) = get("LISTEN") {
            self.listen = listen.parse().map_err(|_| {
                let reason =
                    format!("\"{listen}\" is not an address and a port; write for example 127.0.0.1:8081");
                ConfigError::at(ENVIRONMENT, "LISTEN", reason)
            })?;
        }
        for (name, slot) in [
            ("DATABASE_WRITE_URL", &mut self.database.write_url),
            ("DATABASE_READ_URL", &mut self.database.read_url),
        ] {
            if let Some(url) = get(name) {
                check_url(&url).map_err(|reason| ConfigError::at(ENVIRONMENT, name, reason))?;
                *slot = Some(url);
            }
        }
        if let Some(path) = get("DATABASE_CA_FILE") {
            let path = PathBuf::from(path);
            config::absolute("DATABASE_CA_FILE", &path)
                .map_err(|e| ConfigError::at(ENVIRONMENT, e.key, e.reason))?;
            self.database.ca_file = Some(path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
