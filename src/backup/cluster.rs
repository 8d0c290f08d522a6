//! What the service and the commands begin with: keys, storages, the account, the leases.

use std::sync::Arc;

use time::OffsetDateTime;

use trivet_base::config::ConfigError;
use trivet_lease::{Lease, Primary};
use trivet_tls::private;

use crate::config::Config;
use crate::keys::Keys;
use crate::progress::Watcher;
use crate::repository::{Memory, Open, Repository, RepositoryError, blocking};
use crate::sql::Access;
use crate::storage::Storage;

/// The lease of whoever streams the log.
pub const LOG_LEASE: &str = "backup-log";

/// The lease of whoever copies, verifies or takes away.
pub const WORK_LEASE: &str = "backup";

/// A configuration with what its files hold.
#[derive(Clone)]
pub struct Cluster {
    /// The configuration.
    pub config: Arc<Config>,
    /// The keys.
    pub keys: Keys,
    /// The account on every member.
    pub access: Access,
    password: String,
}

impl Cluster {
    /// Reads the files.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let keys = Keys::read(&config.key)?;
        let password = private::password(&config.mysql.password_file)?;
        let access = Access::new(&config.mysql, password.clone());
        Ok(Self { config: Arc::new(config), keys, access, password })
    }

    /// A lease, for this process.
    pub fn lease(&self, name: &str) -> Lease {
        let primary = Primary {
            address: self.config.mysql.primary,
            user: &self.config.mysql.user,
            password: &self.password,
            ca: &self.config.mysql.ca,
        };
        let begun = OffsetDateTime::now_utc().unix_timestamp();
        Lease::new(&primary, name, &format!("{} (process {}, {begun})", self.config.node, std::process::id()))
    }

    /// All repositories' storages, by name. The first trouble is told.
    pub fn storage(&self, name: &str) -> Result<Storage, RepositoryError> {
        match self.config.repositories.get(name) {
            Some(repository) => Ok(Storage::open(name, repository)?),
            None => Err(RepositoryError::Failed {
                place: format!("repository {name}"),
                reason: format!("is not configured; there is {}", self.names().join(", ")),
            }),
        }
    }

    /// The names of the repositories.
    pub fn names(&self) -> Vec<String> {
        self.config.repositories.keys().cloned().collect()
    }

    /// Opens a repository, and makes it when it is new.
    pub async fn open_or_create(&self, name: &str, watcher: &Watcher) -> Result<Repository, RepositoryError> {
        let append_only = self.config.repositories.get(name).is_some_and(|r| r.append_only);
        self.open_as(name, self.keys.clone(), Open::OrCreate { append_only }, watcher).await
    }

    /// Opens a repository that is there.
    pub async fn open(
        &self,
        name: &str,
        keys: Keys,
        watcher: &Watcher,
    ) -> Result<Repository, RepositoryError> {
        self.open_as(name, keys, Open::Existing, watcher).await
    }

    async fn open_as(
        &self,
        name: &str,
        keys: Keys,
        how: Open,
        watcher: &Watcher,
    ) -> Result<Repository, RepositoryError> {
        let storage = self.storage(name)?;
        let (name, config, watcher) = (name.to_owned(), self.config.clone(), watcher.clone());
        let place = storage.place().to_owned();
        blocking(&place, move || {
            let memory = Memory::new(&config.state_directory);
            let memory = matches!(how, Open::OrCreate { .. }).then_some(&memory);
            Repository::open(&name, storage, &keys, Some(&config.cluster), memory, how, watcher)
        })
        .await
    }
}
