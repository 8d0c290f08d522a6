//! Real mysqld: where it is, and how it is run.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// How mysqld is run: the root's own loader and libraries, or the one on PATH.
pub fn mysqld() -> Option<(Vec<String>, Vec<String>)> {
    let named = std::env::var_os("TRIVET_TEST_MYSQL_ROOT").map(PathBuf::from);
    let cache = std::env::var("TRIVET_LAB_CACHE").unwrap_or_else(|_| "/var/cache/trivet-lab".into());
    let found = || {
        let entries = std::fs::read_dir(cache).ok()?.flatten().map(|e| e.path());
        entries.filter(|p| p.extension().is_none()).find(|p| p.join("usr/sbin/mysqld").exists())
    };
    let root = named.or_else(found)?;
    let path = |p: &str| root.join(p).display().to_string();
    let libraries = path("usr/lib/x86_64-linux-gnu");
    let loader = format!("{libraries}/ld-linux-x86-64.so.2");
    let command = vec![loader, "--library-path".into(), libraries, path("usr/sbin/mysqld")];
    let options = vec![
        format!("--basedir={}", path("usr")),
        format!("--lc-messages-dir={}", path("usr/share/mysql")),
        format!("--character-sets-dir={}", path("usr/share/mysql/charsets")),
        format!("--plugin-dir={}", path("usr/lib/mysql/plugin")),
    ];
    Some((command, options))
}

/// A port that nobody has, and that nobody gets: below those that the kernel gives to outgoing connections, and each once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = 20_000 + u16::try_from(nth).expect("below 12000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
