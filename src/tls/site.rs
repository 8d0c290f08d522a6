//! The site's certificate, which can be replaced while connections are accepted.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::{expiry_of, load_certificates, load_key, provider};
use crate::config::ConfigError;

/// A certificate with its key and the files they came from.
#[derive(Debug)]
pub struct SiteCertificate {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

impl SiteCertificate {
    /// Reads both files, which must belong together.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Arc<Self>, ConfigError> {
        let current = ArcSwap::from_pointee(read(&certificate, &key)?);
        Ok(Arc::new(Self { certificate, key, current }))
    }

    /// Reads the files again. After an error the former certificate stays in use.
    pub fn reload(&self) -> Result<(), ConfigError> {
        self.current.store(Arc::new(read(&self.certificate, &self.key)?));
        Ok(())
    }

    /// When the certificate in use stops being valid.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        expiry_of(self.current.load().cert.first()?).ok()
    }

    /// The file that the certificate came from.
    pub fn file(&self) -> &std::path::Path {
        &self.certificate
    }

    /// A server for everyone that shows the certificate in use, whatever name a client asks for: whether the name is one
    /// of the site's is decided by the request, which can be answered in words.
    pub fn server_config(self: &Arc<Self>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, ConfigError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| ConfigError::at(&self.certificate, "", e))?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for SiteCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(certificate: &std::path::Path, key: &std::path::Path) -> Result<CertifiedKey, ConfigError> {
    CertifiedKey::from_der(load_certificates(certificate)?, load_key(key)?, &provider()).map_err(|e| {
        ConfigError::at(certificate, "", format_args!("cannot be used with the key {}: {e}", key.display()))
    })
}
