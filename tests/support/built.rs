//! Programs of other members of the workspace, which cargo does not build for a test; `tests/run` does.
#![allow(dead_code)]

use std::path::PathBuf;

/// Where it was built: beside the tests, in `target/<profile>`.
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let program = test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join(name);
    assert!(program.exists(), "{} is missing: tests/run builds it", program.display());
    program
}
