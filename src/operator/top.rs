//! `trivet top`: what is going on, live: sites, routes, back ends, their rates, latencies and errors, of all balancers together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::control::Socket;
use super::socket::{Program, command};
use super::status::colours;
use super::table::{Cell, Paint, Tone, cell, header};
use trivet_balancer_api::Figures;
use trivet_base::process::Failure;

/// Balancers that do not answer are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Routes and back ends that fit on a screen.
const MOST_ROWS: usize = 15;

/// By name and by labels.
type Samples = BTreeMap<String, BTreeMap<BTreeMap<String, String>, f64>>;

/// Counts of all balancers. Each has a label of its own, so that one that says nothing for once takes nothing from the others.
struct Counts {
    at: Instant,
    samples: Samples,
    /// Who was heard.
    seen: BTreeSet<String>,
    silent: Vec<String>,
}

impl Counts {
    /// What was counted since; none where it is not known, since its balancer was not heard before.
    fn since(
        &self,
        before: &Self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        value: f64,
    ) -> Option<f64> {
        if !labels.get(BALANCER).is_none_or(|balancer| before.seen.contains(balancer)) {
            return None;
        }
        let former = before.samples.get(metric).and_then(|m| m.get(labels)).copied().unwrap_or(0.0);
        // A process that is younger has counted less, and since when is not known.
        (value >= former).then_some(value - former)
    }
}

/// The label that says whose a count is.
const BALANCER: &str = "_balancer";

/// Shows it again and again, or once.
pub async fn run(socket: &Socket, interval: Duration, once: bool, as_json: bool) -> Result<(), Failure> {
    let mut before = counts(socket).await?;
    loop {
        tokio::time::sleep(interval).await;
        let now = counts(socket).await?;
        let view = View::between(&before, &now);
        if as_json {
            println!("{}", view.json());
        } else if once {
            print!("{}", view.text(colours()));
        } else {
            // Cursor home, text, clear to the end: no flicker, which clearing first would give.
            print!("\x1b[H{}\x1b[J", view.text(colours()).replace('\n', "\x1b[K\n"));
        }
        if once {
            return Ok(());
        }
        before = now;
    }
}

async fn counts(socket: &Socket) -> Result<Counts, Failure> {
    let all: Vec<Figures> =
        command(Program::Balancer, &socket.path(None), Method::GET, "/figures", &json!(null), PATIENCE)
            .await
            .map_err(Failure::run)?;
    let mut samples = Samples::new();
    for (balancer, line) in all.iter().flat_map(|f| f.text.lines().map(move |line| (&f.name, line))) {
        if let Some((name, mut labels, value)) = sample(line) {
            labels.insert(BALANCER.into(), balancer.clone());
            samples.entry(name).or_default().insert(labels, value);
        }
    }
    let seen = all.iter().filter(|f| f.error.is_none()).map(|f| f.name.clone()).collect();
    let silent = all.into_iter().filter_map(|f| Some(format!("{} says nothing ({})", f.name, f.error?)));
    Ok(Counts { at: Instant::now(), samples, seen, silent: silent.collect() })
}

/// One line of Prometheus' text (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = head.split_once('{') else { return Some((head.into(), BTreeMap::new(), value)) };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while let Some((label, after)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => text.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        };
        labels.insert(label.trim_start_matches(',').to_owned(), text);
        rest = &after[end..];
    }
    Some((name.to_owned(), labels, value))
}

/// Requests a second of a site, a route or a back end.
#[derive(Debug, Default, Clone, PartialEq)]
struct Rates {
    all: f64,
    client_errors: f64,
    server_errors: f64,
}

/// What happened between two looks.
struct View {
    sites: Vec<(String, Rates)>,
    routes: Vec<(String, Rates)>,
    /// `web/node1`: two pools may have back ends of one name.
    backends: Vec<(String, Rates)>,
    /// Of half, 95 % and 99 % of the requests, in seconds; none when there was none.
    latencies: [Option<f64>; 3],
    in_flight: f64,
    connections: f64,
    services: Vec<(String, Service)>,
    silent: Vec<String>,
}

/// A service of `[tcp.NAME]`.
#[derive(Debug, Default, Clone, PartialEq)]
struct Service {
    /// Connections that are open.
    open: f64,
    /// Connections a second that had a back end.
    opened: f64,
    /// Connects to back ends a second that failed.
    failed: f64,
    /// Octets a second to back ends and to clients, of connections that have ended.
    to_backend: f64,
    to_client: f64,
}

/// Adds what was counted to a service.
type Counted = fn(&mut Service, f64);

/// The services, by name.
fn services(before: &Counts, now: &Counts) -> Vec<(String, Service)> {
    let seconds = (now.at - before.at).as_secs_f64().max(0.001);
    let mut all: BTreeMap<String, Service> = BTreeMap::new();
    for (labels, open) in now.samples.get("trivet_tcp_connections").into_iter().flatten() {
        if let Some(name) = labels.get("service") {
            all.entry(name.clone()).or_default().open += open;
        }
    }
    let counted: [(&str, &str, Counted); 4] = [
        ("trivet_tcp_connections_total", "", |s, n| s.opened += n),
        ("trivet_tcp_connect_failures_total", "", |s, n| s.failed += n),
        ("trivet_tcp_bytes_total", "to_backend", |s, n| s.to_backend += n),
        ("trivet_tcp_bytes_total", "to_client", |s, n| s.to_client += n),
    ];
    for (metric, direction, add) in counted {
        for (labels, value) in now.samples.get(metric).into_iter().flatten() {
            let counted = now.since(before, metric, labels, *value);
            if let (Some(name), Some(counted)) = (labels.get("service"), counted)
                && labels.get("direction").is_none_or(|d| d == direction)
            {
                add(all.entry(name.clone()).or_default(), counted / seconds);
            }
        }
    }
    all.into_iter().collect()
}

/// The services as a table.
fn services_grid(all: &[(String, Service)]) -> Vec<Vec<Cell>> {
    let mut rows =
        vec![header(&["SERVICE", "OPEN", "OPENED/S", "FAILED/S", "TO BACK END B/S", "TO CLIENT B/S"])];
    rows.extend(all.iter().take(MOST_ROWS).map(|(name, s)| {
        let number = |n: f64, places: usize| {
            cell(format!("{n:.places$}"), if n > 0.0 { Tone::Plain } else { Tone::Dim })
        };
        let failed = cell(format!("{:.1}", s.failed), if s.failed > 0.0 { Tone::Bad } else { Tone::Dim });
        vec![
            cell(name, Tone::Head),
            number(s.open, 0),
            number(s.opened, 1),
            failed,
            number(s.to_backend, 0),
            number(s.to_client, 0),
        ]
    }));
    rows
}

/// The same, for programs.
fn services_json(all: &[(String, Service)]) -> Value {
    let one = |(name, s): &(String, Service)| json!({"name": name, "open": s.open, "opened": s.opened, "failed": s.failed, "to_backend": s.to_backend, "to_client": s.to_client});
    all.iter().map(one).collect()
}

impl View {
    fn between(before: &Counts, now: &Counts) -> Self {
        let seconds = (now.at - before.at).as_secs_f64().max(0.001);
        type Labels = BTreeMap<String, String>;
        let rates = |metric: &str, name_of: &dyn Fn(&Labels) -> Option<String>| {
            let mut all: BTreeMap<String, Rates> = BTreeMap::new();
            for (labels, value) in now.samples.get(metric).into_iter().flatten() {
                let Some(counted) = now.since(before, metric, labels, *value) else { continue };
                let rate = counted / seconds;
                let Some(name) = name_of(labels) else { continue };
                let of = all.entry(name).or_default();
                of.all += rate;
                match labels.get("class").map(String::as_str) {
                    Some("4xx") => of.client_errors += rate,
                    Some("5xx" | "none") => of.server_errors += rate,
                    _ => {}
                }
            }
            let mut all: Vec<_> = all.into_iter().collect();
            all.sort_by(|(a, x), (b, y)| y.all.total_cmp(&x.all).then_with(|| a.cmp(b)));
            all
        };
        let label = |label: &'static str| move |labels: &Labels| labels.get(label).cloned();
        let backend = |labels: &Labels| match (labels.get("pool"), labels.get("backend")?) {
            (_, own) if own == "-" => Some(own.clone()),
            (Some(pool), backend) => Some(format!("{pool}/{backend}")),
            // A balancer of before.
            (None, backend) => Some(backend.clone()),
        };
        let gauge = |name: &str| now.samples.get(name).map_or(0.0, |all| all.values().sum());
        Self {
            sites: rates("trivet_site_requests_total", &label("site")),
            routes: rates("trivet_route_requests_total", &label("route")),
            backends: rates("trivet_http_requests_total", &backend),
            latencies: [0.5, 0.95, 0.99].map(|share| quantile(before, now, share)),
            in_flight: gauge("trivet_http_requests_in_flight"),
            connections: gauge("trivet_connections"),
            services: services(before, now),
            silent: now.silent.clone(),
        }
    }

    fn text(&self, colours: bool) -> String {
        let total: f64 = self.backends.iter().map(|(_, rates)| rates.all).sum();
        let millis = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{:.1}", s * 1000.0));
        let [half, most, nearly_all] = self.latencies.map(millis);
        let mut out = format!(
            "{total:.1} requests/s  {:.0} in flight  {:.0} connections  p50 {half}  p95 {most}  p99 {nearly_all} ms\n",
            self.in_flight, self.connections
        );
        for line in &self.silent {
            out.push_str(line);
            out.push('\n');
        }
        let paint = Paint { colours };
        for (title, all) in [("SITE", &self.sites), ("ROUTE", &self.routes), ("BACK END", &self.backends)] {
            if all.is_empty() {
                continue;
            }
            out.push('\n');
            let mut rows = vec![header(&[title, "REQUESTS/S", "4XX/S", "5XX/S"])];
            rows.extend(all.iter().take(MOST_ROWS).map(|(name, rates)| row(name, rates)));
            paint.grid(&mut out, &rows);
            if all.len() > MOST_ROWS {
                out.push_str(&format!("and {} more\n", all.len() - MOST_ROWS));
            }
        }
        if !self.services.is_empty() {
            out.push('\n');
            paint.grid(&mut out, &services_grid(&self.services));
        }
        out
    }

    fn json(&self) -> Value {
        let rates = |all: &[(String, Rates)]| -> Value {
            let one = |(name, r): &(String, Rates)| json!({"name": name, "requests": r.all, "client_errors": r.client_errors, "server_errors": r.server_errors});
            all.iter().map(one).collect()
        };
        let mut backends = rates(&self.backends);
        for one in backends.as_array_mut().into_iter().flatten() {
            // A pool's name has no slash.
            if let Some((pool, name)) = one["name"].as_str().and_then(|name| name.split_once('/')) {
                let (pool, name) = (json!(pool), json!(name));
                one["pool"] = pool;
                one["name"] = name;
            }
        }
        let [half, most, nearly_all] = self.latencies;
        json!({
            "sites": rates(&self.sites), "routes": rates(&self.routes), "backends": backends,
            "seconds": {"p50": half, "p95": most, "p99": nearly_all},
            "services": services_json(&self.services),
            "in_flight": self.in_flight, "connections": self.connections, "silent": self.silent,
        })
    }
}

fn row(name: &str, rates: &Rates) -> Vec<Cell> {
    // What balancers answer themselves has no back end.
    let name = if name == "-" { "(the balancer itself)" } else { name };
    let number = |rate: f64, bad: Tone| {
        let tone = if rate > 0.0 { bad } else { Tone::Dim };
        cell(format!("{rate:.1}"), tone)
    };
    vec![
        cell(name, Tone::Head),
        number(rates.all, Tone::Plain),
        number(rates.client_errors, Tone::Warn),
        number(rates.server_errors, Tone::Bad),
    ]
}

/// The time within which this share of the requests was answered, between two looks: within its bucket it is taken to be spread evenly,
/// as Prometheus' `histogram_quantile` does.
fn quantile(before: &Counts, now: &Counts, share: f64) -> Option<f64> {
    const NAME: &str = "trivet_http_request_seconds_bucket";
    let mut all: Vec<(f64, f64)> = Vec::new();
    for (labels, value) in now.samples.get(NAME)? {
        let Some(counted) = now.since(before, NAME, labels, *value) else { continue };
        all.push((labels.get("le")?.parse().unwrap_or(f64::INFINITY), counted));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for (edge, count) in all {
        match buckets.last_mut() {
            Some((same, sum)) if same.total_cmp(&edge).is_eq() => *sum += count,
            _ => buckets.push((edge, count)),
        }
    }
    let all = buckets.last()?.1;
    if all == 0.0 {
        return None;
    }
    let wanted = all * share;
    let (mut from, mut below) = (0.0, 0.0);
    for (edge, count) in buckets {
        if count >= wanted {
            let within = if count > below { (wanted - below) / (count - below) } else { 1.0 };
            return Some(if edge.is_finite() { from + (edge - from) * within } else { from });
        }
        (from, below) = (edge, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(at: Instant, text: &str) -> Counts {
        let mut samples = Samples::new();
        for (name, labels, value) in text.lines().filter_map(sample) {
            samples.entry(name).or_default().insert(labels, value);
        }
        Counts { at, samples, seen: BTreeSet::new(), silent: Vec::new() }
    }

    #[test]
    fn a_line_is_read_with_its_labels() {
        let (name, labels, value) = sample(r#"x_total{a="1,\"}",b="c\\d"} 5e3"#).unwrap();
        assert_eq!((name.as_str(), value), ("x_total", 5000.0));
        assert_eq!(labels, BTreeMap::from([("a".into(), "1,\"}".into()), ("b".into(), "c\\d".into())]));
        assert_eq!(sample("up 1").unwrap(), ("up".into(), BTreeMap::new(), 1.0));
        for line in ["", "# HELP x", "x{a=\"1} 5", "x{ nothing"] {
            assert_eq!(sample(line), None, "{line}");
        }
    }

    #[test]
    fn what_happened_between_two_looks_is_told_by_the_second() {
        let start = Instant::now();
        let before = counts(start, "trivet_site_requests_total{site=\"main\",class=\"2xx\"} 100\n");
        let now = counts(
            start + Duration::from_secs(2),
            "trivet_site_requests_total{site=\"main\",class=\"2xx\"} 120\n\
             trivet_site_requests_total{site=\"main\",class=\"5xx\"} 4\n\
             trivet_site_requests_total{site=\"shop\",class=\"4xx\"} 2\n\
             trivet_http_request_seconds_bucket{le=\"0.1\"} 10\n\
             trivet_http_request_seconds_bucket{le=\"0.2\"} 20\n\
             trivet_http_request_seconds_bucket{le=\"+Inf\"} 20\n",
        );
        let view = View::between(&before, &now);
        let main = Rates { all: 12.0, client_errors: 0.0, server_errors: 2.0 };
        let shop = Rates { all: 1.0, client_errors: 1.0, server_errors: 0.0 };
        assert_eq!(view.sites, [("main".to_owned(), main), ("shop".to_owned(), shop)]);
        let [half, most, _] = view.latencies.map(Option::unwrap);
        assert!((half - 0.1).abs() < 1e-9 && (most - 0.19).abs() < 1e-9, "{half} {most}");
        assert!(
            view.text(false).contains("SITE  REQUESTS/S  4XX/S  5XX/S\nmain  12.0        0.0    2.0\n"),
            "{}",
            view.text(false)
        );
    }

    #[test]
    fn back_ends_of_one_name_in_two_pools_are_two() {
        let start = Instant::now();
        let text = |web: u64, api: u64| {
            format!(
                "trivet_http_requests_total{{class=\"2xx\",pool=\"web\",backend=\"a\"}} {web}\n\
                 trivet_http_requests_total{{class=\"2xx\",pool=\"api\",backend=\"a\"}} {api}\n\
                 trivet_http_requests_total{{class=\"4xx\",pool=\"-\",backend=\"-\"}} 1\n"
            )
        };
        let now = counts(start + Duration::from_secs(1), &text(20, 5));
        let view = View::between(&counts(start, &text(0, 0)), &now);
        let shown: Vec<&str> = view.backends.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(shown, ["web/a", "api/a", "-"]);
        let told = view.json();
        assert_eq!(
            (&told["backends"][0]["pool"], &told["backends"][0]["name"]),
            (&json!("web"), &json!("a"))
        );
        assert_eq!(told["backends"][1]["pool"], "api");
        assert_eq!((&told["backends"][2]["pool"], &told["backends"][2]["name"]), (&json!(null), &json!("-")));
    }

    #[test]
    fn services_of_tcp_are_told_of_by_connections_and_octets() {
        let start = Instant::now();
        let text = |opened: u64, failed: u64, bytes: u64| {
            format!(
                "trivet_tcp_connections{{service=\"mail\"}} 7\n\
                 trivet_tcp_connections_total{{service=\"mail\",backend=\"a\"}} {opened}\n\
                 trivet_tcp_connections_total{{service=\"mail\",backend=\"b\"}} {opened}\n\
                 trivet_tcp_connect_failures_total{{service=\"mail\",backend=\"b\"}} {failed}\n\
                 trivet_tcp_bytes_total{{service=\"mail\",direction=\"to_backend\"}} {bytes}\n\
                 trivet_tcp_bytes_total{{service=\"mail\",direction=\"to_client\"}} 0\n"
            )
        };
        let (before, now) =
            (counts(start, &text(10, 0, 0)), counts(start + Duration::from_secs(2), &text(20, 1, 800)));
        let view = View::between(&before, &now);
        let mail = Service { open: 7.0, opened: 10.0, failed: 0.5, to_backend: 400.0, to_client: 0.0 };
        assert_eq!(view.services, [("mail".to_owned(), mail)]);
        let text = view.text(false);
        assert!(text.contains("mail     7     10.0      0.5       400              0\n"), "{text}");
        assert_eq!(view.json()["services"][0]["to_backend"], 400.0);
    }

    #[test]
    fn who_was_not_heard_or_has_begun_anew_has_no_rate() {
        let start = Instant::now();
        let text = |n: u64| {
            format!(
                "trivet_http_requests_total{{backend=\"node1\",_balancer=\"a\"}} {n}\n\
                     trivet_http_requests_total{{backend=\"node1\",_balancer=\"b\"}} 1000\n"
            )
        };
        let mut before = counts(start, &text(1000));
        let now = counts(start + Duration::from_secs(1), &text(5));
        before.seen = ["b".to_owned()].into();
        let mut view = View::between(&before, &now);
        assert!(view.backends[0].1.all < 1e-9, "a was not heard, and b has counted nothing");
        before.seen.insert("a".into());
        view = View::between(&before, &now);
        assert!(view.backends[0].1.all < 1e-9, "a has begun anew");
        view = View::between(&before, &counts(start + Duration::from_secs(1), &text(1005)));
        assert!((view.backends[0].1.all - 5.0).abs() < 1e-9);
    }
}
