use super::*;

/// A pool of three that remembers for whom orders were looked up. The third back end of each is on the third node.
struct Asked {
    name: &'static str,
    backends: [&'static str; 3],
    modes: Mutex<Vec<(String, Mode)>>,
}

impl Asked {
    fn new(name: &'static str, backends: [&'static str; 3]) -> Arc<Self> {
        Arc::new(Self { name, backends, modes: Mutex::default() })
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, Option<IpAddr>)> {
        self.backends.into_iter().zip(1..).map(|(name, n)| (name, Some(IpAddr::from([10, 77, 0, n]))))
    }

    /// Since this was called last.
    fn take(&self) -> Vec<(String, Mode)> {
        std::mem::take(&mut *self.modes.lock())
    }
}

impl Administered for Asked {
    fn name(&self) -> &str {
        self.name
    }

    fn is_of_nodes(&self) -> bool {
        self.name == "web"
    }

    fn backends(&self) -> Vec<String> {
        self.backends.map(str::to_owned).to_vec()
    }

    fn has(&self, backend: &str) -> bool {
        self.backends.contains(&backend)
    }

    fn members(&self, each: &mut dyn FnMut(&str, Option<IpAddr>)) {
        self.all().for_each(|(name, at)| each(name, at));
    }

    fn obey(&self, meant: &Meant<'_>, order: &dyn Fn(&str, Option<IpAddr>) -> (Mode, Option<u32>)) {
        let asked = self.all().filter(|(name, at)| meant(name, *at));
        self.modes.lock().extend(asked.map(|(name, at)| (name.to_owned(), order(name, at).0)));
    }

    fn status(&self) -> Value {
        Value::Null
    }
}

fn of_nodes_and_others() -> (Arc<Admin>, Arc<Asked>, Arc<Asked>) {
    let (web, others) =
        (Asked::new("web", ["node1", "node2", "node3"]), Asked::new("others", ["api1", "api2", "api3"]));
    let pools: Vec<Arc<dyn Administered>> = vec![web.clone(), others.clone()];
    let subjects = Subjects {
        pools,
        sites: vec![("main".into(), Arc::default()), ("shop".into(), Arc::default())],
        ..Subjects::default()
    };
    let admin = Admin::prepare("node1", &Control::default(), subjects).unwrap();
    assert_eq!((web.take().len(), others.take().len()), (3, 3), "all obey at start");
    (admin, web, others)
}

fn one(name: &str, mode: Mode) -> Vec<(String, Mode)> {
    vec![(name.to_owned(), mode)]
}

#[tokio::test]
async fn an_order_is_looked_up_for_those_alone_that_it_is_about() {
    let (admin, web, others) = of_nodes_and_others();
    let backend = || Target::Backend { pool: "others".into(), name: "api2".into() };
    for (command, mode) in [
        (Command::Drain { target: backend() }, Mode::Drained),
        (Command::Disable { target: backend() }, Mode::Disabled),
        (Command::Ready { target: backend() }, Mode::Ready),
    ] {
        admin.command(command).await.unwrap();
        assert_eq!((web.take(), others.take()), (Vec::new(), one("api2", mode)));
    }
    let node = || Target::Node("node3".into());
    admin.command(Command::Drain { target: node() }).await.unwrap();
    assert_eq!((web.take(), others.take()), (one("node3", Mode::Drained), one("api3", Mode::Drained)));
    // What is so already is nobody's business.
    admin.command(Command::Drain { target: node() }).await.unwrap();
    assert_eq!((web.take(), others.take()), (Vec::new(), Vec::new()));
    admin.command(Command::Ready { target: node() }).await.unwrap();
    assert_eq!((web.take(), others.take()), (one("node3", Mode::Ready), one("api3", Mode::Ready)));
}

#[tokio::test]
async fn one_site_is_closed_and_opened_and_the_others_stay_as_they_are() {
    let (admin, web, others) = of_nodes_and_others();
    let closed = || {
        let keeps_out = |(name, m): &(String, Arc<Maintenance>)| {
            m.keeps_out(IpAddr::from([192, 0, 2, 1])).map(|_| name.clone())
        };
        admin.subjects.sites.iter().filter_map(keeps_out).collect::<Vec<_>>()
    };
    admin
        .command(Command::Maintenance { site: "shop".into(), until: None, allow: Vec::new() })
        .await
        .unwrap();
    assert_eq!(closed(), ["shop"]);
    admin.command(Command::MaintenanceOff { site: "shop".into() }).await.unwrap();
    assert!(closed().is_empty());
    assert_eq!((web.take(), others.take()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn what_others_tell_is_obeyed_where_it_is_new() {
    let (admin, web, others) = of_nodes_and_others();
    let mut told = Orders::default();
    told.set(Key::Node("node2".into()), Some(Order::Drained), "node2", 1000);
    told.set(
        Key::Backend { pool: "elsewhere".into(), name: "node1".into() },
        Some(Order::Drained),
        "node2",
        1000,
    );
    admin.hear(vec![told.clone()]).await;
    assert_eq!((web.take(), others.take()), (one("node2", Mode::Drained), one("api2", Mode::Drained)));
    admin.hear(vec![told]).await;
    assert_eq!((web.take(), others.take()), (Vec::new(), Vec::new()));
    // Who comes later hears of it all the same.
    admin.obey();
    assert!(web.take().contains(&("node2".to_owned(), Mode::Drained)));
    assert_eq!(others.take().len(), 3);
}

#[test]
fn a_back_end_is_on_the_node_of_its_name_or_of_its_address() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let subjects = Subjects {
        nodes: vec!["node1".into(), "node2".into()],
        addresses: vec![
            (address("10.77.0.11"), "node1".into()),
            (address("10.77.0.12"), "node2".into()),
            (address("127.0.0.1"), "node2".into()),
        ],
        ..Subjects::default()
    };
    for (name, at, node) in [
        ("node1", None, Some("node1")),
        ("node1", Some("10.77.0.12"), Some("node1")),
        ("api2", Some("10.77.0.12"), Some("node2")),
        ("api2", Some("::ffff:10.77.0.12"), Some("node2")),
        ("api3", Some("10.77.0.13"), None),
        ("api", Some("127.0.0.1"), None),
        ("socket", None, None),
    ] {
        assert_eq!(subjects.node_of(name, at.map(address)), node, "{name} {at:?}");
    }
}

#[tokio::test]
async fn what_was_ordered_about_something_that_is_gone_can_be_taken_back() {
    let (admin, ..) = of_nodes_and_others();
    let mut told = Orders::default();
    let gone = || Target::Backend { pool: "gone".into(), name: "api1".into() };
    let key = Key::Backend { pool: "gone".into(), name: "api1".into() };
    told.set(key, Some(Order::Backend { mode: Mode::Drained, weight: Some(3) }), "node2", 1000);
    told.set(Key::Node("node9".into()), Some(Order::Drained), "node2", 1000);
    told.set(
        Key::Site("old".into()),
        Some(Order::Maintenance { until: None, allow: Vec::new() }),
        "node2",
        1000,
    );
    admin.hear(vec![told]).await;
    for command in [
        Command::Ready { target: gone() },
        Command::Weight { target: gone(), weight: None },
        Command::Ready { target: Target::Node("node9".into()) },
        Command::MaintenanceOff { site: "old".into() },
    ] {
        admin.command(command).await.unwrap();
    }
    // It is unknown again.
    for command in [Command::Ready { target: gone() }, Command::MaintenanceOff { site: "old".into() }] {
        assert!(matches!(admin.command(command).await, Err(CommandError::Unknown { .. })));
    }
}

#[tokio::test]
async fn a_maintenance_that_never_ends_has_no_end_and_no_far_one() {
    let (admin, ..) = of_nodes_and_others();
    for until in [u64::MAX, now() + 2 * LONGEST_MAINTENANCE] {
        let command = Command::Maintenance { site: "shop".into(), until: Some(until), allow: Vec::new() };
        assert!(matches!(admin.command(command).await, Err(CommandError::Long)), "{until}");
    }
}
