//! What a keeper knows about its member and tells its peers: the JSON of `/health` and `/state`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use trivet_keeper_api::gtid::GtidSet;

/// `MEMBER_STATE` of `performance_schema.replication_group_members`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MemberState {
    /// In the group, up to date with it.
    Online,
    /// In the group, fetching or applying what it lacks.
    Recovering,
    /// Group Replication is not running.
    Offline,
    /// Left or failed to join; needs STOP and START.
    Error,
    /// Another member that does not answer.
    Unreachable,
}

impl MemberState {
    /// The state that MySQL names so. A name from a later version counts as ERROR: never as healthy.
    pub fn from_mysql(name: &str) -> Self {
        match name {
            "ONLINE" => Self::Online,
            "RECOVERING" => Self::Recovering,
            "OFFLINE" | "" => Self::Offline,
            "UNREACHABLE" => Self::Unreachable,
            _ => Self::Error,
        }
    }

    /// MySQL's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "ONLINE",
            Self::Recovering => "RECOVERING",
            Self::Offline => "OFFLINE",
            Self::Error => "ERROR",
            Self::Unreachable => "UNREACHABLE",
        }
    }
}

/// `MEMBER_ROLE`: empty outside a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Takes the writes.
    #[serde(rename = "PRIMARY")]
    Primary,
    /// Follows.
    #[serde(rename = "SECONDARY")]
    Secondary,
    /// In no group.
    #[serde(rename = "")]
    None,
}

impl Role {
    /// The role that MySQL names so.
    pub fn from_mysql(name: &str) -> Self {
        match name {
            "PRIMARY" => Self::Primary,
            "SECONDARY" => Self::Secondary,
            _ => Self::None,
        }
    }

    /// MySQL's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "PRIMARY",
            Self::Secondary => "SECONDARY",
            Self::None => "",
        }
    }
}

/// One row of the local member's view of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewMember {
    /// Its name in the configuration, `None` when no configured member has its address.
    pub name: Option<String>,
    /// `MEMBER_HOST:MEMBER_PORT`.
    pub address: String,
    /// `server_uuid`.
    pub uuid: String,
    /// Its state as seen from here.
    pub state: MemberState,
    pub role: Role,
}

/// A clone into this member, from `performance_schema.clone_status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneStatus {
    /// `In Progress`, `Completed`, `Failed`.
    pub state: String,
    /// The donor.
    pub source: String,
    /// Empty without an error.
    pub error: String,
}

/// One look at the local mysqld.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// `@@server_uuid`.
    pub server_uuid: String,
    /// `@@version`.
    pub server_version: String,
    /// State of the local member.
    pub member_state: MemberState,
    /// Role of the local member.
    pub role: Role,
    /// Name of the primary in the local view.
    pub primary: Option<String>,
    /// The view's identifier, `prefix:number`; the number grows with every change of the view.
    pub view_id: String,
    /// Whether more than half of the view is reachable, while in a group.
    pub majority: bool,
    pub view: Vec<ViewMember>,
    /// What is committed here.
    pub gtid_executed: GtidSet,
    /// What the applier channel has received, applied or not.
    pub gtid_received: GtidSet,
    /// What is committed but no longer in the binary logs.
    pub gtid_purged: GtidSet,
    /// Seconds behind the primary: 0 when nothing waits to be applied, `None` when it cannot be told.
    pub lag_seconds: Option<f64>,
    /// `@@super_read_only`.
    pub super_read_only: bool,
    /// Schemas that are not MySQL's own; a few suffice to know that there is data.
    pub user_schemas: Vec<String>,
    /// `@@group_replication_group_name`, `None` without the plugin.
    pub mysql_group_name: Option<String>,
    /// Whether the clone plugin is active.
    pub clone_plugin: bool,
    /// `@@group_replication_start_on_boot`.
    pub start_on_boot: bool,
    /// `@@group_replication_bootstrap_group`.
    pub bootstrap_group: bool,
    /// The last clone into this member.
    pub clone: Option<CloneStatus>,
    /// Why the member is in ERROR, in MySQL's words: what its applier failed with, else the newest replication error in its
    /// log.
    pub last_error: Option<String>,
    /// What the applier, or its connection, failed with, in MySQL's words; not asked while the member is ONLINE. Absent from
    /// older keepers.
    #[serde(default)]
    pub applier_error: Option<String>,
}

impl Observation {
    /// Everything this member holds: committed, or received and still to be applied.
    pub fn gtids(&self) -> GtidSet {
        self.gtid_executed.union(&self.gtid_received)
    }

    /// No transaction and no schema of a user: a member that can be cloned into without losing anything.
    pub fn is_empty(&self) -> bool {
        self.gtid_executed.is_empty() && self.gtid_received.is_empty() && self.user_schemas.is_empty()
    }

    /// ONLINE, with a majority of the view in reach.
    pub fn is_healthy(&self) -> bool {
        self.member_state == MemberState::Online && self.majority
    }

    /// Whether a clone into this member runs.
    pub fn is_cloning(&self) -> bool {
        self.clone.as_ref().is_some_and(|c| c.state == "In Progress")
    }
}

/// Where a keeper stands with its member. Every situation has one; each is explained in `docs/database.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The keeper has just started.
    Starting,
    /// mysqld does not answer.
    MysqlUnreachable,
    /// mysqld or the configuration lacks something: a plugin, the right group name.
    Misconfigured,
    /// In the group and serving.
    Online,
    /// In the group, with most of it out of reach.
    NoMajority,
    /// In the group, catching up.
    Recovering,
    /// Left in ERROR; about to stop Group Replication in order to join again.
    Error,
    /// Other members, or facts about them, are missing.
    WaitingForMembers,
    /// All members are there; another one bootstraps.
    WaitingForBootstrap,
    /// This member bootstraps the group.
    Bootstrapping,
    /// Restarted before the group noticed that it had gone.
    WaitingForExpulsion,
    /// Ready to join, another member goes first.
    WaitingToJoin,
    /// START GROUP_REPLICATION runs.
    Joining,
    /// Ready to be cloned into, another clone goes first.
    WaitingToClone,
    /// CLONE INSTANCE runs.
    Cloning,
    /// Outside the group, and without room on its disk to join it.
    DiskFull,
    /// An attempt failed; the next one waits.
    BackingOff,
    /// This member has transactions that the group does not have.
    Diverged,
    /// The keeper will not act without an operator; the reason says why.
    Refused,
}

impl Phase {
    /// The name in JSON, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::MysqlUnreachable => "mysql-unreachable",
            Self::Misconfigured => "misconfigured",
            Self::Online => "online",
            Self::NoMajority => "no-majority",
            Self::Recovering => "recovering",
            Self::Error => "error",
            Self::WaitingForMembers => "waiting-for-members",
            Self::WaitingForBootstrap => "waiting-for-bootstrap",
            Self::Bootstrapping => "bootstrapping",
            Self::WaitingForExpulsion => "waiting-for-expulsion",
            Self::WaitingToJoin => "waiting-to-join",
            Self::Joining => "joining",
            Self::WaitingToClone => "waiting-to-clone",
            Self::Cloning => "cloning",
            Self::DiskFull => "disk-full",
            Self::BackingOff => "backing-off",
            Self::Diverged => "diverged",
            Self::Refused => "refused",
        }
    }

    /// Every phase, for metrics.
    pub const ALL: [Self; 19] = [
        Self::Starting,
        Self::MysqlUnreachable,
        Self::Misconfigured,
        Self::Online,
        Self::NoMajority,
        Self::Recovering,
        Self::Error,
        Self::WaitingForMembers,
        Self::WaitingForBootstrap,
        Self::Bootstrapping,
        Self::WaitingForExpulsion,
        Self::WaitingToJoin,
        Self::Joining,
        Self::WaitingToClone,
        Self::Cloning,
        Self::DiskFull,
        Self::BackingOff,
        Self::Diverged,
        Self::Refused,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the keeper remembers across restarts of the machine, in its state directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The group this is about.
    pub group_name: String,
    /// The group was formed and has made transactions: it must never be bootstrapped from empty members again.
    pub formed: bool,
    /// Names of the members that were ONLINE in the last view seen with a majority.
    pub last_view: Vec<String>,
    /// One set for each time that an operator bootstrapped the group by force: what the group went on with. The numbers of
    /// later transactions may repeat those of transactions that were given up then, so sets alone no longer tell whose data
    /// belongs to the group.
    #[serde(default)]
    pub forks: Vec<GtidSet>,
    /// The group was bootstrapped by force here with so many `forks`, the last of which is not yet in the table that the backups read
    /// (`trivet_cluster.fork`).
    #[serde(default)]
    pub unmarked: Option<usize>,
}

impl Record {
    /// What a member with this record and the transactions `gtids` has that was given up by a bootstrap in `forks` which it
    /// has not been part of.
    pub fn given_up(&self, gtids: &GtidSet, forks: &[GtidSet]) -> GtidSet {
        let unknown = forks.get(self.forks.len()..).unwrap_or_default();
        unknown.iter().fold(GtidSet::default(), |sum, fork| sum.union(&gtids.subtract(fork)))
    }
}

/// The space below a member's data directory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What mysqld may still use.
    pub free: u64,
    /// The file system's size.
    pub total: u64,
    /// Less is free than `mysql.minimum_free` asks for.
    pub low: bool,
}

impl Disk {
    /// Whether mysqld can write nothing more: a write that does not fit takes what is left, and then waits for room.
    pub fn is_full(&self) -> bool {
        self.free < 1 << 20
    }
}

/// The answer to `/state` and `/health`. The fields of the observation stand beside the others, and are absent while
/// mysqld does not answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The node that answers.
    pub node: String,
    /// The configured group.
    pub group_name: String,
    /// A digest of group name and members; keepers with different ones do not plan together.
    pub digest: String,
    /// Where the keeper stands.
    pub phase: Phase,
    /// Why, in words.
    pub reason: String,
    /// The member that should bootstrap after a complete outage, as this keeper sees it.
    pub plan: Option<String>,
    /// What the keeper remembers.
    pub record: Record,
    /// How old the observation is.
    pub age_ms: u64,
    /// mysqld is about to be stopped on purpose: no role and no reads here any more. Absent from older keepers.
    #[serde(default)]
    pub leaving: bool,
    /// What an operator should mend although the member works, each with what to do. Absent from older keepers.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The space below the data directory. Absent from older keepers, and while it cannot be told.
    #[serde(default)]
    pub disk: Option<Disk>,
    /// The clock of this machine when the answer was made, in milliseconds since 1970. Absent from older keepers.
    #[serde(default)]
    pub clock_ms: Option<u64>,
    /// The member from which this keeper is about to move the primary role. Absent from older keepers.
    #[serde(default)]
    pub moves: Option<String>,
    /// While the primary role is about to leave this member: the app's connections that are still open here. Absent from older
    /// keepers, and otherwise.
    #[serde(default)]
    pub sessions: Option<u64>,
    /// How far that is ahead of the clock of whoever asked, in seconds; filled in by who asked.
    #[serde(skip)]
    pub ahead: Option<f64>,
    /// The local member, `None` while it does not answer.
    #[serde(flatten)]
    pub observation: Option<Observation>,
}

/// What is known of the other keepers: a report that is fresh, or why there is none.
pub type Peers = BTreeMap<String, Result<Report, String>>;
