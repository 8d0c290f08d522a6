//! Which other sites' pages may use this one (the Fetch standard, section 3.2): answered for the app, which need know nothing of it.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};

use trivet_http::changes::{Change, Changes, Manner};
use trivet_http::head::RequestHead;
use trivet_proxy::{Answer, Content};

/// Who may, and what.
#[derive(Debug, Clone)]
pub struct Cors {
    /// As browsers write them; empty for any.
    pub origins: Vec<HeaderValue>,
    pub methods: HeaderValue,
    /// Fields of requests; none for whatever is asked for.
    pub fields: Option<HeaderValue>,
    /// Fields of answers that scripts may see.
    pub expose: Option<HeaderValue>,
    pub credentials: bool,
    /// Seconds for which a browser remembers it.
    pub max_age: HeaderValue,
}

/// What an app may have said itself.
const APPS_OWN: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

impl Cors {
    /// The origin that a request comes from, if it may.
    fn allowed(&self, head: &impl RequestHead) -> Option<HeaderValue> {
        if self.origins.is_empty() {
            // Also to who names no origin: a cache may show the answer to one who does.
            return Some(HeaderValue::from_static("*"));
        }
        let origin = head.first(&ORIGIN)?;
        self.origins.iter().find(|o| o.as_bytes().eq_ignore_ascii_case(origin)).cloned()
    }

    /// The answer to the question that a browser asks before the request itself; none to another request.
    pub fn preflight(&self, head: &impl RequestHead) -> Option<Answer> {
        let asks = *head.method() == Method::OPTIONS
            && head.first(&ORIGIN).is_some()
            && head.first(&ACCESS_CONTROL_REQUEST_METHOD).is_some();
        if !asks {
            return None;
        }
        let mut fields = vec![(VARY, HeaderValue::from_static("Origin, Access-Control-Request-Headers"))];
        if let Some(origin) = self.allowed(head) {
            fields.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin));
            fields.push((ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()));
            let asked = head.first(&http::header::ACCESS_CONTROL_REQUEST_HEADERS);
            let asked = asked.and_then(|names| HeaderValue::from_bytes(names).ok());
            if let Some(names) = self.fields.clone().or(asked) {
                fields.push((ACCESS_CONTROL_ALLOW_HEADERS, names));
            }
            fields.push((ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
            if self.credentials {
                fields.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
            }
        }
        let content = Content::Memory(Bytes::new());
        Some(Answer { status: StatusCode::NO_CONTENT, fields, content, close: false })
    }

    /// What is said with the answer to another request.
    pub fn changes(&self, head: &impl RequestHead) -> Changes {
        let change = |name, manner, value| Change { name, manner, value };
        let nothing = HeaderValue::from_static("");
        let mut all: Vec<Change> =
            APPS_OWN.into_iter().map(|name| change(name, Manner::Remove, nothing.clone())).collect();
        if !self.origins.is_empty() {
            // A cache must not show one origin what was said to another.
            all.push(change(VARY, Manner::Add, HeaderValue::from_static("Origin")));
        }
        if let Some(origin) = self.allowed(head) {
            all.push(change(ACCESS_CONTROL_ALLOW_ORIGIN, Manner::Add, origin));
            if let Some(names) = &self.expose {
                all.push(change(ACCESS_CONTROL_EXPOSE_HEADERS, Manner::Add, names.clone()));
            }
            if self.credentials {
                all.push(change(
                    ACCESS_CONTROL_ALLOW_CREDENTIALS,
                    Manner::Add,
                    HeaderValue::from_static("true"),
                ));
            }
        }
        Changes(all)
    }
}
