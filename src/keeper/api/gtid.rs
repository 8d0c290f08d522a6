//! Sets of global transaction identifiers, and the arithmetic that decides whose data contains whose.
//!
//! The text form is that of `@@gtid_executed` (MySQL manual, "GTID Sets"): `UUID:1-5:8,UUID:tag:1-3`, tags included.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of transactions, in canonical form: intervals sorted, disjoint and not adjacent, no empty source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GtidSet {
    sources: BTreeMap<Source, Vec<Interval>>,
}

/// Who numbered the transactions: a server or a group, and since MySQL 8.3 a tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    uuid: String,
    tag: String,
}

/// First and last number, both included.
type Interval = (u64, u64);

/// A text that is no GTID set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a GTID set: {0:?}")]
pub struct BadGtidSet(String);

impl GtidSet {
    /// No transaction at all.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether any transaction carries this UUID: a group's name marks the transactions that the group made.
    pub fn has_uuid(&self, uuid: &str) -> bool {
        self.sources.keys().any(|s| s.uuid == uuid)
    }

    /// Adds one transaction. `tag` is empty where there is none; `number` is 1 or more.
    pub fn insert(&mut self, uuid: &str, tag: &str, number: u64) {
        let source = Source { uuid: uuid.to_ascii_lowercase(), tag: tag.to_ascii_lowercase() };
        let intervals = self.sources.entry(source).or_default();
        // Transactions come nearly in order: this is the interval that grows.
        let at = intervals.partition_point(|(_, last)| last.saturating_add(1) < number);
        match intervals.get_mut(at) {
            Some((first, last)) if *first <= number.saturating_add(1) => {
                *first = (*first).min(number);
                *last = (*last).max(number);
                let reaches =
                    intervals.get(at + 1).is_some_and(|next| next.0 <= intervals[at].1.saturating_add(1));
                if reaches {
                    intervals[at].1 = intervals.remove(at + 1).1;
                }
            }
            _ => intervals.insert(at, (number, number)),
        }
    }

    /// Whether the set holds this transaction.
    pub fn contains(&self, uuid: &str, tag: &str, number: u64) -> bool {
        let source = Source { uuid: uuid.to_ascii_lowercase(), tag: tag.to_ascii_lowercase() };
        self.sources.get(&source).is_some_and(|intervals| {
            let at = intervals.partition_point(|(_, last)| *last < number);
            intervals.get(at).is_some_and(|(first, _)| *first <= number)
        })
    }

    /// UUID, tag (empty where there is none), and the intervals, both ends included.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str, &[(u64, u64)])> {
        self.sources
            .iter()
            .map(|(source, intervals)| (source.uuid.as_str(), source.tag.as_str(), intervals.as_slice()))
    }

    /// All transactions of both.
    pub fn union(&self, other: &Self) -> Self {
        let mut sources = self.sources.clone();
        for (source, intervals) in &other.sources {
            let all = sources.entry(source.clone()).or_default();
            all.extend_from_slice(intervals);
            *all = normalised(std::mem::take(all));
        }
        Self { sources }
    }

    /// The transactions that `other` does not have.
    pub fn subtract(&self, other: &Self) -> Self {
        let mut sources = BTreeMap::new();
        for (source, intervals) in &self.sources {
            let rest = match other.sources.get(source) {
                Some(gone) => difference(intervals, gone),
                None => intervals.clone(),
            };
            if !rest.is_empty() {
                sources.insert(source.clone(), rest);
            }
        }
        Self { sources }
    }

    /// Whether `other` has every transaction of this set (`GTID_SUBSET(self, other)`).
    pub fn is_subset(&self, other: &Self) -> bool {
        self.subtract(other).is_empty()
    }

    /// The transactions that carry another UUID than this one.
    pub fn without_uuid(&self, uuid: &str) -> Self {
        let others = self.sources.iter().filter(|(source, _)| source.uuid != uuid);
        Self { sources: others.map(|(source, intervals)| (source.clone(), intervals.clone())).collect() }
    }

    /// How many transactions the set holds.
    pub fn count(&self) -> u64 {
        self.sources.values().flatten().map(|(first, last)| last - first + 1).sum()
    }
}

fn normalised(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut out: Vec<Interval> = Vec::with_capacity(intervals.len());
    for (first, last) in intervals {
        match out.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

fn difference(from: &[Interval], gone: &[Interval]) -> Vec<Interval> {
    let mut out = Vec::new();
    for &(first, last) in from {
        let mut first = first;
        for &(g_first, g_last) in gone {
            if g_last < first {
                continue;
            }
            if g_first > last {
                break;
            }
            if g_first > first {
                out.push((first, g_first - 1));
            }
            first = g_last + 1;
            if first > last {
                break;
            }
        }
        if first <= last {
            out.push((first, last));
        }
    }
    out
}

impl FromStr for GtidSet {
    type Err = BadGtidSet;

    fn from_str(text: &str) -> Result<Self, BadGtidSet> {
        let bad = || BadGtidSet(text.chars().take(120).collect());
        let mut sources: BTreeMap<Source, Vec<Interval>> = BTreeMap::new();
        for part in text.split(',') {
            let mut pieces = part.split(':').map(str::trim);
            let uuid = pieces.next().unwrap_or_default().to_ascii_lowercase();
            if uuid.is_empty() {
                // An empty set, or a trailing comma, which MySQL accepts too.
                if pieces.next().is_some() {
                    return Err(bad());
                }
                continue;
            }
            if uuid.len() != 36 || !uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
                return Err(bad());
            }
            let mut source = Source { uuid, tag: String::new() };
            let mut seen = false;
            for piece in pieces {
                if piece.starts_with(|c: char| c.is_ascii_digit()) {
                    let interval = parse_interval(piece).ok_or_else(bad)?;
                    sources.entry(source.clone()).or_default().push(interval);
                    seen = true;
                } else if is_tag(piece) {
                    source.tag = piece.to_ascii_lowercase();
                    seen = false;
                } else {
                    return Err(bad());
                }
            }
            if !seen {
                return Err(bad());
            }
        }
        for intervals in sources.values_mut() {
            *intervals = normalised(std::mem::take(intervals));
        }
        Ok(Self { sources })
    }
}

fn parse_interval(text: &str) -> Option<Interval> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    // MySQL's numbers end at 2^63 - 2; staying below keeps `last + 1` from overflowing.
    (first >= 1 && last >= first && last < i64::MAX as u64).then_some((first, last))
}

fn is_tag(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 32
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous: Option<&Source> = None;
        for (source, intervals) in &self.sources {
            match previous {
                Some(p) if p.uuid == source.uuid => {}
                Some(_) => write!(f, ",{}", source.uuid)?,
                None => write!(f, "{}", source.uuid)?,
            }
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag)?;
            }
            for (first, last) in intervals {
                if first == last { write!(f, ":{first}") } else { write!(f, ":{first}-{last}") }?;
            }
            previous = Some(source);
        }
        Ok(())
    }
}

impl From<GtidSet> for String {
    fn from(set: GtidSet) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for GtidSet {
    type Error = BadGtidSet;

    fn try_from(text: String) -> Result<Self, BadGtidSet> {
        text.parse()
    }
}

#[cfg(test)]
mod tests;
