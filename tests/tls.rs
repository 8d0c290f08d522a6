//! TLS as the public meets it: the real balancer, and clients of every kind.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{DnType, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, SupportedProtocolVersion, version};
use support::authority::Authority;
use support::backend::Backend;
use support::balancer_config::{BalancerConfig, NO_CHECKS, SITE};
use support::client::{Answer, Wire};
use support::program::{Program, call};
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trivet_base::config::TlsFiles;
use trivet_tls as tls;

const SECRET: &str = "1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100";

/// A back end, and everything that configurations name.
struct World {
    authority: Authority,
    backend: Backend,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let backend = Backend::start("node1", authority.mutual_server("node1")).await;
        Self { authority, backend }
    }

    /// The path of a configuration whose `[https]` ends in `https`, with its tables.
    fn configuration(&self, https: &str) -> PathBuf {
        let config = BalancerConfig {
            https,
            own_certificates: true,
            back_ends: vec![("node1".into(), self.backend.address)],
            web: NO_CHECKS,
            ..BalancerConfig::default()
        };
        config.write(&self.authority)
    }

    fn start(&self, https: &str) -> Balancer {
        Balancer(Program::start(&self.configuration(https)))
    }

    /// With one certificate for the site and these keys of `[https.tls]`.
    fn start_with(&self, tls: &str) -> Balancer {
        let site = pair(&self.authority.files(SITE));
        self.start(&format!("certificates = [{site}]\n[https.tls]\n{tls}"))
    }

    /// A client that does as browsers do, unless `change` says otherwise.
    fn client(&self, change: impl FnOnce(&mut Client)) -> Arc<ClientConfig> {
        let mut client = Client {
            provider: (*tls::provider()).clone(),
            versions: vec![&version::TLS13, &version::TLS12],
            alpn: vec!["http/1.1"],
            certificate: None,
            sni: true,
        };
        change(&mut client);
        let builder = ClientConfig::builder_with_provider(Arc::new(client.provider))
            .with_protocol_versions(&client.versions)
            .unwrap()
            .with_root_certificates(self.authority.roots());
        let mut config = match client.certificate {
            Some(files) => builder
                .with_client_auth_cert(
                    tls::load_certificates(&files.certificate).unwrap(),
                    tls::load_key(&files.key).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = client.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        config.enable_sni = client.sni;
        Arc::new(config)
    }
}

struct Client {
    provider: CryptoProvider,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<&'static str>,
    certificate: Option<TlsFiles>,
    sni: bool,
}

impl Client {
    fn suites(&mut self, of: &str) {
        self.provider.cipher_suites.retain(|s| format!("{:?}", s.suite()).contains(of));
    }
}

fn pair(files: &TlsFiles) -> String {
    format!("{{certificate = \"{}\", key = \"{}\"}}", files.certificate.display(), files.key.display())
}

fn leaf(files: &TlsFiles) -> Vec<u8> {
    tls::load_certificates(&files.certificate).unwrap()[0].to_vec()
}

struct Balancer(Program);

impl Balancer {
    fn address(&self) -> SocketAddr {
        self.0.address("https.listen")
    }

    async fn metrics(&self) -> String {
        let mut wire = Wire::plain(self.0.address("metrics.listen")).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        wire.answer().await.unwrap().body
    }

    async fn status(&self) -> serde_json::Value {
        let mut wire = Wire::plain(self.0.address("metrics.listen")).await;
        wire.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await;
        serde_json::from_str(&wire.answer().await.unwrap().body).unwrap()
    }

    async fn get(&self, client: &Arc<ClientConfig>, host: &str) -> Answer {
        let mut wire = Wire::tls(self.address(), host, client.clone()).await;
        wire.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        wire.answer().await.unwrap()
    }

    /// A connection after its handshake and one answer, with which the session's tickets have come. TLS 1.3 tells a client
    /// that its certificate is unwelcome only then, so a failure may come from either.
    async fn open(&self, client: &Arc<ClientConfig>, name: &str) -> Result<TlsStream<TcpStream>, String> {
        let tcp = TcpStream::connect(self.address()).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream =
            TlsConnector::from(client.clone()).connect(name, tcp).await.map_err(|e| e.to_string())?;
        let head = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(|e| e.to_string())?;
        if answer.is_empty() {
            return Err("no answer".into());
        }
        Ok(stream)
    }

    async fn kind(&self, client: &Arc<ClientConfig>) -> HandshakeKind {
        self.open(client, SITE).await.unwrap().get_ref().1.handshake_kind().unwrap()
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6066_3_the_name_that_a_client_asks_for_chooses_the_certificate() {
    let world = World::new().await;
    let ecdsa = &PKCS_ECDSA_P256_SHA256;
    let site = world.authority.files(SITE);
    let wild = world.authority.files_for("wild", &["*.foobar.com"], ecdsa, |_| {});
    let exact = world.authority.files_for("shop", &["shop.foobar.com"], ecdsa, |_| {});
    let balancer = world.start(&format!(
        "certificate = \"{}\"\nkey = \"{}\"\ncertificates = [{}, {}]",
        site.certificate.display(),
        site.key.display(),
        pair(&wild),
        pair(&exact)
    ));
    let client = world.client(|_| {});
    for (name, expected) in [(SITE, &site), ("shop.foobar.com", &exact), ("a.foobar.com", &wild)] {
        assert!(shown(&balancer.open(&client, name).await.unwrap()) == leaf(expected), "{name}");
    }
    // An asterisk stands for one label, and nobody else's name is carried: such a client gets the first certificate.
    for name in ["a.b.foobar.com", "www.other.example"] {
        let e = balancer.open(&client, name).await.map(|_| ()).unwrap_err();
        assert!(e.contains("not valid for name") && e.contains(SITE), "{e}");
    }
    let nameless = world.client(|c| c.sni = false);
    assert!(shown(&balancer.open(&nameless, SITE).await.unwrap()) == leaf(&site));
    // What the certificate covers is not yet what the site serves.
    assert_eq!(balancer.get(&client, SITE).await.status, 200);
    assert_eq!(balancer.get(&client, "a.foobar.com").await.status, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_rsa_and_an_ecdsa_certificate_each_client_gets_the_one_it_can_use() {
    let world = World::new().await;
    let rsa = world.authority.files_for("rsa", &[SITE], &PKCS_RSA_SHA256, |_| {});
    let ecdsa = world.authority.files_for("ecdsa", &[SITE], &PKCS_ECDSA_P256_SHA256, |_| {});
    let balancer = world.start(&format!("certificates = [{}, {}]", pair(&rsa), pair(&ecdsa)));
    let only = |kind: &str| {
        world.client(|c| {
            c.versions = vec![&version::TLS12];
            c.suites(kind);
        })
    };
    assert!(shown(&balancer.open(&only("ECDHE_RSA"), SITE).await.unwrap()) == leaf(&rsa));
    assert!(shown(&balancer.open(&only("ECDHE_ECDSA"), SITE).await.unwrap()) == leaf(&ecdsa));
    assert!(shown(&balancer.open(&world.client(|_| {}), SITE).await.unwrap()) == leaf(&ecdsa));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_used_without_a_signal_and_bad_ones_are_not() {
    let world = World::new().await;
    let balancer = world.start_with("reload_interval = \"50ms\"");
    // A new client each time: a resumed session shows the certificate with which it began.
    let look = || async { shown(&balancer.open(&world.client(|_| {}), SITE).await.unwrap()) };
    // Put in place by renaming, as certificate clients do.
    let replace = |made: &TlsFiles| {
        for (new, end) in [(&made.certificate, "pem"), (&made.key, "key")] {
            std::fs::rename(new, world.authority.path(&format!("{SITE}.{end}"))).unwrap();
        }
    };
    let new = world.authority.files_for("new", &[SITE], &PKCS_ECDSA_P256_SHA256, |_| {});
    let expected = leaf(&new);
    replace(&new);
    until("the new certificate is shown", || async { look().await == expected }).await;

    let expired = world.authority.files_for("expired", &[SITE], &PKCS_ECDSA_P256_SHA256, |p| {
        p.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(30);
        p.not_after = time::OffsetDateTime::now_utc() - time::Duration::days(1);
    });
    replace(&expired);
    let line = balancer.0.logged(|l| l["error"].as_str().is_some_and(|e| e.contains("expired at")));
    assert_eq!(line["message"], "the new certificate is not used; the former stays");
    assert!(look().await == expected);
    let file = world.authority.path(&format!("{SITE}.pem")).display().to_string();
    let failed = |is: u8| format!("trivet_certificate_reload_failed{{file=\"{file}\"}} {is}");
    let metrics = balancer.metrics().await;
    assert!(metrics.contains(&failed(1)), "{metrics}");
    assert!(metrics.contains("trivet_certificate_reloads_total{result=\"refused\"}"), "{metrics}");

    std::fs::write(&file, "nonsense").unwrap();
    balancer.0.logged(|l| l["error"].as_str().is_some_and(|e| e.contains("holds no certificate")));
    assert!(look().await == expected);

    let mended = world.authority.files_for("mended", &[SITE], &PKCS_ECDSA_P256_SHA256, |_| {});
    let expected = leaf(&mended);
    let expires = tls::expiry(&mended.certificate).unwrap().unix_timestamp();
    replace(&mended);
    until("the mended certificate is shown", || async { look().await == expected }).await;
    let metrics = balancer.metrics().await;
    assert!(metrics.contains(&failed(0)), "{metrics}");
    assert!(
        metrics
            .contains(&format!("trivet_certificate_expiry_timestamp_seconds{{file=\"{file}\"}} {expires}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_modern_profile_refuses_tls_1_2_which_the_intermediate_one_speaks() {
    let world = World::new().await;
    let old = world.client(|c| c.versions = vec![&version::TLS12]);
    let intermediate = world.start_with("");
    let stream = intermediate.open(&old, SITE).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let modern = world.start_with("profile = \"modern\"");
    let e = modern.open(&old, SITE).await.map(|_| ()).unwrap_err();
    assert!(e.contains("ProtocolVersion"), "RFC 8446 section 6.2, protocol_version: {e}");
    let stream = modern.open(&world.client(|_| {}), SITE).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_exchange_is_post_quantum_with_clients_that_know_it_and_classical_with_others() {
    let world = World::new().await;
    let balancer = world.start_with("");
    let only = |groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>| {
        world.client(|c| c.provider.kx_groups = groups)
    };
    for (client, expected) in [
        (only(vec![kx_group::X25519MLKEM768]), NamedGroup::X25519MLKEM768),
        (only(vec![kx_group::X25519MLKEM768, kx_group::X25519]), NamedGroup::X25519MLKEM768),
        (only(vec![kx_group::X25519]), NamedGroup::X25519),
        (only(vec![kx_group::SECP256R1]), NamedGroup::secp256r1),
    ] {
        let stream = balancer.open(&client, SITE).await.unwrap();
        assert_eq!(stream.get_ref().1.negotiated_key_exchange_group().unwrap().name(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begun_at_one_balancer_goes_on_at_another_that_has_the_secret() {
    let world = World::new().await;
    let secret = |name: &str, text: &str| {
        format!("ticket_secret = \"{}\"", world.authority.write(name, text).display())
    };
    let first = world.start_with(&secret("ticket.secret", SECRET));
    let second = world.start_with(&secret("same.secret", &format!("{}\n", SECRET.to_uppercase())));
    let stranger = world.start_with(&secret("other.secret", &SECRET.replace('1', "2")));
    let alone = world.start_with("");
    for versions in [vec![&version::TLS13], vec![&version::TLS12]] {
        let client = || world.client(|c| c.versions.clone_from(&versions));
        let of_first = client();
        assert_eq!(first.kind(&of_first).await, HandshakeKind::Full, "{versions:?}");
        assert_eq!(first.kind(&of_first).await, HandshakeKind::Resumed, "{versions:?}");
        assert_eq!(second.kind(&of_first).await, HandshakeKind::Resumed, "{versions:?}");
        for other in [&stranger, &alone] {
            let of_first = client();
            first.kind(&of_first).await;
            assert_eq!(other.kind(&of_first).await, HandshakeKind::Full, "{versions:?}");
            assert_eq!(other.kind(&of_first).await, HandshakeKind::Resumed, "its own tickets, {versions:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_demanded_verified_and_told_to_back_ends() {
    let world = World::new().await;
    let ca = world.authority.path("ca.pem");
    let secret = world.authority.write("ticket.secret", SECRET);
    let auth = |mode: &str| {
        format!(
            "ticket_secret = \"{}\"\nclient_auth = {{ca = \"{}\", mode = \"{mode}\"}}",
            secret.display(),
            ca.display()
        )
    };
    let ann = world.authority.files_for("ann", &["ann"], &PKCS_ECDSA_P256_SHA256, |p| {
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(DnType::OrganizationName, "Foo, Bar");
        p.distinguished_name.push(DnType::CommonName, "Änn");
    });
    let with = world.client(|c| c.certificate = Some(ann));
    let without = world.client(|_| {});
    let stranger = Authority::new();
    let wrong = world.client(|c| c.certificate = Some(stranger.files("ann")));
    let told = || world.backend.seen().last().cloned().unwrap_or_default().to_ascii_lowercase();

    let required = world.start_with(&auth("required"));
    for versions in [vec![&version::TLS13], vec![&version::TLS12]] {
        let without = world.client(|c| c.versions = versions);
        let e = required.open(&without, SITE).await.map(|_| ()).unwrap_err();
        assert!(e.contains("CertificateRequired") || e.contains("HandshakeFailure"), "{e}");
    }
    assert!(required.open(&wrong, SITE).await.is_err());
    assert_eq!(world.backend.served(), 0);
    // The second time the session is resumed, and its certificate with it.
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        assert_eq!(required.kind(&with).await, kind);
        let seen = told();
        assert!(seen.contains("\r\nx-ssl-client-verify: success\r\n"), "{seen}");
        assert!(seen.contains("\r\nx-ssl-client-s-dn: cn=\\c3\\84nn,o=foo\\, bar\r\n"), "{seen}");
    }

    let optional = world.start_with(&auth("optional"));
    optional.open(&without, SITE).await.unwrap();
    assert!(told().contains("\r\nx-ssl-client-verify: none\r\n") && !told().contains("s-dn"), "{}", told());
    assert!(optional.open(&wrong, SITE).await.is_err(), "a bad certificate is no missing one");

    // Nobody can say it for himself, whether or not certificates are asked for.
    let off = world.start_with(&format!("ticket_secret = \"{}\"", secret.display()));
    for balancer in [&optional, &off] {
        let mut wire = Wire::tls(balancer.address(), SITE, without.clone()).await;
        wire.send(&format!(
            "GET / HTTP/1.1\r\nHost: {SITE}\r\nX-SSL-Client-Verify: SUCCESS\r\nX_SSL_Client_S_DN: CN=root\r\n\
             Client-Cert: :AAAA:\r\n\r\n"
        ))
        .await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
        assert!(
            !told().contains("success") && !told().contains("cn=root") && !told().contains(":aaaa:"),
            "{}",
            told()
        );
    }

    // A session that began where nobody asked does not get past who asks.
    let client = world.client(|_| {});
    off.open(&client, SITE).await.unwrap();
    assert_eq!(off.kind(&client).await, HandshakeKind::Resumed);
    assert!(required.open(&client, SITE).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc5280_6_3_a_revoked_certificate_opens_nothing_from_the_moment_its_list_is_there() {
    let world = World::new().await;
    let authority = &world.authority;
    let day = time::Duration::days(1);
    let crl = authority.write("crl.pem", &authority.revocation_list(&[], day));
    // Put in place by renaming, so that nobody sees half a file.
    let publish = |text: &str| std::fs::rename(authority.write("new.pem", text), &crl).unwrap();
    let secret = authority.write("ticket.secret", SECRET);
    let auth = format!(
        "reload_interval = \"50ms\"\nclient_auth = {{ca = \"{}\", crl = \"{}\", mode = \"optional\"}}\n",
        authority.path("ca.pem").display(),
        crl.display()
    );
    let with_secret = world.start_with(&format!("ticket_secret = \"{}\"\n{auth}", secret.display()));
    let alone = world.start_with(&auth);
    let person = |name: &str, serial: u64| {
        let certificate = authority.files_for(name, &[name], &PKCS_ECDSA_P256_SHA256, |p| {
            p.serial_number = Some(serial.into());
        });
        // Each balancer sees a client of its own: tickets are kept by name.
        [(); 2].map(|()| world.client(|c| c.certificate = Some(certificate.clone())))
    };
    let (ann, bob) = (person("ann", 7), person("bob", 8));
    let balancers = [&with_secret, &alone];
    for (at, balancer) in balancers.iter().enumerate() {
        for client in [&ann[at], &bob[at]] {
            assert_eq!(balancer.kind(client).await, HandshakeKind::Full);
            assert_eq!(balancer.kind(client).await, HandshakeKind::Resumed);
        }
    }

    publish(&authority.revocation_list(&[7], day));
    for (at, balancer) in balancers.iter().enumerate() {
        until("ann is refused", || async { balancer.open(&ann[at], SITE).await.is_err() }).await;
        assert_eq!(balancer.kind(&bob[at]).await, HandshakeKind::Full, "sessions from before are forgotten");
        assert_eq!(balancer.kind(&bob[at]).await, HandshakeKind::Resumed);
    }

    let stranger = Authority::named("Another");
    let out_of_date = authority.revocation_list(&[], -day);
    for (text, words) in [
        ("nonsense", "holds no revocation list"),
        (out_of_date.as_str(), "is out of date"),
        (&stranger.revocation_list(&[], day), "holds no revocation list of CN="),
    ] {
        publish(text);
        for (at, balancer) in balancers.iter().enumerate() {
            let line = balancer.0.logged(|l| l["error"].as_str().is_some_and(|e| e.contains(words)));
            assert_eq!(line["message"], "the new revocation lists are not used; the former stay");
            assert!(balancer.open(&ann[at], SITE).await.is_err());
            balancer.open(&bob[at], SITE).await.unwrap();
            let metrics = balancer.metrics().await;
            let failed = format!("trivet_certificate_reload_failed{{file=\"{}\"}} 1", crl.display());
            assert!(metrics.contains(&failed), "{metrics}");
        }
    }

    // A certificate may be let in again (removed from hold, RFC 5280 section 5.3.1).
    publish(&authority.revocation_list(&[], day));
    for (at, balancer) in balancers.iter().enumerate() {
        until("ann is let in", || async { balancer.open(&ann[at], SITE).await.is_ok() }).await;
        let metrics = balancer.metrics().await;
        let ends = format!("trivet_revocation_list_expiry_timestamp_seconds{{file=\"{}\"}} ", crl.display());
        let ends: f64 = metrics.split_once(&ends).unwrap().1.lines().next().unwrap().parse().unwrap();
        let left = ends - time::OffsetDateTime::now_utc().unix_timestamp() as f64;
        assert!((86_000.0..=86_400.0).contains(&left), "{left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7301_3_2_without_a_protocol_in_common_the_handshake_ends_in_an_alert() {
    let world = World::new().await;
    let both = world.start_with("");
    let one = world.start_with("alpn = [\"http/1.1\"]");
    let offering = |alpn: &[&'static str]| world.client(|c| c.alpn = alpn.to_vec());
    for (balancer, offers, chosen) in [
        (&both, &["http/1.1", "h2"][..], "h2"),
        (&both, &["spdy/3", "http/1.1"], "http/1.1"),
        (&one, &["h2", "http/1.1"], "http/1.1"),
    ] {
        let tcp = TcpStream::connect(balancer.address()).await.unwrap();
        let name = ServerName::try_from(SITE).unwrap();
        let stream = TlsConnector::from(offering(offers)).connect(name, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()), "{offers:?}");
    }
    for (balancer, offers) in [(&both, "spdy/3"), (&one, "h2")] {
        let e = balancer.open(&offering(&[offers]), SITE).await.map(|_| ()).unwrap_err();
        assert!(e.contains("NoApplicationProtocol"), "{e}");
    }
    // Who says nothing speaks HTTP/1.1.
    both.open(&offering(&[]), SITE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_configuration_is_said_in_words() {
    let world = World::new().await;
    let site = pair(&world.authority.files(SITE));
    for (https, words) in [
        ("", "https.certificate: is missing"),
        ("certificate = \"/a.pem\"", "https.key: is missing"),
        ("certificates = [{certificate = \"a.pem\", key = \"/a.key\"}]", "is not an absolute path"),
        (
            "certificates = [{certificate = \"/a\", key = \"/a\"}, {certificate = \"/a\", key = \"/b\"}]",
            "stands here twice",
        ),
        ("certificates = [SITE]\ntls = {alpn = []}", "https.tls.alpn: is empty"),
        ("certificates = [SITE]\ntls = {alpn = [\"spdy/3\"]}", "unknown variant `spdy/3`"),
        ("certificates = [SITE]\ntls = {profile = \"old\"}", "unknown variant `old`"),
        ("certificates = [SITE]\ntls = {ticket_secret = \"secret\"}", "is not an absolute path"),
        (
            "certificates = [SITE]\ntls = {client_auth = {ca = \"/ca\", mode = \"maybe\"}}",
            "unknown variant `maybe`",
        ),
        (
            "certificates = [SITE]\ntls = {client_auth = {ca = \"/ca\", crl = \"crl.pem\", mode = \"required\"}}",
            "https.tls.client_auth.crl: \"crl.pem\" is not an absolute path",
        ),
    ] {
        let path = world.configuration(&https.replace("SITE", &site));
        let (code, stderr) = call(&["--config", path.to_str().unwrap(), "--check"]);
        assert!(code == 64 && stderr.contains(words), "{https}: {code} {stderr}");
    }
    let short = world.authority.write("short.secret", "00ff");
    let path = world.configuration(&format!(
        "certificates = [{site}]\ntls = {{ticket_secret = \"{}\"}}",
        short.display()
    ));
    let (code, stderr) = call(&["--config", path.to_str().unwrap()]);
    assert!(code == 64 && stderr.contains("must have 32 or more"), "{code} {stderr}");
    let ca = world.authority.path("ca.pem").display().to_string();
    let path = world.configuration(&format!(
        "certificates = [{site}]\ntls = {{client_auth = {{ca = \"{ca}\", crl = \"{ca}\", mode = \"required\"}}}}"
    ));
    let (code, stderr) = call(&["--config", path.to_str().unwrap()]);
    assert!(code == 64 && stderr.contains("no BEGIN X509 CRL line"), "{code} {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_the_files_refuses_what_a_reload_would() {
    let world = World::new().await;
    let site = world.authority.files(SITE);
    let other = world.authority.files("other");
    let expired = world.authority.files_for("expired", &[SITE], &PKCS_ECDSA_P256_SHA256, |p| {
        p.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(30);
        p.not_after = time::OffsetDateTime::now_utc() - time::Duration::days(1);
    });
    let text = std::fs::read_to_string(&site.certificate).unwrap();
    let cut_off = TlsFiles {
        certificate: world.authority.write("cut-off.pem", &text[..text.len() / 2]),
        ..site.clone()
    };
    let unfitting = TlsFiles { key: other.key.clone(), ..site.clone() };
    let missing = TlsFiles { key: world.authority.path("missing.key"), ..site.clone() };
    let check = |files: &TlsFiles, how| {
        let path = world.configuration(&format!("certificates = [{}]", pair(files)));
        call(&["--config", path.to_str().unwrap(), how])
    };
    for (files, words) in [
        (&expired, "expired at"),
        (&cut_off, "cut-off.pem: "),
        (&unfitting, "cannot be used with the key"),
        (&missing, "missing.key: private key cannot be read"),
    ] {
        // Where a system is built there are no secrets.
        assert_eq!(check(files, "--check").0, 0, "{words}");
        let (code, said) = check(files, "--check-files");
        assert!(code == 64 && said.contains(words), "{words}: {code} {said}");
    }
    assert_eq!(check(&site, "--check-files").0, 0);
    let path = world.configuration(&format!(
        "certificates = [{}]\ntls = {{ticket_secret = \"{}\"}}",
        pair(&site),
        world.authority.write("short.secret", "00ff").display()
    ));
    assert_eq!(call(&["--config", path.to_str().unwrap(), "--check-files"]).0, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_should_mend_is_told_in_status_until_it_is_mended() {
    let world = World::new().await;
    // Issued by somebody whose certificate is not in the file, and a key that everybody may read.
    let middle = Authority::named("Middle");
    let site = middle.files(SITE);
    let open = |mode| std::fs::set_permissions(&site.key, std::fs::Permissions::from_mode(mode)).unwrap();
    open(0o644);
    let https = format!("certificates = [{}]", pair(&site));

    let file = world.configuration(&https);
    let (code, said) = call(&["--config", file.to_str().unwrap(), "--check"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("warning:") && said.contains("certificate of \"CN=Middle\""), "{said}");

    let balancer = world.start(&https);
    balancer.0.logged(|l| l["message"] == "the certificate's chain is not complete");
    let key = format!("{} is secret, and every user", site.key.display());
    let told = |words: String| {
        let balancer = &balancer;
        async move { balancer.status().await["warnings"].to_string().contains(&words) }
    };
    assert!(told("which issued".into()).await);
    assert!(told(key.clone()).await);
    open(0o600);
    assert!(!told(key).await, "mended without a signal");

    // With the intermediate, which here is a root, the chain is complete.
    let leaf = std::fs::read_to_string(&site.certificate).unwrap();
    let root = std::fs::read_to_string(&site.ca).unwrap();
    std::fs::write(&site.certificate, format!("{leaf}{root}")).unwrap();
    until("the chain is complete", || async { !told("which issued".into()).await }).await;

    std::fs::write(&site.certificate, &leaf[..leaf.len() / 2]).unwrap();
    balancer.0.signal("HUP");
    until("the reload that failed is told", || told("is not used, the former stays".into())).await;
    std::fs::write(&site.certificate, format!("{leaf}{root}")).unwrap();
    until("and that it went well", || async { !told("is not used".into()).await }).await;
}
