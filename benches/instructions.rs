//! The hot paths, one at a time, for a program that counts instructions: `benches/run`. Arguments: the name of a case;
//! without one, the names of all.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures_util::FutureExt as _;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue, Method, Request as Http2Head, Version};
use serde_json::{Value, json};
use tokio::time::Instant;
use trivet_balancer::config::Config;
use trivet_balancer::proxy::{self, Balancer, Served, Sites};
use trivet_base::config::Log;
use trivet_base::telemetry::{self, access};
use trivet_http::body::{Decoder, Framing, Step};
use trivet_http::request::{Edits, Request};
use trivet_http::response::Response;
use trivet_http::scan::Scan;
use trivet_http::steps::{self, Admitted, Peer, Policy};
use trivet_pool::check::{Check, Verdict};
use trivet_pool::timing::Timing;
use trivet_pool::{NewBackend, Pool, PoolLimits, Scope, Spec, Tried};
use trivet_proxy::admission::requests::TRACKED;
use trivet_proxy::admission::{Admission, RequestRate, Rules};
use trivet_proxy::exchange::Exchange;
use trivet_proxy::{Route, Service as _, Terms};
use trivet_tls::clients::ClientVerified;
use trivet_web::config::Static;
use trivet_web::files;
use trivet_web::site::Site;

/// Each case this often, after a few times that nobody counts; `benches/run` divides by it.
const TIMES: usize = 500;
const WARM_UP: usize = 20;
const FIELDS: usize = 100;

/// What a browser asks.
const REQUEST: &[u8] = b"GET /articles/what-happens-when-a-node-dies?comments=2 HTTP/1.1\r\n\
    Host: www.foobar.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Connection: keep-alive\r\n\
    Cookie: __Host-trivet-session=3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\r\n";

/// What an app answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 5120\r\n\
    Cache-Control: no-store\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'self'; img-src 'self'\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Vary: Cookie\r\n\
    Date: Sun, 22 Nov 2026 19:34:37 GMT\r\n\r\n";

/// The function that the counting program looks for.
#[inline(never)]
fn measured(times: usize, case: &mut dyn FnMut()) {
    for _ in 0..times {
        case();
    }
}

fn run(mut case: impl FnMut()) {
    for _ in 0..WARM_UP {
        case();
    }
    measured(black_box(TIMES), &mut case);
}

fn client() -> IpAddr {
    IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))
}

fn peer() -> Peer {
    Peer {
        address: client(),
        tls: true,
        client_certificate: ClientVerified::NotAsked,
        socket: None,
        handshake: None,
    }
}

fn policy() -> Policy {
    Policy { max_body_size: 1 << 20, ..Policy::inner() }
}

fn admit(request: &Request, policy: &Policy) -> Admitted {
    steps::admit(request, &peer(), policy).expect("a good request")
}

/// Octets from a client to octets for a back end.
fn request_head() {
    let policy = policy();
    let (mut out, mut room) = (Vec::new(), Vec::new());
    run(|| {
        let end = Scan::default().end(REQUEST).ok().flatten().expect("a whole head");
        let raw = BytesMut::from(&REQUEST[..end]);
        let request = Request::parse(raw, FIELDS, std::mem::take(&mut room)).expect("a good head");
        let admitted = admit(&request, &policy);
        out.clear();
        request.forward(&admitted, &policy, false, Edits::default(), &mut out, |_| {});
        black_box(&out);
        room = request.recycle();
    });
}

/// Octets from a back end to octets for a client, but for what every answer of ours says.
fn response_head() {
    let (mut out, mut room) = (Vec::new(), Vec::new());
    run(|| {
        let raw = BytesMut::from(RESPONSE);
        let response = Response::parse(raw, &Method::GET, std::mem::take(&mut room)).expect("a good head");
        out.clear();
        response.forward(response.framing_for(Version::HTTP_11), |_| false, &mut out);
        black_box(&out);
        room = response.recycle();
    });
}

/// 16 chunks of 1 KiB.
fn chunked_body() {
    let mut body = Vec::new();
    for _ in 0..16 {
        body.extend_from_slice(b"400\r\n");
        body.extend_from_slice(&[b'x'; 1024]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let mut buffer = BytesMut::new();
    run(|| {
        buffer.extend_from_slice(&body);
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut content = 0;
        loop {
            match decoder.step(&mut buffer).expect("a good body") {
                Step::Data(n) => content += buffer.split_to(n).len(),
                Step::End(_) => break,
                Step::More => panic!("the body is whole"),
            }
        }
        assert_eq!(content, 16 * 1024);
    });
}

/// A head of HTTP/2 to octets for a back end of HTTP/1.1.
fn http2_head() {
    let policy = policy();
    let mut head = Http2Head::builder()
        .uri("https://www.foobar.com/articles/what-happens-when-a-node-dies?comments=2")
        .version(Version::HTTP_2)
        .body(())
        .expect("a good head");
    for line in std::str::from_utf8(REQUEST).expect("ASCII").lines().skip(2) {
        if let Some((name, value)) = line.split_once(": ").filter(|(name, _)| *name != "Connection") {
            let name: http::HeaderName = name.parse().expect("a name");
            head.headers_mut().append(name, HeaderValue::from_static(value));
        }
    }
    let (parts, ()) = head.into_parts();
    let mut out = Vec::new();
    run(|| {
        let request = Request::from_http2(&parts, true, FIELDS).expect("a good head");
        let admitted = admit(&request, &policy);
        out.clear();
        request.forward(&admitted, &policy, false, Edits::default(), &mut out, |_| {});
        black_box(&out);
    });
}

struct Good;

#[async_trait]
impl Check for Good {
    async fn check(&self, _timeout: Duration) -> Verdict {
        Verdict::Good(Value::Null)
    }
}

/// What is made of a good check that changes nothing, as nearly all do.
fn check_record() {
    telemetry::init_metrics("bench").expect("the first recorder");
    let spec = Spec::new("node1", SocketAddr::from(([192, 0, 2, 1], 8443)));
    let backend = NewBackend { spec, check: Arc::new(Good), transport: () };
    let pool = Pool::new("web", vec![backend], PoolLimits::NONE);
    let timing: Timing = Timing::steady(Duration::from_secs(1), Duration::from_secs(1), 1, 1);
    let backend = pool.backends()[0].clone();
    run(|| backend.record(Verdict::Good(Value::Null), Instant::now(), &timing));
    assert!(backend.is_usable());
}

/// One back end of three.
fn pool_pick() {
    let back_ends = (1..=3u8).map(|n| {
        let address = SocketAddr::from(([192, 0, 2, n], 8443));
        NewBackend { spec: Spec::new(format!("node{n}"), address), check: Arc::new(Good), transport: () }
    });
    let pool = Pool::new("web", back_ends.collect(), PoolLimits::NONE);
    let timing: Timing = Timing::steady(Duration::from_secs(1), Duration::from_secs(1), 1, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(pool.first_round(timing));
    assert_eq!(pool.usable(), 3);
    let tried = Tried::default();
    run(|| {
        black_box(pool.pick(Scope::ANY, &tried)).expect("a back end");
    });
}

/// What a balancer with 50 sites and 1,000 routes, 20 a site and most by prefix, does with a request that the last route of one of them
/// is for: its site, its route, and where that leads.
fn route_choice() {
    let routes = |site: usize| -> Value {
        let prefixes = (0..15)
            .map(|n| json!({ "path_prefix": format!("/section-{site}-{n}"), "response_timeout": "10s" }));
        let exact = (0..2).map(|n| json!({ "path": format!("/page-{site}-{n}"), "refuse": 410 }));
        let patterns =
            (0..2).map(|n| json!({ "path_pattern": format!("^/user/[0-9]+/{n}$"), "refuse": 410 }));
        let last = json!({ "path_prefix": "/articles", "response_timeout": "10s" });
        prefixes.chain(exact).chain(patterns).chain([last]).collect()
    };
    let site = |n: usize| {
        (format!("site{n}"), json!({ "names": [format!("www{n}.foobar.com")], "routes": routes(n) }))
    };
    let config: Config = serde_json::from_value(json!({
        "node": "bench",
        "domain": "www.foobar.com",
        "routes": routes(0),
        "sites": (1..50).map(site).collect::<serde_json::Map<_, _>>(),
        "web": { "backends": [{ "name": "node1", "address": "192.0.2.1:8080" }] },
    }))
    .expect("a configuration");
    let pools = config.all_pools().map(|(name, _, web)| {
        let (pool, _) = proxy::pool(name, web, None, None).expect("a pool");
        let served = Served { pool, retries: 0, hash: None, sticky: None, terms: Terms::default() };
        (name.to_owned(), served)
    });
    let sites = Sites::new(&config, &pools.collect()).expect("sites");
    let balancer = Balancer::new(Arc::new(sites), None);
    let request = Request::parse(BytesMut::from(REQUEST), FIELDS, Vec::new()).map_err(|(e, _)| e);
    let request = request.expect("a good head");
    let mut exchange = Exchange::start(Some(Method::GET), Some(Version::HTTP_11), Some(client()));
    exchange.admitted = Some(admit(&request, &policy()));
    run(|| {
        let route = balancer.route(&request, &mut exchange).now_or_never();
        assert!(matches!(route, Some(Route::Forward(_))));
        black_box(route);
    });
    assert!(exchange.route.is_some(), "the last route is for it");
}

/// One request of a client, with the table full of others.
fn admission() {
    let rate = RequestRate { rate: 1_000_000, burst: 1_000_000, ipv6_prefix: 64 };
    let admission = Admission::new(&Rules { requests: Some(rate), ..Rules::default() });
    for n in 0..u32::try_from(TRACKED / 2).expect("few") {
        admission.request(IpAddr::from(Ipv4Addr::from(n))).expect("below the rate");
    }
    run(|| admission.request(black_box(client())).expect("below the rate"));
}

fn access_line() {
    telemetry::init_log(&Log::default());
    run(|| {
        access::line(|line| {
            line.text("request_id", "0123456789abcdef0123456789abcdef");
            line.address("client", Some(client()));
            line.text("method", "GET");
            line.text("host", "www.foobar.com");
            line.text("path", "/articles/what-happens-when-a-node-dies");
            line.text("version", "HTTP/2.0");
            line.number("status", 200);
            line.number("sent", 5120);
            line.number("received", 0);
            line.millis("ms", Duration::from_micros(1234));
            line.text("backend", "node1");
            line.flag("aborted", false);
        });
    });
    access::flush();
}

/// A file of the site, in the form that the browser prefers.
fn static_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for n in 0..100 {
        let text = "body { margin: 0 }\n".repeat(200);
        std::fs::write(folder.path().join(format!("style-{n}.css")), text).expect("a file");
    }
    let config = serde_json::json!({ "root": folder.path() });
    let config: Static = serde_json::from_value(config).expect("a configuration");
    let site = Site::load(config).expect("a site");
    let headers =
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, br, zstd"))]);
    let store = site.store();
    run(|| {
        let decision = files::answer(
            &store,
            site.cache_control(),
            &Method::GET,
            black_box("/style-50.css?v=1"),
            &headers,
        );
        assert!(matches!(decision, files::Decision::Reply(_)));
        black_box(decision);
    });
}

type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked_body", chunked_body),
    ("http2_head", http2_head),
    ("check_record", check_record),
    ("pool_pick", pool_pick),
    ("route_choice", route_choice),
    ("admission", admission),
    ("access_line", access_line),
    ("static_file", static_file),
];

fn main() {
    // Cargo says --bench.
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    match wanted {
        Some(wanted) => {
            let (_, case) = CASES.iter().find(|(name, _)| *name == wanted).expect("a case of this name");
            case();
            println!("{TIMES}");
        }
        None => CASES.iter().for_each(|(name, _)| println!("{name}")),
    }
}
