//! `trivet database import` and `trivet database export`: the work of `trivet-transfer`, which is a program of its own, with a client of
//! MySQL's in it.

use std::ffi::OsString;
use std::process::Command;

use trivet_base::process::Failure;

use super::programs::{become_it, beside};

/// `trivet database STEP ARGUMENTS`, as whoever asks: MySQL's socket knows root by its user id.
pub fn run(step: &str, arguments: &[OsString]) -> Result<(), Failure> {
    become_it(Command::new(beside("trivet-transfer")).arg(step).args(arguments))
}
