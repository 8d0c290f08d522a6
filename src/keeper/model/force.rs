//! What the control socket hands to the runner.

use tokio::sync::oneshot;

use trivet_keeper_api::ForcePlan;

/// An operator asks about, or for, a bootstrap without all members.
pub struct Force {
    /// The node that the operator named.
    pub node: String,
    /// The token of the plan that the operator has consented to; without one, the plan is told and nothing is done.
    pub token: Option<String>,
    /// Where the plan goes, or why there is none.
    pub answer: oneshot::Sender<Result<ForcePlan, String>>,
}
