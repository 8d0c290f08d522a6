//! Replays the corpus of the fuzz targets through the same functions, so that what fuzzing once found stays found wherever
//! `cargo test` runs. `fuzz/run` looks for more.
#![allow(missing_docs)]

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code)]
mod fuzz;

#[test]
fn the_corpus_of_every_fuzz_target_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in fuzz::TARGETS {
        let mut files: Vec<_> =
            std::fs::read_dir(corpus.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            let outcome = std::panic::catch_unwind(|| fuzz::run(name, &bytes));
            assert!(outcome.is_ok(), "{}: {}", file.display(), bytes.escape_ascii());
        }
    }
}
