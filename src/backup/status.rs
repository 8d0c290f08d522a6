//! How backups are doing, as whoever asks sees it in the repositories and in the leases.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use trivet_base::process::Failure;

use crate::base::{Description, LABEL};
use crate::cluster::{Cluster, LOG_LEASE, WORK_LEASE};
use crate::log::catalog;
use crate::progress::Watcher;
use crate::restore::clock;
use crate::verify::Proof;

/// What a repository holds.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Holding {
    /// How many base copies.
    pub copies: usize,
    /// When the last one was whole, RFC 3339.
    pub last_base: Option<String>,
    /// The last commit in the log, RFC 3339.
    pub log_until: Option<String>,
    /// When a restore was proven last, RFC 3339.
    pub proven: Option<String>,
}

/// Looks into a repository.
pub async fn look(cluster: &Cluster, name: &str, watcher: &Watcher) -> Result<Holding, Failure> {
    let repository = cluster.open(name, cluster.keys.clone(), watcher).await.map_err(Failure::run)?;
    let (storage, copies) = repository.into_copies(LABEL).await.map_err(Failure::run)?;
    Ok(Holding {
        copies: copies.len(),
        last_base: copies.last().and_then(Description::of).map(|d| d.consistent),
        log_until: catalog::last(&storage).await.map_err(Failure::run)?.map(|l| clock(l.last)),
        proven: Proof::last(&storage).await.map_err(Failure::run)?.map(|p| p.at),
    })
}

/// `trivet backup status`. Fails when a repository cannot be read.
pub async fn show(cluster: &Cluster, json: bool, watcher: &Watcher) -> Result<(), Failure> {
    let mut failed = Vec::new();
    let mut all = serde_json::Map::new();
    for (what, name) in [("the log is streamed by", LOG_LEASE), ("copies are made by", WORK_LEASE)] {
        let said = match cluster.lease(name).holder().await {
            Ok(Some((holder, work))) => format!("{holder}: {work}"),
            Ok(None) => "nobody at the moment".into(),
            Err(e) => e.to_string(),
        };
        if json {
            all.insert(name.into(), said.into());
        } else {
            println!("{what} {said}");
        }
    }
    for name in cluster.names() {
        match look(cluster, &name, watcher).await {
            Ok(holding) if json => {
                all.insert(name, serde_json::to_value(holding).unwrap_or_default());
            }
            Ok(holding) => {
                println!("{name}: {} base copies", holding.copies);
                println!("  last base copy   {}", ago(holding.last_base.as_deref()));
                println!("  log reaches to   {}", ago(holding.log_until.as_deref()));
                println!("  restore proven   {}", ago(holding.proven.as_deref()));
            }
            Err(e) => {
                if json {
                    all.insert(name.clone(), serde_json::json!({"error": e.to_string()}));
                } else {
                    println!("{name}: {e}");
                }
                failed.push(name);
            }
        }
    }
    if json {
        println!("{}", serde_json::Value::Object(all));
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::run(format_args!("not readable: {}", failed.join(", "))))
    }
}

fn ago(time: Option<&str>) -> String {
    let Some(time) = time else { return "never".into() };
    match OffsetDateTime::parse(time, &Rfc3339) {
        Ok(at) => {
            let seconds = u64::try_from((OffsetDateTime::now_utc() - at).whole_seconds()).unwrap_or(0);
            format!("{time}, {} ago", humantime::format_duration(std::time::Duration::from_secs(seconds)))
        }
        Err(_) => time.into(),
    }
}
