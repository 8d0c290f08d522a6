//! From the programs' JSON to the report. What is absent stays absent: nodes of two versions may run side by side.

use std::net::IpAddr;

use serde_json::Value;

use crate::control;

use super::model::{Backend, Member, Program, SiteCertificate};

/// The answer of the program called `name`, or why there is none.
pub fn program(name: &str, answer: Result<Value, String>) -> Program {
    match answer {
        Err(error) => Program { error: Some(error), ..Program::default() },
        Ok(status) => Program {
            answers: true,
            error: None,
            version: text(&status, "version"),
            stopping: status.get("stopping").and_then(Value::as_bool).unwrap_or(false),
            backends: pools(name)
                .iter()
                .flat_map(|(pool, place)| backends(pool, status.pointer(place)))
                .chain(further_pools(&status))
                .collect(),
            certificates: certificates(&status),
            orders: status["orders"].as_array().into_iter().flatten().map(control::order).collect(),
            warnings: if name == "keeper" { Vec::new() } else { warnings(&status) },
        },
    }
}

/// The pools of a program, and where they stand in its answer (RFC 6901).
fn pools(program: &str) -> &'static [(&'static str, &'static str)] {
    match program {
        "balancer" => &[("web", "/backends")],
        "web" => &[("app", "/backends")],
        "gateway" => &[("write", "/database/write"), ("read", "/database/read")],
        _ => &[],
    }
}

/// A balancer's pools beside `web`: `"pools": {"shop": [{"name": …, "usable": true}]}`, and those of services, whose names begin with
/// `tcp:`: `"tcp": {"mail": {"pools": {"tcp:mail": […]}}}`.
fn further_pools(status: &Value) -> impl Iterator<Item = Backend> {
    let services = status.get("tcp").and_then(Value::as_object).into_iter().flatten();
    let all = std::iter::once(status).chain(services.map(|(_, service)| service));
    let pools = all.filter_map(|of| of.get("pools").and_then(Value::as_object));
    pools.flatten().flat_map(|(pool, list)| backends(pool, Some(list)))
}

/// `"certificates": [{"file": …, "names": […], "days_left": 800}]`
fn certificates(status: &Value) -> Vec<SiteCertificate> {
    let list = status.get("certificates").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|c| {
            let names =
                c.get("names")?.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            Some(SiteCertificate { file: text(c, "file")?, names, days_left: c.get("days_left")?.as_i64()? })
        })
        .collect()
}

fn backends(pool: &str, list: Option<&Value>) -> Vec<Backend> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|b| {
        let usable = b.get("usable")?.as_bool()?;
        let reason = text(b, "reason").filter(|_| !usable);
        let is = |key: &str| b.get(key).and_then(Value::as_bool).unwrap_or(false);
        let taken_out = is("drained") || is("disabled");
        Some(Backend { pool: pool.to_owned(), name: text(b, "name")?, usable, taken_out, reason })
    })
    .collect()
}

/// The virtual addresses that a balancer says it holds: `"virtual_addresses": [{"address": …, "held": true}]`.
pub fn held(status: &Value) -> Vec<IpAddr> {
    let list = status.get("virtual_addresses").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|v| v.get("held").and_then(Value::as_bool) == Some(true))
        .filter_map(|v| v.get("address")?.as_str()?.parse().ok())
        .collect()
}

/// A keeper's `/health`.
pub fn member(health: &Value) -> Member {
    Member {
        state: text(health, "member_state"),
        role: text(health, "role"),
        primary: text(health, "primary"),
        view_id: text(health, "view_id"),
        majority: health.get("majority").and_then(Value::as_bool).unwrap_or(false),
        forks: health.pointer("/record/forks").and_then(Value::as_array).map(Vec::len),
        lag_seconds: health.get("lag_seconds").and_then(Value::as_f64),
        phase: text(health, "phase").unwrap_or_default(),
        reason: text(health, "reason").unwrap_or_default(),
        version: text(health, "server_version"),
        gtid_executed: text(health, "gtid_executed"),
        warnings: warnings(health),
        leaving: health.get("leaving").and_then(Value::as_bool).unwrap_or(false),
    }
}

/// Absent from older programs.
fn warnings(status: &Value) -> Vec<String> {
    let all = status.get("warnings").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}
