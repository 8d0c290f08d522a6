//! Whole exchanges over HTTP/2: trailers, large bodies, many streams, streams that end early. RFC 9113 sections 5 and 8.

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;

use super::peer::*;
use super::requests::{ask, client};
use support::link::Message;
use support::scene::{SITE, Scene};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_messages_of_a_grpc_call_pass_both_ways() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut client = client(&scene).await;
    let request = Request::post(format!("https://{SITE}/greeter/SayHello"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"\0\0\0\0\x05hello"), true).unwrap();
    let (mut head, mut upstream) = scene.origin().next().await;
    upstream.body_of_request(&mut head).await.unwrap();
    assert_eq!(head.line(), "POST /greeter/SayHello HTTP/1.1");
    assert_eq!(head.body, b"\0\0\0\0\x05hello");
    upstream
        .send(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nworld\r\n0\r\ngrpc-status: 0\r\ngrpc-message: fine\r\n\r\n",
        )
        .await;
    let mut answer = answer.await.unwrap().into_body();
    assert_eq!(answer.data().await.unwrap().unwrap(), "world");
    assert!(answer.data().await.is_none());
    let trailers = answer.trailers().await.unwrap().expect("the call's status");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_trailers_of_a_request_reach_a_back_end_of_http_1_1() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut client = client(&scene).await;
    let request = Request::post(format!("https://{SITE}/upload")).body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"content"), false).unwrap();
    let trailers = [("x-checksum", "abc"), ("content-length", "7")]
        .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
    body.send_trailers(trailers.into_iter().collect()).unwrap();
    let (mut head, mut upstream) = scene.origin().next().await;
    upstream.body_of_request(&mut head).await.unwrap();
    assert_eq!(head.body, b"content");
    // RFC 9110 section 6.5.1: not one that tells the framing.
    assert_eq!(String::from_utf8_lossy(&head.trailers), "x-checksum: abc\r\n");
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(answer.await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_2_interim_answers_reach_the_client_over_http_2() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut peer = super::peer::Peer::new(&scene).await;
    peer.send(&super::peer::open(1)).await;
    let (_, mut upstream) = scene.origin().next().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
    let interim = peer.until(|f| f.kind == super::peer::HEADERS).await.unwrap();
    assert_eq!(interim.flags & super::peer::END_STREAM, 0);
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    let last = peer.until(|f| f.kind == super::peer::HEADERS).await.unwrap();
    assert_eq!(last.flags & super::peer::END_STREAM, super::peer::END_STREAM);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_large_bodies_pass_both_ways_under_flow_control() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let total = 8 * MIB;
    let content: Vec<u8> = (0..total).map(|i| (i % 251) as u8 ^ (i / 65_536) as u8).collect();
    let mut client = client(&scene).await;
    let request = Request::post(format!("https://{SITE}/large"))
        .header("content-length", total.to_string())
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    let sent = content.clone();
    let sender = tokio::spawn(async move {
        let mut rest = Bytes::from(sent);
        while !rest.is_empty() {
            body.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
            let piece = rest.split_to(room.min(rest.len()));
            body.send_data(piece, rest.is_empty()).unwrap();
        }
    });
    let (mut head, mut upstream) = scene.origin().next().await;
    upstream.body_of_request(&mut head).await.unwrap();
    assert!(head.body == content, "not what was sent");
    sender.await.unwrap();
    let given = content.clone();
    let giver = tokio::spawn(async move {
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")).await;
        upstream.send(&given).await;
        upstream
    });
    let mut answer = answer.await.unwrap().into_body();
    let mut got = Vec::new();
    while let Some(piece) = answer.data().await {
        let piece = piece.unwrap();
        answer.flow_control().release_capacity(piece.len()).unwrap();
        got.extend_from_slice(&piece);
    }
    assert!(got == content, "not what was sent");
    giver.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_2_many_streams_are_answered_each_with_its_own() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let client = client(&scene).await;
    let answering = async {
        let mut tasks = Vec::new();
        for _ in 0..100 {
            let (head, mut upstream) = scene.origin().next().await;
            tasks.push(tokio::spawn(async move {
                let mut head = head;
                // A connection may carry several of them.
                loop {
                    let path = head.line().split(' ').nth(1).unwrap().to_owned();
                    upstream
                        .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()))
                        .await;
                    match upstream.request().await {
                        Ok(Message { head: next, .. }) => head = Message { head: next, ..Message::default() },
                        Err(_) => return,
                    }
                }
            }));
        }
        std::future::pending::<()>().await
    };
    // Fewer at a time than max_streams: whoever has all of them in use may be told REFUSED_STREAM, and asks again.
    let room = tokio::sync::Semaphore::new(50);
    let asking = join_all((0..300).map(|n| {
        let (client, room) = (client.clone(), &room);
        async move {
            let _slot = room.acquire().await.unwrap();
            let mut client = client.ready().await.unwrap();
            let path = format!("/stream/{n}");
            let request = Request::get(format!("https://{SITE}{path}")).body(()).unwrap();
            assert_eq!(ask(&mut client, request).await, (200, path.into_bytes()));
        }
    }));
    tokio::select! { _ = asking => {} () = answering => {} }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_4_2_a_stream_that_the_client_resets_ends_the_back_ends_request() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut client = client(&scene).await;
    let request = Request::get(format!("https://{SITE}/gone")).body(()).unwrap();
    let (answer, mut stream) = client.send_request(request, true).unwrap();
    let (_, mut upstream) = scene.origin().next().await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    upstream.rest().await;
    // Only that stream.
    scene.origin().answers(support::origin::OK);
    let request = Request::get(format!("https://{SITE}/next")).body(()).unwrap();
    assert_eq!(ask(&mut client, request).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_events_reach_the_client_one_by_one_over_http_2() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut client = client(&scene).await;
    let request = Request::get(format!("https://{SITE}/events")).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let (_, mut upstream) = scene.origin().next().await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let mut body = answer.await.unwrap().into_body();
    for n in 0..10 {
        let event = format!("data: {n}\n\n");
        upstream.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(body.data().await.unwrap().unwrap(), event);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_a_get_whose_stream_ends_in_an_empty_frame_has_no_body() {
    let scene = Scene::new().await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let mut client = client(&scene).await;
        let request =
            Request::builder().method(method).uri(format!("https://{SITE}/{method}")).body(()).unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        let seen = scene.origin().seen().pop().unwrap();
        assert_eq!(seen.line(), format!("{method} /{method} HTTP/1.1"));
        assert_eq!((seen.field("transfer-encoding"), seen.field("content-length")), (None, None));
    }
    // What has content after all is passed on with it.
    let mut client = client(&scene).await;
    let request = Request::get(format!("https://{SITE}/content")).body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    for (piece, end) in [("he", false), ("llo", true)] {
        body.send_data(Bytes::from_static(piece.as_bytes()), end).unwrap();
    }
    assert_eq!(answer.await.unwrap().status(), 200);
    assert_eq!(scene.origin().seen().pop().unwrap().body_text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_an_upload_that_is_refused_before_its_end_is_not_reset_at_once() {
    let scene = Scene::tuned(1, "max_body_size = \"1000B\"", "").await;
    let mut peer = Peer::new(&scene).await;
    peer.send(&[open(1), frame(DATA, 0, 1, vec![b'x'; 2000])].concat()).await;
    let answer = peer.until(|f| f.kind == HEADERS && f.stream == 1).await.unwrap();
    // `:status`, whose value is in no table: "413" in Huffman's code (RFC 7541 appendix B).
    assert!(answer.payload.starts_with(&[0x48, 0x83, 0x68, 0x2c, 0xff]), "{answer:?}");
    // It goes on sending for a while, as clients do that look for an answer at the end, and hears nothing else.
    peer.send(&[frame(DATA, 0, 1, vec![b'x'; 2000]), frame(PING, 0, 0, [7; 8])].concat()).await;
    let reset = peer.until(|f| f.kind == RST_STREAM || (f.kind == PING && f.flags & ACK != 0)).await.unwrap();
    assert_eq!(reset.kind, PING, "{reset:?}");
    peer.send(&[frame(DATA, END_STREAM, 1, []), request(3)].concat()).await;
    assert!(peer.until(|f| f.kind == HEADERS && f.stream == 3).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_client_leaves_is_logged_with_its_status_and_what_was_sent() {
    let scene = Scene::new().await;
    scene.origin().answers(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
        9 * MIB,
        "x".repeat(9 * MIB)
    ));
    let (mut client, connection) = h2::client::handshake(scene.open_h2().await).await.unwrap();
    let connection = tokio::spawn(connection);
    client = client.ready().await.unwrap();
    let request = Request::get(format!("https://{SITE}/left")).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut content = answer.await.unwrap().into_body();
    assert!(!content.data().await.unwrap().unwrap().is_empty());
    connection.abort();
    let (whole, status) = (9 * MIB as u64, 200);
    scene
        .logs("the line", |l| {
            let sent = l["sent"].as_u64().unwrap_or_default();
            l["path"] == "/left" && l["status"] == status && l["aborted"] == true && sent > 0 && sent < whole
        })
        .await;
}
