//! The site's files: each node's own.

use std::path::PathBuf;

use crate::cluster::Cluster;
use crate::progress::Watcher;
use crate::repository::{Copy, RepositoryError, blocking};

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
    let repository = cluster.open_or_create(name, watcher).await?;
    let place = repository.storage.place().to_owned();
    let node = cluster.config.node.clone();
    blocking(&place, move || repository.copy(&there, LABEL, &node, String::new(), false)).await.map(Some)
}
