//! What keepalived asks: can this balancer serve?

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
    pub async fn serve(self, pool: Arc<Pool>, shutdown: Shutdown) {
        let answer = move || {
            let (pool, shutdown) = (pool.clone(), shutdown.clone());
            async move {
                if shutdown.is_stopping() {
                    (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
                } else if pool.usable() == 0 {
                    (StatusCode::SERVICE_UNAVAILABLE, "no back end is up\n")
                } else {
                    (StatusCode::OK, "ok\n")
                }
            }
        };
        if let Err(e) = axum::serve(self.0, Router::new().route("/healthz", get(answer))).await {
            tracing::error!(error = %e, "the local check stopped");
        }
    }
}
