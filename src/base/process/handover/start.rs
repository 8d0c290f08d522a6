//! `--reload`: the start of a process that takes over, and what comes of it.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use super::{ANSWER, START};
use crate::process::EX_USAGE;

/// `--reload`: starts this very program anew, to take over from the process that runs, and waits until it serves. It is not
/// this one's child afterwards. Its exit status when it cannot.
pub fn start_successor(program: &str, config: &Path) -> ExitCode {
    match successor(config) {
        Ok(pid) => {
            println!("{program}: process {pid} serves now");
            ExitCode::SUCCESS
        }
        Err((why, code)) => {
            eprintln!("{program}: not reloaded, the process that runs goes on: {why}");
            ExitCode::from(code)
        }
    }
}

/// This program again, with this configuration and one more argument.
fn again(config: &Path, argument: &str, stdin: Stdio) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("--config")
        .arg(config)
        .arg(argument)
        .stdin(stdin)
        // What ends this one at a terminal does not end the other.
        .process_group(0)
        .spawn()
}

/// What `--reload` starts: it leaves the new process behind, so that its parent is whoever looks after the children of processes that
/// have ended. systemd warns of a main process that is another one's child.
pub fn leave_successor(program: &str, config: &Path) -> ExitCode {
    match again(config, "--take-over", Stdio::inherit()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{program}: cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}

fn successor(config: &Path) -> Result<u32, (String, u8)> {
    let failed = |e: io::Error| (e.to_string(), 1);
    let (heard, told) = UnixStream::pair().map_err(failed)?;
    // Beyond what the successor itself and the one before it allow each other.
    heard.set_read_timeout(Some(START + 2 * ANSWER)).map_err(failed)?;
    let mut leaving = again(config, "--leave-successor", Stdio::from(OwnedFd::from(told))).map_err(failed)?;
    leaving.wait().map_err(failed)?;
    let mut said = String::new();
    BufReader::new(heard)
        .read_line(&mut said)
        .map_err(|e| (format!("nothing was heard of the new process: {e}"), 1))?;
    let code = |text: &str| text.parse().ok().filter(|code| *code != 0).unwrap_or(1);
    match said.trim_end().split_once(' ') {
        Some(("serving", pid)) => Ok(pid.parse().unwrap_or_default()),
        Some(("ended", text)) if code(text) == EX_USAGE => {
            Err(("its configuration cannot be used".into(), EX_USAGE))
        }
        Some(("ended", text)) => Err((format!("the new one has ended (status {text})"), code(text))),
        _ => Err(("the new one has ended".into(), 1)),
    }
}

/// Tells `--reload` what became of this process, which is not its child.
fn tell_starter(what: &str) {
    if let Ok(starter) = io::stdin().as_fd().try_clone_to_owned() {
        let _ = UnixStream::from(starter).write_all(what.as_bytes());
    }
}

/// Tells `--reload` that this process serves.
pub(in crate::process) fn tell_serving() {
    tell_starter(&format!("serving {}\n", std::process::id()));
}

/// Tells `--reload` that this process ends, and with which exit status.
pub fn tell_ended(code: u8) {
    tell_starter(&format!("ended {code}\n"));
}
