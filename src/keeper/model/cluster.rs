//! What the configuration says about the cluster, as far as decisions need it.

/// What the configuration says about the cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// This node.
    pub me: String,
    /// All members, in the configuration's order, which breaks ties.
    pub members: Vec<String>,
    /// The group's name.
    pub group_name: String,
    /// Digest of group name and members.
    pub digest: String,
}
