//! Asking every program of every node, all at the same time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::ClientConfig;
use serde_json::Value;

use super::model::{Certificate, NodeReport, Program};
use super::{certificate, read};
use crate::cluster::{Cluster, Node, Role};
use trivet_base::config::TlsFiles;
use trivet_http::client::{Client, Target};
use trivet_tls as tls;

/// The ports of the design; every Trivet node has these.
mod port {
    pub const SITE: u16 = 443;
    pub const WEB: u16 = 8443;
    pub const BALANCER_STATUS: u16 = 9601;
    pub const KEEPER: u16 = 8008;
    pub const WEB_STATUS: u16 = 9602;
    pub const APP_STATUS: u16 = 9603;
    pub const GATEWAY_STATUS: u16 = 9605;
}

/// What the nodes of `cluster` say.
pub async fn everyone(cluster: &Cluster, secrets: &Path, timeout: Duration) -> Vec<NodeReport> {
    let files = TlsFiles {
        ca: secrets.join("ca.pem"),
        certificate: secrets.join("node.pem"),
        key: secrets.join("node.key"),
    };
    let tls = tls::client_config(&files, &[b"http/1.1"]).map_err(|e| format!("{e} (root can read it)"));
    join_all(cluster.nodes.iter().map(|node| one(node, &cluster.domain, &tls, timeout))).await
}

async fn one(
    node: &Node,
    domain: &str,
    tls: &Result<Arc<ClientConfig>, String>,
    timeout: Duration,
) -> NodeReport {
    let status = |role, port| async move {
        if !node.is(role) {
            return None;
        }
        Some(
            get(
                Target { address: at(node.address, port), host: node.name.clone(), tls: None },
                "/status",
                timeout,
            )
            .await,
        )
    };
    let shown = |role, port, name: &'_ str| {
        let name = name.to_owned();
        async move {
            if !node.is(role) {
                return None;
            }
            Some(certificate::shown(at(node.address, port), &name, timeout).await)
        }
    };
    let (balancer, web, app, gateway, keeper, site_cert, web_cert, keeper_cert) = tokio::join!(
        status(Role::Balancer, port::BALANCER_STATUS),
        status(Role::App, port::WEB_STATUS),
        status(Role::App, port::APP_STATUS),
        status(Role::App, port::GATEWAY_STATUS),
        keeper(node, tls, timeout),
        shown(Role::Balancer, port::SITE, domain),
        shown(Role::App, port::WEB, &node.name),
        shown(Role::Database, port::KEEPER, &node.name),
    );

    let held = balancer.as_ref().and_then(|a| a.as_ref().ok()).map(read::held).unwrap_or_default();
    let database = keeper.as_ref().and_then(|a| a.as_ref().ok()).map(read::member);
    let programs: BTreeMap<&'static str, Program> =
        [("balancer", balancer), ("web", web), ("app", app), ("gateway", gateway), ("keeper", keeper)]
            .into_iter()
            .filter_map(|(name, answer)| Some((name, read::program(name, answer?))))
            .collect();
    let certificates: BTreeMap<&'static str, Certificate> =
        [("site", site_cert), ("web", web_cert), ("keeper", keeper_cert)]
            .into_iter()
            .filter_map(|(name, certificate)| Some((name, certificate?)))
            .collect();
    NodeReport {
        name: node.name.clone(),
        address: node.address,
        roles: node.roles.clone(),
        programs,
        database,
        certificates,
        warnings: Vec::new(),
        held,
    }
}

async fn keeper(
    node: &Node,
    tls: &Result<Arc<ClientConfig>, String>,
    timeout: Duration,
) -> Option<Result<Value, String>> {
    if !node.is(Role::Database) {
        return None;
    }
    let config = match tls {
        Ok(config) => config.clone(),
        Err(e) => return Some(Err(e.clone())),
    };
    let Some(name) = tls::server_name(&node.name) else {
        return Some(Err("its name cannot stand in a certificate".into()));
    };
    let target = Target {
        address: at(node.address, port::KEEPER),
        host: node.name.clone(),
        tls: Some((config, name)),
    };
    // 503 with a reason is an answer too.
    Some(get(target, "/health", timeout).await)
}

async fn get(target: Target, path: &str, timeout: Duration) -> Result<Value, String> {
    let answer = Client::new(target).get(path, timeout).await.map_err(|e| e.to_string())?;
    serde_json::from_slice(&answer.body).map_err(|_| format!("GET {path}: {} without JSON", answer.status))
}

fn at(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}
