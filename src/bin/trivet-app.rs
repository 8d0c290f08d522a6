//! The reference site, and its small administration commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    trivet::app::cli::main()
}
