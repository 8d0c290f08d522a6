//! What operators say to balancers and gateways over the control socket, and these to one another: who is to be left alone, which
//! site is closed, where the virtual address is to be. The operator's command knows nothing else of a balancer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub mod orders;

pub use orders::{Entry, Key, Mode, Order, Orders};

/// Where a balancer listens on NixOS.
pub const BALANCER_SOCKET: &str = "/run/trivet-balancer/control.sock";
/// Likewise a database gateway.
pub const GATEWAY_SOCKET: &str = "/run/trivet-gateway/control.sock";

/// `POST /command`. The answer is [`Done`], or [`Refused`] with another status than 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Nothing new for a node or a back end; what it has is finished.
    Drain { target: Target },
    /// It is used again, as its checks say.
    Ready { target: Target },
    /// Nothing at all for a back end, not even for those who were bound to it.
    Disable { target: Target },
    /// How much a back end gets; none is what the configuration says.
    Weight { target: Target, weight: Option<u32> },
    /// A site's visitors are told that it is closed.
    Maintenance {
        site: String,
        /// When it ends by itself; seconds of Unix time.
        #[serde(default)]
        until: Option<u64>,
        /// Networks whose clients are served as before.
        #[serde(default)]
        allow: Vec<IpNet>,
    },
    /// It is open again.
    MaintenanceOff { site: String },
    /// The virtual addresses move to a node.
    Failover { node: String },
}

/// Whom a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// All that there is on a node.
    Node(String),
    /// One back end of a pool.
    Backend { pool: String, name: String },
}

impl Target {
    /// `node3`, or `shop/shop1`: a pool and its back end.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((pool, name)) => Self::Backend { pool: pool.into(), name: name.into() },
            None => Self::Node(text.into()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(name) => f.write_str(name),
            Self::Backend { pool, name } => write!(f, "{pool}/{name}"),
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Whether it was otherwise before.
    pub changed: bool,
    /// Who was told, and who could not be.
    pub told: Vec<Told>,
}

/// A balancer or gateway that was told of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub name: String,
    /// Why it could not be told. It learns of it when it is heard again.
    pub error: Option<String>,
}

/// What a balancer or gateway has: `GET /summary` to one, `GET /summaries` for all of them. Fields that are absent are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// For people.
    pub name: String,
    pub node: String,
    /// Whether it may have the virtual addresses.
    #[serde(default)]
    pub is_balancer: bool,
    /// Why it says nothing.
    #[serde(default)]
    pub error: Option<String>,
    /// The virtual addresses that its node has, of those that the cluster has.
    #[serde(default)]
    pub held: Vec<IpAddr>,
    #[serde(default)]
    pub virtual_addresses: Vec<IpAddr>,
    /// It is not on its way out, not drained, and has a back end.
    #[serde(default)]
    pub is_fit: bool,
    /// Requests or sessions of its back ends, `web/node2`.
    #[serde(default)]
    pub in_flight: BTreeMap<String, u64>,
    /// The nodes of those of its back ends that are on one, by the same keys.
    #[serde(default)]
    pub nodes: BTreeMap<String, String>,
}

/// `POST /route`: which route would answer a request. The answer is [`Explained`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `https://www.foobar.com/api?page=1`
    pub url: String,
    pub method: String,
    pub client: IpAddr,
    /// Lines of fields, `Accept: text/html`.
    #[serde(default)]
    pub fields: Vec<String>,
}

/// What would become of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The site; none where no site has the name, or the request would be refused before.
    pub site: Option<String>,
    /// The route; none where the site's pool serves it.
    pub route: Option<String>,
    /// What is done, in words.
    pub does: String,
    /// Routes that are for the path and yet not for the request, and why.
    pub passed_over: Vec<(String, String)>,
}

/// What a balancer counts: `GET /figures`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// For people.
    pub name: String,
    /// Some of its metrics, in Prometheus' text.
    pub text: String,
    /// Why it says nothing.
    pub error: Option<String>,
}

/// Every answer with another status than 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub error: String,
}
