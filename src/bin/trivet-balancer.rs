//! The balancer's program: arguments, configuration, run.

use std::process::ExitCode;

use trivet::{balancer, process, tls};

fn main() -> ExitCode {
    tls::install_provider();
    let args = match process::service_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    process::main("trivet-balancer", &args, balancer::run::run)
}
