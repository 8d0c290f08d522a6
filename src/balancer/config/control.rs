//! `[control]`: how operators command this process, and others like it hear of it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use trivet_base::config::{self, Invalid, TlsFiles};
use trivet_base::process::handover;

/// `[control]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The unix socket, for its owner and its group alone; `control.sock` in `runtime_directory` when absent.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Where what was ordered is remembered over a restart; nowhere when absent.
    #[serde(default)]
    pub state_file: Option<PathBuf>,
    /// Where the others tell what was ordered there.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// The other balancers and gateways of the cluster.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Needed where there are others: they show certificates of the cluster's authority to one another.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
}

/// Another balancer or gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its node, whose name its certificate carries.
    pub node: String,
    #[serde(default)]
    pub program: Program,
    /// Its `control.listen`.
    pub address: SocketAddr,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// It may have the virtual addresses.
    #[default]
    Balancer,
    Gateway,
}

impl Peer {
    /// For people.
    pub fn name(&self) -> String {
        match self.program {
            Program::Balancer => format!("balancer of {}", self.node),
            Program::Gateway => format!("gateway of {}", self.node),
        }
    }
}

impl Control {
    /// Where its socket is.
    pub fn socket(&self, runtime_directory: Option<&Path>) -> Option<PathBuf> {
        self.socket.clone().or_else(|| Some(runtime_directory?.join("control.sock")))
    }

    pub(super) fn validate(&self, runtime_directory: Option<&Path>) -> Result<(), Invalid> {
        match self.socket(runtime_directory) {
            None => {
                return Invalid::err(
                    "control.socket",
                    "is missing, and there is no runtime_directory where it could be",
                );
            }
            Some(path) => {
                config::absolute("control.socket", &path)?;
                let others = [runtime_directory.map(|d| d.join(handover::SOCKET)), self.state_file.clone()];
                if others.contains(&Some(path.clone())) {
                    return Invalid::err(
                        "control.socket",
                        "is where another file of this process is: give it a path of its own",
                    );
                }
                // With the number of a process behind it.
                if path.as_os_str().len() + 11 > 107 {
                    return Invalid::err("control.socket", "is too long for the path of a socket (unix(7))");
                }
            }
        }
        if let Some(file) = &self.state_file {
            config::absolute("control.state_file", file)?;
        }
        match &self.tls {
            Some(files) => files.validate("control.tls")?,
            None if self.listen.is_some() || !self.peers.is_empty() => {
                return Invalid::err(
                    "control.tls",
                    "is missing; others are told over TLS, with certificates of the cluster",
                );
            }
            None => {}
        }
        let mut seen = HashSet::new();
        for (number, peer) in self.peers.iter().enumerate() {
            let key = format!("control.peers[{number}]");
            if trivet_tls::server_name(&peer.node).is_none() {
                return Invalid::err(
                    format!("{key}.node"),
                    format_args!("\"{}\" is no name that a certificate can have", peer.node),
                );
            }
            if !seen.insert(peer.address) {
                return Invalid::err(
                    format!("{key}.address"),
                    format_args!("{} stands here twice", peer.address),
                );
            }
            if Some(peer.address) == self.listen {
                return Invalid::err(
                    format!("{key}.address"),
                    format_args!("{} is this one's own", peer.address),
                );
            }
        }
        Ok(())
    }
}
