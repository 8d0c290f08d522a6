//! Answers of back ends that are no HTTP, or that could be read in two ways: RFC 9112 sections 4 and 6.3.

use support::link::Broken;
use support::origin::OK;
use support::scene::{SITE, Scene};

/// Each answer of the back end becomes a 502, whose connection to the client goes on or closes in order, and no byte of it
/// reaches the client. The request after it goes to the back end on a new connection.
async fn are_502(answers: &[&[u8]]) {
    let scene = Scene::new().await;
    let mut wrong = Vec::new();
    for answer in answers {
        scene.origin().waits();
        let mut link = scene.open().await;
        link.send(format!("POST /r HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 0\r\n\r\n")).await;
        let (_, mut upstream) = scene.origin().next().await;
        upstream.try_send(answer).await;
        upstream.finish().await;
        let got = link.answer().await;
        let fine = matches!(&got, Ok(a) if a.status() == 502 && !a.text().contains("leaked") && !a.body_text().contains("leaked"));
        if !fine {
            wrong.push(format!("{}\n    {got:?}", answer.escape_ascii()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), answers.len(), wrong.join("\n"));
    scene
        .logs("each is logged as 502 with a reason", |_| {
            let lines = scene.access();
            lines.len() == answers.len()
                && lines.iter().all(|l| l["status"] == 502 && l["reason"].is_string())
        })
        .await;
    scene.origin().answers(OK);
    scene.forwarded("GET /well HTTP/1.1\r\n{H}\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_an_answer_that_is_framed_in_two_ways_is_502() {
    are_502(&[
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nTransfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n0\r\n\r\nleaked",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: 1, 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: +2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: -2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: x\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length:\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: 99999999999999999999\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nTransfer-Encoding: gzip\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_4_a_malformed_status_line_is_502() {
    are_502(&[
        b"leaked\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1 099 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1  200 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1\t200 OK\r\nX: leaked\r\n\r\n",
        b" HTTP/1.1 200 OK\r\nX: leaked\r\n\r\n",
        b"http/1.1 200 OK\r\nX: leaked\r\n\r\n",
        b"ICY 200 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/2 200 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.2 200 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nX: leaked\r\n\r\n",
        b"200 OK\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1 200 a\x00b\r\nX: leaked\r\n\r\n",
        b"HTTP/1.1 200 a\rb\r\nX: leaked\r\n\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_5_malformed_fields_of_an_answer_are_502() {
    let large = format!("HTTP/1.1 200 OK\r\nX: leaked{}\r\nContent-Length: 0\r\n\r\n", "x".repeat(300_000));
    are_502(&[
        large.as_bytes(),
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nY : z\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nnocolon\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\n: z\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nY(Z): z\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nY: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nY: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: leaked\nContent-Length: 0\n\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_8_an_answer_that_ends_in_its_head_is_502() {
    are_502(&[
        b"",
        b"H",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX: leaked\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 103 Early Hints\r\n",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_4_odd_but_well_formed_answers_pass() {
    let scene = Scene::new().await;
    let mut link = scene.open().await;
    for (line, status) in [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.1 200 ", 200),
        ("HTTP/1.1 200 many words, (and) \"signs\"", 200),
        ("HTTP/1.1 200 \u{fc}ber 127", 200),
        ("HTTP/1.1 299 Odd", 299),
        ("HTTP/1.1 418 Teapot", 418),
        ("HTTP/1.1 451 Law", 451),
        ("HTTP/1.1 500 Own trouble", 500),
        ("HTTP/1.1 503 Own trouble", 503),
        ("HTTP/1.1 599 Odd", 599),
    ] {
        scene
            .origin()
            .answers(format!("{line}\r\nContent-Length: 2\r\nX-Empty:\r\nx-odd!#$%&'*+-.^_`|~: v\r\n\r\nok"));
        link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let answer = link.answer().await.unwrap();
        assert_eq!((answer.status(), answer.body_text().as_str()), (status, "ok"), "{line}");
        assert_eq!(answer.field("x-odd!#$%&'*+-.^_`|~").as_deref(), Some("v"));
        assert_eq!(answer.field("x-empty").as_deref(), Some(""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_8_6_equal_content_lengths_of_an_answer_become_one_or_502() {
    let scene = Scene::new().await;
    scene.origin().answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok");
    let mut link = scene.open().await;
    link.send(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let answer = link.answer().await.unwrap();
    assert!([200, 502].contains(&answer.status()), "{}", answer.text());
    assert_eq!(answer.values("content-length").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_bytes_after_an_answer_are_not_the_next_answer() {
    let scene = Scene::new().await;
    let spilt = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into()),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".into()),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n".into()),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n".into()),
    ] {
        scene.origin().answers(answer.clone() + spilt);
        let mut link = scene.open().await;
        link.send(format!("{method} /first HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        let first = link.answer_to(method).await.unwrap();
        assert!(!first.body_text().contains("poison"), "{answer:?}");
        // Whoever asks next must get an answer of their own.
        scene.origin().answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh");
        let mut others = scene.open().await;
        for link in [&mut link, &mut others] {
            if !link.try_send(format!("GET /second HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await {
                continue;
            }
            match link.answer().await {
                Ok(second) => assert_eq!(second.body_text(), "fresh", "{answer:?}"),
                Err(e) => assert!(matches!(e, Broken::NoMessage(_)), "{answer:?}: {e:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_2_an_answer_that_comes_before_any_request_is_not_given_to_anyone() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut link = scene.open().await;
    link.send(format!("GET /first HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let (_, mut upstream) = scene.origin().next().await;
    upstream.send(OK).await;
    assert_eq!(link.answer().await.unwrap().body_text(), "ok");
    // On the idle connection: nobody asked.
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    scene.origin().answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh");
    for _ in 0..3 {
        link.send(format!("GET /second HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
        assert_eq!(link.answer().await.unwrap().body_text(), "fresh");
    }
}
