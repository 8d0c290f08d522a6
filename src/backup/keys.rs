//! What backups are sealed with: an age identity, the same on all nodes, and a recovery key of which the nodes know the public half.
//!
//! The text of the identity is also the password of the repository in restic's format. It lies in the storage as
//! `key/age1….age`, sealed for the recovery key of that name: whoever has that key and the storage has everything.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use bytes::Bytes;
use parking_lot::Mutex;
use rustic_core::Credentials;
use rustic_core::repofile::MasterKey;

use trivet_base::config::ConfigError;

use crate::config;

/// Why something sealed could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SealError {
    /// Sealed for somebody else.
    #[error(
        "it is sealed with another key: give the key of the cluster that made it (key.identity_file), or the recovery key"
    )]
    OtherKey,
    /// Not what was written.
    #[error("it is damaged ({0}): it was cut short or altered where it lies")]
    Damaged(String),
}

/// The keys of a cluster.
#[derive(Clone)]
pub struct Keys {
    identity: Identity,
    recovery: Option<Recipient>,
    /// The keys of repositories that were opened, by their ids: to get one from the password takes a second and 64 MiB (scrypt).
    opened: Arc<Mutex<BTreeMap<String, MasterKey>>>,
}

impl Keys {
    /// Reads the files that the configuration names.
    pub fn read(key: &config::Key) -> Result<Self, ConfigError> {
        let identity = read_key(&key.identity_file, "key.identity_file", "AGE-SECRET-KEY-1")?;
        let identity = identity.parse::<Identity>().map_err(|e| {
            ConfigError::at(&key.identity_file, "key.identity_file", format_args!("is no age identity: {e}"))
        })?;
        let recovery = match &key.recovery_file {
            None => None,
            Some(file) => {
                Some(read_key(file, "key.recovery_file", "age1")?.parse::<Recipient>().map_err(|e| {
                    ConfigError::at(file, "key.recovery_file", format_args!("is no age recipient: {e}"))
                })?)
            }
        };
        Ok(Self { identity, recovery, opened: Arc::default() })
    }

    /// From the text of an identity alone, as one types or pipes it.
    pub fn from_identity(text: &str) -> Result<Self, String> {
        let identity = text
            .trim()
            .parse::<Identity>()
            .map_err(|e| format!("this is no key (AGE-SECRET-KEY-1…): {e}"))?;
        Ok(Self { identity, recovery: None, opened: Arc::default() })
    }

    /// A new pair.
    #[cfg(test)]
    pub fn generate() -> Self {
        Self {
            identity: Identity::generate(),
            recovery: Some(Identity::generate().to_public()),
            opened: Arc::default(),
        }
    }

    /// As after a start: what was opened is opened by the password once more.
    pub fn afresh(&self) -> Self {
        Self { opened: Arc::default(), ..self.clone() }
    }

    /// What opens the repository with this id.
    pub fn credentials(&self, id: &str) -> Credentials {
        match self.opened.lock().get(id) {
            Some(key) => Credentials::Masterkey(key.clone()),
            None => Credentials::password(self.password().expose_secret()),
        }
    }

    /// The repository with this id is made anew, with another key.
    pub fn forget(&self, id: &str) {
        self.opened.lock().remove(id);
    }

    /// The repository with this id was opened, and this is its key.
    pub fn has_opened(&self, id: &str, key: MasterKey) {
        self.opened.lock().insert(id.into(), key);
    }

    /// The password of the repository.
    pub fn password(&self) -> age::secrecy::SecretString {
        self.identity.to_string()
    }

    /// The recovery key's public half, and the repository's password for whoever has the other half; `None` when there is no recovery key.
    pub fn sealed_for_recovery(&self) -> Option<(String, Bytes)> {
        let recovery = self.recovery.as_ref()?;
        let text = self.identity.to_string();
        Some((recovery.to_string(), seal_for(&[recovery], text.expose_secret().as_bytes())))
    }

    /// The public half (`age1…`).
    pub fn public(&self) -> String {
        self.identity.to_public().to_string()
    }

    /// From a file with a recovery key; other lines in it are passed over.
    pub fn of_safe(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let line = text.lines().find(|l| l.trim().starts_with("AGE-SECRET-KEY-1")).unwrap_or_default();
        Self::from_identity(line).map_err(|e| format!("{}: {e}", file.display()))
    }

    /// Opens [`sealed_for_recovery`](Self::sealed_for_recovery) with the recovery key, which `self` then is.
    pub fn recover(&self, sealed: &[u8]) -> Result<Self, SealError> {
        let text = self.open(sealed)?;
        let text = String::from_utf8(text).map_err(|e| SealError::Damaged(e.to_string()))?;
        Self::from_identity(&text).map_err(SealError::Damaged)
    }

    /// Seals for the cluster and for the recovery key.
    pub fn seal(&self, content: &[u8]) -> Bytes {
        let own = self.identity.to_public();
        match &self.recovery {
            Some(recovery) => seal_for(&[&own, recovery], content),
            None => seal_for(&[&own], content),
        }
    }

    /// What was sealed. It is authentic when this returns.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let damaged = |e: std::io::Error| SealError::Damaged(e.to_string());
        let decryptor = age::Decryptor::new_buffered(sealed).map_err(told)?;
        let identities = std::iter::once(&self.identity as &dyn age::Identity);
        let mut reader = decryptor.decrypt(identities).map_err(told)?;
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map_err(damaged)?;
        Ok(content)
    }
}

/// In our own words: age looks its own up in files that are where it was built, and panics without them.
fn told(e: age::DecryptError) -> SealError {
    let words = match e {
        age::DecryptError::NoMatchingKeys => return SealError::OtherKey,
        age::DecryptError::Io(e) => return SealError::Damaged(e.to_string()),
        age::DecryptError::InvalidHeader => "its head makes no sense",
        age::DecryptError::InvalidMac
        | age::DecryptError::DecryptionFailed
        | age::DecryptError::KeyDecryptionFailed => "its head is not the one that was written",
        age::DecryptError::UnknownFormat => "it is in a form that is not known",
        _ => "it cannot be opened",
    };
    SealError::Damaged(words.into())
}

fn seal_for(recipients: &[&Recipient], content: &[u8]) -> Bytes {
    let recipients = recipients.iter().map(|r| *r as &dyn age::Recipient);
    let sealed = age::Encryptor::with_recipients(recipients).map(|encryptor| {
        let mut out = Vec::with_capacity(content.len() + content.len() / 1024 + 512);
        let written = encryptor.wrap_output(&mut out).and_then(|mut w| {
            w.write_all(content)?;
            w.finish().map(drop)
        });
        written.map(|()| Bytes::from(out))
    });
    match sealed {
        Ok(Ok(sealed)) => sealed,
        // There is a recipient, they are of one kind, and memory takes all that is written.
        Ok(Err(e)) => unreachable!("sealing into memory: {e}"),
        Err(e) => unreachable!("sealing for x25519: {e}"),
    }
}

/// The one line of a key file that is a key; lines with `#` are comments, as age-keygen writes them.
fn read_key(file: &Path, key: &str, begins: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| ConfigError::at(file, key, format_args!("cannot be read: {e}")))?;
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    match (lines.next(), lines.next()) {
        (Some(line), None) if line.starts_with(begins) => Ok(line.to_owned()),
        _ => Err(ConfigError::at(
            file,
            key,
            format_args!("must hold one line that begins with {begins} (trivet secrets init makes it)"),
        )),
    }
}
