//! Certificates of clients: asked for by the public's listeners, told to back ends.

use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid::Oid;
use x509_parser::x509::X509Name;

use super::options::{ClientAuth, ClientAuthMode};
use crate::config::ConfigError;

/// A verifier, and what tells it from every other.
pub(super) struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Over the authorities and the mode.
    pub(super) digest: [u8; 32],
}

pub(super) fn verifier(auth: &ClientAuth) -> Result<Clients, ConfigError> {
    let builder = WebPkiClientVerifier::builder_with_provider(super::roots(&auth.ca)?, super::provider());
    let (mode, builder) = match auth.mode {
        ClientAuthMode::Optional => (0, builder.allow_unauthenticated()),
        ClientAuthMode::Required => (1, builder),
    };
    let verifier = builder.build().map_err(|e| ConfigError::at(&auth.ca, "", e))?;
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&[mode]);
    for certificate in super::load_certificates(&auth.ca)? {
        hash.update(&(certificate.len() as u64).to_be_bytes());
        hash.update(&certificate);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    Ok(Clients { verifier, digest })
}

/// Which certificate a client showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientVerified {
    /// Nobody asked for one, so nothing is said about it.
    #[default]
    NotAsked,
    /// It has none.
    None,
    /// This one, which leads to an authority of the configuration.
    Success(Arc<ClientCertificate>),
}

impl ClientVerified {
    /// After a handshake in which the client showed `certificate` (DER).
    pub fn of(certificate: Option<&[u8]>) -> Self {
        certificate.and_then(ClientCertificate::of).map_or(Self::None, |c| Self::Success(Arc::new(c)))
    }
}

/// What back ends are told of a client certificate that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, as RFC 4514 writes it: visible ASCII, the most particular part first.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
}

impl ClientCertificate {
    /// Of a certificate in DER; `None` when it cannot be read, which the handshake has ruled out.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, parsed): (_, X509Certificate<'_>) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(Self {
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            serial: hexadecimal(parsed.raw_serial()),
            fingerprint: hexadecimal(digest::digest(&digest::SHA256, der).as_ref()),
        })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// RFC 4514 section 2.1: the last part of the name comes first.
fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let values = rdn.iter().map(|a| format!("{}={}", short(a.attr_type()), value(a)));
            values.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

/// The short names of RFC 4514 section 3; any other type is written as its number.
fn short(oid: &Oid<'_>) -> String {
    let number = oid.to_id_string();
    let short = match number.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return number,
    };
    short.to_owned()
}

/// RFC 4514 section 2.4. What is not visible ASCII is escaped byte by byte, so that it fits a header field.
fn value(attribute: &x509_parser::x509::AttributeTypeAndValue<'_>) -> String {
    let Ok(text) = attribute.as_str() else {
        return format!("#{}", hexadecimal(attribute.as_slice()));
    };
    let mut out = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
