//! The balancer in plain text, behind something that ends TLS itself: HTTP served as it comes, back ends without TLS.
#![allow(missing_docs)]

use std::path::PathBuf;

use support::app::{Act, App};
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, SITE};
use support::client::Wire;
use support::program::{Program, call};
use support::until;

fn configure(authority: &Authority, backend: &App, http: &str) -> PathBuf {
    let config = BalancerConfig {
        http: Some(http),
        back_ends: vec![("node 1".into(), backend.address)],
        plain_back_ends: true,
        web: "health = { interval = \"100ms\", timeout = \"10s\" }",
        ..BalancerConfig::default()
    };
    config.write(authority)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redirect_false_plain_http_is_served_from_back_ends_without_tls() {
    let (authority, backend) = (Authority::new(), App::start("first").await);
    let balancer = Program::start(&configure(&authority, &backend, "redirect = false"));
    let mut wire = Wire::plain(balancer.address("http.listen")).await;
    for _ in 0..2 {
        wire.send(&get("/a?b=c")).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("strict-transport-security"), None, "RFC 6797 section 7.2");
    }
    let seen = backend.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].contains("x-forwarded-proto: http\r\n"), "{}", seen[0]);
    assert!(seen[0].contains("host: www.foobar.com\r\n"), "{}", seen[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_plain_http_is_redirected_and_https_is_served_from_back_ends_without_tls() {
    let (authority, backend) = (Authority::new(), App::start("first").await);
    let balancer = Program::start(&configure(&authority, &backend, ""));
    let mut wire = Wire::plain(balancer.address("http.listen")).await;
    wire.send(&get("/a")).await;
    assert_eq!(wire.answer().await.unwrap().status, 301);
    let mut wire = Wire::tls(balancer.address("https.listen"), SITE, authority.browser(&[b"http/1.1"])).await;
    wire.send(&get("/b")).await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert_eq!((backend.count("/a"), backend.count("/b")), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn back_ends_without_tls_are_checked_in_plain_text() {
    let (authority, backend) = (Authority::new(), App::start("first").await);
    let balancer = Program::start(&configure(&authority, &backend, "redirect = false"));
    let address = balancer.address("http.listen");
    let status = || async {
        let mut wire = Wire::plain(address).await;
        wire.send(&get("/")).await;
        wire.answer().await.unwrap().status
    };
    backend.is_well(false);
    until("the unwell back end is left alone", || async { status().await == 503 }).await;
    backend.is_well(true);
    until("the back end is used again", || async { status().await == 200 }).await;
    backend.does(Act::HangUp);
    assert_eq!(status().await, 502);
}

#[test]
fn a_name_that_could_not_stand_in_a_certificate_is_refused_only_where_tls_is_spoken() {
    let authority = Authority::new();
    let site = authority.files(SITE);
    let text = |tls: &str| {
        format!(
            "node = \"n\"\ndomain = \"{SITE}\"\n[https]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"{}\"\nkey = \"{}\"\n[web]\n\
             backends = [{{ name = \"node 1\", address = \"127.0.0.1:8443\" }}]\n{tls}",
            site.certificate.display(),
            site.key.display()
        )
    };
    let plain = authority.write("plain.toml", &text(""));
    assert_eq!(call(&["--config", plain.to_str().unwrap(), "--check"]).0, 0);
    let tls =
        authority.write("tls.toml", &text("tls = { ca = \"/ca\", certificate = \"/c\", key = \"/k\" }"));
    let (code, said) = call(&["--config", tls.to_str().unwrap(), "--check"]);
    assert_eq!(code, 64);
    assert!(said.contains("web.backends[0]") && said.contains("certificate"), "{said}");
}
