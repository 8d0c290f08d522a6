//! The connections that a service carries, for operators who ask.

use std::net::SocketAddr;

use serde::Serialize;
use trivet_base::process::register::Register;

/// Those that are open.
pub type Sessions = Register<Session>;

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// Which service's, or which listener's of the database gateway.
    pub service: String,
    pub client: SocketAddr,
    pub backend: String,
}

impl Session {
    pub fn new(service: &str, client: SocketAddr, backend: &str) -> Self {
        Self { service: service.to_owned(), client, backend: backend.to_owned() }
    }
}
