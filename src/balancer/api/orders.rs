//! What operators have ordered. Each balancer and gateway has all of it; of two words about the same the later one counts, so that they
//! agree in whatever order they hear of it (a last-writer-wins map).

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What is remembered, at most: names come from configurations, but those of peers are theirs.
pub const MOST: usize = 5_000;

/// How long it is remembered that something was taken back, in milliseconds. Who was away for longer may bring an old order back.
pub const FORGOTTEN: u64 = 30 * 24 * 3600 * 1000;

/// What an order is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Key {
    Node(String),
    Backend {
        pool: String,
        name: String,
    },
    Site(String),
    /// Where the virtual addresses are.
    Addresses,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Backend { pool, name } => write!(f, "backend/{pool}/{name}"),
            Self::Site(name) => write!(f, "site/{name}"),
            Self::Addresses => f.write_str("addresses"),
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("addresses"), None, None) => Ok(Self::Addresses),
            (Some("node"), Some(name), None) => Ok(Self::Node(name.into())),
            (Some("site"), Some(name), None) => Ok(Self::Site(name.into())),
            (Some("backend"), Some(pool), Some(name)) => {
                Ok(Self::Backend { pool: pool.into(), name: name.into() })
            }
            _ => Err(format!("\"{text}\" is nothing that orders are about")),
        }
    }
}

/// How a back end is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As its checks say.
    #[default]
    Ready,
    /// Nothing new, but for those who are bound to it.
    Drained,
    /// For nobody.
    Disabled,
}

/// What was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A node's back ends get nothing new, and it lets the virtual addresses go where another one takes them.
    Drained,
    Backend {
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        weight: Option<u32>,
    },
    /// `until` in seconds of Unix time.
    Maintenance {
        #[serde(default)]
        until: Option<u64>,
        #[serde(default)]
        allow: Vec<IpNet>,
    },
    /// The virtual addresses are to be at this node, until then (seconds of Unix time); afterwards they stay where they are.
    At { node: String, until: u64 },
}

/// The last word about something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was said, in milliseconds of Unix time. Later than every word about the same before.
    pub at: u64,
    /// On which node.
    pub by: String,
    /// None takes back what was ordered before.
    pub order: Option<Order>,
}

/// All orders, by what they are about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Orders(BTreeMap<Key, Entry>);

impl Orders {
    /// What is ordered now.
    pub fn get(&self, key: &Key) -> Option<&Order> {
        self.0.get(key)?.order.as_ref()
    }

    /// All that is ordered now, and when and by whom.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.0.iter().filter(|(_, entry)| entry.order.is_some())
    }

    /// What is ordered otherwise in `other`, or in only one of the two.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Key> {
        let here = self.0.iter().filter(|(key, entry)| other.get(key) != entry.order.as_ref());
        let there_alone = other.iter().filter(|(key, _)| !self.0.contains_key(key));
        here.chain(there_alone).map(|(key, _)| key)
    }

    /// Orders something, or takes it back, on the node `by`; `now` in milliseconds. Whether that changes anything.
    pub fn set(&mut self, key: Key, order: Option<Order>, by: &str, now: u64) -> bool {
        let before = self.0.get(&key);
        if before.and_then(|entry| entry.order.as_ref()) == order.as_ref() {
            return false;
        }
        // Whose clock is behind is obeyed all the same.
        let at = before.map_or(now, |entry| now.max(entry.at.saturating_add(1)));
        self.0.insert(key, Entry { at, by: by.into(), order });
        true
    }

    /// Takes back what is over by itself. That is no new word: one that was said later elsewhere, and has not been heard of here yet,
    /// still counts. What was taken back is returned.
    pub fn end(&mut self, is_over: impl Fn(&Order) -> bool) -> Vec<Key> {
        let ended = self.0.iter_mut().filter(|(_, entry)| entry.order.as_ref().is_some_and(&is_over));
        ended
            .map(|(key, entry)| {
                entry.order = None;
                key.clone()
            })
            .collect()
    }

    /// Takes in what another one knows. Whether anything of it was new.
    pub fn merge(&mut self, other: Self) -> bool {
        let mut is_new = false;
        for (key, entry) in other.0 {
            let rank = |e: &Entry| (e.at, e.by.clone(), e.order.is_none());
            // No clock is so far ahead, and nothing could ever be said after it.
            let is_sane = entry.at < u64::MAX / 2;
            let is_later = is_sane && self.0.get(&key).is_none_or(|own| rank(&entry) > rank(own));
            if is_later && (self.0.contains_key(&key) || self.0.len() < MOST) {
                self.0.insert(key, entry);
                is_new = true;
            }
        }
        is_new
    }

    /// Forgets what was taken back long ago; `now` in milliseconds.
    pub fn tidy(&mut self, now: u64) {
        self.0.retain(|_, entry| entry.order.is_some() || entry.at.saturating_add(FORGOTTEN) > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Key {
        Key::Node(name.into())
    }

    #[test]
    fn two_that_hear_the_same_in_any_order_agree() {
        let mut first = Orders::default();
        let mut second = Orders::default();
        assert!(first.set(node("node3"), Some(Order::Drained), "node1", 1000));
        assert!(second.set(node("node3"), Some(Order::Drained), "node2", 1000));
        assert!(second.set(node("node3"), None, "node2", 1500));
        assert!(second.set(
            Key::Addresses,
            Some(Order::At { node: "node2".into(), until: 9 }),
            "node2",
            1500
        ));
        let (a, b) = (first.clone(), second.clone());
        assert!(first.merge(b.clone()));
        assert!(!first.merge(b), "nothing is new the second time");
        second.merge(a);
        assert_eq!(first, second);
        assert_eq!(first.get(&node("node3")), None);
        assert_eq!(first.iter().count(), 1);
    }

    #[test]
    fn what_is_ordered_otherwise_is_told_whoever_has_it() {
        let mut before = Orders::default();
        before.set(node("stays"), Some(Order::Drained), "node1", 1);
        before.set(node("ends"), Some(Order::Drained), "node1", 1);
        before.set(
            Key::Site("main".into()),
            Some(Order::Maintenance { until: None, allow: Vec::new() }),
            "node1",
            1,
        );
        let mut after = before.clone();
        assert_eq!(before.differences(&after).count(), 0);
        after.set(node("ends"), None, "node1", 2);
        after.set(node("begins"), Some(Order::Drained), "node1", 2);
        let until = Some(Order::Maintenance { until: Some(9), allow: Vec::new() });
        after.set(Key::Site("main".into()), until, "node1", 2);
        // Somebody else's word that it is as it was.
        let same = Entry { at: 7, by: "node2".into(), order: Some(Order::Drained) };
        after.merge(Orders([(node("stays"), same)].into()));
        for (one, other) in [(&before, &after), (&after, &before)] {
            let mut found: Vec<_> = one.differences(other).map(Key::to_string).collect();
            found.sort();
            assert_eq!(found, ["node/begins", "node/ends", "site/main"]);
        }
        // What was forgotten is ordered by nobody.
        after.tidy(2 + FORGOTTEN);
        assert!(before.differences(&after).any(|key| *key == node("ends")));
    }

    #[test]
    fn a_clock_that_is_ahead_is_overruled_all_the_same() {
        let mut orders = Orders::default();
        orders.set(node("node3"), Some(Order::Drained), "node1", 9_000_000);
        assert!(orders.set(node("node3"), None, "node2", 1000));
        assert!(!orders.set(node("node3"), None, "node2", 1000), "it is so already");
        let mut other = Orders::default();
        other.set(node("node3"), Some(Order::Drained), "node1", 9_000_000);
        assert!(other.merge(orders));
        assert_eq!(other.get(&node("node3")), None);
    }

    #[test]
    fn what_ends_by_itself_does_not_undo_a_later_word() {
        let until = |until| Some(Order::Maintenance { until: Some(until), allow: Vec::new() });
        let site = || Key::Site("main".into());
        let mut away = Orders::default();
        away.set(site(), until(10), "node1", 1000);
        // Extended while one of them was away.
        let mut other = away.clone();
        assert!(other.set(site(), until(20), "node2", 9000));
        let over =
            |order: &Order| matches!(order, Order::Maintenance { until: Some(until), .. } if *until <= 11);
        assert_eq!(away.end(over), [site()]);
        assert_eq!(away.get(&site()), None);
        assert!(other.end(over).is_empty());
        assert!(!other.merge(away.clone()), "the later word counts");
        assert!(away.merge(other));
        assert_eq!(away.get(&site()), until(20).as_ref());
        // Nor does one who has not noticed yet bring it back.
        let mut late = Orders::default();
        late.set(site(), until(10), "node1", 1000);
        let mut ended = late.clone();
        ended.end(over);
        assert!(!ended.merge(late.clone()) && late.merge(ended));
        assert_eq!(late.get(&site()), None);
    }

    #[test]
    fn a_word_from_the_end_of_time_is_not_listened_to() {
        let mut orders = Orders::default();
        let mut broken = Orders::default();
        broken.set(node("node1"), Some(Order::Drained), "zzz", u64::MAX);
        assert!(!orders.merge(broken));
        assert_eq!(orders.get(&node("node1")), None);
    }

    #[test]
    fn what_was_taken_back_is_forgotten_after_a_while_and_orders_are_not() {
        let mut orders = Orders::default();
        orders.set(node("node1"), Some(Order::Drained), "node1", 0);
        orders.set(node("node2"), Some(Order::Drained), "node1", 0);
        orders.set(node("node2"), None, "node1", 5);
        orders.tidy(FORGOTTEN);
        assert_eq!(orders.0.len(), 2);
        orders.tidy(FORGOTTEN + 5);
        assert_eq!(orders.0.keys().collect::<Vec<_>>(), [&node("node1")]);
    }

    #[test]
    fn keys_are_what_they_were_after_a_journey() {
        for key in [
            node("a"),
            Key::Site("main".into()),
            Key::Backend { pool: "web".into(), name: "app/10.0.0.1".into() },
            Key::Addresses,
        ] {
            assert_eq!(Key::try_from(key.to_string()), Ok(key));
        }
        for text in ["", "node", "node/a/b", "addresses/x", "backend/x", "other/x"] {
            assert!(Key::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
