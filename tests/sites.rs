//! Several sites behind one balancer, and what their routes do (docs/sites.md).
#![allow(missing_docs)]

use support::app::App;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, PATIENT_CHECKS, SITE};
use support::client::{Answer, Wire};
use support::program::{Program, call, trivet};
use support::until;

const SHOP: &str = "shop.example";

/// Two sites, each with an app of its own.
struct Two {
    authority: Authority,
    main: App,
    shop: App,
    balancer: Program,
}

/// With further keys above all sections, and whole sections.
async fn two(top: &str, sections: &str) -> Two {
    let (authority, main, shop) = (Authority::new(), App::start("main").await, App::start("shop").await);
    let names = [SITE, "foobar.com", "*.tenants.example"];
    let own = authority.files_for("site", &names, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {});
    let other = authority.files(SHOP);
    let sections = format!(
        "[pools.shop]\nbackends = [{{ name = \"shop\", address = \"{}\" }}]\nconnect_timeout = \"10s\"\n{PATIENT_CHECKS}\n\
         [sites.shop]\nnames = [\"{SHOP}\"]\npool = \"shop\"\ncertificates = [{{ certificate = {:?}, key = {:?} }}]\n{sections}",
        shop.address, other.certificate, other.key
    );
    let config = BalancerConfig {
        top: &format!("aliases = [\"foobar.com\"]\n{top}"),
        http: Some(""),
        https: &format!("certificate = {:?}\nkey = {:?}", own.certificate, own.key),
        own_certificates: true,
        back_ends: vec![("main".into(), main.address)],
        plain_back_ends: true,
        web: PATIENT_CHECKS,
        sections: &sections,
        ..BalancerConfig::default()
    };
    let balancer = Program::start(&config.write(&authority));
    Two { authority, main, shop, balancer }
}

impl Two {
    /// Over TLS, verified for `sni`.
    async fn ask(&self, sni: &str, request: &str) -> Answer {
        let browser = self.authority.browser(&[b"http/1.1"]);
        let mut wire = Wire::tls(self.balancer.address("https.listen"), sni, browser).await;
        wire.send(&request.replace('\n', "\r\n")).await;
        wire.answer().await.unwrap()
    }

    async fn get(&self, host: &str, target: &str) -> Answer {
        self.ask(host, &format!("GET {target} HTTP/1.1\nHost: {host}\n\n")).await
    }

    fn port(&self) -> u16 {
        self.balancer.address("https.listen").port()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_site_has_its_pool_and_its_certificate_and_an_unknown_name_is_421() {
    let two = two("", "").await;
    assert_eq!(two.get(SITE, "/a").await.body, "main answers GET /a HTTP/1.1");
    assert_eq!(two.get(SHOP, "/a").await.body, "shop answers GET /a HTTP/1.1");
    assert_eq!(two.ask(SHOP, "GET / HTTP/1.1\nHost: other.example\n\n").await.status, 421);
    assert_eq!((two.main.count("/a"), two.shop.count("/a")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_site_answers_for_every_other_name() {
    let two = two("default_site = \"shop\"", "").await;
    let answer = two.ask(SHOP, "GET /a HTTP/1.1\nHost: other.example\n\n").await;
    assert_eq!(answer.body, "shop answers GET /a HTTP/1.1");
    assert_eq!(two.get(SITE, "/b").await.body, "main answers GET /b HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_sent_to_the_name_with_path_and_query() {
    let two = two("", "").await;
    let expected = format!("https://{SITE}:{}/a%20b?c=%2F", two.port());
    let host = format!("foobar.com:{}", two.port());
    for (method, status) in [("GET", 301), ("HEAD", 301), ("POST", 308)] {
        let request =
            format!("{method} /a%20b?c=%2F HTTP/1.1\nHost: {host}\nContent-Length: 0\nConnection: close\n\n");
        let browser = two.authority.browser(&[b"http/1.1"]);
        let mut wire = Wire::tls(two.balancer.address("https.listen"), "foobar.com", browser).await;
        wire.send(&request.replace('\n', "\r\n")).await;
        let answer = wire.answer_to(method).await.unwrap();
        assert_eq!((answer.status, answer.field("location")), (status, Some(expected.clone())), "{method}");
    }
    // Plain HTTP is sent to HTTPS at the same name first, as browsers' lists of HSTS want it.
    let mut wire = Wire::plain(two.balancer.address("http.listen")).await;
    wire.send("GET /x HTTP/1.1\r\nHost: foobar.com\r\n\r\n").await;
    let location = wire.answer().await.unwrap().field("location");
    assert_eq!(location, Some(format!("https://foobar.com:{}/x", two.port())));
}

const ROUTES: &str = r#"
[[routes]]
name = "robots"
path = "/robots.txt"
answer = { content = "User-agent: *\n" }
[[routes]]
name = "secret"
path_prefix = "/admin"
refuse = 403
[[routes]]
name = "api"
path_prefix = "/api"
methods = ["GET"]
pool = "shop"
rewrite = "/v2$rest"
[[routes]]
path_pattern = "^/u/([^/]+)$"
redirect = { to = "/users?name=$1", status = 308 }
[[routes]]
name = "old"
path_prefix = "/old"
query = { page = "^[0-9]+$" }
redirect = { to = "/pages$rest" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_route_that_is_for_a_request_says_what_is_done() {
    let two = two("", ROUTES).await;
    let robots = two.get(SITE, "/robots.txt").await;
    assert_eq!((robots.status, &*robots.body), (200, "User-agent: *\n"));
    assert_eq!(robots.field("content-type").unwrap(), "text/plain; charset=utf-8");
    // However it is written.
    for path in ["/admin", "/admin/x?y", "/%61dmin", "//admin//x", "/admin%2Fx"] {
        assert_eq!(two.get(SITE, path).await.status, 403, "{path}");
    }
    for path in ["/x%2F..%2Fadmin", "/api/..%2Fadmin", "/x/..;/admin"] {
        assert_eq!(two.get(SITE, path).await.status, 400, "{path}");
    }
    assert_eq!(two.get(SITE, "/administration").await.status, 200);
    // The back end is asked for another path; the log has the one that was asked for.
    assert_eq!(two.get(SITE, "/api/x%20y?z=1").await.body, "shop answers GET /v2/x%20y?z=1 HTTP/1.1");
    let line = two.balancer.access("/api/x%20y");
    assert_eq!((&line["route"], &line["backend"]), (&"main/api".into(), &"shop".into()));
    let post = two.ask(SITE, &format!("POST /api/x HTTP/1.1\nHost: {SITE}\nContent-Length: 0\n\n")).await;
    assert_eq!(post.body, "main answers POST /api/x HTTP/1.1");
    let moved = two.get(SITE, "/u/a%26b").await;
    let here = format!("https://{SITE}");
    assert_eq!((moved.status, moved.field("location").unwrap()), (308, format!("{here}/users?name=a%26b")));
    assert_eq!(two.balancer.access("/u/a%26b")["route"], "main/4");
    let found = two.get(SITE, "/old/a?page=7").await;
    assert_eq!((found.status, found.field("location").unwrap()), (302, format!("{here}/pages/a?page=7")));
    assert_eq!(two.get(SITE, "/old/a?page=x").await.status, 200);
    // Another site has other routes.
    assert_eq!(two.get(SHOP, "/robots.txt").await.body, "shop answers GET /robots.txt HTTP/1.1");
    let metrics = Wire::plain(two.balancer.address("metrics.listen")).await;
    let text = scraped(metrics).await;
    assert!(text.contains("trivet_route_requests_total{class=\"4xx\",route=\"main/secret\"} 5\n"), "{text}");
}

async fn scraped(mut wire: Wire) -> String {
    wire.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    wire.answer().await.unwrap().body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_holds_over_http_2_as_well() {
    let two = two("", ROUTES).await;
    let browser = two.authority.browser(&[b"h2"]);
    let wire = Wire::tls(two.balancer.address("https.listen"), SITE, browser).await;
    let (mut client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    tokio::spawn(connection);
    for (path, status) in [("/%61dmin", 403), ("/robots.txt", 200), ("/u/x", 308), ("/api/x", 200)] {
        let request = http::Request::get(format!("https://{SITE}{path}")).body(()).unwrap();
        let answer = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!(two.shop.count("/v2/x"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_may_have_all_names_of_one_label_more() {
    let tenants = "[sites.tenants]\nnames = [\"*.tenants.example\", \"own.tenants.example\"]\npool = \"shop\"\n\
         routes = [{ hosts = [\"a.tenants.example\"], path = \"/a\", refuse = 410 }, { hosts = [\"*.tenants.example\"], path = \"/all\", refuse = 451 }]\n\
         [sites.special]\nnames = [\"b.tenants.example\"]\n";
    let two = two("", tenants).await;
    let get = |host: &'static str, path: &'static str| {
        let request = format!("GET {path} HTTP/1.1\nHost: {host}\n\n");
        let two = &two;
        async move { two.ask(SHOP, &request).await }
    };
    assert_eq!(get("a.tenants.example", "/x").await.body, "shop answers GET /x HTTP/1.1");
    assert_eq!(
        get("B.tenants.example", "/x").await.body,
        "main answers GET /x HTTP/1.1",
        "its own site goes before"
    );
    assert_eq!(get("a.tenants.example", "/a").await.status, 410);
    assert_eq!(get("c.tenants.example", "/a").await.status, 200);
    assert_eq!(get("c.tenants.example", "/all").await.status, 451);
    for host in ["tenants.example", "a.b.tenants.example", "example"] {
        assert_eq!(get(host, "/x").await.status, 421, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_site_may_be_closed_and_an_upgrade_refused() {
    let routes = "[[routes]]\npath_prefix = \"/shop\"\nmaintenance = true\n[[routes]]\npath_prefix = \"/plain\"\nupgrade = false\n";
    let two = two("", routes).await;
    let closed = two.get(SITE, "/shop/basket").await;
    assert_eq!((closed.status, closed.field("retry-after").as_deref()), (503, Some("120")));
    let upgrade = "Connection: Upgrade\nUpgrade: websocket\n";
    let asked = |path: &str| format!("GET {path} HTTP/1.1\nHost: {SITE}\n{upgrade}\n");
    assert_eq!(two.ask(SITE, &asked("/plain/x")).await.status, 403);
    assert_eq!(two.get(SITE, "/plain/x").await.status, 200);
    assert_eq!(two.ask(SITE, &asked("/elsewhere")).await.status, 200);
    assert_eq!(two.main.count("/shop/basket"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn which_route_answers_and_why_can_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let sections = format!("{ROUTES}[control]\nsocket = {socket:?}\n");
    let two = two("", &sections).await;
    until("it listens", || async { socket.exists() }).await;
    let ask = |arguments: &[&str]| {
        let mut all = vec!["route", "--control", socket.to_str().unwrap()];
        all.extend(arguments);
        trivet(&all)
    };
    for (arguments, words) in [
        (
            &["www.foobar.com/robots.txt"][..],
            "route  main/robots\ndoes   answers 200 with 14 octets of its own",
        ),
        (&["https://www.foobar.com//%61dmin"], "route  main/secret\ndoes   answers 403 Forbidden"),
        (
            &["www.foobar.com/api/x?y=1"],
            "route  main/api\ndoes   the pool shop serves it, asked for /v2/x?y=1",
        ),
        (
            &["www.foobar.com/api/x", "--method", "POST"],
            "route  none\ndoes   the pool web serves it\nnot    main/api: it is for other methods",
        ),
        (&["www.foobar.com/old/x"], "not    main/old: the parameter page is missing or has another value"),
        (&["www.foobar.com/u/me"], "does   answers 308, to https://www.foobar.com/users?name=me"),
        (&["foobar.com/x"], "does   answers 301, to www.foobar.com: the name is an alias"),
        (&["shop.example/"], "site   shop\nroute  none\ndoes   the pool shop serves it"),
        (&["nowhere.example/"], "does   answers 421: no site has this name"),
        (&["http://www.foobar.com/x"], "does   answers 301, to https://www.foobar.com/x, as all plain HTTP"),
        (&["www.foobar.com/a/..;/b"], "does   answers 400"),
    ] {
        let (code, said) = ask(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    for (arguments, words) in [
        (&["ftp://www.foobar.com/"][..], "write https://www.foobar.com/path"),
        (&["www.foobar.com/", "--field", "nonsense"], "is no field"),
        (&["www.foobar.com/", "--method", "G ET"], "would be refused"),
    ] {
        let (code, said) = ask(arguments);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    drop(two);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_come_from_a_file() {
    let authority = Authority::new();
    let file = authority.write("maintenance.html", "<h1>Back soon</h1>");
    let route = format!(
        "[[routes]]\npath_prefix = \"/\"\nanswer = {{ status = 503, content_type = \"text/html\", file = {file:?} }}\n"
    );
    let two = two("", &route).await;
    let answer = two.get(SITE, "/anything").await;
    assert_eq!((answer.status, &*answer.body), (503, "<h1>Back soon</h1>"));
    assert_eq!(answer.field("content-type").unwrap(), "text/html");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_with_place_and_remedy() {
    let two = two("", "").await;
    let good = std::fs::read_to_string(two.authority.path("balancer.toml")).unwrap();
    let checked = |text: &str| {
        let config = two.authority.write("bad.toml", text);
        call(&["--config", config.to_str().unwrap(), "--check"])
    };
    assert_eq!(checked(&format!("{good}{ROUTES}")).0, 0);
    for (route, words) in [
        ("path = \"a\"\nrefuse = 403", "routes[0].path: \"a\" does not begin with a slash"),
        ("path = \"/a//b\"\nrefuse = 403", "routes[0].path: \"/a//b\" has an empty or dot segment"),
        (
            "path = \"/a?b\"\nrefuse = 403",
            "routes[0].path: \"/a?b\" has more than a path; `query` is for parameters",
        ),
        ("path = \"/a\"\npath_prefix = \"/a\"\nrefuse = 403", "routes[0]: has more than one of path"),
        ("path = \"/a\"", "routes[0]: says nothing that is done: pool, rewrite"),
        ("refuse = 403\npool = \"web\"", "routes[0]: says more than one thing that is done"),
        ("path_pattern = \"(\"\nrefuse = 403", "routes[0].path_pattern: \"(\" is no regular expression"),
        ("pool = \"nowhere\"", "routes[0].pool: there is no pool \"nowhere\""),
        ("refuse = 200", "routes[0].refuse: 200 is no status from 400 to 599"),
        (
            "hosts = [\"x.example\"]\nrefuse = 403",
            "routes[0].hosts: \"x.example\" is no name of this site; it answers to www.foobar.com",
        ),
        ("methods = [\"G T\"]\nrefuse = 403", "routes[0].methods: \"G T\" is no method"),
        ("redirect = { to = \"x\" }", "routes[0].redirect.to: \"x\" is neither a path nor an address"),
        ("redirect = { to = \"//x.example\" }", "routes[0].redirect.to: \"//x.example\" is neither"),
        (
            "redirect = { to = \"/x$1\" }",
            "routes[0].redirect.to: \"/x$1\" has $1, and the rule has no path_pattern",
        ),
        (
            "path_pattern = \"^/(.*)\"\nredirect = { to = \"https://x.example$1\" }",
            "routes[0].redirect.to: \"https://x.example$1\" lets clients choose",
        ),
        (
            "path = \"/a\"\nredirect = { to = \"/a\" }",
            "routes[0].redirect.to: leads to a path that the same route",
        ),
        (
            "path = \"/a\"\nredirect = { to = \"/b\", status = 200 }",
            "routes[0].redirect.status: 200 is none of 301",
        ),
        ("answer = { content = \"x\", file = \"/x\" }", "routes[0].answer: has both content and file"),
        ("answer = { file = \"x\" }", "routes[0].answer.file: \"x\" is not an absolute path"),
        ("path_prefx = \"/a\"\nrefuse = 403", "unknown field `path_prefx`"),
        (
            "path_prefix = \"/a%20b\"\nrefuse = 403",
            "routes[0].path_prefix: \"/a%20b\" has an octet written by %: paths are compared decoded",
        ),
        ("methods = [\"get\"]\nrefuse = 403", "routes[0].methods: \"get\" is no method that is served"),
        (
            "redirect = { to = \"https://$query\" }",
            "routes[0].redirect.to: \"https://$query\" lets clients choose",
        ),
        (
            "redirect = { to = \"https://www.foobar.com$client\" }",
            "routes[0].redirect.to: \"https://www.foobar.com$client\" lets clients choose",
        ),
        ("redirect = { to = \"https://\" }", "routes[0].redirect.to: \"https://\" has no host"),
        (
            "path_pattern = \"^/(.*)\"\nredirect = { to = \"https:///$1\" }",
            "routes[0].redirect.to: \"https:///$1\" has no host",
        ),
        (
            "redirect = { to = \"https://x.example:99999/\" }",
            "has no host that it could lead to, or no such port",
        ),
        ("rewrite = \"/x y\"", "routes[0].rewrite: has characters that no target has"),
        ("rewrite = \"/x#y\"", "routes[0].rewrite: has characters that no target has"),
        ("rewrite = \"/x\\r\\ny\"", "routes[0].rewrite: has characters that no target has"),
        ("rewrite = \"/x/../y\"", "routes[0].rewrite: \"/x/../y\" has dot segments"),
        ("answer = { status = 204, content = \"x\" }", "routes[0].answer: has content, which 204 has not"),
        ("name = \"a b\"\nrefuse = 403", "routes[0].name: is no name"),
        (
            "name = \"2\"\npath = \"/a\"\nrefuse = 403\n[[routes]]\npath = \"/b\"\nrefuse = 403",
            "routes: \"2\"",
        ),
        (
            "path_prefix = \"/a\"\nrefuse = 403\n[[routes]]\npath = \"/a/b\"\nrefuse = 404",
            "routes[1]: is never reached: routes[0] is for every request",
        ),
    ] {
        let (code, said) = checked(&format!("{good}[[routes]]\n{route}\n"));
        assert_eq!(code, 64, "{route}: {said}");
        assert!(said.contains(words) && said.contains("bad.toml"), "{route}: {said}");
    }
    for (limits, words) in [
        ("request_timeout = \"0s\"", "sites.shop.limits.request_timeout: "),
        (
            "buffer_request = \"2MiB\"",
            "sites.shop.limits.buffer_request: is 2.0 MiB; it is from 1 B to 1 MiB",
        ),
        ("request_rate = { rate = 0, burst = 1 }", "sites.shop.limits.request_rate.rate: must be at least 1"),
        (
            "request_rate = { rate = 1, burst = 1, ipv6_prefix = 129 }",
            "sites.shop.limits.request_rate.ipv6_prefix: must be from 1 to 128",
        ),
        ("max_connections = 1", "unknown field `max_connections`"),
    ] {
        let (code, said) = checked(&format!("{good}\n[sites.shop.limits]\n{limits}\n"));
        assert_eq!(code, 64, "{limits}: {said}");
        assert!(said.contains(words), "{limits}: {said}");
        let (code, said) = checked(&format!("{good}\n[limits]\n{limits}\n"));
        assert_eq!(code, 64, "{limits}: {said}");
        assert!(said.contains(words.trim_start_matches("sites.shop.")), "{limits}: {said}");
    }
    // From site to site and back.
    let routes = format!(
        "[[routes]]\npath_prefix = \"/old\"\nredirect = {{ to = \"https://{SHOP}/new$rest\" }}\n\
         [[sites.shop.routes]]\npath_prefix = \"/new\"\nredirect = {{ to = \"https://{SITE}/old$rest\" }}\n"
    );
    let (code, said) = checked(&format!("{good}{routes}"));
    assert_eq!(code, 64, "{said}");
    let words =
        "routes[0].redirect.to: leads back to itself, for ever, by sites.shop.routes[0]; lead elsewhere";
    assert!(said.contains(words), "{said}");
    let (code, said) = checked(&format!("{good}{}", routes.replace("/old$rest", "/other$rest")));
    assert_eq!(code, 0, "{said}");
    for (from, to, words) in [
        ("pool = \"shop\"", "pool = \"shp\"", "sites.shop.pool: there is no pool \"shp\""),
        ("names = [\"shop.example\"]", "names = []", "sites.shop.names: is empty"),
        (
            "names = [\"shop.example\"]",
            "names = [\"www.foobar.com\"]",
            "sites.shop.names: \"www.foobar.com\" is a name of the site main",
        ),
        ("names = [\"shop.example\"]", "names = [\"a b\"]", "sites.shop.names: \"a b\" is no host name"),
        (
            "names = [\"shop.example\"]",
            "names = [\"shop.example.\"]",
            "sites.shop.names: \"shop.example.\" is known without the dot at its end",
        ),
        ("[sites.shop]", "[sites.main]", "sites.main: \"main\" is another's name already"),
        ("[pools.shop]", "[pools.web]", "pools.web: \"web\" is another's name already"),
        (
            "aliases = [\"foobar.com\"]",
            "aliases = [\"foobar.com\"]\ndefault_site = \"x\"",
            "default_site: there is no site \"x\"",
        ),
        (
            "aliases = [\"foobar.com\"]",
            "aliases = [\"shop.example\"]",
            "sites.shop.names: \"shop.example\" is a name of the site main",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        let (code, said) = checked(&good.replacen(from, to, 1));
        assert_eq!(code, 64, "{to}: {said}");
        assert!(said.contains(words), "{to}: {said}");
    }
}

#[test]
fn a_site_that_no_certificate_is_for_is_not_served() {
    let authority = Authority::new();
    let sections = "[pools.shop]\nbackends = [{ name = \"shop\", address = \"192.0.2.1:80\" }]\n\
                    [sites.bare]\nnames = [\"bare.example\"]\npool = \"shop\"\n";
    let config = BalancerConfig {
        back_ends: vec![("a".into(), "192.0.2.1:81".parse().unwrap())],
        plain_back_ends: true,
        sections,
        ..BalancerConfig::default()
    };
    let (code, said) = call(&["--config", config.write(&authority).to_str().unwrap()]);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("sites.bare.names: no certificate is for bare.example"), "{said}");
}

#[test]
fn a_back_end_that_is_the_balancer_itself_is_refused() {
    let authority = Authority::new();
    let check = |listen: &str, back_end: &str, sections: &str| {
        let config = BalancerConfig {
            listen,
            top: "virtual_addresses = [\"192.0.2.10\"]",
            back_ends: vec![("a".into(), back_end.parse().unwrap())],
            plain_back_ends: true,
            sections,
            ..BalancerConfig::default()
        };
        call(&["--config", config.write(&authority).to_str().unwrap(), "--check"])
    };
    for (listen, back_end) in
        [("192.0.2.1:443", "192.0.2.1:443"), ("[::]:443", "127.0.0.1:443"), ("0.0.0.0:443", "192.0.2.10:443")]
    {
        let (code, said) = check(listen, back_end, "");
        assert_eq!(code, 64, "{listen} {back_end}: {said}");
        let words = format!(
            "web.backends[0].address: \"a\" has the address {back_end}, which is https.listen of this balancer"
        );
        assert!(said.contains(&words), "{said}");
    }
    for (listen, back_end) in [
        ("192.0.2.1:443", "192.0.2.1:8443"),
        ("192.0.2.1:443", "192.0.2.2:443"),
        ("[::]:443", "192.0.2.2:443"),
    ] {
        let (code, said) = check(listen, back_end, "");
        assert_eq!(code, 0, "{listen} {back_end}: {said}");
    }
    let service = |to: &str| {
        format!(
            "[tcp.mail]\nlisten = [\"[::]:25\"]\npool.backends = [{{ name = \"mail1\", address = \"{to}\" }}]\n"
        )
    };
    let (code, said) = check("", "192.0.2.2:443", &service("[::1]:25"));
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("tcp.mail.pool.backends[0].address: \"mail1\" has the address [::1]:25"), "{said}");
    assert_eq!(check("", "192.0.2.2:443", &service("192.0.2.2:25")).0, 0);
    // In front of the sites it may be, and then not behind them as well.
    let front = |to: &str| {
        let sni = "[[tcp.front.sni]]\nnames = [\"own.example\"]\npool.backends = [{ name = \"own\", address = \"192.0.2.1:445\" }]";
        let front = format!(
            "[tcp.front]\nlisten = [\"192.0.2.1:444\"]\npool.backends = [{{ name = \"sites\", address = \"192.0.2.1:443\" }}]\n{sni}"
        );
        let third = format!(
            "[tcp.third]\nlisten = [\"192.0.2.1:445\"]\npool.backends = [{{ name = \"far\", address = \"{to}\" }}]\n"
        );
        format!("{front}\n{third}")
    };
    let (code, said) = check("192.0.2.1:443", "192.0.2.2:443", &front("192.0.2.2:445"));
    assert_eq!(code, 0, "{said}");
    for (web, far, words) in [
        (
            "192.0.2.1:444",
            "192.0.2.2:445",
            "tcp.front.listen of this balancer, which sends to https.listen (sites): what is sent there would come back",
        ),
        (
            "192.0.2.1:445",
            "192.0.2.1:443",
            "tcp.third.listen of this balancer, which sends to https.listen (far): what is sent there would come back",
        ),
        (
            "192.0.2.2:443",
            "192.0.2.1:444",
            "tcp.third.listen of this balancer, which sends to tcp.front.listen (far)",
        ),
    ] {
        let (code, said) = check("192.0.2.1:443", web, &front(far));
        assert_eq!(code, 64, "{web} {far}: {said}");
        assert!(said.contains(words), "{web} {far}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sites_limits_hold_for_all_of_its_pools_and_its_routes_have_the_last_word() {
    let two = two(
        "limits = { max_body_size = \"10B\" }",
        "limits = { max_body_size = \"20B\" }\n\
         [[routes]]\npath_prefix = \"/upload\"\nmax_body_size = \"64B\"\n\
         [[routes]]\npath_prefix = \"/shop\"\npool = \"shop\"\n\
         [[routes]]\npath = \"/fixed\"\nanswer = { content = \"here\" }",
    )
    .await;
    for (host, target, octets, status) in [
        (SITE, "/a", 10, 200),
        (SITE, "/a", 11, 413),
        (SITE, "/fixed", 11, 413),
        (SITE, "/shop/a", 10, 200),
        (SITE, "/shop/a", 11, 413),
        (SITE, "/upload", 64, 200),
        (SITE, "/upload", 65, 413),
        (SHOP, "/a", 20, 200),
        (SHOP, "/a", 21, 413),
    ] {
        let body = if status == 200 { "x".repeat(octets) } else { String::new() };
        let request = format!("POST {target} HTTP/1.1\nHost: {host}\nContent-Length: {octets}\n\n{body}");
        assert_eq!(two.ask(host, &request).await.status, status, "{host}{target} {octets}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6585_4_a_site_has_a_rate_of_its_own() {
    let two = two("", "limits = { request_rate = { rate = 1, burst = 1 } }").await;
    let browser = two.authority.browser(&[b"http/1.1"]);
    let mut wire = Wire::tls(two.balancer.address("https.listen"), SHOP, browser).await;
    let request = format!("GET /a HTTP/1.1\r\nHost: {SHOP}\r\n\r\n");
    let mut served = 0;
    let refused = loop {
        wire.send(&request).await;
        let answer = wire.answer().await.unwrap();
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.status, 200);
        served += 1;
        assert!(served < 1000, "never refused");
    };
    assert_eq!(refused.field("retry-after").as_deref(), Some("1"), "RFC 9110 section 10.2.3");
    assert_eq!(two.shop.count("/a"), served, "who is refused reaches nobody");
    // The other site has none, and the connection goes on.
    for _ in 0..5 {
        assert_eq!(two.get(SITE, "/b").await.status, 200);
    }
    two.balancer.logged(|l| l["status"] == 429 && l["path"] == "/a");
}

#[test]
fn the_example_of_the_document_is_good() {
    let text = include_str!("../docs/sites.md");
    let example = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let (top, sections) = example.split_at(example.find("[[routes]]").unwrap());
    let authority = Authority::new();
    let site = authority.files(SITE);
    let rest = format!(
        "[https]\nlisten = [\"127.0.0.1:0\"]\ncertificate = {:?}\nkey = {:?}\n\
         [web]\nbackends = [{{ name = \"node1\", address = \"127.0.0.1:9\" }}]\n",
        site.certificate, site.key
    );
    let config = authority.write("example.toml", &format!("node = \"node1\"\n{top}{sections}{rest}"));
    let (code, said) = call(&["--config", config.to_str().unwrap(), "--check"]);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_no_certificate_is_for_is_refused_with_its_name() {
    let two = two("", "").await;
    let text = std::fs::read_to_string(two.authority.path("balancer.toml")).unwrap();
    for names in ["[\"nowhere.example\"]", "[\"*.nowhere.example\"]"] {
        let more = format!("[sites.nowhere]\nnames = {names}\n");
        let config = two.authority.write("nowhere.toml", &format!("{text}\n{more}"));
        let (code, said) = call(&["--config", config.to_str().unwrap(), "--check-files"]);
        assert_eq!(code, 64, "{said}");
        assert!(said.contains("sites.nowhere.names: no certificate is for"), "{said}");
        let (code, said) = call(&["--config", config.to_str().unwrap(), "--check"]);
        assert_eq!(code, 0, "without the files nobody knows: {said}");
    }
    let config = two.authority.path("balancer.toml");
    assert_eq!(call(&["--config", config.to_str().unwrap(), "--check-files"]).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_not_waited_for() {
    let two = two("", "").await;
    let pipe = two.authority.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let text = std::fs::read_to_string(two.authority.path("balancer.toml")).unwrap();
    let route = format!("[[routes]]\npath = \"/a\"\nanswer = {{ file = {pipe:?} }}\n");
    let config = two.authority.write("pipe.toml", &format!("{text}\n{route}"));
    let (code, said) = call(&["--config", config.to_str().unwrap(), "--check-files"]);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("pipe: is no regular file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_shows_its_own_error_pages_also_when_no_back_end_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("503.html", "<h1>Back soon</h1>");
    write("503.json", "{\"back\": \"soon\"}");
    write("403.html", "<h1>Not yours</h1>");
    write("413.html", "<h1>Too much</h1>");
    write("logo.svg", "left alone");
    let top = format!("error_pages = {:?}", folder.path());
    let two =
        two(&top, "[[routes]]\npath = \"/admin\"\nrefuse = 403\n[[routes]]\npath = \"/other\"\nrefuse = 404")
            .await;
    let refused = two.get(SITE, "/admin").await;
    assert_eq!((refused.status, &*refused.body), (403, "<h1>Not yours</h1>"));
    assert_eq!(refused.field("content-type").unwrap(), "text/html; charset=utf-8");
    let ours = two.get(SITE, "/other").await;
    assert!(
        ours.status == 404 && ours.body.contains("cannot be served"),
        "what has none has ours: {}",
        ours.body
    );
    let large =
        format!("POST / HTTP/1.1\nHost: {}:443\nContent-Length: 999999999999\n\n", SITE.to_uppercase());
    let refused = two.ask(SITE, &large).await;
    assert_eq!(
        (refused.status, &*refused.body),
        (413, "<h1>Too much</h1>"),
        "refused before its site was looked up"
    );
    two.main.is_well(false);
    two.shop.is_well(false);
    until("no back end is up", || async { two.get(SITE, "/").await.status == 503 }).await;
    let gone = two.get(SITE, "/").await;
    assert_eq!(&*gone.body, "<h1>Back soon</h1>");
    assert!(gone.field("retry-after").is_some() && gone.field("cache-control").unwrap() == "no-store");
    let json = format!("GET / HTTP/1.1\nHost: {SITE}\nAccept: application/json\n\n");
    assert_eq!(&*two.ask(SITE, &json).await.body, "{\"back\": \"soon\"}");
    until("nor the shop's", || async { two.get(SHOP, "/").await.status == 503 }).await;
    assert!(
        two.get(SHOP, "/").await.body.contains("try again in a moment"),
        "the other site has none of its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn error_pages_that_cannot_be_shown_are_refused_with_their_place() {
    let two = two("", "").await;
    let text = std::fs::read_to_string(two.authority.path("balancer.toml")).unwrap();
    let checked = |folder: &str, argument: &str| {
        let config = two.authority.write("pages.toml", &format!("error_pages = {folder:?}\n{text}"));
        call(&["--config", config.to_str().unwrap(), argument])
    };
    let (code, said) = checked("pages", "--check");
    assert!(code == 64 && said.contains("error_pages: \"pages\" is not an absolute path"), "{said}");
    let (code, said) = checked("/nowhere/pages", "--check-files");
    assert!(code == 64 && said.contains("/nowhere/pages: cannot be read"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.html"), "x").unwrap();
    let (code, said) = checked(folder.path().to_str().unwrap(), "--check-files");
    assert!(code == 64 && said.contains("has no page: they are called 503.html"), "{said}");
    std::fs::write(folder.path().join("500.html"), "x".repeat(257 * 1024)).unwrap();
    let (code, said) = checked(folder.path().to_str().unwrap(), "--check-files");
    assert!(code == 64 && said.contains("500.html: is no regular file, or has more than 256 KiB"), "{said}");
}
