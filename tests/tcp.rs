//! Services of any protocol over TCP (`[tcp.NAME]`, docs/tcp.md): the real program between clients and back ends.
#![allow(missing_docs)]

use std::net::IpAddr;
use std::time::Duration;

use support::built::built;
use support::client::Wire;
use support::dns::{Dns, Says, has};
use support::one_back_end::connect_from;
use support::program::{Program, call, trivet};
use support::reload::{Successors, free_ports};
use support::tcp::{Balancer, Server, config, greeting, on_socket, pool};
use support::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use trivet_http::proxy_protocol::{Version, parse, write};

/// Longer than anything should take.
const LONG: Duration = Duration::from_secs(20);

/// Back ends `node0` and so on, and their entries.
async fn servers<const N: usize>() -> ([Server; N], [String; N]) {
    let mut all = Vec::new();
    for number in 0..N {
        all.push(Server::start(&format!("node{number}")).await);
    }
    let entries = std::array::from_fn(|n| all[n].entry(""));
    (all.try_into().unwrap_or_else(|_| unreachable!()), entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_round_the_back_ends_and_bytes_pass_both_ways() {
    let (_servers, entries) = servers::<3>().await;
    let balancer = Balancer::of("", &pool(&entries, ""));
    let mut met = Vec::new();
    for _ in 0..6 {
        let mut wire = balancer.connect().await;
        met.push(greeting(&mut wire).await);
        wire.send("whatever protocol").await;
        assert_eq!(wire.bytes().await.unwrap(), b"whatever protocol");
    }
    assert_eq!(met[..3], met[3..], "in turn");
    met.sort();
    assert_eq!(met, ["node0", "node0", "node1", "node1", "node2", "node2"]);
    balancer.counts("trivet_tcp_connections_total{service=\"echo\",backend=\"node0\"} 2").await;
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"closed\"} 6").await;
    balancer.counts("trivet_tcp_bytes_total{service=\"echo\",direction=\"to_backend\"} 102").await;
    balancer.has_open(0).await;
    let line = balancer.program.logged(|l| l["target"] == "trivet::access" && l["backend"] == "node1");
    assert_eq!((&line["service"], &line["received"]), (&"echo".into(), &17.into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_is_passed_on_and_the_answer_still_comes() {
    let (_servers, entries) = servers::<1>().await;
    let balancer = Balancer::of("", &pool(&entries, ""));
    let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
    tcp.write_all(b"last").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut all = String::new();
    tcp.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "node0lastbye");

    // One that has nothing to say at all.
    let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
    tcp.shutdown().await.unwrap();
    all.clear();
    tcp.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "node0bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_has_said_all_still_hears_its_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let heard = heard.clone();
            tokio::spawn(async move {
                tcp.write_all(b"all").await?;
                tcp.shutdown().await?;
                let mut said = String::new();
                // A check says nothing.
                if tcp.read_to_string(&mut said).await? > 0 {
                    let _ = heard.send(said);
                }
                std::io::Result::Ok(())
            });
        }
    });
    let entry = format!("{{ name = \"mute\", address = \"{address}\" }}");
    let balancer = Balancer::of("", &pool(&[entry], ""));
    let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
    let mut all = String::new();
    tcp.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "all");
    tcp.write_all(b"and more").await.unwrap();
    tcp.shutdown().await.unwrap();
    let said = tokio::time::timeout(LONG, hears.recv()).await.expect("nothing is heard");
    assert_eq!(said.unwrap(), "and more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_cannot_be_reached_is_left_and_costs_no_connection() {
    let (servers, entries) = servers::<2>().await;
    let balancer = Balancer::of("", &pool(&entries, ""));
    servers[0].stops().await;
    for _ in 0..4 {
        assert_eq!(balancer.meets().await, "node1");
    }
    // It was tried once, and is then passed over.
    balancer.counts("trivet_tcp_connect_failures_total{service=\"echo\",backend=\"node0\"} 1").await;
    assert_eq!(balancer.status().await["pools"]["tcp:echo"][0]["ejected"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn want_of_descriptors_here_is_no_back_ends_fault() {
    let (_servers, entries) = servers::<2>().await;
    let balancer = Balancer::of("", &pool(&entries, ""));
    let pid = balancer.program.pid().to_string();
    let limit = |limit: &str| {
        let mut prlimit = std::process::Command::new("prlimit");
        let done = prlimit.args(["--pid", &pid, &format!("--nofile={limit}:")]).status();
        assert!(done.is_ok_and(|s| s.success()), "prlimit {limit}");
    };
    // Room for the client's connection, and for no other.
    let open: Vec<u32> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let free = (0..).filter(|number| !open.contains(number)).nth(1).unwrap();
    limit(&free.to_string());
    assert_eq!(balancer.connect().await.bytes().await, None);
    limit("4096");
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"local\"} 1").await;
    for backend in balancer.status().await["pools"]["tcp:echo"].as_array().unwrap() {
        assert_eq!(backend["ejected"], false, "{backend}");
    }
    assert!(balancer.meets().await.starts_with("node"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_back_end_a_connection_is_closed() {
    let (servers, entries) = servers::<2>().await;
    let balancer = Balancer::of("", &pool(&entries, ""));
    servers[0].stops().await;
    servers[1].stops().await;
    assert_eq!(balancer.connect().await.bytes().await, None);
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"unreachable\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_take_a_back_end_out_and_a_backup_serves_only_then() {
    let (servers, _) = servers::<3>().await;
    let [first, second, third] = &servers;
    let entries = [first.entry(""), second.entry("backup = true"), third.entry("backup = true")];
    let checks = "health = { interval = \"50ms\", timeout = \"10s\" }";
    let balancer = Balancer::of("", &pool(&entries, checks));
    for _ in 0..3 {
        assert_eq!(balancer.meets().await, "node0");
    }
    let mut session = balancer.connect().await;
    greeting(&mut session).await;
    first.stops().await;
    until("its checks have failed", || async {
        balancer.status().await["pools"]["tcp:echo"][0]["health"] == "down"
    })
    .await;
    let mut met = [balancer.meets().await, balancer.meets().await];
    met.sort();
    assert_eq!(met, ["node1", "node2"]);
    session.send("still").await;
    assert_eq!(session.bytes().await.unwrap(), b"still", "what is open stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_is_down_loses_its_connections_where_that_is_asked_for() {
    let ([first, _second], entries) = servers::<2>().await;
    let keys = "close_when_down = true\nhealth = { interval = \"50ms\", timeout = \"10s\" }";
    let balancer = Balancer::of("", &pool(&entries, keys));
    let mut one = balancer.connect().await;
    assert_eq!(greeting(&mut one).await, "node0");
    let mut other = balancer.connect().await;
    assert_eq!(greeting(&mut other).await, "node1");
    first.stops().await;
    assert!(one.closes_within(LONG).await);
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"backend_down\"} 1").await;
    other.send("still").await;
    assert_eq!(other.bytes().await.unwrap(), b"still");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_drain_a_back_end_whose_sessions_stay() {
    let (_servers, entries) = servers::<2>().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let section = format!(
        "[control]\nsocket = {socket:?}\nstate_file = {:?}\n[tcp.echo]\nlisten = [\"127.0.0.1:0\"]\n[tcp.echo.pool]\n{}",
        folder.path().join("orders.json"),
        pool(&entries, "")
    );
    let program = Program::start(&config(folder.path(), "", &section));
    let address = program.address("tcp.echo.listen");
    let trivet = |command: &str| {
        let mut trivet = std::process::Command::new(built("trivet"));
        trivet.args([command, "tcp:echo/node0", "--control"]).arg(&socket);
        assert!(trivet.output().unwrap().status.success(), "{command}");
    };
    let mut session = Wire::plain(address).await;
    assert_eq!(greeting(&mut session).await, "node0");
    trivet("drain");
    for _ in 0..3 {
        assert_eq!(greeting(&mut Wire::plain(address).await).await, "node1");
    }
    session.send("still").await;
    assert_eq!(session.bytes().await.unwrap(), b"still");
    trivet("ready");
    let mut met = Vec::new();
    for _ in 0..2 {
        met.push(greeting(&mut Wire::plain(address).await).await);
    }
    met.sort();
    assert_eq!(met, ["node0", "node1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_may_ask_over_http_on_another_port() {
    let ([one, other], entries) = servers::<2>().await;
    // Of the two only this one's port answers HTTP; what the other one says is none.
    let answers = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = answers.local_addr().unwrap().port();
    let (says, status) = tokio::sync::watch::channel("200 OK");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = answers.accept().await {
            let mut head = [0; 1024];
            let Ok(n) = tcp.read(&mut head).await else { continue };
            assert!(head[..n].starts_with(b"GET /ready "), "{:?}", &head[..n]);
            let status = *status.borrow();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = tcp.write_all(answer.as_bytes()).await;
        }
    });
    let health = format!(
        "health = {{ kind = \"http\", path = \"/ready\", port = {port}, interval = \"50ms\", timeout = \"10s\" }}"
    );
    let balancer = Balancer::of("", &pool(&entries, &health));
    assert_eq!(balancer.meets().await, one.name);
    says.send_replace("503 Service Unavailable");
    until("both are out", || async {
        let status = balancer.status().await;
        let all = status["pools"]["tcp:echo"].as_array().unwrap();
        all.iter().all(|b| b["usable"] == false)
    })
    .await;
    assert_eq!(balancer.connect().await.bytes().await, None, "a back end that says no gets nothing");
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_may_expect_what_a_service_says() {
    let (_servers, entries) = servers::<1>().await;
    // It greets with its name, and sends back what it is told.
    for (said, reason) in [
        ("contains = \"node\"", None),
        ("send = \"PING\", contains = \"node0PING\"", None),
        ("send = \"PING\"", None),
        ("contains = \"220 \"", Some("said \"node0\", but not \"220 \", within ")),
        ("send = \"PING\", contains = \"PONG\"", Some("\", but not \"PONG\", within ")),
    ] {
        let timeout = if reason.is_some() { "300ms" } else { "10s" };
        let health = format!("health = {{ {said}, interval = \"1h\", timeout = \"{timeout}\" }}");
        let balancer = Balancer::of("", &pool(&entries, &health));
        let status = balancer.status().await["pools"]["tcp:echo"][0].clone();
        let expected = reason.unwrap_or("check passed");
        assert!(status["reason"].as_str().unwrap().contains(expected), "{said}: {status}");
        assert_eq!(status["usable"], reason.is_none(), "{said}: {status}");
    }
    // One that says something else, and no more.
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entry = format!("{{ name = \"busy\", address = \"{}\" }}", other.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = other.accept().await {
            let _ = tcp.write_all(b"421 too busy\r\n").await;
        }
    });
    let health = "health = { contains = \"220 \", interval = \"1h\", timeout = \"10s\" }";
    let balancer = Balancer::of("", &pool(&[entry], health));
    let status = balancer.status().await["pools"]["tcp:echo"][0].clone();
    assert_eq!(status["reason"], "said \"421 too busy\\r\\n\" without \"220 \"", "{status}");
    assert_eq!(balancer.connect().await.bytes().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fewest_connections_decide_where_that_is_asked_for() {
    let (_servers, entries) = servers::<2>().await;
    let balancer = Balancer::of("", &pool(&entries, "balance = \"least-connections\""));
    // One after the other: of two at the same time neither counts for the other.
    let mut first = balancer.connect().await;
    let kept = greeting(&mut first).await;
    let mut second = balancer.connect().await;
    let left = greeting(&mut second).await;
    assert_ne!(kept, left);
    drop(second);
    balancer.has_open(1).await;
    // In turn, one of three would be the other's.
    let mut wires = Vec::new();
    for _ in 0..3 {
        let mut wire = balancer.connect().await;
        let met = greeting(&mut wire).await;
        assert_eq!(met, left);
        drop(wire);
        balancer.has_open(1).await;
        wires.push(met);
    }
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_comes_back_to_its_back_end_where_its_address_decides() {
    let (_servers, entries) = servers::<3>().await;
    let balancer = Balancer::of("", &pool(&entries, "balance = \"hash\""));
    let mut met = std::collections::BTreeSet::new();
    for client in 1..=20 {
        let own = IpAddr::from([127, 0, 1, client]);
        let mut again = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let mut wire = Wire::over(connect_from(own, balancer.address()).await);
            again.insert(greeting(&mut wire).await);
        }
        assert_eq!(again.len(), 1, "{own} meets {again:?}");
        met.extend(again);
    }
    assert_eq!(met.len(), 3, "clients are spread");
}

const FROM_HERE: &str = "proxy_protocol = { from = [\"127.0.0.1\"] }";

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_address_is_told_and_passed_on() {
    let (_servers, entries) = servers::<1>().await;
    for (version, name) in [(Version::V1, "v1"), (Version::V2, "v2")] {
        let told = format!("send_proxy_protocol = \"{name}\"");
        let client = ("192.0.2.7:5000".parse().unwrap(), "198.51.100.1:25".parse().unwrap());
        // It echoes whatever it is told first.
        for behind in ["", FROM_HERE] {
            let balancer = Balancer::of(behind, &pool(&entries, &told));
            let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
            let own = (tcp.local_addr().unwrap(), balancer.address());
            let (source, destination) = if behind.is_empty() {
                own
            } else {
                // Byte by byte, and then at once what belongs to the back end.
                for byte in write(Version::V2, client.0, client.1) {
                    tcp.write_all(&[byte]).await.unwrap();
                }
                client
            };
            tcp.write_all(b"HELO").await.unwrap();
            let mut expected = b"node0".to_vec();
            expected.extend(write(version, source, destination));
            expected.extend(b"HELO");
            let mut got = vec![0; expected.len()];
            tokio::time::timeout(LONG, tcp.read_exact(&mut got)).await.expect("the echo").unwrap();
            assert_eq!(got, expected);
            assert!(parse(&got[5..]).unwrap().is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_believed_from_the_proxies_alone_and_nobody_is_served_without() {
    let (_servers, entries) = servers::<1>().await;
    let keys = "proxy_protocol = { from = [\"127.0.0.2\"] }\nhandshake_timeout = \"300ms\"";
    let balancer = Balancer::of(keys, &pool(&entries, ""));
    let header = write(Version::V2, "192.0.2.7:5000".parse().unwrap(), "198.51.100.1:25".parse().unwrap());
    for (own, sent, reason) in [
        ("127.0.0.1", &header[..], "proxy_untrusted"),
        ("127.0.0.2", &b"HELO example.com\r\n"[..], "proxy_malformed"),
        ("127.0.0.2", &header[..9], "proxy_timeout"),
    ] {
        let mut tcp = connect_from(own.parse().unwrap(), balancer.address()).await;
        tcp.write_all(sent).await.unwrap();
        let mut all = Vec::new();
        let ended = tokio::time::timeout(LONG, tcp.read_to_end(&mut all)).await;
        assert!(ended.is_ok() && all.is_empty(), "{reason}: {all:?}");
        balancer.counts(&format!("trivet_tcp_closed_total{{service=\"echo\",reason=\"{reason}\"}} 1")).await;
    }
    let mut tcp = connect_from("127.0.0.2".parse().unwrap(), balancer.address()).await;
    tcp.write_all(&header).await.unwrap();
    assert_eq!(greeting(&mut Wire::over(tcp)).await, "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_networks_are_served_by_the_clients_own_address() {
    let (_servers, entries) = servers::<1>().await;
    let balancer = Balancer::of("clients = [\"127.0.0.2\", \"10.0.0.0/8\"]", &pool(&entries, ""));
    let from = |own: &str| connect_from(own.parse().unwrap(), balancer.address());
    assert_eq!(greeting(&mut Wire::over(from("127.0.0.2").await)).await, "node0");
    assert_eq!(Wire::over(from("127.0.0.3").await).bytes().await, None);
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"not_allowed\"} 1").await;

    let keys = format!("clients = [\"10.0.0.0/8\"]\n{FROM_HERE}");
    let balancer = Balancer::of(&keys, &pool(&entries, ""));
    for (client, is_served) in [("10.1.2.3:5000", true), ("192.0.2.7:5000", false)] {
        let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
        let header = write(Version::V2, client.parse().unwrap(), "198.51.100.1:25".parse().unwrap());
        tcp.write_all(&header).await.unwrap();
        assert_eq!(Wire::over(tcp).bytes().await.is_some(), is_served, "{client}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_no_more_connections_than_it_may() {
    let (_servers, entries) = servers::<1>().await;
    let balancer = Balancer::of("max_connections_per_address = 2", &pool(&entries, ""));
    let (mut first, mut second) = (balancer.connect().await, balancer.connect().await);
    assert_eq!([greeting(&mut first).await, greeting(&mut second).await], ["node0", "node0"]);
    assert_eq!(balancer.connect().await.bytes().await, None);
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"per_address\"} 1").await;
    let other = connect_from("127.0.0.2".parse().unwrap(), balancer.address()).await;
    let mut other = Wire::over(other);
    assert_eq!(greeting(&mut other).await, "node0", "another client is another");
    drop(first);
    balancer.has_open(2).await;
    assert_eq!(balancer.meets().await, "node0");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_max_connections_a_connection_waits_for_its_turn() {
    let (_servers, entries) = servers::<1>().await;
    let balancer = Balancer::of("max_connections = 1", &pool(&entries, ""));
    let mut first = balancer.connect().await;
    greeting(&mut first).await;
    let mut second = balancer.connect().await;
    second.send("early").await;
    balancer.counts("trivet_tcp_waited_total{service=\"echo\"} 1").await;
    assert_eq!(balancer.status().await["connections"], 1);
    first.send("still").await;
    assert_eq!(first.bytes().await.unwrap(), b"still");
    drop(first);
    assert_eq!(second.until("early").await, "node0early");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_back_end_has_connections_wait_in_a_queue_that_ends() {
    let (_servers, entries) = servers::<1>().await;
    let keys = "max_in_flight_per_backend = 1\nmax_queued = 1\nqueue_timeout = \"20s\"";
    let balancer = Balancer::of("", &pool(&entries, keys));
    let mut first = balancer.connect().await;
    greeting(&mut first).await;
    let mut second = balancer.connect().await;
    balancer.counts("trivet_pool_queued{pool=\"tcp:echo\"} 1").await;
    assert_eq!(balancer.connect().await.bytes().await, None, "the queue is full");
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"no_backend\"} 1").await;
    drop(first);
    assert_eq!(greeting(&mut second).await, "node0");
    let third = balancer.connect().await;
    balancer.counts("trivet_pool_queued{pool=\"tcp:echo\"} 1").await;
    drop(third);
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"client_left\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_which_nothing_passes_is_closed() {
    let (_servers, entries) = servers::<1>().await;
    let balancer = Balancer::of("idle_timeout = \"400ms\"", &pool(&entries, ""));
    let mut wire = balancer.connect().await;
    greeting(&mut wire).await;
    assert!(wire.closes_within(LONG).await);
    balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"idle\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_sessions_finish_and_cuts_off_what_does_not() {
    let (_servers, entries) = servers::<1>().await;
    let section = format!("[tcp.echo]\nlisten = [\"127.0.0.1:0\"]\n[tcp.echo.pool]\n{}", pool(&entries, ""));
    for (timeout, finishes) in [("60s", true), ("300ms", false)] {
        let folder = tempfile::tempdir().unwrap();
        let top = format!("shutdown_timeout = \"{timeout}\"");
        let mut program = Program::start(&config(folder.path(), &top, &section));
        let address = program.address("tcp.echo.listen");
        let mut wire = Wire::plain(address).await;
        greeting(&mut wire).await;
        program.signal("TERM");
        if finishes {
            until("nobody new is served", || async { TcpStream::connect(address).await.is_err() }).await;
            wire.send("last words").await;
            assert_eq!(wire.bytes().await.unwrap(), b"last words");
            drop(wire);
        } else {
            assert!(wire.closes_within(LONG).await);
        }
        assert!(program.ended().success());
        let was_cut = program.lines().iter().any(|l| l["message"].as_str().unwrap_or("").contains("cut off"));
        assert_eq!(was_cut, !finishes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_sessions_where_they_are_and_refuses_nobody() {
    let ([before, after], _) = servers::<2>().await;
    let [port, metrics] = free_ports();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let of = |server: &Server| {
        let sections = format!(
            "[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n[tcp.echo]\nlisten = [\"127.0.0.1:{port}\"]\n[tcp.echo.pool]\n{}",
            pool(&[server.entry("")], "")
        );
        config(folder.path(), &format!("runtime_directory = {run:?}"), &sections)
    };
    let mut first = Program::start(&of(&before));
    let address = ([127, 0, 0, 1], port).into();
    let mut session = Wire::plain(address).await;
    assert_eq!(greeting(&mut session).await, "node0");

    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let everyone = tokio::spawn(async move {
        let mut served = 0;
        while !stopped.is_cancelled() {
            greeting(&mut Wire::plain(address).await).await;
            served += 1;
        }
        served
    });
    let path = of(&after);
    let successors = std::sync::Arc::new(Successors::of(&path));
    let reloading = successors.clone();
    tokio::task::spawn_blocking(move || reloading.reload()).await.unwrap();
    assert_eq!(greeting(&mut Wire::plain(address).await).await, "node1", "the new configuration serves");
    stop.cancel();
    assert!(everyone.await.expect("somebody was refused") > 0);
    session.send("same session").await;
    assert_eq!(session.bytes().await.unwrap(), b"same session");
    drop(session);
    assert!(first.ended().success(), "its last session has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_carried_can_be_listed() {
    let (_servers, entries) = servers::<1>().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let sections = format!(
        "[tcp.echo]\nlisten = [\"127.0.0.1:0\"]\n[tcp.echo.pool]\n{}\n[control]\nsocket = {socket:?}\n",
        pool(&entries, "")
    );
    let balancer = Balancer::start(&sections);
    until("it listens", || async { socket.exists() }).await;
    let sessions = || {
        let (code, said) = trivet(&["sessions", "--control", socket.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        said
    };
    assert!(sessions().ends_with("0 open\n"), "{}", sessions());
    let mut wire = balancer.connect().await;
    assert_eq!(greeting(&mut wire).await, "node0");
    let said = sessions();
    let line = said.lines().nth(1).unwrap();
    assert!(line.starts_with("echo     127.0.0.1:") && line.contains("  node0 "), "{said}");
    drop(wire);
    until("it is over", || async { sessions().ends_with("0 open\n") }).await;
}

/// Checks that find a change soon, and are not put off by a busy machine.
const CHECKS: &str = "health = { interval = \"50ms\", timeout = \"10s\", rise = 1, fall = 1 }";

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_on_a_unix_socket_is_served_as_soon_as_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("app.sock");
    let entry = format!("{{ name = \"app\", address = \"unix:{}\" }}", socket.display());
    let balancer = Balancer::of("", &pool(&[entry], CHECKS));
    assert_eq!(balancer.connect().await.bytes().await, None, "nobody listens there yet");
    on_socket("app", &socket);
    until("its checks are good", || async {
        balancer.status().await["pools"]["tcp:echo"][0]["usable"] == true
    })
    .await;
    let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
    tcp.write_all(b"last").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut all = String::new();
    tcp.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "applastbye", "bytes pass both ways, and a half-close with them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_told_who_the_client_is() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("app.sock");
    on_socket("app", &socket);
    let entry = format!("{{ name = \"app\", address = \"unix:{}\" }}", socket.display());
    let balancer = Balancer::of("", &pool(&[entry], "send_proxy_protocol = \"v1\""));
    let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
    let (own, its) = (tcp.local_addr().unwrap(), balancer.address());
    tcp.shutdown().await.unwrap();
    let mut all = String::new();
    tcp.read_to_string(&mut all).await.unwrap();
    let header = String::from_utf8(write(Version::V1, own, its)).unwrap();
    assert_eq!(all, format!("app{header}bye"));
}

/// Servers on one port of 127.0.0.2, 127.0.0.3 and so on, named by their last number.
async fn at_one_port<const N: usize>() -> (u16, [Server; N]) {
    'port: loop {
        let first = Server::at("2", ([127, 0, 0, 2], 0).into()).await.unwrap();
        let port = first.address.port();
        let mut all = vec![first];
        for n in 3..N as u8 + 2 {
            // Another process may have the port there.
            match Server::at(&n.to_string(), ([127, 0, 0, n], port).into()).await {
                Some(server) => all.push(server),
                None => continue 'port,
            }
        }
        return (port, all.try_into().ok().unwrap());
    }
}

/// A pool with one back end by name, asked for at `dns`.
fn named(dns: &Dns, port: u16) -> String {
    let keys = format!(
        "{CHECKS}\nresolvers = [\"{}\"]\nresolve_interval = \"100ms\"\nresolve_timeout = \"500ms\"\nresolve_hold = \"0s\"\nresolve_networks = [\"127.0.0.0/8\"]",
        dns.address
    );
    pool(&[format!("{{ name = \"app\", address = \"app.internal:{port}\" }}")], &keys)
}

/// The names of the back ends, of those that are used.
async fn usable(balancer: &Balancer) -> Vec<String> {
    let status = balancer.status().await;
    let all = status["pools"]["tcp:echo"].as_array().unwrap().iter().filter(|b| b["usable"] == true);
    all.map(|b| b["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_of_a_name_are_back_ends_and_follow_dns() {
    let (port, _servers) = at_one_port::<3>().await;
    let dns = Dns::start(has(&["127.0.0.2", "127.0.0.3"])).await;
    let balancer = Balancer::of("", &named(&dns, port));
    let mut met = [balancer.meets().await, balancer.meets().await];
    met.sort();
    assert_eq!(met, ["2", "3"], "asked for before the first connection");
    let mut sessions = [balancer.connect().await, balancer.connect().await];
    for session in &mut sessions {
        greeting(session).await;
    }

    dns.has(&["127.0.0.4"]);
    until("one has come, and two have gone", || async { usable(&balancer).await == ["app/127.0.0.4"] }).await;
    assert_eq!(balancer.meets().await, "4");
    for session in &mut sessions {
        session.send("still").await;
        assert_eq!(session.bytes().await.unwrap(), b"still", "what is open stays");
    }

    // Nobody answers: all stays.
    dns.says(Says::Failed);
    let line = balancer.program.logged(|line| line["message"] == "resolving a back end's name");
    assert_eq!((&line["pool"], &line["backend"]), (&"tcp:echo".into(), &"app".into()), "{line}");
    assert_eq!(balancer.meets().await, "4");
    dns.says(Says::NoName);
    until("nobody is left", || async { usable(&balancer).await.is_empty() }).await;
    assert_eq!(balancer.connect().await.bytes().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_resolved_stops_no_start_and_the_last_addresses_are_remembered() {
    let (port, _servers) = at_one_port::<1>().await;
    let dns = Dns::start(Says::Failed).await;
    let folder = tempfile::tempdir().unwrap();
    let section = format!("[tcp.echo]\nlisten = [\"127.0.0.1:0\"]\n[tcp.echo.pool]\n{}", named(&dns, port));
    let top = format!("runtime_directory = {:?}", folder.path());
    let path = config(folder.path(), &top, &section);
    let meets = async |program: &Program| Wire::plain(program.address("tcp.echo.listen")).await.bytes().await;
    let program = Program::start(&path);
    assert_eq!(meets(&program).await, None);
    dns.has(&["127.0.0.2"]);
    until("it is found", || async { meets(&program).await.as_deref() == Some(&b"2"[..]) }).await;
    drop(program);
    dns.says(Says::Failed);
    assert_eq!(meets(&Program::start(&path)).await.as_deref(), Some(&b"2"[..]), "what the one before knew");
}

/// What `--check` says of a pool with these back ends and keys, which it refuses.
fn refused(backends: &str, keys: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let section =
        format!("[tcp.echo]\nlisten = [\"127.0.0.1:0\"]\n[tcp.echo.pool]\nbackends = [{backends}]\n{keys}");
    let path = config(folder.path(), "", &section);
    let (status, said) = call(&["--config", path.to_str().unwrap(), "--check"]);
    assert_eq!(status, 64, "{backends} {keys}: {said}");
    said
}

#[test]
fn a_pool_that_cannot_be_is_refused() {
    let fixed = "{ name = \"a\", address = \"10.0.0.1:25\" }";
    let socket = "{ name = \"a\", address = \"unix:/run/a.sock\" }";
    let name = "{ name = \"a\", address = \"mail.internal:25\" }";
    for (backends, keys, words) in [
        ("{ name = \"a\", address = \"unix:a.sock\" }", "", ["address", "unix:/run/app/app.sock"]),
        ("{ name = \"a\", address = \"mail.internal\" }", "", ["address", "mail.internal:8080"]),
        (socket, "health = { port = 80 }", ["tcp.echo.pool.backends[0].address", "no port"]),
        (fixed, "resolvers = [\"127.0.0.1:53\"]", ["tcp.echo.pool.resolvers", "says nothing"]),
        (name, "resolvers = [\"127.0.0.1:0\"]", ["tcp.echo.pool.resolvers", "port 53"]),
        (name, "resolve_max_addresses = 0", ["tcp.echo.pool.resolve_max_addresses", "from 1 to 1024"]),
        (fixed, "balance = \"hash\"\nslow_start = \"1s\"", ["tcp.echo.pool.slow_start", "hash"]),
        (fixed, "outliers = { ejection = \"0s\" }", ["tcp.echo.pool.outliers.ejection", "longer than zero"]),
        (fixed, "outliers = { slow_after = \"1s\" }", ["slow_after", "unknown field"]),
        (
            fixed,
            "circuit_breaker = { failures = 0 }",
            ["tcp.echo.pool.circuit_breaker.failures", "percentage"],
        ),
        (name, "resolve_interval = \"0s\"", ["tcp.echo.pool.resolve_interval", "longer than zero"]),
    ] {
        let said = refused(backends, keys);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

/// Accepts, and resets whoever says something. A check says nothing.
async fn resets() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                if tcp.read(&mut [0; 16]).await.is_ok_and(|n| n > 0) {
                    tcp.set_zero_linger().unwrap();
                }
            });
        }
    });
    format!("{{ name = \"bad\", address = \"{address}\" }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_resets_its_connections_costs_a_handful_of_them() {
    let (_servers, [one, other]) = servers::<2>().await;
    let keys = "outliers = { errors = 3, ejection = \"1h\", max_ejection = \"1h\" }";
    let balancer = Balancer::of("", &pool(&[one, resets().await, other], keys));
    let mut lost = 0;
    for _ in 0..30 {
        let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
        let said = async {
            tcp.write_all(b"hello").await?;
            tcp.read(&mut [0; 16]).await
        };
        lost += usize::from(!said.await.is_ok_and(|n| n > 0));
    }
    assert_eq!(lost, 3, "where ten would have been a third");
    balancer
        .counts("trivet_backend_outliers_total{pool=\"tcp:echo\",backend=\"bad\",reason=\"broken\"} 1")
        .await;
    let bad = balancer.status().await["pools"]["tcp:echo"][1].clone();
    assert_eq!((&bad["outlier"], &bad["health"]), (&true.into(), &"up".into()), "{bad}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_served_between_two_that_broke_make_no_outlier() {
    let (_servers, [one, other]) = servers::<2>().await;
    // Resets who says "no", and answers everybody else, who then stays.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entry = format!("{{ name = \"choosy\", address = \"{}\" }}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut said = [0; 16];
                match tcp.read(&mut said).await {
                    Ok(2) => tcp.set_zero_linger().unwrap(),
                    Ok(1..) => {
                        tcp.write_all(b"choosy").await.unwrap();
                        let _ = tcp.read(&mut said).await;
                    }
                    _ => {}
                }
            });
        }
    });
    let keys = "outliers = { errors = 2, ejection = \"1h\", max_ejection = \"1h\" }";
    let balancer = Balancer::of("", &pool(&[entry, one, other], keys));
    let (mut lost, mut open) = (0, Vec::new());
    for round in 0..8 {
        let word: &[u8] = if round % 2 == 0 { b"no" } else { b"yes" };
        for _ in 0..3 {
            let mut tcp = TcpStream::connect(balancer.address()).await.unwrap();
            tcp.write_all(word).await.unwrap();
            lost += usize::from(!tcp.read(&mut [0; 16]).await.is_ok_and(|n| n > 0));
            open.push(tcp);
        }
    }
    assert_eq!(lost, 4, "every other one that went there");
    assert_eq!(balancer.status().await["pools"]["tcp:echo"][0]["outlier"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_cannot_be_reached_is_an_outlier_though_its_checks_are_good() {
    let (servers, entries) = servers::<3>().await;
    let keys = "outliers = { errors = 1, ejection = \"1h\", max_ejection = \"1h\" }";
    let balancer = Balancer::of("", &pool(&entries, keys));
    servers[1].stops().await;
    for _ in 0..6 {
        assert_ne!(balancer.meets().await, "node1");
    }
    balancer
        .counts("trivet_backend_outliers_total{pool=\"tcp:echo\",backend=\"node1\",reason=\"unreachable\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_nobody_reaches_is_left_alone_and_tried_again() {
    let (servers, entries) = servers::<1>().await;
    let keys = "circuit_breaker = { min_requests = 3, open = \"200ms\" }";
    let balancer = Balancer::of("", &pool(&entries, keys));
    servers[0].stops().await;
    for _ in 0..3 {
        assert_eq!(balancer.connect().await.bytes().await, None);
    }
    balancer.counts("trivet_circuit_open{pool=\"tcp:echo\"} 1").await;
    until("a connection is refused", || async {
        assert_eq!(balancer.connect().await.bytes().await, None);
        balancer.metrics().await.contains("trivet_tcp_closed_total{service=\"echo\",reason=\"circuit_open\"}")
    })
    .await;
    let _again = Server::at("node0", servers[0].address).await.unwrap();
    let served = async || balancer.connect().await.bytes().await.is_some();
    until("those that try are served", served).await;
    until("all are let through", || async {
        served().await;
        balancer.metrics().await.contains("trivet_circuit_open{pool=\"tcp:echo\"} 0\n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_comes_back_has_a_tenth_of_its_share_at_first() {
    let (servers, entries) = servers::<2>().await;
    let balancer = Balancer::of("", &pool(&entries, &format!("{CHECKS}\nslow_start = \"1h\"")));
    let health = async |is: &str| balancer.status().await["pools"]["tcp:echo"][0]["health"] == is;
    servers[0].stops().await;
    until("its checks have failed", || health("down")).await;
    let _again = Server::at("node0", servers[0].address).await.unwrap();
    until("its checks are good", || health("up")).await;
    let mut met = 0;
    for _ in 0..22 {
        met += usize::from(balancer.meets().await == "node0");
    }
    assert!((1..=4).contains(&met), "{met} of 22");
    balancer.counts("trivet_backend_slow_starts_total{pool=\"tcp:echo\",backend=\"node0\"} 1").await;
}
