//! A new process takes over from the one that runs: nobody is refused, nothing in flight is cut off, and what cannot serve
//! changes nothing (`trivet-balancer --reload`, docs/reload.md).
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, PATIENT_CHECKS, SITE};
use support::built::built;
use support::client::Wire;
use support::program::Program;
use support::reload::{Successors, free_ports};
use support::{PATIENCE, until};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[path = "reload/half_way.rs"]
mod half_way;

/// A back end whose downloads stand still until they are let go on.
struct Origin {
    address: SocketAddr,
    go_on: watch::Sender<bool>,
}

impl Origin {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, go_on) = (listener.local_addr().unwrap(), watch::Sender::new(false));
        let going_on = go_on.subscribe();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp, going_on.clone()));
            }
        });
        Self { address, go_on }
    }
}

async fn serve(tcp: TcpStream, mut going_on: watch::Receiver<bool>) -> Option<()> {
    let mut tcp = BufReader::new(tcp);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        tcp.read_line(&mut first).await.ok().filter(|n| *n > 0)?;
        loop {
            let mut line = String::new();
            tcp.read_line(&mut line).await.ok()?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        tcp.read_exact(&mut body).await.ok()?;
        match first.split(' ').nth(1)? {
            "/download" => {
                tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun").await.ok()?;
                going_on.wait_for(|go| *go).await.ok()?;
                tcp.write_all(b"ended").await.ok()?;
            }
            "/large" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                tcp.write_all(head.as_bytes()).await.ok()?;
                tcp.write_all(&vec![b'x'; LARGE]).await.ok()?;
            }
            "/socket" => {
                let head =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                tcp.write_all(head.as_bytes()).await.ok()?;
                loop {
                    let mut some = [0; 64];
                    let n = tcp.read(&mut some).await.ok().filter(|n| *n > 0)?;
                    tcp.write_all(&some[..n]).await.ok()?;
                }
            }
            _ => {
                let text = length.to_string();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                tcp.write_all(answer.as_bytes()).await.ok()?;
            }
        }
    }
}

/// Octets of a download that a slow client has not taken when everything is sent.
const LARGE: usize = 2 << 20;

/// A balancer that is reloaded.
struct Scene {
    authority: Authority,
    origin: Origin,
    /// Of plain HTTP, HTTPS and metrics.
    ports: [u16; 3],
    config: PathBuf,
    /// The first of all.
    first: Program,
    successors: Successors,
}

impl Scene {
    async fn start(top: &str) -> Self {
        Self::started(top, |_, _| {}).await
    }

    async fn started(top: &str, prepare: impl FnOnce(&Authority, &mut Command)) -> Self {
        let (authority, origin, ports) = (Authority::new(), Origin::start().await, free_ports());
        let config = write(&authority, &origin, ports, &format!("{top}\n{}", version(1)));
        let mut command = Command::new(built("trivet-balancer"));
        command.arg("--config").arg(&config).stdin(Stdio::null());
        prepare(&authority, &mut command);
        let first = Program::spawn(command);
        let successors = Successors::of(&config);
        Self { authority, origin, ports, config, first, successors }
    }

    fn configure(&self, top: &str) {
        write(&self.authority, &self.origin, self.ports, top);
    }

    fn at(&self, port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port]))
    }

    async fn open(&self) -> Wire {
        Wire::plain(self.at(0)).await
    }

    async fn tls(&self, alpn: &[u8]) -> Wire {
        Wire::tls(self.at(1), SITE, self.authority.browser(&[alpn])).await
    }

    async fn status(&self) -> Value {
        let mut wire = Wire::plain(self.at(2)).await;
        wire.send("GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        serde_json::from_str(&wire.answer().await.unwrap().body).unwrap()
    }

    async fn version(&self) -> String {
        get(&mut self.open().await, "/version").await.unwrap()
    }
}

/// A configuration that tells its version at `/version`.
fn version(n: u32) -> String {
    format!("[[routes]]\npath = \"/version\"\nanswer = {{ content = \"{n}\" }}")
}

/// Writes it under the same name each time.
fn write(authority: &Authority, origin: &Origin, [plain, tls, metrics]: [u16; 3], top: &str) -> PathBuf {
    let run = authority.path("run");
    std::fs::create_dir_all(&run).unwrap();
    let config = BalancerConfig {
        http: Some("redirect = false"),
        back_ends: vec![("origin".into(), origin.address)],
        plain_back_ends: true,
        web: PATIENT_CHECKS,
        ..BalancerConfig::default()
    };
    let path = config.write(authority);
    let (top, sections) = top.split_once("[[").map_or((top, String::new()), |(t, s)| (t, format!("[[{s}")));
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace("[http]\nlisten = [\"127.0.0.1:0\"]", &format!("[http]\nlisten = [\"127.0.0.1:{plain}\"]"))
        .replace("[https]\nlisten = [\"127.0.0.1:0\"]", &format!("[https]\nlisten = [\"127.0.0.1:{tls}\"]"))
        .replace(
            "[metrics]\nlisten = \"127.0.0.1:0\"",
            &format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\""),
        );
    std::fs::write(&path, format!("runtime_directory = {run:?}\n{top}\n{text}\n{sections}\n")).unwrap();
    path
}

async fn get(wire: &mut Wire, path: &str) -> Option<String> {
    if !wire.try_send(&format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await {
        return None;
    }
    let answer = wire.answer().await?;
    assert_eq!(answer.status, 200, "{}", answer.head);
    Some(answer.body)
}

/// Clients of each kind that ask for the version all the time, until they are stopped. Each says which versions it was told, and
/// fails when a request does.
struct Load {
    stop: CancellationToken,
    clients: Vec<tokio::task::JoinHandle<BTreeSet<String>>>,
}

impl Load {
    fn start(scene: &Arc<Scene>) -> Self {
        let stop = CancellationToken::new();
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(tokio::spawn(new_connections(scene.clone(), stop.clone())));
            clients.push(tokio::spawn(kept_connections(scene.clone(), stop.clone())));
            clients.push(tokio::spawn(http2(scene.clone(), stop.clone())));
        }
        Self { stop, clients }
    }

    /// The versions that each was told.
    async fn end(self) -> Vec<BTreeSet<String>> {
        self.stop.cancel();
        let mut told = Vec::new();
        for client in self.clients {
            told.push(client.await.expect("a request failed"));
        }
        told
    }
}

async fn new_connections(scene: Arc<Scene>, stop: CancellationToken) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    while !stop.is_cancelled() {
        told.insert(get(&mut scene.open().await, "/version").await.expect("an answer"));
    }
    told
}

/// A connection that was not told to be the last one is good for another request.
async fn kept_connections(scene: Arc<Scene>, stop: CancellationToken) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    while !stop.is_cancelled() {
        let mut wire = scene.tls(b"http/1.1").await;
        loop {
            wire.send(&format!("GET /version HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
            let answer = wire.answer().await.expect("an answer on a connection that was not closed");
            assert_eq!(answer.status, 200);
            told.insert(answer.body.clone());
            if stop.is_cancelled() || answer.field("connection").is_some_and(|v| v == "close") {
                break;
            }
        }
    }
    told
}

/// A connection takes requests until GOAWAY is told.
async fn http2(scene: Arc<Scene>, stop: CancellationToken) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    while !stop.is_cancelled() {
        let stream = scene.tls(b"h2").await.into_stream();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        while !stop.is_cancelled() {
            client = match client.clone().ready().await {
                Ok(ready) => ready,
                Err(e) => {
                    assert!(e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR), "{e}");
                    break;
                }
            };
            let request = http::Request::get(format!("https://{SITE}/version")).body(()).unwrap();
            let (answer, _) = match client.send_request(request, true) {
                Ok(sent) => sent,
                Err(e) => {
                    assert!(e.is_go_away(), "{e}");
                    break;
                }
            };
            let answer = match answer.await {
                Ok(answer) => answer,
                // A request that the other side has not looked at may be sent again (RFC 9113, section 6.8).
                Err(e) => {
                    assert!(e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR), "{e}");
                    break;
                }
            };
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            let mut text = Vec::new();
            while let Some(data) = body.data().await {
                let data: Bytes = data.unwrap();
                text.extend_from_slice(&data);
                let _ = body.flow_control().release_capacity(data.len());
            }
            told.insert(String::from_utf8(text).unwrap());
        }
        drop(client);
        let _ = timeout(PATIENCE, driver).await;
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_no_request_and_apply_what_is_new() {
    let scene = Arc::new(Scene::start("").await);
    let load = Load::start(&scene);
    for n in 2..=5 {
        scene.configure(&version(n));
        let (reloading, expected) = (scene.clone(), n.to_string());
        tokio::task::spawn_blocking(move || reloading.successors.reload()).await.unwrap();
        assert_eq!(scene.version().await, expected, "what is told to whoever comes after the reload");
    }
    for told in load.end().await {
        assert!(told.len() > 1, "each kind of client goes on with the next process: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_lives_on_in_the_process_before_until_it_has_ended() {
    let mut scene = Scene::start("").await;
    let mut download = scene.tls(b"http/1.1").await;
    download.send(&format!("GET /download HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    download.until("begun").await;
    let mut upload = scene.open().await;
    upload.send(&format!("POST /up HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 10\r\n\r\nbegun")).await;
    let mut socket = scene.open().await;
    let ask = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13";
    socket.send(&format!("GET /socket HTTP/1.1\r\nHost: {SITE}\r\n{ask}\r\n\r\n")).await;
    socket.until("\r\n\r\n").await;
    let mut idle = scene.open().await;
    assert_eq!(get(&mut idle, "/version").await.as_deref(), Some("1"));

    scene.configure(&version(2));
    scene.successors.reload();
    let before = scene.first.pid();
    let draining = |status: &Value| status["draining"].as_array().cloned().unwrap_or_default();
    until("the process before is told of", || async {
        draining(&scene.status().await).iter().any(|d| d["pid"] == before && d["connections"] == 4)
    })
    .await;
    assert_ne!(scene.status().await["pid"], before);
    assert_eq!(scene.version().await, "2");

    // An idle connection is not closed under a request that is on its way: it is answered, and is the last one.
    idle.send(&format!("GET /version HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let last = idle.answer().await.unwrap();
    assert_eq!((last.body.as_str(), last.field("connection").as_deref()), ("1", Some("close")));
    socket.send("still there?").await;
    assert_eq!(socket.until("?").await, "still there?");
    upload.send("ended").await;
    assert_eq!(upload.answer().await.unwrap().body, "10");
    scene.origin.go_on.send_replace(true);
    assert_eq!(download.until("ended").await, "ended");
    assert!(scene.first.is_running(), "the WebSocket is left");
    drop(socket);
    // Both were told that they are the last of their connections.
    assert!(upload.closes_within(PATIENCE).await);
    drop(download);
    assert!(scene.first.ended().success());
    until("nothing drains any more", || async { draining(&scene.status().await).is_empty() }).await;
    assert_eq!(scene.version().await, "2");
}

/// A client's connection over a slow line: 64 KiB in 300 milliseconds.
struct Slow {
    tcp: TcpStream,
    rest: Pin<Box<tokio::time::Sleep>>,
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.rest.as_mut().poll(cx));
        let mut some = [0; 64 * 1024];
        let mut some = ReadBuf::new(&mut some[..buf.remaining().min(64 * 1024)]);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut some))?;
        buf.put_slice(some.filled());
        let part = Duration::from_millis(300).mul_f64(some.filled().len() as f64 / 65_536.0);
        self.rest.as_mut().reset(tokio::time::Instant::now() + part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What it says of its windows comes after the last octet has been written, and a closed socket would answer them with a reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_of_http2_gets_all_of_an_answer_that_was_sent_whole_before_the_process_ends() {
    let scene = Scene::start("").await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let tcp = socket.connect(scene.at(0)).await.unwrap();
    let slow = Slow { tcp, rest: Box::pin(tokio::time::sleep(Duration::ZERO)) };
    let mut client = h2::client::Builder::new();
    // It says that it has read half of it when the last half is on its way, and all of that is sent.
    client.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let (mut client, connection) = client.handshake::<_, Bytes>(slow).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{SITE}/large")).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    scene.successors.reload();
    let mut got = 0;
    while let Some(data) = body.data().await {
        let data: Bytes = data.expect("the answer breaks off");
        got += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    assert_eq!(got, LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_serve_leaves_the_process_that_runs_alone_and_the_reload_fails() {
    let scene = Scene::start("").await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("[local_check]\nlisten = \"{}\"", taken.local_addr().unwrap());
    for (config, code, reason) in [
        ("no_such_key = 1".to_owned(), 64, "no_such_key"),
        (format!("threads = 0\n{}", version(2)), 64, "threads"),
        (
            "[[routes]]\npath = \"/version\"\nanswer = { file = \"/nowhere/page.html\" }".to_owned(),
            64,
            "/nowhere/page.html",
        ),
        (format!("{}\n{elsewhere}", version(2)), 1, "local_check.listen: cannot listen"),
    ] {
        scene.configure(&config);
        let (exit, said) = scene.successors.try_reload(|_| {});
        assert_eq!(exit, code, "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(said.contains("not reloaded, the process that runs goes on"), "{said}");
        assert_eq!(scene.version().await, "1");
    }
    // And it still takes a good one.
    scene.configure(&version(3));
    scene.successors.reload();
    assert_eq!(scene.version().await, "3");
}

/// Ended, and nobody has asked how.
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_do_not_pile_up() {
    let scene = Scene::start("max_draining = 2\nshutdown_timeout = \"100ms\"").await;
    let keys = |n| format!("max_draining = 2\nshutdown_timeout = \"100ms\"\n{}", version(n));
    let mut held = Vec::new();
    for n in 2..=5 {
        let mut download = scene.open().await;
        download.send(&format!("GET /download HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        download.until("begun").await;
        held.push(download);
        scene.configure(&keys(n));
        scene.successors.reload();
    }
    let [second, third, fourth, _fifth] = scene.successors.pids()[..] else { panic!("four reloads") };
    let is_gone = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid);
    until("two of four are left", || async {
        let status = scene.status().await;
        let mut left: Vec<_> = status["draining"].as_array().unwrap().iter().map(|d| &d["pid"]).collect();
        left.sort_by_key(|pid| pid.as_u64());
        is_gone(scene.first.pid()) && is_gone(second) && left == [third, fourth]
    })
    .await;
    scene.origin.go_on.send_replace(true);
    let newest = held.split_off(2);
    for mut cut in held {
        assert!(!cut.rest().await.contains("ended"), "the oldest were told to stop");
    }
    for mut kept in newest {
        assert_eq!(kept.until("ended").await, "ended", "which those before did not know of");
    }
    until("all have finished", || async {
        scene.status().await["draining"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_at_drain_timeout_is_cut_off() {
    let mut scene = Scene::start("drain_timeout = \"200ms\"").await;
    let mut download = scene.open().await;
    download.send(&format!("GET /download HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    download.until("begun").await;
    scene.successors.reload();
    assert_eq!(download.rest().await, "");
    assert!(scene.first.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_no_longer_configured_is_closed_and_a_new_one_opened() {
    let scene = Scene::start("").await;
    let [other] = free_ports();
    let text = std::fs::read_to_string(&scene.config).unwrap();
    let old = scene.ports[0];
    std::fs::write(&scene.config, text.replace(&format!("127.0.0.1:{old}"), &format!("127.0.0.1:{other}")))
        .unwrap();
    scene.successors.reload();
    let mut wire = Wire::plain(([127, 0, 0, 1], other).into()).await;
    assert_eq!(get(&mut wire, "/version").await.as_deref(), Some("1"));
    until("nobody listens at the old one", || async { TcpStream::connect(scene.at(0)).await.is_err() }).await;
}

/// What systemd is told, a line each.
fn told(systemd: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let n = systemd.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..n]).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_who_serves_and_hears_the_new_process_only() {
    let mut systemd = None;
    let mut path = PathBuf::new();
    let scene = Scene::started("", |authority, command| {
        path = authority.path("notify");
        systemd = Some(UnixDatagram::bind(&path).unwrap());
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "30000000");
    })
    .await;
    let systemd = systemd.unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(told(&systemd), ["READY=1"]);
    assert_eq!(told(&systemd), ["WATCHDOG=1"]);

    // NotifyAccess=main: the new process could not say that it lives, and would be killed for its silence.
    let (code, said) = scene.successors.try_reload(|command| {
        command.env_remove("NOTIFY_SOCKET");
    });
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("NotifyAccess=exec"), "{said}");

    let (code, said) = scene.successors.try_reload(|command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert_eq!(code, 0, "{said}");
    let pid = scene.status().await["pid"].clone();
    let heard: Vec<String> = std::iter::repeat_with(|| told(&systemd)).flatten().take(3).collect();
    assert_eq!(heard, [format!("MAINPID={pid}"), "READY=1".into(), "WATCHDOG=1".into()]);
    until("the process before has ended", || async {
        scene.status().await["draining"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    systemd.set_nonblocking(true).unwrap();
    assert!(systemd.recv(&mut [0; 64]).is_err(), "the one before said something: not its place any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_takes_its_time_is_vouched_for_until_its_end() {
    let mut systemd = None;
    let control = "[[routes]]\npath = \"/none\"\nrefuse = 403\n[control]";
    let scene = Scene::started(control, |authority, command| {
        let path = authority.path("notify");
        systemd = Some(UnixDatagram::bind(&path).unwrap());
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    })
    .await;
    let systemd = systemd.unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut download = scene.open().await;
    download.send(&format!("GET /download HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    download.until("begun").await;
    scene.first.signal("TERM");
    let heard = std::iter::repeat_with(|| told(&systemd)).flatten();
    let heard: Vec<String> = heard.skip_while(|line| line != "STOPPING=1").take(4).collect();
    assert_eq!(heard, ["STOPPING=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
    scene.origin.go_on.send_replace(true);
    assert_eq!(download.until("ended").await, "ended");
}

#[tokio::test]
async fn without_a_process_that_runs_there_is_nothing_to_reload() {
    let (authority, origin) = (Authority::new(), Origin::start().await);
    let config = write(&authority, &origin, free_ports(), "");
    let out =
        Command::new(built("trivet-balancer")).args(["--reload", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot take over") && said.contains("handover.sock"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_missing_or_somebody_elses_is_refused_with_its_place() {
    let scene = Scene::start("").await;
    let start = || {
        let out = Command::new(built("trivet-balancer")).arg("--config").arg(&scene.config).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = start();
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("another process serves there"), "{said}");
    let place = format!("{}: runtime_directory: ", scene.config.display());
    assert!(said.contains(&place), "file and key: {said}");
    assert_eq!(scene.version().await, "1", "and the one that runs does not notice");

    scene.first.signal("TERM");
    let socket = scene.authority.path("run").join("handover.sock");
    until("it takes its socket along", || async { !socket.exists() }).await;
    std::fs::write(&socket, "mine").unwrap();
    let (code, said) = start();
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("handover.sock: there is a file that is no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");

    std::fs::remove_file(&socket).unwrap();
    std::fs::remove_dir(scene.authority.path("run")).unwrap();
    let (code, said) = start();
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("cannot make a socket in"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_process_left_is_replaced() {
    let (authority, origin) = (Authority::new(), Origin::start().await);
    let config = write(&authority, &origin, free_ports(), "");
    let left = ["handover.sock", "handover.sock.999999"].map(|name| authority.path("run").join(name));
    left.iter().for_each(|path| drop(UnixListener::bind(path).unwrap()));
    let program = Program::start(&config);
    program.address("https.listen");
    assert!(!left[1].exists(), "what was killed on its way to the name is swept away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_socket_that_would_take_somebodys_place_is_refused_and_the_process_goes_on() {
    let scene = Scene::start("").await;
    let at = |name: &str| scene.authority.path(name);
    let with = |n: u32, name: &str| format!("{}\n[control]\nsocket = {:?}\n", version(n), at(name));
    scene.configure(&with(2, "own.sock"));
    scene.successors.reload();
    assert_eq!(scene.version().await, "2");

    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("file"), "kept").unwrap();
    let _listens = UnixListener::bind(at("others.sock")).unwrap();
    for (name, why) in
        [("folder", "no socket"), ("file", "no socket"), ("others.sock", "another process listens")]
    {
        scene.configure(&with(3, name));
        let (code, said) = scene.successors.try_reload(|_| {});
        assert_eq!(code, 64, "{name}: {said}");
        assert!(said.contains("control.socket") && said.contains(why), "{name}: {said}");
        assert_eq!(scene.version().await, "2", "{name}");
    }
    assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "kept");
    // Its own it may keep, and give another.
    for (n, name) in [(4, "own.sock"), (5, "new.sock")] {
        scene.configure(&with(n, name));
        scene.successors.reload();
        assert_eq!(scene.version().await, n.to_string());
        UnixStream::connect(at(name)).unwrap();
    }
}
