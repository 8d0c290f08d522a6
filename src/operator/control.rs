//! Commands for balancers and gateways: `trivet list`, `drain`, `ready`, `disable`, `weight`, `maintenance`.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | it is done here; who could not be told is named, and learns of it when it is heard again |
//! | 1 | nothing was changed; the reason is told |
//! | 64 | wrong usage |

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::{Value, json};

use super::socket::{CommandError, Program, command};
use super::status::colours;
use super::table::{Paint, Tone, cell, header, none};
use trivet_balancer_api::{BALANCER_SOCKET, Command, Done, GATEWAY_SOCKET, Summary, Target};
use trivet_base::process::Failure;

/// A command is done at once; peers that do not answer are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what a node still has.
const LOOK: Duration = Duration::from_millis(500);

/// Where commands go.
#[derive(Debug, Clone, Default)]
pub struct Socket(pub Option<PathBuf>);

impl Socket {
    /// The one that was named, or the first that is there: the balancer's, the gateway's. What is about a pool of the gateway's
    /// goes to the gateway.
    pub(crate) fn path(&self, command: Option<&Command>) -> PathBuf {
        if let Some(path) = &self.0 {
            return path.clone();
        }
        let (balancer, gateway) = (PathBuf::from(BALANCER_SOCKET), PathBuf::from(GATEWAY_SOCKET));
        let is_gateways = matches!(command, Some(
            Command::Drain { target: Target::Backend { pool, .. } }
            | Command::Ready { target: Target::Backend { pool, .. } }
            | Command::Disable { target: Target::Backend { pool, .. } }
            | Command::Weight { target: Target::Backend { pool, .. }, .. }
        ) if pool.starts_with("database-"));
        if is_gateways || (!balancer.exists() && gateway.exists()) { gateway } else { balancer }
    }
}

/// Gives a command, and returns what came of it.
pub async fn give(socket: &Socket, given: &Command) -> Result<Done, CommandError> {
    command(Program::Balancer, &socket.path(Some(given)), Method::POST, "/command", given, PATIENCE).await
}

/// Gives a command and tells what came of it, `what` in words.
pub async fn run(socket: &Socket, given: &Command, what: &str, as_json: bool) -> Result<(), Failure> {
    match give(socket, given).await {
        Ok(done) if as_json => println!("{}", serde_json::to_string(&done).map_err(Failure::run)?),
        Ok(done) => print!("{}", words(&done, what)),
        Err(e) => {
            if as_json {
                println!("{}", json!({ "error": e.to_string() }));
            }
            return Err(Failure::run(e));
        }
    }
    Ok(())
}

fn words(done: &Done, what: &str) -> String {
    let mut out = format!("{what}{}\n", if done.changed { "" } else { ", as before" });
    let told: Vec<_> = done.told.iter().filter(|t| t.error.is_none()).map(|t| t.name.as_str()).collect();
    if !told.is_empty() {
        out.push_str(&format!("told: {}\n", told.join(", ")));
    }
    for t in &done.told {
        if let Some(error) = &t.error {
            out.push_str(&format!(
                "not told: {} ({error}); it learns of it when it is heard again\n",
                t.name
            ));
        }
    }
    out
}

/// What every balancer and gateway has.
pub async fn summaries(socket: &Socket) -> Result<Vec<Summary>, CommandError> {
    command(Program::Balancer, &socket.path(None), Method::GET, "/summaries", &json!(null), PATIENCE).await
}

/// Waits until a node, or a back end, has nothing in hand any more, whoever gave it.
pub async fn wait_until_idle(socket: &Socket, target: &Target, longest: Duration) -> Result<(), Failure> {
    let is_its = |of: &Summary, key: &str| match target {
        // One of before says nothing of nodes.
        Target::Node(node) => match of.nodes.get(key) {
            Some(on) => on == node,
            None => ["web", "database-read"].iter().any(|pool| key == format!("{pool}/{node}")),
        },
        Target::Backend { .. } => key == target.to_string(),
    };
    let deadline = tokio::time::Instant::now() + longest;
    loop {
        let all = summaries(socket).await.map_err(Failure::run)?;
        let counts = all.iter().flat_map(|s| s.in_flight.iter().map(move |(key, n)| (s, key, *n)));
        let left: Vec<String> = counts
            .filter(|(s, key, n)| *n > 0 && is_its(s, key))
            .map(|(s, key, n)| format!("{n} of {key} at {}", s.name))
            .collect();
        // One that says nothing may have given it something.
        let silent: Vec<&str> = all.iter().filter(|s| s.error.is_some()).map(|s| s.name.as_str()).collect();
        if left.is_empty() && silent.is_empty() {
            println!("it has nothing in hand any more");
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let after = humantime::format_duration(longest);
            return Err(Failure::run(if left.is_empty() {
                format!("after {after} nothing is heard of {}; it stays drained", silent.join(", "))
            } else {
                format!("it still has in hand after {after}: {}; it stays drained", left.join(", "))
            }));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `trivet list`: pools with their back ends, and what was ordered.
pub async fn list(socket: &Socket, as_json: bool) -> Result<(), Failure> {
    let path = socket.path(None);
    let mut listed = vec![ask_list(&path).await.map_err(Failure::run)?];
    // A node may have both.
    let gateway = Path::new(GATEWAY_SOCKET);
    if socket.0.is_none() && path != gateway && gateway.exists() {
        listed.push(ask_list(gateway).await.map_err(Failure::run)?);
    }
    let pools: Vec<Value> =
        listed.iter().flat_map(|l| l["pools"].as_array().into_iter().flatten()).cloned().collect();
    let document = json!({"node": listed[0]["node"], "pools": pools, "orders": listed[0]["orders"]});
    if as_json {
        println!("{}", serde_json::to_string_pretty(&document).map_err(Failure::run)?);
    } else {
        print!("{}", table(&document, colours()));
    }
    Ok(())
}

async fn ask_list(path: &Path) -> Result<Value, CommandError> {
    command(Program::Balancer, path, Method::GET, "/list", &json!(null), PATIENCE).await
}

/// `trivet connections`: who is connected to this node's balancer, by clients.
pub async fn connections(socket: &Socket, all: bool, as_json: bool) -> Result<(), Failure> {
    let told: Value =
        command(Program::Balancer, &socket.path(None), Method::GET, "/connections", &json!(null), PATIENCE)
            .await
            .map_err(Failure::run)?;
    if as_json {
        println!("{told}");
        return Ok(());
    }
    let list: Vec<&Value> = told["connections"].as_array().into_iter().flatten().collect();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let age = |c: &Value| Duration::from_secs(c["seconds"].as_f64().map_or(0, |s| s as u64));
    let mut rows;
    if all {
        rows = vec![header(&["CLIENT", "PROTOCOL", "TLS", "NAME ASKED FOR", "OPEN FOR"])];
        rows.extend(list.iter().map(|c| {
            let cells =
                ["client", "protocol", "tls", "server_name"].map(|key| cell(text(&c[key]), Tone::Plain));
            let age = cell(humantime::format_duration(age(c)).to_string(), Tone::Plain);
            cells.into_iter().chain([age]).collect::<Vec<_>>()
        }));
    } else {
        let mut clients: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
        for c in &list {
            let (count, oldest) = clients.entry(text(&c["client"])).or_default();
            *count += 1;
            *oldest = age(c).max(*oldest);
        }
        let mut clients: Vec<_> = clients.into_iter().collect();
        clients.sort_by_key(|(_, (count, _))| Reverse(*count));
        rows = vec![header(&["CLIENT", "CONNECTIONS", "OLDEST OPEN FOR"])];
        rows.extend(clients.into_iter().map(|(client, (count, oldest))| {
            let oldest = humantime::format_duration(oldest).to_string();
            vec![cell(client, Tone::Head), cell(count.to_string(), Tone::Plain), cell(oldest, Tone::Plain)]
        }));
    }
    let mut out = String::new();
    Paint { colours: colours() }.grid(&mut out, &rows);
    println!("{out}{} open", told["open"]);
    Ok(())
}

/// `trivet sessions`: what this node's database gateway and its balancer carry over TCP, the oldest first.
pub async fn sessions(socket: &Socket, as_json: bool) -> Result<(), Failure> {
    let (balancer, gateway) = (PathBuf::from(BALANCER_SOCKET), PathBuf::from(GATEWAY_SOCKET));
    let paths = match &socket.0 {
        Some(path) => vec![path.clone()],
        None => [gateway.clone(), balancer].into_iter().filter(|path| path.exists()).collect(),
    };
    let mut all: Vec<Value> = Vec::new();
    // Without any it is told where one was looked for.
    for path in if paths.is_empty() { vec![gateway] } else { paths } {
        let told: Value = command(Program::Balancer, &path, Method::GET, "/sessions", &json!(null), PATIENCE)
            .await
            .map_err(Failure::run)?;
        all.extend(told["sessions"].as_array().into_iter().flatten().cloned());
    }
    if as_json {
        println!("{}", Value::Array(all));
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut rows = vec![header(&["SERVICE", "CLIENT", "BACK END", "OPEN FOR"])];
    rows.extend(all.iter().map(|one| {
        let age = Duration::from_secs(one["seconds"].as_f64().map_or(0, |s| s as u64));
        vec![
            cell(text(&one["service"]), Tone::Plain),
            cell(text(&one["client"]), Tone::Head),
            cell(text(&one["backend"]), Tone::Plain),
            cell(humantime::format_duration(age).to_string(), Tone::Plain),
        ]
    }));
    let mut out = String::new();
    Paint { colours: colours() }.grid(&mut out, &rows);
    println!("{out}{} open", all.len());
    Ok(())
}

/// `trivet errors`: the last requests that came to nothing at this node's balancer, the latest first.
pub async fn errors(socket: &Socket, as_json: bool) -> Result<(), Failure> {
    let told: Value =
        command(Program::Balancer, &socket.path(None), Method::GET, "/errors", &json!(null), PATIENCE)
            .await
            .map_err(Failure::run)?;
    if as_json {
        println!("{told}");
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut rows = vec![header(&["WHEN", "STATUS", "CLIENT", "REQUEST", "BACK END", "WHY"])];
    for one in told.as_array().into_iter().flatten() {
        let status = match (one["status"].as_u64(), one["aborted"] == true) {
            (Some(0) | None, _) => "none".to_owned(),
            (Some(status), true) => format!("{status} cut"),
            (Some(status), false) => status.to_string(),
        };
        let request = format!("{} {}{}", text(&one["method"]), text(&one["host"]), text(&one["path"]));
        rows.push(vec![
            cell(text(&one["at"]), Tone::Dim),
            cell(status, Tone::Bad),
            cell(text(&one["client"]), Tone::Plain),
            cell(request, Tone::Plain),
            cell(text(&one["backend"]), Tone::Plain),
            cell(text(&one["reason"]), Tone::Plain),
        ]);
    }
    let mut out = String::new();
    Paint { colours: colours() }.grid(&mut out, &rows);
    print!("{out}");
    Ok(())
}

fn table(document: &Value, colours: bool) -> String {
    let paint = Paint { colours };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows = vec![header(&["POOL", "BACK END", "ADDRESS", "STATE", "WEIGHT", "IN FLIGHT", "WHY"])];
    for pool in document["pools"].as_array().into_iter().flatten() {
        for backend in pool["backends"].as_array().into_iter().flatten() {
            let (state, tone) = state(backend);
            let why = if tone == Tone::Good { none() } else { cell(text(&backend["reason"]), Tone::Plain) };
            rows.push(vec![
                cell(text(&pool["name"]), Tone::Plain),
                cell(text(&backend["name"]), Tone::Head),
                cell(text(&backend["address"]), Tone::Plain),
                cell(state, tone),
                cell(backend["weight"].to_string(), Tone::Plain),
                cell(backend["in_flight"].to_string(), Tone::Plain),
                why,
            ]);
        }
    }
    let mut out = String::new();
    paint.grid(&mut out, &rows);
    let orders: Vec<String> = document["orders"].as_array().into_iter().flatten().map(order).collect();
    if !orders.is_empty() {
        out.push('\n');
    }
    for order in orders {
        out.push_str(&order);
        out.push('\n');
    }
    out
}

fn state(backend: &Value) -> (&'static str, Tone) {
    let is = |key: &str| backend[key] == true;
    if is("disabled") {
        ("disabled", Tone::Warn)
    } else if is("drained") {
        ("drained", Tone::Warn)
    } else if backend["health"] != "up" {
        (if backend["health"] == "down" { "down" } else { "unknown" }, Tone::Bad)
    } else if is("outlier") {
        ("outlier", Tone::Bad)
    } else if is("ejected") {
        ("ejected", Tone::Bad)
    } else if backend["weight"] == 0 {
        ("no weight", Tone::Warn)
    } else {
        ("up", Tone::Good)
    }
}

/// An order as a program tells it, in words.
pub fn order(told: &Value) -> String {
    let about = told["about"].as_str().unwrap_or_default();
    let (kind, name) = about.split_once('/').unwrap_or((about, ""));
    let what = match kind {
        "node" => format!("{name} is drained"),
        "backend" => {
            let order = &told["order"]["backend"];
            let mut parts = Vec::new();
            if let Some(mode) = order["mode"].as_str().filter(|m| *m != "ready") {
                parts.push(mode.to_owned());
            }
            if let Some(weight) = order["weight"].as_u64() {
                parts.push(format!("at weight {weight}"));
            }
            format!("{name} is {}", parts.join(" and "))
        }
        "site" => {
            let order = &told["order"]["maintenance"];
            let until = order["until"].as_u64().filter(|t| *t <= LAST_SECOND);
            let until = until.map(|t| UNIX_EPOCH + Duration::from_secs(t)).map_or_else(
                || "until it is opened".into(),
                |t| format!("until {}", humantime::format_rfc3339_seconds(t)),
            );
            let allowed = order["allow"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let allowed = allowed.collect::<Vec<_>>().join(", ");
            let but = if allowed.is_empty() { String::new() } else { format!(", but for {allowed}") };
            format!("the site {name} is in maintenance {until}{but}")
        }
        "addresses" => {
            format!(
                "the virtual addresses are to be at {}",
                told["order"]["at"]["node"].as_str().unwrap_or("?")
            )
        }
        _ => about.to_owned(),
    };
    let by = told["by"].as_str().unwrap_or("?");
    format!("{what} (ordered on {by} at {})", told["since"].as_str().unwrap_or("?"))
}

/// Of the year 9999, the last that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// `2h`, or a time as in RFC 3339, to seconds of Unix time.
pub fn until(text: &str) -> Result<u64, String> {
    let moment = match humantime::parse_duration(text) {
        Ok(from_now) => SystemTime::now().checked_add(from_now),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    let seconds = moment.and_then(|m| m.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_secs());
    seconds.ok_or_else(|| format!("\"{text}\" is no time: write 30m, 2h, or \"2026-11-28 22:00:00\" (UTC)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_told_in_words() {
        for (told, words) in [
            (
                json!({"about": "node/node3", "order": "drained", "by": "node1", "since": "T"}),
                "node3 is drained",
            ),
            (
                json!({"about": "backend/shop/shop1", "order": {"backend": {"mode": "disabled", "weight": 5}}, "by": "node1"}),
                "shop/shop1 is disabled and at weight 5",
            ),
            (
                json!({"about": "site/main", "order": {"maintenance": {"until": 0, "allow": ["192.0.2.0/24"]}}}),
                "the site main is in maintenance until 1970-01-01T00:00:00Z, but for 192.0.2.0/24",
            ),
            (
                json!({"about": "site/main", "order": {"maintenance": {"until": u64::MAX, "allow": []}}}),
                "the site main is in maintenance until it is opened",
            ),
            (
                json!({"about": "addresses", "order": {"at": {"node": "node2", "until": 5}}}),
                "the virtual addresses are to be at node2",
            ),
        ] {
            assert!(order(&told).starts_with(words), "{}", order(&told));
        }
    }

    #[test]
    fn a_time_is_from_now_on_or_a_moment() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(until("2h").unwrap() >= now + 7199);
        assert_eq!(until("2030-01-01 00:00:00"), Ok(1_893_456_000));
        assert_eq!(until("2030-01-01T00:00:00Z"), Ok(1_893_456_000));
        for text in ["", "tomorrow", "25:00", "-5m"] {
            assert!(until(text).unwrap_err().contains("write 30m"), "{text}");
        }
    }

    #[test]
    fn what_came_of_a_command_names_who_was_not_told() {
        let told = |name: &str, error: Option<&str>| trivet_balancer_api::Told {
            name: name.into(),
            error: error.map(str::to_owned),
        };
        let done = Done {
            changed: false,
            told: vec![told("balancer of node2", None), told("gateway of node3", Some("no answer"))],
        };
        assert_eq!(
            words(&done, "node3 is drained"),
            "node3 is drained, as before\ntold: balancer of node2\nnot told: gateway of node3 (no answer); it learns of it when it is heard again\n"
        );
    }
}
