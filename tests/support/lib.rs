//! What the stories are played with: an authority, back ends, the real program, clients.

pub mod app;
pub mod authority;
pub mod backend;
pub mod balancer_config;
pub mod built;
pub mod client;
pub mod dns;
pub mod frames;
pub mod link;
pub mod mysql;
pub mod one_back_end;
pub mod origin;
pub mod program;
pub mod reload;
pub mod scene;
pub mod tcp;

use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Long enough for any machine; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until the answer is yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let began = Instant::now();
    while !ask().await {
        assert!(began.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
