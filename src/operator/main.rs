//! `trivet`: the operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    trivet::tls::install_provider();
    trivet_operator::cli::main()
}
