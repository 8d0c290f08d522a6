use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::cluster::Role;

fn cluster() -> Cluster {
    let all = ["balancer", "app", "database", "monitoring"];
    serde_json::from_value(json!({
        "name": "trivet", "domain": "www.foobar.com", "virtual_addresses": ["10.77.0.50"], "nodes": [
            {"name": "node1", "address": "10.77.0.11", "roles": all},
            {"name": "node2", "address": "10.77.0.12", "roles": all},
            {"name": "node3", "address": "10.77.0.13", "roles": all}
        ]
    }))
    .unwrap()
}

fn backend(name: &str, usable: bool) -> Value {
    let reason = if usable { "check passed" } else { "cannot connect" };
    json!({"name": name, "address": "10.77.0.11:1", "usable": usable, "health": "up", "reason": reason, "detail": null})
}

/// What the programs of a node answer; stories change it before it is read.
struct Node {
    answers: BTreeMap<&'static str, Result<Value, String>>,
    days: i64,
}

impl Node {
    fn new(name: &str, primary: bool) -> Self {
        let others = ["node1", "node2", "node3"];
        let web: Vec<_> = others.iter().map(|n| backend(n, true)).collect();
        let peers = others.iter().filter(|n| **n != name).map(|n| backend(n, true));
        let write: Vec<_> = others.iter().map(|n| backend(n, *n == "node1")).collect();
        let read: Vec<_> = others.iter().map(|n| backend(n, *n != "node1")).collect();
        let role = if primary { "PRIMARY" } else { "SECONDARY" };
        let answers = BTreeMap::from([
            (
                "balancer",
                Ok(json!({
                    "version": "0.1.0", "stopping": false, "backends": web,
                    "virtual_addresses": [{"address": "10.77.0.50", "held": primary}]
                })),
            ),
            (
                "web",
                Ok(json!({
                    "version": "0.1.0", "stopping": false,
                    "backends": std::iter::once(backend("app", true)).chain(peers).collect::<Vec<_>>()
                })),
            ),
            ("app", Ok(json!({"version": "0.1.0"}))),
            (
                "gateway",
                Ok(
                    json!({"version": "0.1.0", "stopping": false, "database": {"write": write, "read": read}}),
                ),
            ),
            (
                "keeper",
                Ok(json!({
                    "node": name, "member_state": "ONLINE", "role": role, "primary": "node1", "majority": true,
                    "lag_seconds": 0.0, "phase": "online", "reason": "", "server_version": "9.7.4",
                    "gtid_executed": "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001:1-9", "warnings": [], "leaving": false
                })),
            ),
        ]);
        Self { answers, days: 824 }
    }

    fn set(&mut self, program: &'static str, pointer: &str, value: Value) -> &mut Self {
        *self.answers.get_mut(program).unwrap().as_mut().unwrap().pointer_mut(pointer).expect(pointer) =
            value;
        self
    }

    fn silence(&mut self, program: &'static str) -> &mut Self {
        self.answers.insert(program, Err("no answer within 2s".into()));
        self
    }

    fn kill(&mut self) -> &mut Self {
        for program in ["balancer", "web", "app", "gateway", "keeper"] {
            self.silence(program);
        }
        self
    }
}

/// A healthy cluster with node1 as holder and primary.
fn healthy() -> [Node; 3] {
    [Node::new("node1", true), Node::new("node2", false), Node::new("node3", false)]
}

fn judge(nodes: [Node; 3]) -> Report {
    let cluster = cluster();
    let reports = cluster
        .nodes
        .iter()
        .zip(nodes)
        .map(|(node, told)| {
            let ok = |program: &str| told.answers[program].as_ref().ok();
            let dead = told.answers["web"].is_err();
            let certificate = Certificate {
                not_after: (!dead).then(|| "2029-02-24T00:00:00Z".into()),
                days_left: (!dead).then_some(told.days),
                error: dead.then(|| "cannot connect".into()),
            };
            NodeReport {
                name: node.name.clone(),
                address: node.address,
                roles: node.roles.clone(),
                held: ok("balancer").map(read::held).unwrap_or_default(),
                database: ok("keeper").map(read::member),
                programs: told.answers.iter().map(|(n, a)| (*n, read::program(n, a.clone()))).collect(),
                certificates: ["site", "web", "keeper"].map(|n| (n, certificate.clone())).into(),
                warnings: Vec::new(),
            }
        })
        .collect();
    judge::report(&cluster, reports)
}

fn problems(report: &Report) -> Vec<String> {
    report
        .problems
        .iter()
        .map(|p| format!("{:?} {}: {}", p.severity, p.node.as_deref().unwrap_or("cluster"), p.what))
        .collect()
}

#[test]
fn a_healthy_cluster_has_no_problems_and_exits_0() {
    let report = judge(healthy());
    assert_eq!(problems(&report), [""; 0]);
    assert_eq!(report.verdict.exit_code(), 0);
    assert_eq!(report.virtual_addresses[0].holders, ["node1"]);
    assert_eq!(report.nodes[1].database.as_ref().unwrap().role.as_deref(), Some("SECONDARY"));
}

#[test]
fn a_dead_node_is_one_problem_and_what_the_others_see_of_it_another() {
    let mut nodes = healthy();
    nodes[2].kill();
    nodes[0].set("balancer", "/backends/2", backend("node3", false));
    nodes[1].set("balancer", "/backends/2", backend("node3", false));
    let report = judge(nodes);
    assert_eq!(
        problems(&report),
        [
            "Degraded node3: nothing answers (no answer within 2s)",
            "Degraded node3: its web tier is out of use for the balancer of node1, node2 (cannot connect)",
        ]
    );
    assert_eq!(report.verdict.exit_code(), 1);
}

#[test]
fn a_virtual_address_must_be_held_by_one_node() {
    let mut nodes = healthy();
    nodes[0].set("balancer", "/virtual_addresses/0/held", json!(false));
    let nobody = judge(nodes);
    assert_eq!(
        problems(&nobody),
        ["Critical cluster: no balancer holds 10.77.0.50: the site cannot be reached"]
    );

    let mut nodes = healthy();
    nodes[1].set("balancer", "/virtual_addresses/0/held", json!(true));
    let two = judge(nodes);
    assert_eq!(problems(&two), ["Critical cluster: node1 and node2 hold 10.77.0.50 at the same time"]);

    let mut nodes = healthy();
    nodes[0].silence("balancer");
    let unsure = problems(&judge(nodes));
    assert_eq!(unsure[0], "Critical cluster: no balancer that answers holds 10.77.0.50; silent: node1");
}

#[test]
fn the_database_needs_exactly_one_primary_with_a_majority() {
    let mut nodes = healthy();
    nodes[0].set("keeper", "/member_state", json!("RECOVERING")).set("keeper", "/phase", json!("recovering"));
    let none = problems(&judge(nodes));
    assert_eq!(none[0], "Critical cluster: the database has no primary: nothing can be written");
    assert_eq!(none[1], "Degraded node1: its database member is RECOVERING: recovering ()");

    let mut nodes = healthy();
    nodes[2].set("keeper", "/role", json!("PRIMARY"));
    assert_eq!(problems(&judge(nodes)), ["Critical cluster: node1 and node3 both say they are the primary"]);

    // A thawed former primary still says so, without a majority.
    let mut nodes = healthy();
    nodes[2].set("keeper", "/role", json!("PRIMARY")).set("keeper", "/majority", json!(false)).set(
        "keeper",
        "/reason",
        json!("most of the group is out of reach"),
    );
    assert_eq!(
        problems(&judge(nodes)),
        ["Degraded node3: its database member has no majority in reach: most of the group is out of reach"]
    );
}

#[test]
fn what_a_keeper_warns_of_is_told_with_its_remedy() {
    let mut nodes = healthy();
    nodes[1].set("keeper", "/warnings", json!(["9 MiB are free: make room"])).set(
        "keeper",
        "/leaving",
        json!(true),
    );
    assert_eq!(
        problems(&judge(nodes)),
        [
            "Degraded node2: its database member: 9 MiB are free: make room",
            "Notice node2: its mysqld is about to stop",
        ]
    );
}

#[test]
fn a_lagging_replica_and_a_silent_mysqld_are_told() {
    let mut nodes = healthy();
    nodes[1].set("keeper", "/lag_seconds", json!(12.4));
    nodes[2].answers.insert(
        "keeper",
        Ok(json!({"node": "node3", "phase": "mysql-unreachable", "reason": "connection refused"})),
    );
    assert_eq!(
        problems(&judge(nodes)),
        [
            "Degraded node2: its database member is 12 s behind",
            "Degraded node3: its database member is not answering: mysql-unreachable (connection refused)",
        ]
    );
}

#[test]
fn a_gateway_without_a_primary_is_told_and_one_with_replicas_only_in_its_read_pool_is_not() {
    let mut nodes = healthy();
    nodes[1].set("gateway", "/database/write/0", backend("node1", false));
    assert_eq!(problems(&judge(nodes)), ["Critical node2: the gateway knows no primary to write to"]);
}

#[test]
fn a_dead_app_is_told_by_its_own_node_only() {
    let mut nodes = healthy();
    nodes[0].set("web", "/backends/0", backend("app", false));
    nodes[1].set("web", "/backends/1", backend("node1", false));
    assert_eq!(problems(&judge(nodes)), ["Degraded node1: the app is down (cannot connect)"]);
}

#[test]
fn an_app_of_ones_own_needs_no_status_page() {
    let mut nodes = healthy();
    nodes[0].silence("app");
    assert_eq!(judge(nodes).verdict, Verdict::Healthy);
}

#[test]
fn certificates_are_told_thirty_days_before_their_end_and_after_it() {
    let mut nodes = healthy();
    nodes[0].days = 29;
    nodes[1].days = -2;
    let told = problems(&judge(nodes));
    assert!(told.contains(&"Degraded node1: the site certificate expires in 29 days".to_owned()), "{told:?}");
    assert!(
        told.contains(&"Critical node2: the web certificate has expired 2 days ago".to_owned()),
        "{told:?}"
    );
    assert!(told[0].starts_with("Critical"), "worst first: {told:?}");
}

#[test]
fn a_certificate_of_another_site_is_told_in_time_as_well() {
    let mut nodes = healthy();
    let certificate = |file: &str, names: &[&str], days: i64| json!({"file": format!("/run/credentials/trivet-balancer.service/{file}"), "names": names, "days_left": days});
    for node in &mut nodes {
        node.answers.get_mut("balancer").unwrap().as_mut().unwrap()["certificates"] = json!([
            certificate("site.pem", &["foobar.com", "www.foobar.com"], 3),
            certificate("wildcard.pem", &["*.foobar.com"], 3),
            certificate("site-shop.pem", &["shop.foobar.example"], 29),
            certificate("site-blog.pem", &["blog.foobar.example"], 30),
            certificate("site-old.pem", &["old.foobar.example"], -1),
        ]);
    }
    nodes[1].silence("balancer");
    nodes[2].silence("balancer");
    let told = problems(&judge(nodes));
    let told: Vec<&str> = told.iter().filter(|t| t.contains("the certificate")).map(String::as_str).collect();
    assert_eq!(
        told,
        [
            "Critical node1: the certificate site-old.pem (old.foobar.example) has expired 1 days ago",
            "Degraded node1: the certificate site-shop.pem (shop.foobar.example) expires in 29 days",
        ]
    );
}

#[test]
fn back_ends_of_further_pools_are_told_and_a_pool_that_has_none() {
    let mut nodes = healthy();
    for (number, node) in nodes.iter_mut().enumerate() {
        node.answers.get_mut("balancer").unwrap().as_mut().unwrap()["pools"] = json!({
            "api": [backend("api1", true), backend("api2", number != 1)],
            "shop": [backend("shop1", false)],
        });
        node.answers.get_mut("balancer").unwrap().as_mut().unwrap()["tcp"] = json!({
            "mail": {"connections": 3, "pools": {"tcp:mail": [backend("mail1", false)]}},
        });
    }
    let report = judge(nodes);
    assert_eq!(
        problems(&report),
        [
            "Critical cluster: no back end of the pool shop is up: what it serves is answered 503",
            "Critical cluster: no back end of the pool tcp:mail is up: connections are closed",
            "Degraded cluster: api2 of the pool api is out of use for the balancer of node2 (cannot connect)",
            "Degraded cluster: shop1 of the pool shop is out of use for the balancer of node1, node2, node3 (cannot connect)",
            "Degraded cluster: mail1 of the pool tcp:mail is out of use for the balancer of node1, node2, node3 (cannot connect)",
        ]
    );
    assert!(!report.site_down);
}

#[test]
fn several_versions_are_a_notice_that_changes_no_exit_status() {
    let mut nodes = healthy();
    nodes[2].set("web", "/version", json!("0.2.0")).set("balancer", "/stopping", json!(true));
    let report = judge(nodes);
    assert_eq!(
        problems(&report),
        [
            "Notice node3: balancer is stopping",
            "Notice cluster: programs of several versions are running: 0.1.0, 0.2.0"
        ]
    );
    assert_eq!(report.verdict.exit_code(), 0);
}

#[test]
fn when_nothing_answers_the_state_is_unknown_and_the_exit_status_2() {
    let mut nodes = healthy();
    nodes.iter_mut().for_each(|n| {
        n.kill();
    });
    let report = judge(nodes);
    assert_eq!(report.verdict.exit_code(), 2);
    assert!(table::render(&report, false).contains("unknown: no node answers"));
}

#[test]
fn the_table_says_it_all_in_80_columns() {
    let mut nodes = healthy();
    nodes[2].kill();
    nodes[0].set("balancer", "/backends/2", backend("node3", false));
    let text = table::render(&judge(nodes), false);
    let (table, told) = text.split_once("\n\nd").unwrap();
    assert_eq!(
        table.lines().skip(1).collect::<Vec<_>>().join("\n"),
        "degraded: 2 problems\n\
         \n\
         VIRTUAL ADDRESS  HELD BY\n\
         10.77.0.50       node1\n\
         \n\
         NODE   ADDRESS     BALANCER  WEB     APP  GATEWAY  DATABASE  LAG\n\
         node1  10.77.0.11  up        up      up   up       primary   0.0 s\n\
         node2  10.77.0.12  up        up      up   up       replica   0.0 s\n\
         node3  10.77.0.13  silent    silent  ?    silent   silent    -\n\
         \n\
         NODE   WEB TIER  WRITES  READS  SITE CERT  WEB CERT  DB CERT  VERSION\n\
         node1  up        up      -      824 d      824 d     824 d    0.1.0\n\
         node2  up        -       up     824 d      824 d     824 d    0.1.0\n\
         node3  up 1/2    -       up     ?          ?         ?        -"
    );
    assert!(told.contains("node3: nothing answers"), "{told}");
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    assert!(!text.contains('\x1b'), "no colours unless asked for");
    assert!(table::render(&judge(healthy()), true).contains("\x1b[32m"));
}

#[test]
fn the_json_has_the_documented_shape() {
    let json = serde_json::to_value(judge(healthy())).unwrap();
    for (pointer, expected) in [
        ("/verdict", json!("healthy")),
        ("/virtual_addresses/0", json!({"address": "10.77.0.50", "holders": ["node1"]})),
        ("/nodes/0/roles/2", json!("database")),
        ("/nodes/0/programs/balancer/answers", json!(true)),
        (
            "/nodes/0/programs/gateway/backends/0",
            json!({"pool": "write", "name": "node1", "usable": true, "taken_out": false, "reason": null}),
        ),
        ("/nodes/1/database/lag_seconds", json!(0.0)),
        ("/nodes/1/database/role", json!("SECONDARY")),
        ("/nodes/2/certificates/site/days_left", json!(824)),
    ] {
        assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
    }
}

#[test]
fn a_node_without_a_role_is_not_asked_about_it() {
    assert_eq!(cluster().with(Role::Database).count(), 3);
    let mut report = judge(healthy());
    report.nodes[0].roles = vec![Role::Balancer];
    report.nodes[0].programs.retain(|name, _| *name == "balancer");
    report.nodes[0].database = None;
    let text = table::render(&report, false);
    assert!(text.contains("node1  10.77.0.11  up        -    -    -        -"), "{text}");
}

#[test]
fn what_a_program_warns_of_makes_the_cluster_degraded() {
    let mut nodes = healthy();
    let what = "the new certificate is not used, the former stays: /site.pem: expired at 2026-01-01";
    nodes[1].answers.get_mut("balancer").unwrap().as_mut().unwrap()["warnings"] = json!([what]);
    let report = judge(nodes);
    assert_eq!(problems(&report), [format!("Degraded node2: balancer: {what}")]);
    assert_eq!((report.verdict.exit_code(), report.site_down), (1, false));
}

#[test]
fn a_site_without_any_app_is_down_and_not_merely_degraded() {
    let mut nodes = healthy();
    for node in &mut nodes {
        for place in 0..3 {
            node.set("web", &format!("/backends/{place}/usable"), json!(false));
        }
    }
    let report = judge(nodes);
    assert!(problems(&report)[0].starts_with("Critical cluster: no app is up on any node: the site is down"));
    assert!(report.site_down);
    assert!(table::render(&report, false).contains("\nthe site is down: 4 problems\n"));
    // With one left it is not.
    let mut nodes = healthy();
    nodes[0].set("web", "/backends/0/usable", json!(false));
    assert!(!judge(nodes).site_down);
}

#[test]
fn a_site_without_any_web_tier_is_down() {
    let mut nodes = healthy();
    for node in &mut nodes {
        node.silence("web");
        for place in 0..3 {
            node.set("balancer", &format!("/backends/{place}/usable"), json!(false));
        }
    }
    let report = judge(nodes);
    assert!(
        report.site_down && problems(&report)[0].contains("no web tier is up"),
        "{:?}",
        problems(&report)
    );
}
