//! docs/peers.md names tests of ours: each is there.
#![allow(missing_docs)]

use std::path::Path;

#[test]
fn every_test_that_the_document_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/peers.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2).filter_map(|word| word.split_once("::"));
    let mut all = 0;
    for (file, name) in named.filter(|(file, _)| *file != "file") {
        let path = root.join(format!("tests/{file}.rs"));
        let code = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(code.contains(&format!("fn {name}(")), "{file}.rs has no test {name}");
        all += 1;
    }
    assert!(all > 30, "{all} tests are named");
}
