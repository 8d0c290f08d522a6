//! Several clients, one after another, through the engine to a server that does not keep to the framing. No octet of one
//! client's request may be a part of another's, nor of another's answer: every octet that is a client's own carries its mark.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use trivet_base::process::Shutdown;
use trivet_proxy::server::Drain;

use super::connections::{client_from, engine};

/// Octets from here on are marks, one for each client.
const MARKS: u8 = 0xf0;
const CLIENTS: u8 = 4;
/// An exchange takes microseconds; one that takes this long waits for something that will not come.
const PATIENCE: Duration = Duration::from_secs(8);
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "QUERY"];
/// What a body may be made of, beside its client's mark: all that a server could take for something else.
const PIECES: [&[u8]; 8] = [
    b"GET / HTTP/1.1\r\n",
    b"\r\n\r\n",
    b"Content-Length: 90\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"\r\n",
];

/// How the server treats the next requests.
#[derive(Debug, Clone, Copy, Default)]
struct Manners {
    /// Quarters of a body that it reads before it answers.
    reads: u8,
    knows_chunks: bool,
    obeys_close: bool,
    /// Content after a head that has none: at once, or when the next request comes.
    babbles: Option<bool>,
    status: u8,
}

/// One exchange, as the input says it.
#[derive(Debug)]
struct Exchange {
    client: u8,
    http2: bool,
    method: &'static str,
    chunked: bool,
    body: Option<Vec<u8>>,
    manners: Manners,
}

struct Octets<'a>(std::slice::Iter<'a, u8>);

impl Octets<'_> {
    fn next(&mut self) -> Option<u8> {
        self.0.next().copied()
    }
}

fn exchange(octets: &mut Octets) -> Option<Exchange> {
    let (who, how, server) = (octets.next()?, octets.next()?, octets.next()?);
    let client = who % CLIENTS;
    let body = (how & 0x08 != 0).then(|| {
        let mut body = vec![MARKS + client];
        for _ in 0..how >> 4 {
            let piece = octets.next().unwrap_or_default();
            match PIECES.get(usize::from(piece % 16)) {
                Some(octets) => body.extend_from_slice(octets),
                None => body.resize(body.len() + 1 + usize::from(piece >> 4) * 20, MARKS + client),
            }
        }
        body
    });
    Some(Exchange {
        client,
        http2: who & 0x04 != 0,
        method: METHODS[usize::from(how % 8)],
        chunked: who & 0x08 != 0,
        body,
        manners: Manners {
            reads: server % 5,
            knows_chunks: who & 0x10 != 0,
            obeys_close: who & 0x20 != 0,
            babbles: (server & 0x40 != 0).then_some(server & 0x80 != 0),
            status: who >> 6,
        },
    })
}

#[derive(Default)]
struct Shared {
    manners: Mutex<Manners>,
    /// What the server took for one request each.
    requests: Mutex<Vec<Vec<u8>>>,
}

/// The clients whose octets these are, or are among.
fn marks(octets: &[u8]) -> BTreeSet<u8> {
    octets.iter().filter(|b| **b >= MARKS).map(|b| b - MARKS).collect()
}

async fn talk(mut stream: TcpStream, shared: Arc<Shared>) {
    let (mut buffer, mut late) = (Vec::new(), Vec::new());
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        let manners = *shared.manners.lock().unwrap();
        let mut request: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length =
            head.split("\r\ncontent-length: ").nth(1).and_then(|v| v.split("\r\n").next()?.parse().ok());
        let mut body = Vec::new();
        if head.contains("\r\ntransfer-encoding: chunked") && manners.knows_chunks && manners.reads > 0 {
            while !body.ends_with(b"0\r\n\r\n") {
                if buffer.is_empty() && !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                    return;
                }
                body.push(buffer.remove(0));
            }
        }
        let wanted = length.unwrap_or(0usize).min(16 * 1024) * usize::from(manners.reads) / 4;
        while length.is_some() && buffer.len() < wanted {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                break;
            }
        }
        body.extend(buffer.drain(..wanted.min(buffer.len())));
        request.extend(body);
        // What the server says is the request's own.
        let content: Vec<u8> = marks(&request).iter().map(|m| m + MARKS).collect();
        let closes = manners.obeys_close && head.contains("\r\nconnection: close\r\n");
        let bodiless = head.starts_with("head ") || manners.status > 1;
        shared.requests.lock().unwrap().push(request);
        let status =
            ["200 OK", "404 Not Found", "204 No Content", "304 Not Modified"][usize::from(manners.status)];
        let framing = match manners.status {
            2 => String::new(),
            _ => format!("Content-Length: {}\r\n", content.len()),
        };
        let mut answer = std::mem::take(&mut late);
        answer.extend_from_slice(format!("HTTP/1.1 {status}\r\n{framing}\r\n").as_bytes());
        match manners.babbles {
            None if bodiless => {}
            Some(true) if bodiless => late = content,
            _ => answer.extend(content),
        }
        if stream.write_all(&answer).await.is_err() || closes {
            return;
        }
    }
}

struct Rig {
    runtime: Runtime,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Rig {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().event_interval(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let server = shared.clone();
        let address = runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // By a reset: thousands of connections a second would else wait out their last state.
                    let _ = stream.set_zero_linger();
                    tokio::spawn(talk(stream, server.clone()));
                }
            });
            address
        });
        Self { runtime, address, shared }
    }

    fn run(&self, exchanges: &[Exchange]) {
        self.shared.requests.lock().unwrap().clear();
        self.runtime.block_on(async {
            let (_stop, shutdown) = Shutdown::channel();
            let engine = engine(self.address, shutdown).await;
            for exchange in exchanges {
                *self.shared.manners.lock().unwrap() = exchange.manners;
                let (client, server) = tokio::io::duplex(1 << 20);
                let (peer, endpoints) = client_from(exchange.client + 1);
                let (engine, http2) = (engine.clone(), exchange.http2);
                let serving = tokio::spawn(async move {
                    let drain = Drain::default();
                    if http2 {
                        engine.serve_http2(server, peer, endpoints, drain, Vec::new()).await;
                    } else {
                        engine.serve(server, peer, endpoints, drain).await;
                    }
                });
                let told = async {
                    if http2 {
                        over_http2(client, exchange).await
                    } else {
                        over_http1(client, exchange).await
                    }
                };
                let told = tokio::time::timeout(PATIENCE, told).await;
                let told = told.unwrap_or_else(|_| panic!("no answer to {exchange:?} in {exchanges:?}"));
                let foreign = marks(&told).into_iter().any(|m| m != exchange.client);
                assert!(!foreign, "{exchange:?} is told {}", told.escape_ascii());
                let _ = tokio::time::timeout(PATIENCE, serving).await.expect("the engine goes on for ever");
            }
        });
        for request in self.shared.requests.lock().unwrap().iter() {
            assert!(marks(request).len() < 2, "two clients in one request: {}", request.escape_ascii());
        }
    }
}

/// The octets of the answer.
async fn over_http1(mut stream: DuplexStream, exchange: &Exchange) -> Vec<u8> {
    let mut request =
        format!("{} / HTTP/1.1\r\nHost: www.foobar.com\r\nConnection: close\r\nCookie: ", exchange.method)
            .into_bytes();
    request.extend([MARKS + exchange.client, b'\r', b'\n']);
    match &exchange.body {
        None => request.extend(b"\r\n"),
        Some(body) if exchange.chunked => {
            request.extend(format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).into_bytes());
            request.extend(body);
            request.extend(b"\r\n0\r\n\r\n");
        }
        Some(body) => {
            request.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            request.extend(body);
        }
    }
    let mut told = Vec::new();
    if stream.write_all(&request).await.is_ok() {
        let _ = stream.read_to_end(&mut told).await;
    }
    told
}

/// The values of the answer's fields, and its content.
async fn over_http2(stream: DuplexStream, exchange: &Exchange) -> Vec<u8> {
    let mut told = Vec::new();
    let Ok((mut client, connection)) = h2::client::handshake(stream).await else { return told };
    let connection = tokio::spawn(connection);
    let mark = [MARKS + exchange.client];
    let mut request = http::Request::builder()
        .method(exchange.method)
        .uri("https://www.foobar.com/")
        .header("cookie", http::HeaderValue::from_bytes(&mark).unwrap());
    if let Some(body) = exchange.body.as_ref().filter(|_| !exchange.chunked) {
        request = request.header("content-length", body.len());
    }
    let request = request.body(()).unwrap();
    if let Ok((answer, mut sender)) = client.send_request(request, exchange.body.is_none()) {
        if let Some(body) = &exchange.body {
            let _ = sender.send_data(Bytes::from(body.clone()), true);
        }
        if let Ok(answer) = answer.await {
            let (head, mut content) = answer.into_parts();
            head.headers.values().for_each(|v| told.extend_from_slice(v.as_bytes()));
            while let Some(Ok(data)) = content.data().await {
                told.extend_from_slice(&data);
            }
        }
    }
    drop(client);
    let _ = connection.await;
    told
}

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

/// Three octets and a body say what one exchange is.
pub fn clients(bytes: &[u8]) {
    let mut octets = Octets(bytes.iter());
    let exchanges: Vec<Exchange> = std::iter::from_fn(|| exchange(&mut octets)).take(24).collect();
    if exchanges.is_empty() {
        return;
    }
    RIG.with_borrow_mut(|rig| rig.get_or_insert_with(Rig::new).run(&exchanges));
}
