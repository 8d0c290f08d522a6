//! The space that mysqld has left. It is asked of the file system, not of mysqld: a member whose disk is full may be one that
//! does not start any more.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;

use trivet_base::disk::Space;
use trivet_base::process::Shutdown;

use super::board::Board;
use super::config::Mysql;
use super::report::Disk;

/// Often enough that `mysql.minimum_free` is noticed before a fast writer has filled it.
const INTERVAL: Duration = Duration::from_millis(250);

/// One look.
pub fn look(mysql: &Mysql) -> std::io::Result<Disk> {
    let Space { free, total } = Space::of(&mysql.data_directory)?;
    Ok(Disk { free, total, low: free < mysql.minimum_free.as_u64() })
}

/// Looks again and again, and leaves on the board what is seen. A disk that hangs delays nobody else.
pub async fn watch(mysql: Mysql, board: Arc<Board>, mut shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = shutdown.wait() => return }
        let mysql = mysql.clone();
        let looking = tokio::task::spawn_blocking(move || look(&mysql));
        let disk = tokio::select! { disk = looking => disk.ok().and_then(Result::ok), () = shutdown.wait() => return };
        if let Some(disk) = disk {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a gauge is a float; a disk's size is told to eight digits"
            )]
            gauge!("trivet_keeper_disk_free_bytes").set(disk.free as f64);
        }
        board.disk(disk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_is_that_of_the_data_directorys_file_system() {
        let mut mysql: Mysql = toml::from_str(
            "replication_password_file = '/r'\napp_password_file = '/a'\ndata_directory = '/'",
        )
        .unwrap();
        mysql.minimum_free = bytesize::ByteSize::b(0);
        let disk = look(&mysql).unwrap();
        assert!(disk.total > 0 && disk.free <= disk.total && !disk.low, "{disk:?}");
        mysql.minimum_free = bytesize::ByteSize::b(u64::MAX);
        assert!(look(&mysql).unwrap().low);
        mysql.data_directory = "/nowhere/at/all".into();
        assert!(look(&mysql).is_err());
    }
}
