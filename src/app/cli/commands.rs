//! The administration commands. They work through the write gateway like the site itself.

use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

use super::User;
use crate::auth::hash_password;
use crate::config::Config;
use crate::db::{Db, DbError, Freshness};
use crate::store::articles::Imported;
use crate::store::idempotency::Keyed;
use crate::store::users::{Add, All, SetPassword};
use crate::text::rules;
use crate::{health, import as importing};
use trivet_base::process::Failure;

/// How long a command waits for a primary, so that it may be run right after a cluster was started.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

async fn connect(file: &Path, config: &Config) -> Result<Db, Failure> {
    let db = Db::new(config.database.connect_options(file)?, config.database.clone());
    let start = Instant::now();
    let mut told = false;
    loop {
        let reason = match health::prepare(&db).await {
            Ok(_) => return Ok(db),
            Err(reason) => reason,
        };
        if start.elapsed() >= PATIENCE {
            return Err(Failure::run(format_args!("the database cannot be used: {reason}")));
        }
        if !told {
            eprintln!("{}: waiting for the database: {reason}", super::NAME);
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn failed(e: DbError) -> Failure {
    Failure::run(e)
}

pub(super) async fn migrate(file: &Path, config: &Config) -> Result<(), Failure> {
    connect(file, config).await?;
    println!("the database's schema is current");
    Ok(())
}

pub(super) async fn import(
    file: &Path,
    config: &Config,
    folder: &Path,
    dry_run: bool,
) -> Result<(), Failure> {
    // Mistakes in files are reported without a database.
    let entries = importing::read_folder(folder).map_err(|e| {
        let count = match &e {
            importing::Error::Mistakes(all) => all.len(),
            _ => return Failure::run(e),
        };
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        Failure::run(format_args!("nothing was imported, {count} {noun}:\n{e}"))
    })?;
    if dry_run {
        println!("{} files are good; nothing was written", entries.len());
        return Ok(());
    }
    let db = connect(file, config).await?;
    let done = importing::write(&db, &entries).await.map_err(Failure::run)?;
    for (entry, outcome) in entries.iter().zip(&done) {
        let word = match outcome {
            Imported::Created => "created",
            Imported::Updated => "updated",
            Imported::Unchanged => "unchanged",
        };
        println!("{word:9} /articles/{}", entry.slug);
    }
    let count = |wanted| done.iter().filter(|o| **o == wanted).count();
    println!(
        "{} created, {} updated, {} unchanged",
        count(Imported::Created),
        count(Imported::Updated),
        count(Imported::Unchanged)
    );
    Ok(())
}

pub(super) async fn user(file: &Path, config: &Config, user: User) -> Result<(), Failure> {
    match user {
        User::Add { name, editor, password_file } => {
            rules::name_is_good(&name).map_err(Failure::run)?;
            let password_hash = read_password(password_file.as_deref())?;
            let db = connect(file, config).await?;
            let add = Add { name: &name, password_hash: &password_hash, editor };
            if !db.write(&Keyed::new(&add)).await.map_err(failed)?.value {
                return Err(Failure::run(format_args!(
                    "there is an account {name} already; `user password {name}` sets its password"
                )));
            }
            println!("{name} can sign in");
        }
        User::Password { name, password_file } => {
            let password_hash = read_password(password_file.as_deref())?;
            let db = connect(file, config).await?;
            let set = SetPassword { name: &name, password_hash: &password_hash };
            if !db.write(&set).await.map_err(failed)?.value {
                return Err(Failure::run(format_args!("there is no account {name}")));
            }
            println!("{name} has a new password; its sessions are over");
        }
        User::List => {
            let db = connect(file, config).await?;
            for (name, can_sign_in, editor) in db.read(&Freshness::Primary, &All).await.map_err(failed)? {
                let sign_in = if can_sign_in { "can sign in" } else { "no password" };
                println!("{name:40} {sign_in}{}", if editor { ", editor" } else { "" });
            }
        }
    }
    Ok(())
}

/// The hash of the first line of a file or of standard input.
fn read_password(file: Option<&Path>) -> Result<String, Failure> {
    let mut line = String::new();
    match file {
        Some(path) => {
            let unreadable = |e| Failure::run(format_args!("{}: cannot be read: {e}", path.display()));
            let reader = std::fs::File::open(path).map_err(unreadable)?;
            std::io::BufReader::new(reader.take(64 * 1024)).read_line(&mut line).map_err(unreadable)?;
        }
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                eprint!("password (it will be shown): ");
            }
            stdin
                .lock()
                .read_line(&mut line)
                .map_err(|e| Failure::run(format_args!("standard input: {e}")))?;
        }
    }
    let password = line.trim_end_matches(['\r', '\n']);
    if password.chars().count() < rules::PASSWORD {
        return Err(Failure::run(format_args!(
            "the password is shorter than {} characters",
            rules::PASSWORD
        )));
    }
    hash_password(password.as_bytes()).map_err(Failure::run)
}
