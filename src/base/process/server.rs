//! The life of a program that carries traffic: Pingora's `Server` runs it as services, each on a thread and a runtime of its own.
//!
//! ```text
//! sockets ── bound, all of them, before anything else
//!    └─ workers, checks (first round), files, sweeps, metrics
//!          └─ what serves clients, and what says that it does
//!                └─ READY=1, once every service has said that it is ready
//! ```
//!
//! A stop is ours: Pingora is told to end when nothing is left to do, so it neither waits a grace period nor cuts anything off.
//! A service that cannot start ends the process with its reason, before READY. A panic anywhere ends it, too
//! ([`end_on_panic`](super::end_on_panic)).

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, GenBackgroundService};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub use pingora::services::ServiceHandle;

use super::handover::{self, Own, Succession, Taking};
use super::sockets::{Listening, Sockets};
use super::{Failure, Heartbeats, Phase, Shutdown};
use crate::config::ConfigError;

/// A server that is being put together.
pub struct Server {
    pingora: pingora::server::Server,
    life: Arc<Life>,
    shutdown: Shutdown,
    heartbeats: Heartbeats,
    wanted: Vec<Wanted>,
    /// All of them: for these READY=1 waits.
    services: Vec<ServiceHandle>,
    takes_over: bool,
}

/// What ends it.
struct Life {
    phase: watch::Sender<Phase>,
    succession: Option<Arc<Succession>>,
    /// The services that have clients: it ends when they have.
    serving: TaskTracker,
    failure: Mutex<Option<Failure>>,
    failed: CancellationToken,
    /// All services are ready, and no other process serves beside this one.
    begun: CancellationToken,
}

/// A socket to be listened on once the server runs.
struct Wanted {
    key: String,
    address: SocketAddr,
    passed: Option<TcpListener>,
    bound: Arc<Mutex<Option<Listening>>>,
}

/// A socket that a service takes when it starts.
pub struct Listener {
    key: String,
    bound: Arc<Mutex<Option<Listening>>>,
}

impl Listener {
    /// Takes it; a second time there is none.
    pub fn take(&self) -> Result<Listening, Failure> {
        let missing = || Failure::run(format_args!("{}: the socket was not bound", self.key));
        self.bound.lock().take().ok_or_else(missing)
    }

    /// As [`take`](Self::take), for tokio. The second of the two is to be kept as long as the first.
    pub fn take_for_tokio(&self) -> Result<(tokio::net::TcpListener, super::sockets::Entry), Failure> {
        let Listening { listener, entry, .. } = self.take()?;
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|e| Failure::run(format_args!("{}: {e}", self.key)))?;
        Ok((listener, entry))
    }
}

/// What a service starts with.
#[derive(Clone)]
pub struct Start(Arc<Mutex<Option<ServiceReadyNotifier>>>);

impl Start {
    /// Those that depend on the service may start.
    pub fn ready(&self) {
        drop(self.0.lock().take());
    }
}

impl Server {
    /// Without services yet. It hands over to no other process.
    pub fn new() -> Self {
        Self::with(None, false)
    }

    /// One that hands over to another process as `options` say, and `takes_over` from the one that runs. Without options it can
    /// do neither.
    pub fn succeeding(options: Option<handover::Options>, takes_over: bool) -> Result<Self, Failure> {
        if takes_over && options.is_none() {
            let why = "is missing: a reload needs the folder in which the process that runs has its socket";
            return Err(ConfigError::at("", "runtime_directory", why).into());
        }
        Ok(Self::with(options.map(Succession::new), takes_over))
    }

    fn with(succession: Option<Arc<Succession>>, takes_over: bool) -> Self {
        // No work stealing: what a service runs stays on its thread. The rest of Pingora's configuration is about what it is
        // not asked to do here: daemons, users, files with process numbers.
        let conf = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
        let (phase, shutdown) = Shutdown::channel();
        let life = Life {
            phase,
            succession: succession.clone(),
            serving: TaskTracker::new(),
            failure: Mutex::default(),
            failed: CancellationToken::new(),
            begun: CancellationToken::new(),
        };
        Self {
            pingora: pingora::server::Server::new_with_opt_and_conf(None, conf),
            life: Arc::new(life),
            shutdown,
            heartbeats: Heartbeats::default(),
            wanted: Vec::new(),
            services: Vec::new(),
            takes_over,
        }
    }

    /// Those before this process, and those that come after it.
    pub fn succession(&self) -> Option<Arc<Succession>> {
        self.life.succession.clone()
    }

    /// Told when a stop is asked for.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Returns once it is this process that others ask about itself: at once, or, where it takes over, once it serves.
    pub fn turn(&self) -> impl Future<Output = ()> + Send + 'static {
        let serving = self.succession().filter(|_| self.takes_over).map(|s| s.serving.clone());
        async move {
            if let Some(serving) = serving {
                serving.cancelled().await;
            }
        }
    }

    /// Cancelled once all services are ready, and the process that this one takes over from has let go.
    pub fn begun(&self) -> CancellationToken {
        self.life.begun.clone()
    }

    /// What the watchdog is to vouch for.
    pub fn heartbeats(&self) -> Heartbeats {
        self.heartbeats.clone()
    }

    /// A socket that is bound before any service starts, so that nothing is served by halves. `key` is the configuration's.
    pub fn listen(&mut self, key: &str, address: SocketAddr) -> Listener {
        self.want(key, address, None)
    }

    /// As [`listen`](Self::listen), with a socket that listens already.
    pub fn listen_with(&mut self, key: &str, address: SocketAddr, passed: TcpListener) -> Listener {
        self.want(key, address, Some(passed))
    }

    fn want(&mut self, key: &str, address: SocketAddr, passed: Option<TcpListener>) -> Listener {
        let bound = Arc::new(Mutex::new(None));
        self.wanted.push(Wanted { key: key.into(), address, passed, bound: bound.clone() });
        Listener { key: key.into(), bound }
    }

    /// A service that starts when those in `after` are ready, and says so itself. An error ends the process.
    pub fn service<F>(
        &mut self,
        name: &str,
        after: &[ServiceHandle],
        run: impl FnOnce(Start) -> F + Send + 'static,
    ) -> ServiceHandle
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.add(name, after, None, run)
    }

    /// As [`service`](Self::service), for one that has clients: a stop waits for its end.
    pub fn serves_clients<F>(
        &mut self,
        name: &str,
        after: &[ServiceHandle],
        run: impl FnOnce(Start) -> F + Send + 'static,
    ) -> ServiceHandle
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let serving = self.life.serving.token();
        self.add(name, after, Some(serving), run)
    }

    /// Work that goes on for as long as the process does, and for which nobody waits.
    pub fn background(&mut self, name: &str, work: impl Future<Output = ()> + Send + 'static) {
        let work = Arc::new(Background(Mutex::new(Some(Box::pin(work)))));
        let handle = self.pingora.add_service(GenBackgroundService::new(name.into(), work));
        self.services.push(handle);
    }

    fn add<F>(
        &mut self,
        name: &str,
        after: &[ServiceHandle],
        serving: Option<TaskTrackerToken>,
        run: impl FnOnce(Start) -> F + Send + 'static,
    ) -> ServiceHandle
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let run: Run = Box::new(move |_, start| Box::pin(run(start)));
        let handle = self.add_task(name, Vec::new(), serving, run);
        handle.add_dependencies(after);
        self.services.push(handle.clone());
        handle
    }

    fn add_task(
        &mut self,
        name: &str,
        listens: Vec<String>,
        serving: Option<TaskTrackerToken>,
        run: Run,
    ) -> ServiceHandle {
        let life = self.life.clone();
        self.pingora.add_service(Task {
            name: name.into(),
            listens,
            run: Mutex::new(Some(run)),
            life,
            serving,
        })
    }

    /// Runs until a stop was asked for and everything in flight is done, or until something cannot go on.
    pub fn run(mut self, node: &str) -> Result<(), Failure> {
        let wanted = std::mem::take(&mut self.wanted);
        let addresses = wanted.iter().map(|w| w.address.to_string()).collect();
        let joining = Arc::new(Mutex::new(None));
        let (takes_over, joins) = (self.takes_over, joining.clone());
        let succession = self.succession();
        let bind: Run = Box::new(move |sockets, start| {
            Box::pin(async move {
                // What has certificates read anew ends nobody: neither one that is not that far yet, nor one that has none.
                drop(signal(SignalKind::hangup()));
                let joining = match succession {
                    Some(succession) => Some(Joining::new(succession, takes_over, &sockets).await?),
                    None => None,
                };
                let listened_on = wanted.into_iter().map(|w| w.bind(&sockets)).collect::<Result<_, _>>()?;
                sockets.keep_only(&listened_on);
                *joins.lock() = joining.map(|joining| (joining, sockets));
                start.ready();
                Ok(())
            })
        });
        let sockets = self.add_task("sockets", addresses, None, bind);
        let services = std::mem::take(&mut self.services);
        for service in &services {
            service.add_dependency(&sockets);
        }
        let (heartbeats, node) = (self.heartbeats.clone(), node.to_owned());
        let (life, shutdown) = (self.life.clone(), self.shutdown());
        self.service("ready", &[&services[..], &[sockets]].concat(), move |_| async move {
            // A service that is cut off before it has begun counts as ready, which it is not.
            if life.failed.is_cancelled() || shutdown.is_stopping() {
                return Ok(());
            }
            let mut watchdog = sd_notify::watchdog_enabled();
            let joining = joining.lock().take();
            if let Some((joining, sockets)) = joining {
                watchdog = joining.succession.watchdog();
                joining.join(sockets, shutdown.clone()).await?;
            }
            super::notify_ready_with(heartbeats, watchdog, shutdown.wait_until_handed_over());
            tracing::info!(%node, "serving");
            life.begun.cancel();
            if takes_over {
                handover::start::tell_serving();
            }
            Ok(())
        });
        let life = self.life.clone();
        // Where a new process would fetch the sockets of the one before, were it not asked for them by ours.
        self.pingora.bootstrap();
        self.pingora.run(RunArgs { shutdown_signal: Box::new(End(life.clone())) });
        if let Some(succession) = &life.succession {
            succession.end();
        }
        match life.failure.lock().take() {
            Some(failure) => Err(failure),
            None => {
                tracing::info!("stopped");
                Ok(())
            }
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Wanted {
    /// The name under which it stands among the sockets.
    fn bind(self, sockets: &Sockets) -> Result<String, Failure> {
        let Self { key, address, passed, bound } = self;
        let listening = match passed {
            Some(listener) => sockets.enter(address, listener, "systemd"),
            None => sockets.listen(&key, address),
        };
        let listening =
            listening.map_err(|e| Failure::run(format_args!("{key}: cannot listen on {address}: {e}")))?;
        tracing::info!(key, address = %listening.address, socket = listening.from, "listening");
        let name = listening.entry.name().to_owned();
        *bound.lock() = Some(listening);
        Ok(name)
    }
}

/// A process on its way into the succession, which it has joined once it serves.
struct Joining {
    succession: Arc<Succession>,
    taking: Option<Taking>,
    own: Own,
}

impl Joining {
    async fn new(succession: Arc<Succession>, takes_over: bool, sockets: &Sockets) -> Result<Self, Failure> {
        let taking = if takes_over { Some(succession.take(sockets).await?) } else { None };
        let own = if takes_over { succession.bind()? } else { succession.begin()? };
        Ok(Self { succession, taking, own })
    }

    /// From now on this process is the one that runs.
    async fn join(self, sockets: Sockets, shutdown: Shutdown) -> Result<(), Failure> {
        let Self { succession, taking, own } = self;
        if let Some(taking) = taking {
            if !handover::start::outlive_starter() {
                // The process ends.
                std::future::pending::<()>().await;
            }
            succession.serving.cancel();
            succession.take_place(taking).await?;
        }
        match succession.listen(own) {
            Ok(listener) => drop(tokio::spawn(succession.wait_for_successor(listener, sockets, shutdown))),
            // The one before has gone: to serve without is better than not to serve.
            Err(e) => tracing::error!(error = %e, "no other process will be able to take over from this one"),
        }
        Ok(())
    }
}

/// When Pingora is to end the process.
struct End(Arc<Life>);

#[async_trait]
impl ShutdownSignalWatch for End {
    async fn recv(&self) -> ShutdownSignal {
        tokio::select! {
            () = self.0.stopped() => {}
            () = self.0.failed.cancelled() => {}
        }
        // Nothing is left that could be waited for.
        ShutdownSignal::FastShutdown
    }
}

impl Life {
    /// Returns once a stop was asked for, and whoever has clients has finished with them.
    async fn stopped(&self) {
        let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(term), Ok(int)) => (term, int),
            (Err(e), _) | (_, Err(e)) => {
                return self.fail(Failure::run(format_args!("cannot listen for signals: {e}")));
            }
        };
        let [handed_over, released, unwanted] = match &self.succession {
            Some(s) => [&s.handed_over, &s.released, &s.unwanted].map(CancellationToken::clone),
            // Never.
            None => Default::default(),
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = handed_over.cancelled() => {
                self.phase.send_replace(Phase::HandedOver);
                self.serving.close();
                tokio::select! {
                    _ = async { tokio::join!(self.serving.wait(), released.cancelled()) } => return,
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                    () = unwanted.cancelled() => {}
                }
            }
        }
        tracing::info!("stopping");
        // Of one that has handed over systemd hears nothing any more.
        if *self.phase.borrow() == Phase::Serving {
            super::notify_stopping();
        }
        self.phase.send_replace(Phase::Stopping);
        self.serving.close();
        // Further signals are taken and do nothing: what is draining must not die of impatience.
        self.serving.wait().await;
    }

    fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        self.failed.cancel();
    }
}

type Run =
    Box<dyn FnOnce(Sockets, Start) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> + Send>;

/// A service that runs once.
struct Task {
    name: String,
    listens: Vec<String>,
    /// The lock makes it shareable, which Pingora wants; nobody shares it.
    run: Mutex<Option<Run>>,
    life: Arc<Life>,
    serving: Option<TaskTrackerToken>,
}

#[async_trait]
impl ServiceWithDependents for Task {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        _: ShutdownWatch,
        _: usize,
        ready: ServiceReadyNotifier,
    ) {
        let start = Start(Arc::new(Mutex::new(Some(ready))));
        // A notifier that is dropped says "ready", and what depends on this service must not start because it was cut off, or has
        // failed: only `Start::ready` says so.
        std::mem::forget(start.clone());
        let (Some(run), Some(fds)) = (self.run.get_mut().take(), fds) else { return };
        match run(Sockets::new(fds), start.clone()).await {
            Ok(()) => start.ready(),
            Err(failure) => self.life.fail(failure),
        }
        self.serving = None;
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Some(self.listens.clone())
    }
}

struct Background(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

#[async_trait]
impl BackgroundService for Background {
    async fn start(&self, _: ShutdownWatch) {
        let work = self.0.lock().take();
        if let Some(work) = work {
            work.await;
        }
    }
}
