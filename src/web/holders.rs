//! Which nodes say that they hold the virtual address: this web tier is asked by every balancer that reaches it, so it hears also of two
//! that do not hear one another (docs/nixos.md).

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

/// What is older is told to nobody.
const REMEMBERED: Duration = Duration::from_secs(10);
/// More names than a cluster has nodes: whoever makes names up, which takes a certificate of the cluster, takes no memory.
const MOST: usize = 64;

/// Names of nodes, and when each said so for the last time.
#[derive(Debug, Default)]
pub struct Holders(Mutex<BTreeMap<String, Instant>>);

impl Holders {
    /// Takes in a `Trivet-Balancer` field: the node's name, and `; holds` behind it when it has a virtual address.
    pub fn note(&self, field: &[u8]) {
        let Ok(text) = std::str::from_utf8(field) else { return };
        let (name, state) = text.split_once(';').unwrap_or((text, ""));
        let mut holders = self.0.lock();
        if state.trim() != "holds" {
            holders.remove(name.trim());
        } else if holders.len() < MOST || holders.contains_key(name.trim()) {
            holders.insert(name.trim().to_owned(), Instant::now());
        }
    }

    /// Each with the seconds since it last said so.
    pub fn ages(&self) -> Value {
        let mut holders = self.0.lock();
        holders.retain(|_, said| said.elapsed() < REMEMBERED);
        let ages = holders.iter().map(|(name, said)| (name.clone(), json!(said.elapsed().as_secs_f64())));
        Value::Object(ages.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_so_is_told_of_until_it_says_otherwise_or_nothing() {
        let holders = Holders::default();
        for field in ["node1; holds", "node2;holds", "node3", "\u{ff}", "node4; will hold"] {
            holders.note(field.as_bytes());
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(holders.ages(), json!({"node1": 1.0, "node2": 1.0}));
        holders.note(b"node1");
        holders.note(b"node2; holds");
        assert_eq!(holders.ages(), json!({"node2": 0.0}));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(holders.ages(), json!({}));
    }

    #[tokio::test(start_paused = true)]
    async fn names_without_end_take_no_memory() {
        let holders = Holders::default();
        for n in 0..1000 {
            holders.note(format!("node{n}; holds").as_bytes());
        }
        assert_eq!(holders.ages().as_object().unwrap().len(), MOST);
    }
}
