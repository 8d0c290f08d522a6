//! `export`: a dump of the cluster, in plain SQL.

use std::io::IsTerminal as _;
use std::path::Path;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

use trivet_base::process::{Failure, Shutdown};
use trivet_mysql::identifier;
use trivet_mysql::progress::{self, Watcher};

use crate::cli::Export;
use crate::dump::Dump;
use crate::error::{TransferError, member};
use crate::filter::Filter;
use crate::report::Facts;
use crate::report::rights::Rights;
use crate::server::{Remote, Url};

/// Writes the dump.
pub async fn run(options: Export) -> Result<(), Failure> {
    let watcher = Watcher::default();
    let shown = tokio::spawn(progress::show(watcher.clone()));
    let mut interrupted = Shutdown::of_a_command()?;
    let outcome = tokio::select! {
        outcome = export(&options, &watcher) => outcome.map_err(Failure::from),
        () = interrupted.wait() => Err(Failure::run("interrupted; nothing was left behind")),
    };
    watcher.end();
    shown.abort();
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    outcome
}

async fn export(options: &Export, watcher: &Watcher) -> Result<(), TransferError> {
    let remote = remote(options)?;
    let mut conn = match &remote {
        Some(remote) => remote.connect().await?,
        None => options.member.connect().await?,
    };
    sound(&mut conn, remote.is_some()).await?;
    let rights = member(Rights::of(&mut conn)).await?;
    let facts = Facts::of(&mut conn, &options.database).await?;
    if !facts.missing.is_empty() {
        return Err(TransferError::refused(format!("there is no database {}", facts.missing.join(", "))));
    }
    if facts.databases.is_empty() {
        return Err(TransferError::refused("there is no database to export"));
    }
    may_read(&rights, &facts.databases, !options.database.is_empty())?;
    let file = match &remote {
        Some(remote) => remote.option_file()?,
        None => options.member.option_file()?,
    };
    let dump = Dump {
        program: &options.member.program("mysqldump"),
        options: file.path(),
        more: &[],
        databases: &facts.databases,
    };
    watcher.begin("exporting", facts.size.octets, true);
    let mut filter = Filter { drop_definers: !options.keep_definers, ..Filter::default() };
    if options.output == Path::new("-") {
        dump.write(&mut filter, &mut tokio::io::stdout(), watcher).await
    } else {
        into_file(&dump, &mut filter, &options.output, watcher).await
    }
}

/// The server that the command line names, unless that is this node's.
fn remote(options: &Export) -> Result<Option<Remote>, TransferError> {
    let (Some(host), Some(password)) = (&options.host, &options.password_file) else { return Ok(None) };
    let (host, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse().unwrap_or(3306)),
        _ => (host.as_str(), 3306),
    };
    let url = Url {
        host: host.trim_matches(['[', ']']).into(),
        port,
        user: options.member.user.clone(),
        databases: Vec::new(),
    };
    Remote::new(&url, password, options.ca.clone(), false).map(Some)
}

/// What mysqldump needs in a database. Without them it leaves out what it does not see, and calls the dump whole.
const RIGHTS: [&str; 4] = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"];

/// Refuses when the account would not see everything.
fn may_read(rights: &Rights, databases: &[String], are_named: bool) -> Result<(), TransferError> {
    if !are_named && !rights.everywhere("SELECT") {
        return Err(TransferError::refused(
            "the account may not see every database: GRANT SELECT ON *.* TO it, or name those to export (--database)",
        ));
    }
    let mut missing: Vec<String> = Vec::new();
    for database in databases {
        let lacking: Vec<&str> =
            RIGHTS.iter().filter(|right| !rights.within(database, right)).copied().collect();
        if !lacking.is_empty() {
            missing.push(format!("{} ON {}.*", lacking.join(", "), identifier(database)));
        }
    }
    // Bodies of routines (MySQL manual, "SHOW CREATE PROCEDURE").
    if !rights.globally("SELECT") && !rights.globally("SHOW_ROUTINE") {
        missing.push("SHOW_ROUTINE ON *.*".into());
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(TransferError::refused(format!(
        "the account lacks rights, without which views, triggers, routines or events would be missing in the dump: GRANT {} TO it",
        missing.join("; GRANT ")
    )))
}

/// Refuses a member that is not in the group, and tells when a replica would be the better one.
async fn sound(conn: &mut Conn, is_remote: bool) -> Result<(), TransferError> {
    match member(trivet_mysql::role(conn)).await {
        Ok(Ok(false)) => Ok(()),
        Ok(Ok(true)) => {
            let replica: Option<String> = member(conn.query_first(
                "SELECT member_host FROM performance_schema.replication_group_members \
                 WHERE member_role = 'SECONDARY' AND member_state = 'ONLINE' ORDER BY member_host LIMIT 1",
            ))
            .await?;
            if let Some(replica) = replica {
                eprintln!(
                    "trivet-transfer: this is the primary, which has the application's work to do; {replica} has a replica, where the command would disturb nobody"
                );
            }
            Ok(())
        }
        // An account of the application's may not see the group.
        Err(_) if is_remote => Ok(()),
        Err(e) => Err(e),
        Ok(Err(state)) => Err(TransferError::refused(format!(
            "this member is {state}: what it has may be old. Run the command on another node (trivet status)"
        ))),
    }
}

/// Beside its final name, and under it once it is whole.
async fn into_file(
    dump: &Dump<'_>,
    filter: &mut Filter,
    path: &Path,
    watcher: &Watcher,
) -> Result<(), TransferError> {
    let failed = |error| TransferError::File { what: path.display().to_string(), error };
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        // A pipe or a device has no whole.
        let mut to = tokio::fs::File::options().write(true).open(path).await.map_err(failed)?;
        dump.write(filter, &mut to, watcher).await?;
        return to.shutdown().await.map_err(failed);
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = NamedTempFile::new_in(folder).map_err(failed)?;
    let mut to = tokio::fs::File::from_std(temporary.reopen().map_err(failed)?);
    dump.write(filter, &mut to, watcher).await?;
    to.sync_all().await.map_err(failed)?;
    temporary.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(grants: &[&str], databases: &[&str], are_named: bool) -> Option<String> {
        let lines: Vec<String> = grants.iter().map(|g| (*g).to_owned()).collect();
        let databases: Vec<String> = databases.iter().map(|d| (*d).to_owned()).collect();
        may_read(&Rights::parse(&lines), &databases, are_named).err().map(|e| e.to_string())
    }

    #[test]
    fn an_account_that_does_not_see_everything_is_refused_with_what_it_lacks() {
        let all = "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO `u`@`%`";
        assert_eq!(refusal(&[all], &["shop"], false), None);
        assert_eq!(refusal(&["GRANT ALL PRIVILEGES ON *.* TO `u`@`%`"], &["shop"], false), None);
        let words = refusal(&["GRANT SELECT ON *.* TO `u`@`%`"], &["shop"], false).unwrap();
        assert!(
            words.contains("SHOW VIEW, TRIGGER, EVENT ON `shop`.*") && !words.contains("SHOW_ROUTINE"),
            "{words}"
        );
        let one = "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `shop`.* TO `u`@`%`";
        let words = refusal(&[one], &["shop"], true).unwrap();
        assert!(words.contains("GRANT SHOW_ROUTINE ON *.*") && !words.contains("`shop`"), "{words}");
        let routines = "GRANT SHOW_ROUTINE ON *.* TO `u`@`%`";
        assert_eq!(refusal(&[one, routines], &["shop"], true), None);
        let words = refusal(&[one, routines], &["shop"], false).unwrap();
        assert!(words.contains("--database"), "{words}");
        let words =
            refusal(&[all, "REVOKE TRIGGER ON `blog`.* FROM `u`@`%`"], &["blog", "shop"], false).unwrap();
        assert!(words.contains("GRANT TRIGGER ON `blog`.*") && !words.contains("`shop`"), "{words}");
    }
}
