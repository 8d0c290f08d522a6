//! Which repositories belong to this history of the cluster: a table of the group itself, `trivet_cluster.repository`.
//!
//! A group that is formed anew, from a restore or from empty servers, has none of the rows of the one before, whatever its name and its
//! key. So it never writes to what that one has kept. A row is there before the repository is: storage that is empty, although there is
//! a row for it, is not mounted, or is another node's own folder.

#[cfg(test)]
mod tests;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use crate::cluster::WORK_LEASE;
use crate::repository::RepositoryError;

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
