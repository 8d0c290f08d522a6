//! The report for people: 80 columns, nodes as rows, problems in words.

use std::fmt::Write as _;

use super::model::{NodeReport, Program, Report, Severity, Verdict};
use crate::cluster::Role;
use crate::table::{Cell, Paint, Tone, cell, header, none, plain};

const WIDTH: usize = 80;

/// The report as text.
pub fn render(report: &Report, colours: bool) -> String {
    let paint = Paint { colours };
    let mut out = String::new();
    let left = format!("{}  {}", report.cluster, report.domain);
    let gap = WIDTH.saturating_sub(left.chars().count() + report.time.chars().count()).max(2);
    let _ = writeln!(
        out,
        "{}{}{}",
        paint.on(&left, Tone::Head),
        " ".repeat(gap),
        paint.on(&report.time, Tone::Dim)
    );
    let tone = if report.site_down { Tone::Bad } else { verdict_tone(report.verdict) };
    let _ = writeln!(out, "{}\n", paint.on(&headline(report), tone));

    let mut rows = vec![header(&["VIRTUAL ADDRESS", "HELD BY"])];
    for v in &report.virtual_addresses {
        let tone = if v.holders.len() == 1 { Tone::Good } else { Tone::Bad };
        let holders = if v.holders.is_empty() { "nobody".into() } else { v.holders.join(" and ") };
        rows.push(vec![cell(v.address.to_string(), Tone::Plain), cell(holders, tone)]);
    }
    if rows.len() > 1 {
        paint.grid(&mut out, &rows);
        out.push('\n');
    }

    let mut rows = vec![header(&["NODE", "ADDRESS", "BALANCER", "WEB", "APP", "GATEWAY", "DATABASE", "LAG"])];
    rows.extend(report.nodes.iter().map(programs_row));
    paint.grid(&mut out, &rows);
    out.push('\n');

    let mut rows =
        vec![header(&["NODE", "WEB TIER", "WRITES", "READS", "SITE CERT", "WEB CERT", "DB CERT", "VERSION"])];
    rows.extend(report.nodes.iter().map(|n| backends_row(report, n)));
    paint.grid(&mut out, &rows);

    if !report.problems.is_empty() {
        out.push('\n');
    }
    for p in &report.problems {
        let (word, tone) = match p.severity {
            Severity::Critical => ("critical", Tone::Bad),
            Severity::Degraded => ("degraded", Tone::Warn),
            Severity::Notice => ("notice", Tone::Dim),
        };
        let text = match &p.node {
            Some(node) => format!("{node}: {}", p.what),
            None => p.what.clone(),
        };
        for (i, line) in wrap(&plain(&text), WIDTH - 10).iter().enumerate() {
            let label = if i == 0 { word } else { "" };
            let _ = writeln!(out, "{}  {line}", paint.on(&format!("{label:8}"), tone));
        }
    }
    out
}

fn headline(report: &Report) -> String {
    let count = report.problems.iter().filter(|p| p.severity < Severity::Notice).count();
    let things = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    match report.verdict {
        Verdict::Healthy => "healthy".into(),
        Verdict::Degraded if report.site_down => format!("the site is down: {things}"),
        Verdict::Degraded => format!("degraded: {things}"),
        Verdict::Unknown => format!("unknown: no node answers ({things})"),
    }
}

fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Healthy => Tone::Good,
        Verdict::Degraded => Tone::Warn,
        Verdict::Unknown => Tone::Bad,
    }
}

fn programs_row(node: &NodeReport) -> Vec<Cell> {
    let app = match node
        .programs
        .get("web")
        .and_then(|web| web.backends.iter().find(|b| b.pool == "app" && b.name == "app"))
    {
        Some(app) if app.usable => cell("up", Tone::Good),
        Some(_) => cell("down", Tone::Bad),
        None if node.roles.contains(&Role::App) => cell("?", Tone::Dim),
        None => none(),
    };
    let (database, lag) = database(node);
    vec![
        cell(&node.name, Tone::Head),
        cell(node.address.to_string(), Tone::Plain),
        program(node.programs.get("balancer")),
        program(node.programs.get("web")),
        app,
        program(node.programs.get("gateway")),
        database,
        lag,
    ]
}

fn program(program: Option<&Program>) -> Cell {
    match program {
        None => none(),
        Some(p) if !p.answers => cell("silent", Tone::Bad),
        Some(p) if p.stopping => cell("stopping", Tone::Warn),
        Some(_) => cell("up", Tone::Good),
    }
}

fn database(node: &NodeReport) -> (Cell, Cell) {
    if !node.roles.contains(&Role::Database) {
        return (none(), none());
    }
    let Some(m) = &node.database else { return (cell("silent", Tone::Bad), none()) };
    let state = match (m.state.as_deref(), m.role.as_deref()) {
        (Some("ONLINE"), Some("PRIMARY")) => cell("primary", Tone::Good),
        (Some("ONLINE"), _) => cell("replica", Tone::Good),
        (Some(state), _) => cell(state.to_lowercase(), Tone::Warn),
        (None, _) => cell("down", Tone::Bad),
    };
    let lag = m.lag_seconds.map_or_else(none, |lag| cell(format!("{lag:.1} s"), Tone::Plain));
    (state, lag)
}

fn backends_row(report: &Report, node: &NodeReport) -> Vec<Cell> {
    let days = |name: &str| match node.certificates.get(name) {
        None => none(),
        Some(c) => match c.days_left {
            None => cell("?", Tone::Dim),
            Some(d) if d < 0 => cell("expired", Tone::Bad),
            Some(d) if d < 30 => cell(format!("{d} d"), Tone::Warn),
            Some(d) => cell(format!("{d} d"), Tone::Plain),
        },
    };
    let version =
        node.programs.values().find_map(|p| p.version.clone()).map_or_else(none, |v| cell(v, Tone::Plain));
    vec![
        cell(&node.name, Tone::Head),
        seen(report, node, Role::App, "balancer", "web", true),
        seen(report, node, Role::Database, "gateway", "write", false),
        seen(report, node, Role::Database, "gateway", "read", false),
        days("site"),
        days("web"),
        days("keeper"),
        version,
    ]
}

/// How the node is seen as a back end by all that have it in their `pool`: `up`, `down`, or by how many.
fn seen(report: &Report, node: &NodeReport, role: Role, program: &str, pool: &str, expected: bool) -> Cell {
    if !node.roles.contains(&role) {
        return none();
    }
    let views: Vec<bool> = report
        .nodes
        .iter()
        .filter_map(|n| n.programs.get(program))
        .flat_map(|p| &p.backends)
        .filter(|b| b.pool == pool && b.name == node.name)
        .map(|b| b.usable)
        .collect();
    match (views.iter().filter(|v| **v).count(), views.len()) {
        (_, 0) => cell("?", Tone::Dim),
        (up, all) if up == all => cell("up", Tone::Good),
        (0, _) if expected => cell("down", Tone::Bad),
        // Not being the primary, or not a replica, is no fault.
        (0, _) => none(),
        (up, all) => cell(format!("up {up}/{all}"), Tone::Warn),
    }
}

/// Words on lines of at most `width`.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map_or(0, |l| l.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
