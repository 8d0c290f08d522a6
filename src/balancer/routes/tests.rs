use bytes::BytesMut;
use http::Method;
use http::header::HeaderName;
use regex::bytes::Regex;

use super::circles::{Place, circle};
use super::*;
use trivet_http::request::Request;
use trivet_http::steps::{self, Peer, Policy};
use trivet_tls::clients::ClientVerified;

fn request(method: &str, url: &str, fields: &str) -> (Request, Admitted) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (host, target) = rest.split_at(rest.find('/').unwrap());
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let request =
        Request::parse(BytesMut::from(head.as_bytes()), 100, Vec::new()).map_err(|(e, _)| e).unwrap();
    let peer = Peer {
        address: "192.0.2.1".parse().unwrap(),
        tls: scheme == "https",
        client_certificate: ClientVerified::NotAsked,
        socket: None,
        handshake: None,
    };
    let admitted = steps::admit(&request, &peer, &Policy::inner()).unwrap();
    (request, admitted)
}

pub fn admitted(url: &str) -> Admitted {
    request("GET", url, "").1
}

fn rule(name: &str, when: Condition) -> Rule<()> {
    Rule {
        meter: RouteMeter::new(name.into()),
        when,
        action: Action::Refuse(StatusCode::FORBIDDEN),
        changes: Changed::default(),
    }
}

fn exact(path: &str) -> Condition {
    Condition { path: Some(PathRule::Exact(path.into())), ..Condition::default() }
}

fn prefix(path: &str) -> Condition {
    Condition { path: Some(PathRule::prefix(path)), ..Condition::default() }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

fn answers(rules: &Rules<()>, method: &str, url: &str, fields: &str) -> Option<String> {
    let (request, admitted) = request(method, url, fields);
    rules.find(&request, &admitted).map(|(rule, _)| rule.meter.name().to_owned())
}

#[test]
fn the_first_that_fits_answers_wherever_it_stands() {
    let path = |text| Condition { path: Some(PathRule::Pattern(pattern(text))), ..Condition::default() };
    let rules = Rules::new(vec![
        rule("below", prefix("/a/b")),
        rule("one", exact("/a")),
        rule("images", path(r"\.png$")),
        rule("a", prefix("/a")),
        rule("late", exact("/a/x")),
        rule("posts", Condition { methods: vec![Method::POST], ..Condition::default() }),
    ]);
    for (method, target, expected) in [
        ("GET", "/a/b/c.png", Some("below")),
        ("GET", "/a", Some("one")),
        ("GET", "/a/c.png", Some("images")),
        ("GET", "/a/x", Some("a")),
        ("GET", "/%61/x", Some("a")),
        ("GET", "//a//b", Some("below")),
        ("GET", "/ab", None),
        ("POST", "/ab", Some("posts")),
        ("GET", "/", None),
    ] {
        let found = answers(&rules, method, &format!("https://x{target}"), "");
        assert_eq!(found.as_deref(), expected, "{method} {target}");
    }
}

#[test]
fn all_that_a_rule_asks_for_has_to_be_so() {
    let rules = Rules::new(vec![rule(
        "r",
        Condition {
            hosts: vec!["www.foobar.com".into()],
            fields: vec![(HeaderName::from_static("x-version"), pattern("^2"))],
            query: vec![("a b".into(), pattern("^é$")), ("c".into(), pattern(""))],
            clients: vec!["192.0.2.0/24".parse().unwrap()],
            ..Condition::default()
        },
    )]);
    let good = "https://www.foobar.com/?a+b=%C3%A9&c";
    let fits = |url: &str, fields: &str| answers(&rules, "GET", url, fields).is_some();
    assert!(fits(good, "X-Version: 1\r\nX-Version: 2.1\r\n"));
    assert!(fits("http://WWW.foobar.com:81/?c=1&a%20b=%c3%a9", "x-version: 2\r\n"));
    assert!(!fits(good, ""));
    assert!(!fits(good, "X-Version: 12\r\n"));
    assert!(!fits("https://foobar.com/?a+b=%C3%A9&c", "X-Version: 2\r\n"));
    assert!(!fits("https://www.foobar.com/?a+b=%C3%A9", "X-Version: 2\r\n"));
    assert!(!fits("https://www.foobar.com/", "X-Version: 2\r\n"));
}

#[test]
fn a_rule_that_nothing_reaches_is_found_with_the_one_before_it() {
    let post = Condition { methods: vec![Method::POST], ..prefix("/a/b") };
    let local = |net: &str| Condition { clients: vec![net.parse().unwrap()], ..Condition::default() };
    for (conditions, expected) in [
        (vec![prefix("/a"), exact("/b"), post.clone()], Some((2, 0))),
        (vec![post.clone(), prefix("/a")], None),
        (vec![Condition::default(), exact("/b")], Some((1, 0))),
        // Of which OPTIONS * is left for the second.
        (vec![prefix("/"), Condition::default()], None),
        (vec![local("10.0.0.0/8"), local("10.1.0.0/16")], Some((1, 0))),
        (vec![local("10.1.0.0/16"), local("10.0.0.0/8")], None),
        (vec![local("10.0.0.0/8"), Condition::default()], None),
    ] {
        let shown = format!("{conditions:?}");
        let rules = Rules::new(conditions.into_iter().map(|when| rule("", when)).collect());
        assert_eq!(rules.shadowed(), expected, "{shown}");
    }
}

#[test]
fn a_redirect_leads_where_it_says_and_never_to_a_host_that_the_client_names() {
    let to = |text: &str, url: &str| {
        let admitted = admitted(url);
        let path = PathRule::prefix("/old");
        let found = path.find(&readable(admitted.path()), admitted.path()).unwrap_or_default();
        location(&Template::parse(text, None, true).unwrap(), &admitted, &found)
    };
    for (text, url, expected) in [
        ("/new$rest", "https://x.example:8443/old/a%20b?q=1", "https://x.example:8443/new/a%20b?q=1"),
        ("/new", "https://x.example/old?q=1", "https://x.example/new?q=1"),
        ("/new?", "https://x.example/old?q=1", "https://x.example/new?"),
        ("https://y.example$target", "http://x.example/old?q=1", "https://y.example/old?q=1"),
        ("$rest", "https://x.example/old", "https://x.example/"),
        ("$rest", "https://x.example/old//evil.example", "https://x.example//evil.example"),
        ("$rest", "https://x.example/old/%2F/evil.example", "https://x.example/%2F/evil.example"),
    ] {
        assert_eq!(to(text, url), expected, "{text} {url}");
    }
}

#[test]
fn a_back_end_is_asked_for_what_the_rule_makes_of_the_path() {
    let rewrite = |rule: PathRule, text: &str, groups, url: &str| {
        let admitted = admitted(url);
        let found = rule.find(&readable(admitted.path()), admitted.path()).unwrap();
        rewritten(&Template::parse(text, groups, true).unwrap(), &admitted, &found)
    };
    let api = || PathRule::prefix("/api");
    assert_eq!(rewrite(api(), "$rest", None, "https://x/api/v1/%2F?a"), "/v1/%2F?a");
    assert_eq!(rewrite(api(), "$rest", None, "https://x/api?a"), "/?a");
    let users = PathRule::Pattern(pattern("^/u/(.*)$"));
    assert_eq!(rewrite(users, "/users?id=$1", Some(1), "https://x/u/a%26b?c"), "/users?id=a%26b");
}

#[test]
fn a_redirect_that_comes_back_is_found() {
    let to = |when: Condition, text: &str| {
        let prefix = matches!(when.path, Some(PathRule::Prefix(_)));
        let groups = matches!(when.path, Some(PathRule::Pattern(_))).then_some(1);
        let to = Template::parse(text, groups, prefix).unwrap();
        Rule::<()> {
            changes: Changed::default(),
            meter: RouteMeter::new(String::new()),
            when,
            action: Action::Redirect { to, status: StatusCode::FOUND },
        }
    };
    let any = Condition::default;
    let of_host = |host: &str| Condition { hosts: vec![host.into()], ..any() };
    let path = |text| Condition { path: Some(PathRule::Pattern(pattern(text))), ..any() };
    for (rules, expected) in [
        (vec![to(any(), "/new")], Some(0)),
        (vec![to(any(), "https://www.foobar.com$target")], Some(0)),
        (vec![to(any(), "https://$host/x$path")], Some(0)),
        (vec![to(any(), "https://elsewhere.example$target")], None),
        (vec![to(of_host("m.foobar.com"), "https://www.foobar.com$target")], None),
        (vec![to(prefix("/a"), "/a/b$rest")], Some(0)),
        (vec![to(prefix("/a"), "/ab$rest")], None),
        (vec![to(prefix("/a"), "/b$rest")], None),
        (vec![to(prefix("/a"), "/a$rest")], Some(0)),
        (vec![to(prefix("/a"), "https://$host$target")], Some(0)),
        (vec![to(exact("/a"), "/a")], Some(0)),
        (vec![to(exact("/a"), "/a?")], Some(0)),
        (
            vec![to(exact("/x"), "/b"), to(exact("/a"), "/b"), to(exact("/b"), "https://WWW.foobar.com/a")],
            Some(1),
        ),
        (vec![to(path("^/u/(.*)$"), "/v/$1")], None),
        (vec![to(path("^/u/"), "https://$host$path")], Some(0)),
        // One before it takes what is below, or some of it.
        (vec![rule("", prefix("/a/latest")), to(prefix("/a"), "/a/latest$rest")], None),
        (vec![rule("", prefix("/new")), to(any(), "/new$path")], None),
        (vec![rule("", exact("/a/b/c")), to(prefix("/a"), "/a/b$rest")], None),
        (vec![rule("", prefix("/other")), to(prefix("/a"), "/a/b$rest")], Some(1)),
        // What was posted is asked for by GET.
        (vec![to(Condition { methods: vec![Method::POST], ..exact("/form") }, "/form")], None),
        (vec![to(Condition { methods: vec![Method::GET], ..exact("/form") }, "/form")], Some(0)),
        // Who listens at another port is not known; an alias leads here.
        (vec![to(exact("/x"), "https://www.foobar.com:9443/x")], None),
        (vec![to(exact("/x"), "https://www.foobar.com:443/x")], Some(0)),
        (vec![to(exact("/x"), "https://foobar.com/x")], Some(0)),
        (vec![to(any(), "https://foobar.com$target")], Some(0)),
    ] {
        let shown = format!("{rules:?}");
        let names = ["www.foobar.com".to_owned(), "m.foobar.com".to_owned()];
        let aliases = ["foobar.com".to_owned()];
        let rules = Rules::new(rules);
        let found = circle(&[Place { names: &names, aliases: &aliases, rules: &rules }]);
        assert_eq!(found.map(|circle| circle[0].1), expected, "{shown}");
    }
}

#[test]
fn redirects_that_lead_from_site_to_site_and_back_are_found() {
    let to = |when: Condition, text: &str| {
        let prefix = matches!(when.path, Some(PathRule::Prefix(_)));
        let to = Template::parse(text, None, prefix).unwrap();
        Rule::<()> {
            changes: Changed::default(),
            meter: RouteMeter::new(String::new()),
            when,
            action: Action::Redirect { to, status: StatusCode::MOVED_PERMANENTLY },
        }
    };
    let any = Condition::default;
    let (a, b) = ("https://a.example", "https://b.example");
    for (of_a, of_b, expected) in [
        (vec![to(any(), "https://b.example$target")], vec![to(any(), "https://a.example$target")], true),
        (vec![to(any(), "https://b.example/")], vec![to(exact("/"), "https://a.example/x")], true),
        (vec![to(exact("/x"), &format!("{b}$path"))], vec![to(exact("/x"), &format!("{a}/x"))], true),
        (
            vec![to(prefix("/x"), &format!("{b}$target"))],
            vec![to(prefix("/x"), &format!("{a}/x$rest"))],
            true,
        ),
        // By an alias, and by a name of a wildcard.
        (vec![to(any(), "https://old-b.example$target")], vec![to(any(), &format!("{a}$target"))], true),
        (vec![to(any(), "https://x.b.example$target")], vec![to(any(), &format!("{a}$target"))], true),
        (vec![to(any(), &format!("{b}$target"))], vec![], false),
        (vec![to(any(), &format!("{b}$target"))], vec![to(exact("/y"), &format!("{a}/y"))], false),
        (
            vec![to(prefix("/x"), &format!("{b}$target"))],
            vec![to(prefix("/x/y"), &format!("{a}$target"))],
            false,
        ),
        (
            vec![to(prefix("/x"), &format!("{b}/xy$rest"))],
            vec![to(prefix("/x"), &format!("{a}$target"))],
            false,
        ),
        // One before it may serve it, or its own condition may not hold.
        (
            vec![to(any(), &format!("{b}$target"))],
            vec![rule("", exact("/y")), to(any(), &format!("{a}$target"))],
            false,
        ),
        (
            vec![to(any(), &format!("{b}$target"))],
            vec![to(Condition { methods: vec![Method::POST], ..any() }, &format!("{a}$target"))],
            false,
        ),
        (vec![to(any(), "https://b.example:8443$target")], vec![to(any(), &format!("{a}$target"))], false),
    ] {
        let shown = format!("{of_a:?} {of_b:?}");
        let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (a, b) = (of(&["a.example"]), of(&["b.example", "*.b.example"]));
        let (none, aliases) = (of(&[]), of(&["old-b.example"]));
        let (of_a, of_b) = (Rules::new(of_a), Rules::new(of_b));
        let found = circle(&[
            Place { names: &a, aliases: &none, rules: &of_a },
            Place { names: &b, aliases: &aliases, rules: &of_b },
        ]);
        assert_eq!(found, expected.then(|| vec![(0, 0), (1, 0)]), "{shown}");
    }
}
