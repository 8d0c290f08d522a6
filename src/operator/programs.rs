//! Commands that are programs of their own, so that this one stays small.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use trivet_base::process::Failure;

/// Replaces this process by a program. Returns only when it cannot be run.
pub fn become_it(command: &mut Command) -> Result<(), Failure> {
    let error = command.exec();
    Err(Failure::run(format_args!("{}: cannot be run: {error}", Path::new(command.get_program()).display())))
}

/// A program of Trivet's: beside this one, or wherever the shell finds it.
pub fn beside(name: &str) -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(name))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| name.into())
}
