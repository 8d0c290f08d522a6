//! The cluster's certificate authority: ECDSA P-256, X.509 version 3 (RFC 5280).

use std::net::{IpAddr, Ipv4Addr};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::verify_server_name;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::SecretsError;
use crate::cluster::Node;

/// The CA outlives several generations of what it signs.
const CA_DAYS: i64 = 3653;
/// Nodes know one another only by these; `trivet status` warns in time, `--missing` renews.
const NODE_DAYS: i64 = 1826;
/// Some browsers refuse a server certificate that is valid for more than 825 days, whoever signed it.
const SITE_DAYS: i64 = 824;

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: Zeroizing<String>,
}

/// The authority: its certificate, and the key to sign with.
pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn failed(e: rcgen::Error) -> SecretsError {
    SecretsError::Make(e.to_string())
}

impl Authority {
    /// A new authority for the cluster called `name`, and its key.
    pub fn generate(name: &str) -> Result<(Self, Zeroizing<String>), SecretsError> {
        let key = KeyPair::generate().map_err(failed)?;
        let pem = Zeroizing::new(key.serialize_pem());
        let mut params = params(&format!("{name} cluster CA"), CA_DAYS);
        // It signs leaves only; an intermediate that turns up is a forgery.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok((Self { certificate, issuer: Issuer::new(params, key) }, pem))
    }

    /// The authority that an earlier run made.
    pub fn load(certificate: &str, key: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key).map_err(|e| format!("ca.key is no usable private key: {e}"))?;
        if public_key_of(certificate)? != key.public_key_raw() {
            return Err("ca.key is not the key of ca.pem".into());
        }
        let issuer =
            Issuer::from_ca_cert_pem(certificate, key).map_err(|e| format!("ca.pem cannot be used: {e}"))?;
        Ok(Self { certificate: certificate.to_owned(), issuer })
    }

    /// The certificate by which `node` is known in the cluster, as a server and as a client.
    pub fn node(&self, node: &Node) -> Result<Pair, SecretsError> {
        let mut params = params(&node.name, NODE_DAYS);
        params.subject_alt_names = vec![
            dns(&node.name)?,
            // For what the node asks itself: the app reaches the database by the gateway on 127.0.0.1.
            dns("localhost")?,
            SanType::IpAddress(node.address),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ];
        self.sign(params)
    }

    /// The certificate for the site's `domain` and its other `names`: good for the first start, to be replaced by a public one.
    pub fn site<'a>(&self, domain: &str, names: impl Iterator<Item = &'a str>) -> Result<Pair, SecretsError> {
        // A common name has room for 64 characters; what counts is the alternative name (RFC 9525 section 2).
        let mut params = params(domain.get(..64).unwrap_or(domain), SITE_DAYS);
        params.subject_alt_names = names.map(dns).collect::<Result<_, _>>()?;
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair, SecretsError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Pair { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }
}

fn params(common_name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // An hour back: a node whose clock is not set yet must still accept its peers.
    params.not_before = OffsetDateTime::now_utc() - Duration::HOUR;
    params.not_after = params.not_before + Duration::days(days);
    params
}

fn dns(name: &str) -> Result<SanType, SecretsError> {
    Ok(SanType::DnsName(Ia5String::try_from(name).map_err(failed)?))
}

/// Those of `names` for which clients would refuse a PEM certificate; none where it is no certificate, which its reader will say.
pub fn not_carried<'a>(pem: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return Vec::new() };
    let der = CertificateDer::from(pem.contents);
    let Ok(certificate) = ParsedCertificate::try_from(&der) else { return Vec::new() };
    let carried = |name: &str| {
        // A wildcard is for any one label.
        let name = name.replacen('*', "any", 1);
        trivet_tls::server_name(&name).is_some_and(|name| verify_server_name(&certificate, &name).is_ok())
    };
    names.filter(|name| !carried(name)).collect()
}

/// The subject's public key in a PEM certificate, as the bytes of the bit string.
fn public_key_of(pem: &str) -> Result<Vec<u8>, String> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| format!("ca.pem is not PEM: {e}"))?;
    let certificate = pem.parse_x509().map_err(|e| format!("ca.pem is no certificate: {e}"))?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}
