//! How far long work has come: for the terminal, for the log and for metrics.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What is being done now. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Watcher(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    what: Mutex<Option<(String, Instant)>>,
    done: AtomicU64,
    total: AtomicU64,
    is_octets: std::sync::atomic::AtomicBool,
}

impl Watcher {
    /// Another piece of work begins. `total` is 0 when nobody knows it yet.
    pub fn begin(&self, what: &str, total: u64, is_octets: bool) {
        *self.0.what.lock() = Some((what.to_owned(), Instant::now()));
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        self.0.is_octets.store(is_octets, Ordering::Relaxed);
    }

    /// So much more was done.
    pub fn add(&self, more: u64) {
        self.0.done.fetch_add(more, Ordering::Relaxed);
    }

    /// So much is done.
    pub fn set(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// It was found out how much there is to do.
    pub fn set_total(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// Nothing is being done.
    pub fn end(&self) {
        *self.0.what.lock() = None;
    }
}

impl fmt::Display for Watcher {
    /// `taking the base copy: 1.2 GiB of 4.0 GiB, 30 %, 41 s left`. Empty when nothing is being done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((what, since)) = self.0.what.lock().clone() else { return Ok(()) };
        let (done, total) = (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed));
        let amount = |n: u64| {
            if self.0.is_octets.load(Ordering::Relaxed) {
                bytesize::ByteSize(n).to_string()
            } else {
                n.to_string()
            }
        };
        write!(f, "{what}")?;
        match (done, total) {
            (0, 0) => Ok(()),
            (done, 0) => write!(f, ": {}", amount(done)),
            (done, total) => {
                let done = done.min(total);
                #[allow(clippy::cast_precision_loss, reason = "for people to read")]
                let share = done as f64 / total as f64;
                write!(f, ": {} of {}, {:.0} %", amount(done), amount(total), share * 100.0)?;
                let took = since.elapsed().as_secs_f64();
                if share > 0.02 && took > 2.0 && done < total {
                    write!(f, ", {:.0} s left", took / share - took)
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// One line that changes in a terminal, one line every ten seconds elsewhere.
pub async fn show(watcher: Watcher) {
    let terminal = std::io::stderr().is_terminal();
    let mut ticks = tokio::time::interval(Duration::from_secs(if terminal { 1 } else { 10 }));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = watcher.to_string();
        if now.is_empty() {
            continue;
        }
        if terminal {
            eprint!("\r\x1b[K{now}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{now}");
        }
    }
}
