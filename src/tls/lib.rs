//! TLS as every Trivet program uses it: rustls with aws-lc-rs, TLS 1.2 and 1.3, certificates from PEM files.
//!
//! Between the nodes both sides show a certificate of the cluster's CA (mutual TLS). A node's certificate carries its
//! name and its addresses, so a connection is bound to the node that was meant (RFC 9525).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Once};

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::OffsetDateTime;

use trivet_base::config::{ConfigError, TlsFiles};
use trivet_base::telemetry;

/// The one cryptography provider of all programs: aws-lc-rs, whose first key exchange, as a client and as a server, is
/// the hybrid X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem): what is recorded today stays secret if one of the two breaks.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// Makes [`provider`] what libraries use that do not ask us. To be called first in every program.
pub fn install_provider() {
    // An error says that there is one already; tests in one process may come here more than once.
    let _ = (*provider()).clone().install_default();
}

/// The certificates in a PEM file, leaf first. An empty file is an error.
pub fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let bad = |reason: String| ConfigError::at(path, "", reason);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(format!("certificate cannot be read: {e}")))?
        .collect::<Result<_, _>>()
        .map_err(|e| bad(format!("is not a PEM certificate: {e}")))?;
    if certificates.is_empty() {
        return Err(bad("holds no certificate (no BEGIN CERTIFICATE line)".into()));
    }
    Ok(certificates)
}

/// When each certificate that this program shows ends, in seconds of Unix time, by file. Certificates are read before
/// anything is bound, and so perhaps before there is a recorder for metrics: then [`export_expiries`] is called once more.
static OWN_CERTIFICATES: Mutex<BTreeMap<PathBuf, i64>> = Mutex::new(BTreeMap::new());

/// A certificate chain that this program shows to others.
fn own_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let chain = load_certificates(path)?;
    if let Ok(end) = expiry_of(&chain[0]) {
        static FIRST: Once = Once::new();
        FIRST.call_once(|| telemetry::when_recorded(export_expiries));
        OWN_CERTIFICATES.lock().insert(path.to_owned(), end.unix_timestamp());
        export_expiries();
    }
    Ok(chain)
}

/// Tells when the program's certificates end as a metric, so that an alert can come before the outage.
fn export_expiries() {
    for (file, end) in OWN_CERTIFICATES.lock().iter() {
        metrics::gauge!("trivet_certificate_expiry_timestamp_seconds", "file" => file.display().to_string())
            .set(*end as f64);
    }
}

/// The private key in a PEM file.
pub fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    private::look(path);
    PrivateKeyDer::from_pem_file(path)
        .map_err(|e| ConfigError::at(path, "", format_args!("private key cannot be read: {e}")))
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, ConfigError> {
    let mut store = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        store
            .add(certificate)
            .map_err(|e| ConfigError::at(path, "", format_args!("is no usable CA certificate: {e}")))?;
    }
    Ok(Arc::new(store))
}

/// A client that trusts the cluster's CA alone and shows its own certificate. It remembers sessions, 256 of them, and
/// resumes them: keep it and share it, a second configuration knows nothing of the first one's sessions.
pub fn client_config(files: &TlsFiles, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| ConfigError::at(&files.ca, "", e))?
        .with_root_certificates(roots(&files.ca)?)
        .with_client_auth_cert(own_certificates(&files.certificate)?, load_key(&files.key)?)
        .map_err(|e| ConfigError::at(&files.certificate, "", mismatch(&files.key, &e)))?;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A server for other nodes: a client without a certificate of the cluster's CA does not get past the handshake.
pub fn mutual_server_config(files: &TlsFiles, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, ConfigError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&files.ca)?, provider())
        .build()
        .map_err(|e| ConfigError::at(&files.ca, "", e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| ConfigError::at(&files.certificate, "", e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own_certificates(&files.certificate)?, load_key(&files.key)?)
        .map_err(|e| ConfigError::at(&files.certificate, "", mismatch(&files.key, &e)))?;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    // rustls would otherwise remember 256 sessions for all clients together, and resume few of them.
    config.ticketer =
        rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|e| ConfigError::at(&files.certificate, "", e))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn mismatch(key: &Path, e: &rustls::Error) -> String {
    format!("cannot be used with the key {}: {e}", key.display())
}

/// When the first certificate of a PEM file stops being valid (`notAfter`, RFC 5280 section 4.1.2.5).
pub fn expiry(path: &Path) -> Result<OffsetDateTime, ConfigError> {
    expiry_of(&load_certificates(path)?[0]).map_err(|e| ConfigError::at(path, "", e))
}

/// As [`expiry`], for a certificate in DER.
pub fn expiry_of(certificate: &CertificateDer<'_>) -> Result<OffsetDateTime, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("is not an X.509 certificate: {e}"))?;
    Ok(parsed.validity().not_after.to_datetime())
}

/// A host name or address as rustls wants it; `None` when it is neither.
pub fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}

/// As [`server_name`], for a name whose absence would mean that nothing is verified.
pub fn verified_name(name: &str) -> Result<ServerName<'static>, ConfigError> {
    server_name(name).ok_or_else(|| {
        ConfigError::at(Path::new(name), "", "is no host name or address that a certificate can have")
    })
}

pub mod chain;
pub mod clients;
mod followed;
pub mod hello;
pub mod options;
pub mod private;
pub mod seal;
pub mod site;
pub mod stream;
pub mod tickets;

#[cfg(test)]
mod tests;
