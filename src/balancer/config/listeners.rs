//! Where clients are listened to, and what they may do: `[http]` and `[https]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Deserialize;

use super::{defaults, site_limits};
use trivet_base::config::{self, Invalid};
use trivet_http::frames::FrameRates;
use trivet_http::proxy_protocol::Trust;
use trivet_proxy::admission::RequestRate;
use trivet_tls::options::{CertificateFiles, PublicTls};
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

impl Https {
    /// `others`: sites have certificates of their own.
    pub(super) fn validate(&self, others: bool) -> Result<(), Invalid> {
        config::not_empty("https.listen", &self.listen)?;
        Trust::validate(self.proxy_protocol.as_ref(), "https.proxy_protocol")?;
        if let Some(rate) = self.request_rate {
            site_limits::rate("https.request_rate", rate)?;
        }
        self.validate_certificates(others)?;
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
    /// Its certificates, the first one first.
    pub fn certificates(&self) -> Vec<CertificateFiles> {
        let first = self.certificate.clone().zip(self.key.clone());
        let first = first.map(|(certificate, key)| CertificateFiles { certificate, key });
        first.into_iter().chain(self.certificates.iter().cloned()).collect()
    }

    fn validate_certificates(&self, others: bool) -> Result<(), Invalid> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => return Invalid::err("https.key", "is missing; https.certificate needs it"),
            (None, Some(_)) => {
                return Invalid::err("https.certificate", "is missing; https.key belongs to it");
            }
            (Some(certificate), Some(key)) => {
                config::absolute("https.certificate", certificate)?;
                config::absolute("https.key", key)?;
            }
            (None, None) if self.certificates.is_empty() && !others => {
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
