//! From the programs' JSON to the report. What is absent stays absent: nodes of two versions may run side by side.

use std::net::IpAddr;

use serde_json::Value;

use super::model::{Backend, Member, Program};

/// A program's answer, or why there is none.
pub fn program(answer: Result<Value, String>) -> Program {
    match answer {
        Err(error) => Program { error: Some(error), ..Program::default() },
        Ok(status) => Program {
            answers: true,
            error: None,
            version: text(&status, "version"),
            state: text(&status, "state"),
            backends: backends(&status),
        },
    }
}

/// `pools` is an object of lists, one per pool.
fn backends(status: &Value) -> Vec<Backend> {
    let Some(pools) = status.get("pools").and_then(Value::as_object) else { return Vec::new() };
    pools
        .iter()
        .flat_map(|(pool, list)| list.as_array().into_iter().flatten().map(move |b| (pool, b)))
        .filter_map(|(pool, b)| {
            let usable = b.get("usable")?.as_bool()?;
            Some(Backend {
                pool: pool.clone(),
                name: text(b, "name")?,
                usable,
                reason: text(b, "reason").filter(|_| !usable),
            })
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
        majority: health.get("majority").and_then(Value::as_bool).unwrap_or(false),
        lag_seconds: health.get("lag_seconds").and_then(Value::as_f64),
        phase: text(health, "phase").unwrap_or_default(),
        reason: text(health, "reason").unwrap_or_default(),
        version: text(health, "server_version"),
        gtid_executed: text(health, "gtid_executed"),
    }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}
