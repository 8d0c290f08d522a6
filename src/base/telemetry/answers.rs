//! HTTP for those who look after a program: Prometheus, keepalived, the operator's command. A few paths, each answered at once
//! from what is in memory.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::process::connections::{serve_each, serve_http1};

/// Each of those who ask keeps one connection, and they are few. Whoever takes all places does not keep them for long: keepalived
/// asks here whether the node may have the virtual address.
const MAX_CONNECTIONS: usize = 256;
/// The head of a request; also ends a connection that stays idle, since the next head never comes.
const HEADER: Duration = Duration::from_secs(10);
/// A connection, whatever is done on it: one whose other end has stopped reading would keep its place for ever.
const LIFE: Duration = Duration::from_secs(60);
/// Octets of a head.
const MAX_HEAD: usize = 16 * 1024;

/// What is said at a path.
pub struct Answer {
    status: StatusCode,
    content_type: &'static str,
    content: Bytes,
}

impl Answer {
    /// Content of another type.
    pub fn new(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Self {
        Self { status, content_type, content: content.into() }
    }

    /// Words for people.
    pub fn text(status: StatusCode, text: &'static str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text)
    }

    /// A JSON document.
    pub fn json(document: &Value) -> Self {
        Self::new(StatusCode::OK, "application/json", document.to_string())
    }

    fn response(self) -> Response<Full<Bytes>> {
        let typed = !self.content.is_empty();
        let mut response = Response::new(Full::new(self.content));
        *response.status_mut() = self.status;
        if typed {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        }
        response
    }
}

/// What is at a path, and nothing where there is nothing.
pub type Answers = Arc<dyn Fn(&str) -> Option<Answer> + Send + Sync>;

/// Answers `GET` and `HEAD` until `end`, then finishes what is in flight. `missing` is what is said at every other path.
pub async fn serve(
    listener: TcpListener,
    answers: Answers,
    missing: &'static str,
    end: impl Future<Output = ()>,
) {
    serve_each(listener, MAX_CONNECTIONS, end, |stream, ending| {
        connection(stream, answers.clone(), missing, ending)
    })
    .await;
}

async fn connection<S>(stream: S, answers: Answers, missing: &'static str, ending: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let response = respond(request.method(), request.uri().path(), &answers, missing);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(MAX_HEAD);
    let ended = async {
        tokio::select! { () = ending.cancelled() => {}, () = tokio::time::sleep(LIFE) => {} }
    };
    if let Err(e) = serve_http1(&http, stream, service, ended, HEADER).await {
        tracing::debug!(error = %e, "connection of one who looks after the program");
    }
}

fn respond(method: &Method, path: &str, answers: &Answers, missing: &'static str) -> Response<Full<Bytes>> {
    let Some(answer) = answers(path) else {
        return Answer::text(StatusCode::NOT_FOUND, missing).response();
    };
    if method == Method::GET || method == Method::HEAD {
        return answer.response();
    }
    let mut refusal = Answer::text(StatusCode::METHOD_NOT_ALLOWED, "").response();
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
    refusal
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    fn open() -> (DuplexStream, tokio::task::JoinHandle<()>, CancellationToken) {
        let (client, server) = tokio::io::duplex(1024);
        let answers: Answers = Arc::new(|path| match path {
            "/status" => Some(Answer::json(&serde_json::json!({"node": "node1"}))),
            "/healthz" => Some(Answer::text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")),
            "/long" => Some(Answer::new(StatusCode::OK, "text/plain", vec![b'x'; 100_000])),
            _ => None,
        });
        let ending = CancellationToken::new();
        let served = tokio::spawn(connection(server, answers, "only /status is here\n", ending.clone()));
        (client, served, ending)
    }

    async fn asked(request: &str) -> String {
        let (mut client, ..) = open();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).await.unwrap();
        all.to_ascii_lowercase()
    }

    #[tokio::test]
    async fn what_is_there_is_answered_and_what_is_not_is_told() {
        let close = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        for (request, status, expected, content) in [
            ("GET /status?x=1", "200 ok", "content-type: application/json\r\n", "{\"node\":\"node1\"}"),
            ("HEAD /status", "200 ok", "content-length: 16\r\n", ""),
            ("GET /healthz", "503 service unavailable", "text/plain; charset=utf-8\r\n", "stopping\n"),
            ("GET /status/", "404 not found", "text/plain; charset=utf-8\r\n", "only /status is here\n"),
            ("POST /status", "405 method not allowed", "allow: get,head\r\n", ""),
            ("POST /other", "404 not found", "content-length: 21\r\n", "only /status is here\n"),
        ] {
            let answer = asked(&format!("{request} {close}")).await;
            assert!(answer.starts_with(&format!("http/1.1 {status}\r\n")), "{request}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(format!("{head}\r\n").contains(expected), "{request}: {answer}");
            assert_eq!(body, content, "{request}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        for begun in ["", "GET /status HT"] {
            let start = Instant::now();
            let (mut client, served, _ending) = open();
            client.write_all(begun.as_bytes()).await.unwrap();
            served.await.unwrap();
            assert!((HEADER..2 * HEADER).contains(&start.elapsed()), "{begun}: {:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_not_waited_for_either() {
        let start = Instant::now();
        let (mut client, served, _ending) = open();
        client.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        served.await.unwrap();
        assert!(start.elapsed() >= LIFE && start.elapsed() < 2 * LIFE, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_with_the_program() {
        let start = Instant::now();
        let (mut client, served, ending) = open();
        client.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut some = [0; 8];
        client.read_exact(&mut some).await.unwrap();
        ending.cancel();
        served.await.unwrap();
        assert!(start.elapsed() < HEADER, "{:?}", start.elapsed());
    }
}
