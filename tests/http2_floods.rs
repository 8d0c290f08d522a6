//! Clients that send HTTP/2 frames as attackers do (RFC 9113 section 10.5): the connection ends, memory stays, and others
//! are served meanwhile. Over TLS and in plain text.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use support::PATIENCE;
use support::backend::Act;
use support::client::{Io, Wire};
use support::frames::*;
use support::one_back_end::{Keys, SITE, Scene};
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};

/// How much the process may grow under a flood of one connection.
const BOUND_KIB: u64 = 16 * 1024;

/// As `BOUND_KIB`, for answers that have no window to go to: `max_streams` of them, each with some 600 KiB on their way
/// until `client_timeout`, and what the allocator keeps of it.
const NO_WINDOW_BOUND_KIB: u64 = 96 * 1024;

const NONE: u8 = 0;

const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// A request's field section.
fn request(path: &str) -> Vec<u8> {
    // :method GET, :scheme https (http would do as well), then :path and :authority as literals.
    [vec![0x82, 0x87, 0x04], text(path), vec![0x01], text(SITE)].concat()
}

fn odd(n: u32) -> u32 {
    2 * n + 1
}

/// What an attacker sees.
#[derive(Default)]
struct Seen {
    ended: AtomicBool,
    goaway: Mutex<Option<u32>>,
    resets: Mutex<Vec<(u32, u32)>>,
}

struct Attacker {
    writer: WriteHalf<Box<dyn Io>>,
    seen: Arc<Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Tls,
    Plain,
}

impl Attacker {
    /// Connects, and says the preface and SETTINGS with these parameters.
    async fn connect(scene: &Scene, over: Over, settings: &[u8]) -> Self {
        let wire = match over {
            Over::Tls => Wire::tls(scene.https(), SITE, scene.authority.browser(&[b"h2"])).await,
            Over::Plain => Wire::plain(scene.http()).await,
        };
        let (mut reader, mut writer) = tokio::io::split(wire.into_stream());
        let seen = Arc::new(Seen::default());
        let to = seen.clone();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while reader.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                note(&mut buffer, &to);
            }
            to.ended.store(true, Ordering::SeqCst);
        });
        writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        writer.write_all(&frame(SETTINGS, NONE, 0, settings)).await.unwrap();
        writer.flush().await.unwrap();
        Self { writer, seen }
    }

    async fn send(&mut self, bytes: &[u8]) -> bool {
        let sending =
            async { self.writer.write_all(bytes).await.is_ok() && self.writer.flush().await.is_ok() };
        tokio::time::timeout(PATIENCE, sending).await.expect("the server neither reads nor closes")
    }

    fn has_ended(&self) -> bool {
        self.seen.ended.load(Ordering::SeqCst)
    }
}

/// Takes whole frames out of what was read.
fn note(buffer: &mut Vec<u8>, to: &Seen) {
    while buffer.len() >= 9 {
        let length = u32::from_be_bytes([0, buffer[0], buffer[1], buffer[2]]) as usize;
        if buffer.len() < 9 + length {
            return;
        }
        let frame: Vec<u8> = buffer.drain(..9 + length).collect();
        let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        match frame[3] {
            GOAWAY => *to.goaway.lock() = Some(number(13)),
            RST_STREAM => to.resets.lock().push((number(5), number(9))),
            _ => {}
        }
    }
}

/// A scene that watches its balancer while something goes on.
struct Watched {
    scene: Scene,
    before: u64,
}

impl Watched {
    async fn start(https: &str) -> Self {
        let keys = Keys { http: "redirect = false", https, ..Keys::default() };
        let scene = Scene::start(keys).await;
        assert_eq!(scene.get("/warm").await.status, 200);
        let before = scene.balancer.memory_kib();
        Self { scene, before }
    }

    /// Sends what `next` makes until the connection ends, which it must; others must be served in the meantime.
    async fn flood(&self, what: &str, over: Over, settings: &[u8], mut next: impl FnMut(u32) -> Vec<u8>) {
        let mut attacker = Attacker::connect(&self.scene, over, settings).await;
        let peak = AtomicU64::new(0);
        let attack = async {
            let mut sent = 0_usize;
            for n in 0.. {
                let bytes = next(n);
                sent += bytes.len();
                if !attacker.send(&bytes).await || attacker.has_ended() {
                    break;
                }
                peak.fetch_max(self.scene.balancer.memory_kib(), Ordering::Relaxed);
                assert!(sent < 256 << 20, "{what}, {over:?}: 256 MiB were read");
                tokio::task::yield_now().await;
            }
            sent
        };
        let served = self.served_until(attack);
        let (sent, others) =
            tokio::time::timeout(3 * PATIENCE, served).await.expect("the connection does not end");
        self.tell(what, over, sent, &attacker, others, peak.into_inner());
    }

    /// Other clients are served as long as `attack` goes on, and once more after it.
    async fn served_until(&self, attack: impl Future<Output = usize>) -> (usize, usize) {
        let others = AtomicU64::new(0);
        let serving = async {
            loop {
                assert_eq!(self.scene.get("/others").await.status, 200);
                others.fetch_add(1, Ordering::Relaxed);
            }
        };
        let sent = tokio::select! { sent = attack => sent, () = serving => unreachable!() };
        assert_eq!(self.scene.get("/after").await.status, 200);
        (sent, others.into_inner() as usize)
    }

    fn tell(&self, what: &str, over: Over, sent: usize, attacker: &Attacker, others: usize, peak: u64) {
        self.tell_within(BOUND_KIB, what, over, sent, attacker, others, peak);
    }

    #[allow(clippy::too_many_arguments)]
    fn tell_within(
        &self,
        bound: u64,
        what: &str,
        over: Over,
        sent: usize,
        attacker: &Attacker,
        others: usize,
        peak: u64,
    ) {
        let after = self.scene.balancer.memory_kib();
        let during = peak.max(after);
        let goaway = attacker.seen.goaway.lock().map_or("none".into(), |code| format!("{code:#x}"));
        println!(
            "{what} ({over:?}): ended after {sent} bytes, GOAWAY {goaway}, {others} others served, \
             {} KiB before, {during} KiB during, {after} KiB after",
            self.before
        );
        assert!(during < self.before + bound, "{what}, {over:?}: grew from {} to {during} KiB", self.before);
    }

    async fn counted(&self, kind: &str) -> f64 {
        self.scene.metric(&format!("trivet_http2_floods_total{{kind=\"{kind}\"}}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_44487_rapid_reset() {
    let watched = Watched::start("").await;
    for over in [Over::Tls, Over::Plain] {
        watched
            .flood("rapid reset, all at once", over, &[], |n| {
                let stream = odd(n);
                let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, request("/reset"));
                [open, frame(RST_STREAM, NONE, stream, CANCEL)].concat()
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_44487_rapid_reset_of_requests_that_were_taken_up() {
    let watched = Watched::start("").await;
    // So that no answer overtakes its reset.
    watched.scene.backend.does(Act::Late(Duration::from_millis(200)));
    let mut attacker = Attacker::connect(&watched.scene, Over::Tls, &[]).await;
    let (mut resets, mut sent) = (0, 0);
    while !attacker.has_ended() && resets < 5000 {
        let stream = odd(resets);
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, request("/reset"));
        if !attacker.send(&open).await {
            break;
        }
        sent += open.len() + 13;
        // It has reached a back end, so it was taken up; the library counts only those that were not.
        let reached = || watched.scene.backend.served() > resets as usize + 1;
        while !reached() && !attacker.has_ended() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if !attacker.send(&frame(RST_STREAM, NONE, stream, CANCEL)).await {
            break;
        }
        resets += 1;
    }
    watched.tell(
        "rapid reset, one by one",
        Over::Tls,
        sent,
        &attacker,
        0,
        watched.scene.balancer.memory_kib(),
    );
    assert!(resets < 5000, "it does not end");
    assert_eq!(watched.counted("RST_STREAM").await, 1.0);
    watched.scene.balancer.logged(|l| l["message"] == "HTTP/2 connection ended: too many RST_STREAM frames");
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_27316_continuation_flood() {
    let watched = Watched::start("").await;
    for over in [Over::Tls, Over::Plain] {
        watched
            .flood("CONTINUATION, with fields", over, &[], |n| {
                let field = [vec![0x00], text(format!("x-{n}")), text("v".repeat(1000))].concat();
                let first = frame(HEADERS, END_STREAM, 1, request("/"));
                if n == 0 { first } else { frame(CONTINUATION, NONE, 1, &field) }
            })
            .await;
        watched
            .flood("CONTINUATION, empty", over, &[], |n| {
                let first = frame(HEADERS, END_STREAM, 1, request("/"));
                if n == 0 { first } else { frame(CONTINUATION, NONE, 1, []).repeat(100) }
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_9515_settings_flood() {
    let watched = Watched::start("").await;
    // INITIAL_WINDOW_SIZE to and fro: each changes the window of every stream.
    let window = |n: u32| [&[0, 4][..], &(1000 + n % 2).to_be_bytes()].concat();
    for over in [Over::Tls, Over::Plain] {
        watched.flood("SETTINGS", over, &[], |n| frame(SETTINGS, NONE, 0, window(n)).repeat(50)).await;
    }
    assert_eq!(watched.counted("SETTINGS").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_9512_ping_flood() {
    let watched = Watched::start("").await;
    for over in [Over::Tls, Over::Plain] {
        watched.flood("PING", over, &[], |_| frame(PING, NONE, 0, b"trivet!!").repeat(50)).await;
    }
    assert_eq!(watched.counted("PING").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_9518_empty_frames_flood() {
    let watched = Watched::start("").await;
    for over in [Over::Tls, Over::Plain] {
        watched
            .flood("empty DATA", over, &[], |n| {
                let open = frame(HEADERS, END_HEADERS, 1, request("/"));
                if n == 0 { open } else { frame(DATA, NONE, 1, []).repeat(20) }
            })
            .await;
        watched
            .flood("empty HEADERS", over, &[], |n| frame(HEADERS, END_STREAM | END_HEADERS, odd(n), []))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_9513_priority_window_update_and_unknown_frames_flood() {
    let watched = Watched::start("").await;
    for over in [Over::Tls, Over::Plain] {
        watched
            .flood("PRIORITY", over, &[], |n| frame(PRIORITY, NONE, odd(n), [0, 0, 0, 0, 1]).repeat(50))
            .await;
        watched
            .flood("WINDOW_UPDATE", over, &[], |_| frame(WINDOW_UPDATE, NONE, 0, [0, 0, 0, 1]).repeat(50))
            .await;
        watched.flood("unknown", over, &[], |_| frame(0xbb, NONE, 0, b"?").repeat(50)).await;
    }
    for kind in ["PRIORITY", "WINDOW_UPDATE", "unknown"] {
        assert_eq!(watched.counted(kind).await, 2.0, "{kind}");
    }
}

/// RFC 7541 section 7.3: one byte stands for a field of 4,000.
#[tokio::test(flavor = "multi_thread")]
async fn rfc7541_7_3_hpack_bomb() {
    let watched = Watched::start("").await;
    for over in [Over::Tls, Over::Plain] {
        watched
            .flood("HPACK bomb", over, &[], |n| {
                let planted = [vec![0x40], text("x"), text("v".repeat(3900))].concat();
                // The newest entry of the dynamic table is 62.
                let block = [request("/"), planted, vec![0x80 | 62; 12_000]].concat();
                frame(HEADERS, END_STREAM | END_HEADERS, odd(n), block)
            })
            .await;
    }
}

/// CVE-2019-9511, CVE-2019-9517: answers that have no window to go to.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_9511_streams_without_a_window_end_the_connection() {
    let watched = Watched::start("client_timeout = \"1s\"").await;
    let body = "x".repeat(1 << 20);
    watched
        .scene
        .backend
        .does(Act::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())));
    // One after the other: what the first held must be there for the next, not beside it.
    for over in [Over::Tls, Over::Plain, Over::Tls, Over::Plain] {
        let zero = [0, 4, 0, 0, 0, 0];
        let mut attacker = Attacker::connect(&watched.scene, over, &zero).await;
        for n in 0..100 {
            let open = frame(HEADERS, END_STREAM | END_HEADERS, odd(n), request("/window"));
            assert!(attacker.send(&open).await);
        }
        let peak = AtomicU64::new(0);
        let attack = async {
            while !attacker.has_ended() {
                peak.fetch_max(watched.scene.balancer.memory_kib(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            0
        };
        let served = watched.served_until(attack);
        let (_, others) = tokio::time::timeout(PATIENCE, served).await.expect("the connection does not end");
        watched.tell_within(
            NO_WINDOW_BOUND_KIB,
            "100 answers of 1 MiB without a window",
            over,
            0,
            &attacker,
            others,
            peak.into_inner(),
        );
    }
    assert_eq!(watched.counted("slow_reader").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_2_streams_beyond_max_streams_are_refused() {
    let watched = Watched::start("max_streams = 10").await;
    watched.scene.backend.does(Act::Late(Duration::from_secs(2)));
    let mut attacker = Attacker::connect(&watched.scene, Over::Tls, &[]).await;
    for n in 0..12 {
        assert!(attacker.send(&frame(HEADERS, END_STREAM | END_HEADERS, odd(n), request("/many"))).await);
    }
    support::until("the eleventh and the twelfth are refused", || async {
        *attacker.seen.resets.lock() == [(odd(10), REFUSED_STREAM), (odd(11), REFUSED_STREAM)]
    })
    .await;
    support::until("the others are served", || async { watched.scene.backend.count("/many") == 10 }).await;
    assert!(!attacker.has_ended());
}

/// A client that does much, and nothing out of measure, is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_client_is_no_flood() {
    let watched = Watched::start("").await;
    let wire = Wire::tls(watched.scene.https(), SITE, watched.scene.authority.browser(&[b"h2"])).await;
    let (mut client, mut connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    for n in 0..600 {
        client = client.ready().await.unwrap();
        let request = http::Request::get(format!("https://{SITE}/busy")).body(()).unwrap();
        let (answer, mut stream) = client.send_request(request, true).unwrap();
        match n % 20 {
            // One in twenty is taken back.
            0 => stream.send_reset(h2::Reason::CANCEL),
            1 => {
                assert_eq!(answer.await.unwrap().status(), 200);
                pings.ping(h2::Ping::opaque()).await.unwrap();
            }
            _ => {
                let mut body = answer.await.unwrap().into_body();
                while let Some(piece) = body.data().await {
                    let n = piece.unwrap().len();
                    body.flow_control().release_capacity(n).unwrap();
                }
            }
        }
    }
}
