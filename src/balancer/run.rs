//! From a checked configuration to a running process and its end.
//!
//! The process runs on a plain tokio runtime, not on Pingora's `Server`: that one sleeps its whole grace period at every
//! stop, cannot tell systemd when it is ready, and hands listeners over as raw descriptors. Pingora's are the streams, the
//! TLS under them, and the connections to back ends that speak HTTP/2.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinSet;

use super::config::{Config, Https, Web};
use super::gateway::Gateway;
use super::local_check;
use super::proxy::{self, Balancer};
use super::status::Status;
use crate::config::ConfigError;
use crate::http::admission::{Admission, Rules};
use crate::http::engine::Engine;
use crate::http::engine::upstream::{self, HttpPool};
use crate::http::server::{self, Connections, Endpoint, Limits};
use crate::http::steps::{self, Policy, Position};
use crate::process::{self, Failure, Heartbeats, Shutdown};
use crate::telemetry::{self, MetricsServer};
use crate::tls::site::{PublicServer, SiteCertificates};

/// How often connections to back ends that are unused are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// Runs until a stop was asked for and everything in flight is done.
pub fn run(config: Config) -> Result<(), Failure> {
    telemetry::init_log(&config.log);
    // Before the first certificate is read, whose end is a metric.
    let metrics = telemetry::init_metrics("balancer")?;
    // Every file is read before anything is bound.
    let http = match (&config.https, &config.web) {
        (Some(https), Some(web)) => Some(Http::prepare(https, web)?),
        _ => None,
    };
    let gateway = config.database.as_ref().map(Gateway::prepare).transpose()?;
    process::block_on(serve(config, metrics, http, gateway))
}

/// The HTTP half, with its files read.
struct Http {
    pool: Arc<HttpPool>,
    public: PublicServer,
}

impl Http {
    fn prepare(https: &Https, web: &Web) -> Result<Self, ConfigError> {
        let public =
            SiteCertificates::load_beside(&https.certificates(), web.tls.as_ref().map(|t| t.ca.clone()))?
                .server_config(&https.tls)?;
        Ok(Self { pool: proxy::pool(web)?, public })
    }
}

async fn serve(
    config: Config,
    metrics: PrometheusHandle,
    http: Option<Http>,
    gateway: Option<Arc<Gateway>>,
) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signals()?;
    let connections = Arc::new(Connections::default());
    let status = Status {
        node: config.node.clone(),
        shutdown: shutdown.clone(),
        virtual_addresses: config.virtual_addresses.clone(),
        http: http.as_ref().map(|h| (h.pool.clone(), connections.clone(), h.public.certificates.clone())),
        gateway: gateway.clone(),
    };
    let metrics_server = MetricsServer::bind(&config.metrics()).await?;
    // What answers while the process drains, and ends with it.
    let (_running, until_the_end) = Shutdown::channel();
    tokio::spawn(metrics_server.serve(metrics, Arc::new(move || status.json()), until_the_end));

    let heartbeats = Heartbeats::default();
    // Servers of clients: the process ends when they have.
    let mut servers = JoinSet::new();
    if let Some(gateway) = gateway {
        let listeners = gateway.clone().bind().await?;
        gateway.first_round().await;
        gateway.run_checks(&heartbeats);
        servers.spawn(gateway.serve(listeners, shutdown.clone(), config.shutdown_timeout));
    }
    if let (Some(http), Some(https), Some(web)) = (http, &config.https, &config.web) {
        let local_check = match &config.local_check {
            Some(check) => Some(local_check::Listener::bind(check).await?),
            None => None,
        };
        let limits = limits(&config, https);
        // Checked before the first client: nobody is told 503 only because we have not asked yet.
        http.pool.first_round(web.health.timing()).await;
        http.pool.run_checks(web.health.timing(), &heartbeats);
        for name in config.server_names().iter().filter(|n| !http.public.certificates.covers(n)) {
            tracing::warn!(%name, "no certificate carries this name of the site: clients will refuse the first one");
        }
        tokio::spawn(http.public.clone().follow_files(https.tls.reload_interval));

        let mut endpoints = Vec::new();
        for address in &https.listen {
            let endpoint = Endpoint::bind("https.listen", *address, Some(http.public.config.clone())).await?;
            endpoints.push(endpoint.behind(https.proxy_protocol.clone()).verified_by(http.public.verifier()));
        }
        let https_port = endpoints.first().map_or(443, |e| e.address().port());
        let redirect = config.http.as_ref().is_none_or(|h| h.redirect).then_some(https_port);
        for (plain, address) in config.http.iter().flat_map(|h| h.listen.iter().map(move |a| (h, a))) {
            let endpoint = Endpoint::bind("http.listen", *address, None).await?;
            endpoints.push(endpoint.behind(plain.proxy_protocol.clone()));
        }
        let admission = Admission::new(&Rules {
            connections: https.max_connections_per_address,
            requests: https.request_rate,
            exempt: https.trusted_proxies.clone(),
        });
        tokio::spawn(upstream::sweep(http.pool.clone(), SWEEP));
        let balancer = Balancer::new(http.pool.clone(), web.retries, redirect);
        let policy = policy(&config, https);
        let engine = Engine::new(balancer, policy, limits, admission.clone(), shutdown.clone());
        if let Some(check) = local_check {
            tokio::spawn(check.serve(config.node.clone(), http.pool.clone(), shutdown.clone()));
        }
        servers.spawn(server::serve(
            endpoints,
            engine,
            limits,
            admission,
            shutdown.clone(),
            config.shutdown_timeout,
            connections,
        ));
    }
    process::notify_ready_while(heartbeats);
    tracing::info!(node = %config.node, "serving");
    while let Some(ended) = servers.join_next().await {
        ended.map_err(|e| Failure::run(format_args!("a server broke down: {e}")))?;
    }
    tracing::info!("stopped");
    Ok(())
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
        max_header_fields: https.max_header_fields,
        request_timeout: https.request_timeout,
        stream_timeout: https.stream_timeout,
    }
}

fn policy(config: &Config, https: &Https) -> Policy {
    Policy {
        position: Position::Edge,
        trusted: https.trusted_proxies.clone(),
        server_names: Some(config.server_names().into_iter().collect::<HashSet<_>>()),
        max_header_size: usize::try_from(https.max_header_size.as_u64()).unwrap_or(usize::MAX),
        max_target_length: usize::try_from(https.max_target_length.as_u64()).unwrap_or(usize::MAX),
        max_body_size: https.max_body_size.as_u64(),
        hsts: steps::hsts(https.hsts_max_age, https.hsts_include_subdomains, https.hsts_preload),
        client_certificates: https.tls.client_auth.is_some(),
    }
}
