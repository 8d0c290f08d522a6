//! What the keeper remembers on disk: that the group was formed, and who was in it last.
//!
//! It guards one thing: a group that had data must not be founded anew from empty members. The data itself is the
//! better witness (its GTIDs carry the group's name); the record speaks where the data is gone.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::report::{MemberState, Observation, Record};
use trivet_keeper_api::gtid::GtidSet;

/// The record file of one keeper.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    record: Record,
}

impl RecordFile {
    /// Reads `group.json` in `directory`, making the directory when it is absent. A file about another group is an
    /// error: the node was used for something else before.
    pub fn open(directory: &Path, group_name: &str) -> Result<Self, String> {
        std::fs::create_dir_all(directory).map_err(|e| format!("cannot be made: {e}"))?;
        let path = directory.join("group.json");
        let record = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Record>(&bytes).map_err(|e| {
                format!("{} is damaged ({e}); delete it when this node's mysqld has its data", path.display())
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Record { group_name: group_name.to_owned(), ..Record::default() }
            }
            Err(e) => return Err(format!("{} cannot be read: {e}", path.display())),
        };
        if record.group_name != group_name {
            return Err(format!(
                "{} is about group {}, not {group_name}; delete it when this node was moved to a new cluster",
                path.display(),
                record.group_name
            ));
        }
        // Now rather than in the hour of need.
        write(&path, &record).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        Ok(Self { path, record })
    }

    /// What is remembered.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Takes note of a healthy member's view; true when that changed the record.
    pub async fn note(&mut self, seen: &Observation) -> io::Result<bool> {
        let next = noted(&self.record, seen);
        if next == self.record {
            return Ok(false);
        }
        self.replace(next).await?;
        Ok(true)
    }

    /// Takes note of bootstraps by force that another keeper remembers; true when there were any that this one did not.
    pub async fn adopt_forks(&mut self, forks: &[GtidSet]) -> io::Result<bool> {
        if forks.len() <= self.record.forks.len() {
            return Ok(false);
        }
        self.set_forks(forks.to_vec()).await.map(|()| true)
    }

    /// Takes note of one more bootstrap by force, from a member with these transactions; what was noted before is returned,
    /// for [`Self::take_back`] when nothing came of it.
    pub async fn fork(&mut self, earlier: &[GtidSet], gtids: GtidSet) -> io::Result<Record> {
        let before = self.record.clone();
        let forks: Vec<GtidSet> = earlier.iter().cloned().chain([gtids]).collect();
        let unmarked = Some(forks.len());
        self.replace(Record { forks, unmarked, ..before.clone() }).await.map(|()| before)
    }

    /// Nothing came of a bootstrap by force: what was noted of them is again that of `before`.
    pub async fn take_back(&mut self, before: Record) -> io::Result<()> {
        let Record { forks, unmarked, .. } = before;
        self.replace(Record { forks, unmarked, ..self.record.clone() }).await
    }

    /// The group's table has the bootstrap by force that was made here.
    pub async fn marked(&mut self) -> io::Result<()> {
        self.replace(Record { unmarked: None, ..self.record.clone() }).await
    }

    async fn set_forks(&mut self, forks: Vec<GtidSet>) -> io::Result<()> {
        self.replace(Record { forks, ..self.record.clone() }).await
    }

    /// On a thread for such work: a disk may take long, and the keeper has others to answer meanwhile.
    async fn replace(&mut self, next: Record) -> io::Result<()> {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &next).map(|()| next)).await;
        self.record = written.map_err(io::Error::other)??;
        Ok(())
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    // The rename itself must survive a power loss, too.
    path.parent().map_or(Ok(()), |d| std::fs::File::open(d)?.sync_all())
}

/// The record after seeing the member in this state. A group counts as formed once it has made a transaction: one
/// that was interrupted before has nothing to lose and may be founded again.
fn noted(record: &Record, seen: &Observation) -> Record {
    if !seen.is_healthy() {
        return record.clone();
    }
    let mut last_view: Vec<String> =
        seen.view.iter().filter(|m| m.state == MemberState::Online).filter_map(|m| m.name.clone()).collect();
    last_view.sort();
    Record {
        group_name: record.group_name.clone(),
        formed: record.formed || seen.gtid_executed.has_uuid(&record.group_name),
        last_view,
        forks: record.forks.clone(),
        unmarked: record.unmarked,
    }
}

#[cfg(test)]
mod tests;
