//! What the operator is told afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::plan::Plan;
use crate::cluster::{Cluster, Role};

/// What was written, and what to do with it. [`fmt::Display`] is the text for the terminal.
#[derive(Debug)]
pub struct Report {
    out: PathBuf,
    written: BTreeMap<String, Vec<String>>,
    kept: usize,
    warnings: Vec<String>,
    recovery: Option<Zeroizing<String>>,
    /// Name and address of every node.
    nodes: Vec<(String, String)>,
    balancers: Vec<String>,
    /// Every name that site.pem is for.
    names: String,
}

impl Report {
    pub(super) fn new(cluster: &Cluster, out: &Path, plan: Plan) -> Self {
        let mut written: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in plan.files.keys() {
            let mut parts = path.iter().map(|p| p.to_string_lossy().into_owned());
            if let (Some(folder), Some(file)) = (parts.next(), parts.next()) {
                written.entry(folder).or_default().push(file);
            }
        }
        let mut warnings = plan.warnings;
        if std::path::absolute(out).is_ok_and(|p| p.ancestors().any(|a| a.join(".git").exists())) {
            warnings.push(format!(
                "{} is inside a git repository: a flake copies what git tracks into the Nix store. \
                 Never `git add` it",
                out.display()
            ));
        }
        Self {
            out: out.to_owned(),
            written,
            kept: plan.kept,
            warnings,
            recovery: plan.recovery,
            nodes: cluster.nodes.iter().map(|n| (n.name.clone(), n.address.to_string())).collect(),
            balancers: cluster.with(Role::Balancer).map(|n| n.name.clone()).collect(),
            names: cluster.names().collect::<Vec<_>>().join(", "),
        }
    }

    /// How many files were written.
    pub fn written(&self) -> usize {
        self.written.values().map(Vec::len).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let out = self.out.display();
        if self.written.is_empty() {
            writeln!(f, "{out} is complete ({} files); nothing was written.", self.kept)?;
        } else {
            write!(f, "Wrote {} files to {out}", self.written())?;
            match self.kept {
                0 => writeln!(f, ":\n")?,
                kept => writeln!(f, " ({kept} were there and stay as they were):\n")?,
            }
            let width = self.written.keys().map(String::len).max().unwrap_or(0) + 1;
            for (folder, files) in &self.written {
                writeln!(f, "  {:width$}  {}", format!("{folder}/"), files.join("  "))?;
            }
            self.next_steps(f)?;
        }
        if let Some(recovery) = &self.recovery {
            writeln!(
                f,
                "\nRecovery key of the backups, shown this once and kept nowhere:\n\n  {}\n",
                recovery.as_str()
            )?;
            writeln!(
                f,
                "  Print it and lay it in a safe: with it and the storage everything can be restored when all nodes are gone,"
            )?;
            writeln!(f, "  and without it nothing can (docs/backup.md).")?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nWarning: {warning}.")?;
        }
        Ok(())
    }
}

impl Report {
    fn next_steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let out = self.out.display();
        writeln!(f, "\nNext:")?;
        writeln!(
            f,
            "  1. Copy each node's folder to /var/lib/trivet/secrets on that node, owned by root, mode 0700:"
        )?;
        for (name, address) in self.nodes.iter().filter(|(name, _)| self.written.contains_key(name)) {
            let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
            writeln!(
                f,
                "       rsync -r --chmod=D0700,F0600 {out}/{name}/ root@{host}:/var/lib/trivet/secrets/"
            )?;
        }
        if self.written.contains_key("ca") {
            writeln!(
                f,
                "  2. Take {out}/ca/ca.key offline. Whoever has it can pose as any node; no node needs it,"
            )?;
            writeln!(f, "     only this command does, to add a node or renew a certificate (--missing).")?;
        }
        if self
            .balancers
            .iter()
            .any(|b| self.written.get(b).is_some_and(|w| w.iter().any(|n| n == "site.pem")))
        {
            writeln!(
                f,
                "  3. site.pem is signed by this cluster's own CA. For visitors, put a public certificate for"
            )?;
            writeln!(f, "     {} in its place (site.pem, site.key) on every balancer.", self.names)?;
        }
        Ok(())
    }
}
