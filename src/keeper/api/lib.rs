//! What operators and keepers say to one another over the control socket. The operator's command knows nothing else of the
//! keeper.

use serde::{Deserialize, Serialize};

use gtid::GtidSet;

pub mod gtid;

/// Where the keeper listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/trivet-keeper/control.sock";

/// `POST /switchover`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverRequest {
    /// Who is to become the primary; the best other member when absent.
    #[serde(default)]
    pub to: Option<String>,
}

/// Its answer with status 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwitchoverAnswer {
    /// The primary now.
    pub primary: String,
    /// The primary before; absent when the role was where it was wanted.
    pub from: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// `POST /prepare-stop`, always with status 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareStopAnswer {
    /// What was done, in words.
    pub done: String,
}

/// `POST /force-bootstrap`: without a token the plan is told, with one it is done. The answer is a [`ForcePlan`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForceRequest {
    /// The node, as the operator named it.
    pub node: String,
    /// The token of the plan that the operator consented to.
    #[serde(default)]
    pub token: Option<String>,
}

/// Every answer with another status than 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub error: String,
}

/// What would be done, and what may be lost by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcePlan {
    /// The node whose member becomes the group's first.
    pub node: String,
    /// What that member has; the group goes on from there.
    pub gtids: GtidSet,
    /// What becomes of each other member, in words.
    pub others: Vec<String>,
    /// Members about which nothing is known. Each must be off, or there may be two groups.
    pub unknown: Vec<String>,
    /// Changes when anything of the above does, but for the words in which a silent member's silence is explained: those may
    /// change from one look to the next (refused, timed out), and mean the same.
    pub token: String,
}
