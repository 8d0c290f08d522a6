//! `trivet status`: asks every program of every node at once, with short deadlines, and says what is wrong.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | healthy |
//! | 1 | degraded: at least one problem, each of which is told |
//! | 2 | unknown: nothing answered |
//! | 64 | wrong usage or cluster file |

mod ask;
mod certificate;
mod judge;
mod local;
mod model;
mod read;
mod table;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use model::{
    Backend, Certificate, Member, NodeReport, Problem, Program, Report, Severity, Verdict, VirtualAddress,
};

use super::cluster::Cluster;
use trivet_base::process::Failure;

/// Where a node keeps its secrets; the certificate there opens the keepers.
pub const DEFAULT_SECRETS: &str = "/var/lib/trivet/secrets";

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder with `ca.pem`, `node.pem` and `node.key`.
    pub secrets: PathBuf,
    /// How long any one answer may take.
    pub timeout: Duration,
    /// JSON instead of the table.
    pub json: bool,
    /// Again and again, with this pause.
    pub watch: Option<Duration>,
}

/// Prints the status and returns the exit status.
pub async fn run(cluster: &Cluster, options: &Options) -> Result<u8, Failure> {
    loop {
        let report = gather(cluster, &options.secrets, options.timeout).await;
        let text = if options.json {
            let json = serde_json::to_string_pretty(&report).map_err(Failure::run)?;
            format!("{json}\n")
        } else {
            table::render(&report, colours())
        };
        match options.watch {
            None => {
                print!("{text}");
                return Ok(report.verdict.exit_code());
            }
            Some(pause) => {
                // Cursor home, text, clear to the end: no flicker, which clearing first would give.
                print!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Asks everything and judges it.
pub async fn gather(cluster: &Cluster, secrets: &Path, timeout: Duration) -> Report {
    let mut nodes = ask::everyone(cluster, secrets, timeout).await;
    if let Some(here) = cluster.here().and_then(|here| nodes.iter_mut().find(|n| n.name == here.name)) {
        here.warnings = local::warnings(secrets, timeout).await;
    }
    judge::report(cluster, nodes)
}

/// Colours help people and hurt programs; <https://no-color.org>.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

#[cfg(test)]
mod tests;
