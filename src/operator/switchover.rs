//! `trivet switchover [NODE]`: moves the database's primary role, for planned work.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | the primary is where it was wanted, and takes writes |
//! | 1 | it is not; the reason is told |
//! | 64 | wrong usage |

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::json;

use super::socket::{Program, command};
use trivet_base::process::Failure;
use trivet_keeper_api::{SwitchoverAnswer, SwitchoverRequest};

/// Longer than the keeper's own deadlines together, so that its reason is heard.
const PATIENCE: Duration = Duration::from_secs(60);

/// Moves the role to `to`, or to the best other member, and says what came of it.
pub async fn run(socket: &Path, to: Option<String>, as_json: bool) -> Result<(), Failure> {
    let request = SwitchoverRequest { to };
    let answer: Result<SwitchoverAnswer, _> =
        command(Program::Keeper, socket, Method::POST, "/switchover", &request, PATIENCE).await;
    match answer {
        Ok(answer) if as_json => println!("{}", serde_json::to_string(&answer).map_err(Failure::run)?),
        Ok(SwitchoverAnswer { primary, from: Some(from), seconds }) => {
            println!("{primary} is the primary now, after {from}; it took {seconds:.1} s");
        }
        Ok(SwitchoverAnswer { primary, from: None, .. }) => {
            println!("{primary} is the primary already; nothing was changed");
        }
        Err(e) => {
            if as_json {
                println!("{}", json!({ "error": e.to_string() }));
            }
            return Err(Failure::run(e));
        }
    }
    Ok(())
}
