//! What several parts of the keeper speak about: plain types that know none of them. What is observed stands in
//! [`report`](super::report), what operators exchange with a keeper in [`trivet_keeper_api`].

mod cluster;
mod force;
mod retry;

pub use cluster::Cluster;
pub use force::Force;
pub use retry::Retry;

/// Begins every reason that is about certificates.
pub const CERTIFICATE: &str = "certificates do not fit: ";
