//! Back ends by unix socket, and by a name whose addresses DNS tells (docs/balancer.md).
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

use support::app::App;
use support::authority::Authority;
use support::balancer_config::{BalancerConfig, SITE};
use support::client::{Answer, Wire};
use support::program::{Program, call};
use support::until;

/// Checks that find a change soon, and are not put off by a busy machine.
const CHECKS: &str = "health = { interval = \"100ms\", timeout = \"10s\", rise = 1, fall = 1 }";

/// A balancer's file with these back ends, in plain text, and these keys of `[web]`.
fn write(authority: &Authority, backends: &str, web: &str) -> PathBuf {
    let config = BalancerConfig {
        http: Some("redirect = false"),
        plain_back_ends: true,
        web: &format!("{CHECKS}\n{web}"),
        ..BalancerConfig::default()
    };
    let path = config.write(authority);
    let text = std::fs::read_to_string(&path).unwrap();
    authority.write("balancer.toml", &text.replace("backends = []", &format!("backends = [{backends}]")))
}

async fn get(balancer: &Program) -> Answer {
    let mut wire = Wire::plain(balancer.address("http.listen")).await;
    wire.send(&format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n")).await;
    wire.answer().await.unwrap()
}

/// Who answers; the status when nobody does.
async fn who(balancer: &Program) -> String {
    let answer = get(balancer).await;
    match answer.status {
        200 => answer.body.split(' ').next().unwrap().to_owned(),
        status => status.to_string(),
    }
}

fn refused(authority: &Authority, backends: &str, web: &str) -> String {
    let path = write(authority, backends, web);
    let (status, said) = call(&["--config", path.to_str().unwrap(), "--check"]);
    assert_eq!(status, 64, "{backends} {web}: {said}");
    said
}

fn unix(path: &Path) -> String {
    format!("{{ name = \"app\", address = \"unix:{}\" }}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_a_unix_socket_is_served_as_soon_as_it_is_there() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let socket = folder.path().join("app.sock");
    let balancer = Program::start(&write(&authority, &unix(&socket), ""));
    assert_eq!(who(&balancer).await, "503", "nobody listens there yet");
    balancer.logged(|line| line["message"] == "back end is down" && line["backend"] == "app");

    let app = App::start_on_socket(&socket, "first").await;
    until("it is found", || async { who(&balancer).await == "first" }).await;
    let before = app.accepted();
    for _ in 0..20 {
        assert_eq!(who(&balancer).await, "first");
    }
    assert!(app.accepted() - before < 5, "connections to it are kept");

    // A deployment: the old one leaves its socket behind, the new one takes the path.
    drop(app);
    std::fs::remove_file(&socket).unwrap();
    until("nobody is there", || async { who(&balancer).await == "503" }).await;
    let _app = App::start_on_socket(&socket, "second").await;
    until("its successor is found", || async { who(&balancer).await == "second" }).await;
}

#[test]
fn what_a_unix_socket_cannot_have_is_refused() {
    let authority = Authority::new();
    let app = "{ name = \"app\", address = \"unix:/run/app.sock\" }";
    for (backends, web, words) in [
        ("{ name = \"app\", address = \"unix:app.sock\" }", "", ["address", "unix:/run/app/app.sock"]),
        (
            app,
            "tls = { ca = \"/a\", certificate = \"/b\", key = \"/c\" }",
            ["backends[0].address", "without tls"],
        ),
    ] {
        let said = refused(&authority, backends, web);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}
