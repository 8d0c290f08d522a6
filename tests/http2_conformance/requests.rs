//! Well-formed requests over HTTP/2: what a back end, which speaks HTTP/1.1, sees of them. RFC 9113 section 8.

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use support::scene::{SITE, Scene};

/// A client of the `h2` crate.
pub async fn client(scene: &Scene) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(scene.open_h2().await).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

/// Status and body of a request without a body.
pub async fn ask(client: &mut SendRequest<Bytes>, request: Request<()>) -> (u16, Vec<u8>) {
    let (answer, _) = client.send_request(request, true).unwrap();
    let answer = answer.await.unwrap();
    let status = answer.status().as_u16();
    let (mut body, mut all) = (answer.into_body(), Vec::new());
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    (status, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_2_3_cookies_become_one_field_again() {
    let scene = Scene::new().await;
    let mut client = client(&scene).await;
    let request =
        Request::get(format!("https://{SITE}/c")).header("cookie", "a=1").header("cookie", "b=2").body(());
    assert_eq!(ask(&mut client, request.unwrap()).await.0, 200);
    assert_eq!(scene.origin().seen()[0].values("cookie"), ["a=1; b=2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_2_1_a_value_that_begins_or_ends_with_white_space_is_400() {
    let scene = Scene::new().await;
    let mut client = client(&scene).await;
    for value in [" a", "a ", "\ta", "a\t", " "] {
        let request = Request::get(format!("https://{SITE}/")).header("x-a", value).body(()).unwrap();
        assert_eq!(ask(&mut client, request).await.0, 400, "{value:?}");
    }
    assert_eq!(scene.origin().seen(), []);
    let request = Request::get(format!("https://{SITE}/")).header("x-a", "a b").body(()).unwrap();
    assert_eq!(ask(&mut client, request).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_3_1_authority_becomes_host() {
    let scene = Scene::new().await;
    let mut client = client(&scene).await;
    for (authority, path) in [(SITE, "/a?b"), ("www.foobar.com:443", "/"), ("WWW.foobar.com", "/x")] {
        let request = Request::get(format!("https://{authority}{path}")).body(()).unwrap();
        assert_eq!(ask(&mut client, request).await.0, 200);
        let seen = scene.origin().seen().pop().unwrap();
        assert_eq!(seen.line(), format!("GET {path} HTTP/1.1"));
        assert_eq!(seen.field("host").unwrap().to_ascii_lowercase(), authority.to_ascii_lowercase());
        assert_eq!(seen.field("via").as_deref(), Some("2 trivet"));
        assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("https"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_5_connect_and_trace_are_refused() {
    let scene = Scene::new().await;
    let mut client = client(&scene).await;
    let trace = Request::builder().method("TRACE").uri(format!("https://{SITE}/")).body(()).unwrap();
    assert_eq!(ask(&mut client, trace).await.0, 405);
    let connect = Request::connect(format!("{SITE}:443")).body(()).unwrap();
    let (answer, _) = client.send_request(connect, false).unwrap();
    let refused = match answer.await {
        Ok(answer) => answer.status().is_client_error(),
        Err(e) => e.is_reset(),
    };
    assert!(refused);
    assert_eq!(scene.origin().seen(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_20_another_authority_is_421_over_http_2_too() {
    let scene = Scene::new().await;
    let mut client = client(&scene).await;
    let request = Request::get("https://other.example/").body(()).unwrap();
    assert_eq!(ask(&mut client, request).await.0, 421);
    assert_eq!(scene.origin().seen(), []);
    // The connection goes on: this is about the request.
    let request = Request::get(format!("https://{SITE}/")).body(()).unwrap();
    assert_eq!(ask(&mut client, request).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_1_answers_without_a_body_have_none() {
    let scene = Scene::new().await;
    let mut client = client(&scene).await;
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
    ] {
        scene.origin().answers(answer);
        let request = Request::builder().method(method).uri(format!("https://{SITE}/")).body(()).unwrap();
        let (answered, _) = client.send_request(request, true).unwrap();
        let answered = answered.await.unwrap();
        assert_eq!(answered.headers().contains_key("content-length"), method == "HEAD");
        assert!(answered.into_body().data().await.is_none(), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_8_2_2_fields_of_the_back_ends_connection_do_not_reach_the_client() {
    let scene = Scene::new().await;
    scene.origin().answers(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    // The client of `h2` would itself reset a stream with any of these.
    let mut client = client(&scene).await;
    let request = Request::get(format!("https://{SITE}/")).body(()).unwrap();
    assert_eq!(ask(&mut client, request.clone()).await, (200, b"ok".to_vec()));
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2";
    scene.origin().answers(format!("HTTP/1.1 426 Upgrade Required\r\n{fields}\r\n\r\nws"));
    assert_eq!(ask(&mut client, request).await, (426, b"ws".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_8_a_broken_answer_resets_the_stream() {
    let scene = Scene::new().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
    ] {
        scene.origin().waits();
        let mut client = client(&scene).await;
        let request = Request::get(format!("https://{SITE}/")).body(()).unwrap();
        let (answered, _) = client.send_request(request, true).unwrap();
        let (_, mut upstream) = scene.origin().next().await;
        upstream.send(answer).await;
        upstream.finish().await;
        let Ok(answered) = answered.await else { continue };
        if answered.status() == 502 {
            continue;
        }
        let mut body = answered.into_body();
        let end = loop {
            match body.data().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(end, Some(Err(_))), "{answer}: ended as if it were whole");
    }
}
