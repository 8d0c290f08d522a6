//! The operator's command, `trivet`: secrets before the first start, status and the database's planned work afterwards.

pub mod backup;
pub mod cli;
pub mod cluster;
pub mod control;
pub mod database;
mod datadir;
pub mod failover;
pub mod programs;
pub mod restore;
pub mod route;
pub mod secrets;
pub mod socket;
pub mod status;
pub mod switchover;
mod table;
pub mod top;
pub mod transfer;
