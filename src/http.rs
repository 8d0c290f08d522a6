//! HTTP as balancer and web tier share it.
//!
//! * [`server`]: accept loops, TLS, deadlines and graceful stop around the engine.
//! * [`engine`]: HTTP/1.1 and HTTP/2, to clients and to back ends.
//! * [`steps`]: what every request passes, over a neutral [`head`]; [`strict`] and [`forwarded`] are its larger steps.
//! * [`exchange`]: the access log line and the metrics of one request. [`pages`]: what a client sees when it fails.
//! * [`frames`]: HTTP/2 frames that nobody needs so many of.
//! * [`proxy_protocol`]: who the client is behind another load balancer. [`admission`]: how much one client may ask for.
//! * [`client`]: a small client for checks.

pub mod admission;
pub mod client;
pub mod engine;
pub mod exchange;
pub mod forwarded;
pub mod frames;
pub mod head;
pub mod pages;
pub mod proxy_protocol;
pub mod quiet;
pub mod refusal;
pub mod server;
pub mod steps;
pub mod strict;
