//! One request from head to last byte: its line in the access log, and its metrics.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

use http::header::HeaderValue;
use http::{Method, Version};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::troubles::{self, Trouble};
use crate::upstream::{HttpBackend, Upstream};
use trivet_base::telemetry::access;
use trivet_http::changes::Changes;
use trivet_http::steps::Admitted;
use trivet_pool::Lease;

/// What is known about one request while it runs. [`Exchange::finish`] writes it down, once.
#[derive(Debug)]
pub struct Exchange {
    started: Instant,
    /// The id that the client, the log and the next hop see.
    pub request_id: String,
    /// The method; none when the head could not be read.
    pub method: Option<Method>,
    /// The path of a request that was not admitted, as far as it can be shown.
    pub path: String,
    /// The host of a request that was not admitted, as far as it can be shown.
    pub host: String,
    /// What the request is, once it was admitted.
    pub admitted: Option<Admitted>,
    /// The protocol version that the client spoke; none when the head could not be read.
    pub version: Option<Version>,
    pub client: Option<IpAddr>,
    /// The site that it is for.
    pub site: Option<Arc<RouteMeter>>,
    /// The rule that says what is done with it, where one does.
    pub route: Option<Arc<RouteMeter>>,
    /// What changes of the answer's fields, whoever answers.
    pub answer_fields: Option<Arc<Changes>>,
    /// Who answered; none for an answer of our own.
    pub backend: Option<Arc<HttpBackend>>,
    /// Has the request count as in flight there.
    pub lease: Option<Lease<Upstream>>,
    /// The cookie that its answer sets, if it is a back end's.
    pub set_cookie: Option<HeaderValue>,
    /// For how long it waited because all back ends were busy.
    pub queued: Option<Duration>,
    /// Further attempts after the first.
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

/// Looked up once: a look-up by name costs more than the counting.
struct Meters {
    in_flight: Gauge,
    own: [Counter; 6],
    seconds: Histogram,
    first_byte: Histogram,
    sent: Counter,
    received: Counter,
}

static METERS: LazyLock<Meters> = LazyLock::new(|| Meters {
    in_flight: gauge!("trivet_http_requests_in_flight"),
    own: answers_by_class("-", "-"),
    seconds: histogram!("trivet_http_request_seconds"),
    first_byte: histogram!("trivet_http_first_byte_seconds"),
    sent: counter!("trivet_http_sent_bytes_total"),
    received: counter!("trivet_http_received_bytes_total"),
});

/// Of statuses, as metrics name them; see [`class`].
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters of the answers of a pool's back end, by [`class`]. Two pools may have back ends of one name.
pub fn answers_by_class(pool: &str, backend: &str) -> [Counter; 6] {
    CLASSES.map(|class| {
        counter!("trivet_http_requests_total", "class" => class, "pool" => pool.to_owned(), "backend" => backend.to_owned())
    })
}

/// A rule, as log and metrics know it.
#[derive(Debug)]
pub struct RouteMeter {
    name: String,
    answers: [Counter; 6],
}

impl RouteMeter {
    pub fn new(name: String) -> Arc<Self> {
        let answers = CLASSES
            .map(|class| counter!("trivet_route_requests_total", "class" => class, "route" => name.clone()));
        Arc::new(Self { name, answers })
    }

    /// That of a whole site.
    pub fn of_site(name: String) -> Arc<Self> {
        let answers = CLASSES
            .map(|class| counter!("trivet_site_requests_total", "class" => class, "site" => name.clone()));
        Arc::new(Self { name, answers })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Exchange {
    /// Starts the clock.
    pub fn start(method: Option<Method>, version: Option<Version>, client: Option<IpAddr>) -> Self {
        METERS.in_flight.increment(1.0);
        Self {
            started: Instant::now(),
            request_id: String::new(),
            method,
            path: String::new(),
            host: String::new(),
            admitted: None,
            version,
            client,
            site: None,
            route: None,
            answer_fields: None,
            backend: None,
            lease: None,
            set_cookie: None,
            queued: None,
            retries: 0,
            connected: None,
            first_byte: None,
            reason: None,
            is_check: false,
            finished: false,
        }
    }

    /// When the head of the request was complete.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The id, that of the admitted request when there is one.
    pub fn id(&self) -> &str {
        self.admitted.as_ref().map_or(&self.request_id, |a| &a.request_id)
    }

    fn trouble(&self, outcome: Outcome) -> Trouble {
        let admitted = self.admitted.as_ref();
        Trouble {
            at: SystemTime::now(),
            request_id: self.id().to_owned(),
            client: admitted.map(|a| a.client).or(self.client),
            method: self.method.as_ref().map(ToString::to_string),
            host: admitted.map_or(&self.host, |a| &a.host).clone(),
            path: admitted.map_or(self.path.as_str(), Admitted::path).chars().take(LONGEST_SHOWN).collect(),
            status: outcome.status,
            aborted: outcome.aborted,
            route: self.route.as_ref().map(|route| route.name.clone()),
            backend: self.backend.as_ref().map(|b| b.name().to_owned()),
            reason: self.reason.clone(),
        }
    }

    /// Writes the access log line and counts, and tells the time of it. A second call writes nothing.
    pub fn finish(&mut self, outcome: Outcome) -> Instant {
        let now = Instant::now();
        if !std::mem::replace(&mut self.finished, true) {
            self.tell(outcome, now - self.started);
        }
        now
    }

    fn tell(&self, outcome: Outcome, took: Duration) {
        let meters = &*METERS;
        meters.in_flight.decrement(1.0);
        if self.is_check {
            return;
        }
        let answers = self.backend.as_ref().map_or(&meters.own, |b| b.transport().answers());
        answers[class(outcome.status)].increment(1);
        if let Some(site) = &self.site {
            site.answers[class(outcome.status)].increment(1);
        }
        if let Some(route) = &self.route {
            route.answers[class(outcome.status)].increment(1);
        }
        if self.reason.is_some() || outcome.status >= 500 || outcome.aborted {
            troubles::keep(|| self.trouble(outcome));
        }
        meters.seconds.record(took.as_secs_f64());
        if let Some(first) = self.first_byte {
            meters.first_byte.record(first.as_secs_f64());
        }
        meters.sent.increment(outcome.sent);
        meters.received.increment(outcome.received);
        access::line(|line| {
            let admitted = self.admitted.as_ref();
            line.text("request_id", self.id());
            line.address("client", admitted.map(|a| a.client).or(self.client));
            line.text("method", self.method.as_ref().map_or("-", Method::as_str));
            line.text("host", admitted.map_or(&self.host, |a| &a.host));
            line.text("path", admitted.map_or(&self.path, |a| a.path()));
            line.text("version", self.version.map_or("-", name));
            line.number("status", u64::from(outcome.status));
            line.number("sent", outcome.sent);
            line.number("received", outcome.received);
            line.millis("ms", took);
            if let Some(queued) = self.queued {
                line.millis("queued_ms", queued);
            }
            if let Some(connected) = self.connected {
                line.millis("connect_ms", connected);
            }
            if let Some(first) = self.first_byte {
                line.millis("first_byte_ms", first);
            }
            if let Some(route) = &self.route {
                line.text("route", &route.name);
            }
            line.text("backend", self.backend.as_ref().map_or("-", |b| b.name()));
            line.number("retries", u64::from(self.retries));
            line.flag("aborted", outcome.aborted);
            if let Some(reason) = &self.reason {
                line.text("reason", reason);
            }
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // A request whose task was cut off (a stop that ran out of time) is still a request that came.
        if !self.finished {
            self.finish(Outcome { aborted: true, ..Outcome::default() });
        }
    }
}

/// Octets of a path where it is shown: a client may choose thousands.
const LONGEST_SHOWN: usize = 200;

/// The path of a target that nobody has checked yet, fit for a log line.
pub fn shown(target: &[u8]) -> String {
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    path.iter().take(LONGEST_SHOWN).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect()
}

fn name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn class(status: u16) -> usize {
    match status {
        100..=599 => usize::from(status / 100),
        _ => 0,
    }
}
