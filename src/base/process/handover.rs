//! A reload: a new process takes the sockets of the one that runs, and serves in its place; the one before finishes what it has.
//!
//! ```text
//! trivet-balancer --reload                 started by systemctl reload (ExecReload=), in the unit's sandbox
//!    └─ trivet-balancer --take-over        (its parent has ended: systemd takes its place) reads and checks its configuration, then asks the one that runs:
//!
//!    new → old   {"notified": true}                       over handover.sock in the runtime directory
//!    old → new   {"sockets": […], "draining": […], …}     with the descriptors (unix(7), SCM_RIGHTS)
//!    new         checks its back ends, accepts from the same sockets
//!    new → old   serving
//!    old         MAINPID= of the new one (sd_notify(3)), accepts nothing any more
//!    old → new   released                                 or stopping, when it was asked to
//!    new         READY=1, takes handover.sock's place; --reload exits with 0
//! ```
//!
//! Until `serving` is said nothing has changed for the one that runs: whatever the new one meets (a bad configuration, an address
//! in use, the end of `--reload`) ends the new one alone. Both accept for a moment, from one queue, so that nobody is refused. From
//! then on one of the two serves whatever happens to the other: the one before does not let go for one that has ended, and the new
//! one does not end because the one before did.
//!
//! The connection stays: over it the one before tells what it still has ([`Report`]), and can be told to end. It is handed on to
//! the next successor like a socket.
//!
//! Pingora's own hand-over (`Fds::send_to_sock`) is not used: it waits a second, takes no more than 2,048 octets of names and
//! panics beyond, and for a moment has a socket that every user may write to. Its table of descriptors is.

use std::fs::Permissions;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr as UnixSocketAddress, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::gauge;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sockets::Sockets;
use super::{Failure, Shutdown, unix_socket};
use crate::config::{self, ConfigError, Invalid};
use wire::{Hello, MOST_DESCRIPTORS, Offer, is_closed, line, own_user};

pub mod start;
mod wire;

/// The socket's name in the runtime directory.
pub const SOCKET: &str = "handover.sock";
/// An answer of a process that lives.
const ANSWER: Duration = Duration::from_secs(10);
/// From its first word until a new process serves: its back ends are checked in between.
const START: Duration = Duration::from_secs(60);
/// Until every listener of a process has noticed that it is one no longer. One that waits for room for what it has accepted is
/// late.
const RELEASE: Duration = Duration::from_secs(2);
/// From the end of one that ran until the one that took over from it has its place.
const MOMENT: Duration = Duration::from_secs(2);
/// Until a process that was killed has ended.
const ENDING: Duration = Duration::from_secs(3);
/// Between two reports.
const REPORT: Duration = Duration::from_secs(1);

/// How a process hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Of this service alone; it holds the socket.
    pub directory: PathBuf,
    /// How long the one before may finish what it has.
    pub drain_timeout: Duration,
    /// Processes before this one that may be finishing at a time; the oldest of more is told to stop.
    pub max_draining: usize,
}

impl Options {
    /// Refuses what cannot work, by its key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let key = "runtime_directory";
        if !self.directory.is_absolute() {
            return Invalid::err(key, "must be an absolute path, /run/trivet-balancer for one");
        }
        // With the number of a process behind it.
        if UnixSocketAddress::from_pathname(self.directory.join(format!("{SOCKET}.{}", u32::MAX))).is_err() {
            return Invalid::err(
                key,
                "is too long for the path of a socket, 107 octets with its name (unix(7))",
            );
        }
        config::positive("drain_timeout", self.drain_timeout)?;
        if self.max_draining == 0 {
            return Invalid::err(
                "max_draining",
                "must be at least 1: the process before has something to finish",
            );
        }
        Ok(())
    }
}

/// What a process that has handed over still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub pid: u32,
    /// Connections that are open; unknown before it has reported for the first time.
    pub connections: Option<usize>,
    /// When what is left is cut off; RFC 3339. None when that is never, or unknown.
    pub until: Option<String>,
}

/// A process that has handed over, as its successor sees it.
struct Draining {
    pid: u32,
    /// Its end is the process's.
    stream: UnixStream,
    report: Mutex<Option<Report>>,
}

/// This process and those before it.
pub struct Succession {
    options: Options,
    draining: Mutex<Vec<Arc<Draining>>>,
    watchdog: Mutex<Option<Duration>>,
    connections: Mutex<Option<Connections>>,
    /// Whether the socket of the known name is this process's, or was.
    is_known: AtomicBool,
    /// This process, which takes over, serves.
    pub(super) serving: CancellationToken,
    /// Another process serves.
    pub(super) handed_over: CancellationToken,
    /// And knows that this one has let go.
    pub(super) released: CancellationToken,
    /// The successor wants the end of this one.
    pub(super) unwanted: CancellationToken,
}

type Connections = Box<dyn Fn() -> usize + Send>;

/// A socket of this process, under a name of its own.
pub(super) struct Own {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Drop for Own {
    fn drop(&mut self) {
        // Unless it has the known name by now.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a successor has got, until it serves.
pub(super) struct Taking {
    stream: UnixStream,
    draining: Vec<(u32, UnixStream)>,
}

impl Succession {
    /// Of a process that hands over as `options` say.
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            options,
            draining: Mutex::default(),
            watchdog: Mutex::new(sd_notify::watchdog_enabled()),
            connections: Mutex::default(),
            is_known: AtomicBool::new(false),
            serving: CancellationToken::new(),
            handed_over: CancellationToken::new(),
            released: CancellationToken::new(),
            unwanted: CancellationToken::new(),
        })
    }

    /// How many connections are open is asked of `connections`.
    pub fn count_by(&self, connections: impl Fn() -> usize + Send + 'static) {
        *self.connections.lock() = Some(Box::new(connections));
    }

    /// What the processes before this one still have, the oldest first.
    pub fn reports(&self) -> Vec<Report> {
        let silent = |pid| Report { pid, connections: None, until: None };
        let told = |d: &Arc<Draining>| d.report.lock().clone().unwrap_or(silent(d.pid));
        self.draining.lock().iter().map(told).collect()
    }

    /// What systemd expects: a sign of life in each.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        *self.watchdog.lock()
    }

    fn path(&self) -> PathBuf {
        self.options.directory.join(SOCKET)
    }

    fn invalid(reason: String) -> Failure {
        ConfigError::at("", "runtime_directory", reason).into()
    }

    /// A socket that nobody else may use, and that has no known name yet.
    pub(super) fn bind(&self) -> Result<Own, Failure> {
        let path = self.options.directory.join(format!("{SOCKET}.{}", std::process::id()));
        let failed = |e: io::Error| {
            Self::invalid(format!(
                "cannot make a socket in {}: {e} (a unit's RuntimeDirectory= makes the folder)",
                self.options.directory.display()
            ))
        };
        unix_socket::sweep(&self.path());
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Own { listener: Some(listener), path })
    }

    /// As [`bind`](Self::bind), unless another process has the known name.
    pub(super) fn begin(&self) -> Result<Own, Failure> {
        let path = self.path();
        let refused = |why: &str| Self::invalid(format!("{}: {why}", path.display()));
        match std::fs::symlink_metadata(&path) {
            Ok(there) if !there.file_type().is_socket() => {
                Err(refused("there is a file that is no socket: move it away"))
            }
            Ok(_) if UnixStream::connect(&path).is_ok() => Err(refused(
                "another process serves there: reload it (--reload), or give this one a folder of its own",
            )),
            _ => self.bind(),
        }
    }

    /// Listens under the known name, in the place of whoever had it.
    pub(super) fn listen(&self, mut own: Own) -> io::Result<tokio::net::UnixListener> {
        std::fs::rename(&own.path, self.path())?;
        self.is_known.store(true, Ordering::Relaxed);
        let listener = own.listener.take().ok_or(io::ErrorKind::NotConnected)?;
        tokio::net::UnixListener::from_std(listener)
    }

    /// Nobody is to find the socket any more.
    pub(super) fn end(&self) {
        if self.is_known.load(Ordering::Relaxed) && !self.handed_over.is_cancelled() {
            let _ = std::fs::remove_file(self.path());
        }
    }

    /// Takes the sockets of the process that runs. It goes on until [`take_place`](Self::take_place).
    pub(super) async fn take(&self, sockets: &Sockets) -> Result<Taking, Failure> {
        let path = self.path();
        let failed = |e: io::Error| {
            Failure::run(format_args!("cannot take over from the process at {}: {e}", path.display()))
        };
        let hello = Hello { notified: std::env::var_os("NOTIFY_SOCKET").is_some() };
        // While another one takes over nobody is answered, and then those who wait are sent away: who serves now is asked, as soon
        // as it has the name.
        let mut nobody_since: Option<Instant> = None;
        let (stream, offer, mut descriptors) = loop {
            use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
            let e = match wire::ask(&path, &hello) {
                Ok(answered) => break answered,
                Err(e) => e,
            };
            match e.kind() {
                BrokenPipe | ConnectionReset | UnexpectedEof => nobody_since = None,
                ConnectionRefused if nobody_since.get_or_insert_with(Instant::now).elapsed() < MOMENT => {}
                _ => return Err(failed(e)),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if let Some(error) = offer.error {
            return Err(failed(io::Error::other(error)));
        }
        let draining = descriptors.split_off(offer.sockets.len().min(descriptors.len()));
        if descriptors.len() != offer.sockets.len() || draining.len() != offer.draining.len() {
            return Err(failed(io::Error::other("descriptors were lost on their way")));
        }
        sockets.adopt(offer.sockets.into_iter().zip(descriptors));
        *self.watchdog.lock() = offer.watchdog;
        let draining = offer.draining.into_iter().zip(draining.into_iter().map(UnixStream::from));
        Ok(Taking { stream, draining: draining.collect() })
    }

    /// Says that this process serves; the one before has let go when it returns, or has ended.
    pub(super) async fn take_place(self: &Arc<Self>, taking: Taking) -> Result<(), Failure> {
        let Taking { stream, mut draining } = taking;
        let failed = |e: io::Error| {
            Failure::run(format_args!("the process before does not let go of its sockets: {e}"))
        };
        let pid = wire::peer(&stream).map_err(failed)?.1;
        match released(&stream).await {
            Ok(()) => {
                tracing::info!(before = pid, "taken over from the process before");
                draining.push((pid, stream));
            }
            Err(e) if e.kind() == io::ErrorKind::Other => return Err(failed(e)),
            // The sockets of one that was killed close one after the other, and all before its end.
            Err(e) if !has_ended(pid).await || UnixStream::connect(self.path()).is_ok() => {
                return Err(failed(io::Error::other(format!("it waits for this one no longer ({e})"))));
            }
            // Who ends now leaves nobody.
            Err(e) => {
                tracing::warn!(before = pid, error = %e, "the process before has ended: serving in its place")
            }
        }
        for (pid, stream) in draining {
            self.watch(pid, stream);
        }
        self.keep_few();
        Ok(())
    }

    /// Reads what a process before this one reports, until its end.
    fn watch(self: &Arc<Self>, pid: u32, stream: UnixStream) {
        let reader = stream.try_clone().and_then(|copy| {
            copy.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(copy)
        });
        let reader = match reader {
            Ok(reader) => reader,
            Err(e) => {
                return tracing::warn!(pid, error = %e, "nothing will be heard of a process before this one");
            }
        };
        let one = Arc::new(Draining { pid, stream, report: Mutex::default() });
        self.draining.lock().push(one.clone());
        self.count();
        let succession = self.clone();
        tokio::spawn(async move {
            let read = async {
                let mut lines = tokio::io::BufReader::new(reader).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    // The first may be the rest of one that somebody else began to read.
                    if let Ok(report) = serde_json::from_str::<Report>(&line) {
                        *one.report.lock() = Some(report);
                        succession.count();
                    }
                }
            };
            tokio::select! {
                // Its successor listens now.
                () = succession.handed_over.cancelled() => {}
                () = read => {
                    tracing::info!(pid = one.pid, "a process before this one has finished");
                    succession.draining.lock().retain(|d| !Arc::ptr_eq(d, &one));
                    succession.count();
                }
            }
        });
    }

    fn count(&self) {
        let draining = self.draining.lock();
        let connections: usize =
            draining.iter().filter_map(|d| d.report.lock().as_ref().and_then(|r| r.connections)).sum();
        gauge!("trivet_draining_processes").set(draining.len() as f64);
        gauge!("trivet_draining_connections").set(connections as f64);
    }

    /// Tells the oldest of too many to stop.
    fn keep_few(&self) {
        let draining = self.draining.lock();
        let beyond = draining.len().saturating_sub(self.options.max_draining);
        for one in draining.iter().take(beyond) {
            tracing::warn!(
                pid = one.pid,
                max = self.options.max_draining,
                "more processes finish than may (max_draining): the oldest is told to stop"
            );
            let _ = (&one.stream).write_all(b"end\n");
        }
    }

    /// Waits for successors, one at a time, until one of them serves or this process is asked to stop.
    pub(super) async fn wait_for_successor(
        self: Arc<Self>,
        listener: tokio::net::UnixListener,
        sockets: Sockets,
        mut shutdown: Shutdown,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.wait_for_stop() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a successor");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            match self.hand_over(stream, &sockets, &mut shutdown).await {
                Ok((pid, stream)) => {
                    drop(listener);
                    tracing::info!(pid, "another process serves now; finishing what is in flight");
                    return self.report(stream).await;
                }
                Err(e) if e.kind() == io::ErrorKind::NotConnected => {
                    tracing::debug!(error = %e, "no successor")
                }
                Err(e) => tracing::warn!(error = %e, "no successor: this process goes on"),
            }
        }
    }

    async fn hand_over(
        &self,
        stream: tokio::net::UnixStream,
        sockets: &Sockets,
        shutdown: &mut Shutdown,
    ) -> io::Result<(u32, tokio::net::UnixStream)> {
        let peer = stream.peer_cred()?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        let mut stream = tokio::io::BufReader::new(stream);
        let hello = line(&mut stream, ANSWER).await.map_err(|e| match e.kind() {
            // It has asked who listens, and nothing else.
            io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::NotConnected, e),
            _ => e,
        })?;
        let hello: Hello = serde_json::from_str(&hello)?;
        let offered = match Here::new().why_not(peer.uid(), &hello) {
            Some(why) => Err(io::Error::other(why)),
            None => self.offer(stream.get_ref(), sockets),
        };
        if let Err(e) = offered {
            let refusal = Offer { error: Some(e.to_string()), ..Offer::default() };
            let _ = stream.get_ref().try_write(format!("{}\n", serde_json::to_string(&refusal)?).as_bytes());
            return Err(e);
        }
        let said = tokio::select! {
            said = line(&mut stream, START) => said?,
            () = shutdown.wait_for_stop() => {
                let _ = stream.get_ref().try_write(STOPPING);
                return Err(io::Error::other("this one was asked to stop"));
            }
        };
        if said != "serving" {
            return Err(io::Error::other(format!("it said {said:?}")));
        }
        // What it said may be all that there is left of it.
        if is_closed(stream.get_ref()) {
            return Err(io::Error::other("it has ended"));
        }
        // It is asked before the other one says anything: what comes of others than the main process is not heard.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::MainPid(pid)]);
        self.handed_over.cancel();
        // Whoever connects after the reload meets the new process.
        let released = async {
            while !sockets.all().0.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(RELEASE, released).await.is_err() {
            tracing::warn!("a listener has not noticed yet that another process serves");
        }
        let stream = stream.into_inner();
        // Into an empty buffer.
        let _ = stream.try_write(RELEASED);
        self.released.cancel();
        Ok((pid, stream))
    }

    /// Sends the sockets, and the connections to those that still drain.
    fn offer(&self, stream: &tokio::net::UnixStream, sockets: &Sockets) -> io::Result<()> {
        let (names, mut descriptors) = sockets.all();
        let draining = self.draining.lock().clone();
        descriptors.extend(draining.iter().map(|d| d.stream.as_raw_fd()));
        if descriptors.len() > MOST_DESCRIPTORS {
            let n = descriptors.len();
            return Err(io::Error::other(format!(
                "{n} sockets: a message carries {MOST_DESCRIPTORS} (unix(7))"
            )));
        }
        let offer = Offer {
            error: None,
            sockets: names,
            draining: draining.iter().map(|d| d.pid).collect(),
            watchdog: self.watchdog(),
        };
        let text = format!("{}\n", serde_json::to_string(&offer)?);
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(text.as_bytes())],
            if descriptors.is_empty() { &[] } else { &rights },
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        match sent == text.len() {
            true => Ok(()),
            false => Err(io::Error::other("the message did not fit")),
        }
    }

    /// Tells the successor what is left, until it wants to hear nothing any more or has this process end.
    async fn report(&self, stream: tokio::net::UnixStream) {
        // Later than a year of four digits is for ever.
        let until = time::Duration::try_from(self.options.drain_timeout)
            .ok()
            .and_then(|drain| time::OffsetDateTime::now_utc().checked_add(drain))
            .and_then(|until| until.format(&time::format_description::well_known::Rfc3339).ok());
        let mut stream = tokio::io::BufReader::new(stream);
        let mut ticks = tokio::time::interval(REPORT);
        loop {
            let mut said = String::new();
            tokio::select! {
                _ = ticks.tick() => {}
                read = stream.read_line(&mut said) => match read {
                    Ok(n) if n > 0 && said.trim_end() == "end" => self.unwanted.cancel(),
                    Ok(n) if n > 0 => {}
                    _ => return,
                },
            }
            let connections = self.connections.lock().as_ref().map_or(0, |count| count());
            let report =
                Report { pid: std::process::id(), connections: Some(connections), until: until.clone() };
            // Also when nothing changed: whoever listens now may be another one than before. One who does not is not waited for.
            if let Ok(text) = serde_json::to_string(&report) {
                let _ = stream.get_ref().try_write(format!("{text}\n").as_bytes());
            }
        }
    }
}

/// What the one before says at the end. Of the same length, so that neither takes an octet of a report.
const RELEASED: &[u8; 9] = b"released\n";
const STOPPING: &[u8; 9] = b"stopping\n";

/// Says that this process serves, and waits until the one before has let go: it may stand still for long, and the clients are served
/// meanwhile. An error of the kind [`Other`](io::ErrorKind::Other) is its refusal.
async fn released(stream: &UnixStream) -> io::Result<()> {
    let copy = stream.try_clone()?;
    copy.set_nonblocking(true)?;
    let mut copy = tokio::net::UnixStream::from_std(copy)?;
    // One that has ended may have said why.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut copy, b"serving\n").await;
    let mut said = [0; 9];
    copy.read_exact(&mut said).await?;
    match &said {
        RELEASED => Ok(()),
        STOPPING => Err(io::Error::other("it was asked to stop")),
        _ => Err(io::Error::other("it says something else")),
    }
}

/// What about a process decides who may take its place.
#[derive(Clone, Copy)]
struct Here {
    user: u32,
    id: u32,
    /// systemd hears it.
    is_heard: bool,
    /// systemd has started it, and nobody between the two (systemd.exec(5), `SYSTEMD_EXEC_PID`).
    is_of_systemd: bool,
}

impl Here {
    fn new() -> Self {
        let id = std::process::id();
        Self {
            user: own_user(),
            id,
            is_heard: std::env::var_os("NOTIFY_SOCKET").is_some(),
            is_of_systemd: std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == id.to_string()),
        }
    }

    /// Why a process of this `user` may not take its place.
    fn why_not(self, user: u32, hello: &Hello) -> Option<String> {
        let Self { user: own, id, is_heard, is_of_systemd } = self;
        let why = if user != own {
            format!("it is user {own}'s, and the new one is user {user}'s: reload as that user, or restart")
        } else if id == 1 {
            "it is the first process of its container, which ends with it: start the container anew".into()
        } else if is_heard && !hello.notified {
            "the new one could not tell systemd that it is alive: reload with systemctl, and the unit needs NotifyAccess=exec".into()
        } else if is_of_systemd && !is_heard {
            "systemd would take its end for the service's: the unit needs Type=notify and NotifyAccess=exec"
                .into()
        } else {
            return None;
        };
        Some(why)
    }
}

/// Whether a process has ended, or does so in a moment (pidfd_open(2)).
async fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return true };
    let since = Instant::now();
    loop {
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut ended, Some(&Timespec::default())).is_ok_and(|n| n > 0) {
            return true;
        }
        if since.elapsed() > ENDING {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_end_of_the_one_before_would_take_the_new_one_along_nobody_takes_over() {
        let here = Here { user: 993, id: 4711, is_heard: true, is_of_systemd: true };
        let why = |here: Here, user, notified| here.why_not(user, &Hello { notified }).unwrap_or_default();
        assert_eq!(why(here, 993, true), "");
        assert_eq!(why(Here { is_heard: false, is_of_systemd: false, ..here }, 993, false), "", "by hand");
        assert!(why(Here { id: 1, ..here }, 993, true).contains("first process of its container"));
        assert!(why(here, 993, false).contains("NotifyAccess=exec"));
        assert!(why(Here { is_heard: false, ..here }, 993, false).contains("Type=notify"));
        // Everything would be root's from then on, and the unit's user could not start it again.
        assert!(why(here, 0, true).contains("user 993's, and the new one is user 0's"));
    }
}
