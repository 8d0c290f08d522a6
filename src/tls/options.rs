//! What a configuration says about TLS towards the public: `[https] certificates` and `[https.tls]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use trivet_base::config::{self, Invalid};

/// A certificate and its key, each in a PEM file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// Its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Both paths are absolute; `key` is the section's name.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        config::absolute(&format!("{key}.certificate"), &self.certificate)?;
        config::absolute(&format!("{key}.key"), &self.key)
    }
}

/// `[https.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublicTls {
    /// Which protocol versions are spoken.
    pub profile: Profile,
    /// The protocols offered by ALPN (RFC 7301), the preferred one first.
    pub alpn: Vec<Protocol>,
    /// How often the files are looked at for a change.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
    /// The file with the cluster's ticket secret; without it each process resumes its own sessions only.
    pub ticket_secret: Option<PathBuf>,
    /// Client certificates; none are asked for without it.
    pub client_auth: Option<ClientAuth>,
}

impl Default for PublicTls {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            alpn: vec![Protocol::Http2, Protocol::Http1],
            // A renewal is never urgent to the second, and a look costs one stat(2) per file.
            reload_interval: Duration::from_secs(5),
            ticket_secret: None,
            client_auth: None,
        }
    }
}

impl PublicTls {
    /// `key` is the section's name.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        config::not_empty(&format!("{key}.alpn"), &self.alpn)?;
        config::unique(&format!("{key}.alpn"), self.alpn.iter().map(|p| p.name()))?;
        config::positive(&format!("{key}.reload_interval"), self.reload_interval)?;
        if let Some(path) = &self.ticket_secret {
            config::absolute(&format!("{key}.ticket_secret"), path)?;
        }
        if let Some(auth) = &self.client_auth {
            config::absolute(&format!("{key}.client_auth.ca"), &auth.ca)?;
            if let Some(crl) = &auth.crl {
                config::absolute(&format!("{key}.client_auth.crl"), crl)?;
            }
        }
        Ok(())
    }
}

/// The two of Mozilla's server-side profiles that are still to be recommended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// TLS 1.3, and 1.2 with ephemeral key exchange and authenticated encryption.
    #[default]
    Intermediate,
    /// TLS 1.3 alone.
    Modern,
}

/// A protocol that ALPN can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http1,
}

impl Protocol {
    /// Its name in the registry of RFC 7301.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

/// `https.tls.client_auth`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// The authorities that a client's certificate must lead to (PEM).
    pub ca: PathBuf,
    /// The authorities' revocation lists (PEM, RFC 5280 section 5); every authority needs one then.
    pub crl: Option<PathBuf>,
    /// What happens to a client without one.
    pub mode: ClientAuthMode,
}

/// What happens to a client without a certificate. One with a bad certificate is refused in both modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthMode {
    /// It is served, and back ends are told that it showed none.
    Optional,
    /// The handshake fails.
    Required,
}
