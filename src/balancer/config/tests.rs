use std::path::Path;

use super::*;

const BOTH: &str = r#"
node = "node1"
domain = "www.foobar.com"
virtual_addresses = ["10.77.0.50"]

[http]
listen = ["[::]:80"]

[https]
listen = ["[::]:443"]
certificate = "/run/credentials/site.pem"
key = "/run/credentials/site.key"

[web]
backends = [
  { name = "node1", address = "10.77.0.11:8443" },
  { name = "node2", address = "10.77.0.12:8443" },
]
tls = { ca = "/c/ca.pem", certificate = "/c/node.pem", key = "/c/node.key" }
health = { interval = "1s" }

[local_check]
listen = "127.0.0.1:9611"

[database]
write_listen = ["127.0.0.1:6446"]
read_listen = ["127.0.0.1:6447"]
members = [{ name = "node1", address = "10.77.0.11:3306", keeper = "10.77.0.11:8008" }]
tls = { ca = "/c/ca.pem", certificate = "/c/node.pem", key = "/c/node.key" }
"#;

fn parse(text: &str) -> Result<Config, String> {
    config::parse(Path::new("/etc/trivet/balancer.toml"), text).map_err(|e| e.to_string())
}

/// The message for [`BOTH`] with one piece replaced.
fn refused(from: &str, to: &str) -> String {
    assert!(BOTH.contains(from), "{from}");
    parse(&BOTH.replacen(from, to, 1)).expect_err("must be refused")
}

#[test]
fn the_example_of_the_documentation_is_good_and_gets_the_defaults() {
    let c = parse(BOTH).unwrap();
    let web = c.web.as_ref().unwrap();
    assert_eq!(c.server_names(), ["www.foobar.com"]);
    assert_eq!(web.health.interval, Duration::from_secs(1));
    assert_eq!(web.health.timeout, Duration::from_millis(400));
    assert_eq!(c.metrics().listen.port(), 9601);
    assert_eq!(c.database.as_ref().unwrap().wait_for_primary, Duration::from_secs(15));
}

#[test]
fn a_gateway_alone_needs_nothing_of_http() {
    let gateway = format!("node = \"node1\"\n[database]{}", BOTH.split("[database]").nth(1).unwrap());
    let c = parse(&gateway).unwrap();
    assert_eq!(c.metrics().listen.port(), 9605);
}

#[test]
fn json_fills_the_same_types() {
    let text = r#"{"node":"n","database":{"write_listen":["127.0.0.1:6446"],
        "members":[{"name":"a","address":"10.0.0.1:3306","keeper":"10.0.0.1:8008"}],
        "tls":{"ca":"/a","certificate":"/b","key":"/c"},"health":{"fall":3}}}"#;
    let c: Config = config::parse(Path::new("x.json"), text).unwrap();
    assert_eq!(c.database.unwrap().health, KeeperHealth { fall: 3, ..KeeperHealth::default() });
}

#[test]
fn refusals_name_file_key_and_reason() {
    for (from, to, expected) in [
        ("[::]:443", "443", "https.listen[0]: invalid socket address syntax"),
        ("/run/credentials/site.key", "site.key", "https.key: \"site.key\" is not an absolute path"),
        ("interval = \"1s\"", "interval = \"0s\"", "web.health.interval: must be longer than zero"),
        ("interval = \"1s\"", "fall = 0", "web.health.fall: must be at least 1"),
        ("interval = \"1s\"", "interval = \"fast\"", "web.health.interval: "),
        ("interval = \"1s\"", "path = \"healthz\"", "web.health.path: \"healthz\" is no path"),
        ("name = \"node2\"", "name = \"node1\"", "web.backends: \"node1\" stands here twice"),
        ("10.77.0.12:8443", "10.77.0.11:8443", "web.backends: \"10.77.0.11:8443\" stands here twice"),
        ("[::]:80", "[::]:443", "https.listen: [::]:443 is listened on twice"),
        ("[https]", "[https]\nhttp2_frames = { ping = 0 }", "https.http2_frames.ping: must be at least 1"),
        ("[https]", "[https]\nhsts_preload = true", "https.hsts_preload: the lists ask for"),
        ("[https]", "[https]\nmax_header_fields = 257", "https.max_header_fields: must be between 1 and 256"),
        (
            "[https]",
            "[https]\nmax_header_size = \"4KiB\"",
            "https.max_target_length: is 8.0 KiB, larger than https.max_header_size, 4.0 KiB",
        ),
        ("[https]", "[https]\nmax_target_length = \"0B\"", "https.max_target_length: must be at least 1"),
        (
            "[https]",
            "[https]\nmax_connections = 9000000000000000000",
            "https.max_connections: is 9000000000000000000, but this process may open",
        ),
        ("[http]", "[http]\nredirect_port = 0", "http.redirect_port: must be a port"),
        ("[http]", "[http]\nredirect = false\nredirect_port = 443", "http.redirect_port: says nothing"),
        ("domain", "domian", "domian: unknown field `domian`"),
        ("domain = \"www.foobar.com\"", "", "domain: is missing"),
        ("node = \"node1\"", "node = \"\"", "node: is empty"),
        ("node = \"node1\"", "node = \"a/b\"", "node: is no name"),
        ("name = \"node2\"", "weight = 257, name = \"node2\"", "web.backends[1].weight: must be at most 256"),
        (
            "[https]",
            "[pools.database-read]\nbackends = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n[https]",
            "pools.database-read: the pools of the database gateway are called so",
        ),
        (
            "[https]",
            "[[routes]]\nfields = { \"X-SSL-Client-Verify\" = \"^SUCCESS$\" }\nrefuse = 403\n[https]",
            "routes[0].fields.X-SSL-Client-Verify: is a field that clients can forge",
        ),
        (
            "node = \"node1\"",
            "node = \"n\"\nruntime_directory = \"/run/trivet\"\ncontrol = { socket = \"/run/trivet/handover.sock\" }",
            "control.socket: is where another file of this process is",
        ),
        (
            "node = \"node1\"",
            "node = \"n\"\ndrain_delay = \"1h\"",
            "drain_delay: is longer than shutdown_timeout",
        ),
        ("node = \"node1\"", "node = \"n\"\nlog = { level = \"???\" }", "log.level: "),
    ] {
        let message = refused(from, to);
        assert!(message.starts_with("/etc/trivet/balancer.toml: "), "{message}");
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn sections_that_need_one_another_say_so() {
    assert!(parse("node = \"n\"").unwrap_err().contains("neither [web] nor [database] nor a [tcp.NAME]"));
    let without_https =
        BOTH.split("[https]").next().unwrap().to_owned() + "[web]" + BOTH.split("[web]").nth(1).unwrap();
    assert!(parse(&without_https).unwrap_err().contains("https: is missing"));
}

const TCP: &str = r#"
node = "node1"

[tcp.mail]
listen = ["[::]:25"]
proxy_protocol = { from = ["10.0.0.0/8"] }

[tcp.mail.pool]
backends = [
    { name = "mail1", address = "10.77.0.11:25" },
    { name = "mail2", address = "10.77.0.12:25", backup = true },
]

[tcp.tls]
listen = ["[::]:443"]

[[tcp.tls.sni]]
names = ["shop.foobar.com", "*.shops.foobar.com"]
[tcp.tls.sni.pool]
backends = [{ name = "shop", address = "10.77.0.21:443" }]
"#;

#[test]
fn services_of_tcp_stand_alone_and_their_checks_connect() {
    let c = parse(TCP).unwrap();
    assert_eq!(c.metrics().listen.port(), 9601);
    assert_eq!(format!("{:?}", c.tcp["mail"].pool.as_ref().unwrap().health.kind), "Tcp");
    let http = TCP.replacen("[[tcp.tls.sni]]", "[tcp.tls.pool]\nbackends = [{ name = \"a\", address = \"10.0.0.1:1\" }]\nhealth = { kind = \"http\", path = \"/x\" }\n[[tcp.tls.sni]]", 1);
    assert_eq!(parse(&http).unwrap().tcp["tls"].pools().count(), 2);
    // Two descriptors for each connection.
    let more = TCP.replacen("listen =", "max_connections = 2000\nlisten =", 1);
    assert_eq!(parse(&more).unwrap().descriptors() - c.descriptors(), 2000);
}

#[test]
fn refusals_of_services_name_key_and_reason() {
    for (from, to, expected) in [
        (
            "node = \"node1\"",
            "node = \"node1\"\n[tcp.\"a b\"]\nlisten = [\"[::]:26\"]",
            "tcp.a b: is no name",
        ),
        ("listen = [\"[::]:25\"]", "listen = []", "tcp.mail.listen: is empty"),
        ("[::]:25", "[::]:443", "tcp.tls.listen: [::]:443 is listened on twice"),
        ("[\"10.0.0.0/8\"]", "[]", "tcp.mail.proxy_protocol.from: is empty"),
        (
            "proxy_protocol",
            "clients = [\"10.0.0.1/8\"]\nproxy_protocol",
            "tcp.mail.clients: \"10.0.0.1/8\" has bits",
        ),
        (
            "proxy_protocol",
            "max_connections = 0\nproxy_protocol",
            "tcp.mail.max_connections: must be at least 1",
        ),
        ("proxy_protocol", "idle_timeout = \"0s\"\nproxy_protocol", "tcp.mail.idle_timeout: must be longer"),
        (
            "proxy_protocol",
            "handshake_timeout = \"0s\"\nproxy_protocol",
            "tcp.mail.handshake_timeout: must be",
        ),
        (
            "proxy_protocol",
            "max_connections = 9000000000000000000\nproxy_protocol",
            "tcp.mail.max_connections: is 9000000000000000000, but this process may open",
        ),
        ("mail2", "mail1", "tcp.mail.pool.backends: \"mail1\" stands here twice"),
        ("address = \"10.77.0.11:25\"", "address = \"mail:0\"", "tcp.mail.pool.backends[0].address: "),
        (
            "{ name = \"mail1\"",
            "{ backup = true, name = \"mail1\"",
            "tcp.mail.pool.backends: has none of weight",
        ),
        (
            "{ name = \"mail1\"",
            "{ max_in_flight = 0, name = \"mail1\"",
            "tcp.mail.pool.backends[0].max_in_flight: ",
        ),
        ("{ name = \"mail1\"", "{ weight = 257, name = \"mail1\"", "tcp.mail.pool.backends[0].weight: "),
        ("backends", "balance = \"hush\"\nbackends", "tcp.mail.pool.balance: unknown variant `hush`"),
        ("backends", "connect_timeout = \"0s\"\nbackends", "tcp.mail.pool.connect_timeout: must be longer"),
        ("backends", "max_in_flight_per_backend = 0\nbackends", "tcp.mail.pool.max_in_flight_per_backend: "),
        (
            "backends",
            "health = { path = \"/x\" }\nbackends",
            "tcp.mail.pool.health.path: says nothing where kind is \"tcp\"",
        ),
        ("[tcp.mail.pool]", "[tcp.mail.pol]", "tcp.mail.pol: unknown field `pol`"),
        ("[\"shop.foobar.com\", \"*.shops.foobar.com\"]", "[]", "tcp.tls.sni[0].names: is empty"),
        (
            "\"shop.foobar",
            "\"*.Shops.foobar",
            "tcp.tls.sni[0].names: \"*.shops.foobar.com\" has a pool already",
        ),
        ("\"shop.foobar.com", "\"*", "tcp.tls.sni[0].names: \"*\" is no host name; write"),
        ("\"shop.foobar.com", "\"shop.*.com", "tcp.tls.sni[0].names: \"shop.*.com\" is no host name"),
        ("\"shop.foobar.com", "\"192.0.2.1", "tcp.tls.sni[0].names: \"192.0.2.1\" is an address"),
        (
            "\"10.77.0.21:443\"",
            "\"10.77.0.21:443\", wait = 0",
            "tcp.tls.sni[0].pool.backends[0].wait: unknown field",
        ),
    ] {
        assert!(TCP.contains(from), "{from}");
        let message = parse(&TCP.replacen(from, to, 1)).expect_err(expected);
        assert!(message.starts_with("/etc/trivet/balancer.toml: "), "{message}");
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let (without, _) = TCP.split_once("[[tcp.tls.sni]]").unwrap();
    assert!(parse(without).unwrap_err().contains("tcp.tls.pool: is missing"));
}
