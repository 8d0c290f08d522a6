//! `trivet-web`: the web tier of one node.

use std::process::ExitCode;

use trivet::process::{self, Failure};
use trivet::web::config::Config;

fn main() -> ExitCode {
    let args = match process::service_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    process::main("trivet-web", &args, |_: Config| Err(Failure::run("serving is not built yet")))
}
