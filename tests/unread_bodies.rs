//! Back ends that do not see the ends of messages where we do: they leave bodies unread, or send content where there is none.
//! What is left on such a connection would be a part of the next request, which is somebody else's.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde_json::json;
use support::PATIENCE;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, NO_CHECKS, SITE};
use support::client::{Io, Wire};
use support::link::Link;
use support::program::Program;
use support::until;
use tokio::net::TcpListener;
use tokio::time::timeout;
use trivet_tls as tls;

const WEB: &str = "trivet-web";

/// How much of a request's body a server reads before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Nothing,
    /// The first half of what Content-Length says; nothing of chunks, which it does not know.
    Half,
    All,
}

/// A server as people write them.
#[derive(Debug, Clone, Copy)]
struct Manners {
    reads: Reads,
    /// Ends the connection when the request says `Connection: close`.
    obeys_close: bool,
    /// Sends content after the head of an answer that has none, and late: when the next request comes.
    babbles: bool,
}

const CAREFUL: Manners = Manners { reads: Reads::All, obeys_close: true, babbles: false };

#[derive(Default)]
struct Seen {
    /// What the server took for heads of requests, checks left out.
    heads: Mutex<Vec<String>>,
    connections: Mutex<usize>,
}

/// Answers each request with its method, target and cookie.
async fn listen(manners: Manners) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let shared = seen.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(talk(Link::new(Box::new(tcp)), manners, shared.clone()));
        }
    });
    (address, seen)
}

async fn talk(mut link: Link, manners: Manners, seen: Arc<Seen>) {
    let mut late = String::new();
    let mut counted = false;
    while let Ok(head) = link.until(b"\r\n\r\n").await {
        let head = String::from_utf8_lossy(&head).into_owned();
        let check = head.starts_with("GET /healthz ");
        if !check {
            seen.heads.lock().push(head.clone());
            if !std::mem::replace(&mut counted, true) {
                *seen.connections.lock() += 1;
            }
        }
        let field = |name: &str| {
            let lines = head.split("\r\n").filter_map(|l| l.split_once(": "));
            lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).next()
        };
        let length: usize = field("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let read = match manners.reads {
            Reads::Nothing => Ok(vec![]),
            Reads::Half => link.exactly(length / 2).await,
            Reads::All if field("transfer-encoding").is_some() => link.until(b"0\r\n\r\n").await,
            Reads::All => link.exactly(length).await,
        };
        if read.is_err() || !link.try_send(std::mem::take(&mut late)).await {
            return;
        }
        let line = head.split("\r\n").next().unwrap_or_default();
        let (method, target) = line.trim_end_matches(" HTTP/1.1").split_once(' ').unwrap_or((line, ""));
        let said = format!("{method} {target} {}", field("cookie").unwrap_or_default());
        let (status, content) = match (method, target) {
            ("HEAD", _) => ("200 OK", ""),
            (_, "/none") => ("204 No Content", ""),
            (_, "/known") => ("304 Not Modified", ""),
            _ => ("200 OK", &*said),
        };
        let framing = match status {
            "204 No Content" => String::new(),
            _ => format!("Content-Length: {}\r\n", said.len()),
        };
        if manners.babbles && content.is_empty() {
            late.clone_from(&said);
        }
        if !link.try_send(format!("HTTP/1.1 {status}\r\n{framing}\r\n{content}")).await {
            return;
        }
        if manners.obeys_close && field("connection").is_some_and(|v| v.contains("close")) {
            return;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Tier {
    Balancer,
    Web,
}

const TIERS: [Tier; 2] = [Tier::Balancer, Tier::Web];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked,
}

/// One tier, with a server behind it.
struct Scene {
    tier: Tier,
    seen: Arc<Seen>,
    program: Program,
    client: [Arc<ClientConfig>; 2],
    _authority: Authority,
}

impl Scene {
    /// `trusted` says to the tier that the server sees the ends of messages.
    async fn new(tier: Tier, manners: Manners, trusted: bool) -> Self {
        let authority = Authority::new();
        let (address, seen) = listen(manners).await;
        let program = match tier {
            Tier::Balancer => {
                let config = BalancerConfig {
                    back_ends: vec![("node0".into(), address)],
                    plain_back_ends: true,
                    web: &format!("{NO_CHECKS}\ntrusted_framing = {trusted}"),
                    ..BalancerConfig::default()
                };
                Program::start(&config.write(&authority))
            }
            Tier::Web => {
                let root = authority.path("www");
                std::fs::create_dir_all(&root).unwrap();
                let config = json!({
                    "node": "node1",
                    "listen": ["127.0.0.1:0"],
                    "metrics": {"listen": "127.0.0.1:0"},
                    "tls": authority.files("node1"),
                    "static": {"root": root},
                    "app": {
                        "address": address,
                        "health": {"interval": "1h", "timeout": "10s", "rise": 1, "fall": 1},
                        "connect_timeout": "5s",
                        "trusted_framing": trusted
                    },
                });
                Program::start_other(WEB, &authority.write("web.json", &config.to_string()))
            }
        };
        let client = [&b"http/1.1"[..], b"h2"].map(|alpn| match tier {
            Tier::Balancer => authority.browser(&[alpn]),
            Tier::Web => tls::client_config(&authority.files("balancer"), &[alpn]).unwrap(),
        });
        Self { tier, seen, program, client, _authority: authority }
    }

    async fn open(&self, version: Version) -> Wire {
        let (key, name) = match self.tier {
            Tier::Balancer => ("https.listen", SITE),
            Tier::Web => ("listen", "node1"),
        };
        Wire::tls(
            self.program.address(key),
            name,
            self.client[usize::from(version == Version::Http2)].clone(),
        )
        .await
    }

    /// The status and content of the answer, on a connection of its own.
    async fn ask(
        &self,
        version: Version,
        line: &str,
        cookie: &str,
        body: Option<(Framing, &str)>,
    ) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut wire = self.open(version).await;
        if version == Version::Http2 {
            return ask_http2(wire.into_stream(), method, path, cookie, body).await;
        }
        let framed = match body {
            None => "\r\n".to_owned(),
            Some((Framing::Length, body)) => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
            Some((Framing::Chunked, body)) => {
                format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
            }
        };
        wire.send(&format!("{method} {path} HTTP/1.1\r\nHost: {SITE}\r\nCookie: {cookie}\r\n{framed}")).await;
        let answer = wire.answer_to(method).await.unwrap_or_else(|| panic!("no answer to {line}"));
        (answer.status, answer.body)
    }

    /// Three visitors, one after another, each of whom must get the answer to what they asked.
    async fn visitors(&self, after: &str) {
        for n in 0..3 {
            let (line, cookie) = (format!("GET /visitor-{n}"), format!("session=secret-{n}"));
            let version = if n == 1 { Version::Http2 } else { Version::Http1 };
            let answer = self.ask(version, &line, &cookie, None).await;
            assert_eq!(answer, (200, format!("{line} {cookie}")), "after {after}");
        }
    }

    /// Waits until so many requests are over: the connection to the server is given back when the answer has gone, and the
    /// client may be faster.
    async fn until_done(&self, requests: usize) {
        let done = || self.program.lines().iter().filter(|l| l["target"] == "trivet::access").count();
        until("the requests are over", || async { done() >= requests }).await;
    }

    fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().clone()
    }

    fn connections(&self) -> usize {
        *self.seen.connections.lock()
    }
}

async fn ask_http2(
    stream: Box<dyn Io>,
    method: &str,
    path: &str,
    cookie: &str,
    body: Option<(Framing, &str)>,
) -> (u16, String) {
    let asked = async {
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let mut request =
            Request::builder().method(method).uri(format!("https://{SITE}{path}")).header("cookie", cookie);
        if let Some((Framing::Length, body)) = body {
            request = request.header("content-length", body.len());
        }
        let (answer, mut content) = client.send_request(request.body(()).unwrap(), body.is_none()).unwrap();
        if let Some((_, body)) = body {
            // An early answer may have ended the stream.
            let _ = content.send_data(Bytes::from(body.to_owned()), true);
        }
        let (head, mut content) = answer.await.unwrap().into_parts();
        let mut text = Vec::new();
        while let Some(data) = content.data().await {
            let data = data.unwrap();
            content.flow_control().release_capacity(data.len()).unwrap();
            text.extend_from_slice(&data);
        }
        (head.status.as_u16(), String::from_utf8_lossy(&text).into_owned())
    };
    timeout(PATIENCE, asked).await.expect("no answer over HTTP/2")
}

/// A body that is a request, whose own body is to be the next visitor's head.
fn trap(line: &str) -> String {
    format!(
        "{line} HTTP/1.1\r\nHost: {SITE}\r\nX-Forwarded-For: 192.0.2.66\r\nContent-Length: 400\r\n\r\ntext="
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_what_a_back_end_leaves_of_a_body_is_no_part_of_the_next_visitors_request() {
    for tier in TIERS {
        for reads in [Reads::Nothing, Reads::Half] {
            for obeys_close in [true, false] {
                let manners = Manners { reads, obeys_close, babbles: false };
                let scene = Scene::new(tier, manners, false).await;
                let large = "x".repeat(300_000);
                for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY", "HEAD"] {
                    for version in [Version::Http1, Version::Http2] {
                        for framing in [Framing::Length, Framing::Chunked] {
                            let trap = trap("POST /stolen");
                            for body in ["hello", &trap, &large] {
                                let line = format!("{method} /attack");
                                let short = &body[..body.len().min(20)];
                                let case =
                                    format!("{tier:?} {manners:?} {version:?} {framing:?} {line} {short}");
                                let (status, _) =
                                    scene.ask(version, &line, "mine=yes", Some((framing, body))).await;
                                assert_eq!(status, 200, "{case}");
                                scene.visitors(&case).await;
                            }
                        }
                    }
                }
                for head in scene.heads() {
                    let visitor = head.contains("secret-");
                    assert!(
                        visitor == head.starts_with("GET /visitor-")
                            && !(visitor && head.contains("mine=yes")),
                        "{tier:?} {manners:?}: taken for one request: {head}"
                    );
                }
                if obeys_close {
                    let own = |h: &&String| !h.contains("/attack ") && !h.contains("/visitor-");
                    let heads = scene.heads();
                    let smuggled: Vec<_> = heads.iter().filter(own).collect();
                    assert!(smuggled.is_empty(), "{tier:?} {manners:?}: past every check: {smuggled:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_a_body_that_was_answered_before_its_end_is_no_part_of_the_next_visitors_request() {
    for tier in TIERS {
        // Whether the server may be trusted makes no difference: we have not sent the end.
        for trusted in [false, true] {
            let manners = Manners { reads: Reads::Nothing, obeys_close: true, babbles: false };
            let scene = Scene::new(tier, manners, trusted).await;
            for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
                let mut wire = scene.open(Version::Http1).await;
                let begin = format!("PUT /attack HTTP/1.1\r\nHost: {SITE}\r\n{framing}\r\n\r\n");
                wire.send(&begin).await;
                assert_eq!(wire.answer().await.unwrap().status, 200);
                // The rest comes while, or after, the visitors do.
                wire.try_send(&format!("5\r\n{}", trap("POST /stolen"))).await;
                scene.visitors(framing).await;
            }
            assert!(!scene.heads().iter().any(|h| h.contains("/stolen")), "{:?}", scene.heads());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_content_where_there_is_none_is_no_part_of_the_next_visitors_answer() {
    for tier in TIERS {
        let scene = Scene::new(tier, Manners { babbles: true, ..CAREFUL }, false).await;
        for version in [Version::Http1, Version::Http2] {
            for (line, status) in [("HEAD /page", 200), ("GET /none", 204), ("GET /known", 304)] {
                let case = format!("{tier:?} {version:?} {line}");
                assert_eq!(
                    scene.ask(version, line, "mine=yes", None).await,
                    (status, String::new()),
                    "{case}"
                );
                scene.visitors(&case).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_a_back_end_whose_framing_is_trusted_keeps_its_connection_after_a_body() {
    for tier in TIERS {
        for (trusted, expected) in [(true, 1), (false, 6)] {
            let scene = Scene::new(tier, CAREFUL, trusted).await;
            for (n, framing) in [Framing::Length, Framing::Chunked, Framing::Length].into_iter().enumerate() {
                let answer = scene.ask(Version::Http1, "PUT /page", "a=b", Some((framing, "text"))).await;
                assert_eq!(answer, (200, "PUT /page a=b".into()));
                scene.until_done(n + 1).await;
            }
            for (n, line) in ["HEAD /page", "GET /none", "GET /known"].into_iter().enumerate() {
                scene.ask(Version::Http1, line, "a=b", None).await;
                scene.until_done(n + 4).await;
            }
            assert_eq!(scene.connections(), expected, "{tier:?} trusted: {trusted}");
            let told = scene.heads().iter().filter(|h| h.contains("\r\nConnection: close\r\n")).count();
            assert_eq!(told, if trusted { 0 } else { 3 }, "{tier:?} {:?}", scene.heads());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_requests_without_a_body_go_on_sharing_a_connection() {
    for tier in TIERS {
        let scene = Scene::new(tier, CAREFUL, false).await;
        for n in 0..5 {
            let answer = scene.ask(Version::Http1, &format!("GET /{n}"), "a=b", None).await;
            assert_eq!(answer, (200, format!("GET /{n} a=b")));
            scene.until_done(n + 1).await;
        }
        let answer = scene.ask(Version::Http1, "PUT /empty", "a=b", Some((Framing::Length, ""))).await;
        assert_eq!(answer, (200, "PUT /empty a=b".into()));
        assert_eq!(scene.connections(), 1, "{tier:?}");
    }
}
