//! The balancer's program: arguments, configuration, run.

use std::process::ExitCode;

use trivet_base::process;
use trivet_tls as tls;

/// Many small, short-lived allocations per request.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tls::install_provider();
    let args = match process::service_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    process::main("trivet-balancer", &args, trivet_balancer::run::run)
}
