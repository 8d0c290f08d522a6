//! `import --abort`: the end of an import, from whichever state it is in.

use mysql_async::Conn;

use trivet_base::process::Failure;

use super::{ask, drop_databases, locked, remote, same_source};
use crate::channel::{self, CHANNEL};
use crate::cli::Import;
use crate::error::{MEMBER, TransferError};
use crate::state::{Phase, State};
use crate::{back, cut_over};

/// Removes what an import has left. What the cluster has taken over stays. Can be run again when it was interrupted: the state is forgotten last.
pub(super) async fn run(options: &Import) -> Result<(), Failure> {
    let mut to = locked(options).await?;
    let Some(state) = State::read(&mut to).await? else {
        let left = channel::status(MEMBER, &mut to, CHANNEL).await?.is_some();
        no_channel(&mut to).await?;
        println!(
            "{}",
            if left { "the channel of an earlier import is removed" } else { "there is no import" }
        );
        return Ok(());
    };
    let is_taken = matches!(state.phase, Phase::CutOver | Phase::Back);
    if !options.yes {
        ask(&question(&state, is_taken), "abort", "--yes")?;
    }
    no_channel(&mut to).await?;
    if is_taken {
        for words in ended(options, &state, &mut to).await? {
            println!("{words}");
        }
        State::forget(&mut to).await?;
        println!("the import is ended; {} stays in the cluster", state.databases.join(", "));
        return Ok(());
    }
    let source = match given_back(options, &state).await {
        Ok(()) => "the source was left as it is".to_owned(),
        Err(e) => format!(
            "{} may still be read-only after a cut-over that was killed{}: SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF there",
            state.place(),
            e.map(|e| format!(" ({e})")).unwrap_or_default()
        ),
    };
    drop_databases(&mut to, &state.databases).await?;
    State::forget(&mut to).await?;
    println!("the import is removed; {source}");
    Ok(())
}

fn question(state: &State, is_taken: bool) -> String {
    let databases = state.databases.join(", ");
    if is_taken {
        format!(
            "{databases} stays in the cluster, and the way back (--back) is given up. Type abort to go on: "
        )
    } else {
        format!("{databases} will be dropped in the cluster. Type abort to go on: ")
    }
}

async fn no_channel(to: &mut Conn) -> Result<(), TransferError> {
    channel::remove(MEMBER, to, CHANNEL).await?;
    channel::keep_still_at_start(to, false).await
}

/// Undoes a cut-over that was killed; the error is empty when nobody has given the password.
async fn given_back(options: &Import, state: &State) -> Result<(), Option<TransferError>> {
    let Some(before) = state.source_before else { return Ok(()) };
    if options.password_file.is_none() {
        return Err(None);
    }
    let thawed = async {
        let (remote, _) = remote(options, Some(state))?;
        let mut from = remote.connect().await?;
        same_source(&mut from, state).await?;
        cut_over::thaw(&remote, before).await
    };
    thawed.await.map_err(Some)
}

/// Ends the way back; what has to be done by hand, in words.
async fn ended(options: &Import, state: &State, to: &mut Conn) -> Result<Vec<String>, TransferError> {
    let mut words = Vec::new();
    for event in state.events.iter().flatten() {
        words.push(format!("the event {}.{} is not enabled", event.database, event.name));
    }
    if state.phase == Phase::Back {
        back::forget_account(to).await?;
        let removed = match (options.password_file.is_some(), remote(options, Some(state))) {
            (true, Ok((remote, _))) => back::forget_channel(&remote, state).await,
            _ => Err(TransferError::refused("no --password-file")),
        };
        if let Err(e) = removed {
            words.push(format!(
                "{} follows the cluster no more; its channel stays ({e}): {} there",
                state.place(),
                back::REMOVED
            ));
        }
    }
    Ok(words)
}
