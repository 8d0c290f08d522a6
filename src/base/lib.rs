//! What every program needs: its configuration, its life as a process, its logs and metrics.

pub mod address;
pub mod config;
pub mod disk;
pub mod passwd;
pub mod process;
pub mod telemetry;
