//! Requests that change something must come from our own pages.

use axum::http::{HeaderMap, header};

/// Whether `Origin`, or `Sec-Fetch-Site` where there is none, allows a request that changes something. Programs send
/// neither; for them the CSRF token or the bearer token decides.
pub fn allowed(headers: &HeaderMap, own: &str) -> bool {
    if let Some(origin) = headers.get(header::ORIGIN) {
        let Ok(origin) = origin.to_str() else { return false };
        return origin.eq_ignore_ascii_case(own) || same_host(origin, headers);
    }
    headers.get("sec-fetch-site").is_none_or(|site| matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// The site may be reached by another of its names (a node's address, localhost); the browser's `Origin` and `Host` then
/// agree, and neither can be chosen by a foreign page.
fn same_host(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let of_origin = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    matches!((host, of_origin), (Some(host), Some(of_origin)) if host.eq_ignore_ascii_case(of_origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://www.foobar.com";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<header::HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn our_own_pages_and_programs_may() {
        for good in [
            &[("origin", OWN)][..],
            &[("origin", "http://127.0.0.1:8081"), ("host", "127.0.0.1:8081")],
            &[("sec-fetch-site", "same-origin")],
            &[],
        ] {
            assert!(allowed(&headers(good), OWN), "{good:?}");
        }
    }

    #[test]
    fn foreign_pages_may_not() {
        for bad in [
            &[("origin", "https://evil.example"), ("host", "www.foobar.com")][..],
            &[("origin", "null"), ("host", "www.foobar.com")],
            &[("origin", "https://www.foobar.com.evil.example"), ("host", "www.foobar.com")],
            &[("origin", "https://foobar.com"), ("host", "www.foobar.com")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            assert!(!allowed(&headers(bad), OWN), "{bad:?}");
        }
    }
}
