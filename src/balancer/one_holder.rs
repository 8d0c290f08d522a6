//! Of two nodes that do not hear one another exactly one keeps the virtual address: the third, which hears both, decides.
//!
//! Each check of a web tier tells it whether this node holds the address (`Trivet-Balancer`), and its answer tells which nodes have
//! said so lately, and how long ago (`holders`). VRRP alone cannot know: a node that hears no adverts takes the address, and in a
//! cut between two nodes the holder is one that the other does not hear.
//!
//! A node is **hidden** when another one heard it say that it holds the address well after this node heard anything of it. Where this
//! node holds the address as well, it lets go if the hidden one's name comes first: both see the same names, so exactly one lets go.
//! Where it does not hold it, it does not take it, for as long as the hidden one goes on to say so.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// A holder that was heard so much later by another than by us is cut off from us. Several checks, so that a late one is none.
const LATER: Duration = Duration::from_millis(1500);
/// Who said so longer ago may have let go.
const FRESH: Duration = Duration::from_secs(3);

/// What a web tier last said: when, and of which holders.
pub struct Heard<'a> {
    pub node: &'a str,
    /// When its machine was last heard, by whatever sign.
    pub at: Option<Instant>,
    /// When it last answered, and what.
    pub answer: Option<(Instant, &'a Value)>,
}

/// The first holder that is hidden from `node` and is to have the address in its place, `holds` or not.
pub fn to_yield_to<'a>(node: &str, holds: bool, heard: &'a [Heard<'a>], now: Instant) -> Option<&'a str> {
    let mut claims: BTreeMap<&str, Instant> = BTreeMap::new();
    for third in heard.iter().filter(|h| h.node != node) {
        let Some((answered, said)) = third.answer else { continue };
        let Some(holders) = said["holders"].as_object() else { continue };
        for (name, age) in holders {
            let age = age.as_f64().filter(|s| (0.0..3600.0).contains(s)).map(Duration::from_secs_f64);
            if let Some(claimed) = age.and_then(|age| answered.checked_sub(age))
                && name != node
            {
                let latest = claims.entry(name).or_insert(claimed);
                *latest = claimed.max(*latest);
            }
        }
    }
    let is_hidden = |name: &str, claimed: Instant| {
        let directly = heard.iter().find(|h| h.node == name).and_then(|h| h.at);
        let heard_later = directly.is_none_or(|at| claimed.saturating_duration_since(at) > LATER);
        heard_later && now.saturating_duration_since(claimed) < FRESH
    };
    claims
        .into_iter()
        .filter(|(name, claimed)| is_hidden(name, *claimed) && (!holds || *name < node))
        .map(|(name, _)| name)
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ago(now: Instant, seconds: f64) -> Instant {
        now - Duration::from_secs_f64(seconds)
    }

    /// What `node` makes of it when the others were heard so long ago, the last of whom has answered with these holders.
    fn yields(node: &str, holds: bool, heard: &[(&str, f64, Value)]) -> Option<String> {
        let now = Instant::now() + Duration::from_secs(1000);
        let heard: Vec<Heard<'_>> = heard
            .iter()
            .map(|(node, seconds, said)| {
                let at = ago(now, *seconds);
                Heard { node, at: Some(at), answer: Some((at, said)) }
            })
            .collect();
        to_yield_to(node, holds, &heard, now).map(str::to_owned)
    }

    #[test]
    fn of_two_that_do_not_hear_one_another_the_second_lets_go_and_the_first_stays() {
        let third = |ages| ("node3", 0.2, json!({"holders": ages}));
        let both = json!({"node1": 0.3, "node2": 0.1});
        let of_second = [("node1", 5.0, json!({})), third(both.clone())];
        assert_eq!(yields("node2", true, &of_second).as_deref(), Some("node1"));
        let of_first = [("node2", 5.0, json!({})), third(both)];
        assert_eq!(yields("node1", true, &of_first), None);
        // The second does not take it back while the first goes on.
        let one = [("node1", 60.0, json!({})), third(json!({"node1": 0.3}))];
        assert_eq!(yields("node2", false, &one).as_deref(), Some("node1"));
        // The third, which hears both, may take it from neither.
        let all = [("node1", 0.1, json!({"holders": {"node1": 0.2}})), ("node2", 0.2, json!({}))];
        assert_eq!(yields("node3", false, &all), None);
    }

    #[test]
    fn a_holder_that_lost_its_power_is_heard_by_nobody() {
        // Both stop hearing it within a check of one another.
        let third = |age| [("node1", 0.9, json!({})), ("node3", 0.1, json!({"holders": {"node1": age}}))];
        assert_eq!(yields("node2", false, &third(0.4)), None);
        let long_ago = [("node1", 20.0, json!({})), ("node3", 0.1, json!({"holders": {"node1": 9.0}}))];
        assert_eq!(yields("node2", false, &long_ago), None, "what it said is no longer fresh");
    }

    #[test]
    fn without_a_third_and_with_senseless_words_nothing_is_decided() {
        assert_eq!(yields("node2", true, &[("node1", 60.0, json!({}))]), None);
        // Its own web tier hears whom this node hears.
        let own = [("node1", 60.0, json!({})), ("node2", 0.1, json!({"holders": {"node1": 0.1}}))];
        assert_eq!(yields("node2", true, &own), None);
        for holders in [json!([]), json!({"node1": "now"}), json!({"node1": -5}), json!({"node1": 1e300})] {
            let said = [("node1", 60.0, json!({})), ("node3", 0.1, json!({ "holders": holders }))];
            assert_eq!(yields("node2", true, &said), None);
        }
    }
}
