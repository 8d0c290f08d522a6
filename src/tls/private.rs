//! Files that only their owner should be able to read: private keys, passwords. As ssh(1) does with its keys, but a warning
//! instead of a refusal: a site that is down protects nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use parking_lot::Mutex;

use trivet_base::config::ConfigError;
use trivet_base::process::warnings;

/// Every such file that this process has read.
static READ: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Looks who may read or write the file, and warns in the log and in `/status` when others than its owner may. To be called
/// whenever such a file is read.
pub fn look(path: &Path) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| warnings::look_with(look_again));
    READ.lock().insert(path.to_owned());
    judge(path);
}

/// The password that a file holds, one line; a newline at its end belongs to the file.
pub fn password(path: &Path) -> Result<String, ConfigError> {
    look(path);
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError::at(path, "", format_args!("password cannot be read: {e}")))?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() || password.contains(['\n', '\0']) {
        return Err(ConfigError::at(path, "", "must hold one line, the password"));
    }
    Ok(password.to_owned())
}

/// Looks again at all files that were read: rights are changed without touching a file.
pub fn look_again() {
    let all = READ.lock().clone();
    all.iter().for_each(|path| judge(path));
}

fn judge(path: &Path) {
    let warning = std::fs::metadata(path).ok().and_then(|m| {
        let open_to = open_to(m.mode(), m.gid(), own_group())?;
        Some(format!(
            "{} is secret, and {open_to} may read or change it (mode {:04o}): chmod 600, and make a new one if somebody may have read it",
            path.display(),
            m.mode() & 0o7777
        ))
    });
    if warnings::set(format!("access to {}", path.display()), warning.clone())
        && let Some(warning) = warning
    {
        tracing::warn!(file = %path.display(), warning, "a secret file is open to others");
    }
}

/// Who else than the owner has access, if anybody. The group that runs the program is no stranger, nor is root's: systemd gives
/// a credential to its service by an ACL, which shows as rights of the group.
fn open_to(mode: u32, group: u32, own: Option<u32>) -> Option<&'static str> {
    if mode & 0o006 != 0 {
        return Some("every user of this machine");
    }
    let strange = group != 0 && own != Some(group);
    (mode & 0o060 != 0 && strange).then_some("another group")
}

/// The group that this process runs as.
fn own_group() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|m| m.gid())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_may_read_is_told_apart_from_what_the_service_may() {
        let (own, other) = (Some(990), 1000);
        for (mode, group, expected) in [
            (0o100_600, 990, None),
            (0o100_400, other, None),
            (0o100_640, 990, None),
            // A systemd credential.
            (0o100_440, 0, None),
            (0o100_640, other, Some("another group")),
            (0o100_620, other, Some("another group")),
            (0o100_644, 990, Some("every user of this machine")),
            (0o100_602, 0, Some("every user of this machine")),
        ] {
            assert_eq!(open_to(mode, group, own), expected, "{mode:o} {group}");
        }
        assert!(own_group().is_some());
    }

    #[test]
    fn a_warning_is_taken_back_when_the_file_is_closed() {
        let d = tempfile::tempdir().unwrap();
        let key = d.path().join("node.key");
        std::fs::write(&key, "secret").unwrap();
        let told = || warnings::all().into_iter().filter(|w| w.contains(&key.display().to_string())).count();
        for (mode, expected) in [(0o644, 1), (0o600, 0)] {
            std::fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            if mode == 0o644 {
                look(&key)
            } else {
                look_again()
            }
            assert_eq!(told(), expected);
        }
    }
}
