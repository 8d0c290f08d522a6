//! The balancer's program: arguments, configuration, run.

use std::process::ExitCode;

use clap::Parser;
use trivet_base::process::handover::start;
use trivet_base::process::{self, ServiceArgs};
use trivet_tls as tls;

/// Many small, short-lived allocations per request.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = "trivet-balancer";

#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    service: ServiceArgs,
    /// Start this program with this configuration in the place of the process that runs, and exit once it serves. Without loss: the
    /// new process takes its sockets, the one before finishes what it has. When it cannot, the one before goes on.
    #[arg(long, conflicts_with_all = ["check", "check_files"])]
    reload: bool,
    /// What --reload starts: leave behind a process that takes over.
    #[arg(long, hide = true, conflicts_with_all = ["check", "check_files", "reload"])]
    leave_successor: bool,
    /// Serve in the place of the process that runs.
    #[arg(long, hide = true, conflicts_with_all = ["check", "check_files", "reload", "leave_successor"])]
    take_over: bool,
}

fn main() -> ExitCode {
    tls::install_provider();
    let args = match process::parse_args::<Cli>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    if args.reload {
        return start::start_successor(PROGRAM, &args.service.config);
    }
    if args.leave_successor {
        return start::leave_successor(PROGRAM, &args.service.config);
    }
    if args.take_over {
        start::end_with_starter(PROGRAM);
    }
    let code =
        process::status(PROGRAM, &args.service, |config| trivet_balancer::run::run(config, args.take_over));
    if args.take_over {
        start::tell_ended(code);
    }
    ExitCode::from(code)
}
