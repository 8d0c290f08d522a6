//! Passwords that nobody has to remember.

use std::fmt::Write;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::SecretsError;

/// 32 characters: the most that MySQL takes for a replication password (`CHANGE REPLICATION SOURCE TO`), and 190 bits.
const LENGTH: usize = 32;

/// They mean themselves in a URL, in an environment file, in SQL and in a shell.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A new password from the operating system's random numbers.
pub fn generate() -> Result<Zeroizing<String>, SecretsError> {
    let mut password = Zeroizing::new(String::with_capacity(LENGTH));
    let mut bytes = Zeroizing::new([0u8; 64]);
    while password.len() < LENGTH {
        SysRng
            .try_fill_bytes(&mut *bytes)
            .map_err(|e| SecretsError::Make(format!("no random numbers: {e}")))?;
        for &b in bytes.iter() {
            // 4 * 62 = 248: dropping the eight values above keeps every character equally likely.
            if b < 248 && password.len() < LENGTH {
                password.push(char::from(ALPHABET[usize::from(b) % ALPHABET.len()]));
            }
        }
    }
    Ok(password)
}

/// 32 random bytes in hexadecimal: a secret for programs, which nobody types.
pub fn generate_key() -> Result<Zeroizing<String>, SecretsError> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    SysRng.try_fill_bytes(&mut *bytes).map_err(|e| SecretsError::Make(format!("no random numbers: {e}")))?;
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes.iter() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// A new age identity (`AGE-SECRET-KEY-1…`): what backups are sealed with.
pub fn generate_identity() -> Result<Zeroizing<String>, SecretsError> {
    Ok(Zeroizing::new(Identity::generate().to_string().expose_secret().to_owned()))
}

/// The recipient (`age1…`) of an identity.
pub fn public_half(identity: &str) -> Result<Zeroizing<String>, SecretsError> {
    let identity: Identity =
        identity.parse().map_err(|e| SecretsError::Make(format!("no age identity: {e}")))?;
    Ok(Zeroizing::new(identity.to_public().to_string()))
}
