//! Back ends, which of them are healthy, and which one is next: one module for HTTP balancer, TCP gateway and web tier.

pub mod config;
