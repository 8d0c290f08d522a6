//! docs/http.md and the tests say the same: a rule without a test is a promise, a test without a rule is a surprise.

use std::collections::BTreeSet;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names of test functions that begin with an RFC, below a folder or in a file.
fn tests_in(path: &Path, into: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            tests_in(&entry.unwrap().path(), into);
        }
        return;
    }
    if path.extension().is_none_or(|e| e != "rs") {
        return;
    }
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let name = line.trim_start().trim_start_matches("async ").strip_prefix("fn ");
        let name = name.and_then(|rest| rest.split('(').next());
        into.extend(name.filter(|n| is_rule(n)).map(str::to_owned));
    }
}

fn is_rule(name: &str) -> bool {
    name.strip_prefix("rfc").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn told() -> (BTreeSet<String>, String) {
    let text = std::fs::read_to_string(root().join("docs/http.md")).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    (words.filter(|w| is_rule(w) && w.contains('_')).map(str::to_owned).collect(), text)
}

#[test]
fn every_strict_test_stands_in_docs_http_md() {
    let mut tests = BTreeSet::new();
    for folder in ["tests/strict_http1", "tests/http2_conformance"] {
        tests_in(&root().join(folder), &mut tests);
    }
    assert!(tests.len() > 80, "{}", tests.len());
    let missing: Vec<_> = tests.difference(&told().0).cloned().collect();
    assert!(missing.is_empty(), "not in docs/http.md:\n{}", missing.join("\n"));
}

#[test]
fn every_test_in_docs_http_md_exists() {
    let mut tests = BTreeSet::new();
    tests_in(&root().join("tests"), &mut tests);
    let invented: Vec<_> = told().0.difference(&tests).cloned().collect();
    assert!(invented.is_empty(), "no such test:\n{}", invented.join("\n"));
}
