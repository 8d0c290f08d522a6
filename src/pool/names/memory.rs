//! The last known addresses of a name, for a process that starts while DNS does not answer: a reload must not lose what the process
//! before it knew (HAProxy's `server-state-file` with `init-addr last`).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A file with one address a line.
pub(super) struct Memory(PathBuf);

impl Memory {
    /// In `folder`, of the name of a pool's server.
    pub(super) fn new(folder: &Path, pool: &str, server: &str) -> Self {
        Self(folder.join(format!("{}+{}", file_name(pool), file_name(server))))
    }

    /// None, too, where there is no such file, or none of ours.
    pub(super) fn read(&self) -> BTreeSet<IpAddr> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whoever reads meanwhile finds either what was or what is. Small, and below /run: it keeps no thread for long.
    pub(super) fn write<'a>(&self, addresses: impl Iterator<Item = &'a IpAddr>) -> io::Result<()> {
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Two processes may write, one of which has handed over to the other.
        let new = self.0.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&new, addresses.map(|address| format!("{address}\n")).collect::<String>())?;
        std::fs::rename(new, &self.0)
    }
}

/// Whatever would lead elsewhere as part of a path, and what separates two names, is written as its number.
fn file_name(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") };
    name.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder_and_apart() {
        for (name, expected) in [("app", "app"), ("../a", "%2e%2e%2fa"), ("a+b", "a%2bb"), ("a.b", "a%2eb")] {
            assert_eq!(file_name(name), expected);
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_an_address() {
        let folder = std::env::temp_dir().join(format!("trivet-names-{}", std::process::id()));
        let memory = Memory::new(&folder.join("addresses"), "web", "app");
        assert!(memory.read().is_empty(), "there is none yet");
        let addresses: BTreeSet<IpAddr> = ["10.0.0.1", "2001:db8::1"].map(|a| a.parse().unwrap()).into();
        memory.write(addresses.iter()).unwrap();
        assert_eq!(memory.read(), addresses);
        std::fs::write(&memory.0, "10.0.0.1\nnone\n\n\u{0}").unwrap();
        assert_eq!(memory.read().len(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
