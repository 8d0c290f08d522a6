//! Databases that are moved in and out, with real servers on this machine: a source, and a group that is entered.
#![allow(missing_docs)]

mod export;
mod harness;
mod moving;
mod primary;
mod report;
mod resuming;
