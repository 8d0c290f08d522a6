//! The database gateway as applications, members and keepers see it: the real program between them.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use support::authority::Authority;
use support::backend::Backend;
use support::built::built;
use support::client::Wire;
use support::program::{Program, ended_unready};
use support::reload::{Successors, free_ports};
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How a member receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Says its name first, as mysqld does, then sends back what it gets.
    Greets,
    /// Accepts and says nothing, as the kernel does for a frozen mysqld.
    Silent,
    /// Says that it has too many connections.
    Full,
    /// Greets, takes what it gets, and answers when it greets again.
    Thinks,
}

/// "Too many connections", framed as mysqld frames it.
const FULL: &[u8] = b"\x17\x00\x00\x00\xff\x10\x04Too many connections";

/// COM_STMT_CLOSE of statement 1, which mysqld does not answer.
const CLOSE: &str = "\x05\0\0\0\x19\x01\0\0\0";

struct Member {
    name: &'static str,
    address: SocketAddr,
    stop: CancellationToken,
    manner: watch::Sender<Manner>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
    /// What it was asked so far.
    asked: Arc<AtomicUsize>,
}

impl Member {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (manner, open) = (watch::Sender::new(Manner::Greets), Arc::new(AtomicUsize::new(0)));
        let asked = Arc::new(AtomicUsize::new(0));
        let (stopped, watched, count, questions) =
            (stop.clone(), manner.subscribe(), open.clone(), asked.clone());
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = stopped.cancelled() => return,
                };
                let (mut manner, count, asked) = (watched.clone(), count.clone(), questions.clone());
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    let end = async {
                        // Silent, until it thaws or the other side has enough of it.
                        let mut bytes = [0; 1024];
                        let now = tokio::select! {
                            biased;
                            thawed = manner.wait_for(|m| *m != Manner::Silent) => *thawed.unwrap(),
                            _ = tcp.peek(&mut bytes) => return,
                        };
                        if now == Manner::Full {
                            let _ = tcp.write_all(FULL).await;
                            return;
                        }
                        let _ = tcp.write_all(name.as_bytes()).await;
                        while let Ok(n @ 1..) = tcp.read(&mut bytes).await {
                            asked.fetch_add(1, Ordering::SeqCst);
                            if &bytes[..n] == CLOSE.as_bytes() {
                                continue;
                            }
                            manner.wait_for(|m| *m != Manner::Thinks).await.unwrap();
                            if tcp.write_all(&bytes[..n]).await.is_err() {
                                return;
                            }
                        }
                        // The client's half-close ends in a last word.
                        let _ = tcp.write_all(b"bye").await;
                    };
                    end.await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { name, address, stop, manner, open, asked }
    }

    fn is(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Number and text of the ERR packet that comes before any handshake, after which the connection is closed.
async fn error(wire: &mut Wire) -> (u16, String) {
    let mut packet = Vec::new();
    while let Some(bytes) = wire.bytes().await {
        packet.extend(bytes);
    }
    assert!(packet.len() > 7, "closed without an error that a driver understands");
    assert_eq!(usize::from(packet[0]) + 256 * usize::from(packet[1]) + 4, packet.len(), "one whole packet");
    assert_eq!((packet[3], packet[4]), (0, 0xff), "sequence 0, ERR: {packet:?}");
    (u16::from_le_bytes([packet[5], packet[6]]), String::from_utf8(packet[7..].to_vec()).unwrap())
}

struct Scene {
    keepers: Vec<Backend>,
    members: Vec<Member>,
    gateway: Program,
    _authority: Authority,
}

impl Scene {
    /// Three members; node0 is primary, the others are replicas.
    async fn with(keys: &str) -> Self {
        Self::start(keys, "500ms").await
    }

    async fn start(keys: &str, shutdown_timeout: &str) -> Self {
        let (config, rest) = Self::prepare(keys, shutdown_timeout, "127.0.0.1:0").await;
        let gateway = Program::start(&config);
        let (keepers, members, _authority) = rest;
        Self { keepers, members, gateway, _authority }
    }

    /// Everything but the gateway, whose configuration is written.
    async fn prepare(
        keys: &str,
        shutdown_timeout: &str,
        write_listen: &str,
    ) -> (std::path::PathBuf, (Vec<Backend>, Vec<Member>, Authority)) {
        let authority = Authority::new();
        let (mut keepers, mut members, mut list) = (Vec::new(), Vec::new(), Vec::new());
        for (i, name) in ["node0", "node1", "node2"].into_iter().enumerate() {
            let keeper = Backend::start(name, authority.mutual_server(name)).await;
            keeper.claims(i == 0, i != 0);
            let member = Member::start(name).await;
            list.push(format!(
                "{{name=\"{name}\",address=\"{}\",keeper=\"{}\"}}",
                member.address, keeper.address
            ));
            keepers.push(keeper);
            members.push(member);
        }
        let own = authority.files("own");
        let config = authority.write(
            "gateway.toml",
            &format!(
                "node = \"node0\"\nshutdown_timeout = \"{shutdown_timeout}\"\ndrain_delay = \"0s\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[database]\n\
                 write_listen = [\"{write_listen}\"]\nread_listen = [\"127.0.0.1:0\"]\nmembers = [{}]\n\
                 tls = {{ ca = \"{}\", certificate = \"{}\", key = \"{}\" }}\n{}\nhealth = {{ interval = \"100ms\", timeout = \"10s\" }}\n{keys}\n",
                list.join(","),
                own.ca.display(),
                own.certificate.display(),
                own.key.display(),
                if keys.contains("connect_timeout") { "" } else { "connect_timeout = \"5s\"" },
            ),
        );
        (config, (keepers, members, authority))
    }

    async fn write(&self) -> Wire {
        Wire::plain(self.gateway.address("database.write_listen")).await
    }

    async fn read(&self) -> Wire {
        Wire::plain(self.gateway.address("database.read_listen")).await
    }

    async fn status(&self) -> serde_json::Value {
        let mut wire = Wire::plain(self.gateway.address("metrics.listen")).await;
        wire.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await;
        serde_json::from_str(&wire.answer().await.unwrap().body).unwrap()
    }

    async fn primary(&self) -> Option<String> {
        self.status().await["database"]["primary"].as_str().map(str::to_owned)
    }
}

/// It has no certificates to read anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_no_gateway() {
    let mut scene = Scene::with("").await;
    let mut wire = scene.write().await;
    assert!(greeting(&mut wire).await.contains("node0"));
    scene.gateway.signal("HUP");
    assert!(greeting(&mut scene.write().await).await.contains("node0"));
    assert!(scene.gateway.is_running());
}

async fn greeting(wire: &mut Wire) -> String {
    String::from_utf8(wire.bytes().await.expect("a greeting")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_to_the_primary_and_reads_round_the_replicas() {
    let scene = Scene::with("").await;
    for _ in 0..3 {
        let mut wire = scene.write().await;
        assert_eq!(greeting(&mut wire).await, "node0");
        wire.send("insert").await;
        assert_eq!(wire.bytes().await.unwrap(), b"insert");
    }
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(greeting(&mut scene.read().await).await);
    }
    readers.sort();
    assert_eq!(readers, ["node1", "node1", "node2", "node2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_sessions_where_they_are_and_refuses_nobody() {
    let [write, read, metrics] = free_ports();
    let (config, (keepers, _members, authority)) =
        Scene::prepare("", "500ms", &format!("127.0.0.1:{write}")).await;
    let run = authority.path("run");
    std::fs::create_dir(&run).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let text =
        text.replace("read_listen = [\"127.0.0.1:0\"]", &format!("read_listen = [\"127.0.0.1:{read}\"]"));
    let text = text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{metrics}\""));
    std::fs::write(&config, format!("runtime_directory = {run:?}\n{text}")).unwrap();
    let mut first = Program::start(&config);
    let (writes, reads) = (([127, 0, 0, 1], write).into(), ([127, 0, 0, 1], read).into());
    let (mut writer, mut reader) = (Wire::plain(writes).await, Wire::plain(reads).await);
    assert_eq!(greeting(&mut writer).await, "node0");
    let replica = greeting(&mut reader).await;

    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let everyone = tokio::spawn(async move {
        let mut served = 0;
        while !stopped.is_cancelled() {
            assert_eq!(greeting(&mut Wire::plain(writes).await).await, "node0");
            served += 1;
        }
        served
    });
    let successors = Arc::new(Successors::of(&config));
    for _ in 0..3 {
        let reloading = successors.clone();
        tokio::task::spawn_blocking(move || reloading.reload()).await.unwrap();
    }
    stop.cancel();
    assert!(everyone.await.expect("somebody was refused") > 3);

    for wire in [&mut writer, &mut reader] {
        wire.send("same session").await;
        assert_eq!(wire.bytes().await.unwrap(), b"same session");
    }
    // The process before still follows the primary: a session there must not write to a former one.
    keepers[0].claims(false, true);
    keepers[1].claims(true, false);
    assert!(writer.closes_within(Duration::from_secs(5)).await);
    // Each process asks the keepers for itself.
    until("the new process knows the new primary", || async {
        let mut wire = Wire::plain(([127, 0, 0, 1], metrics).into()).await;
        wire.send("GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let status: serde_json::Value = serde_json::from_str(&wire.answer().await.unwrap().body).unwrap();
        status["database"]["primary"] == "node1"
    })
    .await;
    let mut after = Wire::plain(writes).await;
    assert_eq!(greeting(&mut after).await, "node1");
    if replica == "node2" {
        reader.send("still").await;
        assert_eq!(reader.bytes().await.unwrap(), b"still");
    }
    drop(reader);
    assert!(first.ended().success(), "its last session has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_connections_are_spread_over_all_threads() {
    let scene = Scene::with("").await;
    let mut wires = Vec::new();
    for _ in 0..7 {
        let (mut writer, mut reader) = (scene.write().await, scene.read().await);
        greeting(&mut writer).await;
        greeting(&mut reader).await;
        wires.push((writer, reader));
    }
    let status = scene.status().await;
    let each = status["workers"].as_array().unwrap().iter().map(|w| w["connections"].as_u64().unwrap());
    let (least, most) = (each.clone().min().unwrap(), each.clone().max().unwrap());
    assert!(each.sum::<u64>() == 14 && most - least <= 1, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_is_passed_on_and_the_answer_still_comes() {
    let scene = Scene::with("").await;
    let address = scene.gateway.address("database.write_listen");
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"last").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut all = String::new();
    tcp.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "node0lastbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_role_loses_its_connections_at_once_and_the_new_primary_is_followed() {
    let scene = Scene::with("").await;
    let mut writer = scene.write().await;
    assert_eq!(greeting(&mut writer).await, "node0");
    let mut reader = scene.read().await;
    let reads_from = greeting(&mut reader).await;

    scene.keepers[0].claims(false, true);
    let began = Instant::now();
    assert!(writer.closes_within(Duration::from_secs(5)).await);
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());

    let mut waiting = scene.write().await;
    scene.keepers[1].claims(true, false);
    assert_eq!(greeting(&mut waiting).await, "node1", "the connection that waited meets the new primary");
    if reads_from == "node2" {
        reader.send("still").await;
        assert_eq!(reader.bytes().await.unwrap(), b"still", "a replica's connections stay");
    } else {
        assert!(reader.closes_within(Duration::from_secs(5)).await, "node1 is no replica any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_no_longer_answers_is_not_believed_either() {
    let scene = Scene::with("").await;
    let mut writer = scene.write().await;
    assert_eq!(greeting(&mut writer).await, "node0");
    scene.keepers[0].kill().await;
    assert!(writer.closes_within(Duration::from_secs(5)).await);
    until("nobody is primary", || async { scene.primary().await.is_none() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_claim_to_be_primary_neither_gets_a_connection() {
    let scene = Scene::with("wait_for_primary = \"300ms\"").await;
    let mut writer = scene.write().await;
    assert_eq!(greeting(&mut writer).await, "node0");
    scene.keepers[1].claims(true, false);
    assert!(writer.closes_within(Duration::from_secs(5)).await);
    scene.gateway.logged(|l| l["claims"] == "node0, node1");
    assert_eq!(error(&mut scene.write().await).await.0, 2003);
    scene.keepers[0].claims(false, true);
    until("node1 is believed", || async { scene.primary().await.as_deref() == Some("node1") }).await;
    assert_eq!(greeting(&mut scene.write().await).await, "node1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_primary_a_connection_waits_and_is_then_told_so() {
    let scene = Scene::with("wait_for_primary = \"600ms\"").await;
    scene.keepers[0].claims(false, false);
    until("nobody is primary", || async { scene.primary().await.is_none() }).await;
    let began = Instant::now();
    let mut wire = scene.write().await;
    let (number, text) = error(&mut wire).await;
    assert!(began.elapsed() >= Duration::from_millis(600), "told after {:?}", began.elapsed());
    assert_eq!(number, 2003, "as MySQL Router says it");
    assert!(text.contains("no member of the database group takes writes (waited 600ms)"), "{text}");
    scene.gateway.logged(|l| l["message"] == "connection closed: no member serves this role");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_replica_reads_go_to_the_primary() {
    let scene = Scene::with("").await;
    scene.keepers[1].claims(false, false);
    scene.keepers[2].claims(false, false);
    until("no replica is left", || async {
        scene.status().await["database"]["read"].as_array().unwrap().iter().all(|b| b["usable"] == false)
    })
    .await;
    assert_eq!(greeting(&mut scene.read().await).await, "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_be_reached_is_passed_over() {
    let scene = Scene::with("").await;
    scene.members[1].stop.cancel();
    let gone = scene.members[1].address;
    until("it no longer listens", || async { tokio::net::TcpStream::connect(gone).await.is_err() }).await;
    for _ in 0..4 {
        assert_eq!(greeting(&mut scene.read().await).await, "node2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_max_connections_a_connection_is_closed_at_once() {
    let scene = Scene::with("max_connections = 1").await;
    let mut first = scene.write().await;
    assert_eq!(greeting(&mut first).await, "node0");
    assert_eq!(error(&mut scene.write().await).await, (1040, "Too many connections".into()));
    drop(first);
    until("the place is free again", || async {
        let mut wire = scene.write().await;
        wire.bytes().await.is_some_and(|first| first == b"node0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_connections_after_the_timeout() {
    let mut scene = Scene::with("").await;
    let mut writer = scene.write().await;
    assert_eq!(greeting(&mut writer).await, "node0");
    scene.gateway.signal("TERM");
    assert!(writer.closes_within(Duration::from_secs(10)).await);
    assert!(scene.gateway.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_gets_no_reads_and_the_primary_serves_when_all_do() {
    let scene = Scene::with("max_lag = \"5s\"").await;
    scene.keepers[1].lags(6);
    until("node1 is out", || async { scene.status().await["database"]["read"][1]["usable"] == false }).await;
    for _ in 0..4 {
        assert_eq!(greeting(&mut scene.read().await).await, "node2");
    }
    scene.keepers[2].lags(6);
    until("node2 is out", || async { scene.status().await["database"]["read"][2]["usable"] == false }).await;
    assert_eq!(greeting(&mut scene.read().await).await, "node0", "the primary lags behind nobody");
    scene.keepers[2].lags(5);
    until("node2 has caught up", || async { greeting(&mut scene.read().await).await == "node2" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_max_lag_0s_a_replica_may_lag() {
    let scene = Scene::with("max_lag = \"0s\"").await;
    scene.keepers[1].lags(600);
    scene.keepers[2].lags(600);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_ne!(greeting(&mut scene.read().await).await, "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_accepts_and_says_nothing_gets_no_reads() {
    let scene = Scene::with("connect_timeout = \"300ms\"").await;
    scene.members[1].is(Manner::Silent);
    for _ in 0..4 {
        assert_eq!(greeting(&mut scene.read().await).await, "node2");
    }
    scene.members[2].is(Manner::Silent);
    assert_eq!(greeting(&mut scene.read().await).await, "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_replica_is_passed_over_and_a_full_primary_says_so() {
    let scene = Scene::with("").await;
    scene.members[1].is(Manner::Full);
    for _ in 0..4 {
        assert_eq!(greeting(&mut scene.read().await).await, "node2");
    }
    scene.members[0].is(Manner::Full);
    assert_eq!(scene.write().await.bytes().await.unwrap(), FULL, "its own words");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_primary_is_not_stormed() {
    let scene = Scene::with("max_connecting = 3\nconnect_timeout = \"20s\"").await;
    scene.keepers[0].claims(false, true);
    until("nobody is primary", || async { scene.primary().await.is_none() }).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(scene.write().await);
    }
    scene.members[1].is(Manner::Silent);
    scene.keepers[1].claims(true, false);
    until("three are on their way", || async { scene.members[1].open() == 3 }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.members[1].open(), 3, "the others queue");
    scene.members[1].is(Manner::Greets);
    for mut wire in waiting {
        assert_eq!(greeting(&mut wire).await, "node1", "and all are served in the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_connection_ends_with_the_role_as_well() {
    let scene = Scene::with("").await;
    let address = scene.gateway.address("database.write_listen");
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut first = [0; 5];
    tcp.read_exact(&mut first).await.unwrap();
    assert_eq!(scene.members[0].open(), 1);
    // The client reads no more and says no more; it only holds on.
    scene.keepers[0].claims(false, true);
    until("the member is rid of it", || async { scene.members[0].open() == 0 }).await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "and so is the client");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_when_the_gateway_stops_is_told() {
    let mut scene = Scene::with("").await;
    scene.keepers[0].claims(false, false);
    until("nobody is primary", || async { scene.primary().await.is_none() }).await;
    let mut wire = scene.write().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    scene.gateway.signal("TERM");
    assert_eq!(error(&mut wire).await.0, 1053, "server shutdown: try again");
    assert!(scene.gateway.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_statements_and_not_for_idle_connections_and_refuses_nobody_meanwhile() {
    let mut scene = Scene::start("", "60s").await;
    let (mut idle, mut busy) = (scene.write().await, scene.write().await);
    assert_eq!((greeting(&mut idle).await, greeting(&mut busy).await), ("node0".into(), "node0".into()));
    scene.members[0].is(Manner::Thinks);
    busy.send("long statement").await;
    until("it is being executed", || async { scene.members[0].asked() == 1 }).await;

    scene.gateway.signal("TERM");
    assert!(idle.closes_within(Duration::from_secs(20)).await, "nobody waits for an idle connection");
    for _ in 0..3 {
        assert_eq!(greeting(&mut scene.write().await).await, "node0", "new connections are served");
        assert_ne!(greeting(&mut scene.read().await).await, "node0");
    }
    scene.members[0].is(Manner::Greets);
    assert_eq!(busy.bytes().await.unwrap(), b"long statement", "what was begun is answered");
    assert!(busy.closes_within(Duration::from_secs(20)).await);
    assert!(scene.gateway.ended().success());
    assert!(!scene.gateway.lines().iter().any(|l| l["message"].as_str().unwrap_or("").contains("cut off")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_pauses_gets_every_answer_before_the_gateway_ends() {
    let mut scene = Scene::start("", "2s").await;
    let mut wire = scene.write().await;
    assert_eq!(greeting(&mut wire).await, "node0");
    let writing = tokio::spawn(async move {
        let mut answers = 0;
        while wire.try_send("statement").await
            && let Some(bytes) = wire.bytes().await
        {
            assert_eq!(bytes, b"statement");
            answers += 1;
        }
        answers
    });
    until("it writes", || async { scene.members[0].asked() > 100 }).await;
    scene.gateway.signal("TERM");
    assert_eq!(writing.await.unwrap(), scene.members[0].asked(), "what a member was asked was answered");
    assert!(scene.gateway.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_role_moves_connections_end_between_two_statements() {
    let scene = Scene::with("").await;
    let (mut idle, mut busy) = (scene.write().await, scene.write().await);
    assert_eq!((greeting(&mut idle).await, greeting(&mut busy).await), ("node0".into(), "node0".into()));
    idle.send("select").await;
    assert_eq!(idle.bytes().await.unwrap(), b"select");
    idle.send(CLOSE).await;
    until("a prepared statement is closed", || async { scene.members[0].asked() == 2 }).await;
    scene.members[0].is(Manner::Thinks);
    busy.send("long statement").await;
    until("it is being executed", || async { scene.members[0].asked() == 3 }).await;

    scene.keepers[0].drains();
    assert!(idle.closes_within(Duration::from_secs(20)).await);
    let mut waiting = scene.write().await;
    scene.members[0].is(Manner::Greets);
    assert_eq!(busy.bytes().await.unwrap(), b"long statement");
    assert!(busy.closes_within(Duration::from_secs(20)).await);
    scene.keepers[1].claims(true, false);
    assert_eq!(greeting(&mut waiting).await, "node1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_ends_reads_between_two_statements_and_none_in_the_middle_of_one() {
    for order in ["drain", "disable"] {
        let (config, rest) = Scene::prepare("", "500ms", "127.0.0.1:0").await;
        let (keepers, members, _authority) = rest;
        let socket = config.with_file_name("control.sock");
        let mut text = std::fs::read_to_string(&config).unwrap();
        text.push_str(&format!("[control]\nsocket = {socket:?}\n"));
        std::fs::write(&config, text).unwrap();
        let scene = Scene { keepers, members, gateway: Program::start(&config), _authority };
        let (mut idle, mut busy) = (scene.read().await, scene.read().await);
        let (name, other) = (greeting(&mut busy).await, greeting(&mut idle).await);
        assert_ne!(name, other);
        let drained = scene.members.iter().find(|m| m.name == name).unwrap();
        let mut idle_there = scene.read().await;
        while greeting(&mut idle_there).await != name {
            idle_there = scene.read().await;
        }
        idle_there.send(CLOSE).await;
        until("a prepared statement is closed", || async { drained.asked() == 1 }).await;
        drained.is(Manner::Thinks);
        busy.send("long statement").await;
        until("it is being executed", || async { drained.asked() == 2 }).await;

        let target = if order == "drain" { name.clone() } else { format!("database-read/{name}") };
        let ordered = std::process::Command::new(built("trivet"))
            .args([order, &target, "--control", socket.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(ordered.status.success(), "{order}: {}", String::from_utf8_lossy(&ordered.stderr));
        assert!(idle_there.closes_within(Duration::from_secs(20)).await, "nothing was begun there");
        assert_eq!(greeting(&mut scene.read().await).await, other, "new ones go elsewhere");
        drained.is(Manner::Greets);
        assert_eq!(busy.bytes().await.unwrap(), b"long statement", "{order}: what was begun is answered");
        assert!(busy.closes_within(Duration::from_secs(20)).await);
        idle.send("select").await;
        assert_eq!(idle.bytes().await.unwrap(), b"select");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_stays_after_all_is_served_again() {
    let scene = Scene::with("").await;
    let mut busy = scene.write().await;
    assert_eq!(greeting(&mut busy).await, "node0");
    scene.members[0].is(Manner::Thinks);
    busy.send("long statement").await;
    until("it is being executed", || async { scene.members[0].asked() == 1 }).await;
    scene.keepers[0].drains();
    until("nobody is primary", || async { scene.primary().await.is_none() }).await;
    let mut waiting = scene.write().await;
    scene.keepers[0].claims(true, false);
    scene.members[0].is(Manner::Greets);
    assert_eq!(greeting(&mut waiting).await, "node0");
    waiting.send("insert").await;
    assert_eq!(waiting.bytes().await.unwrap(), b"insert");
    // What was in progress goes on as if nothing had been.
    until("the role is back", || async { scene.primary().await.is_some() }).await;
    assert_eq!(busy.bytes().await.unwrap(), b"long statement");
}

/// A balancer that gets a socket as from systemd, sd_listen_fds(3): standard input carries it to where systemd puts it.
fn with_socket(config: &std::path::Path, socket: impl Into<std::os::fd::OwnedFd>) -> std::process::Command {
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "bash"]);
    shell.arg(built("trivet-balancer")).arg("--config").arg(config).stdin(socket.into());
    shell
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_systemd_holds_are_served_and_refuse_nobody_while_the_gateway_restarts() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let (config, _rest) = Scene::prepare("", "500ms", &address.to_string()).await;
    let start = || Program::spawn(with_socket(&config, held.try_clone().unwrap()));
    let mut first = start();
    assert_eq!(first.logged(|l| l["key"] == "database.write_listen")["socket"], "systemd");
    assert_eq!(greeting(&mut Wire::plain(address).await).await, "node0");
    first.signal("TERM");
    assert!(first.ended().success());
    let mut between = Wire::plain(address).await;
    let _second = start();
    assert_eq!(greeting(&mut between).await, "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_systemd_that_is_in_no_listen_key_is_told_and_the_configured_ones_are_served() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (config, _rest) = Scene::prepare("", "500ms", "127.0.0.1:0").await;
    let address = held.local_addr().unwrap();
    let gateway = Program::spawn(with_socket(&config, held));
    let words = format!("systemd holds a socket at {address}");
    gateway.logged(|l| l["level"] == "WARN" && l["message"].as_str().is_some_and(|m| m.starts_with(&words)));
    let own = gateway.logged(|l| l["key"] == "database.write_listen" && l["socket"] == "own");
    let own = own["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(greeting(&mut Wire::plain(own).await).await, "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_ends_the_gateway_before_it_is_ready() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let (config, _rest) = Scene::prepare("", "500ms", &address.to_string()).await;
    let mut command = std::process::Command::new(built("trivet-balancer"));
    command.arg("--config").arg(&config);
    let (code, said) = ended_unready(command);
    assert_eq!(code, 1, "{said}");
    let expected = format!("trivet-balancer: database.write_listen: cannot listen on {address}: ");
    assert!(said.lines().any(|l| l.starts_with(&expected)), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_the_place_of_a_socket_ends_the_gateway_before_it_is_ready() {
    // As from a socket unit with Accept=yes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _client = std::net::TcpStream::connect(address).unwrap();
    let passed = listener.accept().unwrap().0;
    let (config, _rest) = Scene::prepare("", "500ms", &address.to_string()).await;
    let (code, said) = ended_unready(with_socket(&config, passed));
    assert_eq!(code, 1, "{said}");
    let expected = format!(
        "trivet-balancer: database.write_listen: cannot listen on {address}: the socket that was passed does not listen"
    );
    assert!(said.lines().any(|l| l.starts_with(&expected)), "{said}");
}
