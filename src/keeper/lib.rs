//! The keeper: one beside each mysqld. It forms the group, lets members join and rejoin, re-forms the group after a
//! complete outage, and tells the truth about its member over HTTP.
//!
//! MySQL's own Paxos elects; the keeper only drives what MySQL offers, and refuses when it is unsure.
//!
//! Facts flow one way: [`observe`] and [`peers`] write what they see on the [`board`]; [`runner`] hands it to [`decide`],
//! which is pure, and lets [`execute`] do the one step that comes out; [`server`] answers from the board by [`verdict`].

pub mod accounts;
pub mod attempts;
pub mod board;
pub mod config;
pub mod control;
pub mod credentials;
pub mod decide;
pub mod disk;
pub mod execute;
pub mod leave;
pub mod model;
pub mod observe;
pub mod peers;
pub mod record;
pub mod report;
pub mod run;
pub mod runner;
pub mod server;
pub mod sql;
pub mod switchover;
pub mod verdict;
