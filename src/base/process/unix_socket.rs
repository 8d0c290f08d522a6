//! Unix sockets by which a program is commanded. A socket is bound under a name of its own and gets the known one by rename(2), so
//! that whoever connects always meets somebody, also while another process takes over.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket without its known name.
pub struct Unnamed {
    listener: UnixListener,
    own: PathBuf,
    path: PathBuf,
}

/// What stands at `path` and is not to be replaced: a file of another kind, or a socket on which somebody listens, unless that is the process
/// that listens at `predecessor` as well. An error is a sentence's end.
pub fn is_free(path: &Path, predecessor: Option<&Path>) -> Result<(), &'static str> {
    let is_predecessor = |listener| predecessor.and_then(who_listens) == Some(listener);
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Err("there is a file that is no socket: move it away"),
        Ok(_) if who_listens(path).is_some_and(|listener| !is_predecessor(listener)) => {
            Err("another process listens there: stop it, or give this one another path")
        }
        _ => Ok(()),
    }
}

/// The process that listens; 0 for one that cannot be seen from here.
fn who_listens(path: &Path) -> Option<i32> {
    let stream = UnixStream::connect(path).ok()?;
    Some(rustix::net::sockopt::socket_peercred(stream).map_or(0, |peer| peer.pid.as_raw_nonzero().get()))
}

/// Removes the sockets of processes that were killed on their way to the name `path`.
pub fn sweep(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return;
    };
    let is_own = |other: &str| other.strip_prefix(name)?.strip_prefix('.')?.parse::<u32>().ok();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_dead =
            || UnixStream::connect(entry.path()).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if entry.file_name().to_str().and_then(is_own).is_some() && is_dead() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Unnamed {
    /// A socket that is to be at `path`, with this mode (chmod(2)).
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let mut own = path.as_os_str().to_owned();
        own.push(format!(".{}", std::process::id()));
        let own = PathBuf::from(own);
        sweep(path);
        let _ = fs::remove_file(&own);
        let listener = UnixListener::bind(&own)?;
        let unnamed = Self { listener, own, path: path.to_owned() };
        fs::set_permissions(&unnamed.own, Permissions::from_mode(mode))?;
        unnamed.listener.set_nonblocking(true)?;
        Ok(unnamed)
    }

    /// Listens at its path, in the place of whoever had it.
    pub fn publish(self) -> io::Result<tokio::net::UnixListener> {
        fs::rename(&self.own, &self.path)?;
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // Unless it has its name by now.
        let _ = fs::remove_file(&self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_free_when_nothing_is_lost_that_stands_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(is_free(&at("nothing"), None), Ok(()));
        fs::write(at("file"), "kept").unwrap();
        fs::create_dir(at("folder")).unwrap();
        for kind in ["file", "folder"] {
            assert!(is_free(&at(kind), None).is_err_and(|why| why.contains("no socket")), "{kind}");
        }
        let listener = UnixListener::bind(at("socket")).unwrap();
        let _own = UnixListener::bind(at("handover")).unwrap();
        assert!(is_free(&at("socket"), None).is_err_and(|why| why.contains("another process")));
        assert!(is_free(&at("socket"), Some(&at("nothing"))).is_err());
        assert_eq!(is_free(&at("socket"), Some(&at("handover"))), Ok(()), "who is replaced listens there");
        drop(listener);
        assert_eq!(is_free(&at("socket"), None), Ok(()), "nobody listens any more");
    }
}
