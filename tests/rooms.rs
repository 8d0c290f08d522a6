//! Which room may know which, and what must not come into a program's build. An arrow upwards does not compile, unless somebody
//! writes it into a Cargo.toml: this is where that is noticed.
#![allow(missing_docs)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The rooms, each below those that may know it, and whom each may know. This is the one place that says so.
const ROOMS: [(&str, &[&str]); 16] = [
    ("trivet-base", &[]),
    ("trivet-tls", &["trivet-base"]),
    ("trivet-http", &["trivet-base", "trivet-tls"]),
    ("trivet-pool", &["trivet-base"]),
    ("trivet-proxy", &["trivet-base", "trivet-tls", "trivet-http", "trivet-pool"]),
    ("trivet-balancer-api", &[]),
    (
        "trivet-balancer",
        &["trivet-base", "trivet-tls", "trivet-http", "trivet-pool", "trivet-proxy", "trivet-balancer-api"],
    ),
    ("trivet-web", &["trivet-base", "trivet-tls", "trivet-http", "trivet-pool", "trivet-proxy"]),
    ("trivet-app", &["trivet-base", "trivet-tls"]),
    ("trivet-keeper-api", &[]),
    ("trivet-lease", &[]),
    ("trivet-mysql", &["trivet-keeper-api"]),
    ("trivet-backup", &["trivet-base", "trivet-tls", "trivet-keeper-api", "trivet-lease", "trivet-mysql"]),
    ("trivet-transfer", &["trivet-base", "trivet-tls", "trivet-mysql"]),
    ("trivet-keeper", &["trivet-base", "trivet-tls", "trivet-http", "trivet-keeper-api"]),
    (
        "trivet-operator",
        &["trivet-base", "trivet-tls", "trivet-http", "trivet-balancer-api", "trivet-keeper-api"],
    ),
];

/// What carries traffic, and the operator's command: they do without a framework, a database's client, the hashing of passwords.
const LEAN: [&str; 3] = ["trivet-balancer", "trivet-web", "trivet-operator"];
const NOT_IN_THEM: [&str; 5] = ["axum", "tower", "sqlx", "sqlx-core", "argon2"];

/// The package of the tests, which know every room.
const TESTS: &str = "trivet";

/// What cargo says, without the network.
fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Command::new(cargo).current_dir(root).args(arguments).args(["--locked", "--offline"]).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn rooms_know_those_below_them_and_none_beside() {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let mut found = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let room = package["name"].as_str().unwrap();
        if room == TESTS {
            continue;
        }
        found += 1;
        let (_, below) = ROOMS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{room} is a new room: ROOMS has to say whom it may know"));
        // Those of its unit tests, too.
        for known in package["dependencies"].as_array().unwrap() {
            let known = known["name"].as_str().unwrap();
            let is_room = known == TESTS || ROOMS.iter().any(|(name, _)| *name == known);
            assert!(!is_room || below.contains(&known), "{room} must not know {known}");
        }
    }
    assert_eq!(found, ROOMS.len(), "a room of the table is no member of the workspace");
}

#[test]
fn the_arrows_all_lead_downwards() {
    for (index, (room, below)) in ROOMS.iter().enumerate() {
        for known in *below {
            assert!(ROOMS[..index].iter().any(|(name, _)| name == known), "{room} stands above {known}");
        }
    }
}

#[test]
fn what_only_app_and_keeper_need_is_no_part_of_the_others() {
    for program in LEAN {
        let tree = cargo(&["tree", "-p", program, "-e", "normal,build", "--prefix", "none", "-f", "{p}"]);
        let crates: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(crates.contains(&"tokio"), "{tree}");
        for unwanted in NOT_IN_THEM {
            assert!(!crates.contains(&unwanted), "{program} is built with {unwanted}");
        }
    }
}
