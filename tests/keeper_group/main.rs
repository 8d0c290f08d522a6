//! Keepers with real mysqld, on this machine: each file is one story.

mod forming;
mod harness;
mod planned;
