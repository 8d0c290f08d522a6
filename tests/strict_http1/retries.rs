//! Which requests go to another back end: RFC 9110 section 9.2.2.

use support::link::Message;
use support::origin::{OK, Origin};
use support::scene::{SITE, Scene};
use support::until;

fn request(method: &str, fields: &str, body: &str) -> String {
    format!("{method} /r HTTP/1.1\r\nHost: {SITE}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Two back ends, of which whichever is asked first reads a whole request, sends `before`, and breaks off. What the client
/// got, and how many back ends were asked.
async fn broken_first(scene: &Scene, request: &str, before: &str) -> (u16, usize) {
    for origin in &scene.origins {
        origin.waits();
    }
    let [a, b] = &scene.origins[..] else { panic!("two back ends") };
    let mut link = scene.open().await;
    link.send(request).await;
    let length = request.split("\r\n\r\n").nth(1).unwrap().len();
    let break_off = |(_, mut upstream): (Message, support::link::Link), other: &Origin| {
        other.answers(OK);
        async move {
            upstream.exactly(length).await.unwrap();
            upstream.send(before).await;
        }
    };
    // Answering the other from now on; it was not asked yet.
    let (first, second) = tokio::select! {
        got = a.next() => { break_off(got, b).await; (a, b) }
        got = b.next() => { break_off(got, a).await; (b, a) }
    };
    let status = link.answer().await.unwrap().status();
    (status, 1 + second.seen().len() + first.seen().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_2_2_an_idempotent_request_that_was_broken_off_goes_to_another_back_end() {
    let body = "x".repeat(60_000);
    for (method, body) in [("GET", ""), ("OPTIONS", ""), ("DELETE", ""), ("PUT", "hello"), ("PUT", &*body)] {
        let scene = Scene::tuned(2, "", "").await;
        assert_eq!(broken_first(&scene, &request(method, "", body), "").await, (200, 2), "{method}");
        let seen: Vec<Message> = scene.origins.iter().flat_map(Origin::seen).collect();
        assert!(seen.iter().any(|m| m.body_text() == *body), "the body came whole, the second time too");
        scene.logs("the retry is logged", |l| l["retries"] == 1 && l["status"] == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_breaks_every_request_off_is_asked_first_no_more_often_than_in_turn() {
    let scene = Scene::tuned(3, "", "outliers = { errors = 0 }").await;
    scene.origins[0].waits();
    let breaks_off = async {
        loop {
            drop(scene.origins[0].next().await);
        }
    };
    let asks = async {
        for n in 0..30 {
            let mut link = scene.open().await;
            link.send(request("GET", "", "")).await;
            assert_eq!(link.answer().await.unwrap().status(), 200, "request {n}");
        }
    };
    tokio::select! { () = asks => {}, () = breaks_off => {} }
    until("all are logged", || async { scene.access().len() == 30 }).await;
    let retries: u64 = scene.access().iter().filter_map(|l| l["retries"].as_u64()).sum();
    assert_eq!(retries, 10, "of 30 requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_2_2_a_request_that_is_not_idempotent_is_not_sent_twice() {
    for method in ["POST", "PATCH", "LOCK"] {
        let scene = Scene::tuned(2, "", "").await;
        assert_eq!(broken_first(&scene, &request(method, "", "hello"), "").await, (502, 1), "{method}");
    }
    let scene = Scene::tuned(2, "", "").await;
    let keyed = request("POST", "Idempotency-Key: \"k\"\r\n", "hello");
    assert_eq!(broken_first(&scene, &keyed, "").await, (200, 2), "its client says that it may come twice");
    let scene = Scene::tuned(2, "", "").await;
    let form = request("POST", "", "hello").replacen(" HTTP/1.1", "?idempotency-key=k HTTP/1.1", 1);
    assert_eq!(broken_first(&scene, &form, "").await, (200, 2), "a form can only say so in its action");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_2_2_nothing_is_sent_twice_once_an_answer_began() {
    for before in ["H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"] {
        let scene = Scene::tuned(2, "", "").await;
        assert_eq!(broken_first(&scene, &request("GET", "", ""), before).await, (502, 1), "{before:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_9_2_2_a_body_above_64_kib_is_not_sent_twice() {
    let scene = Scene::tuned(2, "", "").await;
    let large = "x".repeat(200_000);
    assert_eq!(broken_first(&scene, &request("PUT", "", &large), "").await, (502, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_6_3_whatever_could_not_be_sent_at_all_goes_to_another_back_end() {
    let scene = Scene::tuned(2, "", "").await;
    scene.origins[0].kill().await;
    let large = "x".repeat(200_000);
    for (method, body) in [("POST", "hello"), ("POST", &*large), ("GET", ""), ("PATCH", "x")] {
        let mut link = scene.open().await;
        link.send(request(method, "", body)).await;
        assert_eq!(link.answer().await.unwrap().status(), 200, "{method}");
    }
    assert_eq!(scene.origins[1].seen().len(), 4);
    assert_eq!(scene.origins[1].seen()[1].body.len(), 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_6_4_nobody_to_be_reached_is_503() {
    let scene = Scene::tuned(2, "", "").await;
    scene.origins[0].kill().await;
    scene.origins[1].kill().await;
    let mut link = scene.open().await;
    for _ in 0..2 {
        link.send(request("GET", "", "")).await;
        let answer = link.answer().await.unwrap();
        assert_eq!((answer.status(), answer.field("retry-after").as_deref()), (503, Some("1")));
        if answer.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            link = scene.open().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_6_5_no_answer_in_time_is_504_and_not_sent_twice() {
    let scene = Scene::tuned(2, "", "response_timeout = \"400ms\"").await;
    for origin in &scene.origins {
        origin.waits();
    }
    let mut link = scene.open().await;
    link.send(request("GET", "", "")).await;
    let _hangs = tokio::select! {
        got = scene.origins[0].next() => got,
        got = scene.origins[1].next() => got,
    };
    assert_eq!(link.answer().await.unwrap().status(), 504);
    assert_eq!(scene.origins.iter().map(Origin::connections).sum::<usize>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_1_a_kept_connection_that_was_closed_meanwhile_fails_no_request() {
    let scene = Scene::new().await;
    for _ in 0..5 {
        scene.origin().waits();
        let mut link = scene.open().await;
        link.send(request("GET", "", "")).await;
        let (_, mut upstream) = scene.origin().next().await;
        upstream.send(OK).await;
        assert_eq!(link.answer().await.unwrap().status(), 200);
        scene.origin().answers(OK);
        // Its idle time is over just now, as at a restart of the back end.
        drop(upstream);
        link.send(request("GET", "", "")).await;
        assert_eq!(link.answer().await.unwrap().status(), 200);
    }
}
