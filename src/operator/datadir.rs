//! mysqld's data directory, and how another takes its place.
//!
//! What was there is kept aside on the same file system: beside the directory, or, where a file system of its own is mounted on it, in a
//! hidden folder inside, which mysqld passes over.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::macros::format_description;

/// Where mysqld of NixOS and of Debian has it.
pub const DEFAULT: &str = "/var/lib/mysql";

/// Its marks in the names of what stands beside or inside.
const ASIDE: &str = "aside";
const RESTORED: &str = "restored";

/// A data directory of a mysqld.
#[derive(Debug, Clone)]
pub struct DataDirectory {
    path: PathBuf,
    /// A file system is mounted there: it can be emptied, and not be renamed.
    is_mounted: bool,
}

impl DataDirectory {
    /// Looks at it. It has to be a directory, and no symbolic link.
    pub fn at(path: &Path) -> io::Result<Self> {
        let wrong =
            |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {what}", path.display()));
        let seen = fs::symlink_metadata(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        if !seen.is_dir() {
            return Err(wrong("is no directory: name the data directory itself (--data-directory)"));
        }
        let parent = path.parent().filter(|_| path.is_absolute());
        let parent = parent.ok_or_else(|| wrong("give an absolute path (--data-directory)"))?;
        let is_mounted = fs::metadata(parent)?.dev() != seen.dev() || is_mount_point(path);
        Ok(Self { path: path.into(), is_mounted })
    }

    /// Refuses one that lacks a part of what mysqld keeps, which then is elsewhere, and would neither be set aside nor replaced. An empty
    /// one is no such.
    pub fn has_all(&self) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && name != "lost+found" {
                names.push(name);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        let begins = |with: &str| names.iter().any(|name| name.starts_with(with));
        let indices: Vec<&String> = names.iter().filter(|name| name.ends_with(".index")).collect();
        for (is_there, what, setting) in [
            (begins("mysql.ibd"), "the data dictionary (mysql.ibd)", "datadir"),
            (begins("ibdata"), "the system tablespace (ibdata1)", "innodb_data_home_dir"),
            (
                begins("#innodb_redo") || begins("ib_logfile"),
                "the redo log (#innodb_redo)",
                "innodb_log_group_home_dir",
            ),
            (begins("undo_"), "the undo tablespaces (undo_001)", "innodb_undo_directory"),
            (
                indices.iter().any(|name| !name.contains("relay")),
                "the index of the binary log (binlog.index)",
                "log_bin",
            ),
        ] {
            if !is_there {
                return Err(self.elsewhere(what, setting));
            }
        }
        for index in indices {
            let lines = fs::read_to_string(self.path.join(index))?;
            let outside = |line: &str| line.starts_with('/') && !Path::new(line).starts_with(&self.path);
            if let Some(file) = lines.lines().find(|line| outside(line)) {
                let setting = if index.contains("relay") { "relay_log" } else { "log_bin" };
                return Err(self.elsewhere(file, setting));
            }
        }
        Ok(())
    }

    fn elsewhere(&self, what: &str, setting: &str) -> io::Error {
        io::Error::other(format!(
            "{what} is not in {}: all that mysqld has must be below its data directory to be replaced as a whole. Name the right directory \
             (--data-directory), or take {setting} out of mysqld's configuration. Nothing was done",
            self.path.display()
        ))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place on the same file system, for what is to become the data directory.
    pub fn staging(&self) -> Staging {
        Staging { path: self.named(RESTORED), mark: self.named(&format!("{RESTORED}.begun")) }
    }

    /// A place on the same file system, for what was the data directory until `now`.
    fn aside(&self, now: OffsetDateTime) -> PathBuf {
        let when = now
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .unwrap_or_else(|_| now.unix_timestamp().to_string());
        self.named(&format!("{ASIDE}-{when}"))
    }

    fn named(&self, what: &str) -> PathBuf {
        if self.is_mounted {
            self.path.join(format!(".{what}"))
        } else {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{what}"));
            name.into()
        }
    }

    /// Moves what is there aside, and leaves it empty; where it is now.
    pub fn set_aside(&self, now: OffsetDateTime) -> io::Result<PathBuf> {
        let aside = self.aside(now);
        let (mode, user, group) = self.owner()?;
        if self.is_mounted {
            fs::create_dir(&aside)?;
            self.move_entries(&self.path, &aside)?;
        } else {
            // Nothing of that name is replaced: rename(2) would take an empty directory.
            if aside.symlink_metadata().is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("{} is there", aside.display()),
                ));
            }
            fs::rename(&self.path, &aside)?;
            fs::create_dir(&self.path)?;
        }
        // Nobody but its owner looks into what is kept.
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o700))?;
        chown(&aside, Some(user), Some(group))?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))?;
        chown(&self.path, Some(user), Some(group))?;
        self.sync()?;
        Ok(aside)
    }

    /// Gives what is to become the data directory to the owner of this one, and has all of it on the disk.
    pub fn hand_over(&self, other: &Path) -> io::Result<()> {
        let (_, user, group) = self.owner()?;
        own_all(other, user, group)?;
        Ok(rustix::fs::syncfs(fs::File::open(other)?)?)
    }

    /// Makes `other`, which is on the same file system and was handed over, the data directory, which is empty.
    pub fn take(&self, other: &Path) -> io::Result<()> {
        self.move_entries(other, &self.path)?;
        fs::remove_dir(other)?;
        self.sync()
    }

    /// Mode, user and group.
    fn owner(&self) -> io::Result<(u32, u32, u32)> {
        let seen = fs::metadata(&self.path)?;
        Ok((seen.mode() & 0o7777, seen.uid(), seen.gid()))
    }

    /// All but what stands aside and what a file system has of its own.
    fn move_entries(&self, from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let stays = text == "lost+found"
                || text == format!(".{RESTORED}")
                || text == format!(".{RESTORED}.begun")
                || text.starts_with(&format!(".{ASIDE}-"));
            if !stays {
                fs::rename(entry.path(), to.join(&name))?;
            }
        }
        Ok(())
    }

    /// Directories that a power cut must not bring back.
    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()?;
        self.path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    }
}

/// A directory of ours on the data directory's file system.
#[derive(Debug, Clone)]
pub struct Staging {
    /// Where it is.
    pub path: PathBuf,
    /// A file that says that it is ours.
    mark: PathBuf,
}

impl Staging {
    /// Says that what will be there is ours.
    pub fn mark(&self) -> io::Result<()> {
        fs::write(&self.mark, "")
    }

    /// Takes it away when it is ours; false when it is there and is not.
    pub fn clear(&self) -> io::Result<bool> {
        if !self.mark.exists() {
            return Ok(!self.path.exists());
        }
        if self.path.exists() {
            fs::remove_dir_all(&self.path)?;
        }
        fs::remove_file(&self.mark)?;
        Ok(true)
    }
}

/// Also one of the same file system (a bind mount), which only the kernel's list tells of; `proc_pid_mountinfo(5)`.
fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|at| Path::new(at) == path)
}

/// Gives a directory and all that is in it to a user.
fn own_all(path: &Path, user: u32, group: u32) -> io::Result<()> {
    lchown(path, Some(user), Some(group))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            own_all(&entry?.path(), user, group)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
