//! From a checked configuration to a running process and its end: the balancer's services, and which of them wait for which.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::admin::{self, Admin, Administered, Subjects, Whole};
use super::config::{Config, Control, Https};
use super::explain::explain;
use super::gateway::Gateway;
use super::local_check::{LocalCheck, NODES};
use super::proxy::{self, Balancer, Served, Sites};
use super::status::{self, HttpStatus, Status};
use super::tcp::accept::{self, Times};
use super::tcp::listeners::Passed;
use super::tcp::{ByName, Service};
use futures_util::future::join_all;
use http::HeaderValue;
use trivet_base::config::ConfigError;
use trivet_base::process::server::{Server, ServiceHandle};
use trivet_base::process::workers::Workers;
use trivet_base::process::{Failure, descriptors, handover};
use trivet_base::telemetry::{self, MetricsServer, PrometheusHandle};
use trivet_http::forwarded::TRIVET_BALANCER;
use trivet_http::steps::{self, Policy, Position};
use trivet_pool::names::Named;
use trivet_proxy::admission::{Admission, Rules};
use trivet_proxy::check::Tell;
use trivet_proxy::server::{self as listeners, Connections, Endpoint, Limits, Serving};
use trivet_proxy::upstream::{self, HttpPool, Upstream};
use trivet_proxy::{Engine, Terms};
use trivet_tls::site::{PublicServer, SiteCertificates};

/// How often connections to back ends that are unused are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// Runs until a stop was asked for, or another process has taken over, and everything in flight is done. `takes_over` from the
/// process that runs already.
pub fn run(config: Config, takes_over: bool) -> Result<(), Failure> {
    telemetry::init_log(&config.log);
    descriptors::tell(config.descriptors());
    // Before the first certificate is read, whose end is a metric.
    let metrics = telemetry::init_metrics("balancer")?;
    // Every file is read before anything is bound.
    let http = config.https.as_ref().map(|https| Http::prepare(&config, https)).transpose()?;
    let gateway = config.database.as_ref().map(Gateway::prepare).transpose()?;
    let addresses = config.addresses();
    let service = |(name, tcp): (&String, _)| Service::new(name, tcp, addresses.as_deref());
    let (services, names): (Vec<_>, Vec<_>) = config.tcp.iter().map(service).unzip();

    let parts = (http.as_ref(), gateway.as_deref(), &services[..]);
    let admin = config.control.as_ref().map(|c| admin(&config, c, parts, metrics.clone(), takes_over));
    let connections = http.as_ref().map(|h| h.connections.clone()).unwrap_or_default();
    let admin = admin.transpose()?;

    let mut server = Server::succeeding(config.handover(), takes_over)?;
    let (workers, working) = Workers::add(&mut server, config.threads());
    let succession = server.succession();
    if let Some(succession) = &succession {
        let (http, gateway, services) = (connections.clone(), gateway.clone(), services.clone());
        succession.count_by(move || {
            let tcp: usize = services.iter().map(|s| s.open()).sum();
            http.open() + gateway.as_ref().map_or(0, |g| g.open()) + tcp
        });
    }
    let status = Status {
        node: config.node.clone(),
        succession,
        shutdown: server.shutdown(),
        virtual_addresses: config.virtual_addresses.clone(),
        http: http.as_ref().map(|h| HttpStatus {
            pools: h.pools.clone(),
            connections: connections.clone(),
            certificates: h.public.certificates.clone(),
        }),
        gateway: gateway.clone(),
        admin: admin.clone(),
        services: services.clone(),
        workers: workers.clone(),
    };
    MetricsServer::add(&mut server, &config.metrics(), metrics, Arc::new(move || status.json()));
    if gateway.is_some() || !services.is_empty() {
        let mut passed = Passed::take()?;
        if let Some(gateway) = gateway {
            add_gateway(&mut server, gateway, &mut passed, &config, workers.clone(), &working);
        }
        for (service, mut names) in services.into_iter().zip(names) {
            names.iter_mut().for_each(|(name, _)| obey_when_added(name, admin.as_ref()));
            add_service(&mut server, (service, names), &mut passed, &config, workers.clone(), &working);
        }
        passed.tell_of_rest();
    }
    if let (Some(http), Some(https)) = (http, &config.https) {
        http.add(&mut server, &config, https, workers, admin.clone(), &working);
    }
    if let (Some(admin), Some(control)) = (admin, &config.control) {
        add_control(&mut server, admin, &config, control)?;
    }
    server.run(&config.node)
}

/// What was ordered before is obeyed from the first request on.
fn admin(
    config: &Config,
    control: &Control,
    (http, gateway, services): (Option<&Http>, Option<&Gateway>, &[Arc<Service>]),
    metrics: PrometheusHandle,
    takes_over: bool,
) -> Result<Arc<Admin>, Failure> {
    let mut subjects = Subjects { metrics: Some(Box::new(move || metrics.render())), ..Subjects::default() };
    for pool in http.iter().flat_map(|http| &http.pools) {
        let is_of_nodes = pool.name() == NODES;
        subjects.pools.push(Arc::new(Whole(pool.clone(), is_of_nodes)) as Arc<dyn Administered>);
    }
    // Where writes go is for the group alone to say.
    subjects.pools.extend(gateway.map(Gateway::readers));
    subjects.pools.extend(services.iter().flat_map(|service| service.administered()));
    subjects.sessions = services.iter().map(|s| s.sessions()).chain(gateway.map(Gateway::sessions)).collect();
    subjects.virtual_addresses.clone_from(&config.virtual_addresses);
    subjects.connections = http.map(|http| http.connections.clone());
    let redirects = config.http.as_ref().is_none_or(|h| h.redirect);
    subjects.explain = http.map(|http| {
        let sites = http.sites.clone();
        Box::new(move |question: &_| explain(&sites, redirects, question)) as admin::Explain
    });
    subjects.sites = http.map(|http| http.sites.maintenance()).unwrap_or_default();
    let directory = config.runtime_directory.as_deref();
    if let Some(path) = control.socket(directory) {
        let predecessor = directory.filter(|_| takes_over).map(|d| d.join(handover::SOCKET));
        admin::socket_is_free(&path, predecessor.as_deref())?;
    }
    Ok(Admin::prepare(&config.node, control, subjects)?)
}

/// The control socket, and what others tell.
fn add_control(
    server: &mut Server,
    admin: Arc<Admin>,
    config: &Config,
    control: &Control,
) -> Result<(), Failure> {
    let Some(path) = control.socket(config.runtime_directory.as_deref()) else { return Ok(()) };
    let (begun, shutdown) = (server.begun(), server.shutdown());
    let operators = admin.clone();
    server.service("control", &[], move |start| async move {
        let failed = |e: std::io::Error| {
            ConfigError::at("", "control.socket", format_args!("{}: {e}", path.display()))
        };
        let socket = Admin::bind(&path).map_err(failed)?;
        start.ready();
        let mut ended = shutdown.clone();
        tokio::select! { () = begun.cancelled() => {}, () = ended.wait() => return Ok(()) }
        // By now this process serves, and nobody else does.
        if let Err(error) = operators.serve_operators(socket, shutdown).await.map_err(failed) {
            tracing::error!(%error, "nobody can command this process");
        }
        Ok(())
    });
    if let (Some(address), Some(files)) = (control.listen, &control.tls) {
        let tls = trivet_tls::mutual_server_config(files, &[b"http/1.1"])?;
        let socket = server.listen("control.listen", address);
        let (shutdown, turn, peers) = (server.shutdown(), server.turn(), admin.clone());
        server.service("control of peers", &[], move |start| async move {
            let (listener, entry) = socket.take_for_tokio()?;
            start.ready();
            turn.await;
            peers.serve_peers(listener, tls, shutdown).await;
            drop(entry);
            Ok(())
        });
    }
    // A round waits for peers that do not answer.
    let beat = server.heartbeats().expect("orders", 4 * admin::server::ROUND);
    server.background("orders", admin.keep_up(beat, server.shutdown()));
    Ok(())
}

/// The database gateway: nobody is served before every keeper has been asked once.
fn add_gateway(
    server: &mut Server,
    gateway: Arc<Gateway>,
    passed: &mut Passed,
    config: &Config,
    workers: Arc<Workers>,
    working: &[ServiceHandle],
) {
    let (checked, heartbeats) = (gateway.clone(), server.heartbeats());
    let checks = server.service("keeper checks", &[], move |_| async move {
        checked.first_round().await;
        checked.run_checks(&heartbeats);
        Ok(())
    });
    let wanted = gateway.listen(server, passed);
    let (shutdown, times) = (server.shutdown(), times(config));
    server.serves_clients("gateway", &[working, &[checks][..]].concat(), move |start| async move {
        let listeners = wanted.iter().map(|w| w.take()).collect::<Result<_, _>>()?;
        start.ready();
        let watching = tokio::spawn(gateway.clone().watch_claims());
        accept::serve(gateway, listeners, workers, shutdown, times).await;
        watching.abort();
        Ok(())
    });
}

/// A service of `[tcp.NAME]`: nobody is served before every back end has been checked once.
fn add_service(
    server: &mut Server,
    (service, mut names): (Arc<Service>, Vec<ByName>),
    passed: &mut Passed,
    config: &Config,
    workers: Arc<Workers>,
    working: &[ServiceHandle],
) {
    let (checked, heartbeats) = (service.clone(), server.heartbeats());
    let checks = server.service(&format!("tcp {} checks", service.name()), &[], move |_| async move {
        // One without an address yet stops nobody's start.
        join_all(names.iter_mut().map(|(name, _)| name.ask())).await;
        checked.first_round().await;
        checked.run_checks(&heartbeats);
        for (name, within) in names {
            tokio::spawn(name.follow(within, heartbeats.clone()));
        }
        Ok(())
    });
    let wanted = service.listen(server, passed);
    let (shutdown, times) = (server.shutdown(), times(config));
    let name = format!("tcp {}", service.name());
    server.serves_clients(&name, &[working, &[checks][..]].concat(), move |start| async move {
        let listeners = wanted.iter().map(|w| w.take()).collect::<Result<_, _>>()?;
        start.ready();
        accept::serve(service, listeners, workers, shutdown, times).await;
        Ok(())
    });
}

/// An order for an address that is new, or back, counts from its first request on.
fn obey_when_added<T: Send + Sync + 'static>(name: &mut Named<T>, admin: Option<&Arc<Admin>>) {
    if let Some(admin) = admin.cloned() {
        name.when_added(Arc::new(move || admin.obey()));
    }
}

fn times(config: &Config) -> Times {
    let Config { drain_delay, shutdown_timeout, drain_timeout, .. } = *config;
    Times { delay: drain_delay, shutdown: shutdown_timeout, drain: drain_timeout }
}

/// The HTTP half, with its files read.
struct Http {
    /// The one of `[web]` first.
    pools: Vec<Arc<HttpPool>>,
    /// Whose addresses are asked for, each with the time that may take.
    by_name: Vec<(Named<Upstream>, Duration)>,
    sites: Arc<Sites>,
    public: PublicServer,
    connections: Arc<Connections>,
}

impl Http {
    fn prepare(config: &Config, https: &Https) -> Result<Self, ConfigError> {
        let certificates = SiteCertificates::load_beside(&config.certificates(), config.authority())?;
        config.each_site_has_a_certificate(&certificates)?;
        let public = certificates.server_config(&https.tls)?;
        // More is let in where a route takes more.
        let terms = Terms { max_body_size: Some(https.max_body_size.as_u64()), ..Terms::default() };
        let tell = config.local_check.as_ref().and_then(|_| tell(config));
        let mut served = HashMap::new();
        let (mut pools, mut by_name) = (Vec::new(), Vec::new());
        let addresses = config.addresses();
        for (name, _, web) in config.all_pools() {
            // The nodes' web tiers hear who holds the address, and tell the others.
            let tell = tell.as_ref().filter(|_| name == "web");
            let (pool, named) = proxy::pool(name, web, tell, addresses.as_deref())?;
            by_name.extend(named.into_iter().map(|n| (n, web.resolve_timeout)));
            let sticky = web.sticky.as_ref().map(|s| s.read(name, config.ticket_secret())).transpose()?;
            let hash = web.hash.clone();
            served.insert(
                name.to_owned(),
                Served { pool: pool.clone(), retries: web.retries, hash, sticky, terms },
            );
            pools.push(pool);
        }
        let sites = Arc::new(Sites::new(config, &served)?);
        let connections = Arc::new(Connections::drainable(config.virtual_addresses.clone()));
        Ok(Self { pools, by_name, sites, public, connections })
    }

    fn add(
        self,
        server: &mut Server,
        config: &Config,
        https: &Https,
        workers: Arc<Workers>,
        admin: Option<Arc<Admin>>,
        working: &[ServiceHandle],
    ) {
        let Self { pools, mut by_name, sites, public, connections } = self;
        let names =
            config.all_sites().into_iter().flat_map(|site| site.names.into_iter().chain(site.aliases));
        for name in names.filter(|n| !public.certificates.covers(n)) {
            tracing::warn!(%name, "no certificate carries this name of the site: clients will refuse the first one");
        }
        // Checked before the first client: nobody is told 503 only because we have not asked yet.
        let timings = config.all_pools().map(|(_, _, web)| web.health.timing());
        let checked: Vec<_> = pools.iter().cloned().zip(timings).collect();
        let heartbeats = server.heartbeats();
        by_name.iter_mut().for_each(|(name, _)| obey_when_added(name, admin.as_ref()));
        let checks = server.service("checks", &[], move |_| async move {
            // One without an address yet stops nobody's start.
            join_all(by_name.iter_mut().map(|(name, _)| name.ask())).await;
            join_all(checked.iter().map(|(pool, timing)| pool.first_round(*timing))).await;
            for (pool, timing) in &checked {
                pool.run_checks(*timing, &heartbeats);
            }
            for (name, within) in by_name {
                tokio::spawn(name.follow(within, heartbeats.clone()));
            }
            Ok(())
        });
        server.background("certificates", public.clone().follow_files(https.tls.reload_interval));
        for pool in &pools {
            server.background("sweep", upstream::sweep(pool.clone(), SWEEP));
        }

        let encrypted: Vec<_> = https.listen.iter().map(|a| server.listen("https.listen", *a)).collect();
        let plain = config.http.clone();
        let plain: Vec<_> = (plain.iter().flat_map(|h| h.listen.iter().map(move |a| (h, a))))
            .map(|(h, a)| (server.listen("http.listen", *a), h.proxy_protocol.clone()))
            .collect();
        let redirects = config.http.as_ref().is_none_or(|h| h.redirect);
        let redirect_port = config.http.as_ref().and_then(|h| h.redirect_port);
        let trust = https.proxy_protocol.clone();
        let (limits, policy) = (limits(config, https), policy(config, https));
        let admission = Admission::new(&Rules {
            connections: https.max_connections_per_address,
            requests: https.request_rate,
            exempt: https.trusted_proxies.clone(),
        });
        let shutdown = server.shutdown();
        let serving =
            server.serves_clients("http", &[working, &[checks][..]].concat(), move |start| async move {
                let mut endpoints = Vec::new();
                for socket in &encrypted {
                    let endpoint = Endpoint::new(socket, Some(public.config.clone()))?;
                    endpoints.push(endpoint.behind(trust.clone()).verified_by(public.verifier()));
                }
                let listened_on = endpoints.first().map_or(443, |e| e.address().port());
                let redirect = redirects.then_some(redirect_port.unwrap_or(listened_on));
                for (socket, trust) in plain {
                    endpoints.push(Endpoint::new(&socket, None)?.behind(trust));
                }
                let balancer = Balancer::new(sites, redirect);
                let engine = Engine::new(balancer, policy, limits, admission.clone(), shutdown.clone());
                let serving = Serving { engine, limits, admission, workers, connections };
                listeners::serve(endpoints, serving, || start.ready(), shutdown).await
            });
        if let Some(check) = &config.local_check {
            let socket = server.listen("local_check.listen", check.listen);
            let (node, shutdown) = (config.node.clone(), server.shutdown());
            let addresses = config.virtual_addresses.clone();
            // It says that clients are answered, so it says nothing before they are.
            server.service("local check", &[serving], move |start| async move {
                let (listener, entry) = socket.take_for_tokio()?;
                start.ready();
                LocalCheck(listener).serve(node, addresses, pools, admin, shutdown).await;
                drop(entry);
                Ok(())
            });
        }
    }
}

/// What checks tell the nodes' web tiers: who asks, and whether this node holds the address.
fn tell(config: &Config) -> Option<Tell> {
    let addresses = Some(config.virtual_addresses.clone()).filter(|a| !a.is_empty())?;
    let value = |text: String| HeaderValue::try_from(text).ok();
    let (stands_by, holding) = (value(config.node.clone())?, value(format!("{}; holds", config.node))?);
    let now = move || if status::holds(&addresses) { holding.clone() } else { stands_by.clone() };
    Some((TRIVET_BALANCER, Arc::new(now)))
}

fn limits(config: &Config, https: &Https) -> Limits {
    Limits {
        handshake_timeout: https.handshake_timeout,
        header_timeout: https.header_timeout,
        idle_timeout: https.client_idle_timeout,
        client_timeout: https.client_timeout,
        tunnel_timeout: https.tunnel_timeout,
        min_rate: https.min_rate.as_u64(),
        max_connections: https.max_connections,
        max_streams: https.max_streams,
        http2_frames: https.http2_frames,
        max_header_size: usize::try_from(https.max_header_size.as_u64()).unwrap_or(usize::MAX),
        drain_delay: config.drain_delay,
        shutdown_timeout: config.shutdown_timeout,
        drain_timeout: config.drain_timeout,
        max_header_fields: https.max_header_fields,
        request_timeout: https.request_timeout,
        stream_timeout: https.stream_timeout,
    }
}

fn policy(config: &Config, https: &Https) -> Policy {
    Policy {
        position: Position::Edge,
        trusted: https.trusted_proxies.clone(),
        server_names: config.default_site.is_none().then(|| {
            let sites = config.all_sites().into_iter();
            sites.flat_map(|site| site.names.into_iter().chain(site.aliases)).collect()
        }),
        max_header_size: usize::try_from(https.max_header_size.as_u64()).unwrap_or(usize::MAX),
        max_target_length: usize::try_from(https.max_target_length.as_u64()).unwrap_or(usize::MAX),
        max_body_size: config.largest_body(https),
        hsts: steps::hsts(https.hsts_max_age, https.hsts_include_subdomains, https.hsts_preload),
        client_certificates: https.tls.client_auth.is_some(),
    }
}
