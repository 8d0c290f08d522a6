//! A certificate authority for one test, with its files in a folder that goes when the test ends.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, RevokedCertParams,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use trivet_base::config::TlsFiles;
use trivet_tls as tls;

pub struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        Self::named("Test")
    }

    /// With this common name.
    pub fn named(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Certificate and key for this name, in files.
    pub fn files(&self, name: &str) -> TlsFiles {
        self.files_for(name, &[name], &rcgen::PKCS_ECDSA_P256_SHA256, |_| {})
    }

    /// As [`files`](Self::files), called `file`, for these names, with such a key, and whatever else is to be changed.
    pub fn files_for(
        &self,
        file: &str,
        names: &[&str],
        algorithm: &'static rcgen::SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsFiles {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TlsFiles {
            ca: self.path("ca.pem"),
            certificate: self.write(&format!("{file}.pem"), &certificate.pem()),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    /// A revocation list (PEM) with the certificates of these serial numbers, good for so long.
    pub fn revocation_list(&self, serials: &[u64], good_for: time::Duration) -> String {
        let this_update = time::OffsetDateTime::now_utc() - time::Duration::days(30);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update: time::OffsetDateTime::now_utc() + good_for,
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The certificates to trust.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A server that asks for client certificates, as the web tiers and keepers do.
    pub fn mutual_server(&self, name: &str) -> Arc<ServerConfig> {
        self.mutual_server_of(name, b"http/1.1")
    }

    /// As [`mutual_server`](Self::mutual_server), for another protocol.
    pub fn mutual_server_of(&self, name: &str, alpn: &[u8]) -> Arc<ServerConfig> {
        tls::mutual_server_config(&self.files(name), &[alpn]).unwrap()
    }

    /// A browser that trusts this authority.
    pub fn browser(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Arc::new(config)
    }
}
