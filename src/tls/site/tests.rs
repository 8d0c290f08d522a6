use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::SignatureScheme;
use time::OffsetDateTime;

use super::*;

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
const BOTH: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn files(&self, file: &str) -> CertificateFiles {
        let path = |end: &str| self.0.path().join(format!("{file}.{end}"));
        CertificateFiles { certificate: path("pem"), key: path("key") }
    }

    fn write(
        &self,
        file: &str,
        names: &[&str],
        algorithm: &'static rcgen::SignatureAlgorithm,
    ) -> CertificateFiles {
        self.write_until(file, names, algorithm, OffsetDateTime::now_utc() + Duration::from_secs(3600))
    }

    fn write_until(
        &self,
        file: &str,
        names: &[&str],
        algorithm: &'static rcgen::SignatureAlgorithm,
        end: OffsetDateTime,
    ) -> CertificateFiles {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(7200);
        params.not_after = end;
        let files = self.files(file);
        std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

/// The position of the shown certificate in the configuration.
fn shown(site: &SiteCertificates, name: Option<&str>, schemes: &[SignatureScheme]) -> usize {
    let shown = site.table.load().choose(name, schemes);
    let pairs = site.pairs.lock();
    pairs.iter().position(|p| Arc::ptr_eq(&p.loaded().certified, &shown)).unwrap()
}

#[test]
fn exact_names_come_before_wildcards_which_stand_for_one_label() {
    let folder = Folder::new();
    let ecdsa = &rcgen::PKCS_ECDSA_P256_SHA256;
    let site = SiteCertificates::load(&[
        folder.write("first", &["www.foobar.com"], ecdsa),
        folder.write("wild", &["*.foobar.com", "foobar.com"], ecdsa),
        folder.write("exact", &["shop.foobar.com"], ecdsa),
    ])
    .unwrap();
    for (name, expected) in [
        ("www.foobar.com", 0),
        ("a.foobar.com", 1),
        ("A.FooBar.com", 1),
        ("foobar.com", 1),
        ("shop.foobar.com", 2),
        ("a.b.foobar.com", 0),
        ("com", 0),
        ("other.example", 0),
    ] {
        assert_eq!(shown(&site, Some(name), ECDSA), expected, "{name}");
    }
    assert_eq!(shown(&site, None, ECDSA), 0);
    assert!(site.covers("a.foobar.com") && !site.covers("a.b.foobar.com") && !site.covers("localhost"));
}

#[test]
fn of_two_kinds_of_key_the_clients_signature_schemes_choose() {
    let folder = Folder::new();
    let site = SiteCertificates::load(&[
        folder.write("rsa", &["www.foobar.com"], &rcgen::PKCS_RSA_SHA256),
        folder.write("ecdsa", &["www.foobar.com"], &rcgen::PKCS_ECDSA_P256_SHA256),
    ])
    .unwrap();
    for name in [Some("www.foobar.com"), None, Some("unknown.example")] {
        assert_eq!(shown(&site, name, RSA), 0, "{name:?}");
        assert_eq!(shown(&site, name, ECDSA), 1, "{name:?}");
        assert_eq!(shown(&site, name, BOTH), 1, "ECDSA costs less");
    }
}

#[test]
fn a_changed_file_is_taken_whole_or_not_at_all() {
    let folder = Folder::new();
    let ecdsa = &rcgen::PKCS_ECDSA_P256_SHA256;
    let site = SiteCertificates::load(&[
        folder.write("a", &["a.example"], ecdsa),
        folder.write("b", &["b.example"], ecdsa),
    ])
    .unwrap();
    let refused = || site.status().iter().map(|s| s.refused.clone()).collect::<Vec<_>>();
    let of_b = site.table.load().choose(Some("b.example"), ECDSA);

    folder.write("b", &["c.example"], ecdsa);
    site.reload(false);
    assert_eq!(refused(), [None, None]);
    assert!(site.covers("c.example") && !site.covers("b.example") && site.covers("a.example"));
    let of_c = site.table.load().choose(Some("c.example"), ECDSA);
    assert!(!Arc::ptr_eq(&of_b, &of_c));

    // Half of a pair, nonsense, an expired one, none: each leaves what was.
    let good = (folder.files("b"), std::fs::read(folder.files("b").certificate).unwrap());
    let bad = [
        (
            "another key's",
            Box::new(|| drop(std::fs::copy(folder.files("a").key, folder.files("b").key))) as Box<dyn Fn()>,
        ),
        ("nonsense", Box::new(|| std::fs::write(folder.files("b").certificate, "nonsense").unwrap())),
        (
            "expired",
            Box::new(|| {
                drop(folder.write_until(
                    "b",
                    &["c.example"],
                    ecdsa,
                    OffsetDateTime::now_utc() - Duration::from_secs(60),
                ))
            }),
        ),
        ("gone", Box::new(|| std::fs::remove_file(folder.files("b").certificate).unwrap())),
    ];
    for (what, make) in bad {
        make();
        site.reload(false);
        assert!(refused()[0].is_none() && refused()[1].is_some(), "{what}: {:?}", refused());
        assert!(Arc::ptr_eq(&site.table.load().choose(Some("c.example"), ECDSA), &of_c), "{what}");
    }
    drop(good);
    folder.write("b", &["d.example"], ecdsa);
    site.reload(false);
    assert_eq!(refused(), [None, None]);
    assert!(site.covers("d.example"));
}

#[test]
fn a_rename_over_the_file_and_a_swapped_link_are_noticed_whatever_their_time_says() {
    let folder = Folder::new();
    let ecdsa = &rcgen::PKCS_ECDSA_P256_SHA256;
    let link = |to: &str| {
        let at = folder.0.path();
        for end in ["pem", "key"] {
            std::os::unix::fs::symlink(at.join(format!("{to}.{end}")), at.join("new")).unwrap();
            std::fs::rename(at.join("new"), at.join(format!("live.{end}"))).unwrap();
        }
    };
    folder.write("one", &["one.example"], ecdsa);
    folder.write("two", &["two.example"], ecdsa);
    link("one");
    let site = SiteCertificates::load(&[folder.files("live")]).unwrap();
    assert!(site.covers("one.example"));
    link("two");
    site.reload(false);
    assert!(site.covers("two.example"));

    let new = folder.write("six", &["six.example"], ecdsa);
    for (file, end) in [(&new.certificate, "pem"), (&new.key, "key")] {
        let two = folder.0.path().join(format!("two.{end}"));
        let time = std::fs::metadata(&two).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
        std::fs::rename(file, two).unwrap();
    }
    site.reload(false);
    assert!(site.covers("six.example"));
}

#[test]
fn a_start_needs_every_certificate_and_says_which_is_bad() {
    let folder = Folder::new();
    let a = folder.write("a", &["a.example"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let e = SiteCertificates::load(&[a, folder.files("absent")]).unwrap_err().to_string();
    assert!(e.contains("absent.pem"), "{e}");
}

#[test]
fn the_profiles_have_only_ephemeral_keys_and_authenticated_encryption() {
    let folder = Folder::new();
    let site =
        SiteCertificates::load(&[folder.write("a", &["a.example"], &rcgen::PKCS_ECDSA_P256_SHA256)]).unwrap();
    let server = site.server_config(&PublicTls::default()).unwrap().config;
    let suites: Vec<String> =
        server.crypto_provider().cipher_suites.iter().map(|s| format!("{:?}", s.suite())).collect();
    for suite in &suites {
        assert!(suite.starts_with("TLS13_") || suite.starts_with("TLS_ECDHE_"), "{suite}");
        assert!(suite.contains("_GCM_") || suite.contains("_CHACHA20_POLY1305_"), "{suite}");
    }
    assert_eq!(server.max_early_data_size, 0);
}
