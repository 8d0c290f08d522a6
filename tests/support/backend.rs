//! A web tier that does as it is told and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// What a back end does with a request.
#[derive(Clone)]
pub enum Act {
    /// Answers with its name.
    Name,
    /// Answers with these bytes.
    Bytes(String),
    /// Answers with its name after a while.
    Late(Duration),
    /// Closes the connection without a word.
    Drop,
    /// Switches protocols and sends back whatever comes.
    Upgrade,
    /// Answers with the length of the body it got.
    Count,
}

struct Shared {
    name: String,
    act: Mutex<Act>,
    health: Mutex<Option<String>>,
    answers: std::collections::HashMap<String, AtomicBool>,
    draining: AtomicBool,
    lag: AtomicU32,
    seen: Mutex<Vec<String>>,
    served: AtomicUsize,
    frozen: AtomicBool,
    stop: CancellationToken,
}

pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Backend {
    /// Listens on a free port with this certificate.
    pub async fn start(name: &str, tls: Arc<ServerConfig>) -> Self {
        Self::try_start_at(([127, 0, 0, 1], 0).into(), name, tls).await.unwrap()
    }

    /// Listens there, unless somebody else does.
    pub async fn try_start_at(address: SocketAddr, name: &str, tls: Arc<ServerConfig>) -> Option<Self> {
        let listener = TcpListener::bind(address).await.ok()?;
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.into(),
            act: Mutex::new(Act::Name),
            health: Mutex::new(None),
            answers: ["/primary", "/replica"].map(|p| (p.to_owned(), AtomicBool::new(false))).into(),
            draining: AtomicBool::new(false),
            lag: AtomicU32::new(0),
            seen: Mutex::default(),
            served: AtomicUsize::new(0),
            frozen: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        let s = shared.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = s.stop.cancelled() => return,
                };
                let (s, acceptor) = (s.clone(), TlsAcceptor::from(tls.clone()));
                tokio::spawn(async move {
                    let stop = s.stop.clone();
                    let talk = async {
                        if let Ok(stream) = acceptor.accept(tcp).await {
                            talk(stream, &s).await;
                        }
                    };
                    tokio::select! { () = talk => {}, () = stop.cancelled() => {} }
                });
            }
        });
        Some(Self { address, shared })
    }

    pub fn does(&self, act: Act) {
        *self.shared.act.lock() = act;
    }

    /// Health checks are answered with 503 and this reason; `None` makes it well again.
    pub fn unwell(&self, reason: Option<&str>) {
        *self.shared.health.lock() = reason.map(str::to_owned);
    }

    /// As keeper: which of `/primary` and `/replica` are true.
    pub fn claims(&self, primary: bool, replica: bool) {
        self.shared.draining.store(false, Ordering::SeqCst);
        self.shared.answers["/primary"].store(primary, Ordering::SeqCst);
        self.shared.answers["/replica"].store(replica, Ordering::SeqCst);
    }

    /// As keeper: about to give away what it claims.
    pub fn drains(&self) {
        self.claims(false, false);
        self.shared.draining.store(true, Ordering::SeqCst);
    }

    /// As keeper: how far behind the primary this member is, in seconds.
    pub fn lags(&self, seconds: u32) {
        self.shared.lag.store(seconds, Ordering::SeqCst);
    }

    /// The heads and bodies of the requests so far, checks left out.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().clone()
    }

    /// Requests for this path.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|r| r.split(' ').nth(1) == Some(path)).count()
    }

    pub fn served(&self) -> usize {
        self.shared.served.load(Ordering::SeqCst)
    }

    /// As a node whose power is cut: nothing is closed, and nothing is said any more.
    pub fn freeze(&self) {
        self.shared.frozen.store(true, Ordering::SeqCst);
    }

    /// As `kill -9`: no listener, no connections, once this returns.
    pub async fn kill(&self) {
        self.shared.stop.cancel();
        refused(self.address).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, shared: &Shared) {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer).await else { return };
        if shared.frozen.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let checked = |ok: bool, reason: &str| {
            let status = if ok { "200 OK" } else { "503 Service Unavailable" };
            let draining = shared.draining.load(Ordering::SeqCst);
            let body = format!("{{\"reason\":\"{reason}\",\"draining\":{draining}}}");
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        if path == "/healthz" {
            let health = shared.health.lock().clone();
            let answer = checked(health.is_none(), health.as_deref().unwrap_or_default());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let (plain, query) = path.split_once('?').unwrap_or((&path, ""));
        if let Some(claim) = shared.answers.get(plain) {
            let most = query.strip_prefix("max_lag=").map_or(u32::MAX, |n| n.parse().unwrap());
            let fit = claim.load(Ordering::SeqCst) && shared.lag.load(Ordering::SeqCst) <= most;
            let answer = checked(fit, "not so");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        shared.seen.lock().push(request.clone());
        shared.served.fetch_add(1, Ordering::SeqCst);
        let act = shared.act.lock().clone();
        let name = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", shared.name.len(), shared.name);
        let answer = match act {
            Act::Name => name,
            Act::Bytes(bytes) => bytes,
            Act::Late(wait) => {
                tokio::time::sleep(wait).await;
                name
            }
            Act::Drop => return,
            Act::Count => {
                let length = request.split("\r\n\r\n").nth(1).unwrap_or_default().len().to_string();
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{length}", length.len())
            }
            Act::Upgrade => {
                let head =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut bytes = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                    if stream.write_all(&bytes[..n]).await.is_err() {
                        return;
                    }
                }
                return;
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Head and body as text, the body's chunks put together.
async fn read_request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Option<String> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let lower = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if lower.contains("\r\nexpect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    if lower.contains("\r\ntransfer-encoding: chunked") {
        loop {
            let line = loop {
                if let Some(at) = find(buffer, b"\r\n") {
                    break at;
                }
                more(stream, buffer).await?;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..line]).ok()?.trim(), 16).ok()?;
            while buffer.len() < line + 2 + size + 2 {
                more(stream, buffer).await?;
            }
            body.extend_from_slice(&buffer[line + 2..line + 2 + size]);
            buffer.drain(..line + 2 + size + 2);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = lower.split("\r\ncontent-length: ").nth(1) {
        let length: usize = length.split("\r\n").next()?.parse().ok()?;
        while buffer.len() < length {
            more(stream, buffer).await?;
        }
        body.extend(buffer.drain(..length));
    }
    Some(head + &String::from_utf8_lossy(&body))
}

async fn more<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(n) if n > 0 => Some(()),
        _ => None,
    }
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Waits until nobody listens there any more.
pub async fn refused(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
