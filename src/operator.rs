//! The operator's command, `trivet`: secrets before the first start, status afterwards.

pub mod cli;
pub mod cluster;
pub mod secrets;
pub mod status;
