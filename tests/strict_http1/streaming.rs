//! Bodies flow as they come, as fast as the slower side, and are never held in memory: RFC 9112 sections 6 and 7.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::support::link::Link;
use crate::support::scene::{SITE, Scene};

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
    assert_eq!(upstream.request().await.unwrap().line(), "GET /next HTTP/1.1");
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
