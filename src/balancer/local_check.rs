//! What keepalived asks: does this balancer answer, has it a back end, and does it hear other nodes at all?

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::process::Shutdown;
use crate::proxy::upstream::HttpPool;

/// Serves the check on a bound socket.
pub struct LocalCheck(pub TcpListener);

impl LocalCheck {
    /// `GET /healthz`: 200 while this process answers clients, 503 while it drains; it ends with the process. A balancer
    /// without a back end answers too: with the page that says so.
    ///
    /// `GET /healthz/backends`: 503 when no back end is up, so that a balancer that has one is preferred.
    ///
    /// `GET /healthz/others`: 503 when there are back ends on other nodes than `node`, and nothing is heard of any of them. A
    /// node that hears nobody may be the last one, or one whose network is at fault: it should have the virtual address
    /// only while nobody else wants it.
    pub async fn serve(self, node: String, pool: Arc<HttpPool>, shutdown: Shutdown) {
        let others = pool.clone();
        let own = move || {
            std::future::ready(if shutdown.is_stopping() {
                (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
            } else {
                (StatusCode::OK, "ok\n")
            })
        };
        let backends = move || {
            std::future::ready(if pool.usable() == 0 {
                (StatusCode::SERVICE_UNAVAILABLE, "no back end is up\n")
            } else {
                (StatusCode::OK, "ok\n")
            })
        };
        let others = move || {
            let all = others.backends();
            let mut elsewhere = all.iter().filter(|b| b.name() != node).peekable();
            let answer = if elsewhere.peek().is_none() {
                (StatusCode::OK, "there is no other node\n")
            } else if elsewhere.any(|b| !b.is_silent()) {
                (StatusCode::OK, "ok\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "no other node is heard\n")
            };
            std::future::ready(answer)
        };
        let router = Router::new()
            .route("/healthz", get(own))
            .route("/healthz/backends", get(backends))
            .route("/healthz/others", get(others));
        if let Err(e) = axum::serve(self.0, router).await {
            tracing::error!(error = %e, "the local check stopped");
        }
    }
}
