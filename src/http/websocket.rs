//! WebSockets over HTTP/2 (RFC 8441): the client opens one with an extended CONNECT, and the back end, which speaks HTTP/1.1,
//! gets the upgrade of RFC 6455. What makes sure there that the other side means it, key and accept, is made and checked here.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE,
};

use crate::strict;

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The field in which the key is sent, in lower case.
pub const KEY: &str = "sec-websocket-key";
/// The field in which the answer to the key is.
pub const ACCEPT: &str = "sec-websocket-accept";

/// What the back end is asked, and must answer (RFC 6455 section 4.1). No secret: it keeps apart who speaks WebSocket and
/// who was led to believe so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The value of `Sec-WebSocket-Key`.
    pub key: String,
    /// The value that `Sec-WebSocket-Accept` must have.
    accept: String,
}

impl Challenge {
    /// Another one each time.
    pub fn random() -> Self {
        Self::of(BASE64_STANDARD.encode(rand::random::<[u8; 16]>()))
    }

    fn of(key: String) -> Self {
        let accept = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
        Self { key, accept: BASE64_STANDARD.encode(accept) }
    }

    /// The challenge of a request of HTTP/1.1 that asks for a WebSocket and for nothing else, of which `fields` are the
    /// fields (RFC 6455 section 4.2.1).
    pub fn in_request<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Self> {
        let (mut keys, mut upgrades) = (Vec::new(), Vec::new());
        for (name, value) in fields {
            if name.eq_ignore_ascii_case(KEY.as_bytes()) {
                keys.push(value);
            } else if name.eq_ignore_ascii_case(b"upgrade") {
                upgrades.push(value);
            }
        }
        match (&keys[..], &upgrades[..]) {
            ([key], [protocol]) if protocol.eq_ignore_ascii_case(b"websocket") => {
                Some(Self::of(std::str::from_utf8(key).ok()?.to_owned()))
            }
            _ => None,
        }
    }

    /// Makes the fields of an answer to an extended CONNECT those of the `101` that meets it.
    pub fn meet(&self, fields: &mut HeaderMap) {
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
            fields.remove(name);
        }
        fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
        // Base64 is always a field value.
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
    }

    /// Whether the fields of a `101` are those of a server that has read the key, and switches to WebSocket.
    pub fn is_met<'a>(&self, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> bool {
        let (mut accepts, mut upgrades) = (Vec::new(), Vec::new());
        for (name, value) in fields {
            if name.eq_ignore_ascii_case(ACCEPT.as_bytes()) {
                accepts.push(value);
            } else if name.eq_ignore_ascii_case(b"upgrade") {
                upgrades.push(value);
            }
        }
        accepts == [self.accept.as_bytes()]
            && matches!(upgrades[..], [one] if one.eq_ignore_ascii_case(b"websocket"))
    }
}

/// Whether `protocol`, of an extended CONNECT, is the one that is carried here. It is a token of the registry that Upgrade
/// has, too (RFC 8441 section 4), and compared as such.
pub fn is_carried(protocol: &str) -> bool {
    protocol.bytes().all(strict::is_token) && protocol.eq_ignore_ascii_case("websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(challenge: &Challenge, fields: &[(&str, &str)]) -> bool {
        challenge.is_met(fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    #[test]
    fn rfc6455_1_3_the_key_of_the_example_has_the_answer_of_the_example() {
        let challenge = Challenge::of("dGhlIHNhbXBsZSBub25jZQ==".into());
        let (upgrade, accept) =
            (("Upgrade", "WebSocket"), ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(met(&challenge, &[upgrade, accept]));
        assert!(!met(&challenge, &[upgrade, accept, accept]), "twice");
        assert!(!met(&challenge, &[upgrade]), "none");
        assert!(!met(&challenge, &[accept]), "to what?");
        assert!(!met(&challenge, &[("Upgrade", "chat"), accept]));
        assert!(!met(&challenge, &[upgrade, ("sec-websocket-accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]));
    }

    #[test]
    fn rfc6455_4_1_a_key_is_sixteen_octets_and_new_each_time() {
        let (one, other) = (Challenge::random(), Challenge::random());
        assert_eq!(BASE64_STANDARD.decode(&one.key).unwrap().len(), 16);
        assert_ne!(one, other);
    }
}
