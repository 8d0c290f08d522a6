//! The other balancers and gateways: what is ordered here is told there, and back comes what is known there.

use std::time::Duration;

use futures_util::future::join_all;
use metrics::gauge;
use trivet_balancer_api::{Figures, Orders, Summary, Told};
use trivet_base::config::ConfigError;
use trivet_http::client::{Client, Target};
use trivet_tls as tls;

use crate::config::{Control, Peer, Program};

/// An answer of a peer; it is on the same network.
const ANSWER: Duration = Duration::from_secs(2);

/// All peers.
pub struct Peers(Vec<(Peer, Client)>);

impl Peers {
    /// Reads the certificate files of `[control]`.
    pub fn new(control: &Control) -> Result<Self, ConfigError> {
        let Some(files) = &control.tls else { return Ok(Self(Vec::new())) };
        let config = tls::client_config(files, &[b"http/1.1"])?;
        let one = |peer: &Peer| {
            let name = tls::verified_name(&peer.node)?;
            let target = Target {
                address: peer.address.to_string(),
                host: peer.node.clone(),
                tls: Some((config.clone(), name)),
            };
            Ok((peer.clone(), Client::new(target)))
        };
        Ok(Self(control.peers.iter().map(one).collect::<Result<_, ConfigError>>()?))
    }

    /// The nodes of those that do this.
    pub fn nodes(&self, program: Program) -> Vec<String> {
        self.0.iter().filter(|(peer, _)| peer.program == program).map(|(peer, _)| peer.node.clone()).collect()
    }

    /// Tells all of them, at the same time: who was told, and what they know.
    pub async fn tell(&self, orders: &Orders) -> (Vec<Told>, Vec<Orders>) {
        let body = serde_json::to_vec(orders).unwrap_or_default();
        let answers = self.0.iter().map(|(peer, client)| {
            let body = body.clone();
            async move {
                let answer = ask(client, body).await;
                gauge!("trivet_control_peer_up", "peer" => peer.name()).set(if answer.is_ok() {
                    1.0
                } else {
                    0.0
                });
                (peer.name(), answer)
            }
        });
        let mut known = Vec::new();
        let told = join_all(answers).await.into_iter().map(|(name, answer)| {
            let error = answer.map(|orders| known.push(orders)).err();
            Told { name, error }
        });
        (told.collect(), known)
    }
}

impl Peers {
    /// What the balancers among them count.
    pub async fn figures(&self) -> Vec<Figures> {
        let balancers = self.0.iter().filter(|(peer, _)| peer.program == Program::Balancer);
        let asked = balancers.map(|(peer, client)| async move {
            let answer = client.get("/figures", ANSWER).await;
            let read = answer.map_err(|e| e.to_string()).and_then(|answer| {
                serde_json::from_slice(&answer.body).map_err(|e| format!("its answer makes no sense: {e}"))
            });
            let (text, error) = match read {
                Ok(text) => (text, None),
                Err(error) => (String::new(), Some(error)),
            };
            Figures { name: peer.name(), text, error }
        });
        join_all(asked).await
    }

    /// What each of them has.
    pub async fn summaries(&self) -> Vec<Summary> {
        let asked = self.0.iter().map(|(peer, client)| async move {
            let answer = client.get("/summary", ANSWER).await;
            let read = answer.map_err(|e| e.to_string()).and_then(|answer| {
                serde_json::from_slice(&answer.body).map_err(|e| format!("its answer makes no sense: {e}"))
            });
            read.unwrap_or_else(|error| Summary {
                name: peer.name(),
                node: peer.node.clone(),
                is_balancer: peer.program == Program::Balancer,
                error: Some(error),
                ..Summary::default()
            })
        });
        join_all(asked).await
    }
}

async fn ask(client: &Client, body: Vec<u8>) -> Result<Orders, String> {
    let answer = client.post("/orders", body.into(), ANSWER).await.map_err(|e| e.to_string())?;
    if !answer.status.is_success() {
        return Err(format!("it answers {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|e| format!("its answer makes no sense: {e}"))
}
