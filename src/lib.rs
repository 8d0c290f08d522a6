//! Trivet: three servers that carry one website and keep carrying it when any one of them dies.
//!
//! This crate has what carries traffic, and what every program needs. Rooms know the rooms below them and none beside them:
//! `balancer` and `web` do not import each other; what they share stands in `proxy`, `pool`, `http`, `tls`, `config`, `telemetry`
//! and `process`. `app`, `keeper` and `operator` are crates of their own.

pub mod balancer;
pub mod config;
pub mod http;
pub mod pool;
pub mod process;
pub mod proxy;
pub mod telemetry;
pub mod tls;
pub mod web;
