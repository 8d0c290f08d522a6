//! `limits` of a site: what holds for its requests where their route says nothing else.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use trivet_base::config::{self, Invalid};
use trivet_proxy::Terms;
use trivet_proxy::admission::RequestRate;

/// `limits = { … }` of a site. What is absent is as the pool and `[https]` say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteLimits {
    /// Further back ends that are tried when one fails.
    #[serde(default)]
    pub retries: Option<usize>,
    /// See [`Terms::request_timeout`].
    #[serde(default, with = "humantime_serde")]
    pub request_timeout: Option<Duration>,
    /// See [`Terms::response_timeout`].
    #[serde(default, with = "humantime_serde")]
    pub response_timeout: Option<Duration>,
    /// See [`Terms::stream_timeout`].
    #[serde(default, with = "humantime_serde")]
    pub stream_timeout: Option<Duration>,
    /// See [`Terms::max_body_size`].
    #[serde(default)]
    pub max_body_size: Option<ByteSize>,
    /// See [`Terms::buffer_request`].
    #[serde(default)]
    pub buffer_request: Option<ByteSize>,
    /// Requests a second of one client to this site, beside `https.request_rate`, which counts those to all sites. Above it 429.
    #[serde(default)]
    pub request_rate: Option<RequestRate>,
}

impl SiteLimits {
    pub(super) fn validate(&self, key: &str) -> Result<(), Invalid> {
        terms(key, &self.terms())?;
        self.request_rate.map_or(Ok(()), |it| rate(&format!("{key}.request_rate"), it))
    }

    /// What its requests are served on.
    pub fn terms(&self) -> Terms {
        Terms {
            request_timeout: self.request_timeout,
            response_timeout: self.response_timeout,
            stream_timeout: self.stream_timeout,
            max_body_size: self.max_body_size.map(|size| size.as_u64()),
            buffer_request: self.buffer_request.map(|size| size.as_u64()),
        }
    }
}

/// Octets of a request that wait in memory.
const MOST_BUFFERED: u64 = 1 << 20;

/// Refuses a time-out of nothing, and more than a request may take of the memory.
pub(super) fn terms(key: &str, terms: &Terms) -> Result<(), Invalid> {
    for (name, time) in [
        ("request_timeout", terms.request_timeout),
        ("response_timeout", terms.response_timeout),
        ("stream_timeout", terms.stream_timeout),
    ] {
        if let Some(time) = time {
            config::positive(&format!("{key}.{name}"), time)?;
        }
    }
    if let Some(size) = terms.buffer_request.filter(|size| !(1..=MOST_BUFFERED).contains(size)) {
        return Invalid::err(
            format!("{key}.buffer_request"),
            format_args!(
                "is {}; it is from 1 B to 1 MiB, which each such request may take of the memory",
                ByteSize(size)
            ),
        );
    }
    Ok(())
}

/// Refuses a rate at which nobody is served, and what is no prefix of an IPv6 address.
pub(super) fn rate(key: &str, rate: RequestRate) -> Result<(), Invalid> {
    for (name, n) in [("rate", rate.rate), ("burst", rate.burst)] {
        if n == 0 {
            return Invalid::err(format!("{key}.{name}"), "must be at least 1");
        }
    }
    if !(1..=128).contains(&rate.ipv6_prefix) {
        return Invalid::err(format!("{key}.ipv6_prefix"), "must be from 1 to 128");
    }
    Ok(())
}
