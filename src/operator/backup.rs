//! `trivet backup` and `trivet restore`: the work of `trivet-backup`, which is a program of its own so that this one stays small.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use trivet_base::process::Failure;

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
        && let Some((user, group)) = ids(&std::fs::read_to_string("/etc/passwd").unwrap_or_default(), USER)
    {
        command.uid(user).gid(group);
    }
    become_it(&mut command)
}

/// `trivet restore ARGUMENTS`: as whoever asks, who says where the data goes.
pub fn restore(arguments: &[OsString]) -> Result<(), Failure> {
    become_it(Command::new(program()).arg("restore").args(arguments))
}

fn become_it(command: &mut Command) -> Result<(), Failure> {
    let error = command.exec();
    Err(Failure::run(format_args!("{}: cannot be run: {error}", Path::new(command.get_program()).display())))
}

/// Beside this program, or wherever the shell finds it.
fn program() -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(PROGRAM))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| PROGRAM.into())
}

/// User and group of a name in passwd(5).
fn ids(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [found, _, user, group, ..] if found == name => Some((user.parse().ok()?, group.parse().ok()?)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_its_whole_name() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\ntrivet-backup2:x:7:7::/:/\ntrivet-backup:x:991:990::/:/\n";
        assert_eq!(ids(passwd, USER), Some((991, 990)));
        assert_eq!(ids(passwd, "nobody"), None);
    }
}
