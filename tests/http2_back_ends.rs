//! Back ends that speak HTTP/2 (RFC 9113), behind clients of either version.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use support::PATIENCE;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, NO_CHECKS, SITE};
use support::client::Wire;
use support::program::Program;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A balancer and one back end, whose requests come to the test; its checks are answered.
struct Scene {
    authority: Authority,
    balancer: Program,
    calls: mpsc::UnboundedReceiver<Call>,
    /// Connections that carried a request, and those of them that have ended.
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Scene {
    async fn over_tls() -> Self {
        Self::start(true, h2::server::Builder::new(), "").await
    }

    /// A back end that takes WebSockets.
    async fn with_websockets() -> Self {
        Self::start(true, h2::server::Builder::new().enable_connect_protocol().clone(), "").await
    }

    /// With further keys in `[web]`.
    async fn start(tls: bool, settings: h2::server::Builder, web: &str) -> Self {
        Self::with(usize::MAX, "", tls, settings, web).await
    }

    /// As [`start`](Self::start), for so many connections, and with further keys above the sections.
    async fn with(most: usize, top: &str, tls: bool, settings: h2::server::Builder, web: &str) -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::unbounded_channel();
        let (connections, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let acceptor = tls.then(|| TlsAcceptor::from(authority.mutual_server_of("node0", b"h2")));
        tokio::spawn(listen(listener, most, acceptor, settings, sender, connections.clone(), ended.clone()));
        let config = BalancerConfig {
            top,
            back_ends: vec![("node0".into(), address)],
            plain_back_ends: !tls,
            web: &format!("protocol = \"h2\"\n{web}"),
            ..BalancerConfig::default()
        };
        let balancer = Program::start(&config.write(&authority));
        Self { authority, balancer, calls, connections, ended }
    }

    async fn next(&mut self) -> Call {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("no request came").unwrap()
    }

    async fn http1(&self) -> Wire {
        let address = self.balancer.address("https.listen");
        Wire::tls(address, SITE, self.authority.browser(&[b"http/1.1"])).await
    }

    async fn http2(&self) -> h2::client::SendRequest<Bytes> {
        let address = self.balancer.address("https.listen");
        let wire = Wire::tls(address, SITE, self.authority.browser(&[b"h2"])).await;
        let (client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
        tokio::spawn(connection);
        client.ready().await.unwrap()
    }
}

/// Further connections are refused.
async fn listen(
    listener: TcpListener,
    most: usize,
    acceptor: Option<TlsAcceptor>,
    settings: h2::server::Builder,
    calls: mpsc::UnboundedSender<Call>,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
) {
    for _ in 0..most {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, calls, connections) = (acceptor.clone(), calls.clone(), connections.clone());
        let (settings, ended) = (settings.clone(), ended.clone());
        tokio::spawn(async move {
            match acceptor {
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        talk(stream, settings, calls, connections, ended).await;
                    }
                }
                None => talk::<TcpStream>(tcp, settings, calls, connections, ended).await,
            }
        });
    }
}

async fn talk<T>(
    io: T,
    settings: h2::server::Builder,
    calls: mpsc::UnboundedSender<Call>,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
) where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut connection = settings.handshake(io).await.unwrap();
    let mut counted = false;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if request.uri().path() == "/healthz" {
            respond.send_response(Response::new(()), true).unwrap();
            continue;
        }
        if !std::mem::replace(&mut counted, true) {
            connections.fetch_add(1, Ordering::SeqCst);
        }
        if request.uri().path() == "/last" {
            // A server that stops, or has served enough on one connection.
            connection.graceful_shutdown();
        }
        let _ = calls.send((request, respond));
    }
    ended.fetch_add(usize::from(counted), Ordering::SeqCst);
}

async fn content(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    (all, body.trailers().await.unwrap())
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
}

fn begin(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    respond.send_response(Response::new(()), false).unwrap()
}

/// Sends all of it, as the other side makes room.
async fn send_all(mut stream: SendStream<Bytes>, mut rest: Bytes) {
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let piece = rest.split_to(room.min(rest.len()));
        stream.send_data(piece, rest.is_empty()).unwrap();
    }
}

fn some_content(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 65_536) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_a_grpc_call_streams_both_ways_and_ends_with_its_status() {
    let mut scene = Scene::over_tls().await;
    let mut client = scene.http2().await;
    let request = Request::post(format!("https://{SITE}/chat.Chat/Talk"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut questions) = client.send_request(request, false).unwrap();
    let (request, mut respond) = scene.next().await;
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.headers()["via"], "2 trivet");
    assert_eq!(request.uri().to_string(), format!("https://{SITE}/chat.Chat/Talk"));
    let mut heard = request.into_body();
    let mut replies = begin(&mut respond);
    let mut answers = None;
    let mut answer = Some(answer);
    for n in 0..3 {
        // Each message waits for the answer to the one before: nothing is held back on the way.
        questions.send_data(Bytes::from(format!("question {n}")), false).unwrap();
        let question = heard.data().await.unwrap().unwrap();
        heard.flow_control().release_capacity(question.len()).unwrap();
        assert_eq!(question, format!("question {n}"));
        replies.send_data(Bytes::from(format!("answer {n}")), false).unwrap();
        if let Some(answer) = answer.take() {
            answers = Some(answer.await.unwrap().into_body());
        }
        let reply = answers.as_mut().unwrap().data().await.unwrap().unwrap();
        assert_eq!(reply, format!("answer {n}"));
    }
    questions.send_trailers(trailers("x-end", "yes")).unwrap();
    assert!(heard.data().await.is_none());
    assert_eq!(heard.trailers().await.unwrap().unwrap()["x-end"], "yes");
    replies.send_trailers(trailers("grpc-status", "0")).unwrap();
    let mut answers = answers.unwrap();
    assert!(answers.data().await.is_none());
    assert_eq!(answers.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_6_5_trailers_pass_between_http_1_1_and_http_2() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!(
        "POST /a HTTP/1.1\r\nHost: {SITE}\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n\
         7\r\ncontent\r\n0\r\nX-Sum: 1\r\n\r\n"
    ))
    .await;
    let (request, mut respond) = scene.next().await;
    assert_eq!(request.headers()["x-forwarded-proto"], "https");
    assert!(!request.headers().contains_key("connection") && !request.headers().contains_key("host"));
    let (body, told) = content(request.into_body()).await;
    assert_eq!(body, b"content");
    assert_eq!(told.unwrap()["x-sum"], "1");
    let mut stream = begin(&mut respond);
    stream.send_data(Bytes::from_static(b"answer"), false).unwrap();
    stream.send_trailers(trailers("x-end", "2")).unwrap();
    let text = wire.until("\r\n0\r\nx-end: 2\r\n\r\n").await;
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\r\n\r\n6\r\nanswer\r\n0\r\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_3_3_a_back_end_without_tls_is_spoken_to_by_prior_knowledge() {
    let mut scene = Scene::start(false, h2::server::Builder::new(), "").await;
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /plain?x HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (request, mut respond) = scene.next().await;
    assert_eq!(request.uri().to_string(), format!("http://{SITE}/plain?x"));
    let head = Response::builder().status(404).header("content-length", "4").body(()).unwrap();
    respond.send_response(head, false).unwrap().send_data(Bytes::from_static(b"none"), true).unwrap();
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status, &*answer.body), (404, "none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_large_bodies_pass_both_ways_under_flow_control() {
    let mut scene = Scene::over_tls().await;
    let all = some_content(8 << 20);
    let mut client = scene.http2().await;
    let request = Request::post(format!("https://{SITE}/large")).body(()).unwrap();
    let (answer, body) = client.send_request(request, false).unwrap();
    tokio::spawn(send_all(body, all.clone()));
    let (request, mut respond) = scene.next().await;
    assert!(content(request.into_body()).await.0 == all, "not what was sent");
    tokio::spawn(send_all(begin(&mut respond), all.clone()));
    assert!(content(answer.await.unwrap().into_body()).await.0 == all, "not what was answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_2_requests_share_a_connection() {
    let mut scene = Scene::over_tls().await;
    let mut client = scene.http2().await;
    // The first makes the connection.
    for n in 0..21 {
        let request = Request::get(format!("https://{SITE}/{n}")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let (_, mut respond) = scene.next().await;
        if n == 0 {
            respond.send_response(Response::new(()), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        } else {
            // Unanswered: the next one goes beside it.
            std::mem::forget((answer, respond));
        }
    }
    assert_eq!(scene.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_7_what_a_back_end_has_not_processed_is_sent_again_whatever_the_method() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    for body in [
        "Content-Length: 0\r\n\r\n",
        "Content-Length: 3\r\n\r\nx=1",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n",
    ] {
        let post = format!("POST /again HTTP/1.1\r\nHost: {SITE}\r\n{body}");
        wire.send(&post).await;
        let (_, mut respond) = scene.next().await;
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(wire.answer().await.unwrap().status, 200);
        // On a connection that is there.
        wire.send(&post).await;
        let (_, mut respond) = scene.next().await;
        respond.send_reset(Reason::REFUSED_STREAM);
        let (request, mut respond) = scene.next().await;
        let sent = if body.ends_with("0\r\n\r\n") && !body.contains("x=1") { "" } else { "x=1" };
        assert_eq!(content(request.into_body()).await.0, sent.as_bytes(), "{body}");
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(wire.answer().await.unwrap().status, 200, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc3986_2_what_is_no_part_of_a_uri_and_passes_goes_on_as_it_is() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /a{{b}}^c\"?q=`x`&{{|}}^~ HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (request, mut respond) = scene.next().await;
    assert_eq!(request.uri().path(), "/a{b}^c\"");
    assert_eq!(request.uri().query(), Some("q=`x`&{|}^~"));
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(wire.answer().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_7_what_may_have_been_processed_is_not_sent_again() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("POST /once HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 0\r\n\r\n")).await;
    let (_, mut respond) = scene.next().await;
    respond.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(wire.answer().await.unwrap().status, 502);
    assert!(scene.calls.try_recv().is_err(), "it was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_8_an_answer_that_the_back_end_resets_is_cut_for_the_client() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /cut HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut respond) = scene.next().await;
    let mut stream = begin(&mut respond);
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    wire.until("\r\n\r\n4\r\nhalf\r\n").await;
    stream.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(wire.rest().await, "", "it ended as if it were whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_an_answer_before_the_end_of_the_request_is_whole_though_a_reset_follows() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("POST /large HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 1000000\r\n\r\nbegin")).await;
    let (request, mut respond) = scene.next().await;
    let answer = Response::builder().status(413).body(()).unwrap();
    respond.send_response(answer, false).unwrap().send_data(Bytes::from_static(b"too much"), true).unwrap();
    // What nobody reads any more the library refuses with RST_STREAM (NO_ERROR).
    drop((request, respond));
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (413, "too much"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_1_an_answer_of_another_length_than_it_says_is_cut_for_the_client() {
    let mut scene = Scene::over_tls().await;
    for (says, sends) in [("9", "less"), ("2", "more")] {
        let mut wire = scene.http1().await;
        wire.send(&format!("GET /{sends} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n")).await;
        let (_, mut respond) = scene.next().await;
        let answer = Response::builder().header("content-length", says).body(()).unwrap();
        respond.send_response(answer, false).unwrap().send_data(Bytes::from(sends), true).unwrap();
        let all = wire.rest().await;
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        let is_whole = head.starts_with("HTTP/1.1 200 ") && body.len() >= says.parse().unwrap();
        assert!(!is_whole, "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_4_2_a_client_that_leaves_resets_the_back_ends_stream() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /left HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut respond) = scene.next().await;
    drop(wire);
    let reset = std::future::poll_fn(|cx| respond.poll_reset(cx));
    let reason = tokio::time::timeout(PATIENCE, reset).await.expect("no reset").unwrap();
    assert_eq!(reason, Reason::CANCEL);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_10_1_1_a_client_that_waits_for_100_gets_it() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    let head =
        format!("POST /wait HTTP/1.1\r\nHost: {SITE}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    wire.send(&head).await;
    wire.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    wire.send("body").await;
    let (request, mut respond) = scene.next().await;
    assert_eq!(content(request.into_body()).await.0, b"body");
    respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap();
    assert_eq!(wire.answer().await.unwrap().status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_3_2_head_has_the_length_and_no_content() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("HEAD /a HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut respond) = scene.next().await;
    let head = Response::builder().header("content-length", "1234").body(()).unwrap();
    respond.send_response(head, true).unwrap();
    let text = wire.until("\r\n\r\n").await;
    assert!(text.to_ascii_lowercase().contains("\r\ncontent-length: 1234\r\n"), "{text}");
    // The connection goes on.
    wire.send(&format!("GET /b HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut respond) = scene.next().await;
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(wire.answer().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_2_interim_answers_reach_clients_of_both_versions() {
    let mut scene = Scene::over_tls().await;
    let hints = || Response::builder().status(103).header("link", "</a.css>; rel=preload").body(()).unwrap();
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /1 HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut respond) = scene.next().await;
    respond.send_informational(hints()).unwrap();
    let interim = wire.until("\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 103 "), "{interim}");
    assert!(interim.to_ascii_lowercase().contains("\r\nlink: </a.css>; rel=preload\r\n"), "{interim}");
    respond.send_informational(hints()).unwrap();
    wire.until("\r\n\r\n").await;
    respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap();
    assert_eq!(wire.answer().await.unwrap().status, 204);

    let mut client = scene.http2().await;
    let request = Request::get(format!("https://{SITE}/2")).body(()).unwrap();
    let (mut answer, _) = client.send_request(request, true).unwrap();
    let (_, mut respond) = scene.next().await;
    respond.send_informational(hints()).unwrap();
    let interim = tokio::time::timeout(PATIENCE, std::future::poll_fn(|cx| answer.poll_informational(cx)));
    let interim = interim.await.expect("no interim answer").unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), &interim.headers()["link"]), (103, &hints().headers()["link"]));
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

/// The request of RFC 6455 section 1.3.
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n";

fn connect() -> Request<()> {
    Request::builder()
        .method("CONNECT")
        .uri(format!("https://{SITE}/chat?room=1"))
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static("websocket"))
        .body(())
        .unwrap()
}

/// Takes the extended CONNECT that must come, and opens the WebSocket.
async fn opened(scene: &mut Scene) -> (Request<RecvStream>, SendStream<Bytes>) {
    let (request, mut respond) = scene.next().await;
    assert_eq!(request.method(), "CONNECT");
    assert_eq!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!(request.uri().path_and_query().unwrap(), "/chat?room=1");
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    for gone in ["connection", "upgrade", "sec-websocket-key", "content-length"] {
        assert!(!request.headers().contains_key(gone), "{gone}");
    }
    let head = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
    (request, respond.send_response(head, false).unwrap())
}

async fn some(body: &mut RecvStream) -> Bytes {
    let piece = tokio::time::timeout(PATIENCE, body.data()).await.expect("nothing came").unwrap().unwrap();
    body.flow_control().release_capacity(piece.len()).unwrap();
    piece
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_5_an_upgrade_of_http_1_1_is_an_extended_connect_to_the_back_end() {
    let mut scene = Scene::with_websockets().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /chat?room=1 HTTP/1.1\r\nHost: {SITE}\r\n{WEBSOCKET}\r\n")).await;
    let (request, mut down) = opened(&mut scene).await;
    let head = wire.until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "sec-websocket-protocol: chat",
    ] {
        assert_eq!(head.matches(&format!("\r\n{field}\r\n")).count(), 1, "{field}: {head}");
    }
    let mut up = request.into_body();
    wire.send("hello").await;
    assert_eq!(some(&mut up).await, "hello");
    down.send_data("welcome".into(), false).unwrap();
    wire.until("welcome").await;
    // The back end's end reaches the client, whose own reaches the back end.
    down.send_data("bye".into(), true).unwrap();
    assert_eq!(wire.rest().await, "bye");
    drop(wire);
    let ended = tokio::time::timeout(PATIENCE, up.data()).await.expect("no end");
    assert!(ended.is_none_or(|piece| piece.map_or(true, |p| p.is_empty())));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_5_a_websocket_passes_from_http_2_to_http_2() {
    let mut scene = Scene::with_websockets().await;
    let mut client = scene.http2().await;
    let (answer, mut up) = client.send_request(connect(), false).unwrap();
    let (request, mut down) = opened(&mut scene).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let (mut from_client, mut from_server) = (request.into_body(), answer.into_body());
    for n in 0..100_u32 {
        up.send_data(Bytes::copy_from_slice(&n.to_be_bytes()), false).unwrap();
        assert_eq!(some(&mut from_client).await, n.to_be_bytes()[..]);
        down.send_data(Bytes::copy_from_slice(&n.to_be_bytes()), false).unwrap();
        assert_eq!(some(&mut from_server).await, n.to_be_bytes()[..]);
    }
    let large = some_content(1 << 20);
    tokio::spawn(send_all(down, large.clone()));
    assert!(content(from_server).await.0 == large, "not what was sent");
    up.send_data("bye".into(), true).unwrap();
    assert_eq!(content(from_client).await.0, b"bye");
}

/// The ways in which no WebSocket is opened.
#[tokio::test(flavor = "multi_thread")]
async fn rfc8441_4_a_back_end_may_decline_or_know_no_websockets() {
    let mut scene = Scene::with_websockets().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /chat HTTP/1.1\r\nHost: {SITE}\r\n{WEBSOCKET}\r\n")).await;
    let (_, mut respond) = scene.next().await;
    let mut no = respond.send_response(Response::builder().status(403).body(()).unwrap(), false).unwrap();
    no.send_data("no".into(), true).unwrap();
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status, answer.field("upgrade")), (403, None));

    // One that does not offer it gets the plain request that the upgrade is, too.
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    wire.send(&format!("GET /chat HTTP/1.1\r\nHost: {SITE}\r\n{WEBSOCKET}\r\n")).await;
    let (request, mut respond) = scene.next().await;
    assert_eq!(request.method(), "GET");
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(wire.answer().await.unwrap().status, 200);
    // To a client of HTTP/2 the same answer would mean an open WebSocket.
    let mut client = scene.http2().await;
    let (answer, _up) = client.send_request(connect(), false).unwrap();
    let (request, mut respond) = scene.next().await;
    assert_eq!(request.method(), "GET");
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_8_a_connection_that_the_back_end_ends_costs_no_request() {
    let mut scene = Scene::over_tls().await;
    let mut wire = scene.http1().await;
    for n in 1..=5 {
        // Each time its last one, and not a request that may be sent twice.
        wire.send(&format!("POST /last HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 2\r\n\r\nhi")).await;
        let (request, mut respond) = scene.next().await;
        assert_eq!(content(request.into_body()).await.0, b"hi");
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(wire.answer().await.unwrap().status, 200);
        assert_eq!(scene.connections.load(Ordering::SeqCst), n);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_2_no_more_requests_are_on_a_connection_than_the_back_end_allows() {
    let mut settings = h2::server::Builder::new();
    let mut scene = Scene::start(true, settings.max_concurrent_streams(2).clone(), "").await;
    let mut client = scene.http2().await;
    let mut ask = |n: usize| {
        let request = Request::get(format!("https://{SITE}/{n}")).body(()).unwrap();
        client.send_request(request, true).unwrap().0
    };
    let answers: Vec<_> = (1..=6).map(&mut ask).collect();
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(scene.next().await);
    }
    for (_, respond) in &mut calls {
        respond.send_response(Response::new(()), true).unwrap();
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    assert!(scene.connections.load(Ordering::SeqCst) >= 3, "two at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_takes_no_further_connection_is_reached_over_the_one_that_another_worker_has() {
    // One for the first check, which is the only one for long, and one for requests.
    let mut scene = Scene::with(2, "threads = 2", true, h2::server::Builder::new(), NO_CHECKS).await;
    let ask = |client: &mut h2::client::SendRequest<Bytes>| {
        let request = Request::get(format!("https://{SITE}/")).body(()).unwrap();
        client.send_request(request, true).unwrap().0
    };
    let mut first = scene.http2().await;
    let (mut answers, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        answers.push(ask(&mut first));
        calls.push(scene.next().await);
    }
    // The next clients are other workers', one at least.
    for _ in 0..4 {
        answers.push(ask(&mut scene.http2().await));
        calls.push(scene.next().await);
    }
    for (_, respond) in &mut calls {
        respond.send_response(Response::new(()), true).unwrap();
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    assert_eq!(scene.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_used_is_closed_after_idle_timeout() {
    let mut scene = Scene::start(true, h2::server::Builder::new(), "idle_timeout = \"1s\"").await;
    let mut wire = scene.http1().await;
    for n in 1..=2 {
        wire.send(&format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let (_, mut respond) = scene.next().await;
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(wire.answer().await.unwrap().status, 200);
        let ended = || async { scene.ended.load(Ordering::SeqCst) >= n };
        support::until("the unused connection is closed", ended).await;
    }
}
