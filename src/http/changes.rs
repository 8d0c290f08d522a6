//! Changes to the fields of a head, as a site's configuration asks for them.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::field::{self, Kind};
use crate::forwarded;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It is taken out.
    Remove,
    /// It has this value and no other.
    Set,
    /// It has this value as well.
    Add,
    /// It has this value where it would have none.
    Default,
}

/// One change. A removal has an empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: HeaderName,
    pub manner: Manner,
    pub value: HeaderValue,
}

/// Changes, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<Change>);

impl Changes {
    /// Whether the lines of this name that are there go. `_` is `-`, since CGI-like servers see no difference: what a client sends as
    /// `X_User` must not stand beside the `X-User` that is set.
    pub fn drops(&self, name: &[u8]) -> bool {
        self.0.iter().any(|change| {
            matches!(change.manner, Manner::Remove | Manner::Set)
                && forwarded::same(name, change.name.as_str().as_bytes())
        })
    }

    /// The lines that come. `has` says whether a head has a line of that name that stays.
    pub fn lines(
        &self,
        has: impl Fn(&HeaderName) -> bool,
    ) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().enumerate().filter_map(move |(at, change)| {
            // The last word counts.
            if self.0[at + 1..].iter().any(|later| later.sets(&change.name)) {
                return None;
            }
            let comes = match change.manner {
                Manner::Remove => false,
                Manner::Add | Manner::Set => true,
                Manner::Default => {
                    // What is taken out later gives nothing.
                    let gives = |(at, earlier): (usize, &Change)| {
                        let undone = |later: &Change| later.sets(&earlier.name);
                        earlier.gives(&change.name) && !self.0[at + 1..].iter().any(undone)
                    };
                    !has(&change.name) && !self.0[..at].iter().enumerate().any(gives)
                }
            };
            comes.then_some((&change.name, &change.value))
        })
    }

    /// Changes a map.
    pub fn apply(&self, map: &mut HeaderMap) {
        let gone: Vec<HeaderName> =
            map.keys().filter(|n| self.drops(n.as_str().as_bytes())).cloned().collect();
        for name in gone {
            map.remove(name);
        }
        let had: Vec<HeaderName> = map.keys().cloned().collect();
        for (name, value) in self.lines(|name| had.contains(name)) {
            map.append(name.clone(), value.clone());
        }
    }

    /// Both, the others after these.
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Change {
    fn sets(&self, name: &HeaderName) -> bool {
        matches!(self.manner, Manner::Set | Manner::Remove)
            && forwarded::same(name.as_str().as_bytes(), self.name.as_str().as_bytes())
    }

    fn gives(&self, name: &HeaderName) -> bool {
        self.manner != Manner::Remove && self.name == *name
    }
}

/// Why a field of a request cannot be changed; none where it can. A sentence's end.
pub fn no_request_field(name: &HeaderName) -> Option<&'static str> {
    let octets = name.as_str().as_bytes();
    match Kind::of(octets) {
        Kind::Other | Kind::Ours if forwarded::is_replaced(octets) || forwarded::tells_of_tls(octets) => {
            Some("tells the back end who the client is, and is set by the balancer alone")
        }
        Kind::Other | Kind::Ours if name == http::header::VIA => {
            Some("tells who has passed the request on, and is set by the balancer alone")
        }
        // Becomes HTTP_PROXY in CGI environments (CVE-2016-5385).
        Kind::Ours if octets == b"proxy" => Some("is dangerous to CGI programs"),
        Kind::Other | Kind::Ours => None,
        _ => Some(FRAMES),
    }
}

/// Likewise one of an answer. `removes`: it is only to be taken out.
pub fn no_answer_field(name: &HeaderName, removes: bool) -> Option<&'static str> {
    use http::header::{CONTENT_ENCODING, CONTENT_RANGE, DATE};
    match field::Kind::of(name.as_str().as_bytes()) {
        Kind::Other if *name == DATE => Some("is said by the balancer on every answer"),
        Kind::Other if !removes && [CONTENT_ENCODING, CONTENT_RANGE].contains(name) => {
            Some("says what the content is, which stays as it is")
        }
        Kind::Other => None,
        Kind::Ours if forwarded::X_REQUEST_ID == *name => Some("is said by the balancer on every answer"),
        Kind::Ours => None,
        _ => Some(FRAMES),
    }
}

const FRAMES: &str = "says how the message is framed or the connection used, which is the balancer's to say";

#[cfg(test)]
mod tests {
    use super::*;

    fn change(manner: Manner, name: &'static str, value: &'static str) -> Change {
        Change { name: HeaderName::from_static(name), manner, value: HeaderValue::from_static(value) }
    }

    fn changed(changes: &[Change], before: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = HeaderMap::new();
        for (name, value) in before {
            map.append(*name, HeaderValue::from_static(value));
        }
        Changes(changes.to_vec()).apply(&mut map);
        map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn what_is_set_stands_alone_what_is_added_beside_and_a_default_gives_way() {
        use Manner::{Add, Default, Remove, Set};
        let before = [("x-a", "1"), ("x-a", "2"), ("server", "app")];
        for (changes, after) in [
            (vec![change(Set, "x-a", "3")], vec!["server: app", "x-a: 3"]),
            (vec![change(Add, "x-a", "3")], vec!["x-a: 1", "x-a: 2", "x-a: 3", "server: app"]),
            (vec![change(Default, "x-a", "3")], vec!["x-a: 1", "x-a: 2", "server: app"]),
            (vec![change(Default, "x-b", "3")], vec!["x-a: 1", "x-a: 2", "server: app", "x-b: 3"]),
            (vec![change(Remove, "x-a", ""), change(Remove, "server", "")], vec![]),
            // A route's word after its site's.
            (vec![change(Set, "x-a", "3"), change(Set, "x-a", "4")], vec!["server: app", "x-a: 4"]),
            (vec![change(Set, "x-a", "3"), change(Remove, "x-a", "")], vec!["server: app"]),
            (vec![change(Remove, "x-a", ""), change(Default, "x-a", "5")], vec!["server: app", "x-a: 5"]),
            (vec![change(Add, "x-a", "3"), change(Set, "x-a", "4")], vec!["server: app", "x-a: 4"]),
            (
                vec![change(Default, "x-b", "3"), change(Remove, "x-b", "")],
                vec!["x-a: 1", "x-a: 2", "server: app"],
            ),
            (
                vec![change(Add, "x-b", "3"), change(Remove, "x-b", ""), change(Default, "x-b", "5")],
                vec!["x-a: 1", "x-a: 2", "server: app", "x-b: 5"],
            ),
            (
                vec![change(Default, "x-b", "3"), change(Default, "x-b", "4")],
                vec!["x-a: 1", "x-a: 2", "server: app", "x-b: 3"],
            ),
        ] {
            let (mut got, mut after) = (changed(&changes, &before), after);
            got.sort();
            after.sort_unstable();
            assert_eq!(got, after, "{changes:?}");
        }
    }

    #[test]
    fn an_underscore_slips_past_nothing_that_is_set() {
        let changes = Changes(vec![change(Manner::Set, "x-user", "me")]);
        for name in ["X_User", "x-user", "X-USER", "x_user"] {
            assert!(changes.drops(name.as_bytes()), "{name}");
        }
        assert!(!changes.drops(b"x-users"));
    }

    #[test]
    fn what_frames_a_message_or_tells_of_the_client_is_not_to_be_changed() {
        let name = |text: &str| text.parse::<HeaderName>().unwrap();
        for refused in [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "keep-alive",
            "upgrade",
            "te",
            "expect",
            "trailer",
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded-proto",
            "forwarded",
            "x-real-ip",
            "x-request-id",
            "via",
            "x-ssl-client-verify",
            "x-ssl-whatever",
            "trivet-hop",
            "proxy",
            "proxy-connection",
            "http2-settings",
        ] {
            assert!(no_request_field(&name(refused)).is_some(), "{refused}");
        }
        for good in
            ["x-tenant", "x-forwarded-prefix", "authorization", "cookie", "accept-encoding", "x-client-ip"]
        {
            assert_eq!(no_request_field(&name(good)), None, "{good}");
        }
        for refused in [
            "content-length",
            "transfer-encoding",
            "connection",
            "date",
            "content-encoding",
            "x-request-id",
            "upgrade",
        ] {
            assert!(no_answer_field(&name(refused), false).is_some(), "{refused}");
        }
        for good in ["server", "set-cookie", "strict-transport-security", "cache-control", "content-type"] {
            assert_eq!(no_answer_field(&name(good), false), None, "{good}");
        }
        assert_eq!(no_answer_field(&name("content-encoding"), true), None);
    }
}
