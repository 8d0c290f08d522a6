//! The balancer with one back end, tuned by further keys.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::authority::Authority;
use super::backend::Backend;
use super::balancer_config::BalancerConfig;
pub use super::balancer_config::SITE;
use super::client::{Answer, Wire};
use super::program::Program;

/// A balancer, its back end and the authority that both trust.
pub struct Scene {
    pub authority: Authority,
    pub backend: Backend,
    pub balancer: Program,
}

/// Further keys, by section.
#[derive(Default, Clone, Copy)]
pub struct Keys<'a> {
    /// Where both listen; 127.0.0.1 when empty.
    pub listen: &'a str,
    pub http: &'a str,
    pub https: &'a str,
    pub web: &'a str,
}

impl Scene {
    pub async fn start(keys: Keys<'_>) -> Self {
        let authority = Authority::new();
        let backend = Backend::start("node0", authority.mutual_server("node0")).await;
        Self::with(authority, backend, keys)
    }

    /// With a back end that is there already.
    pub fn with(authority: Authority, backend: Backend, keys: Keys<'_>) -> Self {
        let config = BalancerConfig {
            listen: keys.listen,
            http: Some(keys.http),
            https: keys.https,
            back_ends: vec![("node0".into(), backend.address)],
            web: keys.web,
            ..BalancerConfig::default()
        };
        let balancer = Program::start(&config.write(&authority));
        Self { authority, backend, balancer }
    }

    pub fn https(&self) -> SocketAddr {
        self.balancer.address("https.listen")
    }

    pub fn http(&self) -> SocketAddr {
        self.balancer.address("http.listen")
    }

    /// A browser's connection, HTTP/1.1.
    pub async fn open(&self) -> Wire {
        self.try_open_from(self.https().ip()).await.expect("a connection")
    }

    /// As [`open`](Self::open), from another of the machine's addresses; `None` when it is closed before TLS is up.
    pub async fn try_open_from(&self, own: IpAddr) -> Option<Wire> {
        let tcp = connect_from(own, self.https()).await;
        Wire::try_tls_over(tcp, SITE, self.authority.browser(&[b"http/1.1"])).await.ok()
    }

    pub async fn get(&self, path: &str) -> Answer {
        let mut wire = self.open().await;
        wire.send(&get(path)).await;
        wire.answer().await.expect("an answer")
    }

    /// The value of a metric, all its labels included in the name; 0 when it does not exist yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut wire = Wire::plain(self.balancer.address("metrics.listen")).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let text = wire.answer().await.unwrap().body;
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |v| v.parse().unwrap())
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n\r\n")
}

/// Connects from one of the machine's addresses: all of 127.0.0.0/8 are.
pub async fn connect_from(own: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind((own, 0).into()).unwrap();
    let tcp = tokio::time::timeout(Duration::from_secs(20), socket.connect(to)).await.unwrap().unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}
