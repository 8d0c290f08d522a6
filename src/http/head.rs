//! The head of a request, whoever parsed it: the engine for HTTP/1, Pingora for HTTP/2.

use http::header::HeaderName;
use http::{Method, Version};
use pingora::http::RequestHeader;

/// What the steps read.
pub trait RequestHead {
    /// The method.
    fn method(&self) -> &Method;
    /// The protocol version that the client spoke.
    fn version(&self) -> Version;
    /// The request target: path and query, an absolute URI, or `*`.
    fn target(&self) -> &[u8];
    /// The pseudo header `:authority` (RFC 9113 section 8.3.1), if the protocol has one.
    fn authority(&self) -> Option<&str>;
    /// The first value of a field.
    fn first(&self, name: &HeaderName) -> Option<&[u8]>;
    /// All values of a field, in their order.
    fn all(&self, name: &HeaderName) -> Vec<&[u8]>;
    /// How many field lines have this name.
    fn count(&self, name: &HeaderName) -> usize;
    /// Octets of the head, as its protocol counts them.
    fn size(&self) -> usize;

    /// The first value of a field, when it is ASCII text.
    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.first(name).and_then(|v| std::str::from_utf8(v).ok()).filter(|v| v.is_ascii())
    }
}

impl RequestHead for RequestHeader {
    fn method(&self) -> &Method {
        &self.method
    }

    fn version(&self) -> Version {
        self.version
    }

    fn target(&self) -> &[u8] {
        self.raw_path()
    }

    fn authority(&self) -> Option<&str> {
        if self.version == Version::HTTP_2 { self.uri.authority().map(|a| a.as_str()) } else { None }
    }

    fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        self.headers.get(name).map(http::HeaderValue::as_bytes)
    }

    fn all(&self, name: &HeaderName) -> Vec<&[u8]> {
        self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect()
    }

    fn count(&self, name: &HeaderName) -> usize {
        self.headers.get_all(name).iter().count()
    }

    fn size(&self) -> usize {
        // RFC 9113 section 6.5.2 counts 32 octets for each field beside name and value.
        let fields: usize = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 32).sum();
        fields + self.raw_path().len()
    }
}

/// A head made by hand, for tests.
#[cfg(test)]
pub fn test_head(method: Method, version: Version, target: &str, fields: &[(&str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    head.set_version(version);
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        head.append_header(name, http::HeaderValue::from_str(value).unwrap()).unwrap();
    }
    head
}
