//! `trivet database …`: what concerns this node's member of the database group.

use std::path::Path;
use std::time::Duration;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use http::Method;
use serde_json::json;

use super::socket::{CommandError, Program, command};
use trivet_base::process::Failure;
use trivet_keeper_api::{ForcePlan, ForceRequest, PrepareStopAnswer};

/// Looking at everything takes seconds; applying what was received before an outage may take minutes.
const FORCE: Duration = Duration::from_secs(600);

/// What the command line of `trivet database force-bootstrap` says.
#[derive(Debug, Clone)]
pub struct Force {
    /// The node whose member is to become the group's first: this one.
    pub node: String,
    /// The name once more, in place of typing it.
    pub consent: Option<String>,
    /// Members that cannot be reached and are off, in place of typing it.
    pub off: Vec<String>,
}

/// What a bootstrap by force of this node would do.
pub async fn plan(socket: &Path, node: &str) -> Result<ForcePlan, CommandError> {
    let request = ForceRequest { node: node.into(), token: None };
    command(Program::Keeper, socket, Method::POST, "/force-bootstrap", &request, FORCE).await
}

/// Bootstraps, if all is still as the plan has it.
pub async fn carry_out(socket: &Path, plan: &ForcePlan) -> Result<(), CommandError> {
    let request = ForceRequest { node: plan.node.clone(), token: Some(plan.token.clone()) };
    let done: Result<ForcePlan, _> =
        command(Program::Keeper, socket, Method::POST, "/force-bootstrap", &request, FORCE).await;
    done.map(drop)
}

/// `trivet database force-bootstrap NODE`: tells what may be lost, and bootstraps when the operator consents.
pub async fn force_bootstrap(socket: &Path, force: Force) -> Result<(), Failure> {
    let plan = plan(socket, &force.node).await.map_err(Failure::run)?;
    print!("{}", told(&plan));
    io::stdout().flush().map_err(Failure::run)?;
    ask_about(&not_said(&plan.unknown, &force.off))?;
    Consent {
        question: "Type the node's name to go on: ".into(),
        expected: &plan.node,
        flag: "--yes-i-lose-data NODE",
    }
    .ask(force.consent.as_deref())?;
    carry_out(socket, &plan).await.map_err(Failure::run)?;
    println!(
        "{} has formed the group and takes writes; the others follow by themselves: trivet status",
        plan.node
    );
    Ok(())
}

/// Those of the silent members of which the operator has not said that they are off.
pub fn not_said<'a>(silent: impl IntoIterator<Item = &'a String>, off: &[String]) -> Vec<String> {
    silent.into_iter().filter(|name| !off.contains(name)).cloned().collect()
}

/// Asks whether these members are off.
pub fn ask_about(silent: &[String]) -> Result<(), Failure> {
    if silent.is_empty() {
        return Ok(());
    }
    let (is, they) = if silent.len() == 1 { ("Is", "it") } else { ("Are", "they") };
    Consent {
        question: format!(
            "{is} {} off, and will {they} stay off until the group runs? Type off: ",
            silent.join(" and ")
        ),
        expected: "off",
        flag: &format!("--unreachable-are-off {}", silent.join(",")),
    }
    .ask(None)
}

fn told(plan: &ForcePlan) -> String {
    let mut text = format!(
        "The database goes on with what {} has, and with nothing else:\n  {}\n",
        plan.node, plan.gtids
    );
    for other in &plan.others {
        text += &format!("- {other}.\n");
    }
    text + "Whatever is given up can only be brought back by hand, from the disk or a backup of the member that had it.\n"
}

/// A word that the operator types, so that nobody consents by accident: a pipe, or no terminal at all, says no.
pub struct Consent<'a> {
    /// What is asked.
    pub question: String,
    /// The word.
    pub expected: &'a str,
    /// The option that says it without a terminal.
    pub flag: &'a str,
}

impl Consent<'_> {
    /// Asks for it, unless the option has said it.
    pub fn ask(&self, said: Option<&str>) -> Result<(), Failure> {
        if let Some(said) = said {
            return if said == self.expected {
                Ok(())
            } else {
                Err(Failure::run(format_args!("{said} is not {}: nothing was done", self.expected)))
            };
        }
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(Failure::run(format_args!(
                "nothing was done: nobody is there to ask. Without a terminal: {}",
                self.flag
            )));
        }
        print!("{}", self.question);
        io::stdout().flush().map_err(Failure::run)?;
        let mut line = String::new();
        stdin.lock().read_line(&mut line).map_err(Failure::run)?;
        if line.trim() == self.expected { Ok(()) } else { Err(Failure::run("nothing was done")) }
    }
}

/// `trivet database prepare-stop`: before mysqld stops. Never fails: a stop must not wait for what is broken.
pub async fn prepare_stop(socket: &Path, timeout: Duration) {
    let answer: Result<PrepareStopAnswer, _> =
        command(Program::Keeper, socket, Method::POST, "/prepare-stop", &json!({}), timeout).await;
    match answer {
        Ok(answer) => println!("{}", answer.done),
        Err(e) => println!("mysqld stops without a hand-over: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_silent_and_was_not_named_is_asked_about() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(not_said(&names(&["node2", "node3"]), &names(&["node3"])), ["node2"]);
        assert!(not_said(&names(&["node3"]), &names(&["node3", "node2"])).is_empty());
        assert_eq!(not_said(&names(&["node3"]), &[]), ["node3"]);
        assert!(ask_about(&[]).is_ok());
    }
}
