//! The last requests that came to nothing, kept for whoever asks what is going on.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;

/// How many are kept.
pub const KEPT: usize = 200;

/// A request that was answered by an error of ours or of a back end, or not to its end.
#[derive(Debug, Clone, Serialize)]
pub struct Trouble {
    /// RFC 3339.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    pub request_id: String,
    pub client: Option<IpAddr>,
    pub method: Option<String>,
    pub host: String,
    /// Without its query, which may have what logs should not.
    pub path: String,
    /// 0 where none could be sent.
    pub status: u16,
    pub aborted: bool,
    pub route: Option<String>,
    pub backend: Option<String>,
    /// Where the answer is ours.
    pub reason: Option<String>,
}

fn rfc3339<S: serde::Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis(*at))
}

static LAST: Mutex<VecDeque<Trouble>> = Mutex::new(VecDeque::new());

/// Keeps one, in the place of the oldest. While another one is just being kept this one is not: under a flood of them it does not
/// matter which.
pub fn keep(trouble: impl FnOnce() -> Trouble) {
    if let Some(mut last) = LAST.try_lock() {
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(trouble());
    }
}

/// All that are kept, the latest first.
pub fn last() -> Vec<Trouble> {
    LAST.lock().iter().rev().cloned().collect()
}
