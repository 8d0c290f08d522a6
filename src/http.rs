//! HTTP pieces that several programs share.

pub mod client;
