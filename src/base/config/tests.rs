use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    #[serde(default)]
    log: Log,
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(with = "humantime_serde")]
    wait: Duration,
}

impl Validate for Sample {
    fn validate(&self) -> Result<(), Invalid> {
        self.log.validate("log")?;
        positive("limits.wait", self.limits.wait)
    }
}

fn error(name: &str, text: &str) -> String {
    parse::<Sample>(Path::new(name), text).unwrap_err().to_string()
}

#[test]
fn json_and_toml_fill_the_same_type() {
    let a: Sample = parse(Path::new("a.json"), r#"{"limits":{"wait":"250ms"}}"#).unwrap();
    let b: Sample = parse(Path::new("a.toml"), "[limits]\nwait = \"250ms\"").unwrap();
    assert_eq!(a.limits.wait, b.limits.wait);
    assert_eq!(a.limits.wait, Duration::from_millis(250));
}

#[test]
fn unknown_keys_are_refused_by_name_and_place() {
    let toml = error("/etc/x.toml", "[limits]\nwait = \"1s\"\nwiat = 3");
    assert!(toml.starts_with("/etc/x.toml: limits.wiat: unknown field `wiat`"), "{toml}");
    let json = error("/etc/x.json", r#"{"limits":{"wait":"1s","wiat":3}}"#);
    assert!(json.starts_with("/etc/x.json: limits.wiat: unknown field `wiat`"), "{json}");
}

#[test]
fn wrong_values_name_their_key() {
    let e = error("x.toml", "[limits]\nwait = \"soon\"");
    assert!(e.starts_with("x.toml: limits.wait: "), "{e}");
    let e = error("x.toml", "[limits]\nwait = \"0s\"");
    assert_eq!(e, "x.toml: limits.wait: must be longer than zero");
    let e = error("x.toml", "log = { level = \"a=b=c\" }\n[limits]\nwait = \"1s\"");
    assert!(e.starts_with("x.toml: log.level: "), "{e}");
}

#[test]
fn broken_syntax_and_trailing_text_are_one_line() {
    for (name, text) in
        [("x.toml", "[limits\nwait"), ("x.json", "{"), ("x.json", r#"{"limits":{"wait":"1s"}} x"#)]
    {
        let e = error(name, text);
        assert!(e.starts_with(name) && !e.contains('\n'), "{e}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let e = load::<Sample>(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
    assert!(e.starts_with("/nonexistent/x.toml: cannot be read: "), "{e}");
}

#[test]
fn networks_are_written_as_networks_or_as_single_addresses() {
    #[derive(Debug, Deserialize)]
    struct From {
        #[serde(deserialize_with = "networks")]
        from: Vec<IpNet>,
    }
    let read = |list: &str| toml::from_str::<From>(&format!("from = [{list}]")).map(|f| f.from);
    let nets = read("\"10.0.0.0/8\", \"192.0.2.1\", \"2001:db8::/32\"").unwrap();
    assert_eq!(
        nets.iter().map(IpNet::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]
    );
    let mapped = read("\"::ffff:10.0.0.0/104\", \"::ffff:192.0.2.1\", \"::/0\"").unwrap();
    assert_eq!(
        mapped.iter().map(IpNet::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "192.0.2.1/32", "::/0"],
        "as the addresses that they are compared with"
    );
    let e = read("\"10.0.0.1/8\"").unwrap_err().to_string();
    assert!(e.contains("write \"10.0.0.0/8\" or \"10.0.0.1\""), "{e}");
    assert!(read("\"www.foobar.com\"").unwrap_err().to_string().contains("no network"));
}
