//! `trivet-transfer`: moves a database into the cluster, and writes a dump of it.

use std::process::ExitCode;

use trivet_base::process;
use trivet_transfer::cli::{Cli, Command};
use trivet_transfer::{export, import};

fn main() -> ExitCode {
    trivet_tls::install_provider();
    let cli: Cli = match process::parse_args() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let outcome = process::block_on(async {
        match cli.command {
            Command::Import(arguments) => import::run(*arguments).await,
            Command::Export(arguments) => export::run(arguments).await,
        }
    });
    process::finish("trivet-transfer", outcome)
}
