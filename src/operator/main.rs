//! `trivet`: the operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    trivet_tls::install_provider();
    trivet_operator::cli::main()
}
