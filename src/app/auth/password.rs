//! Passwords: argon2id with the crate's defaults (19 MiB, two passes: OWASP's first recommendation).

use std::sync::{Arc, LazyLock};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

/// Verified for accounts that do not exist or have no password, so that both answers take the same time.
static NOBODY: LazyLock<String> =
    LazyLock::new(|| hash(super::random_text::<16>().as_bytes()).unwrap_or_default());

/// The PHC string of a password. Takes tens of milliseconds of one core.
pub fn hash(password: &[u8]) -> Result<String, String> {
    Argon2::default().hash_password(password).map(|h| h.to_string()).map_err(|e| e.to_string())
}

/// Verifies passwords off the request threads, a few at a time.
#[derive(Debug, Clone)]
pub struct Passwords {
    slots: Arc<Semaphore>,
}

impl Passwords {
    /// At most `parallel` verifications at a time: each takes a core and 19 MiB.
    pub fn new(parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(parallel)) }
    }

    /// True when `password` belongs to `stored`; `None` stands for an account that cannot be signed in to.
    pub async fn verify(&self, stored: Option<String>, password: String) -> bool {
        let Ok(slot) = self.slots.clone().acquire_owned().await else { return false };
        let verified = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let known = stored.is_some();
            let stored = stored.unwrap_or_else(|| NOBODY.clone());
            let matches = PasswordHash::new(&stored)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
            known && matches
        });
        verified.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_is_right() {
        let stored = hash(b"correct horse").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$"), "{stored}");
        let passwords = Passwords::new(1);
        assert!(passwords.verify(Some(stored.clone()), "correct horse".into()).await);
        assert!(!passwords.verify(Some(stored.clone()), "Correct horse".into()).await);
        assert!(!passwords.verify(Some("not a hash".into()), "correct horse".into()).await);
        assert!(!passwords.verify(None, "correct horse".into()).await);
        assert_ne!(hash(b"correct horse").unwrap(), stored, "salted");
    }
}
