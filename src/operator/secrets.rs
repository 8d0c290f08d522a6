//! `trivet secrets init`: the cluster's CA, the nodes' certificates and the passwords, made on the operator's machine.
//!
//! ```text
//! DIR/ca/       ca.pem ca.key
//! DIR/<node>/   ca.pem node.pem node.key     every node
//!               site.pem site.key ticket.secret      balancers
//!               app-password, replication-password, backup-password,
//!               backup.key, backup-recovery.pub      database members
//!               app.env                      nodes with an app
//! ```
//!
//! A node gets what its roles need and nothing else. Files are 0600, folders 0700. The folder of a node goes to
//! `/var/lib/trivet/secrets` on that node; `ca/ca.key` goes nowhere.

mod authority;
mod password;
mod plan;
mod report;
mod write;

use std::path::Path;

pub use report::Report;

use super::cluster::Cluster;
use trivet_base::config::ConfigError;
use trivet_base::process::Failure;

/// Why `secrets init` made nothing. Whatever the reason, what stood in the folder before stands there still.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The folder would be readable by every user and copied into every closure.
    #[error(
        "{out}: is below /nix/store, which everyone can read; choose a folder that only you can read, \
             such as ~/trivet-secrets"
    )]
    InStore {
        /// The folder, as given.
        out: String,
    },
    /// Something to be written is there already.
    #[error(
        "{out}: already holds {found}; nothing was changed. To add only what is absent, give --missing; \
             to start over with new keys, move the folder away first"
    )]
    Exists {
        /// The folder, as given.
        out: String,
        /// The first few paths.
        found: String,
    },
    /// A certificate has to be signed, and the CA's key is not in the folder.
    #[error(
        "{out}: {node} needs a certificate, but ca/{absent} is not here. Bring {out}/ca back from where it is \
             kept and run this again"
    )]
    NoAuthority {
        /// The folder, as given.
        out: String,
        /// The first node whose certificate is absent.
        node: String,
        /// The absent file.
        absent: &'static str,
    },
    /// Two nodes' folders hold different passwords where one is shared.
    #[error(
        "{first} and {second} differ, but the password is one for the whole cluster; put the right one in both \
             places, or delete the wrong one"
    )]
    Differs {
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A file that is to be kept cannot be used.
    #[error("{file}: {reason}")]
    Unusable {
        file: String,
        /// Why not.
        reason: String,
    },
    /// The operating system gave no random numbers, or a certificate could not be made.
    #[error("cannot make a key or certificate: {0}")]
    Make(String),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
}

impl From<SecretsError> for Failure {
    fn from(e: SecretsError) -> Self {
        match e {
            SecretsError::InStore { out } => {
                // A wrong argument, as wrong as a bad file.
                let reason = SecretsError::InStore { out: out.clone() }.to_string();
                ConfigError::at("--out", "", reason).into()
            }
            e => Failure::run(e),
        }
    }
}

/// Makes what is to be made for `cluster` in the folder `out` and says what was done. Without `missing`, everything must
/// be absent; with it, what is there is kept and used.
pub fn init(cluster: &Cluster, out: &Path, missing: bool) -> Result<Report, SecretsError> {
    write::refuse_store(out)?;
    let plan = plan::make(cluster, out, missing)?;
    write::all(out, &plan.files)?;
    Ok(Report::new(cluster, out, plan))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> SecretsError {
    let path = path.display().to_string();
    move |source| SecretsError::Io { path, source }
}

#[cfg(test)]
mod tests;
