//! Back ends of no particular protocol, and a balancer with services before them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::authority::Authority;
use super::backend::refused;
use super::balancer_config::NO_CHECKS;
use super::client::{Io, Wire};
use super::program::Program;
use super::until;

/// Says its name first, then sends back what it gets, and "bye" when the client says no more.
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl Server {
    /// In plain text.
    pub async fn start(name: &str) -> Self {
        Self::listen(name, None).await
    }

    /// With TLS, and a certificate for its name.
    pub async fn tls(name: &str, authority: &Authority) -> Self {
        let files = authority.files(name);
        let config = ServerConfig::builder_with_provider(trivet_tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                trivet_tls::load_certificates(&files.certificate).unwrap(),
                trivet_tls::load_key(&files.key).unwrap(),
            );
        Self::listen(name, Some(Arc::new(config.unwrap()))).await
    }

    /// In plain text, at this address; none where another process has it.
    pub async fn at(name: &str, address: SocketAddr) -> Option<Self> {
        Some(Self::serve(name, None, TcpListener::bind(address).await.ok()?))
    }

    async fn listen(name: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::serve(name, tls, TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn serve(name: &str, tls: Option<Arc<ServerConfig>>, listener: TcpListener) -> Self {
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (stopped, said) = (stop.clone(), name.to_owned());
        tokio::spawn(async move {
            loop {
                let (tcp, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = stopped.cancelled() => return,
                };
                let (said, tls) = (said.clone(), tls.clone());
                tokio::spawn(async move {
                    let stream: Box<dyn Io> = match tls {
                        None => Box::new(tcp),
                        Some(tls) => match TlsAcceptor::from(tls).accept(tcp).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    let _ = talk(stream, &said).await;
                });
            }
        });
        Self { name: name.to_owned(), address, stop }
    }

    /// Listens no more; connections stay.
    pub async fn stops(&self) {
        self.stop.cancel();
        refused(self.address).await;
    }

    /// As an entry of `backends`, with further keys.
    pub fn entry(&self, keys: &str) -> String {
        format!("{{ name = \"{}\", address = \"{}\", {keys} }}", self.name, self.address)
    }
}

/// As a [`Server`], on a unix socket, until the test ends.
pub fn on_socket(name: &str, path: &Path) {
    let (listener, name) = (UnixListener::bind(path).unwrap(), name.to_owned());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let name = name.clone();
            tokio::spawn(async move { talk(Box::new(stream), &name).await });
        }
    });
}

async fn talk(mut stream: Box<dyn Io>, name: &str) -> std::io::Result<()> {
    stream.write_all(name.as_bytes()).await?;
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes).await? {
            0 => break,
            n => stream.write_all(&bytes[..n]).await?,
        }
    }
    stream.write_all(b"bye").await?;
    stream.shutdown().await
}

/// `pool` of these back ends, with further keys. One check at the start and no further, unless they say something about checks.
pub fn pool(entries: &[String], keys: &str) -> String {
    let checks = if keys.contains("health") { "" } else { NO_CHECKS };
    format!("backends = [{}]\n{checks}\nconnect_timeout = \"10s\"\n{keys}", entries.join(", "))
}

/// A balancer with services alone.
pub struct Balancer {
    pub program: Program,
    _folder: tempfile::TempDir,
}

impl Balancer {
    /// With the service `echo` on a free port: `keys` of its own, and `pool` of its pool.
    pub fn of(keys: &str, pool: &str) -> Self {
        Self::start(&format!("[tcp.echo]\nlisten = [\"127.0.0.1:0\"]\n{keys}\n[tcp.echo.pool]\n{pool}"))
    }

    /// With these sections.
    pub fn start(sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(&config(folder.path(), "", sections));
        Self { program, _folder: folder }
    }

    /// Where the service `echo` listens.
    pub fn address(&self) -> SocketAddr {
        self.program.address("tcp.echo.listen")
    }

    pub async fn connect(&self) -> Wire {
        Wire::plain(self.address()).await
    }

    /// The name of the back end that a new connection meets.
    pub async fn meets(&self) -> String {
        greeting(&mut self.connect().await).await
    }

    async fn ask(&self, path: &str) -> String {
        let mut wire = Wire::plain(self.program.address("metrics.listen")).await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        wire.answer().await.unwrap().body
    }

    /// What `/status` says of the service `echo`.
    pub async fn status(&self) -> Value {
        serde_json::from_str::<Value>(&self.ask("/status").await).unwrap()["tcp"]["echo"].clone()
    }

    /// Waits until so many connections are open.
    pub async fn has_open(&self, connections: usize) {
        until("as many connections as that", || async { self.status().await["connections"] == connections })
            .await;
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> String {
        self.ask("/metrics").await
    }

    /// Waits until `/metrics` has this line.
    pub async fn counts(&self, line: &str) {
        until(line, || async { self.metrics().await.lines().any(|l| l == line) }).await;
    }
}

/// Writes a configuration with these keys at the top, and these sections.
pub fn config(folder: &Path, top: &str, sections: &str) -> PathBuf {
    let path = folder.join("balancer.toml");
    let top = format!("node = \"node1\"\ndrain_delay = \"0s\"\n{top}");
    let metrics = if sections.contains("[metrics]") { "" } else { "[metrics]\nlisten = \"127.0.0.1:0\"" };
    std::fs::write(&path, format!("{top}\n{metrics}\n{sections}\n")).unwrap();
    path
}

/// A back end's first words.
pub async fn greeting(wire: &mut Wire) -> String {
    String::from_utf8(wire.bytes().await.expect("closed without a greeting")).unwrap()
}
