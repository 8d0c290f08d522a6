//! Session tickets (RFC 8446 section 4.6.1, RFC 5077) that every balancer of the cluster can open.
//!
//! All nodes hold one secret. From it and the time each derives the same keys: HKDF-SHA-256 over the number of the epoch
//! (six hours). Tickets are sealed with the current epoch's key and opened with the previous, the current and the next
//! one's, so that a ticket lives six to twelve hours and clocks may differ. Nothing is stored, nothing is sent between
//! nodes, and after a failover the other node resumes what the first one began.
//!
//! A ticket is `key name (16) || nonce (12) || AES-256-GCM-SIV(state) || tag (16)`. SIV, because nodes choose nonces
//! without knowing of each other: a repeated one reveals no more than that two states were equal (RFC 8452).
//!
//! The keys are bound to what the server asks of its clients (`context`): a resumed session brings the client's
//! certificate with it and is not verified again, so a ticket from before client certificates were required must not open.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use trivet_base::config::ConfigError;

/// Six hours: with the previous epoch's key still accepted, no ticket opens after twelve.
const EPOCH_SECONDS: u64 = 6 * 3600;
/// As many secrets as a rotation needs, and one to spare.
const MOST_SECRETS: usize = 3;
/// A ticket with a client's certificate chain is a few kilobytes; more was not made by us.
const LONGEST_TICKET: usize = 32 * 1024;
const NAME: usize = 16;
const NONCE: usize = 12;

/// Makes and opens tickets; see the module.
pub struct ClusterTickets {
    roots: ArcSwap<Roots>,
    keys: ArcSwap<Keys>,
}

/// What keys are derived from.
struct Roots {
    context: Vec<u8>,
    secrets: Vec<hkdf::Prk>,
}

/// The keys of one moment. The first seals.
struct Keys {
    of: Arc<Roots>,
    epoch: u64,
    keys: Vec<Key>,
}

struct Key {
    name: [u8; NAME],
    cipher: RandomizedNonceKey,
}

impl ClusterTickets {
    /// With the secrets in the file `path`; the keys serve `context` alone.
    pub fn load(path: &Path, context: Vec<u8>) -> Result<Arc<Self>, ConfigError> {
        let roots = Arc::new(Roots { context, secrets: read(path)? });
        let keys = ArcSwap::from_pointee(derive(&roots, now()));
        Ok(Arc::new(Self { roots: ArcSwap::new(roots), keys }))
    }

    /// Reads the file again. After an error the former secrets stay in use.
    pub fn reload(&self, path: &Path) -> Result<(), ConfigError> {
        let secrets = read(path)?;
        let context = self.roots.load().context.clone();
        self.roots.store(Arc::new(Roots { context, secrets }));
        Ok(())
    }

    /// From here on the keys serve this `context` alone: tickets that were made for another open no more.
    pub fn bind(&self, context: Vec<u8>) {
        let secrets = self.roots.load().secrets.clone();
        self.roots.store(Arc::new(Roots { context, secrets }));
    }

    fn keys(&self, epoch: u64) -> Arc<Keys> {
        let (roots, keys) = (self.roots.load_full(), self.keys.load_full());
        if keys.epoch == epoch && Arc::ptr_eq(&keys.of, &roots) {
            return keys;
        }
        let fresh = Arc::new(derive(&roots, epoch));
        self.keys.store(fresh.clone());
        fresh
    }

    fn seal(&self, plain: &[u8], epoch: u64) -> Option<Vec<u8>> {
        let keys = self.keys(epoch);
        let key = keys.keys.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key.cipher.seal_in_place_append_tag(Aad::from(key.name), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE + sealed.len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], epoch: u64) -> Option<Vec<u8>> {
        if ticket.len() > LONGEST_TICKET {
            return None;
        }
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE)?;
        let keys = self.keys(epoch);
        // Names are no secret: each ticket shows its own in clear.
        let key = keys.keys.iter().find(|k| k.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut state = sealed.to_vec();
        let length = key.cipher.open_in_place(nonce, Aad::from(key.name), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

impl ProducesTickets for ClusterTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// What every ticket reaches, also one from the last second of an epoch.
    fn lifetime(&self) -> u32 {
        EPOCH_SECONDS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

impl std::fmt::Debug for ClusterTickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterTickets")
    }
}

/// Tickets that this process alone opens, with keys that are replaced every six hours.
#[derive(Debug)]
pub struct OwnTickets(ArcSwap<Arc<dyn ProducesTickets>>);

impl OwnTickets {
    /// With fresh keys.
    pub fn new() -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(Ticketer::new()?))))
    }

    /// Fresh keys: tickets made so far open no more.
    pub fn forget(&self) -> Result<(), rustls::Error> {
        self.0.store(Arc::new(Ticketer::new()?));
        Ok(())
    }
}

impl ProducesTickets for OwnTickets {
    fn enabled(&self) -> bool {
        self.0.load().enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.load().lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.load().encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.load().decrypt(cipher)
    }
}

/// The number of the current epoch. A clock before 1970 makes tickets that no other node opens, and no harm.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / EPOCH_SECONDS)
}

/// The keys at `epoch`: first the one that seals, the first secret's for this epoch.
fn derive(roots: &Arc<Roots>, epoch: u64) -> Keys {
    let epochs = [Some(epoch), epoch.checked_sub(1), epoch.checked_add(1)];
    let keys = roots
        .secrets
        .iter()
        .flat_map(|secret| epochs.iter().flatten().filter_map(|e| key(secret, &roots.context, *e)))
        .collect();
    Keys { of: roots.clone(), epoch, keys }
}

fn key(secret: &hkdf::Prk, context: &[u8], epoch: u64) -> Option<Key> {
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            NAME + 32
        }
    }
    let mut out = Zeroizing::new([0; NAME + 32]);
    // The context is of fixed length (a digest, or nothing), so no two inputs read alike.
    secret
        .expand(&[b"trivet session ticket v1", &epoch.to_be_bytes(), context], Length)
        .ok()?
        .fill(&mut *out)
        .ok()?;
    let (name, cipher) = out.split_at(NAME);
    Some(Key { name: name.try_into().ok()?, cipher: RandomizedNonceKey::new(&AES_256_GCM_SIV, cipher).ok()? })
}

/// The secrets in a file: one a line, in hexadecimal or base64, 32 bytes or more; `#` begins a comment.
pub(super) fn read(path: &Path) -> Result<Vec<hkdf::Prk>, ConfigError> {
    let bad = |reason: String| ConfigError::at(path, "", reason);
    super::private::look(path);
    let text = Zeroizing::new(
        std::fs::read_to_string(path).map_err(|e| bad(format!("ticket secret cannot be read: {e}")))?,
    );
    let mut secrets = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = number + 1;
        let secret = decode(line).ok_or_else(|| {
            bad(format!("line {number} is neither hexadecimal nor base64 (expected a ticket secret)"))
        })?;
        if secret.len() < 32 {
            let length = secret.len();
            return Err(bad(format!(
                "line {number} is a ticket secret of {length} bytes; it must have 32 or more, such as `openssl rand -hex 32` prints"
            )));
        }
        secrets.push(hkdf::Salt::new(hkdf::HKDF_SHA256, b"trivet").extract(&secret));
    }
    match secrets.len() {
        0 => Err(bad("holds no ticket secret".into())),
        n if n > MOST_SECRETS => {
            Err(bad(format!("holds {n} ticket secrets; more than {MOST_SECRETS} are never needed")))
        }
        _ => Ok(secrets),
    }
}

/// Sixty-four and more hexadecimal digits are also base64: hexadecimal comes first.
fn decode(line: &str) -> Option<Zeroizing<Vec<u8>>> {
    if line.len().is_multiple_of(2) && line.bytes().all(|b| b.is_ascii_hexdigit()) {
        let digits = line.as_bytes().chunks(2);
        let bytes = digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        return bytes.collect::<Option<Vec<u8>>>().map(Zeroizing::new);
    }
    STANDARD.decode(line).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests;
