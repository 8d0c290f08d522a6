//! Interim answers: RFC 9110 section 15.2, RFC 8297.

use support::scene::{SITE, Scene};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_2_interim_answers_reach_an_http_1_1_client_as_they_come() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut upstream) = scene.origin().next().await;
    for (interim, status) in [
        (HINTS, 103),
        ("HTTP/1.1 102 Processing\r\n\r\n", 102),
        (HINTS, 103),
        ("HTTP/1.1 199 x\r\nA: b\r\n\r\n", 199),
    ] {
        upstream.send(interim).await;
        // Before anything else of the answer is there.
        let answer = link.answer().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.field("link").is_some(), status == 103);
        assert_eq!((answer.values("content-length"), answer.values("transfer-encoding")), (vec![], vec![]));
    }
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(link.answer().await.unwrap().body_text(), "ok");
    link.send(format!("GET /next HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    assert_eq!(upstream.request().await.unwrap().line(), "GET /next HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8297_2_early_hints_and_the_final_answer_may_come_at_once() {
    let scene = Scene::new().await;
    scene.origin().answers(format!("{HINTS}{HINTS}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let mut link = scene.open().await;
    for _ in 0..2 {
        link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let statuses = [link.answer().await.unwrap().status(), link.answer().await.unwrap().status()];
        assert_eq!(statuses, [103, 103]);
        assert_eq!(link.answer().await.unwrap().body_text(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_2_interim_answers_are_not_sent_to_an_http_1_0_client() {
    let scene = Scene::new().await;
    scene.origin().answers(format!("{HINTS}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let mut link = scene.open().await;
    link.send(format!("GET / HTTP/1.0\r\nHost: {SITE}\r\n\r\n")).await;
    let answer = link.answer().await.unwrap();
    assert_eq!((answer.status(), answer.body_text().as_str()), (200, "ok"));
    assert_eq!(link.rest().await.0, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_2_2_a_switch_of_protocols_that_nobody_asked_for_is_502() {
    let scene = Scene::new().await;
    scene
        .origin()
        .answers("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let mut link = scene.open().await;
    link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    assert_eq!(link.answer().await.unwrap().status(), 502);
}
