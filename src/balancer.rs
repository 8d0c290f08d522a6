//! The balancer: HTTP in front of the web tiers, and the database gateway in front of the members.

pub mod config;
