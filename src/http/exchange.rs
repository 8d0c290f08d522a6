//! One request from head to last byte: its line in the access log, and its metrics.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::{Method, Version};
use metrics::{counter, gauge, histogram};

/// What is known about one request while it runs. [`Exchange::finish`] writes it down, once.
#[derive(Debug)]
pub struct Exchange {
    started: Instant,
    /// The id that the client, the log and the next hop see.
    pub request_id: String,
    /// The method.
    pub method: Method,
    /// Path without query.
    pub path: String,
    /// Host without port.
    pub host: String,
    /// The protocol version that the client spoke.
    pub version: Version,
    /// The client.
    pub client: Option<IpAddr>,
    /// Who answered: a back end's name, or `-` for an answer of our own.
    pub backend: Option<String>,
    /// Further back ends that were tried after the first.
    pub retries: u32,
    /// When a connection to the back end was there.
    pub connected: Option<Duration>,
    /// When the first byte of the answer was there.
    pub first_byte: Option<Duration>,
    /// Why we answered ourselves, for the log.
    pub reason: Option<String>,
    /// A health check: neither logged nor counted, for there are several a second for ever.
    pub is_check: bool,
    finished: bool,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The status sent, 0 when none could be.
    pub status: u16,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// Bytes of the request's body.
    pub received: u64,
    /// The answer was not delivered in full.
    pub aborted: bool,
}

impl Exchange {
    /// Starts the clock.
    pub fn start(method: Method, version: Version, client: Option<IpAddr>) -> Self {
        gauge!("trivet_http_requests_in_flight").increment(1.0);
        Self {
            started: Instant::now(),
            request_id: "-".into(),
            method,
            path: String::new(),
            host: String::new(),
            version,
            client,
            backend: None,
            retries: 0,
            connected: None,
            first_byte: None,
            reason: None,
            is_check: false,
            finished: false,
        }
    }

    /// Since the head of the request was complete.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes the access log line and counts. A second call does nothing.
    pub fn finish(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        gauge!("trivet_http_requests_in_flight").decrement(1.0);
        if self.is_check {
            return;
        }
        let took = self.started.elapsed();
        let backend = self.backend.clone().unwrap_or_else(|| "-".into());
        counter!("trivet_http_requests_total", "class" => class(outcome.status), "backend" => backend.clone())
            .increment(1);
        histogram!("trivet_http_request_seconds").record(took.as_secs_f64());
        if let Some(first) = self.first_byte {
            histogram!("trivet_http_first_byte_seconds").record(first.as_secs_f64());
        }
        counter!("trivet_http_sent_bytes_total").increment(outcome.sent);
        counter!("trivet_http_received_bytes_total").increment(outcome.received);
        tracing::info!(
            target: "trivet::access",
            request_id = %self.request_id,
            client = %self.client.map_or_else(|| "-".into(), |c| c.to_string()),
            method = %self.method,
            host = %self.host,
            path = %self.path,
            version = ?self.version,
            status = outcome.status,
            sent = outcome.sent,
            received = outcome.received,
            ms = millis(took),
            connect_ms = self.connected.map(millis),
            first_byte_ms = self.first_byte.map(millis),
            backend = %backend,
            retries = self.retries,
            aborted = outcome.aborted,
            reason = self.reason.as_deref(),
            "request"
        );
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // A request whose task was cut off (a stop that ran out of time) is still a request that came.
        if !self.finished {
            self.finish(Outcome { status: 0, sent: 0, received: 0, aborted: true });
        }
    }
}

fn millis(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "none",
    }
}
