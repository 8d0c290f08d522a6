//! `/etc/trivet/backup.json`: what is copied, where to, how often, and for how long it is kept. Every default stands here.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use trivet_base::config::{self, Invalid, Log, Metrics, Validate};

/// The whole configuration of `trivet-backup`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of this node; it stands in `mysql.members`.
    pub node: String,
    /// `group_replication_group_name`: the UUID that the transactions of this cluster carry. A repository of another is refused.
    pub cluster: String,
    /// Logs.
    #[serde(default)]
    pub log: Log,
    /// Metrics and status.
    #[serde(default = "default_metrics")]
    pub metrics: Metrics,
    /// How long a copy in progress may take to stop cleanly after SIGTERM.
    #[serde(default = "config::default_shutdown_timeout", with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// Where copies are made before they leave the node: room for the database once, twice while a restore is tried.
    #[serde(default = "default_state_directory")]
    pub state_directory: PathBuf,
    /// The members of the group, and the programs of MySQL.
    pub mysql: Mysql,
    /// What the backups are sealed with.
    pub key: Key,
    /// Where they are kept; each has everything.
    pub repositories: BTreeMap<String, Repository>,
    /// Base copies of the database.
    #[serde(default)]
    pub base: Base,
    /// The binary log.
    #[serde(default)]
    pub stream: Stream,
    /// The site's files.
    #[serde(default)]
    pub files: Files,
    /// Trial restores.
    #[serde(default)]
    pub verify: Verify,
    /// How long copies are kept.
    #[serde(default)]
    pub retention: Retention,
}

/// `[mysql]`: how the members are reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mysql {
    /// The account for backups, which the keeper makes.
    #[serde(default = "default_user")]
    pub user: String,
    /// A file with its password.
    pub password_file: PathBuf,
    /// The cluster's CA; a member's certificate carries its address.
    pub ca: PathBuf,
    /// Where the primary answers: the database gateway's address for writes. The lease is taken there.
    #[serde(default = "default_primary")]
    pub primary: SocketAddr,
    /// All members of the group.
    pub members: Vec<Member>,
    /// The folder with `mysqld`, `mysql` and `mysqldump`.
    #[serde(default = "default_programs")]
    pub programs: PathBuf,
}

/// One member of the group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// mysqld, `10.0.0.1:3306`.
    pub address: SocketAddr,
}

/// `[key]`: who can open the backups.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The cluster's age identity (`AGE-SECRET-KEY-1…`), the same on all nodes. It is also the password of the repository.
    pub identity_file: PathBuf,
    /// The public half of the recovery key (`age1…`), whose secret half lies in a safe.
    #[serde(default)]
    pub recovery_file: Option<PathBuf>,
}

/// `[repositories.NAME]`: one place, of exactly one kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// A folder of this node: a mounted disk, a network file system.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    /// A bucket that speaks S3.
    #[serde(default)]
    pub s3: Option<S3>,
    /// A folder of another machine, over SFTP.
    #[serde(default)]
    pub sftp: Option<Sftp>,
    /// Nothing is ever deleted from here by the nodes: for storage that lets them add only.
    #[serde(default)]
    pub append_only: bool,
}

/// `[repositories.NAME.s3]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// The bucket, which exists.
    pub bucket: String,
    /// `https://host`, without the bucket.
    pub endpoint: String,
    /// The region that requests are signed for.
    #[serde(default = "default_region")]
    pub region: String,
    /// A folder in the bucket.
    #[serde(default)]
    pub prefix: String,
    /// A file with the access key's id.
    pub access_key_file: PathBuf,
    /// A file with the secret access key.
    pub secret_key_file: PathBuf,
}

/// `[repositories.NAME.sftp]`. The server's host key must be known to `ssh` (`/etc/ssh/ssh_known_hosts`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sftp {
    /// Name or address.
    pub host: String,
    #[serde(default = "default_ssh_port")]
    pub port: u16,
    /// The user to sign in as.
    pub user: String,
    /// The folder; from the user's home unless absolute.
    pub path: String,
    /// The private key to sign in with.
    pub key_file: PathBuf,
}

/// `[base]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Base {
    /// From the start of one base copy to the start of the next.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// The fastest that a copy is taken from a member, a second: what is left is for the site. Whole MiB.
    pub bandwidth: ByteSize,
}

/// `[stream]`: the binary log as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stream {
    /// A transaction waits no longer than this before it is sent to the repositories.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// A segment that has grown to this is sent at once.
    pub segment_size: ByteSize,
}

/// `[files]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// From one copy to the next.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Folders and files, each absolute.
    pub paths: Vec<PathBuf>,
}

/// `[verify]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// From one trial restore to the next.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

/// `[retention]`: the newest base copy of so many hours, days, weeks and months is kept, with the log that follows the oldest of them.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
}

impl Default for Base {
    fn default() -> Self {
        Self { every: Duration::from_hours(24), bandwidth: ByteSize::mib(100) }
    }
}

impl Default for Stream {
    fn default() -> Self {
        // With the way to the repository well below the five seconds that are promised.
        Self { flush_interval: Duration::from_secs(2), segment_size: ByteSize::mib(16) }
    }
}

impl Default for Files {
    fn default() -> Self {
        Self { every: Duration::from_hours(1), paths: Vec::new() }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Self { every: Duration::from_hours(7 * 24) }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { hourly: 24, daily: 7, weekly: 5, monthly: 12 }
    }
}

fn default_metrics() -> Metrics {
    Metrics { listen: (Ipv4Addr::LOCALHOST, 9606).into() }
}

fn default_state_directory() -> PathBuf {
    "/var/lib/trivet-backup".into()
}

fn default_user() -> String {
    "trivet-backup".into()
}

fn default_primary() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 6446).into()
}

fn default_programs() -> PathBuf {
    "/usr/bin".into()
}

fn default_region() -> String {
    "us-east-1".into()
}

fn default_ssh_port() -> u16 {
    22
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        config::not_empty("mysql.members", &self.mysql.members)?;
        config::unique("mysql.members", self.mysql.members.iter().map(|m| m.name.as_str()))?;
        if !self.mysql.members.iter().any(|m| m.name == self.node) {
            return Invalid::err("node", format_args!("{} is none of mysql.members", self.node));
        }
        if !config::is_uuid(&self.cluster) {
            return Invalid::err(
                "cluster",
                "must be the group's name, a UUID such as 6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001",
            );
        }
        config::absolute("state_directory", &self.state_directory)?;
        if self.repositories.is_empty() {
            return Invalid::err(
                "repositories",
                "there is none: give at least one place for the backups, such as main.folder",
            );
        }
        for (name, repository) in &self.repositories {
            repository.validate(&format!("repositories.{name}"), name)?;
        }
        for path in &self.files.paths {
            config::absolute("files.paths", path)?;
        }
        config::positive("base.every", self.base.every)?;
        config::positive("files.every", self.files.every)?;
        config::positive("verify.every", self.verify.every)?;
        config::positive("stream.flush_interval", self.stream.flush_interval)?;
        if self.base.bandwidth < ByteSize::mib(1) {
            return Invalid::err("base.bandwidth", "must be 1 MiB a second or more");
        }
        if self.stream.segment_size < ByteSize::kib(64) || self.stream.segment_size > ByteSize::gib(1) {
            return Invalid::err("stream.segment_size", "must be from 64 KiB to 1 GiB");
        }
        let r = &self.retention;
        if r.hourly == 0 && r.daily == 0 && r.weekly == 0 && r.monthly == 0 {
            return Invalid::err(
                "retention",
                "keeps nothing: one of hourly, daily, weekly and monthly must be above 0",
            );
        }
        Ok(())
    }
}

impl Repository {
    fn validate(&self, key: &str, name: &str) -> Result<(), Invalid> {
        let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(named) {
            return Invalid::err(key, "a repository's name has at most 32 of a-z, 0-9 and -");
        }
        match (&self.folder, &self.s3, &self.sftp) {
            (Some(folder), None, None) => config::absolute(&format!("{key}.folder"), folder),
            (None, Some(s3), None) => {
                if s3.bucket.is_empty() {
                    return Invalid::err(format!("{key}.s3.bucket"), "must not be empty");
                }
                if !s3.endpoint.starts_with("https://") && !s3.endpoint.starts_with("http://") {
                    return Invalid::err(
                        format!("{key}.s3.endpoint"),
                        "must begin with https:// (or http:// in a network that is yours)",
                    );
                }
                Ok(())
            }
            (None, None, Some(sftp)) => {
                if sftp.host.is_empty() || sftp.host.starts_with('-') || sftp.host.contains(['/', '@', ' ']) {
                    return Invalid::err(format!("{key}.sftp.host"), "must be a host's name or address");
                }
                if sftp.user.is_empty()
                    || sftp.user.starts_with('-')
                    || sftp.user.contains(['/', '@', ' ', ':'])
                {
                    return Invalid::err(format!("{key}.sftp.user"), "must be a user's name");
                }
                if sftp.path.is_empty() {
                    return Invalid::err(format!("{key}.sftp.path"), "must be a folder");
                }
                Ok(())
            }
            (None, None, None) => Invalid::err(key, "needs one of folder, s3 and sftp"),
            _ => Invalid::err(key, "has more than one of folder, s3 and sftp: a repository is in one place"),
        }
    }
}
