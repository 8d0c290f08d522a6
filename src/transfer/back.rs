//! `import --back`: the source follows the cluster, so that one can return to it with what was written since.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::RngExt as _;
use tokio::time::Instant;

use trivet_base::process::Failure;
use trivet_mysql::progress::Watcher;

use crate::channel::{self, Channel, pattern};
use crate::cli::Import;
use crate::error::{SOURCE, TransferError, member, source};
use crate::import::{locked, remote, same_source};
use crate::report::{Facts, upstreams};
use crate::server::{Remote, literal};
use crate::state::{Phase, State};

/// The channel at the source.
const CHANNEL: &str = "trivet_back";

/// The account of the cluster that the source reads the binary log with.
const USER: &str = "trivet_import_back";

/// Connecting, and being refused, take less.
const CONNECTED: Duration = Duration::from_secs(30);

/// Lets the source follow.
pub async fn run(options: &Import, watcher: &Watcher) -> Result<(), Failure> {
    let mut to = locked(options).await?;
    let state = match State::read(&mut to).await? {
        Some(state) if matches!(state.phase, Phase::CutOver | Phase::Back) => state,
        Some(_) => {
            return Err(Failure::run(
                "the cluster has not taken the source's place: there is nothing to go back from",
            ));
        }
        None => return Err(Failure::run("there is no import")),
    };
    let (old, _) = remote(options, Some(&state))?;
    let mut from = old.connect().await?;
    same_source(&mut from, &state).await?;
    possible(&mut from, &mut to).await?;
    let executed = state.executed.clone().unwrap_or_default();
    known(&mut from, &executed).await?;
    let password = account(&mut to).await?;
    let address = match &options.address {
        Some(address) => address.clone(),
        None => member(to.query_first::<String, _>(
            "SELECT CONCAT(member_host, ':', member_port) FROM performance_schema.replication_group_members WHERE member_role = 'PRIMARY'",
        ))
        .await?
        .unwrap_or_default(),
    };
    let Some((host, port)) = address.rsplit_once(':').and_then(|(h, p)| Some((h, p.parse::<u16>().ok()?)))
    else {
        return Err(Failure::run(format_args!("--address {address}: write HOST:PORT")));
    };
    let cluster = Remote {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        user: USER.into(),
        password,
        ca: None,
        plain: false,
    };
    let channel = Channel {
        name: CHANNEL,
        source: &cluster,
        from: None,
        databases: &state.databases,
        generate_keys: false,
    };
    let keeps_still = keep_still(&mut from).await;
    channel.start(SOURCE, &mut from).await?;
    let state = State { phase: Phase::Back, ..state };
    state.write(&mut to).await?;
    watcher.begin(&format!("waiting until {} follows {address}", state.place()), 0, false);
    connected(&mut from, &address).await?;
    watcher.end();
    print!("{}", way_back(&state, &address, keeps_still));
    Ok(())
}

/// Refuses, and says why, when the source cannot follow.
async fn possible(from: &mut Conn, to: &mut Conn) -> Result<(), TransferError> {
    let (old, new) = (Facts::of(from, &[]).await?.version, Facts::of_member(to).await?.version);
    let dump =
        "The way back is a dump: trivet database export, loaded there while the application is stopped";
    if old.series < new.series {
        return Err(TransferError::refused(format!(
            "the source is MySQL {}, and a server does not follow a newer one ({}). {dump}",
            old.text, new.text
        )));
    }
    let mode: Option<String> = source(from.query_first("SELECT @@global.gtid_mode")).await?;
    if mode.as_deref() != Some("ON") {
        return Err(TransferError::refused(format!(
            "the source's gtid_mode is {}: it could not tell which of the cluster's transactions it has. {dump}",
            mode.unwrap_or_default()
        )));
    }
    Ok(())
}

/// Tells the source that it has what the cluster had at the cut-over, under the GTIDs that the cluster gave it.
async fn known(from: &mut Conn, executed: &str) -> Result<(), TransferError> {
    let missing: Option<String> = source(
        from.query_first(format!("SELECT GTID_SUBTRACT({}, @@global.gtid_executed)", literal(executed))),
    )
    .await?;
    match missing.map(|set| set.replace('\n', "")).filter(|set| !set.is_empty()) {
        Some(set) => {
            source(from.query_drop(format!("SET GLOBAL gtid_purged = {}", literal(&format!("+{set}"))))).await
        }
        None => Ok(()),
    }
}

/// A source that is started anew must not apply what it has received without the filter, which MySQL does not keep. False when that could not
/// be written down there: it is older than 8.0, the account may not, or it follows another server, too, which it has to go on with.
async fn keep_still(from: &mut Conn) -> bool {
    let others = upstreams(from).await.map(|u| u.iter().any(|u| u.channel != CHANNEL));
    matches!(others, Ok(false))
        && source(from.query_drop("SET PERSIST_ONLY skip_replica_start = ON")).await.is_ok()
}

/// What is done by hand at a source that is to follow no more.
pub(crate) const REMOVED: &str = "STOP REPLICA FOR CHANNEL 'trivet_back'; RESET REPLICA ALL FOR CHANNEL 'trivet_back'; RESET PERSIST IF EXISTS skip_replica_start";

/// Takes the channel away from the source.
pub(crate) async fn forget_channel(remote: &Remote, state: &State) -> Result<(), TransferError> {
    let mut from = remote.connect().await?;
    same_source(&mut from, state).await?;
    channel::remove(SOURCE, &mut from, CHANNEL).await?;
    // An account that may not has not written it either.
    let _ = source(from.query_drop("RESET PERSIST IF EXISTS skip_replica_start")).await;
    Ok(())
}

/// Takes the account away that the source reads with.
pub(crate) async fn forget_account(to: &mut Conn) -> Result<(), TransferError> {
    member(to.query_drop(format!("DROP USER IF EXISTS {}@'%'", literal(USER)))).await
}

/// Makes the account anew, with a password that only the source's running channel has.
async fn account(to: &mut Conn) -> Result<String, TransferError> {
    // A channel's password has at most 32 characters.
    let octets: [u8; 16] = rand::rng().random();
    let password: String = octets.iter().map(|o| format!("{o:02x}")).collect();
    let name = format!("{}@'%'", literal(USER));
    for statement in [
        format!("DROP USER IF EXISTS {name}"),
        format!(
            "CREATE USER {name} IDENTIFIED WITH caching_sha2_password BY {} REQUIRE SSL",
            literal(&password)
        ),
        format!("GRANT REPLICATION SLAVE ON *.* TO {name}"),
    ] {
        member(to.query_drop(statement)).await?;
    }
    Ok(password)
}

async fn connected(from: &mut Conn, address: &str) -> Result<(), TransferError> {
    let begun = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        looks.tick().await;
        let status = channel::status(SOURCE, from, CHANNEL).await?;
        match status {
            Some(status) if status.receives && status.applies && status.trouble.is_empty() => return Ok(()),
            Some(status) if begun.elapsed() > CONNECTED || !status.applies => {
                return Err(TransferError::refused(format!(
                    "the source does not follow {address}: {}. It must reach that address (--address names another, a firewall may close it)",
                    if status.trouble.is_empty() { "it has not connected" } else { &status.trouble }
                )));
            }
            _ => {}
        }
    }
}

fn way_back(state: &State, address: &str, keeps_still: bool) -> String {
    let place = state.place();
    let filters: String = state
        .databases
        .iter()
        .map(|d| format!("  replicate-wild-do-table = {CHANNEL}:{}.%\n", pattern(d)))
        .collect();
    let still = if keeps_still {
        format!(
            "{place} does not go on by itself when it is started anew (skip_replica_start is persisted there): run this again then.\n"
        )
    } else {
        format!(
            "MySQL does not keep the filter over a restart. Write into the my.cnf of {place}, lest it applies everything of the cluster then:\n{filters}\
             \x20 skip-replica-start                                   # unless it follows another server, too\n"
        )
    };
    format!(
        "{place} follows the cluster ({address}). When the primary moves, or {place} is started anew, run this again.\n{still}\
         To return: stop the application; on the primary SELECT @@global.gtid_executed; at {place}\n\
         \x20 SELECT WAIT_FOR_EXECUTED_GTID_SET('…', 60);            -- 0: it has everything\n\
         \x20 STOP REPLICA FOR CHANNEL '{CHANNEL}'; RESET REPLICA ALL FOR CHANNEL '{CHANNEL}';\n\
         \x20 RESET PERSIST IF EXISTS skip_replica_start; SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF;\n\
         enable its events there (ALTER EVENT … ENABLE), point the application at {place}, and run --abort here: it forgets the import.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Phase;

    #[test]
    fn where_it_cannot_be_kept_still_the_lines_for_its_options_are_told() {
        let state = State {
            phase: Phase::Back,
            host: "old".into(),
            port: 3306,
            user: "u".into(),
            ca: None,
            plain: false,
            uuid: "a".into(),
            databases: vec!["my_shop".into()],
            generate_keys: false,
            position: None,
            executed: None,
            source_before: None,
            copied: None,
            others: Vec::new(),
            events: None,
            begun: 0,
        };
        let words = way_back(&state, "db:3306", false);
        assert!(
            words.contains(r"replicate-wild-do-table = trivet_back:my\_shop.%")
                && words.contains("skip-replica-start"),
            "{words}"
        );
        assert!(!way_back(&state, "db:3306", true).contains("replicate-wild-do-table"));
    }
}
