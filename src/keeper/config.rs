//! `/etc/trivet/keeper.json`: the member beside this keeper and its peers. Every default stands here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use trivet_base::config::{self, Invalid, Log, Metrics, TlsFiles, Validate};

/// The whole configuration of `trivet-keeper`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of this node; it must stand in `members`.
    pub node: String,
    /// `group_replication_group_name` of the member: the UUID that all transactions of this group carry.
    pub group_name: String,
    /// Where peers, gateways and operators ask, with mutual TLS.
    pub listen: SocketAddr,
    /// The cluster's CA and this node's certificate.
    pub tls: TlsFiles,
    /// Logs.
    #[serde(default)]
    pub log: Log,
    /// Metrics and status.
    #[serde(default = "default_metrics")]
    pub metrics: Metrics,
    /// How long an action in progress may take to finish after SIGTERM. mysqld is not touched by a stop.
    #[serde(default = "config::default_shutdown_timeout", with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// Where the keeper remembers that a group was formed, and who was in it.
    #[serde(default = "default_state_directory")]
    pub state_directory: PathBuf,
    /// The unix socket for commands of this node's root (`trivet switchover` and others).
    #[serde(default = "default_control_socket")]
    pub control_socket: PathBuf,
    /// The local mysqld and its accounts.
    pub mysql: Mysql,
    /// All members of the group, this one included. Their order breaks ties and must be the same on all nodes.
    pub members: Vec<Member>,
    /// Intervals and deadlines.
    #[serde(default)]
    pub timing: Timing,
}

/// `[mysql]`: how the local mysqld is reached, and the accounts that the keeper makes in the group.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mysql {
    /// mysqld's unix socket.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// mysqld's data directory; only the free space below it is looked at.
    #[serde(default = "default_data_directory")]
    pub data_directory: PathBuf,
    /// With less free space below `data_directory` than this, the member hands over the primary role and does not get it.
    #[serde(default = "default_minimum_free")]
    pub minimum_free: ByteSize,
    /// The keeper's own account, identified by `auth_socket`: the unix user of the same name.
    #[serde(default = "default_user")]
    pub user: String,
    /// The account members use towards one another, for the group's messages, recovery and clone.
    #[serde(default = "default_replication_user")]
    pub replication_user: String,
    /// A file with its password, at most 32 characters (a limit of MySQL's replication credentials).
    pub replication_password_file: PathBuf,
    /// The app's account, with all rights in `app_database`.
    #[serde(default = "default_app_user")]
    pub app_user: String,
    /// A file with its password.
    pub app_password_file: PathBuf,
    /// The app's database, made with the account.
    #[serde(default = "default_app_database")]
    pub app_database: String,
    /// The account of the metrics exporter, at localhost only; none is made when absent.
    #[serde(default)]
    pub exporter_user: Option<String>,
    /// A file with the exporter's password. Without it the account is identified by `auth_socket`.
    #[serde(default)]
    pub exporter_password_file: Option<PathBuf>,
    /// The account of trivet-backup; none is made when absent.
    #[serde(default)]
    pub backup_user: Option<String>,
    /// A file with its password.
    #[serde(default)]
    pub backup_password_file: Option<PathBuf>,
    /// The unix user that `auth_socket` lets in as the exporter.
    #[serde(default = "default_exporter_unix_user")]
    pub exporter_unix_user: String,
}

/// One member of the group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The node's name; its keeper's certificate must carry it.
    pub name: String,
    /// mysqld: the address of `report_host` and `group_replication_local_address`.
    pub mysql: SocketAddr,
    pub keeper: SocketAddr,
}

/// `[timing]`: how often is looked, and how long is waited.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// From one look at the local member, and at the peers, to the next.
    #[serde(with = "humantime_serde")]
    pub observe: Duration,
    /// A mysqld that has not answered a look by then counts as not answering.
    #[serde(with = "humantime_serde")]
    pub observe_timeout: Duration,
    /// An observation older than this is no answer any more: `/primary` and `/replica` turn to 503.
    #[serde(with = "humantime_serde")]
    pub stale: Duration,
    /// A peer's keeper that has not answered by then counts as unreachable.
    #[serde(with = "humantime_serde")]
    pub peer_timeout: Duration,
    /// The longest that starting group replication may take.
    #[serde(with = "humantime_serde")]
    pub join_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // A gateway asks every 150 ms; looking much less often would only add to an outage.
            observe: Duration::from_millis(250),
            observe_timeout: Duration::from_millis(500),
            stale: Duration::from_secs(1),
            peer_timeout: Duration::from_millis(400),
            join_timeout: Duration::from_secs(120),
        }
    }
}

fn default_metrics() -> Metrics {
    Metrics { listen: (Ipv4Addr::LOCALHOST, 9604).into() }
}

fn default_state_directory() -> PathBuf {
    "/var/lib/trivet-keeper".into()
}

fn default_control_socket() -> PathBuf {
    trivet_keeper_api::DEFAULT_SOCKET.into()
}

fn default_socket() -> PathBuf {
    "/run/mysqld/mysqld.sock".into()
}

fn default_data_directory() -> PathBuf {
    "/var/lib/mysql".into()
}

/// A few binary logs' worth: mysqld waits, and its writers with it, when it cannot write them.
fn default_minimum_free() -> ByteSize {
    ByteSize::mib(512)
}

fn default_user() -> String {
    "trivet-keeper".into()
}

fn default_replication_user() -> String {
    "trivet_replication".into()
}

fn default_app_user() -> String {
    "trivet_app".into()
}

fn default_app_database() -> String {
    "trivet".into()
}

fn default_exporter_unix_user() -> String {
    "mysqld-exporter".into()
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        self.log.validate("log")?;
        self.tls.validate("tls")?;
        config::absolute("state_directory", &self.state_directory)?;
        config::absolute("control_socket", &self.control_socket)?;
        self.mysql.validate()?;
        self.timing.validate()?;
        config::positive("shutdown_timeout", self.shutdown_timeout)?;
        validate_uuid("group_name", &self.group_name)?;
        self.validate_members()
    }
}

impl Config {
    /// The entry of this node in `members`; there is one once the configuration was checked.
    pub fn own(&self) -> Option<&Member> {
        self.members.iter().find(|m| m.name == self.node)
    }

    /// The other members, in list order.
    pub fn peers(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.name != self.node)
    }

    fn validate_members(&self) -> Result<(), Invalid> {
        config::not_empty("members", &self.members)?;
        config::unique("members", self.members.iter().map(|m| m.name.as_str()))?;
        for (key, address) in [
            ("mysql", (|m: &Member| m.mysql.to_string()) as fn(&Member) -> String),
            ("keeper", |m: &Member| m.keeper.to_string()),
        ] {
            let addresses: Vec<String> = self.members.iter().map(address).collect();
            config::unique(&format!("members.{key}"), addresses.iter().map(String::as_str))?;
        }
        for (i, member) in self.members.iter().enumerate() {
            if trivet_tls::server_name(&member.name).is_none() {
                return Invalid::err(
                    format!("members[{i}].name"),
                    format_args!("\"{}\" cannot stand in a certificate as a DNS name", member.name),
                );
            }
        }
        // Nine is the limit of a group (MySQL manual, "Group Replication Limitations").
        if self.members.len() > 9 {
            return Invalid::err("members", "a group has at most nine members");
        }
        if self.own().is_none() {
            return Invalid::err("node", format_args!("\"{}\" is not among the members", self.node));
        }
        Ok(())
    }
}

impl Mysql {
    fn validate(&self) -> Result<(), Invalid> {
        config::absolute("mysql.socket", &self.socket)?;
        config::absolute("mysql.data_directory", &self.data_directory)?;
        config::absolute("mysql.replication_password_file", &self.replication_password_file)?;
        config::absolute("mysql.app_password_file", &self.app_password_file)?;
        if let Some(file) = &self.exporter_password_file {
            config::absolute("mysql.exporter_password_file", file)?;
        }
        let mut accounts = vec![
            ("mysql.user", self.user.as_str()),
            ("mysql.replication_user", &self.replication_user),
            ("mysql.app_user", &self.app_user),
            ("mysql.app_database", &self.app_database),
            ("mysql.exporter_unix_user", &self.exporter_unix_user),
        ];
        if let Some(user) = &self.exporter_user {
            accounts.push(("mysql.exporter_user", user));
        }
        if let Some(user) = &self.backup_user {
            accounts.push(("mysql.backup_user", user));
        }
        match (&self.backup_user, &self.backup_password_file) {
            (Some(_), Some(file)) => config::absolute("mysql.backup_password_file", file)?,
            (None, None) => {}
            (Some(_), None) => {
                return Invalid::err(
                    "mysql.backup_password_file",
                    "is absent, and backup_user needs a password",
                );
            }
            (None, Some(_)) => {
                return Invalid::err("mysql.backup_user", "is absent, and backup_password_file is for it");
            }
        }
        for (key, name) in accounts {
            validate_name(key, name)?;
        }
        let users = [Some(self.user.as_str()), Some(&self.replication_user), Some(&self.app_user)];
        let others = [self.exporter_user.as_deref(), self.backup_user.as_deref()];
        config::unique("mysql", users.into_iter().chain(others).flatten())?;
        if ["mysql", "sys", "information_schema", "performance_schema"].contains(&self.app_database.as_str())
        {
            return Invalid::err("mysql.app_database", "is one of MySQL's own schemas");
        }
        if self.app_database == "trivet_cluster" {
            return Invalid::err(
                "mysql.app_database",
                "is the database of Trivet's own leases; name another",
            );
        }
        Ok(())
    }
}

impl Timing {
    /// How long a loop may take that comes round every `observe` and asks something that has until `timeout` to answer. A
    /// machine that is busy makes everything late.
    pub fn comes_round(&self, timeout: Duration) -> Duration {
        self.observe + timeout + Duration::from_secs(2)
    }

    fn validate(&self) -> Result<(), Invalid> {
        for (key, d) in [
            ("timing.observe", self.observe),
            ("timing.observe_timeout", self.observe_timeout),
            ("timing.stale", self.stale),
            ("timing.peer_timeout", self.peer_timeout),
            ("timing.join_timeout", self.join_timeout),
        ] {
            config::positive(key, d)?;
        }
        if self.stale < self.observe * 2 {
            return Invalid::err(
                "timing.stale",
                "must be at least twice timing.observe, or every answer would be stale in between",
            );
        }
        Ok(())
    }
}

/// A name that needs no quoting tricks: MySQL allows more, nobody needs it, and it appears in statements.
fn validate_name(key: &str, name: &str) -> Result<(), Invalid> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if name.is_empty() || name.len() > 32 || !plain {
        return Invalid::err(key, format_args!("\"{name}\" is not 1 to 32 letters, digits, '_' or '-'"));
    }
    Ok(())
}

fn validate_uuid(key: &str, text: &str) -> Result<(), Invalid> {
    if config::is_uuid(text) {
        return Ok(());
    }
    Invalid::err(key, format_args!("\"{text}\" is not a UUID in lower case; `uuidgen` makes one"))
}

#[cfg(test)]
mod tests;
