//! `health = { … }`: how the back ends of a pool are checked.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;

use super::Protocol;
use crate::check::{Expected, HttpCheck, TcpCheck, Tell};
use trivet_base::address::Address;
use trivet_base::config::Invalid;
use trivet_http::client::{Ask, Client, Target};
use trivet_http::proxy_protocol;
use trivet_pool::Check;
use trivet_pool::timing::Timing;

/// What a check does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Asks, and looks at the answer.
    #[default]
    Http,
    /// Connects, with TLS where the pool has it; says and expects words where there are some.
    Tcp,
}

/// The same, of a pool whose protocol is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpKind {
    /// See [`Kind::Http`].
    Http,
    /// See [`Kind::Tcp`].
    #[default]
    Tcp,
}

impl From<TcpKind> for Kind {
    fn from(kind: TcpKind) -> Self {
        match kind {
            TcpKind::Http => Self::Http,
            TcpKind::Tcp => Self::Tcp,
        }
    }
}

/// `health = { … }` of an HTTP pool.
pub type HealthConfig = AnyHealthConfig<Kind>;
/// `health = { … }` of a TCP pool, whose checks connect unless they are told to ask.
pub type TcpHealthConfig = AnyHealthConfig<TcpKind>;

/// `health = { … }`; `K` is a [`Kind`] with its own default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnyHealthConfig<K> {
    /// What is done.
    pub kind: K,
    /// `GET`, `HEAD` or `OPTIONS`.
    pub method: String,
    /// What is asked for.
    pub path: String,
    /// The host that is asked for; the back end's own when absent.
    pub host: Option<String>,
    /// The site whose visitors the check resembles: its host name, and what a balancer in front tells of a visitor over HTTPS.
    /// An app that redirects to HTTPS, or refuses names that it does not know, then answers it as it answers them.
    pub site: Option<String>,
    /// Further fields of the request.
    pub fields: BTreeMap<String, String>,
    /// Statuses that are good: `"204"`, or from one to another, `"200-399"`.
    pub status: Vec<String>,
    /// What must stand in the body, somewhere; with [`Kind::Tcp`] in what is said first.
    pub contains: Option<String>,
    /// What the check says first, with [`Kind::Tcp`].
    pub send: Option<String>,
    /// The port that is checked; the one that is served when absent.
    pub port: Option<u16>,
    /// Whether TLS is spoken; as with requests when absent.
    pub tls: Option<bool>,
    /// See [`Timing::interval`].
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// See [`Timing::fast_interval`].
    #[serde(with = "humantime_serde")]
    pub fast_interval: Option<Duration>,
    /// See [`Timing::jitter`].
    pub jitter: u32,
    /// See [`Timing::timeout`].
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// See [`Timing::rise`].
    pub rise: u32,
    /// See [`Timing::fall`].
    pub fall: u32,
}

impl<K: Default> Default for AnyHealthConfig<K> {
    fn default() -> Self {
        Self {
            kind: K::default(),
            method: "GET".into(),
            path: "/healthz".into(),
            host: None,
            site: None,
            fields: BTreeMap::new(),
            status: vec!["200-299".into()],
            contains: None,
            send: None,
            port: None,
            tls: None,
            interval: Duration::from_millis(500),
            fast_interval: None,
            jitter: Timing::JITTER,
            // Below the interval, so that checks of one back end do not pile up.
            timeout: Duration::from_millis(400),
            rise: 2,
            fall: 2,
        }
    }
}

/// Fields that are no matter of a check's: they have a key of their own, or are about the connection or the body.
const NOT_FIELDS: [&str; 9] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
];

/// How a back end is reached by its checks.
pub struct Checked {
    /// Where it serves.
    pub address: Address,
    /// The host that is asked for where nothing else is said and no TLS is spoken.
    pub host: String,
    /// The TLS that requests speak with it.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// What requests speak with it.
    pub protocol: Protocol,
    /// What every connection begins with.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// What it is told with each check.
    pub tell: Option<Tell>,
}

impl<K: Copy + Default + Into<Kind>> AnyHealthConfig<K> {
    /// The timing alone.
    pub fn timing(&self) -> Timing {
        Timing {
            interval: self.interval,
            fast_interval: self.fast_interval,
            jitter: self.jitter,
            timeout: self.timeout,
            rise: self.rise,
            fall: self.fall,
        }
    }

    /// The check of a back end. What [`validate`](Self::validate) refuses is left out.
    pub fn check(&self, checked: Checked) -> Arc<dyn Check> {
        let tls = checked.tls.filter(|_| self.tls != Some(false));
        let mut address = checked.address;
        if let (Address::Ip(address), Some(port)) = (&mut address, self.port) {
            address.set_port(port);
        }
        let host = match &tls {
            Some((_, name)) => name.to_str().into_owned(),
            None => checked.host,
        };
        let mut client = Client::new(Target { address: address.to_string(), host, tls })
            .with_proxy_protocol(checked.proxy_protocol);
        if self.kind.into() == Kind::Tcp {
            return Arc::new(TcpCheck { client, send: self.send.clone(), contains: self.contains.clone() });
        }
        if checked.protocol == Protocol::Http2 {
            client = client.with_http2();
        }
        Arc::new(HttpCheck::new(client, self.ask(), self.expected()).telling(checked.tell))
    }

    fn ask(&self) -> Ask {
        let mut fields = HeaderMap::new();
        if let Some(site) = &self.site {
            for (name, value) in
                [("x-forwarded-proto", "https"), ("x-forwarded-host", site), ("x-forwarded-port", "443")]
            {
                fields.extend(field(name, value));
            }
        }
        fields.extend(self.fields.iter().filter_map(|(name, value)| field(name, value)));
        Ask {
            method: self.method.parse().unwrap_or(Method::GET),
            host: self.host.clone().or_else(|| self.site.clone()),
            fields,
            ..Ask::get(&self.path)
        }
    }

    fn expected(&self) -> Expected {
        Expected {
            status: self.status.iter().filter_map(|s| statuses(s)).collect(),
            contains: self.contains.clone(),
        }
    }

    /// Checks each by itself, and what does not go together. `tls` is whether the pool speaks TLS.
    pub fn validate(&self, key: &str, tls: bool) -> Result<(), Invalid> {
        let invalid = |name: &str, why: String| Invalid::err(format!("{key}.{name}"), why);
        if self.kind.into() == Kind::Tcp {
            let own = Self::default();
            for (name, is_said) in [
                ("method", self.method != own.method),
                ("path", self.path != own.path),
                ("host", self.host.is_some()),
                ("site", self.site.is_some()),
                ("fields", !self.fields.is_empty()),
                ("status", self.status != own.status),
            ] {
                if is_said {
                    return invalid(name, "says nothing where kind is \"tcp\": nothing is asked for".into());
                }
            }
        } else if self.send.is_some() {
            return invalid(
                "send",
                "says nothing where kind is \"http\": method and path are asked for".into(),
            );
        }
        if self.send.as_deref() == Some("") {
            return invalid("send", "is empty".into());
        }
        if !matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS") {
            return invalid("method", format!("\"{}\" is not GET, HEAD or OPTIONS", self.method));
        }
        if !self.path.starts_with('/') || self.path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return invalid("path", format!("\"{}\" is no path; write for example \"/healthz\"", self.path));
        }
        for (name, host) in [("host", &self.host), ("site", &self.site)] {
            if let Some(host) = host
                && host.parse::<http::uri::Authority>().is_err()
            {
                return invalid(name, format!("\"{host}\" is no host name"));
            }
        }
        if self.host.is_some() && self.site.is_some() {
            return invalid("host", "and site both say which host is asked for: site is enough".into());
        }
        for (name, value) in &self.fields {
            let place = format!("fields.{name}");
            if NOT_FIELDS.contains(&name.to_ascii_lowercase().as_str()) {
                let remedy = if name.eq_ignore_ascii_case("host") {
                    "host is a key of its own"
                } else {
                    "it is about the connection or a body"
                };
                return invalid(&place, format!("cannot be set: {remedy}"));
            }
            if field(name, value).is_none() {
                return invalid(&place, format!("\"{name}: {value}\" cannot stand in a request"));
            }
        }
        if self.status.is_empty() {
            return invalid("status", "is empty: no answer would be good".into());
        }
        for status in &self.status {
            if statuses(status).is_none() {
                return invalid(
                    "status",
                    format!(
                        "\"{status}\" is neither a status (\"204\") nor from one to another (\"200-399\")"
                    ),
                );
            }
        }
        match &self.contains {
            Some(text) if text.is_empty() => return invalid("contains", "is empty".into()),
            Some(_) if self.method == "HEAD" => {
                return invalid("contains", "needs a body, which no answer to HEAD has".into());
            }
            _ => {}
        }
        if self.port == Some(0) {
            return invalid("port", "is no port".into());
        }
        if self.tls == Some(true) && !tls {
            return invalid("tls", "is true, and the pool has no tls to speak it with".into());
        }
        self.timing().validate(key)
    }
}

fn field(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, value.parse().ok()?))
}

/// The statuses that `"204"` or `"200-399"` means; none where it is neither.
pub fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| StatusCode::from_bytes(text.as_bytes()).ok().map(|s| s.as_u16());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first)?..=number(last)?;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests;
