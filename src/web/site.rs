//! The static files being served, and their replacement while they are.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use metrics::{counter, gauge};
use tokio::sync::Notify;

use super::config::Static;
use super::store::{self, LoadError, Loaded, Store};
use trivet_base::process::Shutdown;

/// The current store, and how to make the next.
pub struct Site {
    config: Static,
    cache_control: HeaderValue,
    store: ArcSwap<Store>,
    stale: Notify,
}

impl Site {
    /// Reads the folder. Files that cannot be read are left out and named in the log: at start, most of a site is better
    /// than none of it.
    pub fn load(config: Static) -> Result<Self, LoadError> {
        let Loaded { store, skipped, unreadable } = store::load(&config, &Store::default())?;
        for what in &unreadable {
            tracing::error!(what, "a static file cannot be read and is not served");
        }
        tell(&store, &skipped);
        let cache_control =
            HeaderValue::from_str(&config.cache_control).unwrap_or(HeaderValue::from_static("no-cache"));
        Ok(Self { config, cache_control, store: ArcSwap::from_pointee(store), stale: Notify::new() })
    }

    /// What is served now.
    pub fn store(&self) -> Arc<Store> {
        self.store.load_full()
    }

    /// The value of `Cache-Control`.
    pub fn cache_control(&self) -> &HeaderValue {
        &self.cache_control
    }

    /// A file on disk is no longer the one that was loaded: have the folder read again.
    pub fn is_stale(&self) {
        self.stale.notify_one();
    }

    /// Reads the folder again; everything or nothing replaces what is served. Blocks.
    pub fn reload(&self) -> Result<(), String> {
        let old = self.store();
        let outcome = store::load(&self.config, &old).map_err(|e| e.to_string()).and_then(|loaded| {
            match loaded.unreadable.first() {
                None => Ok(loaded),
                Some(first) => Err(format!("{first} (and {} more)", loaded.unreadable.len() - 1)),
            }
        });
        let result = match outcome {
            Ok(Loaded { store, skipped, .. }) => {
                tell(&store, &skipped);
                self.store.store(Arc::new(store));
                Ok(())
            }
            Err(e) => Err(e),
        };
        let label = if result.is_ok() { "ok" } else { "failed" };
        counter!("trivet_web_reloads_total", "result" => label).increment(1);
        result
    }

    /// Reloads on SIGHUP, and when a request met a file that changed, until stopping.
    pub async fn reload_when_told(self: Arc<Self>, mut shutdown: Shutdown) {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(e) => {
                return tracing::error!(error = %e, "cannot listen for SIGHUP: no reload without a restart");
            }
        };
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                () = self.stale.notified() => {}
                () = shutdown.wait() => return,
            }
            let site = self.clone();
            match tokio::task::spawn_blocking(move || site.reload()).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => {
                    tracing::error!(reason, "reload refused; the files served before are served on")
                }
                Err(e) => tracing::error!(error = %e, "reload failed; the files served before are served on"),
            }
        }
    }
}

fn tell(store: &Store, skipped: &[String]) {
    gauge!("trivet_web_static_files").set(store.files() as f64);
    gauge!("trivet_web_static_memory_bytes").set(store.memory() as f64);
    for what in skipped {
        tracing::info!(what, "not served");
    }
    tracing::info!(files = store.files(), memory = store.memory(), "static files loaded");
}
