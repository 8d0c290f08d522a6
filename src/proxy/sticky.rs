//! Sessions that stay on one back end: a cookie says which, sealed, so that nobody reads or chooses it, and every balancer of the
//! cluster understands it. It is ours alone: back ends do not see it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::HeaderValue;
use metrics::{Counter, counter};

use crate::upstream::HttpBackend;
use trivet_http::cookie;
use trivet_tls::seal::Seal;

/// What keys are derived for.
pub const PURPOSE: &str = "sticky cookie";
/// Of a back end's number, and of the second of Unix time in which it was sealed, both in network order.
const SEALED: usize = 16;
/// Longer than any of ours.
const LONGEST: usize = 128;
/// Cookies of the name that are tried; one client has one, and two where another domain's has the same name.
const MOST_TRIED: usize = 4;

/// The cookie of a pool.
#[derive(Debug)]
pub struct Sticky {
    /// The pool's name: another's cookie says nothing here.
    pool: String,
    name: String,
    /// What follows the value, with its `;`.
    attributes: String,
    /// In seconds.
    max_age: Option<u64>,
    seal: Seal,
    meters: [Counter; 4],
}

/// What a request says of the back end that its session is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    /// A cookie that is not ours, or no longer.
    Invalid,
    /// The back end's number, and whether the cookie is to be set anew before it ends.
    Backend(u64, bool),
}

/// A request's session.
#[derive(Debug, Clone)]
pub struct Session {
    sticky: Arc<Sticky>,
    said: Said,
}

impl Sticky {
    /// The cookie `name` of `pool`, which ends after `max_age` seconds or with the browser. `attributes` are what else follows its
    /// value (RFC 6265 section 4.1.1).
    pub fn new(pool: &str, name: &str, attributes: &str, max_age: Option<u64>, seal: Seal) -> Arc<Self> {
        let age = max_age.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
        let meter = |result: &'static str| counter!("trivet_sticky_requests_total", "pool" => pool.to_owned(), "result" => result);
        Arc::new(Self {
            pool: pool.into(),
            name: name.into(),
            attributes: format!("{attributes}{age}"),
            max_age,
            seal,
            meters: ["new", "invalid", "kept", "moved"].map(meter),
        })
    }

    /// The session of a request with these lines of cookies.
    pub fn session<'a>(self: &Arc<Self>, lines: impl IntoIterator<Item = &'a [u8]>) -> Session {
        Session { sticky: self.clone(), said: self.said(lines, now()) }
    }

    fn said<'a>(&self, lines: impl IntoIterator<Item = &'a [u8]>, now: u64) -> Said {
        let mut said = Said::Nothing;
        for value in cookie::values(lines, &self.name).take(MOST_TRIED) {
            match self.open(value, now) {
                Some((backend, due)) => return Said::Backend(backend, due),
                None => said = Said::Invalid,
            }
        }
        said
    }

    fn open(&self, value: &[u8], now: u64) -> Option<(u64, bool)> {
        let sealed = Some(value).filter(|v| v.len() <= LONGEST)?;
        let plain = self.seal.open(&URL_SAFE_NO_PAD.decode(sealed).ok()?, &self.pool)?;
        let plain = <[u8; SEALED]>::try_from(plain).ok()?;
        let [backend, since] = [&plain[..8], &plain[8..]].map(|p| p.try_into().map_or(0, u64::from_be_bytes));
        // Clocks of nodes differ.
        let age = now.saturating_sub(since);
        match self.max_age {
            Some(most) if age >= most => None,
            Some(most) => Some((backend, age >= most / 2)),
            None => Some((backend, false)),
        }
    }

    /// As in `Set-Cookie`.
    fn cookie(&self, backend: u64, now: u64) -> Option<HeaderValue> {
        let plain = [backend.to_be_bytes(), now.to_be_bytes()].concat();
        let value = URL_SAFE_NO_PAD.encode(self.seal.seal(&plain, &self.pool)?);
        let mut field = HeaderValue::from_str(&format!("{}={value}{}", self.name, self.attributes)).ok()?;
        // No other answer has it, so it has no place in the table of HPACK (RFC 7541 section 7.1.3).
        field.set_sensitive(true);
        Some(field)
    }
}

impl Session {
    /// The number of the back end that it is on.
    pub fn backend(&self) -> Option<u64> {
        match self.said {
            Said::Backend(backend, _) => Some(backend),
            Said::Nothing | Said::Invalid => None,
        }
    }

    /// The name of its cookie.
    pub(super) fn cookie_name(&self) -> &str {
        &self.sticky.name
    }

    /// The cookie that the client needs after an answer of `backend`, where it needs one.
    pub(super) fn served_by(&self, backend: &HttpBackend) -> Option<HeaderValue> {
        let (meter, needs) = match self.said {
            Said::Nothing => (0, true),
            Said::Invalid => (1, true),
            Said::Backend(same, due) if same == backend.id() => (2, due),
            Said::Backend(..) => (3, true),
        };
        self.sticky.meters[meter].increment(1);
        needs.then(|| self.sticky.cookie(backend.id(), now())).flatten()
    }
}

/// The second of Unix time.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(pool: &str, max_age: Option<u64>) -> Arc<Sticky> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff").unwrap();
        Sticky::new(pool, "srv", "; Path=/; HttpOnly", max_age, Seal::load(&path, PURPOSE).unwrap())
    }

    /// A line of cookies with the value of this `Set-Cookie`.
    fn line(set: &HeaderValue) -> Vec<u8> {
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        format!("other=1; {pair}").into_bytes()
    }

    #[test]
    fn a_cookie_leads_back_on_every_node_and_to_no_other_pool() {
        let set = sticky("web", None).cookie(7, 1000).unwrap();
        let said = |pool: &str| sticky(pool, None).said([&line(&set)[..]], u64::MAX);
        assert_eq!(said("web"), Said::Backend(7, false));
        assert_eq!(said("api"), Said::Invalid);
        assert!(set.to_str().unwrap().ends_with("; Path=/; HttpOnly"), "{set:?}");
    }

    #[test]
    fn a_cookie_is_set_anew_after_half_of_its_time_and_worth_nothing_after_it() {
        let sticky = sticky("web", Some(100));
        let set = sticky.cookie(7, 1000).unwrap();
        assert!(set.to_str().unwrap().ends_with("; Path=/; HttpOnly; Max-Age=100"), "{set:?}");
        let said = |now| sticky.said([&line(&set)[..]], now);
        for (now, expected) in [
            (990, Said::Backend(7, false)),
            (1049, Said::Backend(7, false)),
            (1050, Said::Backend(7, true)),
            (1099, Said::Backend(7, true)),
            (1100, Said::Invalid),
        ] {
            assert_eq!(said(now), expected, "{now}");
        }
    }

    #[test]
    fn what_is_forged_is_nothing_and_hides_nothing() {
        let sticky = sticky("web", None);
        let good = line(&sticky.cookie(7, 1000).unwrap());
        assert_eq!(sticky.said([&b"a=1"[..]], 1000), Said::Nothing);
        let long = [&b"srv="[..], &[b'A'; 4096]].concat();
        for forged in [&b"srv=node2"[..], b"srv=", b"srv=AAAA", b"srv=\xff", &long] {
            assert_eq!(sticky.said([forged], 1000), Said::Invalid);
            assert_eq!(sticky.said([forged, &good[..]], 1000), Said::Backend(7, false));
        }
    }
}
