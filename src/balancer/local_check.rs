//! What keepalived asks: does this balancer answer, has it a back end, and does it hear other nodes at all?

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use metrics::counter;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::admin::Admin;
use super::one_holder::{Heard, to_yield_to};
use super::status;
use trivet_base::process::Shutdown;
use trivet_base::telemetry::answers::{self, Answer, Answers};
use trivet_proxy::upstream::{HttpBackend, HttpPool};

/// The pool of the nodes' web tiers.
pub(super) const NODES: &str = "web";

/// Serves the check on a bound socket.
pub struct LocalCheck(pub TcpListener);

impl LocalCheck {
    /// `GET /healthz`: 200 while this process answers clients, 503 while it stops; it ends with the process, or once another one
    /// has taken over. A balancer without a back end answers too: with the page that says so.
    ///
    /// `GET /healthz/backends`: 503 when no web tier is up, or no back end at all, so that a balancer that has one is preferred.
    ///
    /// `GET /healthz/others`: 503 when there are back ends on other nodes than `node`, and nothing is heard of any of them. A
    /// node that hears nobody may be the last one, or one whose network is at fault: it should have the virtual address
    /// only while nobody else wants it.
    ///
    /// `GET /healthz/holder`: 409 where another node, which this one does not hear, is to have the virtual `addresses` in its place
    /// ([`one_holder`](super::one_holder)).
    ///
    /// `GET /healthz/wanted`: 409 where an operator wants the addresses elsewhere, or this node is drained.
    pub async fn serve(
        self,
        node: String,
        addresses: Vec<IpAddr>,
        pools: Vec<Arc<HttpPool>>,
        admin: Option<Arc<Admin>>,
        shutdown: Shutdown,
    ) {
        let name = node.clone();
        let holder = move |pools: &[Arc<HttpPool>]| {
            let all = nodes(pools);
            let said: Vec<_> = all.iter().map(|b| (b.heard_at(), b.answered_at(), b.detail())).collect();
            let heard: Vec<_> = (all.iter().zip(&said))
                .map(|(b, (at, answered, detail))| Heard {
                    node: b.name(),
                    at: *at,
                    answer: answered.map(|answered| (answered, detail)),
                })
                .collect();
            let holds = status::holds(&addresses);
            match to_yield_to(&name, holds, &heard, Instant::now()) {
                None => (StatusCode::OK, "ok\n"),
                Some(other) => {
                    counter!("trivet_address_yielded_total").increment(1);
                    if holds {
                        tracing::warn!(
                            to = other,
                            "another node holds the virtual address, which this one does not hear and a third does: letting go"
                        );
                    }
                    (StatusCode::CONFLICT, "another node holds the address, and is to keep it\n")
                }
            }
        };
        let others = move |pools: &[Arc<HttpPool>]| {
            let all = nodes(pools);
            let mut elsewhere = all.iter().filter(|b| b.name() != node).peekable();
            if elsewhere.peek().is_none() {
                (StatusCode::OK, "there is no other node\n")
            } else if elsewhere.any(|b| !b.is_silent()) {
                (StatusCode::OK, "ok\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "no other node is heard\n")
            }
        };
        let end = shutdown.clone().wait_until_handed_over();
        let answers: Answers = Arc::new(move |path| {
            let (status, text) = match path {
                "/healthz" if shutdown.is_stopping() => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
                "/healthz" => (StatusCode::OK, "ok\n"),
                "/healthz/backends" if pools.iter().all(|pool| pool.usable() == 0) => {
                    (StatusCode::SERVICE_UNAVAILABLE, "no back end is up\n")
                }
                "/healthz/backends"
                    if pools.iter().any(|pool| pool.name() == NODES && pool.usable() == 0) =>
                {
                    (StatusCode::SERVICE_UNAVAILABLE, "no web tier is up\n")
                }
                "/healthz/backends" => (StatusCode::OK, "ok\n"),
                "/healthz/holder" => holder(&pools),
                "/healthz/others" => others(&pools),
                "/healthz/wanted" if admin.as_ref().is_some_and(|admin| !admin.wants_addresses()) => {
                    (StatusCode::CONFLICT, "an operator wants the address elsewhere\n")
                }
                "/healthz/wanted" => (StatusCode::OK, "ok\n"),
                _ => return None,
            };
            Some(Answer::text(status, text))
        });
        answers::serve(self.0, answers, "", end).await;
    }
}

/// The web tiers of the nodes: the first pool is theirs, others may be anywhere.
fn nodes(pools: &[Arc<HttpPool>]) -> Vec<Arc<HttpBackend>> {
    pools.first().map(|pool| pool.backends().to_vec()).unwrap_or_default()
}
