//! Logs, metrics and the operator's view of a running program.

use std::os::fd::AsFd;
use std::sync::Arc;

use http::StatusCode;
pub use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use self::answers::{Answer, Answers};
use self::queue::{ProgramLog, QUEUE, Source};
use crate::config::{Log, LogFormat, Metrics};
use crate::process::server::Server;
use crate::process::{Failure, Shutdown, warnings};

pub mod access;
pub mod answers;
mod line;
mod queue;

pub use line::write_address;

/// Upper bounds, in seconds, of the histogram buckets of every metric that ends in `_seconds`.
pub const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Starts logging to standard error, through a thread that waits for its reader in the place of all others. A second call
/// changes nothing (tests call it often).
pub fn init_log(log: &Log) {
    let mut level = log.level.clone();
    if !level.contains("pingora") {
        // It logs an error for every client that breaks a connection off; what matters of that is in our own lines, and so is
        // every step of a start and of a stop. What its server cannot do is news.
        level.push_str(",pingora_core=off,pingora_core::server=warn,pingora_core::services=warn");
    }
    let filter = level.parse::<tracing_subscriber::EnvFilter>().unwrap_or_else(|_| "info".into());
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(ProgramLog);
    let started = match log.format {
        LogFormat::Json => base.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => base.with_target(false).try_init(),
    };
    if started.is_err() {
        return;
    }
    if let Err(e) = write_in_thread(log.format) {
        // Not through the log, which nobody writes.
        eprintln!("nothing will be logged: {e}");
        return;
    }
    if tracing::enabled!(target: "trivet::access", tracing::Level::INFO) {
        access::start(log.format);
    }
}

fn write_in_thread(format: LogFormat) -> std::io::Result<()> {
    // A descriptor of its own: the lock of the standard library's would keep a panic's message waiting, too.
    let out = std::fs::File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || QUEUE.serve(out, |count| access::lost(format, count)))
        .map(|_| ())
}

/// What has something to say as soon as there is a recorder.
static WITH_RECORDER: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Has `export` called by [`init_metrics`]: what is found out before there is a recorder is told to it then. Whoever has
/// something to tell later tells it by itself.
pub fn when_recorded(export: fn()) {
    WITH_RECORDER.lock().push(export);
}

/// Installs the process's metrics recorder, labels every metric's program by `trivet_build_info`, and returns the handle
/// that renders the text. Call it once, before the first metric.
pub fn init_metrics(program: &'static str) -> Result<PrometheusHandle, Failure> {
    let fail = |e: metrics_exporter_prometheus::BuildError| Failure::run(format_args!("metrics: {e}"));
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .map_err(fail)?
        .install_recorder()
        .map_err(fail)?;
    metrics::gauge!("trivet_build_info", "program" => program, "version" => env!("CARGO_PKG_VERSION"))
        .set(1.0);
    for source in Source::ALL {
        source.dropped().increment(0);
    }
    let waiting = WITH_RECORDER.lock().clone();
    waiting.iter().for_each(|export| export());
    Ok(handle)
}

/// What a program tells the operator's command: any JSON object, made when asked for.
pub type StatusFn = Arc<dyn Fn() -> Value + Send + Sync>;

/// A bound but not yet serving metrics listener, so that an address in use is known before READY.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Binds the listener of `[metrics]`.
    pub async fn bind(config: &Metrics) -> Result<Self, Failure> {
        let listener = TcpListener::bind(config.listen).await.map_err(|e| {
            Failure::run(format_args!("metrics.listen: cannot listen on {}: {e}", config.listen))
        })?;
        let address = listener.local_addr().unwrap_or(config.listen);
        tracing::info!(key = "metrics.listen", %address, "listening");
        Ok(Self { listener })
    }

    /// Adds it to a server, until the end of the process or until another one has taken over: it answers while the process stops.
    pub fn add(server: &mut Server, config: &Metrics, handle: PrometheusHandle, status: StatusFn) {
        let socket = server.listen("metrics.listen", config.listen);
        let (shutdown, turn) = (server.shutdown(), server.turn());
        server.service("metrics", &[], move |start| async move {
            let (listener, entry) = socket.take_for_tokio()?;
            start.ready();
            turn.await;
            let end = shutdown.wait_until_handed_over();
            let answered = answers::serve(listener, answers(handle.clone(), status), NOTHING_ELSE, end);
            tokio::join!(upkeep(handle), async {
                answered.await;
                drop(entry);
            });
            Ok(())
        });
    }

    /// Serves `/metrics` and `/status` until stopping is asked for.
    pub async fn serve(self, handle: PrometheusHandle, status: StatusFn, mut shutdown: Shutdown) {
        let upkeep = tokio::spawn(upkeep(handle.clone()));
        answers::serve(self.listener, answers(handle, status), NOTHING_ELSE, shutdown.wait()).await;
        upkeep.abort();
    }
}

const NOTHING_ELSE: &str = "only /metrics and /status are here\n";

/// Histograms keep raw samples until drained; without a scraper they would grow for ever.
async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(5));
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

/// What the program says, and what should be mended besides; a program that has warnings of its own says all of it.
fn with_warnings(mut status: Value) -> Value {
    if let Some(fields) = status.as_object_mut()
        && !fields.contains_key("warnings")
    {
        warnings::look_again();
        fields.insert("warnings".into(), warnings::all().into());
    }
    status
}

fn answers(handle: PrometheusHandle, status: StatusFn) -> Answers {
    Arc::new(move |path| match path {
        "/metrics" => {
            Some(Answer::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", handle.render()))
        }
        "/status" => Some(Answer::json(&with_warnings(status()))),
        _ => None,
    })
}
