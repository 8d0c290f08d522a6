//! The reference site: articles with comments, kept in MySQL, read from replicas and written to the primary.
//!
//! It is one tenant of the bring-your-own contract (docs/app.md): told by its environment where to listen and which two
//! databases to use, it answers `/healthz` and finishes its requests on SIGTERM.

pub mod auth;
pub mod cli;
pub mod config;
pub mod db;
pub mod import;
pub mod server;

mod api;
mod error;
mod health;
mod pages;
mod request;
mod sign_in;
mod site;
pub mod store;
pub mod text;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use db::Db;
pub use site::Site;
use trivet_base::process::{Failure, Shutdown, notify_ready};
use trivet_base::telemetry::{self, MetricsServer};

/// Between saying that we stop and refusing connections: the web tier's health check, every half second, has to fail
/// twice before it stops sending requests.
const DRAIN: Duration = Duration::from_millis(1500);

/// Serves the site until it is asked to stop. `file` names the configuration in errors.
pub async fn serve(file: PathBuf, config: config::Config) -> Result<(), Failure> {
    telemetry::init_log(&config.log);
    let db = Db::new(config.database.connect_options(&file)?, config.database.clone());
    let metrics_handle = telemetry::init_metrics(cli::NAME)?;
    let metrics = MetricsServer::bind(&config.metrics).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|e| Failure::run(format_args!("listen: cannot listen on {}: {e}", config.listen)))?;
    let shutdown = Shutdown::on_signals()?;
    let site = Arc::new(Site::new(config, db));

    let status = site.clone();
    let metrics = tokio::spawn(metrics.serve(
        metrics_handle,
        Arc::new(move || health::report(&status).1),
        shutdown.clone(),
    ));
    tracing::info!(listen = %site.config.listen, "serving");
    // Without a database, too: it may come minutes after this program, and /healthz says so meanwhile.
    notify_ready();
    let outcome = run(listener, site, shutdown).await;
    metrics.abort();
    outcome
}

/// Serves on `listener` until `shutdown`, then finishes what is in flight.
pub async fn run(listener: TcpListener, site: Arc<Site>, mut shutdown: Shutdown) -> Result<(), Failure> {
    let watcher = tokio::spawn(health::watch(site.clone()));
    let opener = tokio::spawn(health::open(site.clone(), shutdown.clone()));
    let sweeper = tokio::spawn(health::sweep(site.clone()));
    let patience = site.config.shutdown_timeout;
    let service = server::router(site.clone()).into_make_service_with_connect_info::<SocketAddr>();

    let (refuse, refused) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
        let _ = refused.await;
    });
    let mut serving = tokio::spawn(serving.into_future());
    let failed = tokio::select! {
        () = shutdown.wait() => None,
        ended = &mut serving => Some(ended),
    };
    if let Some(ended) = failed {
        return Err(Failure::run(format_args!("the listener failed: {ended:?}")));
    }
    site.drain();
    tokio::time::sleep(DRAIN.min(patience / 2)).await;
    let _ = refuse.send(());
    if tokio::time::timeout(patience.saturating_sub(DRAIN.min(patience / 2)), &mut serving).await.is_err() {
        tracing::warn!("requests were still in flight when the time to stop was over");
        serving.abort();
    }
    for task in [watcher, opener, sweeper] {
        task.abort();
    }
    site.db.close(Duration::from_secs(1)).await;
    tracing::info!("stopped");
    Ok(())
}
