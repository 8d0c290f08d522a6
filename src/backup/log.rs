//! The binary log as it is written: streamed from a member by GTID, cut into segments, sealed, and kept in order.
//!
//! [`frame`] cuts octets into events and transactions, [`segment`] is one object, [`catalog`] knows which there are and finds gaps,
//! [`source`] chooses a member, [`archive`] keeps it going.

pub mod archive;
pub mod catalog;
pub mod frame;
pub mod segment;
pub mod source;
#[cfg(test)]
pub mod tests;
