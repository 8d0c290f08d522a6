//! `trivet failover [NODE]`: moves the virtual addresses to another node, in order: the new holder has them before the old one lets
//! them go.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Role};
use super::control::{Socket, give, status_of};
use super::status::held;
use trivet_balancer_api::Command;
use trivet_base::process::Failure;

/// keepalived asks the balancer each second, and then waits for three adverts.
const MOVES: Duration = Duration::from_secs(15);

/// What one balancer says.
struct Balancer {
    node: String,
    held: Vec<IpAddr>,
    /// Whether it may have the addresses: it is not on its way out, and has a back end.
    fit: bool,
}

/// Moves them to `to`, or to the next balancer that is fit, and waits until they are there.
pub async fn run(cluster: &Cluster, socket: &Socket, to: Option<String>) -> Result<(), Failure> {
    if cluster.virtual_addresses.is_empty() {
        return Err(Failure::run("the cluster has no virtual addresses"));
    }
    let before = ask(cluster).await;
    let holder = before.iter().find(|b| !b.held.is_empty()).map(|b| b.node.clone());
    let to = match to {
        Some(to) => to,
        None => {
            let fit = before.iter().find(|b| b.fit && Some(&b.node) != holder.as_ref());
            fit.map(|b| b.node.clone()).ok_or_else(|| {
                Failure::run("no other balancer is fit to have the addresses: see `trivet status`")
            })?
        }
    };
    if holder.as_ref() == Some(&to) {
        println!("{to} has the virtual addresses already; nothing was changed");
        return Ok(());
    }
    let begun = Instant::now();
    give(socket, &Command::Failover { node: to.clone() }).await.map_err(Failure::run)?;
    loop {
        let now = ask(cluster).await;
        let has_all = |b: &Balancer| cluster.virtual_addresses.iter().all(|a| b.held.contains(a));
        let holders: Vec<&str> = now.iter().filter(|b| !b.held.is_empty()).map(|b| b.node.as_str()).collect();
        if holders == [to.as_str()] && now.iter().any(|b| b.node == to && has_all(b)) {
            let from = holder.map(|h| format!(", after {h}")).unwrap_or_default();
            let seconds = begun.elapsed().as_secs_f64();
            println!("{to} has the virtual addresses now{from}; it took {seconds:.1} s");
            return Ok(());
        }
        if begun.elapsed() > MOVES {
            return Err(Failure::run(format_args!(
                "the virtual addresses are not at {to} after {} s, but at {}: see `journalctl -u keepalived` there",
                MOVES.as_secs(),
                if holders.is_empty() { "no node that answers".into() } else { holders.join(" and ") }
            )));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn ask(cluster: &Cluster) -> Vec<Balancer> {
    let all = cluster.with(Role::Balancer).map(|node| async move {
        let status = status_of(node.address).await.unwrap_or(Value::Null);
        let orders = status["orders"].as_array().into_iter().flatten();
        let is_drained =
            orders.filter_map(|o| o["about"].as_str()).any(|about| about == format!("node/{}", node.name));
        let has_back_end = status["backends"].as_array().into_iter().flatten().any(|b| b["usable"] == true);
        Balancer {
            node: node.name.clone(),
            held: held(&status),
            fit: has_back_end && status["stopping"] == false && !is_drained,
        }
    });
    futures_util::future::join_all(all).await
}
