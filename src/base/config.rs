//! Configuration files: read, typed, checked, before anything else happens.
//!
//! Every program reads one file. A name that ends in `.json` is JSON (what the NixOS modules generate), any other is
//! TOML (what people write); both fill the same types, and an unknown key is an error in both.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Why a configuration was refused: the file, the key in it, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}{reason}", .file.display(), key_prefix(.key))]
pub struct ConfigError {
    /// The configuration file, or the file it names (a certificate, a password).
    pub file: PathBuf,
    /// Dotted path of the key, empty when the file as a whole is at fault.
    pub key: String,
    /// What is wrong, and where it helps, what to write instead.
    pub reason: String,
}

fn key_prefix(key: &str) -> String {
    if key.is_empty() || key == "." { String::new() } else { format!("{key}: ") }
}

impl ConfigError {
    /// An error at `key` of `file`.
    pub fn at(file: impl Into<PathBuf>, key: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { file: file.into(), key: key.into(), reason: reason.to_string() }
    }

    /// The same, in `file` where it names none: whoever finds fault with a key need not know where it stands.
    pub fn or_in(mut self, file: &Path) -> Self {
        if self.file.as_os_str().is_empty() {
            self.file = file.into();
        }
        self
    }
}

/// What is wrong with one key of a configuration that parsed: `key` dotted as in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Dotted path of the key.
    pub key: String,
    /// The reason, in words for the person who wrote the file.
    pub reason: String,
}

impl Invalid {
    /// Shorthand for `Err(Invalid { … })`.
    pub fn err<T>(key: impl Into<String>, reason: impl fmt::Display) -> Result<T, Self> {
        Err(Self { key: key.into(), reason: reason.to_string() })
    }
}

/// A configuration type that can say what is wrong with itself beyond its types: empty lists, duplicate names,
/// contradicting limits. It must not touch the network, nor require that secrets or data exist: `--check` runs where a
/// system is built, not where it runs.
pub trait Validate {
    /// The first thing wrong, if any.
    fn validate(&self) -> Result<(), Invalid>;

    /// Whether the files it names could be used from now on, the secret ones included: what a reload would say.
    fn check_files(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// What is good enough to start with, and still should be mended. Files that cannot be read are passed over.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Reads, types and checks the configuration in `path`.
pub fn load<T: DeserializeOwned + Validate>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError::at(path, "", format_args!("cannot be read: {e}")))?;
    parse(path, &text)
}

/// As [`load`], for text already read; `path` chooses the format and names the file in errors.
///
/// ```
/// use std::path::Path;
/// use trivet_base::config::{self, Invalid, Validate};
///
/// #[derive(Debug, serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     retries: usize,
/// }
///
/// impl Validate for Config {
///     fn validate(&self) -> Result<(), Invalid> {
///         if self.retries > 9 { Invalid::err("retries", "must be at most 9") } else { Ok(()) }
///     }
/// }
///
/// let path = Path::new("/etc/trivet/example.toml");
/// assert_eq!(config::parse::<Config>(path, "retries = 3").unwrap().retries, 3);
/// let refused = config::parse::<Config>(path, "retries = 10").unwrap_err();
/// assert_eq!(refused.to_string(), "/etc/trivet/example.toml: retries: must be at most 9");
/// ```
pub fn parse<T: DeserializeOwned + Validate>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let value: T = if path.extension().is_some_and(|e| e == "json") {
        let de = &mut serde_json::Deserializer::from_str(text);
        let value = serde_path_to_error::deserialize(&mut *de)
            .map_err(|e| ConfigError::at(path, e.path().to_string(), e.inner()))?;
        de.end().map_err(|e| ConfigError::at(path, "", e))?;
        value
    } else {
        let de = toml::Deserializer::parse(text)
            .map_err(|e| ConfigError::at(path, "", format_args!("{}", one_line(&e.to_string()))))?;
        serde_path_to_error::deserialize(de)
            .map_err(|e| ConfigError::at(path, e.path().to_string(), one_line(e.inner().message())))?
    };
    value.validate().map_err(|e| ConfigError::at(path, e.key, e.reason))?;
    Ok(value)
}

fn one_line(s: &str) -> String {
    s.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `[log]`: what is written to standard error, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A filter in the syntax of `tracing_subscriber::EnvFilter`: `info`, `info,trivet_pool=debug`.
    pub level: String,
    /// One JSON object a line (default), or text for people.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Json }
    }
}

impl Log {
    /// Checks the filter's syntax; `key` is the section's name.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        match self.level.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(()),
            Err(e) => Invalid::err(format!("{key}.level"), format_args!("{e}; write for example \"info\"")),
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// `[metrics]`: where `/metrics` (Prometheus text) and `/status` (JSON) are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Address and port, `127.0.0.1:9601`.
    pub listen: SocketAddr,
}

/// Three PEM files: the cluster's CA, and this side's certificate chain and private key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates of the authorities that the other side's certificate must lead to.
    pub ca: PathBuf,
    /// Own certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// Own private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
}

impl TlsFiles {
    /// All three paths are absolute; `key` is the section's name.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        for (name, path) in [("ca", &self.ca), ("certificate", &self.certificate), ("key", &self.key)] {
            absolute(&format!("{key}.{name}"), path)?;
        }
        Ok(())
    }
}

/// Whether this is a UUID as MySQL writes them: in lower case, with its hyphens.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => c == '-',
            _ => matches!(c, '0'..='9' | 'a'..='f'),
        })
}

/// Refuses a relative path: a service has no working directory that its operator chose.
pub fn absolute(key: &str, path: &Path) -> Result<(), Invalid> {
    if path.is_absolute() {
        return Ok(());
    }
    Invalid::err(key, format_args!("\"{}\" is not an absolute path", path.display()))
}

/// Refuses an empty list where something must be served or reached.
pub fn not_empty<T>(key: &str, list: &[T]) -> Result<(), Invalid> {
    if list.is_empty() { Invalid::err(key, "is empty; name at least one") } else { Ok(()) }
}

/// Refuses the second of two equal names in a list.
pub fn unique<'a>(key: &str, names: impl IntoIterator<Item = &'a str>) -> Result<(), Invalid> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Invalid::err(key, format_args!("\"{name}\" stands here twice"));
        }
    }
    Ok(())
}

/// Refuses a zero duration where waiting zero time would mean "never works".
pub fn positive(key: &str, d: Duration) -> Result<(), Invalid> {
    if d.is_zero() { Invalid::err(key, "must be longer than zero") } else { Ok(()) }
}

/// The key `threads`.
pub fn threads(threads: Option<usize>) -> Result<(), Invalid> {
    // More than any machine has cores; each costs a runtime.
    match threads {
        Some(n) if !(1..=1024).contains(&n) => Invalid::err("threads", "must be from 1 to 1024"),
        _ => Ok(()),
    }
}

/// Refuses limits of a request's head that cannot work together; `section` is where both stand. The target is a part of the
/// head, so a longer one would never be seen.
pub fn heads_fit(
    section: &str,
    max_header_size: ByteSize,
    max_target_length: ByteSize,
) -> Result<(), Invalid> {
    for (key, n) in [("max_header_size", max_header_size), ("max_target_length", max_target_length)] {
        if n.as_u64() == 0 {
            return Invalid::err(format!("{section}.{key}"), "must be at least 1");
        }
    }
    if max_target_length > max_header_size {
        return Invalid::err(
            format!("{section}.max_target_length"),
            format_args!(
                "is {max_target_length}, larger than {section}.max_header_size, {max_header_size}, of which the target is a \
                 part: lower the one or raise the other"
            ),
        );
    }
    Ok(())
}

/// Networks, `"10.0.0.0/8"`, and single addresses, `"192.0.2.1"`, for `#[serde(deserialize_with)]`. A network whose address
/// has bits behind the prefix is refused: it is rarely what was meant.
pub fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| network(text).map_err(serde::de::Error::custom)).collect()
}

/// One of IPv4 that is written as one of IPv6 (`::ffff:10.0.0.0/104`, RFC 4291 section 2.5.5.2): addresses are compared as IPv4.
fn unmapped(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(six) if six.prefix_len() >= 96 => {
            let four = six.addr().to_ipv4_mapped();
            four.and_then(|four| Ipv4Net::new(four, six.prefix_len() - 96).ok()).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

/// One of them; an error is a sentence.
pub fn network(text: &str) -> Result<IpNet, String> {
    network_as_written(text).map(unmapped)
}

fn network_as_written(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet = text.parse().map_err(|_| {
        format!("\"{text}\" is no network; write for example \"10.0.0.0/8\" or \"2001:db8::/32\"")
    })?;
    if net.addr() != net.network() {
        return Err(format!(
            "\"{text}\" has bits behind its prefix; write \"{}\" or \"{}\"",
            net.trunc(),
            net.addr()
        ));
    }
    Ok(net)
}

/// The default of every program's `shutdown_timeout`.
pub fn default_shutdown_timeout() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
mod tests;
