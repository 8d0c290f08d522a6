//! Which member a connection goes to, and for how long it may stay there.

use std::sync::Arc;

use futures_util::FutureExt as _;
use metrics::gauge;

use super::{Entrance, Gateway, Members, Server};
use trivet_pool::{Lease, Scope, Tried};

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Goes to the primary.
    Write = 0,
    /// Goes to replicas.
    Read = 1,
}

impl Role {
    /// As in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }

    /// The configuration's key.
    pub fn key(self) -> &'static str {
        match self {
            Self::Write => "database.write_listen",
            Self::Read => "database.read_listen",
        }
    }
}

/// A member, and what it was chosen as.
#[derive(Clone)]
pub(super) struct Choice {
    pub member: Arc<Server>,
    as_primary: bool,
    /// The connection counts as the member's.
    _lease: Option<Arc<Lease<Entrance>>>,
}

impl Choice {
    /// Whether it was chosen as the one primary.
    pub fn is_primary(&self) -> bool {
        self.as_primary
    }
}

/// How a member stands to the role that it was chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has it.
    Kept,
    /// It is about to give it away on purpose, and says so: what was begun may be finished.
    Draining,
    /// It has it, and an operator has ordered that it gets nothing new: what was begun is finished, however long it takes.
    TakenOut,
    /// It no longer has it.
    Lost,
}

impl Gateway {
    /// The member for a new connection.
    pub(super) fn choose(&self, role: Role, tried: &Tried<Entrance>) -> Option<Choice> {
        if role == Role::Read
            && let Ok(lease) = self.read.pick(Scope::ANSWERING, tried)
        {
            let member = lease.backend().clone();
            return Some(Choice { member, as_primary: false, _lease: Some(Arc::new(lease)) });
        }
        let member = self.write.only()?;
        let lease = self.write.hold(&member).ok().map(Arc::new);
        Some(Choice { member, as_primary: true, _lease: lease })
    }

    /// Waits until the member no longer has the role that it was chosen for, or is about to give it away.
    pub(super) async fn role_lost(&self, choice: &Choice) {
        if !choice.as_primary {
            return choice.member.lost().await;
        }
        let mut changes = self.write.subscribe();
        loop {
            // A second claim ends the first one's connections, too: which of them the group follows is not known here.
            let still = self.write.only().is_some_and(|only| Arc::ptr_eq(&only, &choice.member));
            if !still || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// How the member stands to the role that it was chosen for.
    pub(super) fn standing(&self, choice: &Choice) -> Standing {
        let (kept, other) = match (choice.as_primary, self.write.only()) {
            (true, Some(only)) => (Arc::ptr_eq(&only, &choice.member), true),
            (true, None) => (false, false),
            (false, _) => (choice.member.lost().now_or_never().is_none(), false),
        };
        if kept {
            Standing::Kept
        } else if !choice.as_primary && choice.member.is_up() {
            Standing::TakenOut
        } else if !other && choice.member.detail()["draining"] == true {
            Standing::Draining
        } else {
            Standing::Lost
        }
    }

    /// Waits until any member's state changes after the call (not after the first poll).
    pub(super) fn any_change(&self) -> impl Future<Output = ()> + use<> {
        let (mut write, mut read) = (self.write.subscribe(), self.read.subscribe());
        async move {
            tokio::select! { _ = write.changed() => {}, _ = read.changed() => {} }
        }
    }
}

/// Says in words and in a metric who is primary, and when several claim to be.
pub(super) async fn watch_claims(write: Arc<Members>) {
    let mut changes = write.subscribe();
    let mut last = None;
    loop {
        let claims: Vec<String> =
            write.backends().iter().filter(|b| b.is_usable()).map(|b| b.name().to_owned()).collect();
        gauge!("trivet_gateway_primary_claims").set(claims.len() as f64);
        if last.as_ref() != Some(&claims) {
            match claims.as_slice() {
                [] => tracing::warn!("no member is primary: new write connections wait"),
                [one] => tracing::info!(primary = %one, "write connections go to the primary"),
                several => tracing::error!(
                    claims = %several.join(", "),
                    "several members claim to be primary: none is believed until one is left"
                ),
            }
            last = Some(claims);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
