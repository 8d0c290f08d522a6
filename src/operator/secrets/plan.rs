//! What is to be written, decided before anything is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::authority::{Authority, Pair, not_carried};
use super::{SecretsError, io, password};
use crate::cluster::{Cluster, Node, Role};

/// The files to be written, by path below the folder, and what the report says besides.
pub struct Plan {
    pub files: BTreeMap<PathBuf, Zeroizing<String>>,
    pub kept: usize,
    pub warnings: Vec<String>,
    /// The secret half of a recovery key that was made now: shown once, and written nowhere.
    pub recovery: Option<Zeroizing<String>>,
}

/// Plans for `cluster`; keeps what is in `out` when `missing`, and refuses when something is and not `missing`.
pub fn make(cluster: &Cluster, out: &Path, missing: bool) -> Result<Plan, SecretsError> {
    let wanted = wanted(cluster);
    let present: Vec<&PathBuf> = wanted.iter().filter(|p| out.join(p).symlink_metadata().is_ok()).collect();
    if !missing && !present.is_empty() {
        return Err(SecretsError::Exists { out: out.display().to_string(), found: few(&present) });
    }
    let mut maker = Maker {
        out,
        cluster,
        plan: Plan { files: BTreeMap::new(), kept: present.len(), warnings: vec![], recovery: None },
    };
    maker.certificates()?;
    maker.passwords()?;
    Ok(maker.plan)
}

fn few(paths: &[&PathBuf]) -> String {
    let mut names: Vec<_> = paths.iter().take(3).map(|p| p.display().to_string()).collect();
    if paths.len() > 3 {
        names.push(format!("{} more", paths.len() - 3));
    }
    names.join(", ")
}

const REPLICATION: &str = "replication-password";
const APP: &str = "app-password";
const TICKETS: &str = "ticket.secret";
const BACKUP: &str = "backup-password";
const BACKUP_KEY: &str = "backup.key";
const RECOVERY: &str = "backup-recovery.pub";

/// Every path that a complete folder has.
fn wanted(cluster: &Cluster) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("ca/ca.pem"), PathBuf::from("ca/ca.key")];
    for node in &cluster.nodes {
        all.extend(names(node).into_iter().map(|name| Path::new(&node.name).join(name)));
    }
    all
}

fn names(node: &Node) -> Vec<&'static str> {
    let mut names = vec!["ca.pem", "node.pem", "node.key"];
    if node.is(Role::Balancer) {
        names.extend(["site.pem", "site.key", TICKETS]);
    }
    if node.is(Role::Database) {
        names.extend([REPLICATION, APP, BACKUP, BACKUP_KEY, RECOVERY]);
    }
    if node.is(Role::App) {
        names.push("app.env");
    }
    names
}

struct Maker<'a> {
    out: &'a Path,
    cluster: &'a Cluster,
    plan: Plan,
}

impl Maker<'_> {
    fn certificates(&mut self) -> Result<(), SecretsError> {
        let authority = self.authority()?;
        let ca = authority.certificate().to_owned();
        // One site certificate for all balancers: a client that meets another node after a failover sees the same.
        let mut site: Option<Pair> = None;
        for node in &self.cluster.nodes {
            self.add(node, "ca.pem", || Ok(Zeroizing::new(ca.clone())))?;
            self.warn_other_authority(node, &ca)?;
            self.pair(node, "node", || authority.signer(self.out, &node.name)?.node(node))?;
            if node.is(Role::Balancer) {
                if site.is_none() {
                    site = self.site_in_use()?;
                    self.warn_missing_names(site.as_ref());
                }
                if site.is_none() && self.lacks_pair(node, "site") {
                    let signer = authority.signer(self.out, &node.name)?;
                    site = Some(signer.site(&self.cluster.domain, self.cluster.names())?);
                }
                if let Some(site) = &site {
                    self.pair(node, "site", || Ok(site.clone()))?;
                }
            }
        }
        Ok(())
    }

    fn authority(&mut self) -> Result<Keys, SecretsError> {
        let certificate = self.read(Path::new("ca/ca.pem"))?;
        let key = self.read(Path::new("ca/ca.key"))?;
        match (certificate, key) {
            (None, None) => {
                if let Some(node) = self.cluster.nodes.iter().find(|n| self.exists(&n.name, "ca.pem")) {
                    // A second CA would split the cluster into nodes that refuse one another.
                    return Err(self.no_authority(&node.name, "ca.pem"));
                }
                let (authority, key) = Authority::generate(&self.cluster.name)?;
                let pem = Zeroizing::new(authority.certificate.clone());
                self.plan.files.insert("ca/ca.pem".into(), pem);
                self.plan.files.insert("ca/ca.key".into(), key);
                Ok(Keys::Whole(Box::new(authority)))
            }
            (Some(certificate), None) => Ok(Keys::Public(certificate.to_string())),
            (None, Some(_)) => Err(self.no_authority(&self.cluster.nodes[0].name, "ca.pem")),
            (Some(certificate), Some(key)) => {
                Authority::load(&certificate, &key).map(|a| Keys::Whole(Box::new(a))).map_err(|reason| {
                    SecretsError::Unusable { file: self.out.join("ca").display().to_string(), reason }
                })
            }
        }
    }

    fn no_authority(&self, node: &str, absent: &'static str) -> SecretsError {
        SecretsError::NoAuthority { out: self.out.display().to_string(), node: node.to_owned(), absent }
    }

    fn warn_other_authority(&mut self, node: &Node, ca: &str) -> Result<(), SecretsError> {
        let path = Path::new(&node.name).join("ca.pem");
        if self.read(&path)?.is_some_and(|own| own.trim() != ca.trim()) {
            self.plan
                .warnings
                .push(format!("{} is not ca/ca.pem: the nodes will refuse one another", path.display()));
        }
        Ok(())
    }

    /// Certificate and key belong together: both are kept, or both are made.
    fn pair(
        &mut self,
        node: &Node,
        name: &str,
        make: impl FnOnce() -> Result<Pair, SecretsError>,
    ) -> Result<(), SecretsError> {
        let certificate = Path::new(&node.name).join(format!("{name}.pem"));
        let key = certificate.with_extension("key");
        match (self.out.join(&certificate).exists(), self.out.join(&key).exists()) {
            (true, true) => Ok(()),
            (false, false) => {
                let pair = make()?;
                self.plan.files.insert(certificate, Zeroizing::new(pair.certificate));
                self.plan.files.insert(key, pair.key);
                Ok(())
            }
            (has_certificate, _) => {
                let (lonely, absent) = if has_certificate { (certificate, key) } else { (key, certificate) };
                Err(SecretsError::Unusable {
                    file: self.out.join(lonely).display().to_string(),
                    reason: format!("stands without {}; delete it, and a new pair is made", absent.display()),
                })
            }
        }
    }

    fn lacks_pair(&self, node: &Node, name: &str) -> bool {
        !self.exists(&node.name, &format!("{name}.pem")) && !self.exists(&node.name, &format!("{name}.key"))
    }

    /// The site certificate that an earlier run made, or the operator put in its place.
    fn site_in_use(&self) -> Result<Option<Pair>, SecretsError> {
        for node in self.cluster.with(Role::Balancer) {
            let path = Path::new(&node.name);
            if let (Some(certificate), Some(key)) =
                (self.read(&path.join("site.pem"))?, self.read(&path.join("site.key"))?)
            {
                return Ok(Some(Pair { certificate: certificate.to_string(), key }));
            }
        }
        Ok(None)
    }

    fn warn_missing_names(&mut self, site: Option<&Pair>) {
        let missing = site.map(|site| not_carried(&site.certificate, self.cluster.names()));
        for name in missing.unwrap_or_default() {
            self.plan.warnings.push(format!(
                "site.pem does not carry {name}: clients will refuse it there. Put a certificate for all names in its place, or \
                 delete site.pem and site.key in every balancer's folder for a new one of this cluster's CA"
            ));
        }
    }

    fn passwords(&mut self) -> Result<(), SecretsError> {
        let replication = self.shared(REPLICATION, Role::Database, password::generate)?;
        let app = self.shared(APP, Role::Database, password::generate)?;
        let tickets = self.shared(TICKETS, Role::Balancer, password::generate_key)?;
        let backup = self.shared(BACKUP, Role::Database, password::generate)?;
        let backup_key = self.shared(BACKUP_KEY, Role::Database, password::generate_identity)?;
        let recovery = self.recovery()?;
        for node in &self.cluster.nodes {
            if node.is(Role::Balancer) {
                self.add(node, TICKETS, || Ok(tickets.clone()))?;
            }
            if node.is(Role::Database) {
                self.add(node, REPLICATION, || Ok(replication.clone()))?;
                self.add(node, APP, || Ok(app.clone()))?;
                self.add(node, BACKUP, || Ok(backup.clone()))?;
                self.add(node, BACKUP_KEY, || Ok(backup_key.clone()))?;
                self.add(node, RECOVERY, || Ok(recovery.clone()))?;
            }
            if node.is(Role::App) {
                self.add(node, "app.env", || Ok(app_env(&app)))?;
            }
        }
        Ok(())
    }

    /// The public half of the recovery key: the one in use, or that of a new one, whose secret half goes into the report.
    fn recovery(&mut self) -> Result<Zeroizing<String>, SecretsError> {
        let public = self.shared(RECOVERY, Role::Database, || Ok(Zeroizing::new(String::new())))?;
        if !public.is_empty() || self.cluster.with(Role::Database).next().is_none() {
            return Ok(public);
        }
        let secret = password::generate_identity()?;
        let public = password::public_half(&secret)?;
        self.plan.recovery = Some(secret);
        Ok(public)
    }

    /// A secret that is one for all nodes with `role`: the one in use, or a new one.
    fn shared(
        &self,
        name: &str,
        role: Role,
        generate: fn() -> Result<Zeroizing<String>, SecretsError>,
    ) -> Result<Zeroizing<String>, SecretsError> {
        let mut found: Option<(PathBuf, Zeroizing<String>)> = None;
        for node in self.cluster.with(role) {
            let path = Path::new(&node.name).join(name);
            let Some(text) = self.read(&path)? else { continue };
            let text = Zeroizing::new(text.trim_end().to_owned());
            match &found {
                Some((first, other)) if *other != text => {
                    return Err(SecretsError::Differs {
                        first: self.out.join(first).display().to_string(),
                        second: self.out.join(path).display().to_string(),
                    });
                }
                Some(_) => {}
                None => found = Some((path, text)),
            }
        }
        found.map_or_else(generate, |(_, text)| Ok(text))
    }

    fn add(
        &mut self,
        node: &Node,
        name: &str,
        make: impl FnOnce() -> Result<Zeroizing<String>, SecretsError>,
    ) -> Result<(), SecretsError> {
        if !self.exists(&node.name, name) {
            self.plan.files.insert(Path::new(&node.name).join(name), make()?);
        }
        Ok(())
    }

    fn exists(&self, folder: &str, name: &str) -> bool {
        self.out.join(folder).join(name).exists()
    }

    fn read(&self, path: &Path) -> Result<Option<Zeroizing<String>>, SecretsError> {
        let path = self.out.join(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io(&path)(e)),
        }
    }
}

/// The CA with its key, or what is left of it on a machine that the key does not visit.
enum Keys {
    Whole(Box<Authority>),
    Public(String),
}

impl Keys {
    fn certificate(&self) -> &str {
        match self {
            Self::Whole(authority) => &authority.certificate,
            Self::Public(certificate) => certificate,
        }
    }

    fn signer(&self, out: &Path, node: &str) -> Result<&Authority, SecretsError> {
        match self {
            Self::Whole(authority) => Ok(authority),
            Self::Public(_) => Err(SecretsError::NoAuthority {
                out: out.display().to_string(),
                node: node.to_owned(),
                absent: "ca.key",
            }),
        }
    }
}

/// The app's environment. The gateway makes the group look like two local addresses.
fn app_env(password: &str) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "DATABASE_WRITE_URL=mysql://trivet_app:{password}@127.0.0.1:6446/trivet\n\
         DATABASE_READ_URL=mysql://trivet_app:{password}@127.0.0.1:6447/trivet\n"
    ))
}
