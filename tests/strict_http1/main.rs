//! Strict HTTP/1.1 between a client and a back end of which every byte is known: what is refused, what must pass, and how
//! it passes. docs/http.md is the table of these rules; `rules.rs` holds table and tests together.
#![allow(missing_docs)]

mod aborts;
mod chunked;
mod connections;
mod expectations;
mod fields;
mod forwarding;
mod framing;
mod hosts;
mod interim;
mod request_line;
mod response_bodies;
mod responses;
mod retries;
mod rules;
mod segmentation;
mod streaming;
mod targets;
mod upgrades;
mod web_tier;
