//! The web tier of one node: static files from memory, everything else from the app beside it.

pub mod config;
pub mod files;
pub mod path;
pub mod store;
