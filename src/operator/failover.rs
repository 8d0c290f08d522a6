//! `trivet failover [NODE]`: moves the virtual addresses to another node, in order: the new holder has them before the old one lets
//! them go.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::control::{Socket, give, summaries};
use trivet_balancer_api::{Command, Summary};
use trivet_base::process::Failure;

/// keepalived asks the balancer each second, and then waits for three adverts.
const MOVES: Duration = Duration::from_secs(15);
/// Between two looks at where they are.
const LOOK: Duration = Duration::from_millis(200);

/// Moves them to `to`, or to the next balancer that is fit, and waits until they are there.
pub async fn run(socket: &Socket, to: Option<String>) -> Result<(), Failure> {
    let before = balancers(socket).await?;
    if before.iter().all(|b| b.virtual_addresses.is_empty()) {
        return Err(Failure::run("no balancer that answers knows of virtual addresses"));
    }
    let holder = before.iter().find(|b| !b.held.is_empty()).map(|b| b.node.clone());
    let to = match to {
        Some(to) => to,
        None => {
            let fit = before.iter().find(|b| b.is_fit && Some(&b.node) != holder.as_ref());
            fit.map(|b| b.node.clone()).ok_or_else(|| {
                Failure::run("no other balancer is fit to have the addresses: see `trivet status`")
            })?
        }
    };
    if holder.as_ref() == Some(&to) {
        println!("{to} has the virtual addresses already; nothing was changed");
        return Ok(());
    }
    if let Some(silent) = before.iter().find(|b| b.node == to).and_then(|b| b.error.as_ref()) {
        return Err(Failure::run(format_args!("the balancer of {to} does not answer ({silent})")));
    }
    let begun = Instant::now();
    give(socket, &Command::Failover { node: to.clone() }).await.map_err(Failure::run)?;
    loop {
        let now = balancers(socket).await?;
        let holders: Vec<&str> = now.iter().filter(|b| !b.held.is_empty()).map(|b| b.node.as_str()).collect();
        if holders == [to.as_str()] && now.iter().any(|b| b.node == to && b.held == b.virtual_addresses) {
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
        sleep(LOOK).await;
    }
}

async fn balancers(socket: &Socket) -> Result<Vec<Summary>, Failure> {
    let mut all = summaries(socket).await.map_err(Failure::run)?;
    all.retain(|s| s.is_balancer);
    // The order does not depend on where one asks.
    all.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(all)
}
