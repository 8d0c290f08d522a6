//! The connections that a service carries, for operators who ask.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

/// Those that are open.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<u64, Session>>,
    next: AtomicU64,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// Which service's, or which listener's of the database gateway.
    pub service: String,
    pub client: SocketAddr,
    pub backend: String,
    /// Its age in seconds.
    #[serde(serialize_with = "age", rename = "seconds")]
    pub since: Instant,
}

fn age<S: Serializer>(since: &Instant, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((since.elapsed().as_secs_f64() * 10.0).round() / 10.0)
}

impl Sessions {
    /// One begins, and is open until what is returned is dropped.
    pub fn begin(self: &Arc<Self>, service: &str, client: SocketAddr, backend: &str) -> Listed {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (service, backend) = (service.to_owned(), backend.to_owned());
        self.open.lock().insert(number, Session { service, client, backend, since: Instant::now() });
        Listed(self.clone(), number)
    }

    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<Session> {
        let mut all: Vec<Session> = self.open.lock().values().cloned().collect();
        all.sort_by_key(|session| session.since);
        all
    }
}

/// A session that is listed.
pub struct Listed(Arc<Sessions>, u64);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}
