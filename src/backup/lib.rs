//! Backups: base copies and the binary log as it is written, kept outside the cluster, and proven by restoring them.

pub mod config;
pub mod keys;
pub mod log;
pub mod progress;
pub mod repository;
pub mod storage;
