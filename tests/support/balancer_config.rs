//! A balancer's configuration, of which a test says only what it is about.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::authority::Authority;

/// The site of every test.
pub const SITE: &str = "www.foobar.com";

/// A machine that is busy building something else must not look like a back end that is down.
pub const PATIENT_CHECKS: &str = "health = { interval = \"200ms\", timeout = \"10s\" }";
/// One check at the start and no further.
pub const NO_CHECKS: &str = "health = { interval = \"1h\", timeout = \"10s\" }";

/// Further keys, by section, and what else tests differ in.
#[derive(Default, Clone)]
pub struct BalancerConfig<'a> {
    /// Above all sections.
    pub top: &'a str,
    /// Where both listeners listen; 127.0.0.1 when empty.
    pub listen: &'a str,
    /// `[http]`; absent without.
    pub http: Option<&'a str>,
    /// `[https]`.
    pub https: &'a str,
    /// Whether `https` names its certificates itself.
    pub own_certificates: bool,
    /// Names and addresses.
    pub back_ends: Vec<(String, SocketAddr)>,
    /// Back ends are spoken to without TLS.
    pub plain_back_ends: bool,
    /// `[web]`. [`PATIENT_CHECKS`] unless it says something about checks.
    pub web: &'a str,
    /// Whole sections.
    pub sections: &'a str,
}

impl BalancerConfig<'_> {
    /// Writes it, with certificates of `authority`, and tells where.
    pub fn write(&self, authority: &Authority) -> PathBuf {
        let listen = if self.listen.is_empty() { "127.0.0.1:0" } else { self.listen };
        let (site, own) = (authority.files(SITE), authority.files("node-of-the-balancer"));
        let http =
            self.http.map(|keys| format!("[http]\nlisten = [\"{listen}\"]\n{keys}")).unwrap_or_default();
        let certificate = match self.own_certificates {
            true => String::new(),
            false => format!("certificate = {:?}\nkey = {:?}", site.certificate, site.key),
        };
        let back_ends =
            self.back_ends.iter().map(|(name, at)| format!("{{name=\"{name}\",address=\"{at}\"}}"));
        let tls = match self.plain_back_ends {
            true => String::new(),
            false => format!(
                "tls = {{ ca = {:?}, certificate = {:?}, key = {:?} }}",
                own.ca, own.certificate, own.key
            ),
        };
        let text = [
            &*format!("node = \"node1\"\ndomain = \"{SITE}\"\ndrain_delay = \"0s\"\n{}", self.top),
            "[metrics]\nlisten = \"127.0.0.1:0\"",
            &http,
            "[web]",
            &format!("backends = [{}]", back_ends.collect::<Vec<_>>().join(",")),
            &tls,
            "connect_timeout = \"10s\"",
            if self.web.contains("health") { "" } else { PATIENT_CHECKS },
            self.web,
            "[https]",
            &format!("listen = [\"{listen}\"]"),
            &certificate,
            // May end in sections of its own.
            self.https,
            self.sections,
        ]
        .join("\n");
        authority.write("balancer.toml", &text)
    }
}
