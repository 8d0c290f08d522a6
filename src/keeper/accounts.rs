//! The accounts of the group: who they are, and the statements that make or correct them.
//!
//! They are made on the primary as ordinary replicated transactions. Only the replication account must be there earlier:
//! the first member makes it for itself, without a GTID, and all others get it by the clone that fills them.
//!
//! A hash of the password that was set is kept in the account's ATTRIBUTE, so a keeper that has just become the primary's
//! sees from the table alone whether the password files have changed, and writes nothing when they have not.

use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

use super::config::Mysql;
use super::credentials::Credentials;
use super::sql::{Sql, SqlError, quote};

/// Changes when the grants below change, so that they are granted anew.
const GRANTS_VERSION: &str = "1";

/// A statement that defines an account; it may wait for the group's consent.
const DEADLINE: Duration = Duration::from_secs(20);

struct Account<'a> {
    user: &'a str,
    host: &'static str,
    identity: Identity<'a>,
    require: &'static str,
    grants: Vec<String>,
}

enum Identity<'a> {
    Password(&'a str),
    /// `auth_socket` for this unix user.
    Socket(&'a str),
}

fn replication<'a>(mysql: &'a Mysql, credentials: &'a Credentials) -> Account<'a> {
    Account {
        user: &mysql.replication_user,
        host: "%",
        identity: Identity::Password(&credentials.replication),
        require: "REQUIRE SSL",
        grants: vec![
            "REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.*".into(),
        ],
    }
}

fn app<'a>(mysql: &'a Mysql, credentials: &'a Credentials) -> Account<'a> {
    // In a GRANT, `_` and `%` in a database name are wildcards.
    let database = mysql.app_database.replace('_', "\\_");
    Account {
        user: &mysql.app_user,
        host: "%",
        identity: Identity::Password(&credentials.app),
        require: "REQUIRE SSL",
        grants: vec![format!("ALL PRIVILEGES ON `{database}`.*")],
    }
}

fn exporter<'a>(mysql: &'a Mysql, credentials: &'a Credentials) -> Option<Account<'a>> {
    Some(Account {
        user: mysql.exporter_user.as_deref()?,
        host: "localhost",
        identity: match &credentials.exporter {
            Some(password) => Identity::Password(password),
            None => Identity::Socket(&mysql.exporter_unix_user),
        },
        // At localhost it comes through the unix socket.
        require: "REQUIRE NONE",
        grants: vec!["PROCESS, REPLICATION CLIENT ON *.*".into(), "SELECT ON performance_schema.*".into()],
    })
}

/// Copies and streams everything, reads everything for dumps, and writes leases and databases of restored tables.
fn backup<'a>(mysql: &'a Mysql, credentials: &'a Credentials) -> Option<Account<'a>> {
    Some(Account {
        user: mysql.backup_user.as_deref()?,
        host: "%",
        identity: Identity::Password(credentials.backup.as_deref()?),
        require: "REQUIRE SSL",
        grants: vec![
            "REPLICATION SLAVE, REPLICATION CLIENT, PROCESS, RELOAD, SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON *.*".into(),
            "BACKUP_ADMIN ON *.*".into(),
            "SELECT, INSERT, UPDATE ON trivet_cluster.lease".into(),
            "SELECT, INSERT, UPDATE ON trivet_cluster.repository".into(),
            "ALL PRIVILEGES ON `trivet\\_restored\\_%`.*".into(),
        ],
    })
}

/// What the group holds for Trivet's own programs: who does a work of which there must be one (trivet-lease), which repositories of
/// backups are of this group, and what it went on with when it was bootstrapped by force (trivet-backup).
const CLUSTER_TABLES: [(&str, &str); 3] = [
    ("fork", "mark CHAR(36) NOT NULL PRIMARY KEY, gtids MEDIUMTEXT NOT NULL"),
    (
        "lease",
        "name VARCHAR(64) NOT NULL PRIMARY KEY, holder VARCHAR(128) NOT NULL, token BIGINT UNSIGNED NOT NULL, \
         expires DATETIME(6) NOT NULL, work VARCHAR(255) NOT NULL",
    ),
    (
        "repository",
        "id CHAR(36) NOT NULL PRIMARY KEY, name VARCHAR(64) NOT NULL, location VARCHAR(1024) NOT NULL, made TIMESTAMP NULL",
    ),
];

/// Makes the replication account for this member alone, before the group exists; no GTID comes of it.
pub async fn ensure_replication_locally(
    sql: &mut Sql,
    mysql: &Mysql,
    credentials: &Credentials,
) -> Result<(), SqlError> {
    sql.run("SET SESSION sql_log_bin = 0; SET GLOBAL super_read_only = OFF", DEADLINE).await?;
    let outcome = ensure(sql, &replication(mysql, credentials)).await;
    sql.run("SET GLOBAL super_read_only = ON; SET SESSION sql_log_bin = 1", DEADLINE).await?;
    outcome.map(drop)
}

/// Makes or corrects everything, on the primary. Returns what was changed.
pub async fn ensure_all(
    sql: &mut Sql,
    mysql: &Mysql,
    credentials: &Credentials,
) -> Result<Vec<String>, SqlError> {
    let mut changed = Vec::new();
    let database = &mysql.app_database;
    let query = format!(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name = {}",
        quote(database)
    );
    if sql.text(&query, DEADLINE).await?.is_none() {
        let create = format!("CREATE DATABASE IF NOT EXISTS `{database}` CHARACTER SET utf8mb4");
        sql.run(&create, DEADLINE).await?;
        changed.push(format!("database {database} made"));
    }
    if mysql.backup_user.is_some() {
        changed.extend(ensure_cluster_tables(sql).await?);
    }
    let accounts = [
        Some(replication(mysql, credentials)),
        Some(app(mysql, credentials)),
        exporter(mysql, credentials),
        backup(mysql, credentials),
    ];
    for account in accounts.into_iter().flatten() {
        changed.extend(ensure(sql, &account).await?);
    }
    Ok(changed)
}

/// Makes [`CLUSTER_TABLES`] that are missing. Returns what was made.
pub async fn ensure_cluster_tables(sql: &mut Sql) -> Result<Vec<String>, SqlError> {
    let mut made = Vec::new();
    for (table, columns) in CLUSTER_TABLES {
        let query = format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'trivet_cluster' AND table_name = '{table}'"
        );
        if sql.text(&query, DEADLINE).await?.is_none() {
            sql.run("CREATE DATABASE IF NOT EXISTS trivet_cluster CHARACTER SET utf8mb4", DEADLINE).await?;
            let create =
                format!("CREATE TABLE IF NOT EXISTS trivet_cluster.{table} ({columns}) ENGINE=InnoDB");
            sql.run(&create, DEADLINE).await?;
            made.push(format!("table trivet_cluster.{table} made"));
        }
    }
    Ok(made)
}

async fn ensure(sql: &mut Sql, account: &Account<'_>) -> Result<Option<String>, SqlError> {
    let name = format!("{}@{}", quote(account.user), quote(account.host));
    let mark = format!(
        "SELECT COALESCE(JSON_UNQUOTE(JSON_EXTRACT(attribute, '$.trivet')), '') \
         FROM information_schema.user_attributes WHERE user = {} AND host = {}",
        quote(account.user),
        quote(account.host)
    );
    let found = sql.text(&mark, DEADLINE).await?;
    if found.as_deref().is_some_and(|mark| is_current(mark, account)) {
        return Ok(None);
    }
    let attribute = serde_json::json!({ "trivet": new_mark(account)? }).to_string();
    let tail = format!("{} ATTRIBUTE {}", account.require, quote(&attribute));
    let (statement, done) = match (&found, &account.identity) {
        (None, identity) => {
            (format!("CREATE USER IF NOT EXISTS {name} {} {tail}", identified(identity)), "made")
        }
        // The old password stays valid beside the new one: the other programs read their files a moment later.
        (Some(mark), identity @ Identity::Password(_)) if mark.contains("$argon2") => (
            format!("ALTER USER {name} {} RETAIN CURRENT PASSWORD {tail}", altered(identity)),
            "password changed",
        ),
        (Some(_), identity) => (format!("ALTER USER {name} {} {tail}", identified(identity)), "corrected"),
    };
    sql.run(&statement, DEADLINE).await?;
    for grant in &account.grants {
        sql.run(&format!("GRANT {grant} TO {name}"), DEADLINE).await?;
    }
    Ok(Some(format!("account {}@{} {done}", account.user, account.host)))
}

fn identified(identity: &Identity<'_>) -> String {
    match identity {
        Identity::Password(p) => format!("IDENTIFIED WITH caching_sha2_password BY {}", quote(p)),
        Identity::Socket(unix) => format!("IDENTIFIED WITH auth_socket AS {}", quote(unix)),
    }
}

/// RETAIN CURRENT PASSWORD goes with a plugin that does not change, which is not named again.
fn altered(identity: &Identity<'_>) -> String {
    match identity {
        Identity::Password(p) => format!("IDENTIFIED BY {}", quote(p)),
        socket => identified(socket),
    }
}

fn new_mark(account: &Account<'_>) -> Result<String, SqlError> {
    let secret = match account.identity {
        Identity::Password(p) => Argon2::default()
            .hash_password(p.as_bytes())
            .map_err(|e| SqlError::Refused(format!("the password cannot be hashed: {e}")))?
            .to_string(),
        Identity::Socket(unix) => format!("socket:{unix}"),
    };
    Ok(format!("{GRANTS_VERSION} {secret}"))
}

fn is_current(mark: &str, account: &Account<'_>) -> bool {
    let Some((version, secret)) = mark.split_once(' ') else { return false };
    version == GRANTS_VERSION
        && match account.identity {
            Identity::Password(p) => PasswordHash::new(secret)
                .is_ok_and(|hash| Argon2::default().verify_password(p.as_bytes(), &hash).is_ok()),
            Identity::Socket(unix) => secret == format!("socket:{unix}"),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account<'a>(identity: Identity<'a>) -> Account<'a> {
        Account { user: "u", host: "%", identity, require: "REQUIRE SSL", grants: Vec::new() }
    }

    #[test]
    fn a_mark_tells_whether_the_password_is_the_one_that_was_set() {
        let mark = new_mark(&account(Identity::Password("secret"))).unwrap();
        assert!(!mark.contains("secret"));
        assert!(is_current(&mark, &account(Identity::Password("secret"))));
        assert!(!is_current(&mark, &account(Identity::Password("other"))));
        assert!(!is_current(&mark, &account(Identity::Socket("secret"))));
        assert!(
            !is_current(&mark.replacen('1', "0", 1), &account(Identity::Password("secret"))),
            "other grants"
        );
        assert!(!is_current("", &account(Identity::Password("secret"))));
    }

    #[test]
    fn a_socket_account_is_bound_to_its_unix_user() {
        let mark = new_mark(&account(Identity::Socket("mysqld-exporter"))).unwrap();
        assert!(is_current(&mark, &account(Identity::Socket("mysqld-exporter"))));
        assert!(!is_current(&mark, &account(Identity::Socket("root"))));
    }

    #[test]
    fn wildcards_in_the_database_name_are_taken_literally() {
        let mysql: Mysql = toml::from_str(
            "replication_password_file = '/r'\napp_password_file = '/a'\napp_database = 'my_site'",
        )
        .unwrap();
        let credentials =
            Credentials { replication: "r".into(), app: "a".into(), exporter: None, backup: None };
        assert_eq!(app(&mysql, &credentials).grants, ["ALL PRIVILEGES ON `my\\_site`.*"]);
    }
}
