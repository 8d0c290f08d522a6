//! `trivet-web`: the web tier of one node.

use std::process::ExitCode;

use trivet::process;
use trivet::web::config::Config;
use trivet::web::serve;

fn main() -> ExitCode {
    let args = match process::service_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    process::main("trivet-web", &args, |config: Config| process::block_on(serve::run(config)))
}
