//! What operators order: which back ends and nodes get nothing new, which sites are closed, where the virtual address is to be.
//!
//! A command comes over the control socket ([`server`]). It is written to a file ([`store`]), so that it outlives this process; it
//! is done here; and the other balancers and gateways are told ([`peers`]). These also tell one another all that they know every few
//! seconds, so that one that was away learns of it when it is back.
//!
//! ```text
//! trivet drain node3 → control.sock ─ command ─ orders ─┬→ file
//!                                                       ├→ pools, sites, local check
//!                                                       └→ peers: POST /orders, and back what they know
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use parking_lot::Mutex;
use serde_json::{Value, json};
use trivet_balancer_api::{Command, Done, Explained, Key, Mode, Order, Orders, Question, Summary, Target};
use trivet_base::config::ConfigError;
use trivet_pool::Pool;
use trivet_proxy::server::Connections;
use trivet_proxy::troubles;

use super::config::{Control, MOST_WEIGHT, Program};
use super::local_check;
use super::maintenance::{Closed, Maintenance, now};
use super::tcp::sessions::Sessions;
use peers::Peers;

mod peers;
pub mod server;
mod store;

/// How long the virtual addresses are kept from other nodes than the one that they are to move to. That takes a second or two; and
/// if it cannot have them, they are not to be kept from the others.
const MOVE: Duration = Duration::from_secs(20);

/// What orders are about.
#[derive(Default)]
pub struct Subjects {
    pub pools: Vec<Arc<dyn Administered>>,
    /// By their names.
    pub sites: Vec<(String, Arc<Maintenance>)>,
    /// Nodes that have back ends or may have the addresses.
    pub nodes: Vec<String>,
    /// Where nodes are, as far as the configuration says so.
    pub addresses: Vec<(IpAddr, String)>,
    /// The cluster's, where this process is a balancer.
    pub virtual_addresses: Vec<IpAddr>,
    /// What would become of a request.
    pub explain: Option<Explain>,
    /// Those of clients, where this process is a balancer.
    pub connections: Option<Arc<Connections>>,
    /// What is carried over TCP: by the database gateway, and by services.
    pub sessions: Vec<Arc<Sessions>>,
    /// All metrics, in Prometheus' text.
    pub metrics: Option<Box<dyn Fn() -> String + Send + Sync>>,
}

impl Subjects {
    /// The node that a back end of any pool is on: by its name, or by its address. A loopback address is every node's own.
    fn node_of<'a>(&'a self, name: &'a str, at: Option<IpAddr>) -> Option<&'a str> {
        if self.nodes.iter().any(|node| node == name) {
            return Some(name);
        }
        let at = at.map(|at| at.to_canonical()).filter(|at| !at.is_loopback())?;
        self.addresses.iter().find(|(other, _)| other.to_canonical() == at).map(|(_, node)| node.as_str())
    }
}

/// An error is a question that cannot be asked, in words.
pub type Explain = Box<dyn Fn(&Question) -> Result<Explained, String> + Send + Sync>;

/// Which back ends are meant, by name and address.
pub type Meant<'a> = dyn Fn(&str, Option<IpAddr>) -> bool + 'a;

/// How a back end is to be used, and its weight in place of the configured one, by its name and address.
pub type Ordered<'a> = dyn Fn(&str, Option<IpAddr>) -> (Mode, Option<u32>) + 'a;

/// A pool of whatever kind.
pub trait Administered: Send + Sync {
    fn name(&self) -> &str;
    /// Whether its back ends have the names of nodes: the cluster's own tiers.
    fn is_of_nodes(&self) -> bool;
    fn backends(&self) -> Vec<String>;
    fn has(&self, backend: &str) -> bool;
    /// Calls `each` with the name of each back end, and with its address where it has one.
    fn members(&self, each: &mut dyn FnMut(&str, Option<IpAddr>));
    /// Has each back end that is `meant` used as `order` says; both are asked by its name and address. With its configured weight or another one.
    fn obey(&self, meant: &Meant<'_>, order: &Ordered<'_>);
    /// For people.
    fn status(&self) -> Value;
}

/// A pool, and whether its back ends are those of nodes.
pub struct Whole<T>(pub Arc<Pool<T>>, pub bool);

impl<T: Send + Sync> Administered for Whole<T> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn is_of_nodes(&self) -> bool {
        self.1
    }

    fn backends(&self) -> Vec<String> {
        self.0.backends().iter().map(|b| b.name().to_owned()).collect()
    }

    fn has(&self, backend: &str) -> bool {
        self.0.backends().iter().any(|b| b.name() == backend)
    }

    fn members(&self, each: &mut dyn FnMut(&str, Option<IpAddr>)) {
        for backend in self.0.backends().iter() {
            each(backend.name(), backend.address().ip().map(|at| at.ip()));
        }
    }

    fn obey(&self, meant: &Meant<'_>, order: &Ordered<'_>) {
        for backend in self.0.backends().iter() {
            let at = backend.address().ip().map(|at| at.ip());
            if !meant(backend.name(), at) {
                continue;
            }
            let (mode, weight) = order(backend.name(), at);
            let weight = weight.unwrap_or(backend.configured_weight());
            if !backend.is_taken_out(mode == Mode::Drained, mode == Mode::Disabled) {
                backend.take_out(mode == Mode::Drained, mode == Mode::Disabled);
            }
            if backend.load().weight() != weight {
                backend.set_weight(weight);
            }
        }
    }

    fn status(&self) -> Value {
        self.0.status()
    }
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("there is no {kind} \"{name}\"; {}", hint(.name, .known))]
    Unknown { kind: &'static str, name: String, known: Vec<String> },
    #[error("{0} is drained: make it ready first, `trivet ready {0}`")]
    Drained(String),
    #[error("{0} is over already")]
    Over(String),
    #[error("it is to last for more than a year: leave the end out, and end it by `trivet maintenance off`")]
    Long,
    #[error("a weight is from 0 to {MOST_WEIGHT}, and this is {0}")]
    Weight(u32),
    #[error("cannot remember it, so nothing was done: {}: {error}", .file.display())]
    Store { file: PathBuf, error: io::Error },
}

/// What `trivet top` shows.
const FIGURES: [&str; 8] = [
    "trivet_site_requests_total{",
    "trivet_route_requests_total{",
    "trivet_http_requests_total{",
    "trivet_http_request_seconds_bucket{",
    "trivet_http_requests_in_flight ",
    "trivet_connections ",
    "trivet_backend_up{",
    "trivet_backend_in_flight{",
];
/// Seconds: an end that is further away is a slip of the pen.
const LONGEST_MAINTENANCE: u64 = 366 * 24 * 3600;
/// Connections that are listed.
const MOST_LISTED: usize = 5000;

/// The nearest name, and all that there are.
fn hint(name: &str, known: &[String]) -> String {
    // A long name may have more wrong letters than a short one.
    let near = known.iter().map(|k| (strsim::damerau_levenshtein(name, k), k)).min();
    match near.filter(|(distance, k)| *distance <= 1 + k.len() / 4) {
        Some((_, k)) => format!("did you mean {k}? There {}", list(known)),
        None => format!("there {}", list(known)),
    }
}

fn list(known: &[String]) -> String {
    match known {
        [] => "is none".into(),
        [one] => format!("is {one}"),
        // A screen's worth.
        all if all.len() > 20 => format!("are {}, and {} more", all[..20].join(", "), all.len() - 20),
        all => format!("are {}", all.join(", ")),
    }
}

/// Closes a site, or opens it, as it is ordered.
fn close(orders: &Orders, (name, maintenance): &(String, Arc<Maintenance>)) {
    let closed = match orders.get(&Key::Site(name.clone())) {
        Some(Order::Maintenance { until, allow }) => Some(Closed { until: *until, allow: allow.clone() }),
        _ => None,
    };
    gauge!("trivet_site_maintenance", "site" => name.clone()).set(if closed.is_some() { 1.0 } else { 0.0 });
    maintenance.set(closed);
}

fn tell_of_node(orders: &Orders, node: &str) {
    let drained = if is_drained(orders, node) { 1.0 } else { 0.0 };
    gauge!("trivet_node_drained", "node" => node.to_owned()).set(drained);
}

fn is_drained(orders: &Orders, node: &str) -> bool {
    orders.get(&Key::Node(node.to_owned())).is_some()
}

/// What was ordered, and whoever obeys.
pub struct Admin {
    node: String,
    subjects: Subjects,
    /// Replaced as a whole, so that who reads them copies nothing.
    orders: Mutex<Arc<Orders>>,
    /// Held while they are obeyed, so that what is obeyed last is what was ordered last.
    obeying: Mutex<()>,
    /// One change at a time: what is in the file is what was done last.
    changing: tokio::sync::Mutex<()>,
    file: Option<PathBuf>,
    peers: Peers,
}

impl Admin {
    /// Reads what was ordered before, and has it obeyed.
    pub fn prepare(node: &str, control: &Control, mut subjects: Subjects) -> Result<Arc<Self>, ConfigError> {
        let known = |error: io::Error| {
            ConfigError::at(
                control.state_file.clone().unwrap_or_default(),
                "",
                format_args!("cannot be read: {error}"),
            )
        };
        let orders = control.state_file.as_deref().map(store::load).transpose().map_err(known)?;
        let of_nodes =
            subjects.pools.iter().filter(|pool| pool.is_of_nodes()).flat_map(|pool| pool.backends());
        let peers = control.peers.iter().map(|peer| peer.node.clone());
        let mut nodes: Vec<String> = of_nodes.chain(peers).chain([node.to_owned()]).collect();
        nodes.sort();
        nodes.dedup();
        subjects.nodes = nodes;
        subjects.addresses.extend(control.peers.iter().map(|peer| (peer.address.ip(), peer.node.clone())));
        for pool in subjects.pools.iter().filter(|pool| pool.is_of_nodes()) {
            pool.members(&mut |name, at| {
                subjects.addresses.extend(at.map(|at| (at, name.to_owned())));
            });
        }
        let admin = Arc::new(Self {
            node: node.to_owned(),
            subjects,
            orders: Mutex::new(Arc::new(orders.unwrap_or_default())),
            obeying: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            file: control.state_file.clone(),
            peers: Peers::new(control)?,
        });
        admin.obey();
        Ok(admin)
    }

    /// Takes in what the process before this one wrote last.
    async fn take_in_file(self: &Arc<Self>) {
        if let Some(Ok(orders)) = self.file.as_deref().map(store::load) {
            self.hear(vec![orders]).await;
        }
    }

    /// Carries out a command, and tells the others.
    pub async fn command(self: &Arc<Self>, command: Command) -> Result<Done, CommandError> {
        let (key, turn) = self.order(command)?;
        let node = self.node.clone();
        let changed = self.change(move |orders| {
            // By what holds now: another command may have come before this one.
            let order = turn(orders.get(&key).cloned());
            let words = format!("{key}: {order:?}");
            let changed = orders.set(key, order, &node, now_ms());
            if changed {
                tracing::info!(order = words, "ordered by an operator");
            }
            changed
        });
        let changed = changed.await?;
        // Also when it was so here: somebody else may not know.
        let (told, heard) = self.peers.tell(&self.orders()).await;
        self.hear(heard).await;
        Ok(Done { changed, told })
    }

    /// Takes in what others know.
    async fn hear(self: &Arc<Self>, heard: Vec<Orders>) {
        if heard.is_empty() {
            return;
        }
        let merge =
            |orders: &mut Orders| heard.into_iter().fold(false, |new, other| orders.merge(other) | new);
        if let Err(e) = self.change(merge).await {
            tracing::error!(error = %e, "what was ordered elsewhere is not obeyed here");
        }
    }

    /// Changes the orders, which counts once it is written. In a task of its own: who asked may leave before that.
    async fn change(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Orders) -> bool + Send + 'static,
    ) -> Result<bool, CommandError> {
        let admin = self.clone();
        let changed = tokio::spawn(async move {
            let _changing = admin.changing.lock().await;
            let before = admin.orders();
            let mut orders = Orders::clone(&before);
            let changed = change(&mut orders);
            if changed {
                let orders = Arc::new(orders);
                if let Some(file) = &admin.file {
                    let (written, path) = (orders.clone(), file.clone());
                    let saved = tokio::task::spawn_blocking(move || store::save(&path, &written)).await;
                    saved.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| admin.not_stored(e))?;
                }
                *admin.orders.lock() = orders.clone();
                admin.obey_about(before.differences(&orders));
            }
            Ok(changed)
        });
        changed.await.unwrap_or_else(|e| Err(self.not_stored(io::Error::other(e))))
    }

    fn not_stored(&self, error: io::Error) -> CommandError {
        CommandError::Store { file: self.file.clone().unwrap_or_default(), error }
    }

    fn orders(&self) -> Arc<Orders> {
        self.orders.lock().clone()
    }

    /// What a command orders about what, if there is such a thing.
    fn order(&self, command: Command) -> Result<(Key, Turn), CommandError> {
        let always = |order: Option<Order>| -> Turn { Box::new(|_| order) };
        let mode = |target: Target, mode: Mode| -> Result<(Key, Turn), CommandError> {
            match target {
                Target::Node(name) => {
                    let key = Key::Node(name.clone());
                    if !self.is_ordered(&key) {
                        self.known("node", name, &self.subjects.nodes)?;
                    }
                    Ok((key, always((mode != Mode::Ready).then_some(Order::Drained))))
                }
                Target::Backend { pool, name } => {
                    let turn = move |before| backend_order(mode, of_backend(before).1);
                    Ok((self.backend(pool, name)?, Box::new(turn)))
                }
            }
        };
        match command {
            Command::Drain { target } => mode(target, Mode::Drained),
            Command::Ready { target } => mode(target, Mode::Ready),
            Command::Disable { target: Target::Node(name) } => {
                self.known("pool", name, &self.pools()).and_then(|pool| {
                    let known = self.pool(&pool).map(|p| p.backends()).unwrap_or_default();
                    Err(CommandError::Unknown { kind: "back end", name: format!("{pool}/"), known })
                })
            }
            Command::Disable { target } => mode(target, Mode::Disabled),
            Command::Weight { weight: Some(weight), .. } if weight > MOST_WEIGHT => {
                Err(CommandError::Weight(weight))
            }
            Command::Weight { target: Target::Node(name), .. } => {
                Err(CommandError::Unknown { kind: "back end", name, known: self.all_backends() })
            }
            Command::Weight { target: Target::Backend { pool, name }, weight } => {
                let turn = move |before| backend_order(of_backend(before).0, weight);
                Ok((self.backend(pool, name)?, Box::new(turn)))
            }
            Command::Maintenance { until: Some(until), .. } if until <= now() => {
                Err(CommandError::Over("the time until which it is to last".into()))
            }
            Command::Maintenance { until: Some(until), .. }
                if until > now().saturating_add(LONGEST_MAINTENANCE) =>
            {
                Err(CommandError::Long)
            }
            Command::Maintenance { site, until, allow } => {
                Ok((Key::Site(self.site(site)?), always(Some(Order::Maintenance { until, allow }))))
            }
            Command::MaintenanceOff { site } => Ok((Key::Site(self.site(site)?), always(None))),
            Command::Failover { node } => {
                let node = self.known("balancer", node, &self.balancers())?;
                if self.orders.lock().get(&Key::Node(node.clone())).is_some() {
                    return Err(CommandError::Drained(node));
                }
                Ok((Key::Addresses, always(Some(Order::At { node, until: now() + MOVE.as_secs() }))))
            }
        }
    }

    fn known(&self, kind: &'static str, name: String, known: &[String]) -> Result<String, CommandError> {
        match known.contains(&name) {
            true => Ok(name),
            false => Err(CommandError::Unknown { kind, name, known: known.to_vec() }),
        }
    }

    fn pools(&self) -> Vec<String> {
        self.subjects.pools.iter().map(|pool| pool.name().to_owned()).collect()
    }

    fn pool(&self, name: &str) -> Option<&Arc<dyn Administered>> {
        self.subjects.pools.iter().find(|pool| pool.name() == name)
    }

    fn all_backends(&self) -> Vec<String> {
        let of = |pool: &Arc<dyn Administered>| {
            let names = pool.backends().into_iter();
            names.map(|name| format!("{}/{name}", pool.name())).collect::<Vec<_>>()
        };
        self.subjects.pools.iter().flat_map(of).collect()
    }

    /// Whether something is ordered about it. It can be taken back also when the configuration has it no more.
    fn is_ordered(&self, about: &Key) -> bool {
        self.orders.lock().get(about).is_some()
    }

    fn backend(&self, pool: String, name: String) -> Result<Key, CommandError> {
        let key = Key::Backend { pool: pool.clone(), name: name.clone() };
        if self.is_ordered(&key) {
            return Ok(key);
        }
        let Some(of) = self.pool(&pool) else {
            return Err(CommandError::Unknown { kind: "pool", name: pool, known: self.pools() });
        };
        if !of.has(&name) {
            return Err(CommandError::Unknown { kind: "back end", name, known: of.backends() });
        }
        Ok(key)
    }

    fn site(&self, name: String) -> Result<String, CommandError> {
        if self.is_ordered(&Key::Site(name.clone())) {
            return Ok(name);
        }
        let sites: Vec<String> = self.subjects.sites.iter().map(|(name, _)| name.clone()).collect();
        self.known("site", name, &sites)
    }

    /// Nodes that may have the addresses.
    fn balancers(&self) -> Vec<String> {
        let mut all = self.peers.nodes(Program::Balancer);
        if !self.subjects.sites.is_empty() {
            all.push(self.node.clone());
        }
        all.sort();
        all
    }

    /// Has pools and sites be as it is ordered. A second time it changes nothing.
    pub(super) fn obey(&self) {
        let _obeying = self.obeying.lock();
        let orders = self.orders();
        self.subjects.pools.iter().for_each(|pool| self.obey_in(&orders, &**pool, &|_, _| true));
        self.subjects.sites.iter().for_each(|site| close(&orders, site));
        self.subjects.nodes.iter().for_each(|node| tell_of_node(&orders, node));
        self.end_connections();
    }

    /// Connections to the virtual addresses end in order where those are to be on another node.
    fn end_connections(&self) {
        let drained = !self.wants_addresses();
        if self.subjects.connections.as_ref().is_some_and(|c| c.drain(drained)) && drained {
            tracing::info!(
                "the virtual addresses are to be on another node: connections to them end in order"
            );
        }
    }

    /// Has what `keys` are about be as it is ordered: mostly one back end of hundreds.
    fn obey_about<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let _obeying = self.obeying.lock();
        let orders = self.orders();
        let Subjects { pools, sites, nodes, .. } = &self.subjects;
        for key in keys {
            match key {
                Key::Backend { pool, name } => {
                    let own = pools.iter().filter(|p| p.name() == pool);
                    own.for_each(|p| self.obey_in(&orders, &**p, &|backend, _| backend == name));
                }
                Key::Node(name) => {
                    let is_there =
                        |backend: &str, at| self.subjects.node_of(backend, at) == Some(name.as_str());
                    pools.iter().for_each(|p| self.obey_in(&orders, &**p, &is_there));
                    nodes.iter().filter(|node| *node == name).for_each(|node| tell_of_node(&orders, node));
                    self.end_connections();
                }
                Key::Site(name) => {
                    sites.iter().filter(|(site, _)| site == name).for_each(|site| close(&orders, site));
                }
                // Otherwise asked for where it matters.
                Key::Addresses => self.end_connections(),
            }
        }
    }

    /// Has those back ends of a pool that are meant be as it is ordered.
    fn obey_in(&self, orders: &Orders, pool: &dyn Administered, meant: &Meant<'_>) {
        pool.obey(meant, &|name, at| {
            let key = Key::Backend { pool: pool.name().to_owned(), name: name.to_owned() };
            match orders.get(&key) {
                Some(Order::Backend { mode, weight }) if *mode != Mode::Ready => (*mode, *weight),
                order => {
                    let weight = match order {
                        Some(Order::Backend { weight, .. }) => *weight,
                        _ => None,
                    };
                    let node = self.subjects.node_of(name, at);
                    let is_drained = node.is_some_and(|node| is_drained(orders, node));
                    (if is_drained { Mode::Drained } else { Mode::Ready }, weight)
                }
            }
        });
    }

    /// Takes back what is over, and forgets what was taken back long ago.
    async fn tidy(self: &Arc<Self>) {
        let is_over = |order: &Order| match order {
            Order::Maintenance { until, .. } => until.is_some_and(|until| until <= now()),
            Order::At { until, .. } => *until <= now(),
            Order::Drained | Order::Backend { .. } => false,
        };
        let take_back = move |orders: &mut Orders| {
            orders.tidy(now_ms());
            let ended = orders.end(is_over);
            for key in &ended {
                tracing::info!(order = %key, "is over");
            }
            !ended.is_empty()
        };
        if let Err(e) = self.change(take_back).await {
            tracing::error!(error = %e, "what is over cannot be taken back");
        }
        // A pool may have got another back end.
        self.obey();
    }

    /// Whether this node may have the virtual addresses where another one can: it is not drained, and they are not to be elsewhere.
    pub fn wants_addresses(&self) -> bool {
        let orders = self.orders.lock();
        let elsewhere = match orders.get(&Key::Addresses) {
            Some(Order::At { node, until }) => *node != self.node && *until > now(),
            _ => false,
        };
        !elsewhere && orders.get(&Key::Node(self.node.clone())).is_none()
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        let orders = self.orders();
        let one = |(key, entry): (&Key, &trivet_balancer_api::Entry)| {
            let said = time::OffsetDateTime::from_unix_timestamp(i64::try_from(entry.at / 1000).unwrap_or(0));
            let said = said.ok().and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok());
            json!({"about": key, "order": entry.order, "by": entry.by, "since": said})
        };
        orders.iter().map(one).collect()
    }

    /// The connections of clients, the oldest first, and how many there are.
    fn connections(&self) -> Value {
        let all = self.subjects.connections.as_ref().map(|c| c.list()).unwrap_or_default();
        json!({"open": all.len(), "connections": all.iter().take(MOST_LISTED).collect::<Vec<_>>()})
    }

    /// For people.
    fn name(&self) -> String {
        format!("{} of {}", if self.subjects.sites.is_empty() { "gateway" } else { "balancer" }, self.node)
    }

    /// The connections that are carried over TCP, the oldest of each service first, and how many there are.
    fn sessions(&self) -> Value {
        let all: Vec<_> = self.subjects.sessions.iter().flat_map(|sessions| sessions.list()).collect();
        json!({"open": all.len(), "sessions": all.iter().take(MOST_LISTED).collect::<Vec<_>>()})
    }

    /// The metrics that tell what is going on, in Prometheus' text; nothing of what has counted nothing yet.
    fn figures(&self) -> String {
        let all = self.subjects.metrics.as_ref().map(|metrics| metrics()).unwrap_or_default();
        // Of a histogram the empty buckets say where the others begin.
        let counts = |line: &str| !line.ends_with(" 0") || line.contains("_bucket{");
        let wanted = |line: &&str| FIGURES.iter().any(|name| line.starts_with(name)) && counts(line);
        all.lines().filter(wanted).fold(String::new(), |text, line| text + line + "\n")
    }

    /// What would become of a request.
    fn explain(&self, question: &Question) -> Result<Explained, String> {
        let explain = self.subjects.explain.as_ref().ok_or("this is no balancer of sites: ask one")?;
        explain(question)
    }

    /// What this process has, `stopping` or not.
    fn summary(&self, stopping: bool) -> Summary {
        let is_balancer = !self.subjects.sites.is_empty();
        let all: Vec<(String, Value)> =
            self.subjects.pools.iter().map(|p| (p.name().to_owned(), p.status())).collect();
        let backends = || {
            all.iter().flat_map(|(pool, list)| list.as_array().into_iter().flatten().map(move |b| (pool, b)))
        };
        // As the local check has it: where there are web tiers, they count alone.
        let has_nodes = all.iter().any(|(pool, _)| pool == local_check::NODES);
        let has_backends =
            backends().any(|(pool, b)| b["usable"] == true && (!has_nodes || pool == local_check::NODES));
        let in_flight = backends().filter_map(|(pool, b)| {
            Some((format!("{pool}/{}", b["name"].as_str()?), b["in_flight"].as_u64()?))
        });
        let mut nodes = BTreeMap::new();
        for pool in &self.subjects.pools {
            pool.members(&mut |name, at| {
                if let Some(node) = self.subjects.node_of(name, at) {
                    nodes.insert(format!("{}/{name}", pool.name()), node.to_owned());
                }
            });
        }
        let addresses = &self.subjects.virtual_addresses;
        let is_drained = self.orders.lock().get(&Key::Node(self.node.clone())).is_some();
        Summary {
            name: self.name(),
            node: self.node.clone(),
            is_balancer,
            error: None,
            held: super::status::here(addresses),
            virtual_addresses: addresses.clone(),
            is_fit: !stopping && !is_drained && has_backends,
            in_flight: in_flight.collect(),
            nodes,
        }
    }

    /// Its pools with their back ends.
    fn list(&self) -> Value {
        let pools = self.subjects.pools.iter().map(|p| json!({"name": p.name(), "backends": p.status()}));
        json!({"node": self.node, "pools": pools.collect::<Vec<_>>(), "orders": self.status()})
    }
}

/// What is ordered, by what was before.
type Turn = Box<dyn FnOnce(Option<Order>) -> Option<Order> + Send>;

/// How a back end is used, and its weight.
fn of_backend(order: Option<Order>) -> (Mode, Option<u32>) {
    match order {
        Some(Order::Backend { mode, weight }) => (mode, weight),
        _ => (Mode::Ready, None),
    }
}

/// An order that says nothing is none.
fn backend_order(mode: Mode, weight: Option<u32>) -> Option<Order> {
    (mode != Mode::Ready || weight.is_some()).then_some(Order::Backend { mode, weight })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a socket's path can be had; by who takes over, from the process that listens at `predecessor`.
pub fn socket_is_free(path: &Path, predecessor: Option<&Path>) -> Result<(), ConfigError> {
    trivet_base::process::unix_socket::is_free(path, predecessor)
        .map_err(|why| ConfigError::at("", "control.socket", format_args!("{}: {why}", path.display())))
}

#[cfg(test)]
mod tests;
