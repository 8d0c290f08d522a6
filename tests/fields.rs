//! What sites and routes change of the fields of requests and answers: `request_fields`, `response_fields`, `security_headers`, `cors`
//! (docs/sites.md).
#![allow(missing_docs)]

use http::{Request, Response};
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, NO_CHECKS, SITE};
use support::client::{Answer, Wire};
use support::link::Message;
use support::origin::Origin;
use support::program::{Program, call};

struct Scene {
    authority: Authority,
    origin: Origin,
    balancer: Program,
}

impl Scene {
    /// With these keys above all sections.
    async fn with(top: &str) -> Self {
        let authority = Authority::new();
        let origin = Origin::start(authority.mutual_server("node0")).await;
        let config = BalancerConfig {
            top,
            http: Some("redirect = false"),
            back_ends: vec![("node0".into(), origin.address)],
            web: NO_CHECKS,
            ..BalancerConfig::default()
        };
        let balancer = Program::start(&config.write(&authority));
        Self { authority, origin, balancer }
    }

    /// Over TLS and HTTP/1.1.
    async fn ask(&self, request: &str) -> Answer {
        let browser = self.authority.browser(&[b"http/1.1"]);
        let mut wire = Wire::tls(self.balancer.address("https.listen"), SITE, browser).await;
        wire.send(&request.replace('\n', "\r\n")).await;
        wire.answer().await.unwrap()
    }

    async fn get(&self, target: &str, fields: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\nHost: {SITE}\n{fields}\n")).await
    }

    /// Over HTTP/2.
    async fn get_h2(&self, target: &str, fields: &[(&str, &str)]) -> Response<()> {
        let wire =
            Wire::tls(self.balancer.address("https.listen"), SITE, self.authority.browser(&[b"h2"])).await;
        let (mut client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::get(format!("https://{SITE}{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let (head, _) = answer.await.unwrap().into_parts();
        connection.abort();
        Response::from_parts(head, ())
    }

    /// What the back end saw last.
    fn seen(&self) -> Message {
        self.origin.seen().pop().unwrap()
    }
}

/// All values of a field.
fn values(head: &str, name: &str) -> Vec<String> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned()).collect()
}

fn of_h2(answer: &Response<()>, name: &str) -> Vec<String> {
    answer.headers().get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
}

const CHANGES: &str = r#"
request_fields = { set = { "X-Tenant" = "main", "X-Tls" = "$tls_version for $sni" }, remove = ["X-Debug"] }
response_fields = { set = { "X-Served" = "$host as $request_id" }, remove = ["Server"], default = { "Cache-Control" = "no-cache" } }
routes = [
  { path_prefix = "/api", request_fields = { set = { "X-Tenant" = "api$rest", "X-Forwarded-Prefix" = "/api" }, add = { "X-Note" = "one" } }, response_fields = { add = { "X-Note" = "two" } } },
  { path = "/gone", refuse = 410, response_fields = { set = { "X-Why" = "moved away" } } },
  { path = "/fixed", answer = { content = "here" }, response_fields = { set = { "Content-Language" = "en" } } },
]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_requests_are_set_added_and_taken_out() {
    let scene = Scene::with(CHANGES).await;
    scene.get("/", "X-Tenant: forged\nX_Tenant: forged\nX-Debug: 1\nX-Kept: yes\n").await;
    let seen = scene.seen();
    assert_eq!(seen.values("x-tenant"), ["main"]);
    assert_eq!(seen.values("x_tenant"), [""; 0]);
    assert_eq!(seen.values("x-debug"), [""; 0]);
    assert_eq!(seen.values("x-kept"), ["yes"]);
    assert_eq!(seen.values("x-tls"), [format!("TLSv1.3 for {SITE}")]);
    // A route's word after its site's.
    scene.get("/api/users", "X-Note: none\n").await;
    let seen = scene.seen();
    assert_eq!(seen.values("x-tenant"), ["api/users"]);
    assert_eq!(seen.values("x-note"), ["none", "one"]);
    assert_eq!(seen.values("x-forwarded-prefix"), ["/api"]);
    assert_eq!(seen.values("x-tls"), [format!("TLSv1.3 for {SITE}")]);
    // As over HTTP/2.
    scene.get_h2("/api", &[("x-tenant", "forged")]).await;
    assert_eq!(scene.seen().values("x-tenant"), ["api"]);
    assert!(scene.origin.broken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_answers_whoever_answers_and_in_whatever_protocol() {
    let scene = Scene::with(CHANGES).await;
    scene.origin.answers(
        "HTTP/1.1 200 OK\r\nServer: app\r\nX-Note: app\r\nX-Served: app\r\nContent-Length: 2\r\n\r\nok",
    );
    let answer = scene.get("/api", "").await;
    let id = answer.field("x-request-id").unwrap();
    assert_eq!(values(&answer.head, "x-served"), [format!("{SITE} as {id}")]);
    assert_eq!(values(&answer.head, "server"), [""; 0]);
    assert_eq!(values(&answer.head, "x-note"), ["app", "two"]);
    assert_eq!(values(&answer.head, "cache-control"), ["no-cache"]);
    assert_eq!(answer.body, "ok");
    let answer = scene.get_h2("/api", &[]).await;
    assert_eq!(of_h2(&answer, "x-note"), ["app", "two"]);
    assert_eq!(of_h2(&answer, "server"), [""; 0]);
    assert_eq!(of_h2(&answer, "cache-control"), ["no-cache"]);
    // The app's own word goes before a default.
    scene.origin.answers("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(values(&scene.get("/", "").await.head, "cache-control"), ["max-age=60"]);
    assert_eq!(of_h2(&scene.get_h2("/", &[]).await, "cache-control"), ["max-age=60"]);
    // What the balancer says itself.
    let answer = scene.get("/gone", "").await;
    assert_eq!((answer.status, values(&answer.head, "x-why")), (410, vec!["moved away".into()]));
    assert_eq!(values(&answer.head, "cache-control"), ["no-store"]);
    let answer = scene.get("/fixed", "").await;
    assert_eq!((answer.body.as_str(), values(&answer.head, "content-language")), ("here", vec!["en".into()]));
    assert_eq!(of_h2(&scene.get_h2("/fixed", &[]).await, "content-language"), ["en"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn security_headers_give_way_to_the_apps_own_and_hsts_to_whoever_is_told() {
    let scene = Scene::with(
        "security_headers = true\nroutes = [{ path = \"/ours\", response_fields = { remove = [\"Strict-Transport-Security\"] } }]",
    )
    .await;
    scene.origin.answers(
        "HTTP/1.1 200 OK\r\nX-Frame-Options: DENY\r\nStrict-Transport-Security: max-age=5\r\nContent-Length: 0\r\n\r\n",
    );
    let answer = scene.get("/", "").await;
    assert_eq!(values(&answer.head, "x-content-type-options"), ["nosniff"]);
    assert_eq!(values(&answer.head, "referrer-policy"), ["strict-origin-when-cross-origin"]);
    assert_eq!(values(&answer.head, "x-frame-options"), ["DENY"]);
    assert_eq!(values(&answer.head, "strict-transport-security"), ["max-age=5"]);
    let ours = values(&scene.get("/ours", "").await.head, "strict-transport-security");
    assert_eq!(ours, ["max-age=31536000"], "the app's own is taken out, and ours said");
    assert_eq!(of_h2(&scene.get_h2("/ours", &[]).await, "strict-transport-security"), ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_answers_are_for_the_redirects_of_aliases_and_of_plain_http_too() {
    let authority = Authority::new();
    let origin = Origin::start(authority.mutual_server("node0")).await;
    let config = BalancerConfig {
        top: "aliases = [\"old.foobar.com\"]\nsecurity_headers = true\nresponse_fields = { set = { \"X-Site\" = \"$host\", \"Strict-Transport-Security\" = \"max-age=7\" } }",
        http: Some(""),
        back_ends: vec![("node0".into(), origin.address)],
        web: NO_CHECKS,
        ..BalancerConfig::default()
    };
    let balancer = Program::start(&config.write(&authority));
    let scene = Scene { authority, origin, balancer };
    let moved = scene.ask("GET /a HTTP/1.1\nHost: old.foobar.com\n\n").await;
    assert_eq!(moved.status, 301);
    assert_eq!(values(&moved.head, "x-site"), ["old.foobar.com"]);
    assert_eq!(values(&moved.head, "x-content-type-options"), ["nosniff"]);
    assert_eq!(values(&moved.head, "strict-transport-security"), ["max-age=7"]);
    let mut wire = Wire::plain(scene.balancer.address("http.listen")).await;
    wire.send(&format!("GET /a HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    let moved = wire.answer().await.unwrap();
    assert_eq!(moved.status, 301);
    assert_eq!(values(&moved.head, "x-site"), [SITE]);
    assert_eq!(values(&moved.head, "x-content-type-options"), ["nosniff"]);
    assert_eq!(values(&moved.head, "strict-transport-security"), [""; 0], "RFC 6797 section 7.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6797_7_2_hsts_is_never_sent_over_plain_http() {
    let scene = Scene::with(
        "response_fields = { add = { \"Strict-Transport-Security\" = \"max-age=7\", \"X-Site\" = \"main\" } }",
    )
    .await;
    scene.origin.answers(
        "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=5\r\nX-App: here\r\nContent-Length: 0\r\n\r\n",
    );
    let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    let mut wire = Wire::plain(scene.balancer.address("http.listen")).await;
    wire.send(&request).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!(values(&answer.head, "strict-transport-security"), [""; 0]);
    assert_eq!(
        (values(&answer.head, "x-app"), values(&answer.head, "x-site")),
        (vec!["here".into()], vec!["main".into()])
    );
    // By prior knowledge (RFC 9113 section 3.3).
    let wire = Wire::plain(scene.balancer.address("http.listen")).await;
    let (mut client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{SITE}/")).body(()).unwrap();
    let (head, _) = client.send_request(request, true).unwrap().0.await.unwrap().into_parts();
    connection.abort();
    let answer = Response::from_parts(head, ());
    assert_eq!(of_h2(&answer, "strict-transport-security"), [""; 0]);
    assert_eq!(of_h2(&answer, "x-app"), ["here"]);
    assert_eq!(
        values(&scene.get("/", "").await.head, "strict-transport-security"),
        ["max-age=5", "max-age=7"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_word_undoes_its_sites_and_a_client_keeps_no_default_out() {
    let scene = Scene::with(
        "security_headers = true\nrequest_fields = { add = { \"X-Role\" = \"guest\" }, default = { \"X-Forwarded-Prefix\" = \"/x\", \"X-Tenant\" = \"main\" } }\n\
         routes = [{ path = \"/framed\", response_fields = { remove = [\"X-Frame-Options\"] }, request_fields = { set = { \"X-Role\" = \"admin\" } } }]",
    )
    .await;
    let answer = scene.get("/framed", "X_Role: forged\n").await;
    assert_eq!(values(&answer.head, "x-frame-options"), [""; 0]);
    assert_eq!(values(&answer.head, "x-content-type-options"), ["nosniff"]);
    assert_eq!(
        (scene.seen().values("x-role"), scene.seen().values("x_role")),
        (vec!["admin".into()], vec![])
    );
    // What is for this hop alone, or ours to say, stays behind, and leaves the default its place.
    scene.get("/", "Connection: X-Tenant\nX-Tenant: forged\nX-Forwarded-Prefix: /forged\n").await;
    let seen = scene.seen();
    assert_eq!(seen.values("x-tenant"), ["main"]);
    assert_eq!(seen.values("x-forwarded-prefix"), ["/x"]);
    scene.get("/", "X-Tenant: own\n").await;
    assert_eq!(scene.seen().values("x-tenant"), ["own"]);
}

const CORS: &str = r#"
cors = { origins = ["https://app.example.org", "http://localhost:3000"], credentials = true, expose = ["X-Total"], max_age = "10m" }
routes = [{ path_prefix = "/open", cors = { origins = ["*"], methods = ["GET"], fields = ["X-Key"] } }, { path = "/closed", refuse = 403 }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_pages_may_what_cors_says() {
    let scene = Scene::with(CORS).await;
    scene.origin.answers(
        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\nContent-Length: 2\r\n\r\nok",
    );
    let origin = "Origin: https://app.example.org\n";
    let answer = scene.get("/", origin).await;
    assert_eq!(values(&answer.head, "access-control-allow-origin"), ["https://app.example.org"]);
    assert_eq!(values(&answer.head, "access-control-allow-credentials"), ["true"]);
    assert_eq!(values(&answer.head, "access-control-expose-headers"), ["X-Total"]);
    assert_eq!(values(&answer.head, "vary"), ["Accept", "Origin"]);
    // A stranger's page is told nothing, and a cache that the answer depends on it.
    for fields in ["Origin: https://evil.example\n", ""] {
        let answer = scene.get("/", fields).await;
        assert_eq!(values(&answer.head, "access-control-allow-origin"), [""; 0], "{fields}");
        assert_eq!(values(&answer.head, "vary"), ["Accept", "Origin"]);
    }
    // What is for all is said to all: a cache may show it to whoever comes next.
    for fields in [origin, ""] {
        let open = scene.get("/open", fields).await;
        assert_eq!(values(&open.head, "access-control-allow-origin"), ["*"], "{fields}");
        assert_eq!(values(&open.head, "vary"), ["Accept"]);
    }
    let over_h2 = scene.get_h2("/", &[("origin", "http://localhost:3000")]).await;
    assert_eq!(of_h2(&over_h2, "access-control-allow-origin"), ["http://localhost:3000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_for_the_app() {
    let scene = Scene::with(CORS).await;
    let ask = |target: &'static str, fields: &'static str| {
        scene.ask(Box::leak(format!("OPTIONS {target} HTTP/1.1\nHost: {SITE}\n{fields}\n").into_boxed_str()))
    };
    let answer = ask(
        "/api",
        "Origin: https://app.example.org\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: x-a, x-b\n",
    )
    .await;
    assert_eq!(answer.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.org"),
        ("access-control-allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("access-control-allow-headers", "x-a, x-b"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(values(&answer.head, name), [value], "{name}");
    }
    let stranger = ask("/api", "Origin: https://evil.example\nAccess-Control-Request-Method: PUT\n").await;
    assert_eq!((stranger.status, values(&stranger.head, "access-control-allow-origin")), (204, vec![]));
    let open = ask("/open", "Origin: https://x.example\nAccess-Control-Request-Method: GET\nAccess-Control-Request-Headers: x-a\n").await;
    assert_eq!(values(&open.head, "access-control-allow-methods"), ["GET"]);
    assert_eq!(values(&open.head, "access-control-allow-headers"), ["X-Key"]);
    assert!(scene.origin.seen().is_empty(), "the app was not asked");
    // What is refused is refused, and another OPTIONS is the app's.
    assert_eq!(
        ask("/closed", "Origin: https://app.example.org\nAccess-Control-Request-Method: PUT\n").await.status,
        403
    );
    ask("/api", "Origin: https://app.example.org\n").await;
    assert_eq!(scene.origin.seen().len(), 1);
}

#[test]
fn what_would_smuggle_contradict_or_mean_nothing_is_refused_by_its_key() {
    let authority = Authority::new();
    for (top, words) in [
        (
            r#"request_fields = { set = { "Host" = "x" } }"#,
            "request_fields.set.Host: Host says how the message is framed",
        ),
        (r#"request_fields = { remove = ["Content-Length"] }"#, "request_fields.remove: Content-Length"),
        (r#"request_fields = { add = { "X_Forwarded_For" = "x" } }"#, "tells the back end who the client is"),
        (
            r#"request_fields = { set = { "X-SSL-Client-Verify" = "SUCCESS" } }"#,
            "tells the back end who the client is",
        ),
        (r#"request_fields = { set = { "X A" = "x" } }"#, "is no name of a field"),
        (
            r#"request_fields = { set = { "X-A" = "a\nb" } }"#,
            "request_fields.set.X-A: is no value of a field",
        ),
        (r#"request_fields = { set = { "X-A" = "$nothing" } }"#, "has $nothing, which is no variable"),
        (r#"request_fields = { set = { "X-A" = "$rest" } }"#, "has $rest, and the rule has no path_prefix"),
        (
            r#"response_fields = { set = { "Transfer-Encoding" = "chunked" } }"#,
            "response_fields.set.Transfer-Encoding",
        ),
        (r#"response_fields = { set = { "Content-Encoding" = "gzip" } }"#, "says what the content is"),
        (r#"response_fields = { remove = ["Date"] }"#, "is said by the balancer on every answer"),
        (r#"response_fields = { replace = {} }"#, "unknown field `replace`"),
        (
            r#"routes = [{ path = "/x", refuse = 403, request_fields = { set = { "X-A" = "b" } } }]"#,
            "says more than one thing",
        ),
        (r#"cors = { origins = [] }"#, "cors.origins"),
        (r#"cors = { origins = ["*"], credentials = true }"#, "cors.credentials: goes with no"),
        (r#"cors = { origins = ["*", "https://a.example"] }"#, "cors.origins"),
        (r#"cors = { origins = ["https://a.example/"] }"#, "is no origin"),
        (r#"cors = { origins = ["a.example"] }"#, "is no origin"),
        (r#"cors = { origins = ["https://a.example"], methods = ["GET", "P UT"] }"#, "cors.methods"),
        (r#"routes = [{ path = "/x", cors = { origins = ["x"] } }]"#, "routes[0].cors.origins"),
    ] {
        let config = BalancerConfig {
            top,
            back_ends: vec![("a".into(), "127.0.0.1:1".parse().unwrap())],
            plain_back_ends: true,
            ..BalancerConfig::default()
        };
        let path = config.write(&authority);
        let (code, said) = call(&["--check", "--config", path.to_str().unwrap()]);
        assert_eq!(code, 64, "{top}: {said}");
        assert!(said.contains(words), "{top}: {said}");
    }
}
