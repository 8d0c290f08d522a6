//! The life of a Trivet program: arguments, configuration, start, readiness, signals, stop.
//!
//! Readiness, stopping and the watchdog are told to systemd by `sd_notify(3)`; without systemd nothing is sent.

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

use clap::Parser;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{self, ConfigError, Validate};

pub mod connections;
pub mod descriptors;
pub mod handover;
mod heartbeats;
pub mod register;
pub mod server;
pub mod sockets;
pub mod unix_socket;
pub mod warnings;
pub mod workers;

pub use heartbeats::{Beat, Heartbeats, Rest};

/// `EX_USAGE` of `sysexits(3)`: the command line or the configuration is wrong; nothing was bound.
pub const EX_USAGE: u8 = 64;

/// `EX_SOFTWARE` of `sysexits(3)`: a bug.
pub const EX_SOFTWARE: u8 = 70;

/// The options that every service has.
#[derive(Debug, Clone, Parser)]
pub struct ServiceArgs {
    /// Configuration file; TOML, or JSON when its name ends in .json.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration and exit: 0 when it is good, 64 with file, key and reason when it is not.
    #[arg(long)]
    pub check: bool,
    /// As --check, and read the certificates and keys that the configuration names, as a reload would.
    #[arg(long)]
    pub check_files: bool,
}

#[derive(Debug, Parser)]
#[command(version)]
struct ServiceCli {
    #[command(flatten)]
    service: ServiceArgs,
}

/// What went wrong at start or while running, sorted by whom it concerns.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The operator can mend it in a file: exit 64.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Anything else (an address in use, a lost socket): exit 1.
    #[error("{0}")]
    Run(String),
}

impl Failure {
    /// A failure to run, with its reason in words.
    pub fn run(reason: impl std::fmt::Display) -> Self {
        Self::Run(reason.to_string())
    }

    /// The exit status that tells the two kinds apart.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => EX_USAGE,
            Self::Run(_) => 1,
        }
    }
}

/// Reads the command line of a service; usage errors end the process with status 64, `--help` and `--version` with 0.
pub fn service_args() -> Result<ServiceArgs, ExitCode> {
    parse_args::<ServiceCli>().map(|c| c.service)
}

/// Reads any command line in the way of [`service_args`].
pub fn parse_args<T: Parser>() -> Result<T, ExitCode> {
    parse_args_from(std::env::args_os())
}

/// Reads these words, of which the first is the program's name, in the way of [`service_args`].
pub fn parse_args_from<T: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<T, ExitCode> {
    T::try_parse_from(words).map_err(|e| {
        let wrong = e.use_stderr();
        let _ = e.print();
        if wrong { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS }
    })
}

/// Loads the configuration, answers `--check`, and otherwise hands the configuration to `run`.
/// `name` stands before every message.
pub fn main<C: DeserializeOwned + Validate>(
    name: &str,
    args: &ServiceArgs,
    run: impl FnOnce(C) -> Result<(), Failure>,
) -> ExitCode {
    ExitCode::from(status(name, args, run))
}

/// As [`main`]; the exit status as a number.
pub fn status<C: DeserializeOwned + Validate>(
    name: &str,
    args: &ServiceArgs,
    run: impl FnOnce(C) -> Result<(), Failure>,
) -> u8 {
    let outcome = config::load::<C>(&args.config).map_err(Failure::from).and_then(|c| {
        if args.check || args.check_files {
            if args.check_files {
                c.check_files()?;
            }
            for warning in c.warnings() {
                eprintln!("{name}: warning: {warning}");
            }
            println!("{name}: {}: ok", args.config.display());
            return Ok(());
        }
        end_on_panic();
        descriptors::raise();
        run(c)
    });
    let outcome = outcome.map_err(|failure| match failure {
        Failure::Config(e) => e.or_in(&args.config).into(),
        other => other,
    });
    told(name, outcome)
}

/// From now on a panic, in whatever task or thread, ends the process with [`EX_SOFTWARE`], and systemd starts it anew: what
/// the task did is missing from then on, and nobody would notice.
pub fn end_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Whoever reads our standard error may have stopped.
        std::thread::spawn(|| {
            std::thread::park_timeout(Duration::from_secs(2));
            std::process::exit(i32::from(EX_SOFTWARE));
        });
        tell(panic);
        tracing::error!(%panic, "this is a bug; the process ends");
        crate::telemetry::access::flush();
        std::process::exit(i32::from(EX_SOFTWARE));
    }));
}

/// Prints a failure the way every program does and turns it into the exit status.
pub fn finish(name: &str, outcome: Result<(), Failure>) -> ExitCode {
    ExitCode::from(told(name, outcome))
}

fn told(name: &str, outcome: Result<(), Failure>) -> u8 {
    crate::telemetry::access::flush();
    match outcome {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{name}: {e}");
            e.exit_code()
        }
    }
}

/// A multi-threaded tokio runtime for `future`.
pub fn block_on<F: Future<Output = Result<(), Failure>>>(future: F) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::run(format_args!("cannot start the runtime: {e}")))?
        .block_on(future)
}

/// How far a program is with its life. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes whatever comes.
    Serving,
    /// Another process has its sockets: it finishes what it has, however long that takes ([`handover`]).
    HandedOver,
    /// It was asked to stop: it finishes what it has, soon.
    Stopping,
}

/// Tells when the program is no longer to take anything new.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<Phase>);

impl Shutdown {
    /// A shutdown signal and the handle that gives it.
    pub fn channel() -> (watch::Sender<Phase>, Self) {
        let (tx, rx) = watch::channel(Phase::Serving);
        (tx, Self(rx))
    }

    /// As [`on_signals`](Self::on_signals) for a command at a terminal, whose loss (SIGHUP) is a stop, too. To a service it means a reload.
    pub fn of_a_command() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = signal(SignalKind::hangup())
            .map_err(|e| Failure::run(format_args!("cannot listen for signals: {e}")))?;
        let shutdown = Self::on_signals()?;
        let (tx, rx) = Self::channel();
        let mut stopped = shutdown;
        tokio::spawn(async move {
            tokio::select! { _ = hangup.recv() => {}, () = stopped.wait() => {} }
            let _ = tx.send(Phase::Stopping);
            // As there: a dropped sender is no second signal.
            std::future::pending::<()>().await;
        });
        Ok(Self(rx.0))
    }

    /// Listens for SIGTERM and SIGINT. Must be called inside a runtime.
    pub fn on_signals() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let (tx, rx) = Self::channel();
        let fail = |e| Failure::run(format_args!("cannot listen for signals: {e}"));
        let mut term = signal(SignalKind::terminate()).map_err(fail)?;
        let mut int = signal(SignalKind::interrupt()).map_err(fail)?;
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::info!("stopping");
            notify_stopping();
            let _ = tx.send(Phase::Stopping);
            // Keep the sender: a dropped sender would look like a stop to late receivers, which is the same thing,
            // but a second signal must not kill what is draining.
            loop {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            }
        });
        Ok(rx)
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// True once stopping was asked for, or another process has taken over.
    pub fn is_stopping(&self) -> bool {
        self.phase() != Phase::Serving
    }

    /// Waits until stopping is asked for, or another process has taken over.
    pub async fn wait(&mut self) {
        // An error means that the sender is gone, and with it the program's reason to run.
        let _ = self.0.wait_for(|phase| *phase > Phase::Serving).await;
    }

    /// Waits until another process has taken over; for ever where the program stops without.
    pub async fn wait_until_handed_over(mut self) {
        let _ = self.0.wait_for(|phase| *phase == Phase::HandedOver).await;
        if self.phase() != Phase::HandedOver {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until stopping is asked for.
    pub async fn wait_for_stop(&mut self) {
        let _ = self.0.wait_for(|phase| *phase >= Phase::Stopping).await;
    }
}

/// Waits for a stop, while all parts of a program run. One that ends before that is an error, for systemd to start the whole anew: half a
/// program would say half the truth. `what` names it, `keeper`.
pub async fn until_stopped(what: &str, parts: &mut JoinSet<()>, shutdown: Shutdown) -> Result<(), Failure> {
    let mut stopping = shutdown;
    let ended = tokio::select! {
        () = stopping.wait() => None,
        ended = parts.join_next() => ended,
    };
    // None of them ends by itself, though one may hear of a stop before this task does.
    match ended.filter(|_| !stopping.is_stopping()) {
        None => Ok(()),
        Some(ended) => {
            let why = ended.err().map_or_else(|| "it has ended".to_owned(), |e| e.to_string());
            Err(Failure::run(format_args!("a part of the {what} broke down: {why}")))
        }
    }
}

/// Waits for all parts to end, so long at most. Whether they have.
pub async fn all_end_within(limit: Duration, parts: &mut JoinSet<()>) -> bool {
    tokio::time::timeout(limit, async { while parts.join_next().await.is_some() {} }).await.is_ok()
}

/// `READY=1`, and the start of watchdog pings when systemd asks for them. Must be called inside a runtime.
pub fn notify_ready() {
    notify_ready_while(Heartbeats::default());
}

/// As [`notify_ready`]; the watchdog is told only while every loop that `heartbeats` expects is well.
pub fn notify_ready_while(heartbeats: Heartbeats) {
    notify_ready_with(heartbeats, sd_notify::watchdog_enabled(), std::future::pending());
}

/// As [`notify_ready_while`], until `end`, where the watchdog expects a sign of life in every `period`.
fn notify_ready_with(
    heartbeats: Heartbeats,
    period: Option<Duration>,
    end: impl Future<Output = ()> + Send + 'static,
) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if let Some(period) = period {
        // sd_watchdog_enabled(3) recommends half the period. A quarter leaves time for a second look: after a pause of the
        // whole machine everything is late for a moment.
        let quarter = (period / 4).max(Duration::from_millis(10));
        let alive = async move {
            let mut ticks = tokio::time::interval(quarter);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut said = false;
            loop {
                ticks.tick().await;
                match heartbeats.missed(Instant::now()) {
                    None => {
                        said = false;
                        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                    }
                    Some(why) => {
                        if !std::mem::replace(&mut said, true) {
                            tracing::error!(why, ?period, "the watchdog is not told that all is well");
                        }
                    }
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! { () = alive => {}, () = end => {} }
        });
    }
}

/// `STOPPING=1`.
pub fn notify_stopping() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn notify_status(status: &str) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(status)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "process::tests::a_panic_in_any_task_ends_the_process";

    #[test]
    fn a_panic_in_any_task_ends_the_process() {
        if std::env::var_os("TRIVET_TEST_PANICS").is_some() {
            end_on_panic();
            let _ = block_on(async {
                // Nobody waits for it.
                tokio::spawn(async { panic!("on purpose") });
                std::future::pending().await
            });
        }
        let program = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(program);
        let ended = child.args(["--exact", HERE]).env("TRIVET_TEST_PANICS", "1").output().unwrap();
        assert_eq!(ended.status.code(), Some(i32::from(EX_SOFTWARE)), "{ended:?}");
    }
}
