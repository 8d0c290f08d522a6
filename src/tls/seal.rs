//! Short values that clients keep for us and cannot read, change or make: every balancer of the cluster opens what another sealed.
//!
//! The keys are derived from the secrets of a file, which has the form of the [tickets'](super::tickets), by HKDF-SHA-256 with a
//! purpose. The first secret seals, all open, so that one can take another's place. A sealed value is
//! `nonce (12) || AES-256-GCM-SIV(value) || tag (16)`; SIV for the reason that tickets have.

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use super::tickets;
use trivet_base::config::ConfigError;

const NONCE: usize = 12;
const KEY: usize = 32;

/// Seals and opens; see the module.
pub struct Seal(Vec<RandomizedNonceKey>);

impl Seal {
    /// With the secrets in the file `path`, for one purpose: what was sealed for another does not open.
    pub fn load(path: &Path, purpose: &str) -> Result<Self, ConfigError> {
        let secrets = tickets::read(path)?;
        Ok(Self(secrets.iter().filter_map(|secret| key(secret, purpose)).collect()))
    }

    /// The value, sealed; it opens with the same `context` alone. None only where cryptography fails.
    pub fn seal(&self, value: &[u8], context: &str) -> Option<Vec<u8>> {
        let mut sealed = value.to_vec();
        let nonce = self.0.first()?.seal_in_place_append_tag(Aad::from(context), &mut sealed).ok()?;
        Some([&nonce.as_ref()[..], &sealed].concat())
    }

    /// What was sealed; none where that was not with one of our keys and this `context`.
    pub fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
        self.0.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut value = sealed.to_vec();
            let length = key.open_in_place(nonce, Aad::from(context), &mut value).ok()?.len();
            value.truncate(length);
            Some(value)
        })
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

fn key(secret: &hkdf::Prk, purpose: &str) -> Option<RandomizedNonceKey> {
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            KEY
        }
    }
    let mut out = Zeroizing::new([0; KEY]);
    // Unlike what tickets are derived with, so that one secret may serve both.
    secret.expand(&[b"trivet sealed value v1 ", purpose.as_bytes()], Length).ok()?.fill(&mut *out).ok()?;
    RandomizedNonceKey::new(&AES_256_GCM_SIV, &*out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secrets: &[&str], purpose: &str) -> Seal {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, secrets.join("\n")).unwrap();
        Seal::load(&path, purpose).unwrap()
    }

    const OLD: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const NEW: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

    #[test]
    fn every_node_with_the_secret_opens_what_another_sealed() {
        let sealed = seal(&[OLD], "cookie").seal(b"node2", "web").unwrap();
        assert_eq!(seal(&[OLD], "cookie").open(&sealed, "web").unwrap(), b"node2");
        assert_eq!(
            seal(&[NEW, OLD], "cookie").open(&sealed, "web").unwrap(),
            b"node2",
            "as a secret is replaced"
        );
        assert!(!sealed.windows(4).any(|w| w == b"node"));
        assert_ne!(
            seal(&[OLD], "cookie").seal(b"node2", "web").unwrap(),
            sealed,
            "nobody sees who has the same"
        );
    }

    #[test]
    fn what_is_changed_or_for_another_or_with_another_secret_does_not_open() {
        let sealed = seal(&[OLD], "cookie").seal(b"node2", "web").unwrap();
        assert!(seal(&[NEW], "cookie").open(&sealed, "web").is_none());
        assert!(seal(&[OLD], "other").open(&sealed, "web").is_none());
        assert!(seal(&[OLD], "cookie").open(&sealed, "api").is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seal(&[OLD], "cookie").open(&changed, "web").is_none(), "octet {at}");
            assert!(seal(&[OLD], "cookie").open(&sealed[..at], "web").is_none(), "cut at {at}");
        }
    }
}
