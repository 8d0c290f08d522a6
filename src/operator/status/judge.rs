//! From answers to a verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::model::{NodeReport, Problem, Program, Report, Severity, Verdict, VirtualAddress};
use crate::cluster::{Cluster, Role};

/// A certificate that has less than this is renewed in time by whoever is told now.
const CERTIFICATE_DAYS: i64 = 30;
/// A replica further behind than this serves pages that are visibly old.
const LAG_SECONDS: f64 = 10.0;

const UNREACHABLE: &str = "the site cannot be reached";

/// Puts the report together.
pub fn report(cluster: &Cluster, nodes: Vec<NodeReport>) -> Report {
    let holders = |address: &IpAddr| {
        nodes.iter().filter(|n| n.held.contains(address)).map(|n| n.name.clone()).collect()
    };
    let virtual_addresses: Vec<VirtualAddress> = cluster
        .virtual_addresses
        .iter()
        .map(|address| VirtualAddress { address: *address, holders: holders(address) })
        .collect();
    let mut judge = Judge { nodes: &nodes, problems: Vec::new() };
    let answered = nodes.iter().any(|n| n.programs.values().any(|p| p.answers));
    judge.virtual_addresses(&virtual_addresses);
    judge.programs();
    judge.backends();
    judge.further_pools();
    let site_down = judge.site();
    judge.warnings();
    judge.database(cluster);
    judge.certificates();
    judge.certificates_of_sites(&cluster.domain);
    judge.orders();
    judge.versions();
    let mut problems = judge.problems;
    // Stable: within a severity, the order of the judgements stays.
    problems.sort_by_key(|p| p.severity);
    let verdict = if !answered {
        Verdict::Unknown
    } else if problems.iter().any(|p| p.severity < Severity::Notice) {
        Verdict::Degraded
    } else {
        Verdict::Healthy
    };
    Report {
        cluster: cluster.name.clone(),
        domain: cluster.domain.clone(),
        time: OffsetDateTime::now_utc()
            .replace_nanosecond(0)
            .ok()
            .and_then(|t| t.format(&Rfc3339).ok())
            .unwrap_or_default(),
        verdict,
        site_down,
        problems,
        virtual_addresses,
        nodes,
    }
}

struct Judge<'a> {
    nodes: &'a [NodeReport],
    problems: Vec<Problem>,
}

impl Judge<'_> {
    fn say(&mut self, severity: Severity, node: Option<&str>, what: impl Into<String>) {
        self.problems.push(Problem { severity, node: node.map(str::to_owned), what: what.into() });
    }

    fn virtual_addresses(&mut self, addresses: &[VirtualAddress]) {
        let silent: Vec<&str> = self
            .nodes
            .iter()
            .filter(|n| n.programs.get("balancer").is_some_and(|p| !p.answers))
            .map(|n| n.name.as_str())
            .collect();
        for VirtualAddress { address, holders } in addresses {
            match holders.as_slice() {
                [_] => {}
                [] if silent.is_empty() => {
                    self.say(Severity::Critical, None, format!("no balancer holds {address}: {UNREACHABLE}"));
                }
                [] => {
                    let silent = silent.join(", ");
                    self.say(
                        Severity::Critical,
                        None,
                        format!("no balancer that answers holds {address}; silent: {silent}"),
                    );
                }
                many => {
                    let many = many.join(" and ");
                    self.say(Severity::Critical, None, format!("{many} hold {address} at the same time"));
                }
            }
        }
    }

    fn programs(&mut self) {
        for node in self.nodes {
            let (answering, silent): (Vec<_>, Vec<_>) = needed(node).partition(|(_, p)| p.answers);
            if let (true, Some((_, first))) = (answering.is_empty(), silent.first()) {
                let why = first.error.clone().unwrap_or_default();
                self.say(Severity::Degraded, Some(&node.name), format!("nothing answers ({why})"));
                continue;
            }
            for (name, program) in silent {
                let why = program.error.clone().unwrap_or_default();
                self.say(Severity::Degraded, Some(&node.name), format!("{name} does not answer ({why})"));
            }
            for (name, program) in &node.programs {
                if program.stopping {
                    self.say(Severity::Notice, Some(&node.name), format!("{name} is stopping"));
                }
            }
        }
    }

    /// What is so because somebody wanted it, once for all who know it.
    fn orders(&mut self) {
        let all: BTreeSet<_> =
            self.nodes.iter().flat_map(|n| n.programs.values()).flat_map(|p| &p.orders).cloned().collect();
        for order in all {
            self.say(Severity::Notice, None, order);
        }
    }

    fn backends(&mut self) {
        // Who cannot use which web tier, and why.
        let mut web: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        let mut said = Vec::new();
        for node in self.nodes {
            for (program, pool) in
                [("balancer", "web"), ("web", "app"), ("gateway", "write"), ("gateway", "read")]
            {
                let Some(answer) = node.programs.get(program).filter(|p| p.answers) else { continue };
                let backends: Vec<_> = answer.backends.iter().filter(|b| b.pool == pool).collect();
                let down: Vec<_> = backends.iter().filter(|b| !b.usable).collect();
                match pool {
                    "web" => {
                        for b in down.iter().filter(|b| !b.taken_out) {
                            web.entry(&b.name)
                                .or_default()
                                .push((&node.name, b.reason.as_deref().unwrap_or("")));
                        }
                    }
                    "app" => {
                        // The others of this pool are the peers' apps, which their own nodes tell about.
                        for b in down.iter().filter(|b| b.name == "app") {
                            let why = b.reason.as_deref().unwrap_or("");
                            said.push((Severity::Degraded, &node.name, format!("the app is down ({why})")));
                        }
                    }
                    // One member is the primary; that the others are not is no problem.
                    _ if !backends.is_empty() && down.len() == backends.len() => {
                        let what = if pool == "write" {
                            "no primary to write to"
                        } else {
                            "no replica to read from"
                        };
                        said.push((Severity::Critical, &node.name, format!("the gateway knows {what}")));
                    }
                    _ => {}
                }
            }
        }
        for (severity, node, what) in said {
            self.say(severity, Some(node), what);
        }
        for (backend, observers) in web {
            let why = observers.first().map_or("", |(_, why)| why);
            let names: Vec<&str> = observers.iter().map(|(node, _)| *node).collect();
            let what = format!("its web tier is out of use for the balancer of {} ({why})", names.join(", "));
            self.say(Severity::Degraded, Some(backend), what);
        }
    }

    /// The balancers' pools beside `web`, whose back ends may be anywhere.
    fn further_pools(&mut self) {
        // By pool and back end: whom it is out of use for, and why. How many balancers use some of the pool.
        let mut down: BTreeMap<(&str, &str), Vec<(&str, &str)>> = BTreeMap::new();
        let mut used: BTreeMap<&str, usize> = BTreeMap::new();
        for node in self.nodes {
            let Some(balancer) = node.programs.get("balancer").filter(|p| p.answers) else { continue };
            for b in balancer.backends.iter().filter(|b| b.pool != "web") {
                *used.entry(&b.pool).or_default() += usize::from(b.usable);
                if !b.usable && !b.taken_out {
                    let seen = (node.name.as_str(), b.reason.as_deref().unwrap_or(""));
                    down.entry((&b.pool, &b.name)).or_default().push(seen);
                }
            }
        }
        for (pool, _) in used.into_iter().filter(|(_, usable)| *usable == 0) {
            let becomes = if pool.starts_with("tcp:") {
                "connections are closed"
            } else {
                "what it serves is answered 503"
            };
            let what = format!("no back end of the pool {pool} is up: {becomes}");
            self.say(Severity::Critical, None, what);
        }
        for ((pool, backend), observers) in down {
            let why = observers.first().map_or("", |(_, why)| why);
            let names: Vec<&str> = observers.iter().map(|(node, _)| *node).collect();
            let names = names.join(", ");
            let what =
                format!("{backend} of the pool {pool} is out of use for the balancer of {names} ({why})");
            self.say(Severity::Degraded, None, what);
        }
    }

    /// Whether no visitor is served, and why: an address that nobody holds, no web tier for any balancer, no app for any web tier.
    fn site(&mut self) -> bool {
        let nowhere = |program: &str, pool: &str| {
            let answering = self.nodes.iter().filter_map(|n| n.programs.get(program)).filter(|p| p.answers);
            let mut backends = answering.flat_map(|p| &p.backends).filter(|b| b.pool == pool).peekable();
            backends.peek().is_some() && backends.all(|b| !b.usable)
        };
        let (web, app) = (nowhere("balancer", "web"), nowhere("web", "app"));
        if web {
            self.say(Severity::Critical, None, "no web tier is up: the site is down, visitors get 503");
        } else if app {
            self.say(
                Severity::Critical,
                None,
                "no app is up on any node: the site is down, but for the files that the web tiers serve themselves",
            );
        }
        web || app || self.problems.iter().any(|p| p.what.ends_with(UNREACHABLE))
    }

    fn warnings(&mut self) {
        for node in self.nodes {
            let own = node.warnings.iter().cloned();
            let programs = node
                .programs
                .iter()
                .flat_map(|(name, p)| p.warnings.iter().map(move |w| format!("{name}: {w}")));
            for warning in own.chain(programs) {
                self.say(Severity::Degraded, Some(&node.name), warning);
            }
        }
    }

    fn database(&mut self, cluster: &Cluster) {
        let members: Vec<_> =
            self.nodes.iter().filter_map(|n| Some((n.name.as_str(), n.database.as_ref()?))).collect();
        if members.is_empty() {
            if cluster.with(Role::Database).next().is_some() {
                self.say(Severity::Critical, None, "no keeper answers: the state of the database is unknown");
            }
            return;
        }
        let primaries: Vec<&str> = members
            .iter()
            .filter(|(_, m)| {
                m.role.as_deref() == Some("PRIMARY") && m.state.as_deref() == Some("ONLINE") && m.majority
            })
            .map(|(name, _)| *name)
            .collect();
        match primaries.as_slice() {
            [_] => {}
            [] => self.say(Severity::Critical, None, "the database has no primary: nothing can be written"),
            many => self.say(
                Severity::Critical,
                None,
                format!("{} both say they are the primary", many.join(" and ")),
            ),
        }
        for (name, m) in &members {
            match m.state.as_deref() {
                Some("ONLINE") if m.majority => {}
                Some("ONLINE") => {
                    let what = format!("its database member has no majority in reach: {}", m.reason);
                    self.say(Severity::Degraded, Some(name), what);
                }
                state => {
                    let state = state.unwrap_or("not answering");
                    let what = format!("its database member is {state}: {} ({})", m.phase, m.reason);
                    self.say(Severity::Degraded, Some(name), what);
                }
            }
            if m.leaving {
                self.say(Severity::Notice, Some(name), "its mysqld is about to stop");
            }
            for warning in &m.warnings {
                self.say(Severity::Degraded, Some(name), format!("its database member: {warning}"));
            }
            if let Some(lag) = m.lag_seconds.filter(|lag| *lag > LAG_SECONDS) {
                self.say(Severity::Degraded, Some(name), format!("its database member is {lag:.0} s behind"));
            }
        }
    }

    fn certificates(&mut self) {
        for node in self.nodes {
            for (name, certificate) in &node.certificates {
                match (certificate.days_left, &certificate.error) {
                    (Some(days), _) if days < 0 => {
                        let what = format!("the {name} certificate has expired {} days ago", -days);
                        self.say(Severity::Critical, Some(&node.name), what);
                    }
                    (Some(days), _) if days < CERTIFICATE_DAYS => {
                        self.say(
                            Severity::Degraded,
                            Some(&node.name),
                            format!("the {name} certificate expires in {days} days"),
                        );
                    }
                    (None, Some(e)) if self.server_answers(node, name) => {
                        let what = format!("the {name} certificate cannot be seen ({e})");
                        self.say(Severity::Degraded, Some(&node.name), what);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Those of other sites than that of `domain`, whose certificate is the one that was shown.
    fn certificates_of_sites(&mut self, domain: &str) {
        let wildcard = domain.split_once('.').map(|(_, rest)| format!("*.{rest}")).unwrap_or_default();
        for node in self.nodes {
            let Some(balancer) = node.programs.get("balancer") else { continue };
            for one in balancer
                .certificates
                .iter()
                .filter(|c| !c.names.iter().any(|n| n == domain || *n == wildcard))
            {
                let file = one.file.rsplit('/').next().unwrap_or_default();
                let what = format!("the certificate {file} ({})", one.names.join(", "));
                let (severity, what) = match one.days_left {
                    days if days < 0 => {
                        (Severity::Critical, format!("{what} has expired {} days ago", -days))
                    }
                    days if days < CERTIFICATE_DAYS => {
                        (Severity::Degraded, format!("{what} expires in {days} days"))
                    }
                    _ => continue,
                };
                self.say(severity, Some(&node.name), what);
            }
        }
    }

    /// A server that is down is told about once, not once more for its certificate.
    fn server_answers(&self, node: &NodeReport, certificate: &str) -> bool {
        let program = if certificate == "site" { "balancer" } else { certificate };
        node.programs.get(program).is_some_and(|p| p.answers)
    }

    fn versions(&mut self) {
        let versions: BTreeSet<&str> = self
            .nodes
            .iter()
            .flat_map(|n| n.programs.values())
            .filter_map(|p| p.version.as_deref())
            .collect();
        if versions.len() > 1 {
            let list = versions.into_iter().collect::<Vec<_>>().join(", ");
            self.say(Severity::Notice, None, format!("programs of several versions are running: {list}"));
        }
    }
}

/// The programs that must answer. An app of one's own need not have a status page; the web tier knows whether it works.
fn needed(node: &NodeReport) -> impl Iterator<Item = (&'static str, &Program)> {
    node.programs.iter().filter(|(name, _)| **name != "app").map(|(name, program)| (*name, program))
}
