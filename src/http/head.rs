//! The head of a request, whoever parsed it.

use http::header::HeaderName;
use http::{Method, Version};

/// What the steps read.
pub trait RequestHead {
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

/// A head made by hand, for tests: also one that no parser would let pass.
#[cfg(test)]
pub struct TestHead {
    method: Method,
    version: Version,
    target: String,
    /// Its fields.
    pub headers: http::HeaderMap,
}

/// See [`TestHead`].
#[cfg(test)]
pub fn test_head(method: Method, version: Version, target: &str, fields: &[(&str, &str)]) -> TestHead {
    let mut headers = http::HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, http::HeaderValue::from_str(value).unwrap());
    }
    TestHead { method, version, target: target.to_owned(), headers }
}

#[cfg(test)]
impl TestHead {
    /// Sets a field, in the place of those that have its name.
    pub fn set(&mut self, name: &HeaderName, value: &str) {
        self.headers.insert(name.clone(), http::HeaderValue::from_str(value).unwrap());
    }
}

#[cfg(test)]
impl RequestHead for TestHead {
    fn method(&self) -> &Method {
        &self.method
    }

    fn version(&self) -> Version {
        self.version
    }

    fn target(&self) -> &[u8] {
        self.target.as_bytes()
    }

    fn authority(&self) -> Option<&str> {
        None
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
        self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum::<usize>() + self.target.len()
    }
}
