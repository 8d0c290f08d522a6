//! What a message of HTTP is, as balancer and web tier share it. Nothing here knows of back ends.
//!
//! * [`steps`]: what every request passes, over a neutral [`head`]; [`strict`] and [`forwarded`] are its larger steps,
//!   [`refusal`] is why a request gets no further, [`pages`] what a client sees then.
//! * The codec of HTTP/1.1: [`scan`], [`field`], [`request`], [`response`], [`body`]; [`pump`] moves content from one framing into
//!   another. [`websocket`]: upgrades between HTTP/1.1 and HTTP/2.
//! * [`cookie`]: the cookies of a request.
//! * [`frames`]: HTTP/2 frames that nobody needs so many of.
//! * [`proxy_protocol`]: who the client is behind another load balancer.
//! * [`client`]: a small client for checks.

pub mod body;
pub mod changes;
pub mod client;
pub mod cookie;
pub mod field;
pub mod forwarded;
pub mod frames;
pub mod head;
pub mod pages;
pub mod proxy_protocol;
pub mod pump;
pub mod refusal;
pub mod request;
pub mod response;
pub mod scan;
pub mod steps;
pub mod strict;
pub mod websocket;
