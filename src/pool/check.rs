//! Active checks: one question, asked again and again.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

/// What one check found.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It can be used. With the JSON it said, or `null`.
    Good(Value),
    /// It answered, and said no: draining, not the primary, broken. Believed at once, because only its own word can be
    /// so clear. With the reason and the JSON it said.
    Refused(String, Value),
    /// It did not answer, or not in time. Believed after `fall` times, because the network or a restart may be to blame.
    Silent(String),
    /// As [`Silent`](Self::Silent), but its machine was heard of: nobody listens there, or not to this.
    Failed(String),
}

impl Verdict {
    /// The value of the metric's label `result`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Good(_) => "good",
            Self::Refused(..) => "refused",
            Self::Silent(_) => "silent",
            Self::Failed(_) => "failed",
        }
    }
}

/// Asks one back end.
#[async_trait]
pub trait Check: Send + Sync {
    /// Asks, and answers within `timeout`.
    async fn check(&self, timeout: Duration) -> Verdict;
}
