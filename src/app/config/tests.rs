use super::*;

fn toml(text: &str) -> Result<Config, ConfigError> {
    config::parse(Path::new("app.toml"), text)
}

#[test]
fn an_empty_file_is_a_good_configuration() {
    let c = toml("").unwrap();
    assert_eq!(c.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(c.metrics.listen.to_string(), "127.0.0.1:9603");
    assert_eq!(c.database.gtid_wait, Duration::from_millis(500));
}

#[test]
fn the_contracts_example_is_accepted_as_json() {
    let text = r#"{"node":"node1","listen":"127.0.0.1:8081","site":{"title":"Foobar","base_url":"https://www.foobar.com",
        "page_size":10},"database":{"ca_file":"/run/credentials/trivet-app.service/ca.pem","write_pool":16,
        "acquire_timeout":"5s","gtid_wait":"500ms"},"session":{"lifetime":"30d"},"log":{"level":"info","format":"json"},
        "metrics":{"listen":"10.77.0.11:9603"},"shutdown_timeout":"10s"}"#;
    let c: Config = config::parse(Path::new("app.json"), text).unwrap();
    assert_eq!(c.session.lifetime, Duration::from_secs(30 * 24 * 3600));
    assert_eq!(c.site.origin(), "https://www.foobar.com");
}

#[test]
fn refusals_name_file_key_and_reason() {
    for (text, key, reason) in [
        ("[site]\npage_size = 0", "site.page_size", "between 1 and 100"),
        ("[site]\ncolour = \"red\"", "site", "unknown field"),
        ("[site]\nbase_url = \"www.foobar.com/x\"", "site.base_url", "must look like"),
        ("[site]\nbase_url = \"https://www.foobar.com/x\"", "site.base_url", "must not have a path"),
        ("[database]\nwrite_url = \"postgres://h/d\"", "database.write_url", "mysql://"),
        ("[database]\nread_url = \"mysql://u:secret@h\"", "database.read_url", "names no database"),
        ("[database]\nca_file = \"ca.pem\"", "database.ca_file", "absolute"),
        ("[database]\ngtid_wait = \"3s\"", "database.gtid_wait", "shorter"),
        ("[session]\nlifetime = \"1s\"", "session.lifetime", "minute"),
        ("[limits]\nbody = \"1KiB\"", "limits.body", "between"),
    ] {
        let e = toml(text).unwrap_err();
        assert_eq!(e.file, Path::new("app.toml"), "{text}");
        assert!(e.key.starts_with(key), "{text}: key is {}", e.key);
        assert!(e.reason.contains(reason), "{text}: {}", e.reason);
        assert!(!e.reason.contains("secret"), "{text}: a password in the message");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let mut c = toml("listen = \"127.0.0.1:1\"\n[database]\nwrite_url = \"mysql://a@b/c\"").unwrap();
    c.apply_environment(|name| match name {
        "LISTEN" => Some("127.0.0.1:9".into()),
        "DATABASE_WRITE_URL" => Some("mysql://u:p@127.0.0.1:6446/trivet".into()),
        "DATABASE_READ_URL" => Some(String::new()),
        _ => None,
    })
    .unwrap();
    assert_eq!(c.listen.port(), 9);
    assert_eq!(c.database.write_url.as_deref(), Some("mysql://u:p@127.0.0.1:6446/trivet"));
    assert_eq!(c.database.read_url, None, "an empty variable counts as unset");
}

#[test]
fn a_bad_environment_is_named() {
    let mut c = Config::default();
    let e = c.apply_environment(|n| (n == "LISTEN").then(|| "nowhere".into())).unwrap_err();
    assert_eq!(
        e.to_string(),
        "environment: LISTEN: \"nowhere\" is not an address and a port; write for example 127.0.0.1:8081"
    );
}

#[test]
fn a_missing_database_is_named_when_it_is_needed() {
    let e = Config::default().database.connect_options(Path::new("/etc/trivet/app.json")).unwrap_err();
    assert!(e.to_string().starts_with("/etc/trivet/app.json: database.write_url: is not set"), "{e}");
}

#[test]
fn a_ca_file_turns_verification_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(vec!["ca".into()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(&path, ca.pem()).unwrap();
    let database = Database {
        write_url: Some("mysql://u:p@127.0.0.1:6446/trivet".into()),
        read_url: Some("mysql://u:p@127.0.0.1:6447/trivet".into()),
        ca_file: Some(path),
        ..Database::default()
    };
    for options in database.connect_options(Path::new("f")).unwrap() {
        assert!(matches!(options.get_ssl_mode(), MySqlSslMode::VerifyIdentity));
    }
}
