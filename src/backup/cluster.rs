//! What the service and the commands begin with: keys, storages, the account, the leases.

use std::sync::Arc;

use mysql_async::Conn;
use time::OffsetDateTime;

use trivet_base::config::ConfigError;
use trivet_keeper_api::gtid::GtidSet;
use trivet_lease::{Held, Lease, Primary};
use trivet_tls::private;

use crate::base::{Description, LABEL};
use crate::config::Config;
use crate::history::{self, Standing};
use crate::keys::Keys;
use crate::progress::Watcher;
use crate::repository::{New, Repository, RepositoryError, blocking};
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

    /// For a restore by the recovery key, on a machine that may have none of the files: `keys` is that key, and there is no password.
    pub fn without_secrets(config: Config, keys: Keys) -> Self {
        let access = Access::new(&config.mysql, String::new());
        Self { config: Arc::new(config), keys, access, password: String::new() }
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

    /// Opens a repository that is there, to read from it.
    pub async fn open(
        &self,
        name: &str,
        keys: Keys,
        watcher: &Watcher,
    ) -> Result<Repository, RepositoryError> {
        let storage = self.storage(name)?;
        let (name, config, watcher) = (name.to_owned(), self.config.clone(), watcher.clone());
        let place = storage.place().to_owned();
        blocking(&place, move || Repository::open(&name, storage, &keys, Some(&config.cluster), watcher))
            .await
    }

    /// Opens a repository to write to it: it must belong to this group's history.
    pub async fn open_to_write(&self, name: &str, watcher: &Watcher) -> Result<Repository, RepositoryError> {
        let storage = self.storage(name)?;
        let found = self.found(name, watcher).await?;
        let id = found.as_ref().map(Repository::id);
        let mut conn = history::primary(&self.access, &storage).await?;
        // Where there is nothing, the table knows whether there should be.
        self.standing(&mut conn, name, &storage, id).await?;
        unbroken(
            &mut conn,
            name,
            found.ok_or_else(|| RepositoryError::Empty { place: storage.place().into() })?,
        )
        .await
    }

    /// Opens a repository with the cluster's own keys; nothing where there is none.
    async fn found(&self, name: &str, watcher: &Watcher) -> Result<Option<Repository>, RepositoryError> {
        match self.open(name, self.keys.clone(), watcher).await {
            Ok(repository) => Ok(Some(repository)),
            Err(RepositoryError::Empty { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a repository to write to it, and makes it when there was none, under the lease [`WORK_LEASE`].
    pub async fn open_or_make(
        &self,
        name: &str,
        held: &Held,
        watcher: &Watcher,
    ) -> Result<Repository, RepositoryError> {
        let storage = self.storage(name)?;
        let found = self.found(name, watcher).await?;
        let mut conn = history::primary(&self.access, &storage).await?;
        let unknown = |e: mysql_async::Error| history::unknown(&storage, &e);
        let id = found.as_ref().map(Repository::id);
        let new_id = match self.standing(&mut conn, name, &storage, id).await? {
            Standing::Ours => {
                let repository =
                    found.ok_or_else(|| RepositoryError::Empty { place: storage.place().into() })?;
                history::made(&mut conn, repository.id()).await.map_err(unknown)?;
                return unbroken(&mut conn, name, repository).await;
            }
            Standing::Begun(id) => id,
            Standing::New => {
                let failed = |place: &str, reason: &str| RepositoryError::Failed {
                    place: place.into(),
                    reason: reason.into(),
                };
                if Repository::is_begun(&storage).await? {
                    return Err(failed(
                        storage.place(),
                        "there is a repository in restic's format, and no trivet.json that tells whose it is: give this cluster a folder \
                         or prefix of its own",
                    ));
                }
                let row = history::begin(&mut conn, name, storage.location(), held.token()).await;
                row.map_err(unknown)?.ok_or_else(|| failed(storage.place(), "another node makes it now"))?
            }
        };
        let append_only = self.config.repositories.get(name).is_some_and(|r| r.append_only);
        let new = New { id: new_id.clone(), append_only };
        let (config, keys, watcher) = (self.config.clone(), self.keys.clone(), watcher.clone());
        let (name, place, below) = (name.to_owned(), storage.place().to_owned(), storage.clone());
        let made =
            blocking(&place, move || Repository::make(&name, below, &keys, &config.cluster, &new, watcher))
                .await?;
        history::made(&mut conn, &new_id).await.map_err(unknown)?;
        Ok(made)
    }

    async fn standing(
        &self,
        conn: &mut Conn,
        name: &str,
        storage: &Storage,
        id: Option<&str>,
    ) -> Result<Standing, RepositoryError> {
        let known = history::known(conn).await.map_err(|e| history::unknown(storage, &e))?;
        history::standing(name, storage.place(), storage.location(), id, &known)
    }
}

/// Refuses a repository that has a base copy with what the group gave up.
async fn unbroken(
    conn: &mut Conn,
    name: &str,
    repository: Repository,
) -> Result<Repository, RepositoryError> {
    let storage = repository.storage.clone();
    let forks = history::forks(conn).await.map_err(|e| history::unknown(&storage, &e))?;
    if forks.is_empty() {
        return Ok(repository);
    }
    let (name, place) = (name.to_owned(), storage.place().to_owned());
    blocking(storage.place(), move || {
        let copies: Vec<GtidSet> = repository
            .copies(LABEL)?
            .iter()
            .filter_map(Description::of)
            .map(|description| description.gtid_executed)
            .collect();
        history::unbroken(&name, &place, &copies, &forks)?;
        Ok(repository)
    })
    .await
}
