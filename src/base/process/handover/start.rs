//! `--reload`: the start of a process that takes over, and what comes of it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt::socket_type;

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

/// Beyond what the successor itself and the one before it allow each other; within the 90 s that systemd gives a reload by itself.
const PATIENCE: Duration = START.saturating_add(ANSWER).saturating_add(ANSWER);

fn successor(config: &Path) -> Result<u32, (String, u8)> {
    let failed = |e: io::Error| (e.to_string(), 1);
    let (heard, told) = UnixStream::pair().map_err(failed)?;
    heard.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut leaving = again(config, "--leave-successor", Stdio::from(OwnedFd::from(told))).map_err(failed)?;
    leaving.wait().map_err(failed)?;
    let mut said = String::new();
    // The successor ends with the connection to this one.
    BufReader::new(heard).read_line(&mut said).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => (format!("the new one did not serve within {PATIENCE:?}"), 1),
        _ => (format!("nothing was heard of the new one: {e}"), 1),
    })?;
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

/// Whether it is decided what becomes of a process that takes over: it ends with `--reload`, or it says that it serves.
static IS_DECIDED: AtomicBool = AtomicBool::new(false);

/// Has this process, which takes over, end with `--reload`, wherever it stands then: a reload that was given up, by systemd or by
/// whoever asked for it, is not to happen later.
pub fn end_with_starter(program: &'static str) {
    let starter = io::stdin().as_fd().try_clone_to_owned();
    let Some(starter) = starter.ok().filter(|starter| socket_type(starter).is_ok()) else { return };
    std::thread::spawn(move || {
        // It never says anything.
        let _ = UnixStream::from(starter).read(&mut [0]);
        if !IS_DECIDED.swap(true, Ordering::SeqCst) {
            eprintln!("{program}: --reload has ended before this process served: ending, too");
            std::process::exit(1);
        }
    });
}

/// From now on this process does not end with `--reload` any more; `false` when it does already.
pub(in crate::process) fn outlive_starter() -> bool {
    !IS_DECIDED.swap(true, Ordering::SeqCst)
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
