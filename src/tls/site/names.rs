//! Which certificate answers to which name.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::Loaded;

/// Certificates for one name: of several, one per kind of key, the client's abilities choose.
type Choice = Vec<Arc<CertifiedKey>>;

/// Certificates by name.
pub(super) struct Table {
    exact: HashMap<String, Choice>,
    /// By what follows `*.`; the asterisk stands for exactly one label (RFC 9525 section 6.3).
    wildcard: HashMap<String, Choice>,
    first: Choice,
}

impl Table {
    pub(super) fn new<'a>(loaded: impl Iterator<Item = &'a Loaded> + Clone) -> Self {
        let mut table = Self { exact: HashMap::new(), wildcard: HashMap::new(), first: Vec::new() };
        let of_first: Vec<&String> = loaded.clone().take(1).flat_map(|l| &l.names).collect();
        for (number, one) in loaded.enumerate() {
            for name in &one.names {
                let choice = match name.strip_prefix("*.") {
                    Some(parent) => table.wildcard.entry(parent.to_owned()).or_default(),
                    None => table.exact.entry(name.clone()).or_default(),
                };
                add(choice, &one.certified);
            }
            // The first certificate's twin with another kind of key stands in for it.
            if number == 0 || one.names.iter().any(|n| of_first.contains(&n)) {
                add(&mut table.first, &one.certified);
            }
        }
        table
    }

    /// The certificates for `name`: those that carry it, else those whose wildcard covers it.
    pub(super) fn find(&self, name: &str) -> Option<&Choice> {
        let lower;
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }

    /// The certificate to show. Where none suits the client, the handshake fails with the alert for it.
    pub(super) fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Arc<CertifiedKey> {
        let choice = name.and_then(|n| self.find(n)).unwrap_or(&self.first);
        choice.iter().find(|c| c.key.choose_scheme(schemes).is_some()).unwrap_or(&choice[0]).clone()
    }
}

/// Behind those of the same kind, so that the configuration's order counts; ECDSA and Ed25519 before RSA, whose
/// signatures cost the server ten times as much.
fn add(choice: &mut Choice, certified: &Arc<CertifiedKey>) {
    if choice.iter().any(|c| Arc::ptr_eq(c, certified)) {
        return;
    }
    let slow = |c: &Arc<CertifiedKey>| c.key.algorithm() == SignatureAlgorithm::RSA;
    let at = choice.iter().position(|c| slow(c) && !slow(certified)).unwrap_or(choice.len());
    choice.insert(at, certified.clone());
}
