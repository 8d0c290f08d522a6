//! Session tokens: random on the client, hashed in the database.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Length of a session token as text: 32 random bytes in base64.
const TEXT_LENGTH: usize = 43;

/// `bytes` random bytes as text that may stand in a cookie or a form.
pub fn random_text<const BYTES: usize>() -> String {
    let mut bytes = [0_u8; BYTES];
    rand::fill(&mut bytes[..]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What the client holds. Not to be stored, nor logged.
#[derive(Clone)]
pub struct SessionToken(String);

impl SessionToken {
    pub fn random() -> Self {
        Self(random_text::<32>())
    }

    /// Reads a cookie or a bearer token; `None` when it cannot be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let ours = text.len() == TEXT_LENGTH
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        ours.then(|| Self(text.to_owned()))
    }

    /// The text for the client.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the database keeps. The token has 256 random bits, so a fast hash is enough.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

/// SHA-256 of a session token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_different_and_parse() {
        let (a, b) = (SessionToken::random(), SessionToken::random());
        assert_eq!(a.as_str().len(), TEXT_LENGTH);
        assert_ne!(a.as_str(), b.as_str());
        assert_eq!(SessionToken::parse(a.as_str()).unwrap().hash(), a.hash());
    }

    #[test]
    fn what_cannot_be_a_token_is_not_looked_up() {
        for bad in ["", "short", &"x".repeat(44), &format!("{};", "x".repeat(42)), &"ü".repeat(21)] {
            assert!(SessionToken::parse(bad).is_none(), "{bad}");
        }
    }
}
