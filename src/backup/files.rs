//! The site's files: each node's own.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cluster::Cluster;
use crate::progress::Watcher;
use crate::repository::{Copy, RepositoryError, blocking};
use crate::restore::Target;

/// The label of copies of files.
pub const LABEL: &str = "files";

/// Copies this node's folders into one repository. `None` when none of them is there.
pub async fn take(cluster: &Cluster, name: &str, watcher: &Watcher) -> Result<Option<Copy>, RepositoryError> {
    let (there, absent): (Vec<PathBuf>, Vec<PathBuf>) =
        cluster.config.files.paths.iter().cloned().partition(|p| p.exists());
    for path in absent {
        tracing::warn!(path = %path.display(), "this path is not there, and so not in the copy (files.paths)");
    }
    if there.is_empty() {
        return Ok(None);
    }
    // What a link leads to, and not the link: NixOS' /etc is made of them.
    let there: Vec<PathBuf> = there.into_iter().map(|p| p.canonicalize().unwrap_or(p)).collect();
    let repository = cluster.open_to_write(name, watcher).await?;
    let place = repository.storage.place().to_owned();
    let node = cluster.config.node.clone();
    blocking(&place, move || repository.copy(&there, LABEL, &node, String::new(), false)).await.map(Some)
}

/// The last copy of a node's files that was begun before the moment.
pub fn choose(place: &str, copies: Vec<Copy>, node: &str, moment: &Target) -> Result<Copy, RepositoryError> {
    let failed = |reason: String| RepositoryError::Failed { place: place.into(), reason };
    let wanted = match moment {
        Target::Latest => None,
        Target::Time(micros) => Some(i128::from(*micros) * 1000),
        Target::Gtid { .. } | Target::Set(_) => {
            return Err(failed("files have no transactions: give a time, or latest (--to)".into()));
        }
    };
    let nodes: BTreeSet<String> = copies.iter().map(|c| c.host.clone()).collect();
    let first = copies.iter().find(|c| c.host == node).map(|c| c.time);
    copies
        .into_iter()
        .rev()
        .find(|c| c.host == node && wanted.is_none_or(|w| c.time.unix_timestamp_nanos() <= w))
        .ok_or_else(|| {
            failed(match first {
                Some(first) => {
                    format!("the first copy of the files of {node} is of {first}: {moment} is before it")
                }
                None if nodes.is_empty() => "has no copy of any files".into(),
                None => {
                    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
                    format!("has no copy of files of {node}; there is {}", nodes.join(", "))
                }
            })
        })
}
