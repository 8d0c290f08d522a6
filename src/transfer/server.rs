//! The two servers: the source, which is reached over the network, and this node's member of the cluster, over its socket.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, SslOpts};
use tempfile::NamedTempFile;
use tokio::time::timeout;

use trivet_mysql::escaped;
use trivet_tls::private;

use crate::cli::Member;
use crate::error::{TransferError, member, source};
use crate::locks;

/// What a server sends at most in one piece, whatever its own max_allowed_packet is: the protocol's limit.
const PACKET: usize = 1 << 30;

/// A longer one cannot be given to START REPLICA (MySQL manual, "CHANGE REPLICATION SOURCE TO", SOURCE_PASSWORD).
const CHANNEL_PASSWORD: usize = 32;

/// A server that is reached over the network.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The CA of its certificate; without one whom TLS leads to is not verified.
    pub ca: Option<PathBuf>,
    /// Without TLS.
    pub plain: bool,
}

/// What a URL names: the server without its password, and the databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The account.
    pub user: String,
    /// Those that it names; empty for all.
    pub databases: Vec<String>,
}

impl Url {
    /// Reads `mysql://USER@HOST[:PORT]/[DATABASE,…]`.
    pub fn parse(text: &str) -> Result<Self, TransferError> {
        let wrong = |why: &str| {
            TransferError::refused(format!("--from: {why}: write mysql://USER@HOST[:PORT]/[DATABASE,…]"))
        };
        let opts = Opts::from_url(text).map_err(|e| wrong(&e.to_string()))?;
        if opts.pass().is_some_and(|p| !p.is_empty()) {
            return Err(wrong(
                "a password on the command line is seen by all users of this machine; use --password-file",
            ));
        }
        let user = opts.user().filter(|u| !u.is_empty()).ok_or_else(|| wrong("names no user"))?.to_owned();
        let databases = opts.db_name().unwrap_or_default().split(',').filter(|d| !d.is_empty());
        Ok(Self {
            host: opts.ip_or_hostname().to_owned(),
            port: opts.tcp_port(),
            user,
            databases: databases.map(str::to_owned).collect(),
        })
    }
}

/// Copies take hours, in which a connection may have nothing to say; and backslashes in strings are what [`literal`] takes them for.
fn session() -> Vec<String> {
    vec![format!(
        "SET SESSION wait_timeout = 31536000, SESSION lock_wait_timeout = {}, SESSION sql_mode = ''",
        locks::LIMIT
    )]
}

/// A server that can be reached answers in less.
const CONNECTED: Duration = Duration::from_secs(30);

impl Remote {
    /// The server of a URL, with the password that a file holds.
    pub fn new(url: &Url, password: &Path, ca: Option<PathBuf>, plain: bool) -> Result<Self, TransferError> {
        let password = private::password(password).map_err(|e| TransferError::refused(e.to_string()))?;
        if password.len() > CHANNEL_PASSWORD {
            return Err(TransferError::refused(format!(
                "the password has {} octets, and a replication channel takes {CHANNEL_PASSWORD} at most: give the account a shorter one",
                password.len()
            )));
        }
        if let Some(ca) = &ca
            && !ca.is_absolute()
        {
            return Err(TransferError::refused(format!(
                "--source-ca {}: write an absolute path, mysqld reads it too",
                ca.display()
            )));
        }
        Ok(Self { host: url.host.clone(), port: url.port, user: url.user.clone(), password, ca, plain })
    }

    /// `host:port`, for people.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// A connection.
    pub async fn connect(&self) -> Result<Conn, TransferError> {
        let mut opts = OptsBuilder::default()
            .ip_or_hostname(self.host.clone())
            .tcp_port(self.port)
            .user(Some(self.user.clone()))
            .pass(Some(self.password.clone()))
            .prefer_socket(false)
            .stmt_cache_size(0)
            .tcp_keepalive(Some(Duration::from_mins(1)))
            .setup(session())
            .max_allowed_packet(Some(PACKET));
        if !self.plain {
            let tls = match &self.ca {
                Some(ca) => SslOpts::default()
                    .with_root_certs(vec![ca.clone().into()])
                    .with_disable_built_in_roots(true)
                    // As VERIFY_CA of MySQL's own clients: its certificates seldom name their host.
                    .with_danger_skip_domain_validation(true),
                None => SslOpts::default()
                    .with_danger_accept_invalid_certs(true)
                    .with_danger_skip_domain_validation(true),
            };
            opts = opts.ssl_opts(tls);
        }
        let Ok(connected) = timeout(CONNECTED, Conn::new(opts)).await else {
            return Err(TransferError::refused(format!(
                "{} has not answered within {} s: a firewall may be in the way",
                self.place(),
                CONNECTED.as_secs()
            )));
        };
        match connected {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
                Err(TransferError::refused(format!(
                    "{} offers no TLS; give it certificates, or say --without-tls when nobody can listen on the way",
                    self.place()
                )))
            }
            connected => source(std::future::ready(connected)).await,
        }
    }

    /// An option file (`--defaults-file`) for MySQL's own programs, the password in it; for this user alone, and gone when it is dropped.
    pub fn option_file(&self) -> Result<NamedTempFile, TransferError> {
        let mode = match (&self.ca, self.plain) {
            (_, true) => "ssl-mode=DISABLED\nloose-get-server-public-key\n".to_owned(),
            (Some(ca), false) => {
                format!("ssl-mode=VERIFY_CA\nssl-ca=\"{}\"\n", escaped(&ca.display().to_string(), '"'))
            }
            (None, false) => "ssl-mode=REQUIRED\n".to_owned(),
        };
        option_file(&format!(
            "[client]\nprotocol=TCP\nhost=\"{}\"\nport={}\nuser=\"{}\"\npassword=\"{}\"\n{mode}",
            escaped(&self.host, '"'),
            self.port,
            escaped(&self.user, '"'),
            escaped(&self.password, '"'),
        ))
    }
}

fn option_file(text: &str) -> Result<NamedTempFile, TransferError> {
    let failed = |error| TransferError::File { what: "the options for MySQL's programs".into(), error };
    let mut file = NamedTempFile::new().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(file)
}

impl Member {
    /// A connection to this node's member.
    pub async fn connect(&self) -> Result<Conn, TransferError> {
        let opts = OptsBuilder::default()
            .socket(Some(self.socket.display().to_string()))
            .user(Some(self.user.clone()))
            .stmt_cache_size(0)
            .setup(session());
        member(Conn::new(opts)).await
    }

    /// A connection to this node's member, which must be the primary.
    pub async fn primary(&self) -> Result<Conn, TransferError> {
        let mut conn = self.connect().await?;
        match member(trivet_mysql::role(&mut conn)).await? {
            Ok(true) => Ok(conn),
            Ok(false) => {
                let primary: Option<String> = member(conn.query_first(
                    "SELECT CONCAT(member_host, ':', member_port) FROM performance_schema.replication_group_members \
                     WHERE member_role = 'PRIMARY'",
                ))
                .await?;
                Err(TransferError::refused(format!(
                    "this node's member is a replica; run the command on the primary's node ({})",
                    primary.unwrap_or_else(|| "which the group does not have now".into())
                )))
            }
            Err(state) => Err(TransferError::refused(format!(
                "this node's member is {state}; run the command on the primary's node (trivet status)"
            ))),
        }
    }

    /// An option file for MySQL's own programs.
    pub fn option_file(&self) -> Result<NamedTempFile, TransferError> {
        option_file(&format!(
            "[client]\nprotocol=SOCKET\nsocket=\"{}\"\nuser=\"{}\"\n",
            escaped(&self.socket.display().to_string(), '"'),
            escaped(&self.user, '"')
        ))
    }

    /// A program of MySQL's.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.as_ref().map_or_else(|| name.into(), |folder| folder.join(name))
    }
}

/// A string in a statement.
pub fn literal(text: &str) -> String {
    format!("'{}'", escaped(text, '\''))
}

/// Strings in a statement, `'a', 'b'`.
pub fn literals(texts: &[String]) -> String {
    texts.iter().map(|t| literal(t)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_account_and_databases() {
        let url = Url::parse("mysql://mover@db.example.org:3307/shop,blog").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.user.as_str()), ("db.example.org", 3307, "mover"));
        assert_eq!(url.databases, ["shop", "blog"]);
        let url = Url::parse("mysql://a%40b@10.0.0.1").unwrap();
        assert_eq!((url.user.as_str(), url.port), ("a@b", 3306));
        assert!(url.databases.is_empty());
    }

    #[test]
    fn a_url_with_a_password_or_without_a_user_is_refused() {
        for (text, word) in [
            ("mysql://mover:secret@db/shop", "--password-file"),
            ("mysql://db/shop", "names no user"),
            ("postgres://u@db/shop", "write mysql://"),
        ] {
            let said = Url::parse(text).unwrap_err().to_string();
            assert!(said.contains(word), "{text}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
