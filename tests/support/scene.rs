//! The balancer between clients and back ends of which every byte is known.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use futures_util::future::join_all;
use rustls::ClientConfig;
use serde_json::Value;

use super::authority::Authority;
pub use super::balancer_config::SITE;
use super::balancer_config::{BalancerConfig, NO_CHECKS};
use super::client::{Io, Wire};
use super::link::{End, Link, Message};
use super::origin::Origin;
use super::program::Program;
use super::{PATIENCE, until};

pub struct Scene {
    pub authority: Authority,
    pub origins: Vec<Origin>,
    pub balancer: Program,
    browser: Arc<ClientConfig>,
}

impl Scene {
    /// With one back end.
    pub async fn new() -> Self {
        Self::tuned(1, "", "").await
    }

    /// With `n` back ends and further keys in `[https]` and in `[web]`.
    pub async fn tuned(n: usize, https: &str, web: &str) -> Self {
        let authority = Authority::new();
        let mut origins = Vec::new();
        for i in 0..n {
            origins.push(Origin::start(authority.mutual_server(&format!("node{i}"))).await);
        }
        let named = |(i, o): (usize, &Origin)| (format!("node{i}"), o.address);
        let web = format!("{NO_CHECKS}\n{web}");
        let config = BalancerConfig {
            https,
            back_ends: origins.iter().enumerate().map(named).collect(),
            web: &web,
            ..BalancerConfig::default()
        };
        let balancer = Program::start(&config.write(&authority));
        let browser = authority.browser(&[b"http/1.1"]);
        Self { authority, origins, balancer, browser }
    }

    /// The only back end.
    pub fn origin(&self) -> &Origin {
        &self.origins[0]
    }

    /// A client that speaks HTTP/1.1 over TLS.
    pub async fn open(&self) -> Link {
        let address = self.balancer.address("https.listen");
        Link::new(Wire::tls(address, SITE, self.browser.clone()).await.into_stream())
    }

    /// A connection on which HTTP/2 was agreed.
    pub async fn open_h2(&self) -> Box<dyn Io> {
        let address = self.balancer.address("https.listen");
        Wire::tls(address, SITE, self.authority.browser(&[b"h2"])).await.into_stream()
    }

    pub async fn metrics(&self) -> String {
        let mut link = Link::new(Wire::plain(self.balancer.address("metrics.listen")).await.into_stream());
        link.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        link.answer().await.unwrap().body_text()
    }

    /// Lines of the access log.
    pub fn access(&self) -> Vec<Value> {
        self.balancer.lines().into_iter().filter(|l| l["target"] == "trivet::access").collect()
    }

    /// Sends one request and returns what the back end, which [answers](Origin::answers), saw of it. The answer is 200.
    pub async fn forwarded(&self, request: impl AsRef<[u8]>) -> Message {
        let before = self.origin().seen().len();
        let mut link = self.open().await;
        let request = with_host(request.as_ref());
        link.send(&request).await;
        let answer = link.answer().await.unwrap_or_else(|e| panic!("{e:?} to {}", request.escape_ascii()));
        assert_eq!(answer.status(), 200, "{} to {}", answer.text(), request.escape_ascii());
        let seen = self.origin().seen();
        assert_eq!(seen.len(), before + 1, "after {}", request.escape_ascii());
        seen.into_iter().next_back().unwrap()
    }

    /// Sends each of the requests on a connection of its own. Each must be answered once, with `status` and
    /// `Connection: close`, and the connection closed in order; no back end may see any of it; each must be in the
    /// access log with a reason, and in `trivet_http_refused_total` under `reason` (or one of several, between bars:
    /// which of two mistakes is met first is nobody's business).
    pub async fn refuses(&self, status: u16, reason: &str, requests: &[&[u8]]) {
        self.refuses_all(status, reason, requests, true).await;
    }

    /// As [`refuses`](Self::refuses), for what leaves no doubt where the next request begins: the connection goes on, and
    /// a request after it is served.
    pub async fn refuses_and_goes_on(&self, status: u16, reason: &str, requests: &[&[u8]]) {
        self.refuses_all(status, reason, requests, false).await;
    }

    async fn refuses_all(&self, status: u16, reasons: &str, requests: &[&[u8]], closes: bool) {
        if !closes {
            self.origin().answers("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
        let wrong: Vec<String> = join_all(requests.iter().map(|request| async {
            let request = with_host(request);
            let mut link = self.open().await;
            link.try_send(&request).await;
            let head_only = request.starts_with(b"HEAD ");
            let verdict = if closes {
                match tokio::time::timeout(PATIENCE, link.rest()).await {
                    Err(_) => Err("the connection stays open".to_owned()),
                    Ok((bytes, end)) => is_refusal(&bytes, end, status, head_only),
                }
            } else {
                // What is served after a refusal is known by its status.
                goes_on(&mut link, status).await
            };
            verdict.err().map(|what| format!("{}\n    {what}", request.escape_ascii()))
        }))
        .await
        .into_iter()
        .flatten()
        .collect();
        assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), requests.len(), wrong.join("\n"));
        if !closes {
            let seen = self.origin().seen();
            assert!(seen.iter().all(|m| m.line() == "GET /after HTTP/1.1"), "reached a back end: {seen:?}");
        }
        for origin in self.origins.iter().filter(|_| closes) {
            assert!(
                origin.seen().is_empty() && origin.broken().is_empty() && origin.connections() == 0,
                "reached a back end: {:?} {:?}",
                origin.seen(),
                origin.broken()
            );
        }
        self.until_logged(&vec![u64::from(status); requests.len()], closes).await;
        let metrics = self.metrics().await;
        let mut counted = 0;
        for line in metrics.lines().filter(|l| l.starts_with("trivet_http_refused_total{")) {
            let told = line.split('"').nth(1).unwrap_or_default();
            assert!(reasons.split('|').any(|r| r == told), "{line}, where {reasons} is expected");
            counted += line.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        }
        assert_eq!(counted, requests.len(), "{metrics}");
    }

    /// Waits until the access log has these statuses, sorted, each with a reason.
    async fn until_logged(&self, statuses: &[u64], all: bool) {
        let logged = || {
            let mut lines = self.access();
            if !all {
                lines.retain(|l| l["status"] != 404);
            }
            lines.retain(|l| !l["status"].is_null());
            assert!(
                lines.iter().all(|l| l["reason"].as_str().is_some_and(|r| !r.is_empty())),
                "a line without a reason: {lines:?}"
            );
            let mut logged: Vec<u64> = lines.iter().filter_map(|l| l["status"].as_u64()).collect();
            logged.sort_unstable();
            logged
        };
        let began = Instant::now();
        while logged() != statuses {
            assert!(began.elapsed() < PATIENCE / 2, "logged {:?}, expected {statuses:?}", logged());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the access log has a line for which this is true.
    pub async fn logs(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        until(what, || async { self.access().iter().any(&wanted) }).await;
    }
}

/// `{H}` becomes the site's `Host` line.
pub fn with_host(request: &[u8]) -> Vec<u8> {
    let host = format!("Host: {SITE}\r\n");
    let mut out = Vec::with_capacity(request.len() + host.len());
    let mut rest = request;
    while let Some(at) = super::backend::find(rest, b"{H}") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(host.as_bytes());
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

/// Whether the next answer is this refusal, and a request after it reaches the back end, which does not know its path.
async fn goes_on(link: &mut Link, status: u16) -> Result<(), String> {
    let answer = link.answer().await.map_err(|e| format!("{e:?}"))?;
    if answer.status() != status
        || answer.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    {
        return Err(format!("expected {status} without Connection: close, got {}", answer.text()));
    }
    if status == 405 && answer.field("allow").is_none() {
        return Err("405 without Allow (RFC 9110 section 15.5.6)".to_owned());
    }
    link.send(with_host(b"GET /after HTTP/1.1\r\n{H}\r\n")).await;
    match link.answer().await {
        Ok(after) if after.status() == 404 => Ok(()),
        other => Err(format!("after it: {other:?}")),
    }
}

/// Whether these bytes are one well-formed refusal and the connection ended in order after it.
fn is_refusal(bytes: &[u8], end: End, status: u16, head_only: bool) -> Result<(), String> {
    let text = bytes.escape_ascii().to_string();
    let short: String = text.chars().take(300).collect();
    let Some(at) = super::backend::find(bytes, b"\r\n\r\n") else {
        return Err(format!("no answer, but {short:?}, {end:?}"));
    };
    let answer =
        Message { head: bytes[..at + 4].to_vec(), body: bytes[at + 4..].to_vec(), ..Message::default() };
    if !answer.line().starts_with(&format!("HTTP/1.1 {status} ")) {
        return Err(format!("expected {status}, got {short}"));
    }
    let head = answer.text();
    let lines: Vec<&str> = head.trim_end_matches("\r\n").split("\r\n").skip(1).collect();
    for line in lines {
        let well_formed = line.split_once(": ").is_some_and(|(name, value)| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && value.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b))
        });
        if !well_formed {
            return Err(format!("malformed line {line:?}"));
        }
    }
    if answer.field("connection").is_none_or(|v| !v.eq_ignore_ascii_case("close")) {
        return Err(format!("does not say Connection: close: {head:?}"));
    }
    let length = answer.field("content-length").and_then(|v| v.parse::<usize>().ok());
    let fits = length.is_some_and(|n| n == answer.body.len() || (head_only && answer.body.is_empty()));
    if !fits {
        return Err(format!("Content-Length {length:?}, but {} bytes follow: {short}", answer.body.len()));
    }
    if status == 405 && answer.field("allow").is_none() {
        return Err("405 without Allow (RFC 9110 section 15.5.6)".to_owned());
    }
    if end != End::Clean {
        return Err("the connection was cut without close_notify".to_owned());
    }
    Ok(())
}
