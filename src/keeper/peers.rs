//! Asking the other keepers, each in its own task, so that one that hangs delays nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::config::ConfigError;
use crate::http::client::{Client, Target};
use crate::process::Shutdown;
use crate::tls;

use super::board::Board;
use super::config::Config;
use super::report::{Peers, Report};

/// The clients to all peers.
#[derive(Clone)]
pub struct PeerClients {
    clients: Arc<BTreeMap<String, Client>>,
    timeout: Duration,
}

impl PeerClients {
    /// Clients that have not connected yet.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let tls = tls::client_config(&config.tls, &[b"http/1.1"])?;
        let clients = config
            .peers()
            .filter_map(|peer| {
                // The name was checked with the configuration.
                let name = tls::server_name(&peer.name)?;
                let target = Target {
                    address: peer.keeper.to_string(),
                    host: peer.name.clone(),
                    tls: Some((tls.clone(), name)),
                };
                Some((peer.name.clone(), Client::new(target)))
            })
            .collect();
        Ok(Self { clients: Arc::new(clients), timeout: config.timing.peer_timeout })
    }

    async fn ask(&self, name: &str) -> Result<Report, String> {
        let client = self.clients.get(name).ok_or("is not configured")?;
        let answer = client.get("/state", self.timeout).await.map_err(|e| e.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("its keeper answers {}", answer.status));
        }
        let report: Report = serde_json::from_slice(&answer.body)
            .map_err(|e| format!("its keeper's answer makes no sense: {e}"))?;
        if report.node != name {
            return Err(format!("its keeper says that it is {}", report.node));
        }
        Ok(report)
    }

    /// Asks all peers once, at the same time, and leaves the answers on the board too.
    pub async fn ask_all(&self, board: &Board) -> Peers {
        let asked = Instant::now();
        let answers = self.clients.keys().map(|name| async move { (name.clone(), self.ask(name).await) });
        let answers = futures_util::future::join_all(answers).await;
        for (name, answer) in &answers {
            board.peer(name, asked, answer.clone());
        }
        answers.into_iter().collect()
    }

    /// Asks each peer every `interval` until stopping is asked for.
    pub fn poll(&self, board: &Arc<Board>, interval: Duration, shutdown: &Shutdown) {
        for name in self.clients.keys() {
            let (name, clients, board, mut shutdown) =
                (name.clone(), self.clone(), board.clone(), shutdown.clone());
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(interval);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut reachable = None;
                loop {
                    tokio::select! { _ = ticks.tick() => {}, () = shutdown.wait() => return }
                    let asked = Instant::now();
                    let answer = clients.ask(&name).await;
                    if reachable != Some(answer.is_ok()) {
                        match &answer {
                            Ok(_) => tracing::info!(peer = name, "the peer's keeper answers"),
                            Err(e) => {
                                tracing::warn!(peer = name, error = e, "the peer's keeper does not answer")
                            }
                        }
                        reachable = Some(answer.is_ok());
                    }
                    metrics::gauge!("trivet_keeper_peer_up", "peer" => name.clone()).set(if answer.is_ok() {
                        1.0
                    } else {
                        0.0
                    });
                    board.peer(&name, asked, answer);
                }
            });
        }
    }
}
