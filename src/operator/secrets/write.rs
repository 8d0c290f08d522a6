//! Writing the folder: all of it or nothing of it, never over something, for the owner's eyes only.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use zeroize::Zeroizing;

use super::{SecretsError, io};

/// Refuses a folder in the Nix store, however it is spelled: everyone can read the store.
pub fn refuse_store(out: &Path) -> Result<(), SecretsError> {
    let real = resolve(out).map_err(io(out))?;
    if real.starts_with("/nix/store") {
        return Err(SecretsError::InStore { out: out.display().to_string() });
    }
    Ok(())
}

/// `path` without links and `..`, also when its end does not exist yet.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let mut real = PathBuf::from("/");
    for part in std::path::absolute(path)?.components() {
        match part {
            Component::Normal(name) => {
                real.push(name);
                if let Ok(there) = real.canonicalize() {
                    real = there;
                }
            }
            Component::ParentDir => {
                real.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(real)
}

/// Writes `files` below `out`. They are first written beside their place, then moved in; a failure on the way takes back
/// what was moved.
pub fn all(out: &Path, files: &BTreeMap<PathBuf, Zeroizing<String>>) -> Result<(), SecretsError> {
    if files.is_empty() {
        return Ok(());
    }
    let out = resolve(out).map_err(io(out))?;
    let parent = out.parent().unwrap_or(Path::new("/"));
    let exists = out.exists();
    // Inside a folder that exists, for it may be a mounted stick, and files do not move between file systems.
    let stage = if exists { &out } else { parent };
    std::fs::create_dir_all(stage).map_err(io(stage))?;
    let stage = Stage(stage.join(format!(".trivet-secrets-{}", std::process::id())));
    private_dir(&stage.0)?;
    for (path, text) in files {
        let path = stage.0.join(path);
        let dir = path.parent().unwrap_or(&stage.0);
        if !dir.exists() {
            private_dir(dir)?;
        }
        write_private(&path, text)?;
    }
    if exists {
        return move_in(&stage.0, &out, files.keys());
    }
    // Should the folder have appeared meanwhile, with something in it, the rename fails: rename(2).
    std::fs::rename(&stage.0, &out).map_err(io(&out))?;
    sync(parent)
}

/// Moves the files one by one into a folder that holds others already.
fn move_in<'a>(
    stage: &Path,
    out: &Path,
    paths: impl Iterator<Item = &'a PathBuf>,
) -> Result<(), SecretsError> {
    let mut made = Made::default();
    for path in paths {
        let to = out.join(path);
        let dir = to.parent().unwrap_or(out);
        if !dir.exists() {
            private_dir(dir)?;
            made.dirs.push(dir.to_owned());
        }
        // Unlike a rename, a link never replaces what is there.
        std::fs::hard_link(stage.join(path), &to).map_err(io(&to))?;
        made.files.push(to);
    }
    for dir in made.files.iter().filter_map(|f| f.parent()) {
        sync(dir)?;
    }
    made.keep();
    Ok(())
}

/// What was moved in so far; taken back when dropped, unless kept.
#[derive(Default)]
struct Made {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Made {
    fn keep(mut self) {
        self.files.clear();
        self.dirs.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
        for dir in &self.dirs {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// The folder in which the files are made; gone when dropped.
struct Stage(PathBuf);

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn private_dir(path: &Path) -> Result<(), SecretsError> {
    DirBuilder::new().mode(0o700).create(path).map_err(io(path))
}

fn write_private(path: &Path, text: &str) -> Result<(), SecretsError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(path))
}

fn sync(dir: &Path) -> Result<(), SecretsError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}
