//! Backups: base copies and the binary log as it is written, kept outside the cluster, and proven by restoring them.

pub mod base;
pub mod config;
pub mod keys;
pub mod log;
pub mod mysqld;
pub mod progress;
pub mod repository;
pub mod restore;
pub mod storage;
