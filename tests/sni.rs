//! TLS that is passed on by the server name that its client asks for (`[[tcp.NAME.sni]]`, docs/tcp.md): nothing is decrypted, each
//! back end shows its own certificate.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConnection};
use support::authority::Authority;
use support::client::Wire;
use support::tcp::{Balancer, Server, greeting, pool};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than anything should take.
const LONG: Duration = Duration::from_secs(20);

const SHOP: &str = "shop.foobar.com";
const BLOG: &str = "blog.foobar.com";

struct Scene {
    authority: Authority,
    balancer: Balancer,
    _servers: Vec<Server>,
}

impl Scene {
    /// Two servers of TLS by their names, and a third one for the rest if `default`; further keys of the service.
    async fn new(default: bool, keys: &str) -> Self {
        let authority = Authority::new();
        let (shop, blog) = (Server::tls(SHOP, &authority).await, Server::tls(BLOG, &authority).await);
        let rest = Server::start("the rest").await;
        let default = match default {
            true => format!("[tcp.echo.pool]\n{}", pool(&[rest.entry("")], "")),
            false => String::new(),
        };
        let balancer = Balancer::start(&format!(
            "[tcp.echo]\nlisten = [\"127.0.0.1:0\"]\n{keys}\n{default}\n\
             [[tcp.echo.sni]]\nnames = [\"{SHOP}\"]\n[tcp.echo.sni.pool]\n{}\n\
             [[tcp.echo.sni]]\nnames = [\"*.foobar.com\", \"Foobar.com\"]\n[tcp.echo.sni.pool]\n{}",
            pool(&[shop.entry("")], ""),
            pool(&[blog.entry("")], ""),
        ));
        Self { authority, balancer, _servers: vec![shop, blog, rest] }
    }

    fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    async fn tls(&self, name: &str) -> std::io::Result<Wire> {
        Wire::try_tls(self.address(), name, self.authority.browser(&[])).await
    }

    /// The alert that answers a hello for this name.
    async fn alert(&self, name: &str) -> AlertDescription {
        let refused = self.tls(name).await.err().expect("it was served");
        match refused.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            other => panic!("{other:?}"),
        }
    }

    /// What a client says first.
    fn hello(&self, name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(self.authority.browser(&[]), name).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_meets_the_server_that_has_its_certificate() {
    let scene = Scene::new(false, "").await;
    for (name, server) in [(SHOP, SHOP), (BLOG, BLOG), ("SHOP.foobar.com", SHOP)] {
        let mut wire = scene.tls(name).await.unwrap();
        assert_eq!(greeting(&mut wire).await, server);
        wire.send("over TLS").await;
        assert_eq!(wire.bytes().await.unwrap(), b"over TLS");
    }
    let line = scene.balancer.program.logged(|l| l["target"] == "trivet::access" && l["backend"] == BLOG);
    assert_eq!(line["server_name"], BLOG);
    // By `*.`: the server has no certificate for it, and says so itself.
    for name in ["wiki.foobar.com", "foobar.com"] {
        let refused = scene.tls(name).await.err().unwrap().to_string();
        assert!(
            refused.contains("certificate is only valid for DnsName(\"blog.foobar.com\")"),
            "{name}: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_pool_is_answered_by_an_alert() {
    let scene = Scene::new(false, "").await;
    assert_eq!(scene.alert("www.example.com").await, AlertDescription::UnrecognisedName);
    // RFC 8446 section 9.2; a client that connects to an address names no host.
    assert_eq!(scene.alert("192.0.2.1").await, AlertDescription::MissingExtension);
    for reason in ["unknown_name", "unnamed"] {
        let line = format!("trivet_tcp_closed_total{{service=\"echo\",reason=\"{reason}\"}} 1");
        scene.balancer.counts(&line).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_may_come_byte_by_byte_and_reaches_the_server_whole() {
    let scene = Scene::new(false, "").await;
    let name = ServerName::try_from(SHOP).unwrap();
    let mut client = ClientConnection::new(scene.authority.browser(&[]), name).unwrap();
    let mut tcp = TcpStream::connect(scene.address()).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for byte in hello {
        tcp.write_all(&[byte]).await.unwrap();
    }
    let mut said = Vec::<u8>::new();
    while said.len() < SHOP.len() {
        let mut bytes = vec![0; 4096];
        let n = tokio::time::timeout(LONG, tcp.read(&mut bytes)).await.expect("an answer").unwrap();
        assert_ne!(n, 0, "closed during the handshake");
        client.read_tls(&mut &bytes[..n]).unwrap();
        client.process_new_packets().unwrap();
        let mut answer = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut answer).unwrap();
        }
        tcp.write_all(&answer).await.unwrap();
        let mut text = [0; 64];
        if let Ok(n) = std::io::Read::read(&mut client.reader(), &mut text) {
            said.extend(&text[..n]);
        }
    }
    assert_eq!(said, SHOP.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_half_of_it_is_not_waited_for() {
    let scene = Scene::new(true, "handshake_timeout = \"300ms\"").await;
    let hello = scene.hello(SHOP);
    for sent in [&hello[..0], &hello[..hello.len() / 2]] {
        let mut tcp = TcpStream::connect(scene.address()).await.unwrap();
        tcp.write_all(sent).await.unwrap();
        let mut all = Vec::new();
        tokio::time::timeout(LONG, tcp.read_to_end(&mut all)).await.expect("it is not closed").unwrap();
        assert_eq!(all, b"");
    }
    scene.balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"hello_timeout\"} 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_goes_to_the_pool_for_the_rest_or_nowhere() {
    let garbage: [&[u8]; 3] = [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", &[0xff; 100]];
    let with = Scene::new(true, "").await;
    let without = Scene::new(false, "").await;
    for bytes in garbage {
        let mut tcp = TcpStream::connect(with.address()).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let expected = [b"the rest", bytes].concat();
        let mut got = vec![0; expected.len()];
        tokio::time::timeout(LONG, tcp.read_exact(&mut got)).await.expect("an answer").unwrap();
        assert_eq!(got, expected, "nothing of it is lost");

        let mut tcp = TcpStream::connect(without.address()).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        tokio::time::timeout(LONG, tcp.read_to_end(&mut all)).await.expect("it is not closed").unwrap();
        assert_eq!(all, b"");
    }
    without.balancer.counts("trivet_tcp_closed_total{service=\"echo\",reason=\"no_hello\"} 3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_has_names_that_no_pool_has() {
    let scene = Scene::new(true, "").await;
    let hello = scene.hello("www.example.com");
    let mut tcp = TcpStream::connect(scene.address()).await.unwrap();
    tcp.write_all(&hello).await.unwrap();
    let expected = [b"the rest", &hello[..]].concat();
    let mut got = vec![0; expected.len()];
    tokio::time::timeout(LONG, tcp.read_exact(&mut got)).await.expect("an answer").unwrap();
    assert_eq!(got, expected);
    let mut wire = scene.tls(SHOP).await.unwrap();
    assert_eq!(greeting(&mut wire).await, SHOP);
}
