//! Backups: base copies and the binary log as it is written, kept outside the cluster, and proven by restoring them.
//!
//! [`run`] is the service, [`commands`] what an operator does. Beneath: [`base`] and [`files`] copy into a [`repository`], [`log`] streams
//! into a [`storage`], [`restore`] brings back, [`verify`] proves it, [`prune`] takes away. [`cluster`] is what all of them begin with.

pub mod base;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
#[cfg(test)]
mod faults;
pub mod files;
pub mod history;
pub mod keys;
pub mod log;
pub mod mysqld;
pub mod progress;
pub mod prune;
pub mod repository;
pub mod restore;
pub mod run;
pub mod sql;
pub mod status;
pub mod storage;
pub mod tables;
pub mod verify;
