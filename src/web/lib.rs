//! The web tier of one node: static files from memory, everything else from the app beside it.
//!
//! ```text
//! balancer → [mutual TLS] → health → static files → app on this node → (down?) another node's web tier → its app
//! ```

pub mod config;
pub mod files;
pub mod path;
pub mod proxy;
pub mod serve;
pub mod site;
pub mod store;
pub mod upstreams;

mod holders;
mod send;
