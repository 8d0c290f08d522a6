//! `/status`: what the operator's command shows of a balancer or gateway.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::admin::Admin;
use super::gateway::Gateway;
use super::tcp::Service;
use trivet_base::process::Shutdown;
use trivet_base::process::handover::Succession;
use trivet_base::process::workers::Workers;
use trivet_proxy::server::Connections;
use trivet_proxy::upstream::HttpPool;
use trivet_tls::site::{CertificateStatus, SiteCertificates};

/// Everything `/status` is made of.
pub struct Status {
    /// This node.
    pub node: String,
    /// The processes before this one, where it can have had any.
    pub succession: Option<Arc<Succession>>,
    /// Whether a stop was asked for.
    pub shutdown: Shutdown,
    /// The cluster's virtual addresses.
    pub virtual_addresses: Vec<IpAddr>,
    /// The HTTP half, when there is one.
    pub http: Option<HttpStatus>,
    /// The gateway, when there is one.
    pub gateway: Option<Arc<Gateway>>,
    /// What operators have ordered, where they can.
    pub admin: Option<Arc<Admin>>,
    /// Those of `[tcp.NAME]`.
    pub services: Vec<Arc<Service>>,
    /// Those that carry connections, of either half.
    pub workers: Arc<Workers>,
}

/// What there is to tell of the HTTP half.
pub struct HttpStatus {
    /// The one of `[web]` first.
    pub pools: Vec<Arc<HttpPool>>,
    pub connections: Arc<Connections>,
    pub certificates: Arc<SiteCertificates>,
}

impl Status {
    /// The document.
    pub fn json(&self) -> Value {
        let mut out = Map::new();
        out.insert("program".into(), "trivet-balancer".into());
        out.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        out.insert("node".into(), self.node.clone().into());
        out.insert("pid".into(), std::process::id().into());
        if let Some(succession) = &self.succession {
            out.insert("draining".into(), json!(succession.reports()));
        }
        out.insert("stopping".into(), self.shutdown.is_stopping().into());
        if !self.virtual_addresses.is_empty() {
            out.insert("virtual_addresses".into(), held(&self.virtual_addresses));
        }
        if let Some(HttpStatus { pools, connections, certificates }) = &self.http {
            let (first, others) = pools.split_first().map_or((None, &[][..]), |(f, o)| (Some(f), o));
            out.insert("backends".into(), first.map_or(json!([]), |pool| pool.status()));
            if !others.is_empty() {
                let pools = others.iter().map(|pool| (pool.name().to_owned(), pool.status()));
                out.insert("pools".into(), Value::Object(pools.collect()));
            }
            out.insert("connections".into(), connections.open().into());
            out.insert("certificates".into(), certificates.status().iter().map(certificate).collect());
        }
        if let Some(admin) = &self.admin {
            out.insert("orders".into(), admin.status());
        }
        out.insert("workers".into(), self.workers.status());
        if let Some(gateway) = &self.gateway {
            out.insert("database".into(), gateway.status());
        }
        if !self.services.is_empty() {
            let all = self.services.iter().map(|s| (s.name().to_owned(), s.status()));
            out.insert("tcp".into(), Value::Object(all.collect()));
        }
        Value::Object(out)
    }
}

/// Those of the virtual addresses that this node has.
pub fn here(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let here = interfaces();
    addresses.iter().filter(|a| here.contains(a)).copied().collect()
}

/// The addresses of this node's interfaces. On the loopback interface every node has the virtual ones, to answer what was asked
/// before they moved.
fn interfaces() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces
        .iter()
        .filter(|i| i.name != "lo" || i.ip().is_loopback())
        .map(if_addrs::Interface::ip)
        .collect()
}

/// Whether this node has one of the virtual addresses.
pub fn holds(addresses: &[IpAddr]) -> bool {
    !here(addresses).is_empty()
}

/// Which of the virtual addresses this node has.
fn held(addresses: &[IpAddr]) -> Value {
    let here = here(addresses);
    addresses.iter().map(|a| json!({"address": a.to_string(), "held": here.contains(a)})).collect()
}

fn certificate(one: &CertificateStatus) -> Value {
    let text = one.expires.format(&time::format_description::well_known::Rfc3339).ok();
    let days = (one.expires - time::OffsetDateTime::now_utc()).whole_days();
    json!({
        "file": one.file.display().to_string(),
        "names": one.names,
        "not_after": text,
        "days_left": days,
        "reload_failed": one.refused,
    })
}
