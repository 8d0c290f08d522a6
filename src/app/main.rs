//! The reference site, and its small administration commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    trivet_tls::install_provider();
    trivet_app::cli::main()
}
