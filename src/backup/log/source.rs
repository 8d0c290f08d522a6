//! A member to stream from: one that is ONLINE, has all that is archived, and still has what follows.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Sid};

use trivet_keeper_api::gtid::GtidSet;

use crate::config::Member;
use crate::sql::{self, Access, DEADLINE};

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
/// `number` tells apart those who stream at the same time (the node and the repository). One that lacks something of `expected` lags, and is
/// taken only when all do.
pub async fn open(
    access: &Access,
    members: &[Member],
    archived: Option<&GtidSet>,
    expected: &GtidSet,
    number: u32,
) -> Result<Source, SourceError> {
    let mut refused = Vec::new();
    let mut purged = Vec::new();
    let mut lags = None;
    for member in members {
        match tokio::time::timeout(DEADLINE, one(access, member, archived, number)).await {
            Ok(Ok(source)) if expected.is_subset(&source.executed) => return Ok(source),
            Ok(Ok(source)) => {
                lags.get_or_insert(source);
            }
            Ok(Err(Unfit::Purged(missing))) => {
                refused.push(format!("{} has purged {missing}", member.name));
                purged.push(missing);
            }
            Ok(Err(Unfit::Other(why))) => refused.push(format!("{}: {why}", member.name)),
            Err(_) => refused.push(format!("{} has not answered within {DEADLINE:?}", member.name)),
        }
    }
    if let Some(source) = lags {
        return Ok(source);
    }
    // Of one that was not heard it is not known; what the best of them lacks is what is lost.
    let is_lost = purged.len() == members.len();
    match purged.into_iter().min_by_key(GtidSet::count).filter(|_| is_lost) {
        Some(missing) => Err(SourceError::Purged { missing }),
        None => Err(SourceError::None(refused.join("; "))),
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
    let mut conn = access.member(member).await?;
    sql::role(&mut conn).await?.map_err(|state| Unfit::Other(format!("it is {state}")))?;
    let executed = sql::executed(&mut conn).await?;
    let archived = archived.unwrap_or(&executed);
    if !archived.is_subset(&executed) {
        let lacks = archived.subtract(&executed);
        return Err(Unfit::Other(format!("it has not caught up: it lacks {lacks}")));
    }
    let missing = sql::purged(&mut conn).await?.subtract(archived);
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
    Ok(Source { member: member.name.clone(), executed, stream })
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
