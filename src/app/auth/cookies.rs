//! The three cookies: session, form (for visitors without a session) and freshness.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    /// The session token.
    Session,
    /// Binds the sign-in form to the browser that asked for it.
    Form,
    /// What the next reads must have seen.
    Freshness,
}

/// Names and attributes. On https every name has the `__Host-` prefix (RFC 6265bis section 4.1.3.2): no other host of the
/// domain, and no plain-HTTP page, can set them.
#[derive(Debug, Clone, Copy)]
pub struct Cookies {
    secure: bool,
}

impl Cookies {
    /// For a site at `base_url`; plain http is for trying things out on one's own machine.
    pub fn new(base_url: &str) -> Self {
        Self { secure: !base_url.starts_with("http://") }
    }

    fn name(self, cookie: Cookie) -> &'static str {
        match (cookie, self.secure) {
            (Cookie::Session, true) => "__Host-trivet-session",
            (Cookie::Session, false) => "trivet-session",
            (Cookie::Form, true) => "__Host-trivet-form",
            (Cookie::Form, false) => "trivet-form",
            (Cookie::Freshness, true) => "__Host-trivet-seen",
            (Cookie::Freshness, false) => "trivet-seen",
        }
    }

    /// The value that the client sent. When it sent several, none counts: one of them is not ours.
    pub fn get(self, headers: &HeaderMap, cookie: Cookie) -> Option<&str> {
        let name = self.name(cookie);
        let mut values = headers
            .get_all(header::COOKIE)
            .into_iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| v);
        let first = values.next();
        if values.next().is_some() { None } else { first }
    }

    /// A `Set-Cookie` value; `None` as lifetime lasts until the browser is closed.
    pub fn set(self, cookie: Cookie, value: &str, lifetime: Option<Duration>) -> HeaderValue {
        let secure = if self.secure { "; Secure" } else { "" };
        let age = lifetime.map(|l| format!("; Max-Age={}", l.as_secs())).unwrap_or_default();
        let text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}", self.name(cookie));
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// A `Set-Cookie` value that removes the cookie.
    pub fn remove(self, cookie: Cookie) -> HeaderValue {
        self.set(cookie, "", Some(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_https_the_prefix_and_every_attribute_are_there() {
        let value =
            Cookies::new("https://www.foobar.com").set(Cookie::Session, "t", Some(Duration::from_secs(60)));
        assert_eq!(value, "__Host-trivet-session=t; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=60");
    }

    #[test]
    fn cookies_are_found_by_their_whole_name_and_never_guessed_among_two() {
        let cookies = Cookies::new("https://www.foobar.com");
        let get = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_static(text));
            cookies.get(&headers, Cookie::Session).map(str::to_owned)
        };
        assert_eq!(get("a=b; __Host-trivet-session=t; c=d").as_deref(), Some("t"));
        assert_eq!(get("trivet-session=t"), None);
        assert_eq!(get("x__Host-trivet-session=t"), None);
        assert_eq!(get("__Host-trivet-session=t; __Host-trivet-session=u"), None);
    }
}
