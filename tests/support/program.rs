//! The real program as a child process, followed by its log.

// The stories run on several threads, so one of them may wait.
#![allow(clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use parking_lot::Mutex;
use serde_json::Value;

use super::PATIENCE;
use super::built::built;

const BALANCER: &str = "trivet-balancer";

pub struct Program {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts the balancer and waits until it serves.
    pub fn start(config: &Path) -> Self {
        Self::start_other(BALANCER, config)
    }

    /// Starts another of the programs and waits until it serves.
    pub fn start_other(program: &str, config: &Path) -> Self {
        let mut command = Command::new(built(program));
        command.arg("--config").arg(config).stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Runs a command that becomes one of the programs, and waits until it serves.
    pub fn spawn(command: Command) -> Self {
        let program = Self::begin(command);
        program.logged(|line| line["message"] == "serving");
        program
    }

    /// As [`spawn`](Self::spawn), but waits for nothing.
    pub fn begin(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, to) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| to.lock().push(line)));
        Self { child, log }
    }

    /// Waits for a log line.
    pub fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let found = self.lines().into_iter().find(&wanted);
            if let Some(line) = found {
                return line;
            }
            assert!(began.elapsed() < PATIENCE, "no such line in the log:\n{}", self.log.lock().join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The log so far.
    pub fn lines(&self) -> Vec<Value> {
        self.log.lock().iter().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// The line of the access log for a path.
    pub fn access(&self, path: &str) -> Value {
        self.logged(|line| line["target"] == "trivet::access" && line["path"] == path)
    }

    /// Where the listener of this key listens.
    pub fn address(&self, key: &str) -> SocketAddr {
        let line = self.logged(|line| line["message"] == "listening" && line["key"] == key);
        line["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let done =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(done.success());
    }

    /// Bytes of memory that it holds now.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// As [`memory`](Self::memory), in KiB.
    pub fn memory_kib(&self) -> u64 {
        (self.memory() / 1024) as u64
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end:\n{}", self.log.lock().join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the program\n{}\n---", self.log.lock().join("\n"));
        }
    }
}

/// Exit status and standard error of a program that cannot start. Systemd must have heard nothing of it, READY=1 least of all. One that
/// starts all the same is killed; its status is -1.
pub fn ended_unready(mut command: Command) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let notify = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_nonblocking(true).unwrap();
    command.env("NOTIFY_SOCKET", &notify).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let heard = systemd.recv(&mut [0; 4096]);
    assert!(heard.is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "systemd has heard of it:\n{said}");
    (out.status.code().unwrap_or(-1), said)
}

/// Exit status and standard error of a call that should not run for long.
pub fn call(arguments: &[&str]) -> (i32, String) {
    call_other(BALANCER, arguments)
}

/// As [`call`], of another of the programs.
pub fn call_other(program: &str, arguments: &[&str]) -> (i32, String) {
    let out = Command::new(built(program)).args(arguments).output().unwrap();
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Exit status and all that the operator's command says.
pub fn trivet(arguments: &[&str]) -> (i32, String) {
    let out = Command::new(built("trivet")).args(arguments).output().unwrap();
    let said = [out.stdout, out.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
    (out.status.code().unwrap_or(-1), said)
}
