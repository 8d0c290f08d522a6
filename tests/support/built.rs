//! The programs, which are other members of the workspace: cargo builds none of them for a test.

// The stories run on several threads, so one of them may wait.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;

/// Where it was built: beside the tests, in `target/<profile>`. `tests/run` builds all of them first; one that is missing, or older
/// than its source, is built now.
pub fn built(name: &str) -> PathBuf {
    static NEW: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let program = folder.join(name);
    let mut new = NEW.lock();
    if !new.contains(name) {
        if !is_new(&program) {
            build(name, folder);
        }
        assert!(program.exists(), "{} is missing", program.display());
        new.insert(name.to_owned());
    }
    program
}

/// Whether the program is there, and newer than every file that cargo's list beside it names, than the dependencies and their features.
fn is_new(program: &Path) -> bool {
    let changed = |file: &Path| file.metadata().and_then(|m| m.modified()).ok();
    let Some(built) = changed(program) else { return false };
    let Ok(list) = std::fs::read_to_string(program.with_extension("d")) else { return false };
    let Some((_, files)) = list.trim_end().split_once(": ") else { return false };
    // A space that belongs to a name is written with a backslash.
    let files = files.replace("\\ ", "\0");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifests = std::fs::read_dir(root.join("src")).into_iter().flatten().flatten();
    let manifests = manifests.map(|room| room.path().join("Cargo.toml")).filter(|f| f.exists());
    let named = files.split(' ').map(|f| PathBuf::from(f.replace('\0', " ")));
    let mut all = named.chain(manifests).chain([root.join("Cargo.toml"), root.join("Cargo.lock")]);
    // One that is gone has changed.
    all.all(|file| changed(&file).is_some_and(|at| at <= built))
}

fn build(name: &str, folder: &Path) {
    let profile = match folder.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo tells a test about its package would make it build anew what asks for the same of its own.
    for (variable, _) in std::env::vars_os() {
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if variable.to_str().is_some_and(of_package) {
            command.env_remove(variable);
        }
    }
    let built = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--locked", "--quiet", "--profile", profile, "--bin", name, "--target-dir"])
        .arg(folder.parent().expect("target"))
        .status();
    assert!(built.is_ok_and(|b| b.success()), "{name} cannot be built");
}
