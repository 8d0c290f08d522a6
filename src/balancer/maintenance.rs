//! Maintenance of a site: its visitors are told that it is closed, until a moment, but for some.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use ipnet::IpNet;

/// What a visitor is told to wait when nobody has said for how long it lasts, in seconds.
pub const UNKNOWN: u64 = 120;

/// A site that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// In seconds of Unix time.
    pub until: Option<u64>,
    /// Whose clients are served as before.
    pub allow: Vec<IpNet>,
}

/// Whether a site is closed.
#[derive(Debug, Default)]
pub struct Maintenance(ArcSwapOption<Closed>);

impl Maintenance {
    /// Closes the site, or opens it.
    pub fn set(&self, closed: Option<Closed>) {
        if self.0.load().as_deref() != closed.as_ref() {
            self.0.store(closed.map(Into::into));
        }
    }

    /// After how many seconds this client may come again; none when the site is open for it.
    pub fn keeps_out(&self, client: IpAddr) -> Option<u64> {
        let closed = self.0.load();
        let closed = closed.as_deref()?;
        let client = client.to_canonical();
        if closed.allow.iter().any(|net| net.contains(&client)) {
            return None;
        }
        match closed.until {
            None => Some(UNKNOWN),
            Some(until) => until.checked_sub(now()).filter(|left| *left > 0),
        }
    }
}

/// Unix time in seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_everyone_but_those_who_are_allowed_and_ends_by_itself() {
        let maintenance = Maintenance::default();
        let (office, visitor) = (IpAddr::from([192, 0, 2, 7]), IpAddr::from([203, 0, 113, 5]));
        assert_eq!(maintenance.keeps_out(visitor), None);
        let allow = vec!["192.0.2.0/24".parse().unwrap()];
        maintenance.set(Some(Closed { until: None, allow: allow.clone() }));
        assert_eq!(maintenance.keeps_out(visitor), Some(UNKNOWN));
        assert_eq!(maintenance.keeps_out(office), None);
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(maintenance.keeps_out(mapped), None);
        maintenance.set(Some(Closed { until: Some(now() + 3600), allow: allow.clone() }));
        assert!(maintenance.keeps_out(visitor).is_some_and(|wait| wait > 3500));
        maintenance.set(Some(Closed { until: Some(now() - 1), allow }));
        assert_eq!(maintenance.keeps_out(visitor), None);
    }
}
