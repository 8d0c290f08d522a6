//! What operators command: the control socket, `trivet`, and what balancers tell one another (docs/trivet.md, docs/balancer.md).
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use h2::client::SendRequest;
use serde_json::Value;
use support::app::App;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, PATIENT_CHECKS, SITE};
use support::built::built;
use support::client::{Answer, Wire};
use support::program::{Program, call, ended_unready, trivet};
use support::reload::{Successors, free_ports};
use support::{PATIENCE, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

/// Two balancers of one cluster, each of which has the web tiers of both nodes.
struct Cluster {
    authority: Authority,
    apps: Vec<App>,
    ports: [u16; 3],
}

impl Cluster {
    async fn start() -> Self {
        let mut apps = Vec::new();
        for name in ["node1", "node2"] {
            apps.push(App::start(name).await);
        }
        Self { authority: Authority::new(), apps, ports: free_ports() }
    }

    fn folder(&self, node: usize) -> PathBuf {
        let path = self.authority.path(&format!("run{node}"));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn socket(&self, node: usize) -> PathBuf {
        self.folder(node).join("control.sock")
    }

    fn state_file(&self, node: usize) -> PathBuf {
        self.folder(node).join("orders.json")
    }

    fn config(&self, node: usize) -> PathBuf {
        let other = 3 - node;
        let own = self.authority.files(&format!("node{node}"));
        let control = format!(
            "[control]\nstate_file = {:?}\nlisten = \"127.0.0.1:{}\"\n\
             peers = [{{ node = \"node{other}\", address = \"127.0.0.1:{}\" }}]\n\
             tls = {{ ca = {:?}, certificate = {:?}, key = {:?} }}\n",
            self.state_file(node),
            self.ports[node],
            self.ports[other],
            own.ca,
            own.certificate,
            own.key,
        );
        let local = "[local_check]\nlisten = \"127.0.0.1:0\"\n";
        let config = BalancerConfig {
            top: &format!("runtime_directory = {:?}", self.folder(node)),
            http: Some("redirect = false"),
            back_ends: (self.apps.iter().enumerate())
                .map(|(n, app)| (format!("node{}", n + 1), app.address))
                .collect(),
            plain_back_ends: true,
            web: PATIENT_CHECKS,
            sections: &format!("{control}{local}"),
            ..BalancerConfig::default()
        };
        let path = config.write(&self.authority);
        let text = std::fs::read_to_string(path).unwrap().replacen("node1", &format!("node{node}"), 1);
        self.authority.write(&format!("balancer{node}.toml"), &text)
    }

    fn balancer(&self, node: usize) -> Program {
        Program::start(&self.config(node))
    }

    /// Exit status and what is said of a command to a node's balancer.
    fn trivet(&self, node: usize, arguments: &[&str]) -> (i32, String) {
        trivet_at(&self.socket(node), arguments)
    }

    /// As [`trivet`](Self::trivet), and it must go well.
    fn done(&self, node: usize, arguments: &[&str]) -> String {
        let (code, said) = self.trivet(node, arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        said
    }
}

fn trivet_at(socket: &Path, arguments: &[&str]) -> (i32, String) {
    trivet(&[arguments, &["--control", socket.to_str().unwrap()]].concat())
}

async fn get(balancer: &Program, path: &str, fields: &str) -> Answer {
    let mut wire = Wire::plain(balancer.address("http.listen")).await;
    wire.send(&format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n{fields}Connection: close\r\n\r\n")).await;
    wire.answer().await.unwrap()
}

/// Who answers how often.
async fn shares(balancer: &Program, n: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..n {
        let answer = get(balancer, "/", "").await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        *shares.entry(answer.body.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    shares
}

fn only(node: &str, n: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(node.to_owned(), n)])
}

async fn local_check(balancer: &Program, path: &str) -> u16 {
    let mut wire = Wire::plain(balancer.address("local_check.listen")).await;
    wire.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    wire.answer().await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_gets_nothing_new_from_any_balancer_until_it_is_ready() {
    let cluster = Cluster::start().await;
    let (first, second) = (cluster.balancer(1), cluster.balancer(2));
    assert_eq!(shares(&first, 4).await.len(), 2);
    let said = cluster.done(1, &["drain", "node2"]);
    assert!(said.contains("node2 is drained"), "{said}");
    assert!(said.contains("told: balancer of node2"), "{said}");
    for balancer in [&first, &second] {
        assert_eq!(shares(balancer, 6).await, only("node1", 6));
    }
    // Its own balancer would rather not have the address.
    assert_eq!(local_check(&second, "/healthz/wanted").await, 409);
    assert_eq!(local_check(&first, "/healthz/wanted").await, 200);
    let listed = cluster.done(2, &["list"]);
    assert!(listed.contains("drained"), "{listed}");
    assert!(listed.contains("node2 is drained (ordered on node1 at 20"), "{listed}");
    let again = cluster.done(2, &["drain", "node2"]);
    assert!(again.contains("as before"), "{again}");
    cluster.done(2, &["ready", "node2"]);
    for balancer in [&first, &second] {
        assert_eq!(shares(balancer, 6).await.len(), 2);
    }
    assert_eq!(local_check(&second, "/healthz/wanted").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_gets_nothing_new_in_any_pool_that_has_it() {
    let cluster = Cluster::start().await;
    let config = cluster.config(1);
    let text = std::fs::read_to_string(&config).unwrap();
    let backends: Vec<_> = (cluster.apps.iter().enumerate())
        .map(|(n, app)| format!("{{ name = \"node{}\", address = \"{}\" }}", n + 1, app.address))
        .collect();
    let other = format!(
        "[pools.api]\nbackends = [{}]\n{PATIENT_CHECKS}\n[[routes]]\npath_prefix = \"/api\"\npool = \"api\"\n",
        backends.join(",")
    );
    let balancer = Program::start(&cluster.authority.write("more.toml", &format!("{text}\n{other}")));
    let answers = async || {
        let mut names = BTreeSet::new();
        for _ in 0..4 {
            let answer = get(&balancer, "/api/x", "").await;
            assert_eq!(answer.status, 200, "{}", answer.head);
            names.insert(answer.body.split(' ').next().unwrap().to_owned());
        }
        names.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(answers().await, ["node1", "node2"]);
    cluster.done(1, &["drain", "node2"]);
    assert_eq!(answers().await, ["node1"]);
    cluster.done(1, &["ready", "node2"]);
    assert_eq!(answers().await, ["node1", "node2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ordered_outlives_a_restart_and_a_reload_and_reaches_who_was_away() {
    let cluster = Cluster::start().await;
    let mut first = cluster.balancer(1);
    let said = cluster.done(1, &["drain", "node1"]);
    assert!(said.contains("not told: balancer of node2"), "{said}");
    let second = cluster.balancer(2);
    until("it has learnt of it", || async { shares(&second, 4).await == only("node2", 4) }).await;
    first.signal("TERM");
    assert!(first.ended().success());
    let mut first = cluster.balancer(1);
    assert_eq!(shares(&first, 4).await, only("node2", 4), "from the first request on");
    // The new process has the socket, and what was ordered.
    let successors = Successors::of(&cluster.config(1));
    successors.reload();
    first.ended();
    let listed: Value = serde_json::from_str(&cluster.done(1, &["list", "--json"])).unwrap();
    assert_eq!(listed["orders"][0]["about"], "node/node1");
    assert_eq!(listed["pools"][0]["backends"][0]["drained"], true, "{listed}");
    cluster.done(1, &["ready", "node1"]);
    until("the other one knows", || async { shares(&second, 4).await.len() == 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_back_end_can_be_drained_disabled_and_weighed() {
    let cluster = Cluster::start().await;
    let balancer = cluster.balancer(1);
    cluster.done(1, &["weight", "web/node2", "3"]);
    assert_eq!(shares(&balancer, 8).await["node2"], 6);
    cluster.done(1, &["drain", "web/node2"]);
    assert_eq!(shares(&balancer, 4).await, only("node1", 4));
    cluster.done(1, &["disable", "web/node2"]);
    assert!(cluster.done(1, &["list"]).contains("disabled"));
    cluster.done(1, &["ready", "web/node2"]);
    assert_eq!(shares(&balancer, 8).await["node2"], 6, "its weight was not forgotten");
    cluster.done(1, &["weight", "web/node2", "default"]);
    assert_eq!(shares(&balancer, 8).await["node2"], 4);
    let listed: Value = serde_json::from_str(&cluster.done(1, &["list", "--json"])).unwrap();
    assert_eq!(listed["orders"], serde_json::json!([]), "nothing is ordered any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_hand_is_finished_when_its_back_end_is_drained() {
    let cluster = Cluster::start().await;
    let balancer = cluster.balancer(1);
    cluster.done(1, &["drain", "node1"]);
    cluster.apps[1].does(support::app::Act::Wait);
    let mut wire = Wire::plain(balancer.address("http.listen")).await;
    wire.send(&format!("GET /slow HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    until("it is there", || async { cluster.apps[1].count("/slow") == 1 }).await;
    cluster.done(1, &["ready", "node1"]);
    cluster.done(1, &["drain", "node2"]);
    cluster.apps[1].release();
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert_eq!(shares(&balancer, 2).await, only("node1", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_in_maintenance_says_so_to_all_but_those_who_are_allowed() {
    let cluster = Cluster::start().await;
    let (first, second) = (cluster.balancer(1), cluster.balancer(2));
    cluster.done(1, &["maintenance", "on", "--until", "2h"]);
    for balancer in [&first, &second] {
        let answer = get(balancer, "/", "").await;
        assert_eq!(answer.status, 503);
        let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        assert!((7100..=7200).contains(&wait), "{wait}");
        assert_eq!(answer.field("cache-control").as_deref(), Some("no-store"));
        assert!(
            answer.body.contains("closed for maintenance. Please try again in 2 hours."),
            "{}",
            answer.body
        );
    }
    let seen = cluster.apps.iter().map(|app| app.count("/")).sum::<usize>();
    assert_eq!(seen, 0, "no back end was asked");
    // The machine's own address is let in.
    cluster.done(2, &["maintenance", "on", "main", "--allow", "127.0.0.0/8"]);
    assert_eq!(get(&first, "/", "").await.status, 200);
    let listed = cluster.done(1, &["list"]);
    assert!(
        listed.contains("the site main is in maintenance until it is opened, but for 127.0.0.0/8"),
        "{listed}"
    );
    cluster.done(1, &["maintenance", "on", "--until", "1s"]);
    until("it ends by itself", || async { get(&second, "/", "").await.status == 200 }).await;
    cluster.done(1, &["maintenance", "on"]);
    assert_eq!(get(&first, "/", "").await.status, 503);
    cluster.done(2, &["maintenance", "off"]);
    assert_eq!(get(&first, "/", "").await.status, 200);
    assert_eq!(get(&second, "/", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_does_not_end_what_was_extended_meanwhile() {
    let cluster = Cluster::start().await;
    let first = cluster.balancer(1);
    let mut second = cluster.balancer(2);
    cluster.done(1, &["maintenance", "on", "--until", "3s"]);
    second.signal("TERM");
    second.ended();
    cluster.done(1, &["maintenance", "on", "--until", "1h"]);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    // Its file says that it is over.
    let second = cluster.balancer(2);
    until("it has learnt of it", || async { get(&second, "/", "").await.status == 503 }).await;
    // Both have told one another all they know.
    let said = cluster.done(2, &["maintenance", "off", "--json"]);
    assert!(said.contains("\"changed\":true"), "{said}");
    assert_eq!(get(&first, "/", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_come_together_all_count() {
    let cluster = Cluster::start().await;
    let _balancer = cluster.balancer(1);
    let given: Vec<_> = (0..4)
        .flat_map(|_| [vec!["weight", "web/node2", "3"], vec!["drain", "web/node2"]])
        .map(|arguments| {
            let socket = cluster.socket(1);
            std::thread::spawn(move || trivet_at(&socket, &arguments).0)
        })
        .collect();
    assert!(given.into_iter().all(|one| one.join().unwrap() == 0));
    let listed: Value = serde_json::from_str(&cluster.done(1, &["list", "--json"])).unwrap();
    let order = &listed["orders"][0]["order"]["backend"];
    assert_eq!((&order["mode"], &order["weight"]), (&"drained".into(), &3.into()), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_with_the_nearest_name_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let balancer = cluster.balancer(1);
    for (arguments, words) in [
        (&["drain", "nod2"][..], "there is no node \"nod2\"; did you mean node2? There are node1, node2"),
        (&["drain", "elsewhere"], "there is no node \"elsewhere\"; there are node1, node2"),
        (&["drain", "wbe/node2"], "there is no pool \"wbe\"; did you mean web? There is web"),
        (&["ready", "web/node22"], "there is no back end \"node22\"; did you mean node2?"),
        (&["disable", "node2"], "there is no pool \"node2\""),
        (&["disable", "web"], "there is no back end \"web/\""),
        (&["weight", "node2", "3"], "there is no back end \"node2\"; there are web/node1, web/node2"),
        (&["weight", "web/node2", "257"], "a weight is from 0 to 256, and this is 257"),
        (&["maintenance", "on", "man"], "there is no site \"man\"; did you mean main? There is main"),
        (&["maintenance", "on", "--until", "0s"], "is over already"),
        (&["maintenance", "off", "shop"], "there is no site \"shop\""),
    ] {
        let (code, said) = cluster.trivet(1, arguments);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    for arguments in [
        &["weight", "web/node2", "much"][..],
        &["maintenance", "on", "--until", "tomorrow"],
        &["maintenance", "on", "--allow", "10.0.0.1/8"],
        &["drain"],
    ] {
        assert_eq!(cluster.trivet(1, arguments).0, 64, "{arguments:?}");
    }
    assert_eq!(shares(&balancer, 4).await.len(), 2);
    let (code, said) = trivet_at(&cluster.folder(1).join("none.sock"), &["list"]);
    assert_eq!(code, 1);
    assert!(said.contains("no balancer listens on") && said.contains("systemctl status"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_and_what_came_to_nothing_is_told() {
    let cluster = Cluster::start().await;
    let balancer = cluster.balancer(1);
    let browser = cluster.authority.browser(&[b"http/1.1"]);
    let _idle = Wire::tls(balancer.address("https.listen"), SITE, browser).await;
    let _plain = Wire::plain(balancer.address("http.listen")).await;
    until("both have arrived", || async { cluster.done(1, &["connections"]).contains("2 open") }).await;
    assert!(
        cluster.done(1, &["connections"]).contains("127.0.0.1  2 "),
        "{}",
        cluster.done(1, &["connections"])
    );
    let each = cluster.done(1, &["connections", "--all"]);
    assert!(each.contains(&format!("HTTP/1    TLSv1.3  {SITE}")), "{each}");
    get(&balancer, "/well", "").await;
    cluster.apps[0].does(support::app::Act::Fail);
    cluster.apps[1].does(support::app::Act::Fail);
    assert_eq!(get(&balancer, "/broken?secret=1", "").await.status, 500);
    assert_eq!(get(&balancer, "/a/../b", "").await.status, 400);
    let errors: Value = serde_json::from_str(&cluster.done(1, &["errors", "--json"])).unwrap();
    let seen = |n: usize| (errors[n]["path"].as_str().unwrap(), errors[n]["status"].as_u64().unwrap());
    assert_eq!((seen(0), seen(1)), (("/a/../b", 400), ("/broken", 500)), "{errors}");
    assert_eq!(errors.as_array().unwrap().len(), 2);
    let told = cluster.done(1, &["errors"]);
    assert!(told.contains(&format!("GET {SITE}/broken")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_going_on_is_shown_of_all_balancers_together() {
    let cluster = Cluster::start().await;
    let (first, second) = (cluster.balancer(1), cluster.balancer(2));
    let (code, said) = {
        let asking = async {
            for balancer in [&first, &second].into_iter().cycle() {
                get(balancer, "/", "").await;
            }
        };
        let socket = cluster.socket(1);
        let looking = tokio::task::spawn_blocking(move || {
            trivet_at(&socket, &["top", "--once", "--json", "--interval", "1s"])
        });
        tokio::select! { () = asking => unreachable!(), looked = looking => looked.unwrap() }
    };
    assert_eq!(code, 0, "{said}");
    let view: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(view["sites"][0]["name"], "main");
    assert!(view["sites"][0]["requests"].as_f64().unwrap() > 1.0, "{view}");
    let backends: Vec<_> =
        view["backends"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert!(backends.contains(&"node1") && backends.contains(&"node2"), "{view}");
    assert!(view["seconds"]["p50"].as_f64().unwrap() > 0.0, "{view}");
    assert_eq!(view["silent"], serde_json::json!([]));
    drop(second);
    let shown = cluster.done(1, &["top", "--once", "--interval", "100ms"]);
    assert!(
        shown.contains("balancer of node2 says nothing") && shown.contains("SITE  REQUESTS/S"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_written_is_refused() {
    let cluster = Cluster::start().await;
    let balancer = cluster.balancer(1);
    // A folder cannot be replaced by a file.
    std::fs::create_dir(cluster.state_file(1)).unwrap();
    let (code, said) = cluster.trivet(1, &["drain", "node2"]);
    assert_eq!(code, 1);
    assert!(said.contains("cannot remember it, so nothing was done"), "{said}");
    assert_eq!(shares(&balancer, 4).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_owner_and_group_and_replaces_nothing_else() {
    let cluster = Cluster::start().await;
    let mut balancer = cluster.balancer(1);
    let socket = cluster.socket(1);
    until("it is there", || async { socket.exists() }).await;
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    balancer.signal("KILL");
    balancer.ended();
    // What a killed process left is replaced.
    let mut balancer = cluster.balancer(1);
    cluster.done(1, &["list"]);
    balancer.signal("TERM");
    balancer.ended();
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    let mut command = Command::new(built("trivet-balancer"));
    command.arg("--config").arg(cluster.config(1));
    let (code, said) = ended_unready(command);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("control.socket") && said.contains("a file that is no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_listened_to() {
    let cluster = Cluster::start().await;
    let balancer = cluster.balancer(1);
    let order = r#"{"node/node2":{"at":99999999999999,"by":"x","order":"drained"}}"#;
    let request =
        format!("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{order}", order.len());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], cluster.ports[1]));
    // Without a certificate of the cluster, and in plain text.
    let nameless = cluster.authority.browser(&[b"http/1.1"]);
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    if let Ok(mut wire) = Wire::try_tls_over(tcp, "node1", nameless).await {
        wire.send(&request).await;
        assert!(wire.answer().await.is_none(), "TLS 1.3 tells a client so after its own handshake");
    }
    let mut wire = Wire::plain(address).await;
    wire.send(&request).await;
    assert!(wire.answer().await.is_none());
    assert_eq!(shares(&balancer, 4).await.len(), 2);
}

#[test]
fn a_control_section_that_cannot_work_is_refused_by_its_key() {
    let authority = Authority::new();
    let tls = "tls = { ca = \"/a\", certificate = \"/b\", key = \"/c\" }";
    for (control, words) in [
        ("[control]", "control.socket: is missing"),
        ("[control]\nsocket = \"control.sock\"", "control.socket: \"control.sock\" is not an absolute path"),
        ("[control]\nsocket = \"/run/c\"\nlisten = \"127.0.0.1:1\"", "control.tls: is missing"),
        ("[control]\nsocket = \"/run/c\"\nstate_file = \"x\"", "control.state_file"),
        ("[control]\nsocket = \"/run/c\"\nsecret = 1", "unknown field `secret`"),
        (
            &format!(
                "[control]\nsocket = \"/run/c\"\npeers = [{{ node = \"a b\", address = \"127.0.0.1:1\" }}]\n{tls}"
            ),
            "control.peers[0].node",
        ),
        (
            &format!(
                "[control]\nsocket = \"/run/c\"\nlisten = \"127.0.0.1:1\"\npeers = [{{ node = \"b\", address = \"127.0.0.1:1\" }}]\n{tls}"
            ),
            "control.peers[0].address: 127.0.0.1:1 is this one's own",
        ),
    ] {
        let config = BalancerConfig {
            back_ends: vec![("a".into(), "127.0.0.1:1".parse().unwrap())],
            plain_back_ends: true,
            sections: control,
            ..BalancerConfig::default()
        };
        let path = config.write(&authority);
        let (code, said) = call(&["--check", "--config", path.to_str().unwrap()]);
        assert_eq!(code, 64, "{control}: {said}");
        assert!(said.contains(words), "{control}: {said}");
    }
}

/// A balancer of node1 that is reached at its own address, 127.0.0.1, and at a virtual one, 127.0.0.2.
struct WithVirtualAddress {
    cluster: Cluster,
    balancer: Program,
}

impl WithVirtualAddress {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let text = std::fs::read_to_string(cluster.config(1)).unwrap();
        let listen = |section| format!("[{section}]\nlisten = [\"127.0.0.1:0\"]");
        let everywhere = |section| format!("[{section}]\nlisten = [\"0.0.0.0:0\"]");
        let text = text.replace(&listen("http"), &everywhere("http"));
        let text = text.replace(&listen("https"), &everywhere("https"));
        let text = format!("virtual_addresses = [\"127.0.0.2\"]\n{text}");
        let balancer = Program::start(&cluster.authority.write("virtual.toml", &text));
        // The other back end has what is asked.
        cluster.done(1, &["drain", "web/node1"]);
        Self { cluster, balancer }
    }

    fn at(&self, host: u8, listener: &str) -> std::net::SocketAddr {
        ([127, 0, 0, host], self.balancer.address(listener).port()).into()
    }

    /// A connection on which a request was answered.
    async fn kept(&self, host: u8) -> Wire {
        let mut wire = Wire::plain(self.at(host, "http.listen")).await;
        assert!(!is_last(&mut wire).await);
        wire
    }

    /// Whether the answer to a request on a new connection is its last.
    async fn closes(&self, host: u8) -> bool {
        is_last(&mut Wire::plain(self.at(host, "http.listen")).await).await
    }

    /// A request for `/slow` over HTTP/2 to the virtual address, on a connection where all is read that came before.
    async fn http2(
        &self,
    ) -> (h2::client::ResponseFuture, JoinHandle<Result<(), h2::Error>>, SendRequest<bytes::Bytes>) {
        let browser = self.cluster.authority.browser(&[b"h2"]);
        let wire = Wire::tls(self.at(2, "https.listen"), SITE, browser).await;
        let (mut client, mut connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
        let mut ping = connection.ping_pong().unwrap();
        let connection = tokio::spawn(connection);
        ping.ping(h2::Ping::opaque()).await.unwrap();
        let request = http::Request::get(format!("https://{SITE}/slow")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        (answer, connection, client)
    }

    /// Orders without waiting for what becomes of it.
    async fn command(&self, command: &str) {
        let mut socket = tokio::net::UnixStream::connect(self.cluster.socket(1)).await.unwrap();
        let length = command.len();
        let head = format!(
            "POST /command HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        socket.write_all((head + command).as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

async fn is_last(wire: &mut Wire) -> bool {
    wire.send(&format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.field("connection").as_deref() == Some("close")
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_the_virtual_address_end_in_order_when_their_node_is_drained() {
    let scene = WithVirtualAddress::start().await;
    let (mut idle, mut own) = (scene.kept(2).await, scene.kept(1).await);
    scene.cluster.apps[1].does(support::app::Act::Wait);
    let mut busy = Wire::plain(scene.at(2, "http.listen")).await;
    busy.send(&format!("GET /slow HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (answer, connection, mut client) = scene.http2().await;
    until("both are there", || async { scene.cluster.apps[1].count("/slow") == 2 }).await;

    scene.cluster.done(1, &["drain", "node1"]);
    assert!(idle.closes_within(PATIENCE).await, "one that waits for a request is closed");
    // No new stream is begun, though the one before is not done.
    let refused = async {
        while let Ok(ready) = client.clone().ready().await {
            client = ready;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("no GOAWAY");
    scene.cluster.apps[1].release();
    assert_eq!(answer.await.unwrap().status(), 200);
    tokio::time::timeout(PATIENCE, connection).await.expect("it ends with its last stream").unwrap().unwrap();
    let last = busy.answer().await.unwrap();
    assert_eq!((last.status, last.field("connection").as_deref()), (200, Some("close")));
    assert!(scene.closes(2).await, "whoever comes while the address is still here is answered once");
    let late = scene.http2().await;
    assert_eq!(late.0.await.unwrap().status(), 200, "over HTTP/2, too");
    tokio::time::timeout(PATIENCE, late.1).await.expect("no GOAWAY").unwrap().unwrap();
    assert!(!is_last(&mut own).await, "the address of the node itself moves nowhere");
    assert!(!scene.closes(1).await);

    scene.cluster.done(1, &["ready", "node1"]);
    let mut again = scene.kept(2).await;
    assert!(!is_last(&mut again).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_the_virtual_address_end_in_order_when_it_is_to_be_elsewhere() {
    let scene = WithVirtualAddress::start().await;
    let mut idle = scene.kept(2).await;
    scene.command("{\"command\": \"failover\", \"node\": \"node1\"}").await;
    assert!(!is_last(&mut idle).await, "it is to be here");
    scene.command("{\"command\": \"failover\", \"node\": \"node2\"}").await;
    assert!(idle.closes_within(PATIENCE).await);
    assert!(scene.closes(2).await);
    assert!(!scene.closes(1).await);
}
