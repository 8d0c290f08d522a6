//! `trivet-backup`: the service that keeps backups, and the commands to see, try and use them.

use std::process::ExitCode;

use trivet_backup::cli::Cli;
use trivet_backup::config::Config;
use trivet_backup::{commands, run};
use trivet_base::{config, process};

fn main() -> ExitCode {
    trivet_tls::install_provider();
    let cli: Cli = match process::parse_args() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let loaded = config::load::<Config>(&cli.config).map_err(process::Failure::from);
    let outcome = loaded.and_then(|config| match cli.command {
        _ if cli.check => Ok(()),
        Some(command) => process::block_on(commands::run(config, command)),
        None => process::block_on(run::run(config)),
    });
    process::finish("trivet-backup", outcome)
}
