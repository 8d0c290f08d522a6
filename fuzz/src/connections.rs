//! Whole connections through the engine: bytes of a client in, a back end on the loopback device behind it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use trivet_base::process::Shutdown;
use trivet_http::frames::FrameRates;
use trivet_http::request::Request;
use trivet_http::steps::{Endpoints, Peer, Policy, Position};
use trivet_pool::timing::Timing;
use trivet_pool::{Check, NewBackend, Pool, PoolLimits, Scope, Spec, Verdict};
use trivet_proxy::admission::Admission;
use trivet_proxy::exchange::Exchange;
use trivet_proxy::server::{Drain, Limits};
use trivet_proxy::upstream::{HttpPool, IdleLimit, Upstream, UpstreamConfig};
use trivet_proxy::{Destination, Engine, Route, Service, Terms};
use trivet_tls::clients::ClientVerified;

use super::strict_reader::{self, Length};

/// No time-out may fire: what happens must depend on the bytes alone.
pub(super) const LONG: Duration = Duration::from_secs(3600);
/// Rounds without any octet moving after which nothing will move any more: everything is on one thread, and each round
/// asks the system what there is to read.
const QUIET: usize = 40;
/// Longer inputs only repeat what shorter ones do.
const MOST: usize = 8 * 1024;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Well;

#[async_trait::async_trait]
impl Check for Well {
    async fn check(&self, _: Duration) -> Verdict {
        Verdict::Good(serde_json::Value::Null)
    }
}

pub(super) struct All {
    pool: Arc<HttpPool>,
}

impl Service for All {
    async fn route(&self, _: &Request, _: &mut Exchange) -> Route {
        Route::Forward(Destination {
            terms: Terms::default(),
            pool: self.pool.clone(),
            scope: Scope::ANY,
            retries: 1,
            target: None,
            fields: None,
            session: None,
        })
    }
}

#[derive(Default)]
struct Shared {
    moved: AtomicUsize,
    seen: std::sync::Mutex<Vec<String>>,
    faults: std::sync::Mutex<Vec<String>>,
}

struct Rig {
    runtime: Runtime,
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Rig {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().event_interval(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let address = runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let shared = shared.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(back_end(stream, shared.clone()));
                }
            });
            address
        });
        Self { runtime, shared, address }
    }

    /// What the back end saw, and what the client got, when the bytes come in these pieces.
    fn outcome(&self, pieces: &[&[u8]]) -> (Vec<String>, String) {
        let (seen, told) = self.serve(pieces, false);
        (seen, without_varying(&told))
    }

    fn serve(&self, pieces: &[&[u8]], http2: bool) -> (Vec<String>, Vec<u8>) {
        self.shared.seen.lock().unwrap().clear();
        let told = self.runtime.block_on(async {
            let (_stop, shutdown) = Shutdown::channel();
            let engine = engine(self.address, shutdown).await;
            let (client, server) = tokio::io::duplex(1 << 20);
            let (mut reader, mut writer) = tokio::io::split(client);
            let serving = tokio::spawn(async move {
                let (peer, endpoints) = client_from(1);
                let drain = Drain::default();
                if http2 {
                    engine.serve_http2(server, peer, endpoints, drain, PREFACE.to_vec()).await;
                } else {
                    engine.serve(server, peer, endpoints, drain).await;
                }
            });
            let shared = self.shared.clone();
            let reading = tokio::spawn(async move {
                let mut all = Vec::new();
                while let Ok(1..) = reader.read_buf(&mut all).await {
                    shared.moved.fetch_add(1, Ordering::Relaxed);
                }
                all
            });
            for piece in pieces {
                if writer.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            let (mut quiet, mut moved) = (0, 0);
            while quiet < QUIET && !serving.is_finished() {
                tokio::task::yield_now().await;
                let now = self.shared.moved.load(Ordering::Relaxed);
                quiet = if now == moved { quiet + 1 } else { 0 };
                moved = now;
            }
            let _ = writer.shutdown().await;
            serving.await.expect("the engine panicked");
            drop(writer);
            reading.await.unwrap()
        });
        let faults = std::mem::take(&mut *self.shared.faults.lock().unwrap());
        assert!(faults.is_empty(), "passed on to the back end: {}", faults.join("; "));
        (self.shared.seen.lock().unwrap().clone(), told)
    }
}

/// A pool with the back end at `address`, which is well.
/// An engine that forwards everything to one back end, with small limits, no time-out, and no connection that an engine
/// before it left.
pub(super) async fn engine(address: SocketAddr, shutdown: Shutdown) -> Arc<Engine<All>> {
    let config = UpstreamConfig {
        address: address.into(),
        tls: None,
        connect_timeout: LONG,
        response_timeout: LONG,
        retry_on: Arc::default(),
        send_proxy_protocol: None,
        idle_timeout: LONG,
        http2: false,
        trusted_framing: false,
    };
    let one = NewBackend {
        spec: Spec::new("node1", address),
        check: Arc::new(Well),
        transport: Upstream::new("web", "node1", config, &IdleLimit::new(8)),
    };
    let pool = Pool::new("web", vec![one], PoolLimits::NONE);
    pool.first_round(Timing::steady(LONG, LONG, 1, 1)).await;
    let service = All { pool };
    let policy = Policy {
        position: Position::Edge,
        max_header_size: 4096,
        max_target_length: 2048,
        max_body_size: 4096,
        ..Policy::inner()
    };
    let limits = Limits {
        header_timeout: LONG,
        idle_timeout: LONG,
        client_timeout: LONG,
        request_timeout: LONG,
        stream_timeout: LONG,
        tunnel_timeout: LONG,
        min_rate: 0,
        max_header_size: 4096,
        max_header_fields: 100,
        handshake_timeout: LONG,
        max_connections: 10_000,
        max_streams: 100,
        http2_frames: FrameRates::default(),
        drain_delay: Duration::ZERO,
        shutdown_timeout: Duration::ZERO,
        drain_timeout: Duration::ZERO,
    };
    Engine::new(service, policy, limits, Admission::unlimited(), shutdown)
}

/// Where a client comes from: the last octet of its address.
pub(super) fn client_from(number: u8) -> (Peer, Endpoints) {
    let address = IpAddr::from([192, 0, 2, number]);
    let peer = Peer {
        address,
        tls: true,
        client_certificate: ClientVerified::NotAsked,
        socket: None,
        handshake: None,
    };
    let destination = SocketAddr::from(([192, 0, 2, 255], 443));
    (peer, Endpoints { source: SocketAddr::new(address, 1024), destination })
}

/// Reads requests strictly, and answers each.
async fn back_end(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut buffer).await {
        shared.moved.fetch_add(1, Ordering::Relaxed);
        loop {
            match request(&buffer) {
                Err(fault) => {
                    shared.faults.lock().unwrap().push(format!("{fault}: {}", buffer.escape_ascii()));
                    return;
                }
                Ok(None) => break,
                Ok(Some((told, head_only, used))) => {
                    shared.seen.lock().unwrap().push(told);
                    buffer.drain(..used);
                    let body = if head_only { "" } else { "ok" };
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
    // By a reset: thousands of connections a second would else wait out their last state.
    let _ = stream.set_zero_linger();
}

/// The request at the start, whether it is HEAD, and its octets; none when more must come.
fn request(bytes: &[u8]) -> Result<Option<(String, bool, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let head = strict_reader::head(&bytes[..end])?;
    let rest = &bytes[end..];
    let (content, used) = match head.length {
        Length::Octets(n) => match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(content) => (content.to_vec(), content.len()),
            None => return Ok(None),
        },
        Length::Chunked => match chunked(rest)? {
            Some(read) => read,
            None => return Ok(None),
        },
    };
    let lines = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let lines: Vec<&str> =
        lines.split("\r\n").filter(|l| !l.to_ascii_lowercase().starts_with("x-request-id:")).collect();
    Ok(Some((format!("{}{}", lines.join("\n"), content.escape_ascii()), head.method == "HEAD", end + used)))
}

/// Content of a chunked body, and its octets with its trailers.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
        let digits = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("a chunk of size {digits:?}"));
        }
        let size = usize::from_str_radix(&digits, 16).map_err(|e| e.to_string())?;
        at += end + 2;
        if size == 0 {
            break;
        }
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        content.extend_from_slice(&bytes[at..at + size]);
        at += size;
        if &bytes[at..at + 2] != b"\r\n" {
            return Err("chunk data without its line end".into());
        }
        at += 2;
    }
    loop {
        let Some(end) = bytes[at..].windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
        at += end + 2;
        if end == 0 {
            return Ok(Some((content, at)));
        }
    }
}

/// Without dates, and with the ids of requests made equal. A head with two mistakes may be refused for either, so one
/// refusal is as good as another, and nothing comes after it.
fn without_varying(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let refusals = ["400 Bad", "414 ", "431 ", "505 "].map(|status| format!("HTTP/1.1 {status}"));
    let first = refusals.iter().filter_map(|r| text.find(r)).min();
    let text = first.map_or(text.to_string(), |at| format!("{}refused", &text[..at]));
    let lines = text.split("\r\n").filter(|l| !l.to_ascii_lowercase().starts_with("date:"));
    let (mut out, mut run) = (String::new(), String::new());
    for c in lines.collect::<Vec<_>>().join("\n").chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        out.push_str(if run.len() == 32 { "ID" } else { &run });
        run.clear();
        out.push(c);
    }
    out
}

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

/// The first two octets say how the rest is cut.
pub fn connection(bytes: &[u8]) {
    let Some((seed, bytes)) = bytes.split_at_checked(2) else { return };
    if bytes.len() > MOST {
        return;
    }
    let mut state = u32::from(seed[0]) << 8 | u32::from(seed[1]) | 1 << 16;
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        // Xorshift: the same cuts for the same seed.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let most = if seed[0] % 4 == 0 { 3 } else { 64 };
        let (piece, more) = rest.split_at((state as usize % most + 1).min(rest.len()));
        pieces.push(piece);
        rest = more;
    }
    RIG.with_borrow_mut(|rig| {
        let rig = rig.get_or_insert_with(Rig::new);
        let whole = rig.outcome(&[bytes]);
        let cut = rig.outcome(&pieces);
        assert_eq!(whole, cut, "cut into {} pieces", pieces.len());
    });
}

/// Frames of HTTP/2, after the preface, whole and cut. Requests run side by side, so which of them a reset still meets is
/// chance; but nothing panics, whatever comes after is told in whole frames, and the back end can read all it gets.
pub fn http2_connection(bytes: &[u8]) {
    if bytes.len() > MOST {
        return;
    }
    RIG.with_borrow_mut(|rig| {
        let rig = rig.get_or_insert_with(Rig::new);
        for pieces in [vec![bytes], bytes.chunks(7).collect()] {
            let (_, told) = rig.serve(&pieces, true);
            frames(&told);
        }
    });
}

/// Whole frames of known kinds, up to the end (RFC 9113 section 4.1).
fn frames(mut told: &[u8]) {
    while !told.is_empty() {
        assert!(told.len() >= 9, "half a frame: {}", told.escape_ascii());
        let length = usize::from(told[0]) << 16 | usize::from(told[1]) << 8 | usize::from(told[2]);
        assert!(told[3] <= 9 && length <= 16_384, "no frame of ours: {}", told.escape_ascii());
        assert!(told.len() >= 9 + length, "half a frame: {}", told.escape_ascii());
        told = &told[9 + length..];
    }
}
