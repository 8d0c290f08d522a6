//! `trivet backup` and `trivet restore`: the work of `trivet-backup`, which is a program of its own so that this one stays small.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use trivet_base::passwd;
use trivet_base::process::Failure;

use super::programs::{become_it, beside};

const PROGRAM: &str = "trivet-backup";

/// The user that the service runs as.
const USER: &str = "trivet-backup";

/// `trivet backup ARGUMENTS`: as the service's own user, whose files these are. Returns only when it cannot be run.
pub fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let mut command = Command::new(program());
    command.args(arguments);
    if arguments.is_empty() {
        // Without a command it would be the service.
        command.arg("--help");
    }
    if rustix::process::geteuid().is_root()
        && let Some(service) = passwd::find(|account| account.name == USER)
    {
        // ssh keeps its sockets below the home, and root's is closed to others.
        command.uid(service.user).gid(service.group).env("HOME", service.home).current_dir("/");
        for variable in ["XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "TMPDIR"] {
            command.env_remove(variable);
        }
    }
    become_it(&mut command)
}

/// `trivet restore ARGUMENTS`: as whoever asks, who says where the data goes.
pub fn restore(arguments: &[OsString]) -> Result<(), Failure> {
    become_it(Command::new(program()).arg("restore").args(arguments))
}

/// `trivet-backup`.
pub fn program() -> PathBuf {
    beside(PROGRAM)
}
