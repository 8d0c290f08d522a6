//! What keepalived asks: can this balancer serve, and does it hear other nodes at all?

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::config::LocalCheck;
use crate::pool::Pool;
use crate::process::{Failure, Shutdown};

/// A bound listener for the check.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds `[local_check]`.
    pub async fn bind(config: &LocalCheck) -> Result<Self, Failure> {
        let fail =
            |e| Failure::run(format_args!("local_check.listen: cannot listen on {}: {e}", config.listen));
        let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        tracing::info!(key = "local_check.listen", %address, "listening");
        Ok(Self(listener))
    }

    /// `GET /healthz`: 200 when a request that came now would find a back end, else 503 with the reason. It goes on
    /// answering 503 while the process drains, and ends with it.
    ///
    /// `GET /healthz/others`: 503 when there are back ends on other nodes than `node`, and nothing is heard of any of them. A
    /// node that hears nobody may be the last one, or one whose network is at fault: it should have the virtual address
    /// only while nobody else wants it.
    pub async fn serve(self, node: String, pool: Arc<Pool>, shutdown: Shutdown) {
        let others = pool.clone();
        let own = move || {
            let answer = if shutdown.is_stopping() {
                (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
            } else if pool.usable() == 0 {
                (StatusCode::SERVICE_UNAVAILABLE, "no back end is up\n")
            } else {
                (StatusCode::OK, "ok\n")
            };
            std::future::ready(answer)
        };
        let others = move || {
            let mut elsewhere = others.backends().iter().filter(|b| b.name() != node).peekable();
            let answer = if elsewhere.peek().is_none() {
                (StatusCode::OK, "there is no other node\n")
            } else if elsewhere.any(|b| !b.is_silent()) {
                (StatusCode::OK, "ok\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "no other node is heard\n")
            };
            std::future::ready(answer)
        };
        let router = Router::new().route("/healthz", get(own)).route("/healthz/others", get(others));
        if let Err(e) = axum::serve(self.0, router).await {
            tracing::error!(error = %e, "the local check stopped");
        }
    }
}
