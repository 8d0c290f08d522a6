//! The head of a request, whoever parsed it: Pingora today, an engine of our own beside it.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use pingora::http::RequestHeader;

/// What the steps read and change.
pub trait RequestHead {
    /// The method.
    fn method(&self) -> &Method;
    /// The protocol version that the client spoke.
    fn version(&self) -> Version;
    /// The request target: path and query, an absolute URI, or `*`.
    fn target(&self) -> &[u8];
    /// Replaces the target by path and query.
    fn set_target(&mut self, path_and_query: &str);
    /// The pseudo header `:authority` (RFC 9113 section 8.3.1), if the protocol has one.
    fn authority(&self) -> Option<&str>;
    /// All fields.
    fn headers(&self) -> &HeaderMap;
    /// Sets a field to one value, replacing all it had.
    fn set(&mut self, name: HeaderName, value: HeaderValue);
    /// Adds a value to a field.
    fn append(&mut self, name: HeaderName, value: HeaderValue);
    /// Removes a field with all its values.
    fn remove(&mut self, name: &HeaderName);
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

    fn set_target(&mut self, path_and_query: &str) {
        // What is set here was part of a target that parsed, so it parses.
        if let Err(e) = self.set_raw_path(path_and_query.as_bytes()) {
            tracing::error!(error = %e, path_and_query, "a request target could not be replaced");
        }
    }

    fn authority(&self) -> Option<&str> {
        if self.version == Version::HTTP_2 { self.uri.authority().map(|a| a.as_str()) } else { None }
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn set(&mut self, name: HeaderName, value: HeaderValue) {
        // Name and value are typed already; the only error left is a map of more than 32768 fields.
        let _ = self.insert_header(name, value);
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        let _ = self.append_header(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

/// A head made by hand, for tests.
#[cfg(test)]
pub fn test_head(method: Method, version: Version, target: &str, fields: &[(&str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    head.set_version(version);
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        head.append_header(name, HeaderValue::from_str(value).unwrap()).unwrap();
    }
    head
}
