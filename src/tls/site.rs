//! The site's certificates: chosen by the name that a client asks for, replaced while connections are accepted.

mod names;
mod pair;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use time::OffsetDateTime;

use names::Table;
use pair::{Loaded, Pair};

use super::clients::Clients;
use super::followed::{Followed, Outcome};
use super::options::{CertificateFiles, Profile, PublicTls};
use super::tickets::{ClusterTickets, OwnTickets};
use super::{chain, load_certificates};
use trivet_base::config::ConfigError;
use trivet_base::process::warnings;

/// Every certificate of the site, the first being the one for clients that name no host or an unknown one.
pub struct SiteCertificates {
    pairs: Mutex<Vec<Pair>>,
    /// The file with the cluster's authority: what it has issued needs no intermediate.
    authority: Option<PathBuf>,
    table: ArcSwap<Table>,
}

/// What `/status` and metrics tell of one certificate.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// The file it came from.
    pub file: PathBuf,
    /// The names it is good for.
    pub names: Vec<String>,
    /// When the certificate in use stops being valid.
    pub expires: OffsetDateTime,
    /// Why the file as it is now is not used, when it is not.
    pub refused: Option<String>,
}

impl SiteCertificates {
    /// Reads all files; each key must belong to its certificate.
    pub fn load(files: &[CertificateFiles]) -> Result<Arc<Self>, ConfigError> {
        Self::load_beside(files, None)
    }

    /// As [`Self::load`], with the file of an authority that the site's clients may know as a root.
    pub fn load_beside(
        files: &[CertificateFiles],
        authority: Option<PathBuf>,
    ) -> Result<Arc<Self>, ConfigError> {
        let pairs: Vec<Pair> = files.iter().cloned().map(Pair::load).collect::<Result<_, _>>()?;
        for pair in &pairs {
            let file = pair.file().display();
            if pair.loaded().expires < OffsetDateTime::now_utc() {
                // At a start there is no former one to keep, and a page with a warning is better than none.
                tracing::error!(%file, "the certificate has expired; it is used all the same, for want of a better one");
            }
            if pair.loaded().names.is_empty() {
                tracing::warn!(%file, "the certificate carries no DNS name (subjectAltName), so no client accepts it");
            }
        }
        let table = ArcSwap::from_pointee(Table::new(pairs.iter().map(Pair::loaded)));
        let site = Self { pairs: Mutex::new(pairs), authority, table };
        site.pairs.lock().iter().for_each(|pair| site.look_for_gap(pair));
        site.export();
        Ok(Arc::new(site))
    }

    /// Whether all of these could take the places of those in use: what [`Self::reload`] would refuse is an error.
    pub fn check_new(files: &[CertificateFiles]) -> Result<(), ConfigError> {
        files.iter().try_for_each(pair::check_new)
    }

    /// Reads again what has changed since it was last read, or everything when `all`. Each certificate by itself is taken
    /// whole or not at all: after an error the former one stays in use, which is logged and counted once per change.
    pub fn reload(&self, all: bool) {
        let mut pairs = self.pairs.lock();
        let mut changed = false;
        for pair in pairs.iter_mut() {
            match pair.reload(all) {
                Outcome::Unchanged => {}
                Outcome::Reloaded(()) => {
                    changed = true;
                    count("reloaded");
                    accepted(pair.file());
                    self.look_for_gap(pair);
                    tracing::info!(file = %pair.file().display(), names = ?pair.loaded().names, "certificate reloaded");
                }
                Outcome::Refused(error) => {
                    count("refused");
                    refused(pair.file(), "certificate", &error);
                    tracing::error!(%error, "the new certificate is not used; the former stays");
                }
            }
        }
        if changed {
            self.table.store(Arc::new(Table::new(pairs.iter().map(Pair::loaded))));
        }
        drop(pairs);
        self.export();
    }

    /// Warns of a certificate that clients cannot trace back to a root.
    fn look_for_gap(&self, pair: &Pair) {
        let gap = gap(&pair.loaded().certified.cert, self.authority.as_deref());
        let warning = gap.map(|gap| format!("{}: {gap}", pair.file().display()));
        let subject = format!("chain of {}", pair.file().display());
        if warnings::set(subject, warning.clone())
            && let Some(warning) = warning
        {
            tracing::warn!(warning, "the certificate's chain is not complete");
        }
    }

    /// Each certificate, the first one first.
    pub fn status(&self) -> Vec<CertificateStatus> {
        self.pairs.lock().iter().map(Pair::status).collect()
    }

    /// Whether a certificate is good for the host `name`.
    pub fn covers(&self, name: &str) -> bool {
        self.table.load().find(name).is_some()
    }

    fn export(&self) {
        for one in self.status() {
            let file = one.file.display().to_string();
            gauge!("trivet_certificate_expiry_timestamp_seconds", "file" => file)
                .set(one.expires.unix_timestamp() as f64);
            export_refusal(&one.file, one.refused.is_some());
        }
    }

    /// A server for everyone. A client that asks for an unknown name, or for none, is shown the first certificate:
    /// whether the name is one of the site's is decided by the request, which can be answered in words.
    pub fn server_config(self: &Arc<Self>, options: &PublicTls) -> Result<PublicServer, ConfigError> {
        let first = || self.pairs.lock()[0].file().to_owned();
        let builder = ServerConfig::builder_with_provider(super::provider())
            .with_protocol_versions(versions(options.profile))
            .map_err(|e| ConfigError::at(first(), "", e))?;
        let clients = options.client_auth.as_ref().map(Clients::load).transpose()?;
        let context = clients.as_ref().map(|c| c.digest().to_vec()).unwrap_or_default();
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = options.alpn.iter().map(|p| p.name().as_bytes().to_vec()).collect();
        // Early data (0-RTT) stays off: whoever recorded it could send it again (RFC 8446 section 8).
        config.max_early_data_size = 0;
        let tickets = match &options.ticket_secret {
            Some(path) => Tickets::OfCluster(path.clone(), ClusterTickets::load(path, context)?),
            None => Tickets::Own(OwnTickets::new().map_err(|e| ConfigError::at(first(), "", e))?),
        };
        config.ticketer = match &tickets {
            Tickets::OfCluster(_, tickets) => tickets.clone(),
            Tickets::Own(tickets) => tickets.clone(),
        };
        // What a session needs is in its ticket; a store would be one more thing that a failover loses.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(PublicServer { config: Arc::new(config), certificates: self.clone(), clients, tickets })
    }
}

impl std::fmt::Debug for SiteCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.status().iter().map(|s| &s.file)).finish()
    }
}

impl ResolvesServerCert for SiteCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.table.load().choose(hello.server_name(), hello.signature_schemes()))
    }
}

/// rustls knows no suites but those with ephemeral keys and authenticated encryption, so the versions say it all.
fn versions(profile: Profile) -> &'static [&'static SupportedProtocolVersion] {
    static INTERMEDIATE: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    static MODERN: [&SupportedProtocolVersion; 1] = [&version::TLS13];
    match profile {
        Profile::Intermediate => &INTERMEDIATE,
        Profile::Modern => &MODERN,
    }
}

/// What is missing between a certificate in `files` and a root, for those that can be read: a check at build time has no secrets.
pub fn gaps(files: &[CertificateFiles], authority: Option<&Path>) -> Vec<String> {
    let of = |file: &Path| {
        let gap = gap(&load_certificates(file).ok()?, authority)?;
        Some(format!("{}: {gap}", file.display()))
    };
    files.iter().filter_map(|f| of(&f.certificate)).collect()
}

fn gap(chain: &[CertificateDer<'_>], authority: Option<&Path>) -> Option<String> {
    let known = authority.and_then(|file| load_certificates(file).ok()).unwrap_or_default();
    chain::gap(chain, &known)
}

/// A file as it is now is not used: to be told by `/status` until it is.
fn refused(file: &Path, what: &str, error: &ConfigError) {
    let warning = format!("the new {what} is not used, the former stays: {error}");
    warnings::set(format!("reload of {}", file.display()), Some(warning));
}

fn export_refusal(file: &Path, refused: bool) {
    gauge!("trivet_certificate_reload_failed", "file" => file.display().to_string()).set(f64::from(refused));
}

fn accepted(file: &Path) {
    warnings::set(format!("reload of {}", file.display()), None);
}

fn count(result: &'static str) {
    counter!("trivet_certificate_reloads_total", "result" => result).increment(1);
}

/// Who opens the tickets of sessions.
#[derive(Debug, Clone)]
enum Tickets {
    /// Every balancer with the secret in this file.
    OfCluster(PathBuf, Arc<ClusterTickets>),
    /// This process.
    Own(Arc<OwnTickets>),
}

/// What listens to the public, and the files behind it.
#[derive(Debug, Clone)]
pub struct PublicServer {
    /// For the listeners.
    pub config: Arc<ServerConfig>,
    /// What they show.
    pub certificates: Arc<SiteCertificates>,
    clients: Option<Arc<Clients>>,
    tickets: Tickets,
}

impl PublicServer {
    /// Who says which clients' certificates are good now.
    pub fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.clients.clone().map(|clients| clients as _)
    }

    /// Looks at the files every `interval`, and at SIGHUP reads them all again. Does not return.
    pub async fn follow_files(self, interval: std::time::Duration) {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(e) => {
                tracing::error!(error = %e, "cannot listen for SIGHUP; certificates will not be reloaded");
                return;
            }
        };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let secret = match &self.tickets {
            Tickets::OfCluster(path, _) => Some(Followed::new([path.as_path()])),
            Tickets::Own(_) => None,
        };
        let secret = Arc::new(Mutex::new(secret));
        loop {
            let all = tokio::select! {
                _ = ticks.tick() => false,
                Some(()) = hangups.recv() => true,
            };
            let (server, secret) = (self.clone(), secret.clone());
            // Reading files may wait for a disk.
            let look = move || {
                server.certificates.reload(all);
                server.reload_clients(all);
                server.reload_secret(&mut secret.lock(), all);
            };
            if tokio::task::spawn_blocking(look).await.is_err() {
                tracing::error!("reading the certificates broke down");
            }
        }
    }

    fn reload_clients(&self, all: bool) {
        let Some((clients, crl)) = self.clients.as_ref().and_then(|c| Some((c, c.crl()?))) else { return };
        let file = crl.display().to_string();
        let before = clients.digest();
        match clients.reload(all) {
            Outcome::Unchanged => {}
            Outcome::Reloaded(()) => {
                // A resumed session's certificate is not verified again in the handshake: whoever was revoked must not resume.
                // (A handshake that is under way may still get a ticket; whoever comes with it is refused after the handshake.)
                let forgotten = match &self.tickets {
                    _ if clients.digest() == before => Ok(()),
                    Tickets::OfCluster(_, tickets) => {
                        tickets.bind(clients.digest().to_vec());
                        Ok(())
                    }
                    Tickets::Own(tickets) => tickets.forget(),
                };
                if let Err(error) = forgotten {
                    tracing::error!(%error, "sessions cannot be forgotten: who was revoked may resume one; restart");
                }
                count("reloaded");
                accepted(crl);
                tracing::info!(file, "revocation lists reloaded");
            }
            Outcome::Refused(error) => {
                count("refused");
                refused(crl, "list of revoked certificates", &error);
                tracing::error!(%error, "the new revocation lists are not used; the former stay");
            }
        }
        if let Some(end) = clients.lists_end() {
            gauge!("trivet_revocation_list_expiry_timestamp_seconds", "file" => file)
                .set(end.unix_timestamp() as f64);
        }
        export_refusal(crl, clients.is_refused());
    }

    fn reload_secret(&self, followed: &mut Option<Followed<1>>, all: bool) {
        let (Tickets::OfCluster(path, tickets), Some(followed)) = (&self.tickets, followed) else { return };
        match followed.look([path], all, || tickets.reload(path)) {
            Outcome::Unchanged => {}
            Outcome::Reloaded(()) => {
                export_refusal(path, false);
                accepted(path);
                tracing::info!(file = %path.display(), "ticket secret reloaded");
            }
            Outcome::Refused(error) => {
                export_refusal(path, true);
                refused(path, "ticket secret", &error);
                tracing::error!(%error, "the new ticket secret is not used; the former stays");
            }
        }
    }
}

#[cfg(test)]
mod tests;
