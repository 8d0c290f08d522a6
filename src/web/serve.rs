//! Starting the web tier and stopping it.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::config::Config;
use super::proxy::Web;
use super::site::Site;
use super::upstreams::Upstreams;
use trivet_base::config::ConfigError;
use trivet_base::process::server::Server;
use trivet_base::process::workers::Workers;
use trivet_base::process::{Failure, descriptors};
use trivet_base::telemetry::{self, MetricsServer};
use trivet_http::frames::FrameRates;
use trivet_http::steps::Policy;
use trivet_proxy::Engine;
use trivet_proxy::admission::Admission;
use trivet_proxy::server::{self as listeners, Connections, Endpoint, Limits, Serving};
use trivet_proxy::upstream;
use trivet_tls as tls;

/// Runs until SIGTERM or SIGINT, and then until what is in flight is done.
pub fn run(config: Config) -> Result<(), Failure> {
    telemetry::init_log(&config.log);
    descriptors::tell(config.descriptors());
    let metrics = telemetry::init_metrics("trivet-web")?;
    // Everything that can be wrong with files is found before anything is bound.
    let server_tls = tls::mutual_server_config(&config.tls, &[b"h2", b"http/1.1"])?;
    let client_tls = tls::client_config(&config.tls, &[b"http/1.1"])?;
    let upstreams = Arc::new(Upstreams::new(&config, &client_tls)?);
    let ends = tls::expiry(&config.tls.certificate)?;
    let expires = ends.format(&Rfc3339).ok();
    let certificate = config.tls.certificate.display().to_string();
    let site = Site::load(config.files.clone())
        .map_err(|e| ConfigError::at(&config.files.root, "static.root", e.source))?;
    let site = Arc::new(site);

    let mut server = Server::new();
    let (workers, working) = Workers::add(&mut server, config.threads());
    let connections = Arc::new(Connections::default());
    let status = {
        let (site, upstreams, connections, shutdown) =
            (site.clone(), upstreams.clone(), connections.clone(), server.shutdown());
        let (workers, node) = (workers.clone(), config.node.clone());
        Arc::new(move || {
            let store = site.store();
            json!({
                "program": "trivet-web",
                "version": env!("CARGO_PKG_VERSION"),
                "node": node,
                "stopping": shutdown.is_stopping(),
                "backends": upstreams.status(),
                "static": {"files": store.files(), "memory_bytes": store.memory()},
                "connections": connections.open(),
                "workers": workers.status(),
                "certificates": [{"file": certificate, "not_after": expires, "days_left": days_left(ends)}],
            })
        })
    };
    MetricsServer::add(&mut server, &config.metrics, metrics, status);
    let (checked, heartbeats) = (upstreams.clone(), server.heartbeats());
    let checks = server.service("checks", &[], move |_| async move {
        checked.watch(&heartbeats).await;
        Ok(())
    });
    server.background("sweep", upstream::sweep(upstreams.pool().clone(), SWEEP));
    server.background("static files", site.clone().reload_when_told(server.shutdown()));

    let sockets: Vec<_> = config.listen.iter().map(|a| server.listen("listen", *a)).collect();
    let (limits, trust) = (limits(&config), config.proxy_protocol.clone());
    let shutdown = server.shutdown();
    // The balancers are the clients here, and each carries many of the public's.
    let admission = Admission::unlimited();
    let web = Web::new(config.node.clone(), shutdown.clone(), site, upstreams);
    let engine = Engine::new(web, policy(&config), limits, admission.clone(), shutdown.clone());
    let serving = Serving { engine, limits, admission, workers, connections };
    server.serves_clients("http", &[&working[..], &[checks]].concat(), move |start| async move {
        let mut endpoints = Vec::new();
        for socket in &sockets {
            endpoints.push(Endpoint::new(socket, Some(server_tls.clone()))?.behind(trust.clone()));
        }
        listeners::serve(endpoints, serving, || start.ready(), shutdown).await
    });
    server.run(&config.node)
}

fn days_left(ends: OffsetDateTime) -> i64 {
    (ends - OffsetDateTime::now_utc()).whole_days()
}

/// How often connections to the app and to peers that are unused are looked at: an app may keep them for seconds only.
const SWEEP: Duration = Duration::from_secs(1);

/// For what the balancers limit: they may be gone without a word.
const AT_MOST: Duration = Duration::from_secs(24 * 3600);

fn limits(config: &Config) -> Limits {
    Limits {
        handshake_timeout: config.limits.handshake_timeout,
        header_timeout: config.limits.header_timeout,
        idle_timeout: config.limits.client_idle_timeout,
        max_connections: config.limits.max_connections,
        drain_delay: config.drain_delay,
        shutdown_timeout: config.shutdown_timeout,
        // It hands over to nobody.
        drain_timeout: config.shutdown_timeout,
        // The balancer in front knows the client, and ends what takes too long; here it would only look like the balancer's
        // own slowness.
        client_timeout: AT_MOST,
        tunnel_timeout: AT_MOST,
        stream_timeout: AT_MOST,
        request_timeout: AT_MOST,
        min_rate: 0,
        // What a balancer asks for at once on one connection.
        max_streams: 100,
        http2_frames: FrameRates::default(),
        max_header_size: octets(config.limits.max_header_size),
        max_header_fields: config.limits.max_header_fields,
    }
}

fn policy(config: &Config) -> Policy {
    Policy {
        max_header_size: octets(config.limits.max_header_size),
        max_target_length: octets(config.limits.max_target_length),
        max_body_size: config.limits.max_body_size.map_or(u64::MAX, |size| size.as_u64()),
        ..Policy::inner()
    }
}

fn octets(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}
