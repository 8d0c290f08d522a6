//! What only the node itself can tell: units that gave up, and secret files that are open to others. No program of the node
//! knows of either; one that does not run answers nothing, and on NixOS the programs have copies of the files.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use trivet_base::process::warnings;
use trivet_tls::private;

/// Trivet's units and those it stands on.
const UNITS: [&str; 8] = [
    "trivet-*",
    "keepalived.service",
    "mysql.service",
    "prometheus*.service",
    "alertmanager.service",
    "prometheus-alertmanager.service",
    "nftables.service",
    "systemd-journald.service",
];

/// What should be mended on this node.
pub async fn warnings(secrets: &Path, patience: Duration) -> Vec<String> {
    let mut all = open_secrets(secrets);
    all.extend(given_up(patience).await);
    all
}

/// Every file of the folder but certificates, which everybody may see.
fn open_secrets(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    files.filter(|f| f.is_file() && f.extension().is_none_or(|e| e != "pem")).for_each(|f| private::look(&f));
    warnings::all()
}

/// The units that systemd no longer starts.
async fn given_up(patience: Duration) -> Vec<String> {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["show", "--no-pager", "--property=Id,ActiveState,Result"]).args(UNITS);
    let asked = systemctl.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(output)) => failed(&String::from_utf8_lossy(&output.stdout)),
        // Without systemd there is nothing that gives up.
        _ => Vec::new(),
    }
}

/// From systemctl-show(1)'s words: one paragraph for each unit.
fn failed(said: &str) -> Vec<String> {
    let field = |unit: &str, key: &str| {
        unit.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    said.split("\n\n")
        .filter(|unit| field(unit, "ActiveState") == "failed")
        .map(|unit| {
            let (id, result) = (field(unit, "Id"), field(unit, "Result"));
            format!(
                "systemd has given up {id} ({result}): journalctl -u {id} says why; when that is mended, systemctl reset-failed {id} and \
                 systemctl start {id}"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_gave_up_is_told_with_what_to_do() {
        let said = "Result=success\nId=trivet-web.service\nActiveState=active\n\n\
                    Result=start-limit-hit\nId=prometheus.service\nActiveState=failed\n\n\
                    Result=success\nId=mysql.service\nActiveState=inactive\n";
        let told = failed(said);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("systemd has given up prometheus.service (start-limit-hit)"), "{told:?}");
        assert_eq!(failed(""), [""; 0]);
    }
}
