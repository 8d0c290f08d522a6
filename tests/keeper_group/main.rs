//! Keepers with real mysqld, on this machine: each file is one story.

mod forced;
mod forming;
mod growing;
mod harness;
mod planned;
mod troubles;
