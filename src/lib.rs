//! Trivet: three servers that carry one website and keep carrying it when any one of them dies.
//!
//! Rooms know the rooms below them and none beside them: `balancer`, `web`, `app`, `keeper` and `operator` do not
//! import one another; what they share stands in `proxy`, `pool`, `http`, `tls`, `config`, `telemetry` and `process`.

pub mod app;
pub mod balancer;
pub mod config;
pub mod http;
pub mod keeper;
pub mod operator;
pub mod pool;
pub mod process;
pub mod proxy;
pub mod telemetry;
pub mod tls;
pub mod web;
