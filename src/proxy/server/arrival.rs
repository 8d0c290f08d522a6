//! From an accepted socket to a stream whose client is known: PROXY header, limit per address, TLS.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::admission::{Admission, ConnectionPermit};
use crate::log_limiter::LogLimiter;
use trivet_http::proxy_protocol::{self, Header, Trust};
use trivet_http::steps::{Endpoints, Peer};
use trivet_tls::clients::ClientVerified;
use trivet_tls::stream::Stream;

/// What the connections of one endpoint pass.
pub(super) struct Acceptor {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) trust: Option<Trust>,
    /// Of clients' certificates, as they are judged now.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// A connection that may send requests.
pub(super) struct Arrived {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    /// The address of this node that it came to.
    pub(super) local: IpAddr,
    pub(super) endpoints: Endpoints,
    /// Counts the connection as its client's.
    pub(super) permit: ConnectionPermit,
}

impl Acceptor {
    /// Counts a connection as its client's, when the client is known already: before it costs anything. An error is a
    /// connection to be closed.
    pub(super) fn admit(
        &self,
        admission: &Admission,
        from: SocketAddr,
    ) -> Result<Option<ConnectionPermit>, ()> {
        // Behind a proxy the client is not known before the proxy's header.
        if self.trust.is_some() { Ok(None) } else { permit(admission, from).map(Some) }
    }

    /// Everything between accept and the first byte of HTTP, in `within`; none for a connection to be closed.
    pub(super) async fn accept(
        &self,
        admission: &Admission,
        mut tcp: TcpStream,
        from: SocketAddr,
        permitted: Option<ConnectionPermit>,
        within: Duration,
    ) -> Option<Arrived> {
        let deadline = Instant::now() + within;
        let _ = tcp.set_nodelay(true);
        let mut endpoints = Endpoints { source: from, destination: tcp.local_addr().ok()? };
        let local = endpoints.destination.ip().to_canonical();
        if let Some(trust) = &self.trust {
            endpoints = proxied(trust, &mut tcp, endpoints, deadline).await?;
        }
        let permit = match permitted {
            Some(permit) => permit,
            None => permit(admission, endpoints.source).ok()?,
        };
        let penance = admission.penance(endpoints.source.ip());
        if !penance.is_zero() {
            counter!("trivet_connections_delayed_total").increment(1);
            timeout_at(deadline, tokio::time::sleep(penance)).await.ok()?;
        }
        let mut peer = Peer {
            address: endpoints.source.ip().to_canonical(),
            tls: self.tls.is_some(),
            client_certificate: ClientVerified::NotAsked,
            socket: Some(tcp.as_raw_fd()),
            handshake: None,
        };
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some(config) => handshake(config.clone(), tcp, &peer, deadline).await?,
        };
        peer.handshake = stream.handshake().map(Arc::new);
        if let Some(tls) = stream.tls() {
            if let (Some(verifier), Some([certificate, rest @ ..])) =
                (&self.verifier, tls.peer_certificates())
                && let Err(e) = verifier.verify_client_cert(certificate, rest, UnixTime::now())
            {
                counter!("trivet_tls_handshake_failures_total", "reason" => "refused").increment(1);
                tracing::debug!(client = %peer.address, error = %e, "a certificate that is no longer good");
                return None;
            }
            peer.client_certificate =
                ClientVerified::of(tls.peer_certificates().and_then(|c| c.first()).map(|c| &c[..]));
        }
        Some(Arrived { stream, peer, local, endpoints, permit })
    }
}

fn permit(admission: &Admission, client: SocketAddr) -> Result<ConnectionPermit, ()> {
    static LIMITER: LogLimiter = LogLimiter::new();
    admission.connection(client.ip()).map_err(|refused| {
        counter!("trivet_connections_refused_total", "reason" => "per_address").increment(1);
        if let Some(left_out) = LIMITER.ask() {
            tracing::warn!(client = %client.ip().to_canonical(), left_out, "connection refused: {refused}");
        }
    })
}

/// The addresses that the proxy in front tells.
async fn proxied(trust: &Trust, tcp: &mut TcpStream, own: Endpoints, deadline: Instant) -> Option<Endpoints> {
    static LIMITER: LogLimiter = LogLimiter::new();
    let refuse = |reason: &'static str, why: &dyn std::fmt::Display| {
        counter!("trivet_connections_refused_total", "reason" => reason).increment(1);
        if let Some(left_out) = LIMITER.ask() {
            let from = own.source.ip().to_canonical();
            tracing::warn!(%from, left_out, "connection refused: PROXY protocol: {why}");
        }
        None
    };
    if !trust.covers(own.source.ip()) {
        return refuse("proxy_untrusted", &"not from one of the networks in proxy_protocol.from");
    }
    match timeout_at(deadline, proxy_protocol::read(tcp)).await {
        Ok(Ok(Header::Direct)) => Some(own),
        Ok(Ok(Header::Proxied { source, destination })) => Some(Endpoints { source, destination }),
        Ok(Err(e)) => refuse("proxy_malformed", &e),
        Err(_) => refuse("proxy_timeout", &"no complete header in time"),
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    tcp: TcpStream,
    peer: &Peer,
    deadline: Instant,
) -> Option<Stream> {
    let started = Instant::now();
    match timeout_at(deadline, Stream::accept(tcp, config)).await {
        Ok(Ok(stream)) => {
            histogram!("trivet_tls_handshake_seconds").record(started.elapsed().as_secs_f64());
            Some(stream)
        }
        Ok(Err(e)) => {
            counter!("trivet_tls_handshake_failures_total", "reason" => "refused").increment(1);
            tracing::debug!(client = %peer.address, error = %e, "TLS handshake failed");
            None
        }
        Err(_) => {
            counter!("trivet_tls_handshake_failures_total", "reason" => "timeout").increment(1);
            tracing::debug!(client = %peer.address, "TLS handshake took too long");
            None
        }
    }
}
