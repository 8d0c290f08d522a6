//! The balancer's program: arguments, configuration, run.

use std::process::ExitCode;

use trivet::balancer::config::Config;
use trivet::process;

fn main() -> ExitCode {
    let args = match process::service_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    process::main("trivet-balancer", &args, |_: Config| Err(process::Failure::run("cannot serve yet")))
}
