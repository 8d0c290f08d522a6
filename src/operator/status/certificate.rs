//! Looking at the certificate that a server shows.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpStream;

use super::model::Certificate;
use trivet_tls as tls;

/// The certificate that `address` shows to who asks for `name`. It is looked at, not trusted: nothing is sent.
pub async fn shown(address: String, name: &str, timeout: Duration) -> Certificate {
    let outcome = match tokio::time::timeout(timeout, handshake(&address, name)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {timeout:?}")),
    };
    match outcome.and_then(|der| tls::expiry_of(&der)) {
        Ok(not_after) => Certificate {
            not_after: not_after.format(&Rfc3339).ok(),
            days_left: Some((not_after - OffsetDateTime::now_utc()).whole_days()),
            error: None,
        },
        Err(e) => Certificate { not_after: None, days_left: None, error: Some(e) },
    }
}

async fn handshake(address: &str, name: &str) -> Result<CertificateDer<'static>, String> {
    let name = tls::server_name(name).ok_or_else(|| format!("\"{name}\" is no host name"))?;
    let seen = Arc::new(Seen { certificate: Mutex::new(None), provider: tls::provider() });
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.map_err(|e| format!("cannot connect to {address}: {e}"))?;
    let outcome = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    // A server that wants a certificate of ours shows its own first; what it thinks of us afterwards does not matter.
    let certificate = seen.certificate.lock().take();
    certificate.ok_or_else(|| match outcome {
        Ok(_) => "no certificate was shown".into(),
        Err(e) => format!("TLS: {e}"),
    })
}

/// Keeps the certificate and accepts it. That the server has its key is checked.
#[derive(Debug)]
struct Seen {
    certificate: Mutex<Option<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.certificate.lock() = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
