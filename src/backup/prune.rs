//! Which copies are kept, and taking the others away, with the log that only they needed.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::base::{Description, LABEL};
use crate::cluster::Cluster;
use crate::config::Retention;
use crate::files;
use crate::log::catalog;
use crate::progress::Watcher;
use crate::repository::{Copy, RepositoryError, blocking};
use crate::verify::Proof;

/// What was being written for so long is written by nobody any more.
const DAY: Duration = Duration::from_hours(24);

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Base copies and copies of files.
    pub copies: usize,
    /// Segments of the log.
    pub segments: usize,
    /// Nothing may be deleted there.
    pub append_only: bool,
}

impl fmt::Display for Pruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.append_only {
            return f
                .write_str("append-only: nothing is deleted from here; whoever owns the storage does that");
        }
        write!(f, "{} copies and {} segments of the log were taken away", self.copies, self.segments)
    }
}

/// Names the period in which a moment lies.
type Period = fn(&OffsetDateTime) -> (i32, u32, u32);

/// Which of these moments stay: the last one of each of so many hours, days, weeks and months that have any, in UTC. The newest stays
/// whatever is asked for, and so does the one that was `proven` last: a newer one may turn out to be of no use.
pub fn kept(
    times: &[OffsetDateTime],
    proven: Option<OffsetDateTime>,
    retention: &Retention,
) -> BTreeSet<OffsetDateTime> {
    let mut newest_first = times.to_vec();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    let mut stay: BTreeSet<OffsetDateTime> = newest_first.first().copied().into_iter().collect();
    stay.extend(proven.filter(|p| times.contains(p)));
    let rules: [(u32, Period); 4] = [
        (retention.hourly, |t| (t.year(), t.ordinal().into(), t.hour().into())),
        (retention.daily, |t| (t.year(), t.ordinal().into(), 0)),
        (retention.weekly, |t| {
            let (year, week, _) = t.to_iso_week_date();
            (year, week.into(), 0)
        }),
        (retention.monthly, |t| (t.year(), u8::from(t.month()).into(), 0)),
    ];
    for (count, period) in rules {
        let mut seen = BTreeSet::new();
        for time in &newest_first {
            let time = time.to_offset(time::UtcOffset::UTC);
            if seen.len() < count as usize && seen.insert(period(&time)) {
                stay.insert(time);
            }
        }
    }
    stay
}

/// Takes away from one repository what the retention no longer keeps.
pub async fn prune(cluster: &Cluster, name: &str, watcher: &Watcher) -> Result<Pruned, RepositoryError> {
    if cluster.config.repositories.get(name).is_some_and(|r| r.append_only) {
        return Ok(Pruned { append_only: true, ..Pruned::default() });
    }
    let repository = cluster.open_to_write(name, watcher).await?;
    let storage = repository.storage.clone();
    let retention = cluster.config.retention;
    let proof = Proof::last(&storage).await?;
    let (copies, oldest) = blocking(storage.place(), move || {
        let (mut bases, unfinished) = repository.all(LABEL)?;
        // What cannot be read is left alone: a later version may have written it.
        bases.retain(|c| Description::of(c).is_some());
        // Another node may be at a younger one.
        let day_ago = OffsetDateTime::now_utc() - time::Duration::DAY;
        let mut away: Vec<Copy> = unfinished.into_iter().filter(|c| c.time < day_ago).collect();
        let times: Vec<_> = bases.iter().map(|c| c.time).collect();
        let proven = bases.iter().find(|c| proof.as_ref().is_some_and(|p| p.base == c.id)).map(|c| c.time);
        let stay = kept(&times, proven, &retention);
        let (staying, going): (Vec<Copy>, Vec<Copy>) =
            bases.into_iter().partition(|c| stay.contains(&c.time));
        away.extend(going);
        let of_files = repository.copies(files::LABEL)?;
        let hosts: BTreeSet<String> = of_files.iter().map(|c| c.host.clone()).collect();
        for host in hosts {
            let of_host: Vec<&Copy> = of_files.iter().filter(|c| c.host == host).collect();
            let stay = kept(&of_host.iter().map(|c| c.time).collect::<Vec<_>>(), None, &retention);
            away.extend(of_host.into_iter().filter(|c| !stay.contains(&c.time)).cloned());
        }
        let count = away.len();
        // Also with none: what an earlier run found unused is deleted by a later one.
        repository.forget(&away)?;
        Ok::<_, RepositoryError>((count, staying.first().and_then(Description::of)))
    })
    .await?;

    storage.sweep(DAY).await?;
    let mut segments = 0;
    // Without a base copy no log is of use, and none is taken away: the first copy may be under way.
    if let Some(oldest) = oldest
        && let Ok(begun) = OffsetDateTime::parse(&oldest.started, &Rfc3339)
    {
        // Whole days that lie two days before: clocks differ, and segments lie under the day on which they were sent.
        let until = catalog::day(begun - time::Duration::days(2));
        let names = catalog::list(&storage, 0).await?;
        for segment in names.iter().filter(|s| s.day < until) {
            storage.delete(&segment.to_string()).await?;
            segments += 1;
        }
    }
    Ok(Pruned { copies, segments, append_only: false })
}
