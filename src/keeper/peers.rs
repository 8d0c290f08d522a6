//! Asking the other keepers, each in its own task, so that one that hangs delays nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use http::StatusCode;
use tokio::task::JoinSet;

use trivet_base::config::ConfigError;
use trivet_base::process::{Heartbeats, Shutdown};
use trivet_http::client::{Client, ClientError, Target};
use trivet_tls as tls;

use super::board::{Board, unix_ms};
use super::config::{Config, Timing};
use super::model::CERTIFICATE;
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

    /// What the keeper of `name` says now.
    pub(super) async fn ask(&self, name: &str) -> Result<Report, String> {
        let client = self.clients.get(name).ok_or("is not configured")?;
        let (sent, begun) = (unix_ms(), Instant::now());
        let answer = client.get("/state", self.timeout).await.map_err(|e| because(&e))?;
        let took = begun.elapsed().as_secs_f64();
        if answer.status != StatusCode::OK {
            return Err(format!("its keeper answers {}", answer.status));
        }
        let mut report: Report = serde_json::from_slice(&answer.body)
            .map_err(|e| format!("its keeper's answer makes no sense: {e}"))?;
        if report.node != name {
            return Err(format!("its keeper says that it is {}", report.node));
        }
        // Somewhere between question and answer its clock was read.
        report.ahead = report.clock_ms.map(|clock| ahead(clock, sent) - took / 2.0);
        Ok(report)
    }

    /// Whether the keeper of `name`, having looked right now, calls its member the primary; the error is its reason.
    pub async fn is_primary(&self, name: &str) -> Result<(), String> {
        let client = self.clients.get(name).ok_or("is not configured")?;
        let answer = client.get("/primary?look=now", self.timeout).await.map_err(|e| e.to_string())?;
        if answer.status == StatusCode::OK {
            return Ok(());
        }
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Err(body["reason"]
            .as_str()
            .map_or_else(|| format!("its keeper answers {}", answer.status), str::to_owned))
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

    /// Asks each peer every `timing.observe` until stopping is asked for.
    pub fn poll(
        &self,
        board: &Arc<Board>,
        timing: &Timing,
        heartbeats: &Heartbeats,
        shutdown: &Shutdown,
        tasks: &mut JoinSet<()>,
    ) {
        for name in self.clients.keys() {
            let (name, clients, board, mut shutdown) =
                (name.clone(), self.clone(), board.clone(), shutdown.clone());
            let interval = timing.observe;
            let beat = heartbeats.expect(format!("asking {name}"), timing.comes_round(self.timeout));
            tasks.spawn(async move {
                let mut ticks = tokio::time::interval(interval);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut reachable = None;
                loop {
                    tokio::select! { _ = ticks.tick() => {}, () = shutdown.wait() => return }
                    beat.beat();
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

/// How far one clock is ahead of another, in seconds; both in milliseconds since 1970.
#[expect(clippy::cast_precision_loss, reason = "differences that matter are far below 2^53 ms")]
fn ahead(theirs: u64, ours: u64) -> f64 {
    (i128::from(theirs) - i128::from(ours)) as f64 / 1000.0
}

/// A failure in words that tell what to look at.
fn because(e: &ClientError) -> String {
    let text = e.to_string();
    // rustls names what it refuses, and an alert that it receives ("RFC 8446 section 6.2") names what the other refuses.
    if matches!(e, ClientError::Tls(..)) && text.contains("certificate") || text.contains("fatal alert") {
        return format!("{CERTIFICATE}{text}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_wrong_certificate_is_told_from_a_broken_connection() {
        let tls = |text: &str| {
            because(&ClientError::Tls("x:8008".into(), Error::new(ErrorKind::InvalidData, text)))
        };
        for wrong in ["invalid peer certificate: UnknownIssuer", "invalid peer certificate: Expired"] {
            assert!(tls(wrong).starts_with(CERTIFICATE), "{}", tls(wrong));
        }
        let alert = because(&ClientError::Http("received fatal alert: UnknownCA".into()));
        assert!(alert.starts_with(CERTIFICATE), "{alert}");
        assert!(!tls("peer closed connection without sending TLS close_notify").starts_with(CERTIFICATE));
        assert!(!because(&ClientError::Timeout(Duration::from_secs(1))).starts_with(CERTIFICATE));
    }
}
