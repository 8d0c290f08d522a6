//! `trivet`: the operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    trivet::operator::cli::main()
}
