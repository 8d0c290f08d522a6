//! Processes that take over from one another.

// The stories run on several threads, so one of them may wait.
#![allow(clippy::disallowed_methods)]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parking_lot::Mutex;

use super::built::built;

/// Ports of this machine that are free now: 0 would be another one for every process.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|l| l.local_addr().unwrap().port())
}

/// The processes that came after the first. They are nobody's children; whoever is left ends with this.
pub struct Successors {
    config: PathBuf,
    /// For what they say.
    folder: tempfile::TempDir,
    pids: Mutex<Vec<u32>>,
}

impl Successors {
    /// Of a balancer that runs with this configuration.
    pub fn of(config: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { config: config.into(), folder, pids: Mutex::default() }
    }

    /// Those that have served so far, in their order.
    pub fn pids(&self) -> Vec<u32> {
        self.pids.lock().clone()
    }

    /// Reloads, which must go well.
    pub fn reload(&self) {
        let (code, said) = self.try_reload(|_| {});
        assert_eq!(code, 0, "{said}");
    }

    /// Exit status of a reload, and what was said.
    pub fn try_reload(&self, prepare: impl FnOnce(&mut Command)) -> (i32, String) {
        // The successor keeps standard error open, so it is no pipe.
        let said = self.folder.path().join("said");
        let mut command = Command::new(built("trivet-balancer"));
        command.args(["--reload", "--config"]).arg(&self.config);
        command.stderr(File::create(&said).unwrap()).stdout(Stdio::piped()).stdin(Stdio::null());
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        let code = child.wait().unwrap().code().unwrap_or(-1);
        if let Some(pid) = line.split(' ').nth(2).and_then(|pid| pid.parse().ok()) {
            self.pids.lock().push(pid);
        }
        (code, std::fs::read_to_string(said).unwrap())
    }
}

impl Drop for Successors {
    fn drop(&mut self) {
        for pid in self.pids.get_mut() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}
