use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::cluster::Node;

fn cluster(nodes: serde_json::Value) -> Cluster {
    serde_json::from_value(serde_json::json!({
        "name": "trivet", "domain": "www.foobar.com", "virtual_addresses": ["10.77.0.50"], "nodes": nodes
    }))
    .unwrap()
}

fn three() -> Cluster {
    let all = ["balancer", "app", "database", "monitoring"];
    cluster(serde_json::json!([
        {"name": "node1", "address": "10.77.0.11", "roles": all},
        {"name": "node2", "address": "10.77.0.12", "roles": all},
        {"name": "node3", "address": "10.77.0.13", "roles": all}
    ]))
}

struct Folder {
    _parent: tempfile::TempDir,
    out: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("secrets");
        Self { _parent: parent, out }
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.out.join(path)).unwrap()
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.out.join(path)).unwrap();
    }

    /// Every file with its content, and the mode of everything.
    fn all(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for folder in std::fs::read_dir(&self.out).unwrap().map(Result::unwrap) {
            assert_eq!(mode(&folder.path()), 0o700, "{:?}", folder.path());
            for file in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
                assert_eq!(mode(&file.path()), 0o600, "{:?}", file.path());
                let name = file.path().strip_prefix(&self.out).unwrap().display().to_string();
                found.insert((name.clone(), self.read(&name)));
            }
        }
        found
    }

    fn names(&self) -> Vec<String> {
        self.all().into_iter().map(|(name, _)| name).collect()
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn every_node_of_an_all_in_one_cluster_gets_everything_but_the_authority() {
    let folder = Folder::new();
    let report = init(&three(), &folder.out, false).unwrap();
    let per_node = [
        "app-password",
        "app.env",
        "backup-password",
        "backup-recovery.pub",
        "backup.key",
        "ca.pem",
        "node.key",
        "node.pem",
        "replication-password",
        "site.key",
        "site.pem",
        "ticket.secret",
    ];
    let mut expected = vec!["ca/ca.key".to_owned(), "ca/ca.pem".to_owned()];
    for node in ["node1", "node2", "node3"] {
        expected.extend(per_node.iter().map(|f| format!("{node}/{f}")));
    }
    assert_eq!(folder.names(), expected);
    assert_eq!(mode(&folder.out), 0o700);
    assert_eq!(report.written(), expected.len());
    assert_eq!(folder.read("node1/site.pem"), folder.read("node3/site.pem"));
    assert_eq!(folder.read("node1/ticket.secret"), folder.read("node3/ticket.secret"));
    assert_eq!(folder.read("node1/ticket.secret").len(), 64);
    assert_eq!(folder.read("node1/app-password"), folder.read("node3/app-password"));
    assert_ne!(folder.read("node1/app-password"), folder.read("node1/replication-password"));
    assert_eq!(folder.read("node1/backup.key"), folder.read("node3/backup.key"));
    assert_ne!(folder.read("node1/node.key"), folder.read("node2/node.key"));
    let password = folder.read("node1/app-password");
    assert_eq!(
        folder.read("node2/app.env"),
        format!(
            "DATABASE_WRITE_URL=mysql://trivet_app:{password}@127.0.0.1:6446/trivet\n\
             DATABASE_READ_URL=mysql://trivet_app:{password}@127.0.0.1:6447/trivet\n"
        )
    );
}

#[test]
fn the_recovery_key_is_shown_once_and_written_nowhere() {
    let folder = Folder::new();
    let said = init(&three(), &folder.out, false).unwrap().to_string();
    let recovery = said.split_whitespace().find(|w| w.starts_with("AGE-SECRET-KEY-1")).unwrap();
    assert_eq!(folder.read("node2/backup-recovery.pub"), *password::public_half(recovery).unwrap());
    assert!(folder.all().iter().all(|(_, content)| !content.contains(recovery)));
    folder.remove("node2/backup-recovery.pub");
    let again = init(&three(), &folder.out, true).unwrap().to_string();
    assert!(!again.contains("AGE-SECRET-KEY"), "{again}");
    assert_eq!(folder.read("node2/backup-recovery.pub"), folder.read("node1/backup-recovery.pub"));
}

#[test]
fn nothing_is_left_beside_the_folder() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    assert_eq!(std::fs::read_dir(folder.out.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_node_gets_no_secret_that_its_roles_do_not_need() {
    let folder = Folder::new();
    let split = cluster(serde_json::json!([
        {"name": "lb", "address": "10.77.0.11", "roles": ["balancer"]},
        {"name": "app", "address": "10.77.0.12", "roles": ["app"]},
        {"name": "db", "address": "10.77.0.13", "roles": ["database"]}
    ]));
    init(&split, &folder.out, false).unwrap();
    assert_eq!(
        folder.names(),
        [
            "app/app.env",
            "app/ca.pem",
            "app/node.key",
            "app/node.pem",
            "ca/ca.key",
            "ca/ca.pem",
            "db/app-password",
            "db/backup-password",
            "db/backup-recovery.pub",
            "db/backup.key",
            "db/ca.pem",
            "db/node.key",
            "db/node.pem",
            "db/replication-password",
            "lb/ca.pem",
            "lb/node.key",
            "lb/node.pem",
            "lb/site.key",
            "lb/site.pem",
            "lb/ticket.secret"
        ]
    );
    assert!(folder.read("app/app.env").contains(&folder.read("db/app-password")));
}

#[test]
fn passwords_have_32_characters_that_need_no_quoting_and_never_repeat() {
    let many: BTreeSet<String> = (0..50).map(|_| password::generate().unwrap().to_string()).collect();
    assert_eq!(many.len(), 50);
    assert!(many.iter().all(|p| p.len() == 32 && p.bytes().all(|b| b.is_ascii_alphanumeric())));
}

#[test]
fn a_second_run_refuses_names_what_is_there_and_changes_nothing() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    let before = folder.all();
    let e = init(&three(), &folder.out, false).unwrap_err().to_string();
    assert!(e.contains("already holds ca/ca.pem, ca/ca.key, node1/ca.pem, 35 more"), "{e}");
    assert!(e.contains("--missing"), "{e}");
    assert_eq!(folder.all(), before);
}

#[test]
fn one_file_in_the_way_stops_the_whole_run() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.out.join("node2")).unwrap();
    std::fs::write(folder.out.join("node2/site.key"), "precious").unwrap();
    let e = init(&three(), &folder.out, false).unwrap_err().to_string();
    assert!(e.contains("already holds node2/site.key"), "{e}");
    assert_eq!(folder.read("node2/site.key"), "precious");
    assert!(!folder.out.join("ca").exists() && !folder.out.join("node1").exists());
}

#[test]
fn a_folder_with_other_things_in_it_is_used_and_they_stay() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.out).unwrap();
    std::fs::write(folder.out.join("notes.txt"), "mine").unwrap();
    init(&three(), &folder.out, false).unwrap();
    assert_eq!(folder.read("notes.txt"), "mine");
    assert!(folder.out.join("node3/site.pem").exists());
    assert_eq!(std::fs::read_dir(&folder.out).unwrap().count(), 5, "the staging folder is gone");
}

#[test]
fn missing_adds_a_node_that_the_old_ones_accept_and_keeps_every_old_file() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    let before = folder.all();
    let mut four = three();
    four.nodes.push(Node {
        name: "node4".into(),
        address: "10.77.0.14".parse().unwrap(),
        ..four.nodes[0].clone()
    });
    let report = init(&four, &folder.out, true).unwrap();
    assert_eq!(report.written(), 12);
    assert!(folder.all().is_superset(&before));
    for same in
        ["ca.pem", "site.pem", "site.key", "ticket.secret", "app-password", "replication-password", "app.env"]
    {
        assert_eq!(folder.read(&format!("node4/{same}")), folder.read(&format!("node1/{same}")), "{same}");
    }
    assert!(report.to_string().contains("root@10.77.0.14:"), "{report}");
    assert!(!report.to_string().contains("root@10.77.0.11:"), "{report}");
}

#[test]
fn missing_renews_a_certificate_that_was_deleted() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    let old = folder.read("node1/node.pem");
    folder.remove("node1/node.pem");
    folder.remove("node1/node.key");
    assert_eq!(init(&three(), &folder.out, true).unwrap().written(), 2);
    assert_ne!(folder.read("node1/node.pem"), old);
}

#[test]
fn the_certificate_carries_every_name_of_the_sites_that_use_it() {
    let folder = Folder::new();
    let names = ["foobar.com", "blog.foobar.com", "*.shops.foobar.com"].map(String::from);
    let cluster = Cluster { certificate_names: names.to_vec(), ..three() };
    let report = init(&cluster, &folder.out, false).unwrap().to_string();
    assert!(
        report.contains("www.foobar.com, foobar.com, blog.foobar.com, *.shops.foobar.com in its place"),
        "{report}"
    );
    let pem = folder.read("node2/site.pem");
    let of = |names: &[&'static str]| authority::not_carried(&pem, names.iter().copied());
    assert!(
        of(&["www.foobar.com", "foobar.com", "blog.foobar.com", "*.shops.foobar.com", "a.shops.foobar.com"])
            .is_empty()
    );
    assert_eq!(of(&["shop.foobar.com", "*.foobar.com", "a.b.shops.foobar.com"]).len(), 3);
}

#[test]
fn a_name_that_the_kept_certificate_lacks_is_warned_of() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    let before = folder.all();
    let more = Cluster { certificate_names: vec!["foobar.com".into()], ..three() };
    let report = init(&more, &folder.out, true).unwrap().to_string();
    assert_eq!(
        report.matches("site.pem does not carry foobar.com: clients will refuse it there").count(),
        1,
        "{report}"
    );
    assert_eq!(folder.all(), before);

    for node in ["node1", "node2", "node3"] {
        folder.remove(&format!("{node}/site.pem"));
        folder.remove(&format!("{node}/site.key"));
    }
    let report = init(&more, &folder.out, true).unwrap().to_string();
    assert!(!report.contains("does not carry"), "{report}");
}

#[test]
fn missing_on_a_complete_folder_needs_no_authority_and_writes_nothing() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    folder.remove("ca/ca.key");
    let report = init(&three(), &folder.out, true).unwrap();
    assert_eq!(report.written(), 0);
    assert!(report.to_string().contains("is complete"), "{report}");
}

#[test]
fn a_certificate_cannot_be_made_while_the_authority_is_offline() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    for gone in ["ca/ca.key", "node2/node.pem", "node2/node.key"] {
        folder.remove(gone);
    }
    let before = folder.all();
    let e = init(&three(), &folder.out, true).unwrap_err().to_string();
    assert!(e.contains("node2 needs a certificate, but ca/ca.key is not here"), "{e}");
    assert_eq!(folder.all(), before);
}

#[test]
fn a_second_authority_is_never_made_beside_nodes_of_the_first() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    std::fs::remove_dir_all(folder.out.join("ca")).unwrap();
    let e = init(&three(), &folder.out, true).unwrap_err().to_string();
    assert!(e.contains("ca/ca.pem is not here"), "{e}");
}

#[test]
fn a_key_of_another_authority_is_refused() {
    let (folder, other) = (Folder::new(), Folder::new());
    init(&three(), &folder.out, false).unwrap();
    init(&three(), &other.out, false).unwrap();
    std::fs::copy(other.out.join("ca/ca.key"), folder.out.join("ca/ca.key")).unwrap();
    let e = init(&three(), &folder.out, true).unwrap_err().to_string();
    assert!(e.contains("ca.key is not the key of ca.pem"), "{e}");
}

#[test]
fn a_certificate_without_its_key_is_refused_with_the_remedy() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    folder.remove("node3/node.key");
    let e = init(&three(), &folder.out, true).unwrap_err().to_string();
    assert!(e.contains("node3/node.pem: stands without node3/node.key; delete it"), "{e}");
}

#[test]
fn two_different_shared_passwords_are_refused() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    std::fs::write(folder.out.join("node2/app-password"), "another").unwrap();
    let e = init(&three(), &folder.out, true).unwrap_err().to_string();
    assert!(e.contains("node1/app-password and ") && e.contains("node2/app-password differ"), "{e}");
}

#[test]
fn the_store_is_refused_however_it_is_spelled() {
    for out in ["/nix/store", "/nix/store/x-secrets", "/nix/./var/../store/x", "/../nix/store/x"] {
        let e = init(&three(), Path::new(out), false).unwrap_err();
        assert!(matches!(e, SecretsError::InStore { .. }), "{out}: {e}");
        assert_eq!(Failure::from(e).exit_code(), 64);
    }
}

#[test]
fn a_folder_inside_a_repository_is_warned_about() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.out.parent().unwrap().join(".git")).unwrap();
    let report = init(&three(), &folder.out, false).unwrap().to_string();
    assert!(report.contains("Warning: ") && report.contains("git repository"), "{report}");
}

#[test]
fn rfc5280_certificates_are_version_3_p256_with_the_names_and_usages_that_mutual_tls_needs() {
    let folder = Folder::new();
    init(&three(), &folder.out, false).unwrap();
    let pem = |path: &str| x509_parser::pem::parse_x509_pem(folder.read(path).as_bytes()).unwrap().1;

    let ca = pem("ca/ca.pem");
    let ca = ca.parse_x509().unwrap();
    assert_eq!(ca.version(), x509_parser::x509::X509Version::V3);
    let constraints = ca.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca && constraints.path_len_constraint == Some(0));
    assert!(ca.key_usage().unwrap().unwrap().value.key_cert_sign());
    ca.verify_signature(None).unwrap();

    for (path, names) in [
        ("node2/node.pem", &["DNSName(node2)", "DNSName(localhost)", "10.77.0.12", "127.0.0.1"][..]),
        ("node2/site.pem", &["DNSName(www.foobar.com)"]),
    ] {
        let leaf = pem(path);
        let leaf = leaf.parse_x509().unwrap();
        assert_eq!(leaf.version(), x509_parser::x509::X509Version::V3);
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert!(!leaf.is_ca());
        assert_eq!(leaf.issuer(), ca.subject());
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth);
        let found: Vec<String> = leaf
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .iter()
            .map(|n| match n {
                x509_parser::extensions::GeneralName::IPAddress(b) => {
                    std::net::Ipv4Addr::from(<[u8; 4]>::try_from(*b).unwrap()).to_string()
                }
                other => other.to_string(),
            })
            .collect();
        assert_eq!(found, names);
        assert!(leaf.validity().is_valid());
    }
}
