//! Moving a database into the cluster, and out of it. MySQL's own means do the work: `mysqldump` copies, a replication channel follows.
//!
//! [`import`] and [`export`] are the commands. Beneath: [`report`] looks at a source before anything is done, [`dump`] runs MySQL's
//! programs, [`channel`] is the replication channel, [`cut_over`] and [`back`] end it, [`state`] is what the cluster remembers of it.

pub mod back;
pub mod channel;
pub mod cli;
pub mod compare;
pub mod cut_over;
pub mod dump;
pub mod error;
pub mod export;
pub mod filter;
pub mod goal;
pub mod import;
pub mod locks;
pub mod report;
pub mod server;
pub mod state;
