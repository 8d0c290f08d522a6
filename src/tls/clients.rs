//! Certificates of clients: asked for by the public's listeners, told to back ends.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid::Oid;
use x509_parser::x509::X509Name;

use super::followed::{Followed, Outcome};
use super::options::{ClientAuth, ClientAuthMode};
use trivet_base::config::ConfigError;

/// Who is let in, by certificate.
pub(super) struct Clients {
    auth: ClientAuth,
    authorities: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    hints: Vec<DistinguishedName>,
    rules: ArcSwap<Rules>,
    followed: Mutex<Option<Followed<1>>>,
}

/// What a certificate is judged by.
struct Rules {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Over the authorities, the mode and the revocation lists.
    digest: [u8; 32],
    lists_end: Option<OffsetDateTime>,
}

impl Clients {
    pub(super) fn load(auth: &ClientAuth) -> Result<Arc<Self>, ConfigError> {
        let followed = Mutex::new(auth.crl.as_deref().map(|crl| Followed::new([crl])));
        let (authorities, roots) = (super::load_certificates(&auth.ca)?, super::roots(&auth.ca)?);
        let hints = roots.subjects();
        let lists = match &auth.crl {
            Some(crl) => Lists::read(crl, &authorities)?,
            None => Lists::default(),
        };
        if let (Some(crl), Err(why)) = (&auth.crl, lists.are_current()) {
            // At a start there is no former one to keep. Sites that ask nobody for a certificate are served all the same.
            tracing::error!(file = %crl.display(), "{why}; clients with certificates are refused until a newer one is there");
        }
        let rules = ArcSwap::from_pointee(rules(auth, &authorities, &roots, lists)?);
        Ok(Arc::new(Self { auth: auth.clone(), authorities, roots, hints, rules, followed }))
    }

    /// What tells these rules from all others.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.rules.load().digest
    }

    /// The file with the revocation lists.
    pub(super) fn crl(&self) -> Option<&Path> {
        self.auth.crl.as_deref()
    }

    /// When the revocation lists in use go out of date.
    pub(super) fn lists_end(&self) -> Option<OffsetDateTime> {
        self.rules.load().lists_end
    }

    /// Whether the revocation lists are not those of the file.
    pub(super) fn is_refused(&self) -> bool {
        self.followed.lock().as_ref().is_some_and(|f| f.refused().is_some())
    }

    /// Reads the revocation lists again when their file has changed, or when `all`. After an error the former stay.
    pub(super) fn reload(&self, all: bool) -> Outcome<()> {
        let (Some(crl), Some(followed)) = (self.crl(), &mut *self.followed.lock()) else {
            return Outcome::Unchanged;
        };
        let read = || {
            let lists = Lists::read(crl, &self.authorities)?;
            lists.are_current().map_err(|why| ConfigError::at(crl, "", why))?;
            rules(&self.auth, &self.authorities, &self.roots, lists)
        };
        followed.look([crl], all, read).keep(|rules| self.rules.store(Arc::new(rules)))
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clients").field(&self.auth).finish()
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.auth.mode == ClientAuthMode::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.rules.load().verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.rules.load().verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.rules.load().verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.load().verifier.supported_verify_schemes()
    }
}

fn rules(
    auth: &ClientAuth,
    authorities: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    lists: Lists,
) -> Result<Rules, ConfigError> {
    let Lists { lists, ends } = lists;
    let lists_end = ends.map(|(end, _)| end);
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    add(&[u8::from(auth.mode == ClientAuthMode::Required)]);
    authorities.iter().for_each(|certificate| add(certificate));
    if auth.crl.is_some() {
        add(b"revocation lists");
        lists.iter().for_each(|list| add(list));
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), super::provider());
    if let Some(crl) = &auth.crl {
        // RFC 5280 section 6.3: the whole chain, and a list that is out of date says nothing.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
        let verifier = builder.build().map_err(|e| ConfigError::at(crl, "", e))?;
        return Ok(Rules { verifier, digest, lists_end });
    }
    let verifier = builder.build().map_err(|e| ConfigError::at(&auth.ca, "", e))?;
    Ok(Rules { verifier, digest, lists_end })
}

/// Revocation lists.
#[derive(Default)]
struct Lists {
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// When the first of them goes out of date, and whose it is.
    ends: Option<(OffsetDateTime, String)>,
}

impl Lists {
    /// The lists in the file `path`: at least one of each authority, without which its clients would all be refused.
    fn read(path: &Path, authorities: &[CertificateDer<'static>]) -> Result<Self, ConfigError> {
        let bad = |reason: String| ConfigError::at(path, "", reason);
        let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
            .map_err(|e| bad(format!("revocation list cannot be read: {e}")))?
            .collect::<Result<_, _>>()
            .map_err(|e| bad(format!("is not a PEM revocation list: {e}")))?;
        if lists.is_empty() {
            return Err(bad("holds no revocation list (no BEGIN X509 CRL line)".into()));
        }
        let mut issuers = Vec::new();
        let mut ends: Option<(OffsetDateTime, String)> = None;
        for list in &lists {
            let (_, list) = x509_parser::parse_x509_crl(list)
                .map_err(|e| bad(format!("holds what is no X.509 revocation list: {e}")))?;
            issuers.push(list.issuer().as_raw().to_vec());
            // RFC 5280 section 5.1.2.5: a list is good until the next is due.
            if let Some(next) = list.next_update().map(|t| t.to_datetime())
                && ends.as_ref().is_none_or(|(first, _)| next < *first)
            {
                ends = Some((next, name(list.issuer())));
            }
        }
        for authority in authorities {
            let Ok((_, authority)) = x509_parser::parse_x509_certificate(authority) else { continue };
            if !issuers.iter().any(|i| i == authority.subject().as_raw()) {
                let subject = name(authority.subject());
                return Err(bad(format!(
                    "holds no revocation list of {subject}, so none of its clients could be verified: append it"
                )));
            }
        }
        Ok(Self { lists, ends })
    }

    /// Whether all of them are good now; the reason otherwise.
    fn are_current(&self) -> Result<(), String> {
        match &self.ends {
            Some((end, issuer)) if *end < OffsetDateTime::now_utc() => {
                Err(format!("the revocation list of {issuer} is out of date (nextUpdate {end})"))
            }
            _ => Ok(()),
        }
    }
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
