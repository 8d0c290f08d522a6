//! Read-your-writes: what a reader must have seen, carried by the client.
//!
//! After a commit the primary's `gtid_executed` contains the commit, so a replica that has executed that whole set has
//! seen the write. The set is signed before it leaves the house: whoever could make one up could name transactions that
//! never come and keep every read waiting.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::auth::SiteKey;

/// How long the client carries it: long after any replica that the gateway still offers has caught up.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// A set longer than this does not travel; it grows with every change of the primary, slowly.
const LONGEST_SET: usize = 1024;

/// How fresh a read has to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Whatever a replica has.
    #[default]
    Any,
    /// At least this set of transactions.
    AtLeast(String),
    /// Only the primary will do.
    Primary,
}

impl Freshness {
    /// The freshness that contains everything in the primary's `gtid_executed`.
    pub fn from_gtid_executed(set: &str) -> Self {
        let set: String = set.chars().filter(|c| !c.is_whitespace()).collect();
        if set.is_empty() {
            // A MySQL without GTIDs: a single server, or one whose replicas cannot be waited for.
            Self::Any
        } else if set.len() > LONGEST_SET || !is_gtid_set(&set) {
            Self::Primary
        } else {
            Self::AtLeast(set)
        }
    }

    /// The freshness that contains everything visible on a server. A transaction can be seen an instant before it counts as
    /// executed; until then a thread owns its GTID, which `gtid_owned` writes as `UUID:NUMBER#THREAD` (MySQL 8.4 manual,
    /// section 19.1.6.5).
    pub fn from_all_visible(executed: &str, owned: &str) -> Self {
        let mut parts = owned.split('#');
        let mut set = format!("{executed},{}", parts.next().unwrap_or_default());
        for part in parts {
            set.push_str(part.trim_start_matches(|thread: char| thread.is_ascii_digit()));
        }
        Self::from_gtid_executed(set.trim_matches(','))
    }

    /// The signed text for a cookie or the `Trivet-Gtid` header; `None` when there is nothing to carry.
    pub fn sign(&self, key: &SiteKey, now: SystemTime) -> Option<String> {
        let set = match self {
            Self::Any => return None,
            Self::AtLeast(set) => set.as_str(),
            Self::Primary => "primary",
        };
        // A cookie value must not contain commas (RFC 6265 section 4.1.1); GTID sets do.
        let text = format!("{}.{}", unix(now), set.replace(',', "_"));
        Some(format!("{text}.{}", key.sign("gtid", text.as_bytes())))
    }

    /// Reads what [`Self::sign`] wrote. Anything else, and anything older than [`LIFETIME`], is [`Self::Any`].
    pub fn verify(text: &str, key: &SiteKey, now: SystemTime) -> Self {
        let Some((signed, signature)) = text.rsplit_once('.') else { return Self::Any };
        if !key.verify("gtid", signed.as_bytes(), signature) {
            return Self::Any;
        }
        let Some((made, set)) = signed.split_once('.') else { return Self::Any };
        let age = made.parse::<u64>().map(|made| unix(now).saturating_sub(made));
        if age.is_ok_and(|age| age > LIFETIME.as_secs()) {
            return Self::Any;
        }
        match set {
            "primary" => Self::Primary,
            set => Self::AtLeast(set.replace('_', ",")),
        }
    }
}

/// UUIDs, tags, numbers and their punctuation; nothing else may come near a cookie.
fn is_gtid_set(set: &str) -> bool {
    set.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b','))
}

fn unix(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str =
        "5e0c0ffe-0000-4000-8000-000000000001:1-42:1000042-1000050,5e0c0ffe-0000-4000-8000-000000000002:1-3";

    fn key() -> SiteKey {
        SiteKey::new(vec![7; 32])
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_signed_set_comes_back_whole() {
        let fresh = Freshness::from_gtid_executed(&SET.replace(',', ",\n"));
        assert_eq!(fresh, Freshness::AtLeast(SET.into()));
        let text = fresh.sign(&key(), at(1000)).unwrap();
        assert!(!text.contains([',', ';', ' ', '"', '\\']), "not a cookie value: {text}");
        assert_eq!(Freshness::verify(&text, &key(), at(1001)), fresh);
    }

    #[test]
    fn what_is_visible_but_not_yet_executed_counts() {
        let all = |owned: &str| Freshness::from_all_visible("a:1-5,\nb:1-3", owned);
        for (owned, set) in [
            ("", "a:1-5,b:1-3"),
            ("a:6#17", "a:1-5,b:1-3,a:6"),
            ("a:6#17:7#18,\nb:tag:4#1", "a:1-5,b:1-3,a:6:7,b:tag:4"),
        ] {
            assert_eq!(all(owned), Freshness::AtLeast(set.into()), "{owned}");
        }
    }

    #[test]
    fn it_expires() {
        let text = Freshness::Primary.sign(&key(), at(1000)).unwrap();
        assert_eq!(Freshness::verify(&text, &key(), at(1600)), Freshness::Primary);
        assert_eq!(Freshness::verify(&text, &key(), at(1601)), Freshness::Any);
    }

    #[test]
    fn what_was_not_signed_here_counts_for_nothing() {
        let text = Freshness::AtLeast(SET.into()).sign(&key(), at(1000)).unwrap();
        let other = SiteKey::new(vec![8; 32]);
        assert_eq!(Freshness::verify(&text, &other, at(1000)), Freshness::Any);
        let forged = text.replacen("1-42", "1-99999", 1);
        assert_ne!(forged, text);
        for bad in [forged.as_str(), "", ".", "..", "1000.primary", "1000.primary.", "ü.ü.ü"] {
            assert_eq!(Freshness::verify(bad, &key(), at(1000)), Freshness::Any, "{bad}");
        }
    }

    #[test]
    fn a_set_too_long_to_carry_means_the_primary() {
        assert_eq!(Freshness::from_gtid_executed(&SET.repeat(20)), Freshness::Primary);
        assert_eq!(Freshness::from_gtid_executed(""), Freshness::Any);
        assert_eq!(Freshness::Any.sign(&key(), at(0)), None);
    }
}
