//! Sessions that stay on one back end (`sticky`, docs/balancer.md).
#![allow(missing_docs)]

use std::collections::BTreeSet;

use support::app::App;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, NO_CHECKS, PATIENT_CHECKS, SITE};
use support::client::{Answer, Wire};
use support::program::{Program, call};
use support::until;

const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Back ends a, b and c.
struct Scene {
    authority: Authority,
    apps: Vec<App>,
    balancer: Program,
}

/// A configuration with further keys of the back ends, `[web]`, `[web.sticky]` and what comes after.
fn write(authority: &Authority, apps: &[App], keys: [&str; 3], web: &str, more: &str) -> std::path::PathBuf {
    write_below(authority, apps, "", keys, web, more)
}

fn write_below(
    authority: &Authority,
    apps: &[App],
    top: &str,
    keys: [&str; 3],
    web: &str,
    more: &str,
) -> std::path::PathBuf {
    let secret = authority.write("sticky.secret", SECRET);
    let config = BalancerConfig {
        top,
        http: Some("redirect = false"),
        back_ends: vec![("placeholder".into(), apps[0].address)],
        plain_back_ends: true,
        web,
        sections: &more.replace("SECRET", &format!("secret = {secret:?}")),
        ..BalancerConfig::default()
    };
    let path = config.write(authority);
    let servers = apps.iter().zip(["a", "b", "c"]).zip(keys);
    let servers: Vec<_> = servers
        .map(|((app, name), keys)| {
            format!("{{ name = \"node-{name}\", address = \"{}\"{keys} }}", app.address)
        })
        .collect();
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|l| l.starts_with("backends = ")).unwrap();
    authority.write("balancer.toml", &text.replace(line, &format!("backends = [{}]", servers.join(", "))))
}

const STICKY: &str = "[web.sticky]\ncookie = \"srv\"\nSECRET";

impl Scene {
    async fn start(web: &str, sticky: &str) -> Self {
        Self::start_below("", web, sticky).await
    }

    async fn start_below(top: &str, web: &str, sticky: &str) -> Self {
        let authority = Authority::new();
        let mut apps = Vec::new();
        for name in ["a", "b", "c"] {
            apps.push(App::start(name).await);
        }
        let balancer = Program::start(&write_below(&authority, &apps, top, [""; 3], web, sticky));
        Self { authority, apps, balancer }
    }

    async fn http2(&self) -> h2::client::SendRequest<bytes::Bytes> {
        let browser = self.authority.browser(&[b"h2"]);
        let wire = Wire::tls(self.balancer.address("https.listen"), SITE, browser).await;
        let (client, connection) = h2::client::handshake(wire.into_stream()).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn get(&self, fields: &str) -> Answer {
        get(&self.balancer, fields).await
    }

    /// A session on this app: its cookie.
    async fn session_on(&self, app: &str) -> String {
        for _ in 0..3 {
            let answer = self.get("").await;
            if by(&answer) == app {
                return cookie(&answer).expect("a first answer sets it");
            }
        }
        panic!("{app} has no turn");
    }

    async fn metric(&self, line: &str) -> u64 {
        let mut wire = Wire::plain(self.balancer.address("metrics.listen")).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let all = wire.answer().await.unwrap().body;
        all.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or_default()
    }
}

async fn get(balancer: &Program, fields: &str) -> Answer {
    let mut wire = Wire::plain(balancer.address("http.listen")).await;
    wire.send(&format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n{fields}Connection: close\r\n\r\n")).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer
}

/// Who answered.
fn by(answer: &Answer) -> &str {
    answer.body.split(' ').next().unwrap()
}

/// `srv=…`, where the answer sets it.
fn cookie(answer: &Answer) -> Option<String> {
    Some(answer.field("set-cookie")?.split(';').next().unwrap().to_owned())
}

fn line(cookie: &str) -> String {
    format!("Cookie: before=1; {cookie}; after=2\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_where_it_began_and_the_app_knows_nothing_of_it() {
    let scene = Scene::start(PATIENT_CHECKS, STICKY).await;
    let first = scene.get("").await;
    let set = first.field("set-cookie").unwrap();
    assert!(set.starts_with("srv=") && set.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{set}");
    assert_eq!(first.field("cache-control").as_deref(), Some("private"), "no cache gives it to others");
    assert!(!set.contains("node"), "{set}");
    let cookie = cookie(&first).unwrap();
    for _ in 0..6 {
        let answer = scene.get(&line(&cookie)).await;
        assert_eq!(by(&answer), by(&first));
        assert_eq!(answer.field("set-cookie"), None, "the client has it");
        assert_eq!(answer.field("cache-control"), None);
    }
    scene.get(&format!("Cookie: {cookie}\r\n")).await;
    let seen: Vec<String> = scene.apps.iter().flat_map(App::seen).collect();
    assert!(seen.iter().all(|head| !head.contains("srv=")), "{seen:?}");
    assert_eq!(seen.iter().filter(|head| head.contains("Cookie: before=1; after=2\r\n")).count(), 6);
    assert_eq!(seen.iter().filter(|head| head.to_ascii_lowercase().contains("cookie:")).count(), 6);
    let others: BTreeSet<String> =
        [scene.get("").await, scene.get("").await].iter().map(|a| by(a).into()).collect();
    assert!(others.len() == 2 && !others.contains(by(&first)), "who has no cookie goes in turn: {others:?}");
    assert_eq!(scene.metric("trivet_sticky_requests_total{pool=\"web\",result=\"new\"}").await, 3);
    assert_eq!(scene.metric("trivet_sticky_requests_total{pool=\"web\",result=\"kept\"}").await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balancer_reads_the_cookie_and_one_without_weight_keeps_its_sessions() {
    let scene = Scene::start(PATIENT_CHECKS, STICKY).await;
    let cookie = scene.session_on("b").await;
    // Another node's, where b is to be emptied.
    let config = write(&scene.authority, &scene.apps, ["", ", weight = 0", ""], PATIENT_CHECKS, STICKY);
    let other = Program::start(&config);
    for _ in 0..4 {
        assert_eq!(by(&get(&other, &line(&cookie)).await), "b");
        assert_ne!(by(&get(&other, "").await), "b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_back_end_is_down_moves_for_good() {
    let scene = Scene::start(PATIENT_CHECKS, STICKY).await;
    let first = scene.session_on("b").await;
    scene.apps[1].is_well(false);
    until("it has moved", || async { cookie(&scene.get(&line(&first)).await).is_some() }).await;
    let answer = scene.get(&line(&first)).await;
    let (home, second) = (by(&answer).to_owned(), cookie(&answer).unwrap());
    assert_ne!(home, "b");
    scene.apps[1].is_well(true);
    until("b is back", || async { by(&scene.get("").await) == "b" }).await;
    let answer = scene.get(&line(&second)).await;
    assert_eq!((by(&answer), cookie(&answer)), (&*home, None));
    assert_eq!(by(&scene.get(&line(&first)).await), "b", "whoever slept meanwhile finds it again");
    assert!(scene.metric("trivet_sticky_requests_total{pool=\"web\",result=\"moved\"}").await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_back_end_cannot_be_connected_to_moves_within_the_same_request() {
    let scene = Scene::start(NO_CHECKS, STICKY).await;
    let first = scene.session_on("c").await;
    scene.apps[2].kill().await;
    let answer = scene.get(&line(&first)).await;
    assert_ne!(by(&answer), "c");
    let second = cookie(&answer).expect("it is set anew");
    for _ in 0..3 {
        assert_eq!(by(&scene.get(&line(&second)).await), by(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_foreign_cookie_is_ignored_and_replaced() {
    let scene = Scene::start(PATIENT_CHECKS, STICKY).await;
    let good = scene.session_on("a").await;
    let last = if good.ends_with('A') { 'E' } else { 'A' };
    let changed = format!("{}{last}", &good[..good.len() - 1]);
    for forged in
        ["srv=node-b", "srv=", "srv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &changed]
    {
        let all = [(); 3].map(|()| line(forged));
        let mut met = BTreeSet::new();
        for fields in all {
            let answer = scene.get(&fields).await;
            assert!(cookie(&answer).is_some(), "{forged}");
            met.insert(by(&answer).to_owned());
        }
        assert_eq!(met.len(), 3, "{forged} goes in turn");
    }
    // Another domain's cookie of the same name may stand before ours.
    let both = scene.get(&format!("Cookie: srv=other; {good}\r\n")).await;
    assert_eq!((by(&both), cookie(&both)), ("a", None));
    assert_eq!(scene.metric("trivet_sticky_requests_total{pool=\"web\",result=\"invalid\"}").await, 12);
    assert!(scene.apps.iter().flat_map(App::seen).all(|head| !head.contains("srv=")));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_the_cookies_may_come_in_pieces() {
    let scene = Scene::start(PATIENT_CHECKS, STICKY).await;
    let mut client = scene.http2().await;
    let mut get = async |cookies: &[&str]| {
        let mut request = http::Request::get(format!("https://{SITE}/"));
        for cookie in cookies {
            request = request.header("cookie", *cookie);
        }
        let answer = client.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
        let (head, mut body) = answer.into_parts();
        let body = body.data().await.unwrap().unwrap();
        let who = String::from_utf8_lossy(&body).split(' ').next().unwrap().to_owned();
        (who, head.headers)
    };
    let (first, head) = get(&[]).await;
    assert_eq!(head["cache-control"], "private");
    let set = head["set-cookie"].to_str().unwrap().to_owned();
    let cookie = set.split(';').next().unwrap();
    for _ in 0..4 {
        let (who, head) = get(&["before=1", cookie, "after=2"]).await;
        assert!(who == first && !head.contains_key("set-cookie"), "{who}");
    }
    let seen: Vec<String> = scene.apps.iter().flat_map(App::seen).collect();
    let whole = seen.iter().filter(|h| h.to_ascii_lowercase().contains("cookie: before=1; after=2\r\n"));
    assert_eq!(whole.count(), 4, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_given_to_no_cache_whatever_the_site_says_of_its_answers() {
    let top = "response_fields = { set = { \"Cache-Control\" = \"public, max-age=60\", \"CDN-Cache-Control\" = \"max-age=60\" }, remove = [\"Set-Cookie\"] }";
    let scene = Scene::start_below(top, PATIENT_CHECKS, STICKY).await;
    let first = scene.get("").await;
    assert_eq!(first.head.to_ascii_lowercase().matches("cache-control:").count(), 1, "{}", first.head);
    assert_eq!(first.field("cache-control").as_deref(), Some("private, max-age=60"));
    let cookie = cookie(&first).unwrap();
    let second = scene.get(&line(&cookie)).await;
    assert_eq!(second.field("cache-control").as_deref(), Some("public, max-age=60"), "it is as any other");
    assert_eq!(second.field("cdn-cache-control").as_deref(), Some("max-age=60"));
    let request = http::Request::get(format!("https://{SITE}/")).body(()).unwrap();
    let answer = scene.http2().await.send_request(request, true).unwrap().0.await.unwrap();
    let caches: Vec<_> = answer.headers().get_all("cache-control").iter().collect();
    assert!(
        caches == ["private, max-age=60"] && !answer.headers().contains_key("cdn-cache-control"),
        "{answer:?}"
    );
    assert!(answer.headers().contains_key("set-cookie"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ticket_secret_serves_where_there_is_no_other_and_keys_may_be_said() {
    let sticky = "[web.sticky]\ncookie = \"srv\"\nmax_age = \"2h\"\nsecure = false\nhttp_only = false\nsame_site = \"strict\"";
    let authority = Authority::new();
    let apps = [App::start("a").await, App::start("b").await, App::start("c").await];
    let secret = authority.write("ticket.secret", SECRET);
    let tls = format!("[https.tls]\nticket_secret = {secret:?}\n{sticky}");
    let balancer = Program::start(&write(&authority, &apps, [""; 3], PATIENT_CHECKS, &tls));
    let set = get(&balancer, "").await.field("set-cookie").unwrap();
    assert!(set.ends_with("; Path=/; SameSite=Strict; Max-Age=7200"), "{set}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_browser_would_keep_or_nobody_could_read_is_refused_with_its_key() {
    let authority = Authority::new();
    let apps = [App::start("a").await, App::start("b").await, App::start("c").await];
    let pool = format!("[pools.api]\nbackends = [{{ name = \"x\", address = \"{}\" }}]\n", apps[0].address);
    let route = "[[routes]]\npath_prefix = \"/api\"\npool = \"api\"\n";
    for (sections, words) in [
        (
            "[web.sticky]\ncookie = \"srv\"",
            "web.sticky.secret: is missing: a file with one secret for all balancers",
        ),
        ("[web.sticky]\nSECRET", "missing field `cookie`"),
        ("[web.sticky]\ncookie = \"a b\"\nSECRET", "web.sticky.cookie: \"a b\" is no name of a cookie"),
        ("[web.sticky]\ncookie = \"\"\nSECRET", "web.sticky.cookie: \"\" is no name of a cookie"),
        ("[web.sticky]\ncookie = \"srv\"\nsecret = \"here\"", "web.sticky.secret: "),
        (
            "[web.sticky]\ncookie = \"__Host-srv\"\nsecure = false\nSECRET",
            "web.sticky.secure: must be true for a cookie",
        ),
        (
            "[web.sticky]\ncookie = \"srv\"\nsame_site = \"none\"\nsecure = false\nSECRET",
            "web.sticky.secure: must be true with",
        ),
        ("[web.sticky]\ncookie = \"srv\"\nsame_site = \"all\"\nSECRET", "unknown variant `all`"),
        ("[web.sticky]\ncookie = \"srv\"\nmax_age = \"0s\"\nSECRET", "web.sticky.max_age: must be from"),
        ("[web.sticky]\ncookie = \"srv\"\nmax_age = \"401d\"\nSECRET", "web.sticky.max_age: must be from"),
        ("[web.sticky]\ncookie = \"srv\"\nmaxage = \"1d\"\nSECRET", "unknown field `maxage`"),
        (
            &format!("{STICKY}\n{pool}[pools.api.sticky]\ncookie = \"srv\"\nSECRET\n{route}"),
            "pools.api.sticky.cookie: \"srv\" is the cookie of the pool web, too, and the site main has both",
        ),
    ] {
        let config = write(&authority, &apps, [""; 3], PATIENT_CHECKS, sections);
        let (code, said) = call(&["--config", config.to_str().unwrap(), "--check"]);
        assert_eq!(code, 64, "{sections}: {said}");
        assert!(said.contains(words), "{sections}: {said}");
    }
    let config = write(
        &authority,
        &apps,
        [""; 3],
        PATIENT_CHECKS,
        "[web.sticky]\ncookie = \"srv\"\nsecret = \"/missing\"",
    );
    let checked = |how| call(&["--config", config.to_str().unwrap(), how]);
    assert_eq!(checked("--check").0, 0, "which needs no secrets");
    let (code, said) = checked("--check-files");
    assert!(code != 0 && said.contains("/missing"), "{code} {said}");
}
