//! docs/peers.md names tests of ours: each is there.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

/// Where the tests of `file` may be: a path, a file of `tests`, a folder there.
fn sources(root: &Path, file: &str) -> Vec<PathBuf> {
    if file.contains('/') {
        return vec![root.join(format!("{file}.rs"))];
    }
    let mut all = vec![root.join(format!("tests/{file}.rs"))];
    if let Ok(folder) = std::fs::read_dir(root.join("tests").join(file)) {
        all.extend(folder.map(|entry| entry.unwrap().path()));
    }
    all
}

/// Whether there is a test `name` in `code`.
fn has_test(code: &str, name: &str) -> bool {
    let lines: Vec<_> = code.lines().map(str::trim_start).collect();
    lines.windows(2).any(|pair| {
        let function = pair[1].trim_start_matches("async ").strip_prefix("fn ");
        pair[0].starts_with("#[") && function.is_some_and(|f| f.starts_with(&format!("{name}(")))
    })
}

#[test]
fn every_test_that_the_document_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/peers.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2).filter_map(|word| word.split_once("::"));
    let mut all = 0;
    let mut missing = Vec::new();
    for (file, name) in named.filter(|(file, _)| *file != "file") {
        let has = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|code| has_test(&code, name));
        if !sources(root, file).iter().any(has) {
            missing.push(format!("{file}::{name}"));
        }
        all += 1;
    }
    assert!(missing.is_empty(), "there are no tests {missing:#?}");
    assert!(all > 150, "{all} tests are named");
}
