//! The keeper: one beside each mysqld. It forms the group, lets members join and rejoin, re-forms the group after a
//! complete outage, and tells the truth about its member over HTTP.
//!
//! MySQL's own Paxos elects; the keeper only drives what MySQL offers, and refuses when it is unsure.

pub mod config;
pub mod gtid;
