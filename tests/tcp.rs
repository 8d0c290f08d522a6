//! Services of any protocol over TCP (`[tcp.NAME]`, docs/tcp.md): the real program between clients and back ends.
#![allow(missing_docs)]

use std::net::IpAddr;
use std::time::Duration;

use support::built::built;
use support::client::Wire;
use support::one_back_end::connect_from;
use support::program::{Program, trivet};
use support::reload::{Successors, free_ports};
use support::tcp::{Balancer, Server, config, greeting, pool};
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
