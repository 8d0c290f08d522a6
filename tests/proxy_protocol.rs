//! The PROXY protocol from outside (HAProxy's doc/proxy-protocol.txt): whose address is told, and who may tell it.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::authority::Authority;
use support::backend::find;
use support::balancer_config::{BalancerConfig, NO_CHECKS};
use support::client::{Answer, Wire};
use support::one_back_end::{Keys, SITE, Scene, connect_from, get};
use support::program::Program;
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trivet_http::proxy_protocol::{Header, Version, parse, write};

const HERE: &str = "proxy_protocol = { from = [\"127.0.0.1\"] }";

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

fn v2(source: &str, destination: &str) -> Vec<u8> {
    write(Version::V2, source.parse().unwrap(), destination.parse().unwrap())
}

async fn behind_a_proxy() -> Scene {
    Scene::start(Keys { http: HERE, https: HERE, ..Keys::default() }).await
}

/// TLS after `header`.
async fn tls_after(scene: &Scene, header: &[u8]) -> std::io::Result<Wire> {
    let mut tcp = TcpStream::connect(scene.https()).await?;
    tcp.write_all(header).await?;
    Wire::try_tls_over(tcp, SITE, scene.authority.browser(&[b"http/1.1"])).await
}

async fn answer_after(scene: &Scene, header: &[u8], path: &str) -> Answer {
    let mut wire = tls_after(scene, header).await.unwrap();
    wire.send(&get(path)).await;
    wire.answer().await.unwrap()
}

/// The client's address as the back end was told.
fn told(scene: &Scene, path: &str) -> String {
    let seen = scene.backend.seen().into_iter().find(|r| r.starts_with(&format!("GET {path} "))).unwrap();
    let line = seen
        .lines()
        .find_map(|l| l.to_ascii_lowercase().strip_prefix("x-forwarded-for: ").map(str::to_owned));
    line.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_is_told_is_the_clients_in_log_and_fields() {
    let scene = behind_a_proxy().await;
    let mapped = b"PROXY TCP6 ::ffff:c000:0207 ::1 1 2\r\n".to_vec();
    for (path, header, client) in [
        ("/v1", V1.to_vec(), "192.0.2.7"),
        ("/v2", v2("192.0.2.8:1", "198.51.100.1:443"), "192.0.2.8"),
        ("/v6", v2("[2001:db8::7]:1", "[2001:db8::1]:443"), "2001:db8::7"),
        ("/mapped", mapped, "192.0.2.7"),
    ] {
        assert_eq!(answer_after(&scene, &header, path).await.status, 200);
        assert_eq!(told(&scene, path), client);
        assert_eq!(scene.balancer.access(path)["client"], client);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn local_unknown_and_unspec_leave_the_connections_own_address() {
    let scene = behind_a_proxy().await;
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec();
    let unspec = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x03abc".to_vec();
    for (path, header) in
        [("/local", local), ("/unspec", unspec), ("/unknown", b"PROXY UNKNOWN\r\n".to_vec())]
    {
        assert_eq!(answer_after(&scene, &header, path).await.status, 200);
        assert_eq!(told(&scene, path), "127.0.0.1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn not_a_byte_after_the_header_is_taken_however_the_bytes_arrive() {
    let scene = behind_a_proxy().await;
    // On the plain listener header and request are one piece, or pieces of one byte.
    let long_tlv = [&[4][..], &60_000_u16.to_be_bytes(), &[0; 60_000]].concat();
    let mut long = v2("192.0.2.9:1", "198.51.100.1:80");
    long[14..16].copy_from_slice(&(12 + 60_003_u16).to_be_bytes());
    long.extend(long_tlv);
    for (path, header) in [("/a", V1.to_vec()), ("/b", v2("192.0.2.9:1", "198.51.100.1:80")), ("/c", long)] {
        let bytes = [&header[..], get(path).as_bytes()].concat();
        for size in [1, 13, bytes.len()] {
            if size == 1 && bytes.len() > 10_000 {
                continue;
            }
            let mut tcp = connect_from("127.0.0.1".parse().unwrap(), scene.http()).await;
            for piece in bytes.chunks(size) {
                tcp.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let answer = Wire::over(tcp).answer().await.unwrap();
            assert_eq!(answer.status, 301, "in pieces of {size}");
            assert!(answer.field("location").unwrap().ends_with(path));
        }
    }
    assert_eq!(scene.balancer.access("/a")["client"], "192.0.2.7");
    assert_eq!(scene.balancer.access("/c")["client"], "192.0.2.9");
}

#[tokio::test(flavor = "multi_thread")]
async fn section_2_nothing_is_guessed_without_a_header_there_is_no_service() {
    let scene = behind_a_proxy().await;
    // TLS at once, HTTP at once, half a header, a wrong checksum.
    assert!(tls_after(&scene, b"").await.is_err());
    for bytes in [
        get("/").into_bytes(),
        b"PROXY TCP4 192.0.2.7\n".to_vec(),
        b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n".to_vec(),
        [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13"[..],
            &[192, 0, 2, 7, 192, 0, 2, 8, 0, 1, 0, 2, 3, 0, 4, 1, 2, 3, 4],
        ]
        .concat(),
    ] {
        let mut tcp = TcpStream::connect(scene.http()).await.unwrap();
        tcp.write_all(&bytes).await.unwrap();
        let mut wire = Wire::over(tcp);
        assert_eq!(wire.answer().await, None, "{bytes:?}");
    }
    assert_eq!(scene.metric("trivet_connections_refused_total{reason=\"proxy_malformed\"}").await, 5.0);
    assert_eq!(scene.backend.served(), 0);
    scene.balancer.logged(|l| {
        l["message"].as_str().is_some_and(|m| m.contains("PROXY protocol: no PROXY header"))
            && l["from"] == "127.0.0.1"
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn section_2_from_anyone_else_a_header_is_not_believed_and_nobody_is_served() {
    let scene = behind_a_proxy().await;
    for header in [V1, b""] {
        let mut tcp = connect_from("127.0.0.2".parse().unwrap(), scene.http()).await;
        let _ = tcp.write_all(&[header, get("/").as_bytes()].concat()).await;
        assert_eq!(Wire::over(tcp).answer().await, None);
    }
    assert_eq!(scene.metric("trivet_connections_refused_total{reason=\"proxy_untrusted\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_a_header_is_no_request() {
    let scene = Scene::start(Keys::default()).await;
    assert!(tls_after(&scene, V1).await.is_err());
    let mut tcp = TcpStream::connect(scene.http()).await.unwrap();
    tcp.write_all(&[V1, get("/").as_bytes()].concat()).await.unwrap();
    assert_eq!(Wire::over(tcp).answer().await.unwrap().status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_drips_has_the_handshakes_deadline() {
    let https = format!("{HERE}\nhandshake_timeout = \"500ms\"");
    let scene = Scene::start(Keys { https: &https, ..Keys::default() }).await;
    let mut wire = Wire::plain(scene.https()).await;
    let began = tokio::time::Instant::now();
    // The longest line, byte by byte, would take ten seconds.
    let mut open = wire.try_send("PROXY UNKNOWN ").await;
    while open && began.elapsed() < Duration::from_secs(9) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        open = wire.try_send("x").await;
    }
    assert!(!open, "still open after {:?}", began.elapsed());
    until("it is counted", || async {
        scene.metric("trivet_connections_refused_total{reason=\"proxy_timeout\"}").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_the_clients_not_the_proxys() {
    let https = format!("{HERE}\nmax_connections_per_address = 1");
    let scene = Scene::start(Keys { https: &https, ..Keys::default() }).await;
    let one = tls_after(&scene, V1).await.unwrap();
    assert!(tls_after(&scene, V1).await.is_err(), "the same client again");
    assert!(tls_after(&scene, &v2("192.0.2.8:1", "198.51.100.1:443")).await.is_ok(), "another client");
    drop(one);
    until("its place is free again", || async { tls_after(&scene, V1).await.is_ok() }).await;
}

/// A web tier that wants PROXY headers, remembers them, and answers everything.
async fn listener_behind_us()
-> (std::net::SocketAddr, std::sync::Arc<parking_lot::Mutex<Vec<(Header, String)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let to = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let to = to.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                let header = loop {
                    tcp.read_buf(&mut buffer).await.unwrap();
                    if let Some((header, length)) = parse(&buffer).unwrap() {
                        buffer.drain(..length);
                        break header;
                    }
                };
                loop {
                    while find(&buffer, b"\r\n\r\n").is_none() {
                        if tcp.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let head = String::from_utf8(std::mem::take(&mut buffer)).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    to.lock().push((header, path));
                    if tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn section_2_a_back_end_is_told_each_client_on_a_connection_of_its_own() {
    for version in ["v1", "v2"] {
        let (backend, seen) = listener_behind_us().await;
        let authority = Authority::new();
        let site = authority.files(SITE);
        let config = authority.write(
            "balancer.toml",
            &format!(
                "node = \"node1\"\ndomain = \"{SITE}\"\ndrain_delay = \"0s\"\n\
                 [metrics]\nlisten = \"127.0.0.1:0\"\n\
                 [https]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"{}\"\nkey = \"{}\"\n{HERE}\n\
                 [web]\nbackends = [{{name=\"node0\",address=\"{backend}\"}}]\nconnect_timeout = \"10s\"\n\
                 health = {{ interval = \"200ms\", timeout = \"10s\" }}\nsend_proxy_protocol = \"{version}\"\n",
                site.certificate.display(),
                site.key.display(),
            ),
        );
        let balancer = support::program::Program::start(&config);
        for alpn in [&b"http/1.1"[..], b"h2"] {
            for (client, path) in
                [("192.0.2.7:1000", "a"), ("192.0.2.7:1001", "b"), ("[2001:db8::7]:1000", "c")]
            {
                let destination =
                    if client.starts_with('[') { "[2001:db8::1]:443" } else { "198.51.100.1:443" };
                let path = format!("/{path}{}", alpn.len());
                let mut tcp = TcpStream::connect(balancer.address("https.listen")).await.unwrap();
                tcp.write_all(&v2(client, destination)).await.unwrap();
                let mut wire = Wire::try_tls_over(tcp, SITE, authority.browser(&[alpn])).await.unwrap();
                if alpn == b"h2" {
                    let (mut sender, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
                    tokio::spawn(connection);
                    for _ in 0..2 {
                        let request = http::Request::get(format!("https://{SITE}{path}")).body(()).unwrap();
                        let (answer, _) = sender.send_request(request, true).unwrap();
                        assert_eq!(answer.await.unwrap().status(), 200);
                    }
                } else {
                    for _ in 0..2 {
                        wire.send(&get(&path)).await;
                        assert_eq!(wire.answer().await.unwrap().status, 200);
                    }
                }
                let expected = Header::Proxied {
                    source: client.parse().unwrap(),
                    destination: destination.parse().unwrap(),
                };
                let headers: Vec<Header> =
                    seen.lock().iter().filter(|(_, p)| *p == path).map(|(h, _)| *h).collect();
                assert_eq!(headers, [expected, expected], "{version}");
            }
        }
        // The checks got through, too, in their own name.
        let check = seen.lock().iter().find(|(_, path)| path == "/healthz").unwrap().0;
        match check {
            Header::Direct => assert_eq!(version, "v2"),
            Header::Proxied { destination, .. } => assert_eq!((version, destination), ("v1", backend)),
        }
    }
}

/// Requests that may not be sent twice each get a new connection, which speaks for this client alone and is kept for it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_speak_for_one_client_are_few_however_many_requests_it_sends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let back_end = listener.local_addr().unwrap();
    let open = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut buffer = Vec::new();
                while tcp.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
                    while let Some(at) = find(&buffer, b"text=ok")
                        .or_else(|| find(&buffer, b"GET /healthz").and_then(|_| find(&buffer, b"\r\n\r\n")))
                    {
                        buffer.drain(..(at + 7).min(buffer.len()));
                        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                    }
                }
                counted.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let authority = Authority::new();
    let config = BalancerConfig {
        back_ends: vec![("node0".into(), back_end)],
        plain_back_ends: true,
        web: &format!("{NO_CHECKS}\nsend_proxy_protocol = \"v1\"\ntrusted_framing = true"),
        ..BalancerConfig::default()
    };
    let balancer = Program::start(&config.write(&authority));
    let open_now = || async { open.load(Ordering::SeqCst) };
    // One request after another takes one connection; side by side, a few. The check has one of its own.
    let mut wire = Wire::tls(balancer.address("https.listen"), SITE, authority.browser(&[b"http/1.1"])).await;
    for _ in 0..20 {
        wire.send(&format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 7\r\n\r\ntext=ok")).await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
    until("one is open", || async { open_now().await <= 2 }).await;
    drop(wire);
    until("the check's is left", || async { open_now().await <= 1 }).await;
    let wire = Wire::tls(balancer.address("https.listen"), SITE, authority.browser(&[b"h2"])).await;
    let (client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    for _ in 0..40 {
        let request =
            http::Request::post(format!("https://{SITE}/")).header("content-length", 7).body(()).unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(bytes::Bytes::from_static(b"text=ok"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    until("few are open", || async { open_now().await <= 8 }).await;
}

#[test]
fn a_listener_for_nobody_and_a_network_that_is_none_are_refused() {
    let authority = Authority::new();
    for (key, value, words) in [
        ("proxy_protocol", "{ from = [] }", "https.proxy_protocol.from: is empty"),
        ("proxy_protocol", "{ from = [\"10.0.0.1/8\"] }", "has bits behind its prefix"),
        ("proxy_protocol", "{ from = [\"proxy.example\"] }", "is no network"),
        ("request_rate", "{ rate = 0, burst = 1 }", "https.request_rate.rate: must be at least 1"),
        ("trusted_proxies", "[\"10.0.0.0/33\"]", "is no network"),
    ] {
        let config = authority.write(
            "bad.toml",
            &format!(
                "node = \"node1\"\ndomain = \"{SITE}\"\n[https]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"/c\"\n\
                 key = \"/k\"\n{key} = {value}\n[web]\nbackends = [{{name=\"a\",address=\"127.0.0.1:1\"}}]\n"
            ),
        );
        let (code, said) = support::program::call(&["--config", config.to_str().unwrap(), "--check"]);
        assert_eq!(code, 64, "{said}");
        assert!(said.contains(words), "{said}");
    }
}
