//! Building the keeper from its configuration, and its life.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use metrics::gauge;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use trivet_base::config::ConfigError;
use trivet_base::process::{self, Beat, Failure, Heartbeats, Shutdown};
use trivet_base::telemetry::{self, MetricsServer};
use trivet_tls as tls;

use super::board::Board;
use super::config::Config;
use super::control::{self, Control};
use super::credentials::Credentials;
use super::disk;
use super::model::Cluster;
use super::observe::Observer;
use super::peers::PeerClients;
use super::record::RecordFile;
use super::report::MemberState;
use super::runner::Runner;
use super::server;
use super::sql::SqlError;
use super::switchover::Switchover;
use super::verdict;

/// Runs the keeper until it is told to stop. mysqld is left as it is.
pub async fn run(config: Config) -> Result<(), Failure> {
    let config = Arc::new(config);
    telemetry::init_log(&config.log);
    // Before the certificates are read: their ends are metrics, too.
    let metrics = telemetry::init_metrics("trivet-keeper")?;

    // Everything that can be wrong in a file, before anything is bound.
    let credentials = Credentials::read(&config.mysql)?;
    let tls = tls::mutual_server_config(&config.tls, &[b"http/1.1"])?;
    let peers = PeerClients::new(&config)?;
    let record = RecordFile::open(&config.state_directory, &config.group_name)
        .map_err(|e| ConfigError::at(&config.state_directory, "", e))?;

    let metrics_server = MetricsServer::bind(&config.metrics).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|e| Failure::run(format_args!("listen: cannot listen on {}: {e}", config.listen)))?;

    let control_listener = control::bind(&config.control_socket).map_err(|e| {
        Failure::run(format_args!(
            "control_socket: cannot listen on {}: {e}",
            config.control_socket.display()
        ))
    })?;

    let shutdown = Shutdown::on_signals()?;
    let heartbeats = Heartbeats::default();
    let board = Arc::new(Board::new(cluster(&config), config.timing.stale, record.record().clone()));
    let status = board.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(metrics_server.serve(
        metrics,
        Arc::new(move || serde_json::to_value(status.report(Instant::now())).unwrap_or_default()),
        shutdown.clone(),
    ));
    let beat =
        heartbeats.expect("looking at mysqld", config.timing.comes_round(config.timing.observe_timeout));
    tasks.spawn(observe(config.clone(), board.clone(), beat, shutdown.clone()));
    tasks.spawn(disk::watch(config.mysql.clone(), board.clone(), shutdown.clone()));
    peers.poll(&board, &config.timing, &heartbeats, &shutdown, &mut tasks);
    tasks.spawn(server::serve(listener, tls, server::router(board.clone()), shutdown.clone()));
    let switchover = Arc::new(Switchover::new(config.clone(), board.clone(), peers.clone()));
    let (force, forces) = mpsc::channel(1);
    let control = Control::new(board.clone(), switchover.clone(), force);
    let (socket, stop) = (config.control_socket.clone(), shutdown.clone());
    tasks.spawn(async move {
        control::serve(control_listener, &socket, control, stop).await;
    });
    // A step looks at mysqld and the peers anew at most once.
    let beat = heartbeats.expect("deciding", config.timing.comes_round(config.timing.observe_timeout));
    tasks.spawn(
        Runner::new(config.clone(), board, peers, switchover, forces, record, credentials)
            .run(beat, shutdown.clone()),
    );

    tracing::info!(node = config.node, listen = %config.listen, "keeping");
    process::notify_ready_while(heartbeats);
    process::until_stopped("keeper", &mut tasks, shutdown).await?;
    if !process::all_end_within(config.shutdown_timeout, &mut tasks).await {
        tracing::warn!("an action was still in progress when shutdown_timeout ended");
    }
    Ok(())
}

/// The part of the configuration that decisions are made from.
pub fn cluster(config: &Config) -> Cluster {
    let mut hash = Sha256::new();
    hash.update(&config.group_name);
    for m in &config.members {
        hash.update(format!("\n{} {} {}", m.name, m.mysql, m.keeper));
    }
    let digest = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    Cluster {
        me: config.node.clone(),
        members: config.members.iter().map(|m| m.name.clone()).collect(),
        group_name: config.group_name.clone(),
        digest,
    }
}

async fn observe(config: Arc<Config>, board: Arc<Board>, beat: Beat, mut shutdown: Shutdown) {
    let mut observer = Observer::new(config.clone());
    let mut ticks = tokio::time::interval(config.timing.observe);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = board.look_wanted() => {}, () = shutdown.wait() => return }
        // Also when mysqld does not answer: that is no fault of the keeper's.
        beat.beat();
        let at = Instant::now();
        match observer.look().await {
            Ok(seen) => {
                gauge!("trivet_keeper_majority").set(if seen.majority { 1.0 } else { 0.0 });
                gauge!("trivet_keeper_view_members").set(u32::try_from(seen.view.len()).unwrap_or(u32::MAX));
                // NaN is Prometheus' way to say "not known".
                gauge!("trivet_keeper_lag_seconds").set(seen.lag_seconds.unwrap_or(f64::NAN));
                for state in [
                    MemberState::Online,
                    MemberState::Recovering,
                    MemberState::Offline,
                    MemberState::Error,
                    MemberState::Unreachable,
                ] {
                    gauge!("trivet_keeper_member_state", "state" => state.as_str())
                        .set(if state == seen.member_state { 1.0 } else { 0.0 });
                }
                board.observed(seen, at);
            }
            Err(e) => {
                metrics::counter!("trivet_keeper_observation_errors_total").increment(1);
                tracing::debug!(error = %e, "look at mysqld");
                let gone = matches!(e, SqlError::Gone(_));
                board.not_observed(e.to_string(), gone);
            }
        }
        let sessions = match board.moves_away(Instant::now()) {
            true => observer.sessions().await.ok().or(board.sessions_seen()),
            false => None,
        };
        board.sessions(sessions);
        // The same verdicts that gateways get: a member that does not answer is not online, whatever it said last.
        let facts = board.facts(Instant::now());
        gauge!("trivet_keeper_member_online").set(f64::from(u8::from(verdict::health(&facts).is_ok())));
        gauge!("trivet_keeper_member_primary").set(f64::from(u8::from(verdict::primary(&facts).is_ok())));
        let age = board.age(Instant::now()).map_or(f64::INFINITY, |a: Duration| a.as_secs_f64());
        gauge!("trivet_keeper_observation_age_seconds").set(age);
    }
}
