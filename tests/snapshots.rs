//! The configuration that NixOS generates for the test cluster (vm-tests/snapshots) is read by the real programs here, where
//! nothing of NixOS is built: a key that module and program do not agree on fails this test, not a node.

use std::path::{Path, PathBuf};
use std::process::Command;

use support::built::built;

fn snapshots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm-tests/snapshots")
}

/// The nodes' folders.
fn nodes() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(snapshots())
        .expect("vm-tests/snapshots is there")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("manifest.json").exists())
        .collect();
    found.sort();
    assert_eq!(found.len(), 3, "{found:?}");
    found
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn every_generated_configuration_passes_its_programs_check() {
    let programs = [
        ("balancer.json", built("trivet-balancer")),
        ("gateway.json", built("trivet-balancer")),
        ("web.json", built("trivet-web")),
        ("app.json", built("trivet-app")),
        ("keeper.json", built("trivet-keeper")),
    ];
    for node in nodes() {
        for (file, program) in &programs {
            let file = node.join("etc/trivet").join(file);
            let checked = Command::new(program).arg("--config").arg(&file).arg("--check").output().unwrap();
            assert!(
                checked.status.success(),
                "{}: {}",
                file.display(),
                String::from_utf8_lossy(&checked.stderr)
            );
        }
    }
}

/// The folders of the examples beside the test cluster.
fn examples() -> Vec<PathBuf> {
    let found =
        std::fs::read_dir(snapshots().join("examples")).expect("vm-tests/snapshots/examples is there");
    found.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_programs_read_what_the_examples_of_the_modules_become() {
    assert!(!examples().is_empty());
    for example in examples() {
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let done = Command::new(built(program)).args(args).output().unwrap();
            assert!(
                done.status.success(),
                "{}: {}",
                example.display(),
                String::from_utf8_lossy(&done.stderr)
            );
        };
        let (balancer, cluster) = (example.join("balancer.json"), example.join("cluster.json"));
        run("trivet-balancer", &["--check".as_ref(), "--config".as_ref(), balancer.as_ref()]);
        for program in ["trivet-backup", "trivet-keeper"] {
            let file = example.join(program.replace("trivet-", "")).with_extension("json");
            if file.exists() {
                run(program, &["--check".as_ref(), "--config".as_ref(), file.as_ref()]);
            }
        }
        let out = tempfile::tempdir().unwrap();
        let secrets = out.path().join("secrets");
        run(
            "trivet",
            &["secrets", "init", "--cluster"]
                .map(std::ffi::OsStr::new)
                .into_iter()
                .chain([cluster.as_ref(), "--out".as_ref(), secrets.as_ref()])
                .collect::<Vec<_>>(),
        );
    }
}

#[test]
fn the_operators_command_reads_the_cluster_file() {
    let out = tempfile::tempdir().unwrap();
    let made = Command::new(built("trivet"))
        .args(["secrets", "init", "--cluster"])
        .arg(snapshots().join("cluster.json"))
        .arg("--out")
        .arg(out.path().join("secrets"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // What the nodes' units load as credentials is what the command makes.
    for node in nodes() {
        let secrets = out.path().join("secrets").join(node.file_name().unwrap());
        for unit in files_below(&node.join("units")) {
            let text = std::fs::read_to_string(&unit).unwrap();
            for name in text.lines().filter_map(|line| line.split("/var/lib/trivet/secrets/").nth(1)) {
                assert!(secrets.join(name).exists(), "{} loads {name}, which is not made", unit.display());
            }
        }
    }
}

#[test]
fn every_generated_script_is_one_that_bash_can_read() {
    for node in nodes() {
        for file in files_below(&node.join("store")) {
            let text = std::fs::read_to_string(&file).unwrap();
            if text.lines().next().is_some_and(|line| line.starts_with("#!") && line.contains("/bin/bash")) {
                let read = Command::new("bash").arg("-n").arg(&file).output().unwrap();
                assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
            }
        }
    }
}
