//! The operator's command, `trivet`: secrets before the first start, status and the database's planned work afterwards.

pub mod cli;
pub mod cluster;
pub mod database;
pub mod keeper;
pub mod secrets;
pub mod status;
pub mod switchover;
