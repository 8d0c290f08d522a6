//! The site's signing key, the same on all nodes because it is kept in the database.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Makes and checks HMAC-SHA-256 signatures (RFC 2104). The purpose keeps one kind of text from passing as another.
#[derive(Clone)]
pub struct SiteKey(Vec<u8>);

impl std::fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SiteKey(…)")
    }
}

impl SiteKey {
    /// A key of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    fn mac(&self, purpose: &str, text: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(text);
        mac
    }

    /// The signature, as 43 characters that may stand in a cookie, a header or a form.
    pub fn sign(&self, purpose: &str, text: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.mac(purpose, text).finalize().into_bytes())
    }

    /// Checks a signature in constant time.
    pub fn verify(&self, purpose: &str, text: &[u8], signature: &str) -> bool {
        URL_SAFE_NO_PAD
            .decode(signature)
            .is_ok_and(|signature| self.mac(purpose, text).verify_slice(&signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_purpose_text_and_key_only() {
        let key = SiteKey::new(vec![1; 32]);
        let signature = key.sign("csrf", b"text");
        assert!(key.verify("csrf", b"text", &signature));
        assert!(!key.verify("gtid", b"text", &signature));
        assert!(!key.verify("csrf", b"texts", &signature));
        assert!(!SiteKey::new(vec![2; 32]).verify("csrf", b"text", &signature));
        assert!(!key.verify("csrf", b"text", &signature[..20]));
        assert!(!key.verify("csrf", b"text", ""));
    }
}
