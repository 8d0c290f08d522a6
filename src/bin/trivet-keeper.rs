//! `trivet-keeper`: keeps one member of the database group.

use std::process::ExitCode;

use trivet::keeper::config::Config;
use trivet::process::{self, Failure};

fn main() -> ExitCode {
    let args = match process::service_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    process::main("trivet-keeper", &args, |_: Config| Err(Failure::run("keeping is not built yet")))
}
