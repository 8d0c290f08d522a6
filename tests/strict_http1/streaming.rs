//! Bodies flow as they come, as fast as the slower side, and are never held in memory: RFC 9112 sections 6 and 7.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::task::JoinHandle;

use support::link::Link;
use support::scene::{SITE, Scene};

const MIB: usize = 1024 * 1024;

/// A byte for each place, so that what is lost, doubled or moved shows.
fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|i| (i % 251) as u8 ^ (i / 65_536) as u8).collect()
}

fn sending(mut link: Link, total: usize, chunked: bool) -> JoinHandle<Link> {
    tokio::spawn(async move {
        for at in (0..total).step_by(65_536) {
            let piece = pattern(at, 65_536.min(total - at));
            if chunked {
                link.send(format!("{:x}\r\n", piece.len())).await;
            }
            link.send(&piece).await;
            if chunked {
                link.send("\r\n").await;
            }
        }
        if chunked {
            link.send("0\r\n\r\n").await;
        }
        link
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_events_reach_the_client_one_by_one() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(format!("GET /events HTTP/1.1\r\nHost: {SITE}\r\nAccept: text/event-stream\r\n\r\n")).await;
    let (_, mut upstream) = scene.origin().next().await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    // The head alone is worth sending.
    assert_eq!(link.head().await.unwrap().status(), 200);
    for n in 0..20 {
        let event = format!("data: {n}\n\n");
        upstream.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
        // The next is sent only when this one was seen.
        link.until(event.as_bytes()).await.unwrap();
    }
    upstream.send("0\r\n\r\n").await;
    assert!(link.until(b"0\r\n\r\n").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_a_stream_of_events_may_rest_and_no_other_answer() {
    let scene = Scene::tuned(1, "", "response_timeout = \"300ms\"").await;
    scene.origin().waits();
    for (kind, rests) in
        [("text/event-stream; charset=utf-8", true), ("application/grpc+proto", true), ("text/plain", false)]
    {
        let mut link = scene.open().await;
        link.send(format!("GET /events HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let (_, mut upstream) = scene.origin().next().await;
        upstream
            .send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n"
            ))
            .await;
        link.until(b"one\n\r\n").await.unwrap();
        if rests {
            assert!(link.is_silent_for(Duration::from_millis(1000)).await, "{kind}");
            upstream.send("4\r\ntwo\n\r\n0\r\n\r\n").await;
            assert!(link.until(b"two\n\r\n0\r\n\r\n").await.is_ok(), "{kind}");
        } else {
            assert_eq!(link.rest().await.0, b"", "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_a_stream_of_events_begins_at_once_and_may_rest_over_http_2_as_well() {
    let scene = Scene::tuned(1, "", "response_timeout = \"300ms\"").await;
    scene.origin().waits();
    let (client, connection) = h2::client::handshake(scene.open_h2().await).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    for (kind, rests) in [("text/event-stream", true), ("text/plain", false)] {
        let request = http::Request::get(format!("https://{SITE}/events")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let (_, mut upstream) = scene.origin().next().await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        upstream.send(head).await;
        // Its head goes out before there is any content.
        let mut content = answer.await.unwrap().into_body();
        if !rests {
            assert!(content.data().await.unwrap().is_err(), "{kind}");
            continue;
        }
        let early = tokio::time::timeout(Duration::from_millis(1000), content.data()).await;
        assert!(early.is_err(), "{early:?}");
        upstream.send("4\r\ntwo\n\r\n0\r\n\r\n").await;
        assert_eq!(content.data().await.unwrap().unwrap(), "two\n");
        assert!(content.data().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_an_answer_steadily_is_not_late_however_much_the_kernel_holds() {
    // The kernel holds megabytes, and says that it has room again when a third of them has gone: for seconds nothing moves.
    let scene = Scene::tuned(1, "client_timeout = \"1s\"", "").await;
    scene.origin().waits();
    for alpn in ["http/1.1", "h2"] {
        let mut io = match alpn {
            "h2" => None,
            _ => Some(scene.open().await),
        };
        let total = 6_000_000;
        let reader = async {
            match &mut io {
                Some(link) => {
                    link.send(format!("GET /slow HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
                    assert_eq!(link.head().await.unwrap().status(), 200);
                    let mut taken = 0;
                    while taken < total {
                        taken += link.exactly(50_000.min(total - taken)).await.expect("cut off").len();
                        tokio::time::sleep(Duration::from_millis(40)).await;
                    }
                }
                None => {
                    let (client, connection) = h2::client::Builder::new()
                        .initial_window_size(16 << 20)
                        .initial_connection_window_size(16 << 20)
                        .handshake::<_, bytes::Bytes>(Slow::new(scene.open_h2().await))
                        .await
                        .unwrap();
                    tokio::spawn(connection);
                    let mut client = client.ready().await.unwrap();
                    let request = http::Request::get(format!("https://{SITE}/slow")).body(()).unwrap();
                    let (answer, _) = client.send_request(request, true).unwrap();
                    let mut content = answer.await.unwrap().into_body();
                    let mut taken = 0;
                    while let Some(data) = content.data().await {
                        let n = data.expect("cut off").len();
                        taken += n;
                        content.flow_control().release_capacity(n).unwrap();
                    }
                    assert_eq!(taken, total);
                }
            }
        };
        let writer = async {
            let (_, link) = scene.origin().next().await;
            let mut link = link;
            link.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")).await;
            sending(link, total, false).await.unwrap()
        };
        tokio::join!(reader, writer);
    }
}

/// A connection of which 50,000 bytes are read at a time, 25 times a second.
struct Slow {
    io: Box<dyn support::client::Io>,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
    left: usize,
}

impl Slow {
    fn new(io: Box<dyn support::client::Io>) -> Self {
        Self { io, pause: Box::pin(tokio::time::sleep(Duration::ZERO)), left: 0 }
    }
}

impl tokio::io::AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            ready!(self.pause.as_mut().poll(cx));
            self.left = 50_000;
            let next = tokio::time::Instant::now() + Duration::from_millis(40);
            self.pause.as_mut().reset(next);
        }
        let mut room = vec![0; self.left.min(buf.remaining())];
        let mut some = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut some))?;
        buf.put_slice(some.filled());
        self.left -= some.filled().len();
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_7_pieces_of_a_request_reach_the_back_end_one_by_one() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(format!("POST /up HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    let (_, mut upstream) = scene.origin().next().await;
    for n in 0..20 {
        let piece = format!("<piece {n}>");
        link.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        upstream.until(piece.as_bytes()).await.unwrap();
    }
    // Answer and body at the same time: neither waits for the other.
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(link.head().await.unwrap().status(), 200);
    for n in 0..20 {
        let piece = format!("<ping {n}>");
        link.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        upstream.until(piece.as_bytes()).await.unwrap();
        let echo = format!("<pong {n}>");
        upstream.send(format!("{:x}\r\n{echo}\r\n", echo.len())).await;
        link.until(echo.as_bytes()).await.unwrap();
    }
    link.send("0\r\n\r\n").await;
    upstream.until(b"0\r\n\r\n").await.unwrap();
    upstream.send("0\r\n\r\n").await;
    link.until(b"0\r\n\r\n").await.unwrap();
    link.send(format!("GET /next HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    assert_eq!(scene.origin().next().await.0.line(), "GET /next HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_a_large_answer_waits_for_a_slow_client_and_takes_no_memory() {
    for chunked in [false, true] {
        let scene = Scene::new().await;
        scene.origin().waits();
        let total = 48 * MIB;
        let mut link = scene.open().await;
        link.send(format!("GET /large HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let (_, mut upstream) = scene.origin().next().await;
        let framing =
            if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {total}") };
        upstream.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
        let before = scene.balancer.memory();
        let sender = sending(upstream, total, chunked);
        // Nobody reads: were there no back pressure, all of it would be inside the balancer soon.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!sender.is_finished(), "48 MiB went somewhere");
        let answer = link.answer().await.unwrap();
        assert!(answer.body == pattern(0, total), "not what was sent");
        sender.await.unwrap();
        let grown = scene.balancer.memory().saturating_sub(before);
        assert!(grown < 16 * MIB, "{grown} bytes more than before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_a_large_request_waits_for_a_slow_back_end_and_takes_no_memory() {
    for chunked in [false, true] {
        let scene = Scene::new().await;
        scene.origin().waits();
        let total = 48 * MIB;
        let mut link = scene.open().await;
        let framing =
            if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {total}") };
        link.send(format!("POST /large HTTP/1.1\r\nHost: {SITE}\r\n{framing}\r\n\r\n")).await;
        let (mut head, mut upstream) = scene.origin().next().await;
        let before = scene.balancer.memory();
        let sender = sending(link, total, chunked);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!sender.is_finished(), "48 MiB went somewhere");
        upstream.body_of_request(&mut head).await.unwrap();
        assert!(head.body == pattern(0, total), "not what was sent");
        let mut link = sender.await.unwrap();
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(link.answer().await.unwrap().body_text(), "ok");
        let grown = scene.balancer.memory().saturating_sub(before);
        assert!(grown < 16 * MIB, "{grown} bytes more than before");
    }
}
