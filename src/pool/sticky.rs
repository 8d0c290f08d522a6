//! Sessions that stay on one back end ([`Scope::sticky`]). Whoever keeps sessions in its memory loses them to any other, so they stay
//! through a drain, and wait where it is busy; where it is down or out they are anybody's.

use super::{Backend, Scope, Tried};

/// Whether the session of a request is on it, and may stay there.
pub(super) fn is_own<T>(backend: &Backend<T>, scope: Scope, tried: &Tried<T>) -> bool {
    scope.sticky == Some(backend.id())
        && backend.is_well()
        && backend.tier() <= scope.highest_tier
        && !tried.has(backend)
}

#[cfg(test)]
mod tests;
