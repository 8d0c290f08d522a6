//! `trivet-keeper`: keeps one member of the database group.

use std::process::ExitCode;

use trivet_base::process;
use trivet_keeper::config::Config;
use trivet_keeper::run::run;
use trivet_tls as tls;

fn main() -> ExitCode {
    tls::install_provider();
    let args = match process::service_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    process::main("trivet-keeper", &args, |config: Config| process::block_on(run(config)))
}
