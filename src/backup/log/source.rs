//! A member to stream from: one that is ONLINE, has all that is archived, and still has what follows.

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Opts, OptsBuilder, Sid, SslOpts};

use trivet_keeper_api::gtid::GtidSet;

use crate::config::{Member, Mysql};

/// Connecting to a member and asking it what it has.
const DEADLINE: Duration = Duration::from_secs(5);

/// A member says that it is alive so often, when it has nothing else to say.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A member of which no event came to its end for so long is left for another. A large one takes its time on the way.
pub const SILENCE: Duration = Duration::from_secs(30);

/// What a streaming client calls itself, far above the `server_id` of any member.
const FIRST_SERVER_ID: u32 = 4_000_000_000;

/// Why there is nothing to stream from.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// No member will do, and what is wrong with each.
    #[error("no member to stream the binary log from: {0}")]
    None(String),
    /// Everybody has purged what comes next.
    #[error(
        "no member has the binary log any more that follows what is archived: {missing} are missing from the backups for ever. Take a base \
         copy now (trivet backup now): from there on restores are possible again. Keep binary logs for longer (binlog_expire_logs_seconds)"
    )]
    Purged {
        /// What is lost to the archive.
        missing: GtidSet,
    },
}

/// A connection's account, its certificate authority and who is asked.
#[derive(Debug, Clone)]
pub struct Access {
    user: String,
    password: String,
    ca: PathBuf,
}

impl Access {
    /// Reads the password.
    pub fn new(mysql: &Mysql, password: String) -> Self {
        Self { user: mysql.user.clone(), password, ca: mysql.ca.clone() }
    }

    /// What a scratch server is told to copy a member. Holds the password; scratch servers log no statements.
    pub fn clone_statement(&self, donor: &Member, into: &std::path::Path) -> String {
        format!(
            "CLONE INSTANCE FROM '{}'@'{}':{} IDENTIFIED BY '{}' DATA DIRECTORY = '{}' REQUIRE SSL",
            quoted(&self.user),
            donor.address.ip(),
            donor.address.port(),
            quoted(&self.password),
            quoted(&into.display().to_string()),
        )
    }

    /// An option file (`--defaults-file`) for MySQL's own clients towards the gateway, the password in it.
    pub fn client_options(&self) -> String {
        let option = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "[client]\nuser=\"{}\"\npassword=\"{}\"\nssl-mode=VERIFY_CA\nssl-ca=\"{}\"\n",
            option(&self.user),
            option(&self.password),
            option(&self.ca.display().to_string())
        )
    }

    /// Options for one member, over TLS that is verified with the cluster's CA.
    pub fn opts(&self, host: &str, port: u16) -> Opts {
        self.opts_with(host, port, self.tls())
    }

    /// The same through the gateway, whose address is not in a member's certificate.
    pub fn gateway_opts(&self, host: &str, port: u16) -> Opts {
        self.opts_with(host, port, self.tls().with_danger_skip_domain_validation(true))
    }

    fn tls(&self) -> SslOpts {
        SslOpts::default().with_root_certs(vec![self.ca.clone().into()]).with_disable_built_in_roots(true)
    }

    fn opts_with(&self, host: &str, port: u16, tls: SslOpts) -> Opts {
        OptsBuilder::default()
            .ip_or_hostname(host.to_owned())
            .tcp_port(port)
            .user(Some(self.user.clone()))
            .pass(Some(self.password.clone()))
            .ssl_opts(tls)
            .prefer_socket(false)
            // A member sends events of up to a gigabyte, whatever its own max_allowed_packet is.
            .max_allowed_packet(Some(1 << 30))
            .into()
    }
}

/// The inside of a string literal.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// What a member says of itself.
struct Seen {
    executed: GtidSet,
    purged: GtidSet,
}

/// An open stream.
pub struct Source {
    /// The member's name.
    pub member: String,
    /// Everything it has committed when the stream was opened.
    pub executed: GtidSet,
    /// The events.
    pub stream: BinlogStream,
}

/// Opens a stream of what follows `archived`, from the first of `members` that will do. Without `archived`, from now on.
/// `number` tells apart those who stream at the same time (the node and the repository).
pub async fn open(
    access: &Access,
    members: &[Member],
    archived: Option<&GtidSet>,
    number: u32,
) -> Result<Source, SourceError> {
    let mut refused = Vec::new();
    let mut purged: Option<GtidSet> = None;
    for member in members {
        match tokio::time::timeout(DEADLINE, one(access, member, archived, number)).await {
            Ok(Ok(source)) => return Ok(source),
            Ok(Err(Unfit::Purged(missing))) => {
                refused.push(format!("{} has purged {missing}", member.name));
                // What the best of them lacks is what is lost.
                purged = Some(
                    purged.map_or(missing.clone(), |p| if p.count() < missing.count() { p } else { missing }),
                );
            }
            Ok(Err(Unfit::Other(why))) => {
                refused.push(format!("{}: {why}", member.name));
                // Whether this one still has it is not known.
                purged = None;
            }
            Err(_) => refused.push(format!("{} has not answered within {DEADLINE:?}", member.name)),
        }
    }
    match purged {
        Some(missing) if refused.iter().all(|r| r.contains("has purged")) => {
            Err(SourceError::Purged { missing })
        }
        _ => Err(SourceError::None(refused.join("; "))),
    }
}

enum Unfit {
    Purged(GtidSet),
    Other(String),
}

impl From<mysql_async::Error> for Unfit {
    fn from(e: mysql_async::Error) -> Self {
        Self::Other(e.to_string())
    }
}

async fn one(
    access: &Access,
    member: &Member,
    archived: Option<&GtidSet>,
    number: u32,
) -> Result<Source, Unfit> {
    let mut conn = Conn::new(access.opts(&member.address.ip().to_string(), member.address.port())).await?;
    let state: Option<String> = conn
        .query_first(
            "SELECT member_state FROM performance_schema.replication_group_members WHERE member_id = @@global.server_uuid",
        )
        .await?;
    match state.as_deref() {
        Some("ONLINE") => {}
        Some(state) => return Err(Unfit::Other(format!("it is {state}"))),
        None => return Err(Unfit::Other("it is in no group".into())),
    }
    let seen = look(&mut conn).await?;
    let archived = archived.unwrap_or(&seen.executed);
    if !archived.is_subset(&seen.executed) {
        return Err(Unfit::Other(format!(
            "it has not caught up: it lacks {}",
            archived.subtract(&seen.executed)
        )));
    }
    let missing = seen.purged.subtract(archived);
    if !missing.is_empty() {
        return Err(Unfit::Purged(missing));
    }
    // The names of both; the newer is looked at first. The length of a transaction counts the checksums.
    conn.query_drop(format!(
        "SET @source_heartbeat_period = {nanos}, @master_heartbeat_period = {nanos}, @source_binlog_checksum = 'CRC32'",
        nanos = HEARTBEAT.as_nanos()
    ))
    .await?;
    let request =
        BinlogStreamRequest::new(FIRST_SERVER_ID + number).with_gtid().with_gtid_set(sids(archived)?);
    let stream = conn.get_binlog_stream(request).await?;
    Ok(Source { member: member.name.clone(), executed: seen.executed, stream })
}

async fn look(conn: &mut Conn) -> Result<Seen, Unfit> {
    let row: Option<(String, String)> =
        conn.query_first("SELECT @@global.gtid_executed, @@global.gtid_purged").await?;
    let (executed, purged) = row.unwrap_or_default();
    let parse =
        |text: String| text.replace('\n', "").parse::<GtidSet>().map_err(|e| Unfit::Other(e.to_string()));
    Ok(Seen { executed: parse(executed)?, purged: parse(purged)? })
}

/// As the request takes them. It cannot name tags (mysql_common writes none, and would so claim others): what carries one comes again, and
/// is known by its number.
fn sids(set: &GtidSet) -> Result<Vec<Sid<'static>>, Unfit> {
    let mut sids = Vec::new();
    for (uuid, tag, intervals) in set.sources() {
        if tag.is_empty() {
            let intervals: String =
                intervals.iter().map(|(first, last)| format!(":{first}-{last}")).collect();
            sids.push(format!("{uuid}{intervals}").parse().map_err(|e| Unfit::Other(format!("{e}")))?);
        }
    }
    Ok(sids)
}
