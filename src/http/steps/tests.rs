use super::*;
use crate::head::{TestHead, test_head};

const CLIENT: Peer = Peer {
    address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    tls: true,
    client_certificate: ClientVerified::NotAsked,
    socket: None,
    handshake: None,
};

fn edge() -> Policy {
    Policy {
        position: Position::Edge,
        trusted: vec!["10.1.0.0/16".parse().unwrap()],
        server_names: Some(HashSet::from(["www.foobar.com".to_owned()])),
        max_header_size: 1000,
        max_target_length: 100,
        max_body_size: 10,
        hsts: hsts(Duration::from_secs(60), false, false),
        client_certificates: false,
    }
}

fn get(fields: &[(&str, &str)]) -> TestHead {
    let mut all = vec![("host", "www.foobar.com")];
    all.extend_from_slice(fields);
    test_head(Method::GET, Version::HTTP_11, "/a?b", &all)
}

/// What a hop does with a request's fields.
fn pass_on(head: &mut TestHead, admitted: &Admitted) {
    let behind: Vec<HeaderName> =
        head.headers.keys().filter(|n| stays_behind(n.as_str().as_bytes(), &edge())).cloned().collect();
    for name in behind {
        head.headers.remove(&name);
    }
    forward(admitted, |name, value| head.set(name, str::from_utf8(value).unwrap()));
}

fn seen(head: &TestHead, name: &str) -> Vec<String> {
    head.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_client_says_about_itself_is_dropped_at_the_edge() {
    let mut head = get(&[
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x_forwarded_for", "10.0.0.3"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-request-id", "00000000000000000000000000000001"),
        ("trivet-hop", "1"),
        ("proxy", "evil"),
        ("accept", "*/*"),
    ]);
    let admitted = admit(&head, &CLIENT, &edge()).unwrap();
    assert!(!admitted.hop);
    pass_on(&mut head, &admitted);
    assert_eq!(seen(&head, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(seen(&head, "x-real-ip"), ["192.0.2.7"]);
    assert_eq!(seen(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(seen(&head, "x-forwarded-host"), ["www.foobar.com"]);
    assert_eq!(seen(&head, "forwarded"), ["for=192.0.2.7;host=\"www.foobar.com\";proto=https"]);
    assert_eq!(seen(&head, "accept"), ["*/*"]);
    assert_eq!(seen(&head, "x-request-id"), [admitted.request_id]);
    for gone in ["x_forwarded_for", "trivet-hop", "proxy"] {
        assert!(seen(&head, gone).is_empty(), "{gone}");
    }
}

#[test]
fn a_trusted_proxy_is_believed_about_its_client_and_nobody_before_it() {
    let proxy = Peer { address: "10.1.0.9".parse().unwrap(), tls: false, ..CLIENT };
    let seen_by = |peer, lines: &[&str]| {
        let mut fields: Vec<_> = lines.iter().map(|l| ("x-forwarded-for", *l)).collect();
        fields.push(("x-forwarded-proto", "https"));
        let admitted = admit(&get(&fields), peer, &edge()).unwrap();
        (admitted.client.to_string(), admitted.scheme)
    };
    let told = |lines: &[&str]| seen_by(&proxy, lines);
    assert_eq!(told(&["6.6.6.6, 192.0.2.7"]), ("192.0.2.7".into(), "https"));
    assert_eq!(told(&["6.6.6.6", "192.0.2.7, 10.1.2.3"]), ("192.0.2.7".into(), "https"));
    assert_eq!(told(&["::ffff:192.0.2.7"]).0, "192.0.2.7");
    for (written, address) in [
        ("192.0.2.7:51234", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("\"[2001:db8::1]:443\"", "2001:db8::1"),
        ("6.6.6.6:1,\t192.0.2.7:51234 , 10.1.2.3:80", "192.0.2.7"),
    ] {
        assert_eq!(told(&[written]).0, address, "{written}");
    }
    for unknown in ["unknown", "_hidden", "192.0.2.7:", "192.0.2.7:99999", "[2001:db8::1", "1.2.3"] {
        assert_eq!(told(&[unknown]).0, "10.1.0.9", "{unknown}");
    }
    assert_eq!(told(&["6.6.6.6, nonsense, 10.1.2.3"]).0, "10.1.2.3");
    assert_eq!(told(&[]).0, "10.1.0.9");
    let stranger = Peer { address: "10.2.0.9".parse().unwrap(), tls: false, ..CLIENT };
    assert_eq!(seen_by(&stranger, &["192.0.2.7"]), ("10.2.0.9".into(), "http"));
}

#[test]
fn a_scheme_is_read_as_proxies_write_it() {
    let proxy = Peer { address: "10.1.0.9".parse().unwrap(), tls: false, ..CLIENT };
    for (written, scheme) in [
        ("https", "https"),
        ("HTTPS", "https"),
        ("wss", "https"),
        ("https, http", "https"),
        ("ws", "http"),
        ("http,https", "http"),
        ("ftp", "http"),
        ("", "http"),
    ] {
        let admitted = admit(&get(&[("x-forwarded-proto", written)]), &proxy, &edge()).unwrap();
        assert_eq!(admitted.scheme, scheme, "{written}");
    }
}

#[test]
fn the_next_hop_is_told_the_port_that_the_client_sees() {
    let told = |host: &str| {
        let mut head = test_head(Method::GET, Version::HTTP_11, "/", &[("host", host)]);
        let admitted = admit(&head, &CLIENT, &edge()).unwrap();
        pass_on(&mut head, &admitted);
        // As the web tier reads it, behind us, and tells the app.
        let inside = admit(&head, &Peer { tls: false, ..CLIENT }, &Policy::inner()).unwrap();
        assert_eq!((&inside.host, inside.port), (&admitted.host, admitted.port));
        forward(&inside, |name, value| head.set(name, str::from_utf8(value).unwrap()));
        assert!(seen(&head, "forwarded")[0].contains(&format!("host=\"{}\"", admitted.shown_host())));
        (seen(&head, "x-forwarded-host").remove(0), seen(&head, "x-forwarded-port").remove(0))
    };
    assert_eq!(told("www.foobar.com"), ("www.foobar.com".into(), "443".into()));
    assert_eq!(told("www.foobar.com:443"), ("www.foobar.com".into(), "443".into()));
    assert_eq!(told("WWW.foobar.com:8443"), ("www.foobar.com:8443".into(), "8443".into()));
    assert_eq!(told("www.foobar.com:80"), ("www.foobar.com:80".into(), "80".into()));
}

#[test]
fn rfc9110_4_2_3_a_host_is_the_same_with_the_schemes_port_and_without() {
    let admitted = |tls, target: &str, host: &str| {
        let head = test_head(Method::GET, Version::HTTP_11, target, &[("host", host)]);
        admit(&head, &Peer { tls, ..CLIENT }, &edge()).map(|a| a.host)
    };
    for (tls, target, host) in [
        (true, "https://www.foobar.com:443/", "www.foobar.com"),
        (true, "https://www.foobar.com/", "www.foobar.com:443"),
        (true, "http://www.foobar.com:80/", "www.foobar.com"),
        (false, "http://www.foobar.com/", "WWW.FOOBAR.COM:80"),
        (false, "https://www.foobar.com:443/", "www.foobar.com"),
    ] {
        assert_eq!(admitted(tls, target, host).as_deref(), Ok("www.foobar.com"), "{target} {host}");
    }
    for (target, host) in [
        ("https://www.foobar.com:80/", "www.foobar.com"),
        ("https://www.foobar.com:8443/", "www.foobar.com"),
        ("https://www.foobar.com/", "other.example"),
        ("https://www.foobar.com/", "www.foobar.com:x"),
    ] {
        assert_eq!(admitted(true, target, host), Err(Refusal::Host), "{target} {host}");
    }
}

#[test]
fn between_the_tiers_what_the_balancer_told_is_believed() {
    let mut head = get(&[]);
    let at_edge = admit(&head, &CLIENT, &edge()).unwrap();
    pass_on(&mut head, &at_edge);
    head.set(&TRIVET_HOP, "1");
    let balancer = Peer { address: "10.77.0.11".parse().unwrap(), ..CLIENT };
    let inside = admit(&head, &balancer, &Policy::inner()).unwrap();
    assert_eq!((inside.client, inside.scheme, inside.hop), (CLIENT.address, "https", true));
    assert_eq!((inside.request_id, inside.host), (at_edge.request_id, at_edge.host));
}

#[test]
fn every_request_has_an_id_of_its_own() {
    let id = || admit(&get(&[]), &CLIENT, &edge()).unwrap().request_id;
    assert_ne!(id(), id());
    assert!(is_request_id(&id()));
}

#[test]
fn rfc9110_15_5_20_another_sites_name_is_misdirected() {
    let head = test_head(Method::GET, Version::HTTP_11, "/", &[("host", "other.example")]);
    assert_eq!(admit(&head, &CLIENT, &edge()), Err(Refusal::Misdirected));
    let head = test_head(Method::GET, Version::HTTP_11, "/", &[("host", "WWW.foobar.com:443")]);
    assert!(admit(&head, &CLIENT, &edge()).is_ok());
}

#[test]
fn rfc9112_3_2_2_the_authority_of_an_absolute_target_goes_before_host() {
    let head =
        test_head(Method::GET, Version::HTTP_11, "http://www.foobar.com/x?y", &[("host", "www.foobar.com")]);
    let admitted = admit(&head, &CLIENT, &edge()).unwrap();
    assert_eq!((admitted.target.as_str(), admitted.authority.as_deref()), ("/x?y", Some("www.foobar.com")));
    let head =
        test_head(Method::GET, Version::HTTP_11, "http://www.foobar.com/x", &[("host", "other.example")]);
    assert_eq!(admit(&head, &CLIENT, &edge()), Err(Refusal::Host));
}

#[test]
fn rfc9110_9_3_8_trace_and_connect_are_not_for_this_server() {
    let head = test_head(Method::TRACE, Version::HTTP_11, "/", &[("host", "www.foobar.com")]);
    assert_eq!(admit(&head, &CLIENT, &edge()), Err(Refusal::Method));
}

#[test]
fn limits_have_a_refusal_each() {
    let big = "x".repeat(2000);
    assert_eq!(admit(&get(&[("a", &big)]), &CLIENT, &edge()), Err(Refusal::HeadTooLarge));
    let long = format!("/{}", "x".repeat(200));
    let head = test_head(Method::GET, Version::HTTP_11, &long, &[("host", "www.foobar.com")]);
    assert_eq!(admit(&head, &CLIENT, &edge()), Err(Refusal::TargetTooLong));
    assert_eq!(admit(&get(&[("content-length", "11")]), &CLIENT, &edge()), Err(Refusal::BodyTooLarge));
    assert_eq!(admit(&get(&[("expect", "magic")]), &CLIENT, &edge()), Err(Refusal::Expectation));
}

#[test]
fn a_redirect_keeps_the_method_of_what_is_not_get() {
    let to = |m| redirect_to_https(&m, "www.foobar.com", 443, "/a?b");
    assert_eq!(to(Method::GET), (StatusCode::MOVED_PERMANENTLY, "https://www.foobar.com/a?b".into()));
    assert_eq!(to(Method::POST).0, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(redirect_to_https(&Method::GET, "h", 8443, "*").1, "https://h:8443/");
}

#[test]
fn rfc6797_hsts_is_sent_over_tls_only_and_not_for_zero() {
    assert_eq!(hsts(Duration::ZERO, true, true), None);
    assert_eq!(hsts(Duration::from_secs(1), true, true).unwrap(), "max-age=1; includeSubDomains; preload");
    let names = |peer| {
        let admitted = admit(&get(&[]), &peer, &edge()).unwrap();
        let mut names = Vec::new();
        respond(Some(&admitted), "", &edge(), false, |name, _| names.push(name.to_string()));
        names
    };
    assert_eq!(names(CLIENT), ["strict-transport-security", "x-request-id"]);
    assert_eq!(names(Peer { tls: false, ..CLIENT }), ["x-request-id"]);
}

#[test]
fn rfc9110_9_2_2_only_what_is_idempotent_or_keyed_may_be_sent_twice() {
    let head = |method, fields: &[(&str, &str)]| test_head(method, Version::HTTP_11, "/", fields);
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
        assert!(is_repeatable(&head(method, &[])));
    }
    for method in [Method::POST, Method::PATCH] {
        assert!(!is_repeatable(&head(method.clone(), &[])));
        assert!(!is_repeatable(&head(method.clone(), &[("idempotency-key", "")])));
        assert!(is_repeatable(&head(method, &[("idempotency-key", "\"8e03978e\"")])));
    }
    let target = |target| is_repeatable(&test_head(Method::POST, Version::HTTP_11, target, &[]));
    for keyed in ["/a?idempotency-key=8e03978e", "/?x=1&idempotency-key=x", "/?idempotency-key=a=b&y"] {
        assert!(target(keyed), "{keyed}");
    }
    for not in ["/idempotency-key=x", "/?idempotency-key", "/?idempotency-key=", "/?idempotency-key=&x=1"] {
        assert!(!target(not), "{not}");
    }
    for not in
        ["/?xidempotency-key=x", "/?idempotency-keys=x", "/?x=idempotency-key=x", "/?Idempotency-Key=x"]
    {
        assert!(!target(not), "{not}");
    }
}
