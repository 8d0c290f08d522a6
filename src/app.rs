//! The reference site: articles with comments, kept in MySQL, read from replicas and written to the primary.

pub mod cli;
pub mod config;

use std::path::PathBuf;

use crate::process::{Failure, Shutdown, notify_ready};
use crate::telemetry;

/// Serves the site until it is asked to stop. `file` names the configuration in errors.
pub async fn serve(file: PathBuf, config: config::Config) -> Result<(), Failure> {
    telemetry::init_log(&config.log);
    let _options = config.database.connect_options(&file)?;
    let mut shutdown = Shutdown::on_signals()?;
    notify_ready();
    shutdown.wait().await;
    Ok(())
}
