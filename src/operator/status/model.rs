//! The answer of `trivet status --json`. docs/trivet.md shows it; fields may be added, never renamed or removed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::cluster::Role;

/// The cluster, at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The cluster's name.
    pub cluster: String,
    /// The site's domain.
    pub domain: String,
    /// When it was asked, RFC 3339, UTC.
    pub time: String,
    /// All in one word.
    pub verdict: Verdict,
    /// No visitor is served: by what the programs that answer say.
    pub site_down: bool,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
    /// Who holds which virtual address.
    pub virtual_addresses: Vec<VirtualAddress>,
    /// The nodes, in the order of the cluster file.
    pub nodes: Vec<NodeReport>,
}

/// All in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything answers and nothing is wrong.
    Healthy,
    /// Something is wrong.
    Degraded,
    /// Nothing answered.
    Unknown,
}

impl Verdict {
    /// The command's exit status.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Degraded => 1,
            Self::Unknown => 2,
        }
    }
}

/// One thing worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether it makes the cluster degraded.
    pub severity: Severity,
    /// The node it is about, if it is about one.
    pub node: Option<String>,
    /// In words.
    pub what: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The site is not served, or not safely: no virtual address, no primary.
    Critical,
    /// The site is served, with less to fall back on.
    Degraded,
    /// Worth knowing; changes no exit status.
    Notice,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtualAddress {
    pub address: IpAddr,
    /// The nodes that say they hold it. There should be one.
    pub holders: Vec<String>,
}

/// One node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeReport {
    pub name: String,
    pub address: IpAddr,
    pub roles: Vec<Role>,
    /// What its programs say: `balancer`, `web`, `app`, `gateway`, `keeper`, as its roles have them.
    pub programs: BTreeMap<&'static str, Program>,
    /// Its database member, when the keeper answers.
    pub database: Option<Member>,
    /// The certificates its servers show: `site` (443), `web` (8443), `keeper` (8008).
    pub certificates: BTreeMap<&'static str, Certificate>,
    /// On the node where the command is given: what only the node itself can tell (units that gave up, secret files that are open
    /// to others), each with what to do.
    pub warnings: Vec<String>,
    /// The virtual addresses its balancer says it holds.
    #[serde(skip)]
    pub held: Vec<IpAddr>,
}

/// One program.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Program {
    /// Whether it answered.
    pub answers: bool,
    /// Why it did not.
    pub error: Option<String>,
    pub version: Option<String>,
    /// It was asked to stop, and finishes what it has begun.
    pub stopping: bool,
    /// The back ends it knows.
    pub backends: Vec<Backend>,
    /// A balancer's certificates for its sites, as it has read them.
    pub certificates: Vec<SiteCertificate>,
    /// What should be mended although it works, each with what to do; a keeper's stand with its member.
    pub warnings: Vec<String>,
    /// What operators have ordered, as a balancer or gateway knows it, in words.
    pub orders: Vec<String>,
}

/// A certificate of a balancer's sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteCertificate {
    /// The file it was read from.
    pub file: String,
    /// The names that it is good for.
    pub names: Vec<String>,
    pub days_left: i64,
}

/// A back end, as one program sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// The pool it is in: `web` and further ones (balancer), `app` (web tier), `write` and `read` (gateway).
    pub pool: String,
    pub name: String,
    /// Whether requests are sent there.
    pub usable: bool,
    /// An operator wants it so.
    pub taken_out: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// A member of the database group, as its keeper sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Member {
    /// `ONLINE`, `RECOVERING`, `OFFLINE`, `ERROR`, `UNREACHABLE`; absent while mysqld does not answer.
    pub state: Option<String>,
    /// `PRIMARY`, `SECONDARY`, or empty outside a group.
    pub role: Option<String>,
    /// The primary, as this member sees it.
    pub primary: Option<String>,
    /// The view's identifier, `prefix:number`: the prefix is the group's from its formation to its end; empty outside a group.
    pub view_id: Option<String>,
    /// Whether more than half of the group is in its reach.
    pub majority: bool,
    /// How many times the group was bootstrapped by force, as its keeper remembers; absent from older keepers.
    pub forks: Option<usize>,
    /// Seconds behind the primary.
    pub lag_seconds: Option<f64>,
    /// Where its keeper stands.
    pub phase: String,
    /// Why.
    pub reason: String,
    /// mysqld's version.
    pub version: Option<String>,
    /// The transactions it has executed.
    pub gtid_executed: Option<String>,
    /// What should be mended although it works, each with what to do.
    pub warnings: Vec<String>,
    /// mysqld is about to be stopped on purpose.
    pub leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// When it stops being valid, RFC 3339.
    pub not_after: Option<String>,
    /// Whole days until then; negative afterwards.
    pub days_left: Option<i64>,
    /// Why it could not be seen.
    pub error: Option<String>,
}
