//! What the fuzz targets do with their bytes, one function each. The targets under `fuzz_targets` only call these, and so does
//! `tests/fuzz_corpus.rs`, which replays the corpus with nothing but `cargo test`.
//!
//! Each function holds its subject to properties that need no oracle: no panic; the same bytes cut anywhere mean the same;
//! what is passed on can be read in one way only; what was written is read as it was meant.

mod apart;
mod bodies;
mod configuration;
mod connections;
mod heads;
mod proxy;
mod strict_reader;

/// A target's name, and what it does with its bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; each has a folder of its name in `corpus`.
pub const TARGETS: &[Target] = &[
    ("request_head", heads::request),
    ("response_head", heads::response),
    ("chunked_body", bodies::chunked),
    ("proxy_header", proxy::header),
    ("connection", connections::connection),
    ("http2_connection", connections::http2_connection),
    ("clients_apart", apart::clients),
    ("configuration", configuration::any),
];

/// Does what the target of this name does.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).expect("a target of that name");
    target(bytes);
}
