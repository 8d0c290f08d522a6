//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use super::auth::cookies::Cookies;
use super::auth::{Passwords, SiteKey, Throttle};
use super::config::Config;
use super::db::Db;
use super::error::Error;
use super::health::Health;
use super::text::renderer::Renderer;

/// Password verifications at a time; more than a node has to spare would only slow pages down.
const PARALLEL_PASSWORDS: usize = 2;

#[derive(Debug)]
pub struct Site {
    pub config: Config,
    pub db: Db,
    /// Names and attributes of its cookies.
    pub cookies: Cookies,
    /// Markdown to HTML.
    pub renderer: Renderer,
    /// Password verification.
    pub passwords: Passwords,
    /// Sign-in attempts.
    pub throttle: Throttle,
    /// Reachability of the database.
    pub health: Health,
    key: ArcSwapOption<SiteKey>,
    draining: AtomicBool,
}

pub type Shared = Arc<Site>;

impl Site {
    /// A site that has not seen its database yet.
    pub fn new(config: Config, db: Db) -> Self {
        Self {
            cookies: Cookies::new(&config.site.base_url),
            throttle: Throttle::new(config.limits.sign_in_attempts, config.limits.sign_in_window),
            passwords: Passwords::new(PARALLEL_PASSWORDS),
            renderer: Renderer::default(),
            health: Health::default(),
            key: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            db,
            config,
        }
    }

    /// The schema is there and this is the key in it: requests can be answered from now on.
    pub fn open(&self, key: SiteKey) {
        self.key.store(Some(Arc::new(key)));
    }

    /// The site's key; before the database was first seen, nothing can be served.
    pub fn key(&self) -> Result<Arc<SiteKey>, Error> {
        self.key.load_full().ok_or_else(|| Error::Unavailable("the database has not been reached yet".into()))
    }

    /// True once [`Self::open`] was called.
    pub fn is_open(&self) -> bool {
        self.key.load().is_some()
    }

    /// From now on `/healthz` sends traffic elsewhere and connections are not kept.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// True after [`Self::drain`].
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
