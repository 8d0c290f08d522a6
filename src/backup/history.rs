//! Which repositories belong to this history of the cluster: a table of the group itself, `trivet_cluster.repository`.
//!
//! A group that is formed anew, from a restore or from empty servers, has none of the rows of the one before, whatever its name and its
//! key. So it never writes to what that one has kept. A row is there before the repository is: storage that is empty, although there is
//! a row for it, is not mounted, or is another node's own folder.
//!
//! A group that was bootstrapped by force goes on with the same table, without transactions that a repository may already have, and uses
//! their numbers anew. The keeper writes down what the group went on with (`trivet_cluster.fork`).

#[cfg(test)]
mod tests;

use std::fmt::Display;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use trivet_keeper_api::gtid::GtidSet;

use crate::cluster::WORK_LEASE;
use crate::repository::RepositoryError;
use crate::sql::{Access, DEADLINE};
use crate::storage::Storage;

/// "Table doesn't exist" (MySQL error reference, `ER_NO_SUCH_TABLE`).
const NO_SUCH_TABLE: u16 = 1146;

/// One bootstrap by force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The transaction that wrote this down is `mark:1`: a set that has it is from after the bootstrap.
    pub mark: String,
    /// What the group went on with.
    pub gtids: GtidSet,
}

/// All bootstraps by force that the group knows of.
pub async fn forks(conn: &mut Conn) -> Result<Vec<Fork>, Error> {
    let rows: Result<Vec<(String, String)>, Error> =
        conn.query("SELECT mark, gtids FROM trivet_cluster.fork").await;
    let rows = match rows {
        // A keeper that knows of the table makes it before it writes to it.
        Err(Error::Server(e)) if e.code == NO_SUCH_TABLE => return Ok(Vec::new()),
        rows => rows?,
    };
    let fork = |(mark, gtids): (String, String)| {
        Ok::<_, Error>(Fork { mark, gtids: gtids.parse().map_err(|e| Error::Other(Box::new(e)))? })
    };
    rows.into_iter().map(fork).collect()
}

/// What of these transactions, which a base copy or the log in a repository has, the group gave up.
pub fn given_up(has: &GtidSet, forks: &[Fork]) -> GtidSet {
    let from_before = forks.iter().filter(|fork| !has.contains(&fork.mark, "", 1));
    from_before.fold(GtidSet::default(), |sum, fork| sum.union(&has.subtract(&fork.gtids)))
}

/// Refuses a repository of which a base copy or the log has what the group gave up. `name` and `place` are for messages.
pub fn unbroken<'a>(
    name: &str,
    place: &str,
    has: impl IntoIterator<Item = &'a GtidSet>,
    forks: &[Fork],
) -> Result<(), RepositoryError> {
    match has.into_iter().map(|has| given_up(has, forks)).find(|given_up| !given_up.is_empty()) {
        None => Ok(()),
        Some(given_up) => Err(RepositoryError::GivenUp { place: place.into(), name: name.into(), given_up }),
    }
}

/// The primary, which has the tables.
pub async fn primary(access: &Access, storage: &Storage) -> Result<Conn, RepositoryError> {
    match tokio::time::timeout(DEADLINE, access.primary()).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(e)) => Err(unknown(storage, &e)),
        Err(_) => Err(unknown(storage, &format_args!("the primary has not answered within {DEADLINE:?}"))),
    }
}

/// The primary's trouble with a question.
pub fn unknown(storage: &Storage, reason: &dyn Display) -> RepositoryError {
    RepositoryError::Unknown { place: storage.place().into(), reason: reason.to_string() }
}

/// Asks whether the repository with this id still belongs to the group, and for [`forks`].
pub async fn ask(
    access: &Access,
    name: &str,
    storage: &Storage,
    id: &str,
) -> Result<Vec<Fork>, RepositoryError> {
    let mut conn = primary(access, storage).await?;
    let asked = tokio::time::timeout(DEADLINE, async {
        Ok::<_, Error>((known(&mut conn).await?, forks(&mut conn).await?))
    });
    let (known, forks) = match asked.await {
        Ok(answer) => answer.map_err(|e| unknown(storage, &e))?,
        Err(_) => {
            return Err(unknown(storage, &format_args!("the primary has not answered within {DEADLINE:?}")));
        }
    };
    standing(name, storage.place(), storage.location(), Some(id), &known)?;
    Ok(forks)
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The repository's id, as in its `trivet.json`.
    pub id: String,
    /// Where it was made ([`Storage::location`](crate::storage::Storage::location)).
    pub location: String,
    /// Its `trivet.json` was written.
    pub is_made: bool,
}

/// What a repository is to this group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It may be written to.
    Ours,
    /// There never was one in that place.
    New,
    /// It was begun under this id, and its `trivet.json` was not written.
    Begun(String),
}

/// All rows, from the primary.
pub async fn known(conn: &mut Conn) -> Result<Vec<Known>, Error> {
    let rows: Vec<(String, String, bool)> =
        conn.query("SELECT id, location, made IS NOT NULL FROM trivet_cluster.repository").await?;
    Ok(rows.into_iter().map(|(id, location, is_made)| Known { id, location, is_made }).collect())
}

/// What the repository at `location` is to the group that has these rows. `id` is that of its `trivet.json`, `None` without one; `name` and
/// `place` are for messages.
pub fn standing(
    name: &str,
    place: &str,
    location: &str,
    id: Option<&str>,
    known: &[Known],
) -> Result<Standing, RepositoryError> {
    let (name, place) = (name.to_owned(), place.to_owned());
    match id {
        Some(id) if known.iter().any(|k| k.id == id) => Ok(Standing::Ours),
        Some(_) => Err(RepositoryError::OtherHistory { place, name }),
        None => match known.iter().find(|k| k.location == location) {
            None => Ok(Standing::New),
            Some(row) if row.is_made => Err(RepositoryError::Vanished { place, id: row.id.clone() }),
            Some(row) => Ok(Standing::Begun(row.id.clone())),
        },
    }
}

/// Adds a row for a new repository, and returns its id. `None`: the lease that `token` is for is another's by now, or another has added
/// one for that place.
pub async fn begin(conn: &mut Conn, name: &str, location: &str, token: u64) -> Result<Option<String>, Error> {
    let id: Option<String> = conn.query_first("SELECT UUID()").await?;
    let id = id.unwrap_or_default();
    conn.exec_drop(
        "INSERT INTO trivet_cluster.repository (id, name, location) \
         SELECT ?, ?, ? FROM trivet_cluster.lease WHERE name = ? AND token = ? AND expires > UTC_TIMESTAMP(6) \
         AND NOT EXISTS (SELECT 1 FROM trivet_cluster.repository AS there WHERE there.location = ?)",
        (&id, name, location, WORK_LEASE, token, location),
    )
    .await?;
    Ok((conn.affected_rows() == 1).then_some(id))
}

/// Its `trivet.json` was written.
pub async fn made(conn: &mut Conn, id: &str) -> Result<(), Error> {
    conn.exec_drop(
        "UPDATE trivet_cluster.repository SET made = CURRENT_TIMESTAMP WHERE id = ? AND made IS NULL",
        (id,),
    )
    .await
}
