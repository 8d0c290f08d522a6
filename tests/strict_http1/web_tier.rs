//! The web tier reads requests with the same strictness: it stands behind the balancer, but it does not take its word.

use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::json;
use trivet_tls as tls;

use support::app::App;
use support::authority::Authority;
use support::client::Wire;
use support::link::{End, Link};
use support::program::Program;
use support::scene::with_host;
use support::until;

const WEB: &str = "trivet-web";

struct Tier {
    app: App,
    web: Program,
    client: Arc<ClientConfig>,
    _authority: Authority,
}

impl Tier {
    async fn new() -> Self {
        let authority = Authority::new();
        let app = App::start("app").await;
        let root = authority.path("www");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("hello.txt"), "hello").unwrap();
        let config = json!({
            "node": "node1",
            "listen": ["127.0.0.1:0"],
            "metrics": {"listen": "127.0.0.1:0"},
            "tls": authority.files("node1"),
            "static": {"root": root},
            "app": {
                "address": app.address,
                "health": {"interval": "100ms", "timeout": "5s", "rise": 1, "fall": 1},
                "connect_timeout": "5s"
            },
        });
        let web = Program::start_other(WEB, &authority.write("web.json", &config.to_string()));
        let client = tls::client_config(&authority.files("balancer"), &[b"http/1.1"]).unwrap();
        let tier = Self { app, web, client, _authority: authority };
        until("its app is up", || async {
            let mut link = tier.open().await;
            link.send(with_host(b"GET /healthz/app HTTP/1.1\r\n{H}\r\n")).await;
            link.answer().await.unwrap().status() == 200
        })
        .await;
        tier
    }

    async fn open(&self) -> Link {
        Link::new(Wire::tls(self.web.address("listen"), "node1", self.client.clone()).await.into_stream())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_6_3_the_web_tier_refuses_what_can_be_read_in_two_ways() {
    let tier = Tier::new().await;
    for request in [
        &b"POST /x HTTP/1.1\r\n{H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..],
        b"POST /x HTTP/1.1\r\n{H}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\n{H}Content-Length: +5\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\n{H}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /hello.txt HTTP/1.1\nHost: www.foobar.com\n\n",
        b"GET /hello.txt HTTP/1.1\r\n{H}X : y\r\n\r\n",
        b"GET /hello.txt HTTP/1.1\r\n{H}X: y\r\n folded\r\n\r\n",
        b"GET /hello.txt HTTP/1.1\r\n\r\n",
        b"GET /a/../hello.txt HTTP/1.1\r\n{H}\r\n",
        b"GET /%2e%2e/hello.txt HTTP/1.1\r\n{H}\r\n",
    ] {
        let mut link = tier.open().await;
        link.send(with_host(request)).await;
        let answer = link.answer().await.unwrap_or_else(|e| panic!("{e:?} to {}", request.escape_ascii()));
        assert_eq!(answer.status(), 400, "{}", request.escape_ascii());
        assert_eq!(answer.field("connection").as_deref(), Some("close"), "{}", request.escape_ascii());
        assert_eq!(link.rest().await, (vec![], End::Clean), "{}", request.escape_ascii());
    }
    assert_eq!(tier.app.seen(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_9_3_the_web_tier_answers_pipelined_requests_for_files_and_app_in_order() {
    let tier = Tier::new().await;
    let mut link = tier.open().await;
    link.send(with_host(
        b"GET /hello.txt HTTP/1.1\r\n{H}\r\nPOST /app HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\nhiHEAD /hello.txt HTTP/1.1\r\n{H}\r\n\
          GET /app/2 HTTP/1.1\r\n{H}\r\nGET /hello.txt HTTP/1.1\r\n{H}\r\n",
    ))
    .await;
    for (method, body) in [
        ("GET", "hello"),
        ("POST", "app answers POST /app HTTP/1.1"),
        ("HEAD", ""),
        ("GET", "app answers GET /app/2 HTTP/1.1"),
        ("GET", "hello"),
    ] {
        let answer = link.answer_to(method).await.unwrap();
        assert_eq!((answer.status(), answer.body_text().as_str()), (200, body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc3986_3_2_2_an_ipv6_address_is_a_host() {
    let tier = Tier::new().await;
    for (host, status) in [
        ("[2001:db8::1]", 200),
        ("[2001:DB8::1]:443", 200),
        ("[::ffff:192.0.2.1]", 200),
        ("[2001:db8::1", 400),
    ] {
        let mut link = tier.open().await;
        link.send(format!("GET /hello.txt HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(link.answer().await.unwrap().status(), status, "{host}");
    }
}
