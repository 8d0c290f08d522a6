//! The site on real databases: a primary and a replica, through gateways that can be cut.

mod app_support;

use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

use app_support::{Database, PASSWORD, Request, Running, Token, execute};
use serde_json::{Value, json};
use trivet_app::db::Freshness;
use trivet_app::import;
use trivet_app::store::articles::{Imported, PIECE, Search};
use trivet_app::store::housekeeping::sweep;
use trivet_app::store::{PageRequest, texts};

/// A running site with two users on a fresh database; leaves the test when there is no MySQL.
macro_rules! site {
    ($name:literal) => {{
        let Some(database) = Database::fresh($name).await else { return };
        let (write, read) = (database.write_gateway().await, database.read_gateway().await);
        let site = Running::start(database.config(&write, &read)).await.ready().await;
        site.add_user("author", false).await;
        site.add_user("editor", true).await;
        let mut database = database;
        database.replica_catches_up().await;
        (database, write, read, site)
    }};
}

fn article(title: &str, body: &str) -> Value {
    json!({"title": title, "body": body, "tags": ["mysql"]})
}

async fn create(site: &Running, token: &Token, title: &str, body: &str) -> String {
    let answer =
        site.send(Request::new("POST", "/api/articles").token(token).json(&article(title, body))).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.json()["slug"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_writes_people_and_programs_read() {
    let (mut database, _write, _read, site) = site!("what_the_api_writes_people_and_programs_read");
    let token = site.login("AUTHOR").await;
    for i in 1..=7 {
        let body = format!("Paragraph **{i}** <script>alert(1)</script>\n\nAbout replication.");
        assert_eq!(create(&site, &token, &format!("Article {i}"), &body).await, format!("article-{i}"));
    }
    assert_eq!(
        create(&site, &token, "Article 1", "Again.").await,
        "article-1-2",
        "a taken address gets a number"
    );
    database.replica_catches_up().await;

    let list = site.get("/api/articles?page=2&page_size=3").await.json();
    assert_eq!((list["total"].as_u64(), list["pages"].as_u64()), (Some(8), Some(3)));
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    let front = site.get("/").await;
    assert!(front.text().contains("Article 7") && !front.text().contains("Article 4"), "three a page");
    assert!(site.get("/?page=3").await.text().contains("Article 2"));
    assert!(site.get("/tags/mysql?page=2").await.text().contains("Article 4"));

    let page = site.get("/articles/article-7").await;
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("Paragraph <strong>7</strong>") && !page.body.contains("<script"),
        "{}",
        page.body
    );
    let read = site.get("/api/articles/article-7").await.json();
    assert_eq!((read["version"].as_u64(), read["author"].as_str()), (Some(1), Some("author")));

    let found = site.get("/api/search?q=Replication%20%22%2B-%2A%28%27").await.json();
    assert_eq!(found["total"], 7);
    assert!(site.get("/search?q=replication").await.body.contains("<mark>replication</mark>"));
    for (path, status) in [
        ("/?page=4", 404),
        ("/?page=0", 404),
        ("/?page=x", 404),
        ("/tags/nothing", 404),
        ("/tags/%3Cscript%3E", 404),
        ("/articles/none", 404),
        ("/articles/%FF", 400),
        ("/none", 404),
        ("/api/none", 404),
        ("/api/articles?page_size=1000", 400),
        ("/api/articles?page_size=100", 200),
        ("/api/search?q=replication&page_size=20", 200),
        ("/api/search?q=replication&page_size=21", 400),
        ("/api/search", 400),
        ("/api/me", 401),
        ("/search?q=zzz", 200),
        ("/search", 200),
    ] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        let kind = answer.header("content-type").unwrap();
        assert_eq!(kind.starts_with("application/json"), path.starts_with("/api"), "{path}: {kind}");
        assert!(
            answer.header("content-security-policy").unwrap().starts_with("default-src 'none'"),
            "{path}"
        );
    }
    assert_eq!(site.send(Request::new("DELETE", "/api/articles")).await.status, 405);
    assert_eq!(site.send(Request::new("POST", "/api/articles").token(&token)).await.status, 415);
    let huge = article("x", &"x".repeat(2 << 20));
    assert_eq!(site.send(Request::new("POST", "/api/articles").token(&token).json(&huge)).await.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_a_form_are_shown_beside_what_was_typed() {
    let (mut database, _write, _read, site) = site!("mistakes_in_a_form_are_shown_beside_what_was_typed");
    let mut browser = site.browser("author").await;
    let form = browser.get("/write").await;
    let (csrf, once) = (form.field("csrf"), form.field("once"));
    let typed = [
        ("csrf", csrf.as_str()),
        ("once", &once),
        ("title", ""),
        ("body", "My <b>text</b> & \"more\"\n"),
        ("slug", "No Good"),
    ];
    let answer = browser.submit("/write", &typed).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("An article needs a title."), "{}", answer.text());
    assert!(answer.text().contains("lower-case letters"));
    assert_eq!(answer.field("body"), "My <b>text</b> & \"more\"\n");
    assert_eq!(answer.field("slug"), "No Good");

    let preview = [("csrf", csrf.as_str()), ("title", "T"), ("body", "*soft*"), ("action", "preview")];
    let answer = browser.submit("/write", &preview).await;
    assert!(answer.status == 200 && answer.body.contains("<em>soft</em>"), "{}", answer.body);
    assert_eq!(database.count("articles").await, 0);

    let good =
        [("csrf", csrf.as_str()), ("once", &once), ("title", "A title"), ("body", "Text."), ("tags", "A, b")];
    let answer = browser.submit("/write", &good).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/articles/a-title")));
    // The double click, and the reloaded page: the same key leads to the same article.
    assert_eq!(browser.submit("/write", &good).await.header("location"), Some("/articles/a-title"));
    assert_eq!(database.count("articles").await, 1);
    assert!(browser.get("/articles/a-title").await.text().contains("A title"), "read at once, from wherever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_update_is_refused_and_both_texts_are_there() {
    let (mut database, _write, _read, site) = site!("a_lost_update_is_refused_and_both_texts_are_there");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Shared", "First.").await;
    // Another browser than the author's may be led to a replica.
    database.replica_catches_up().await;
    let path = format!("/articles/{slug}/edit");
    let mut browser = site.browser("editor").await;
    let form = browser.get(&path).await;
    assert_eq!(form.field("body"), "First.");

    let edit = json!({"title": "Shared", "body": "Second.", "version": 1});
    let api = format!("/api/articles/{slug}");
    let answer = site.send(Request::new("PUT", &api).token(&token).json(&edit)).await;
    assert_eq!((answer.status, answer.json()["version"].as_u64()), (200, Some(2)));
    let answer = site.send(Request::new("PUT", &api).token(&token).json(&edit)).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["version"].as_u64()),
        (409, Some(2)),
        "{}",
        answer.body
    );

    let (csrf, once, version) = (form.field("csrf"), form.field("once"), form.field("version"));
    let fields = [
        ("csrf", csrf.as_str()),
        ("once", &once),
        ("version", &version),
        ("title", "Shared"),
        ("body", "Third."),
    ];
    let answer = browser.submit(&path, &fields).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.field("body"), "Third.");
    assert!(answer.text().contains("Second."), "the other text stands below");
    let (once, version) = (answer.field("once"), answer.field("version"));
    let fields = [
        ("csrf", csrf.as_str()),
        ("once", &once),
        ("version", &version),
        ("title", "Shared"),
        ("body", "Third, knowing the second."),
    ];
    assert_eq!(browser.submit(&path, &fields).await.status, 303);
    assert!(browser.get(&format!("/articles/{slug}")).await.text().contains("knowing the second"));

    site.add_user("stranger", false).await;
    let stranger = site.login("stranger").await;
    let answer = site
        .send(
            Request::new("PUT", &api)
                .token(&stranger)
                .json(&json!({"title": "x", "body": "x", "version": 3})),
        )
        .await;
    assert_eq!(answer.status, 403, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wrote_sees_it_also_when_the_replica_is_behind() {
    let (mut database, _write, _read, site) = site!("whoever_wrote_sees_it_also_when_the_replica_is_behind");
    if database.replica.is_none() {
        return eprintln!("SKIPPED: no TRIVET_TEST_MYSQL_REPLICA_URL");
    }
    let token = site.login("author").await;
    let mut browser = site.browser("author").await;
    let slug = create(&site, &token, "Seen", "Text.").await;
    database.replica_catches_up().await;
    database.on_replica("STOP REPLICA SQL_THREAD").await;

    let path = format!("/api/articles/{slug}/comments");
    let answer = site.send(Request::new("POST", &path).token(&token).json(&json!({"body": "Mine."}))).await;
    let gtid = answer.header("trivet-gtid").expect("a Trivet-Gtid header").to_owned();
    let count = |answer: app_support::Answer| answer.json()["total"].as_u64().unwrap();
    assert_eq!(count(site.get(&path).await), 0, "a stranger is served by the replica, which is behind");
    let start = Instant::now();
    assert_eq!(count(site.send(Request::new("GET", &path).header("trivet-gtid", &gtid)).await), 1);
    assert!(start.elapsed() >= Duration::from_millis(450), "the replica was given its half second");
    let forged = gtid.replacen(":1-", ":1-9", 1);
    let start = Instant::now();
    assert_eq!(count(site.send(Request::new("GET", &path).header("trivet-gtid", &forged)).await), 0);
    assert!(start.elapsed() < Duration::from_millis(400), "nobody waits for a forged set");

    // The browser's turn: its cookie does the same.
    let page = browser.get(&format!("/articles/{slug}")).await;
    let fields =
        [("csrf", &*page.field("csrf")), ("once", &*page.field("once")), ("body", "From the browser.")];
    let answer = browser.submit(&format!("/articles/{slug}/comments"), &fields).await;
    assert!(answer.header("location").unwrap().starts_with(&format!("/articles/{slug}#comment-")));
    assert!(browser.get(&format!("/articles/{slug}")).await.text().contains("From the browser."));

    database.on_replica("START REPLICA SQL_THREAD").await;
    database.replica_catches_up().await;
    let start = Instant::now();
    assert_eq!(count(site.send(Request::new("GET", &path).header("trivet-gtid", &gtid)).await), 2);
    assert!(start.elapsed() < Duration::from_millis(400), "the replica has it: no waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_once_is_seen_again_also_when_the_next_replica_is_behind() {
    let (mut database, _write, _read, site) =
        site!("what_was_seen_once_is_seen_again_also_when_the_next_replica_is_behind");
    if database.replica.is_none() {
        return eprintln!("SKIPPED: no TRIVET_TEST_MYSQL_REPLICA_URL");
    }
    let token = site.login("author").await;
    let slug = create(&site, &token, "Seen", "Text.").await;
    let path = format!("/api/articles/{slug}/comments");
    let mine = site.send(Request::new("POST", &path).token(&token).json(&json!({"body": "Mine."}))).await;
    let mine = mine.header("trivet-gtid").unwrap().to_owned();
    // Somebody else's comment, which this client is shown, by a replica that has it.
    let other = site.login("editor").await;
    site.send(Request::new("POST", &path).token(&other).json(&json!({"body": "Theirs."}))).await;
    database.replica_catches_up().await;
    let seen = site.send(Request::new("GET", &path).header("trivet-gtid", &mine)).await;
    assert_eq!(seen.json()["total"], 2);
    let carried = seen.header("trivet-gtid").expect("what it was shown, to carry on").to_owned();
    assert!(seen.header("set-cookie").unwrap().contains("trivet-seen"), "a browser carries it as a cookie");
    assert_eq!(
        site.get(&path).await.header("trivet-gtid"),
        None,
        "who carries nothing is given nothing to carry"
    );

    // A third comment that the replica does not have, seen at the primary: it does not vanish afterwards.
    database.on_replica("STOP REPLICA SQL_THREAD").await;
    let third = site.send(Request::new("POST", &path).token(&other).json(&json!({"body": "Third."}))).await;
    let theirs = third.header("trivet-gtid").unwrap().to_owned();
    let total = |answer: app_support::Answer| answer.json()["total"].as_u64().unwrap();
    assert_eq!(total(site.send(Request::new("GET", &path).header("trivet-gtid", &carried)).await), 2);
    let seen = site.send(Request::new("GET", &path).header("trivet-gtid", &theirs)).await;
    let carried = seen.header("trivet-gtid").unwrap().to_owned();
    assert_eq!(total(seen), 3);
    assert_eq!(total(site.send(Request::new("GET", &path).header("trivet-gtid", &carried)).await), 3);
    database.on_replica("START REPLICA SQL_THREAD").await;
    database.replica_catches_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_takes_no_writes_keeps_the_text_in_the_form() {
    let (mut database, _write, _read, site) =
        site!("a_primary_that_takes_no_writes_keeps_the_text_in_the_form");
    let token = site.login("author").await;
    let mut browser = site.browser("author").await;
    let slug = create(&site, &token, "Kept", "Text.").await;
    // Another browser than the author's may be led to a replica.
    database.replica_catches_up().await;
    let page = browser.get(&format!("/articles/{slug}")).await;
    let (csrf, once) = (page.field("csrf"), page.field("once"));
    database.on_primary("SET GLOBAL super_read_only = ON").await;

    let fields = [("csrf", csrf.as_str()), ("once", &once), ("body", "Typed with love.")];
    let path = format!("/articles/{slug}/comments");
    let answer = browser.submit(&path, &fields).await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.field("body"), "Typed with love.");
    assert_eq!(answer.field("once"), once, "the same key: sending it again is safe");
    assert!(answer.text().contains("Nothing was changed"), "{}", answer.text());
    let create = Request::new("POST", "/api/articles").token(&token).json(&article("No", "x"));
    let answer = site.send(create.clone()).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("unavailable")));
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(site.get(&format!("/articles/{slug}")).await.status, 200, "reading goes on");
    assert_eq!(site.get("/healthz").await.status, 200, "and the web tier keeps sending readers");

    // A switch of the primary takes about a second: a write that meets it waits, and succeeds.
    let waiting = tokio::spawn(create.send(site.address));
    tokio::time::sleep(Duration::from_secs(1)).await;
    database.on_primary("SET GLOBAL super_read_only = OFF").await;
    database.on_primary("SET GLOBAL read_only = OFF").await;
    assert_eq!(waiting.await.unwrap().status, 201);
    assert_eq!(browser.submit(&path, &fields).await.status, 303);
    assert_eq!(database.count("comments").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_are_replaced_without_anyone_noticing() {
    let (mut database, write, read, site) = site!("killed_connections_are_replaced_without_anyone_noticing");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Steady", "Text.").await;
    database.replica_catches_up().await;
    for round in 0..5 {
        if round % 2 == 0 {
            assert!(database.kill_connections().await > 0);
        } else {
            for gateway in [&write, &read] {
                gateway.close();
                gateway.open();
            }
        }
        let body = json!({"body": format!("Comment {round}")});
        let path = format!("/api/articles/{slug}/comments");
        let article = format!("/articles/{slug}");
        let (page, comment) = tokio::join!(
            site.get(&article),
            site.send(Request::new("POST", &path).token(&token).json(&body))
        );
        assert_eq!((page.status, comment.status), (200, 201), "round {round}: {}", comment.body);
    }
    assert_eq!(database.count("comments").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_replicas_the_primary_serves_readers_and_back() {
    let (_database, write, read, site) = site!("without_replicas_the_primary_serves_readers_and_back");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Read me", "Text.").await;
    read.close();
    for _ in 0..3 {
        assert_eq!(site.get(&format!("/articles/{slug}")).await.status, 200);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let health = site.get("/healthz").await;
    assert_eq!((health.status, health.json()["replica"].as_bool()), (200, Some(false)), "{}", health.body);
    let start = Instant::now();
    assert_eq!(site.get(&format!("/articles/{slug}")).await.status, 200);
    assert!(start.elapsed() < Duration::from_millis(500), "a read port known to be closed costs nothing");

    write.close();
    let answer = site.get("/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("One moment, please") && answer.header("retry-after").is_some());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(site.get("/healthz").await.status, 503);
    read.open();
    write.open();
    let start = Instant::now();
    while site.get("/").await.status != 200 || site.get("/healthz").await.status != 200 {
        assert!(start.elapsed() < Duration::from_secs(2), "slow to come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_back_within_a_second_of_the_gateway() {
    let (_database, write, _read, site) = site!("writes_are_back_within_a_second_of_the_gateway");
    let token = site.login("author").await;
    for _ in 0..3 {
        write.close();
        tokio::time::sleep(Duration::from_secs(4)).await;
        write.open();
        let start = Instant::now();
        create(&site, &token, "Back", "Text.").await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    // And a write that is already waiting when the gateway finds a primary.
    write.close();
    let request = Request::new("POST", "/api/articles").token(&token).json(&article("Waiting", "x"));
    let waiting = tokio::spawn(request.send(site.address));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    write.open();
    let start = Instant::now();
    assert_eq!(waiting.await.unwrap().status, 201);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_returns_the_first_answer() {
    let (mut database, _write, _read, site) = site!("a_repeated_key_returns_the_first_answer");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Once", "Text.").await;
    let path = format!("/api/articles/{slug}/comments");
    let comment = |body: &str| {
        Request::new("POST", &path).token(&token).header("idempotency-key", "k1").json(&json!({"body": body}))
    };
    let all = (0..8).map(|_| comment("One.").send(site.address));
    let answers = futures_util::future::join_all(all).await;
    assert!(answers.iter().all(|a| a.status == 201), "{answers:?}");
    assert!(answers.iter().all(|a| a.body == answers[0].body), "all tell of the same comment");
    assert_eq!(answers.iter().filter(|a| a.header("idempotent-replayed").is_none()).count(), 1);
    assert_eq!(database.count("comments").await, 1);
    let answer = site.send(comment("Another.")).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (422, Some("key_reused")));
    // Keys belong to their users.
    let editor = site.login("editor").await;
    let request = Request::new("POST", &path).token(&editor).header("idempotency-key", "k1");
    assert_eq!(site.send(request.json(&json!({"body": "Mine."}))).await.status, 201);
    assert_eq!(database.count("comments").await, 2);
}

/// The last statement before COMMIT takes a second, so that a test knows when COMMIT comes.
async fn slow_before_commit(database: &mut Database) {
    let name = database.name.clone();
    let trigger = format!(
        "CREATE TRIGGER {name}.slow AFTER UPDATE ON {name}.idempotency FOR EACH ROW SET @slept = SLEEP(1)"
    );
    database.on_primary(&trigger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_repeated_and_happens_once() {
    let (mut database, write, _read, site) = site!("a_commit_without_an_answer_is_repeated_and_happens_once");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Unanswered", "Text.").await;
    // Another browser than the author's may be led to a replica.
    database.replica_catches_up().await;
    let path = format!("/articles/{slug}/comments");
    slow_before_commit(&mut database).await;

    // With a key of the client's, and without: then the app has one of its own.
    for (n, key) in [(1, Some("k")), (2, None)] {
        let mut request = Request::new("POST", &format!("/api{path}")).token(&token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let pending = tokio::spawn(request.json(&json!({"body": "Hm."})).send(site.address));
        write.swallow_the_answer_after_a_slow_one().await;
        let answer = pending.await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
        assert_eq!(answer.json()["comments"].as_i64(), Some(n));
        assert_eq!(database.count("comments").await, n, "it had happened, and does not happen twice");
    }

    let mut browser = site.browser("author").await;
    let page = browser.get(&format!("/articles/{slug}")).await;
    let fields = [("csrf", &*page.field("csrf")), ("once", &*page.field("once")), ("body", "From a form.")];
    let action = page.action();
    let (answer, ()) =
        tokio::join!(browser.submit(&action, &fields), write.swallow_the_answer_after_a_slow_one());
    assert_eq!(answer.status, 303, "{}", answer.body);
    assert_eq!(database.count("comments").await, 3);
    // As a balancer does when the node that had it dies before it answers.
    assert_eq!(browser.submit(&action, &fields).await.status, 303);
    assert_eq!(database.count("comments").await, 3);
    // The address lets the balancer know that it may.
    for page in [page, browser.get("/write").await, browser.get(&format!("/articles/{slug}/edit")).await] {
        let (action, once) = (page.action(), page.field("once"));
        assert!(action.ends_with(&format!("?idempotency-key={once}")) && once.len() >= 16, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_and_without_a_primary_after_it_is_told_as_it_is() {
    let (mut database, write, _read, site) =
        site!("a_commit_without_an_answer_and_without_a_primary_after_it_is_told_as_it_is");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Unanswered", "Text.").await;
    // Another browser than the author's may be led to a replica.
    database.replica_catches_up().await;
    let path = format!("/articles/{slug}/comments");
    let mut browser = site.browser("author").await;
    let page = browser.get(&format!("/articles/{slug}")).await;
    slow_before_commit(&mut database).await;

    let request = Request::new("POST", &format!("/api{path}")).token(&token).header("idempotency-key", "k");
    let comment = request.json(&json!({"body": "Hm."}));
    let pending = tokio::spawn(comment.clone().send(site.address));
    write.swallow_the_answer_after_a_slow_one().await;
    write.close_the_rest();
    let answer = pending.await.unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("outcome_unknown")));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(database.count("comments").await, 1, "it had happened");
    write.open();
    let answer = site.send(comment).await;
    assert_eq!((answer.status, answer.header("idempotent-replayed")), (201, Some("true")));

    let fields = [("csrf", &*page.field("csrf")), ("once", &*page.field("once")), ("body", "From a form.")];
    let (answer, ()) = tokio::join!(browser.submit(&path, &fields), async {
        write.swallow_the_answer_after_a_slow_one().await;
        write.close_the_rest();
    });
    assert_eq!((answer.status, answer.field("body").as_str()), (503, "From a form."));
    assert!(answer.text().contains("it will not be saved twice"), "{}", answer.text());
    write.open();
    let fields =
        [("csrf", &*answer.field("csrf")), ("once", &*answer.field("once")), ("body", "From a form.")];
    assert_eq!(browser.submit(&path, &fields).await.status, 303);
    assert_eq!(database.count("comments").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_waits_for_a_primary_that_is_gone_for_three_seconds() {
    let Some(mut database) = Database::fresh("every_kind_of_write_waits_for_a_primary").await else { return };
    let (write, read) = (database.write_gateway().await, database.read_gateway().await);
    let mut config = database.config(&write, &read);
    config.database.write_timeout = Duration::from_secs(20);
    config.database.acquire_timeout = Duration::from_secs(12);
    let site = Running::start(config).await.ready().await;
    site.add_user("author", false).await;
    let token = site.login("author").await;
    let leaving = [site.login("author").await, site.login("author").await];
    let slug = create(&site, &token, "Standing", "Text.").await;
    let mut browser = site.browser("author").await;
    let form = browser.get("/write").await;
    database.replica_catches_up().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("imported.md"),
        "+++\ntitle = \"Imported\"\nauthor = \"other\"\n+++\nText.\n",
    )
    .unwrap();
    let files = import::read_folder(dir.path()).unwrap();

    // Once with connections that break and a gateway that holds new ones, once with a primary that is read-only.
    for (round, leaving) in ["cut off", "read-only"].into_iter().zip(&leaving) {
        if round == "cut off" {
            write.hold();
            database.kill_connections().await;
        } else {
            database.on_primary("SET GLOBAL super_read_only = ON").await;
        }
        let start = Instant::now();
        let new = Request::new("POST", "/api/articles").token(&token).json(&article("New", "x"));
        let number = if round == "cut off" { 1 } else { 2 };
        let text = json!({"title": "Standing", "body": format!("Edited {round}."), "version": number});
        let edit = Request::new("PUT", &format!("/api/articles/{slug}")).token(&token).json(&text);
        let body = json!({"body": round});
        let comment =
            Request::new("POST", &format!("/api/articles/{slug}/comments")).token(&token).json(&body);
        let login = json!({"name": "author", "password": PASSWORD});
        let login = Request::new("POST", "/api/login").json(&login);
        let logout = Request::new("POST", "/api/logout").token(leaving);
        let (csrf, once, title): (String, String, String) =
            (form.field("csrf"), format!("form {round}"), format!("Form {round}"));
        let fields = [("csrf", &*csrf), ("once", &*once), ("title", &*title), ("body", "Text.")];
        let user = format!("user-{number}");
        let back = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            if round == "cut off" {
                write.open();
            } else {
                database.on_primary("SET GLOBAL super_read_only = OFF").await;
                database.on_primary("SET GLOBAL read_only = OFF").await;
            }
        };
        let (new, edit, comment, login, logout, sent, imported, (), ()) = tokio::join!(
            site.send(new),
            site.send(edit),
            site.send(comment),
            site.send(login),
            site.send(logout),
            browser.submit("/write", &fields),
            import::write(&site.site.db, &files),
            site.add_user(&user, false),
            back
        );
        let statuses = [new.status, edit.status, comment.status, login.status, sent.status];
        assert_eq!(statuses, [201, 200, 201, 200, 303], "{round}: {} {}", new.body, edit.body);
        assert_eq!(logout.status, 204, "{round}: {}", logout.body);
        let expected = if round == "cut off" { Imported::Created } else { Imported::Unchanged };
        assert_eq!(imported.unwrap(), [expected]);
        assert!(start.elapsed() < Duration::from_secs(8), "{round}: {:?}", start.elapsed());
    }
    // One of each a round, and the one that stood before.
    assert_eq!(database.count("comments").await, 2);
    assert_eq!(database.count("articles").await, 1 + 2 + 2 + 1);
    assert_eq!(database.count("users").await, 2 + 2, "author, the importer's, one a round");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_tried_again_and_nobody_notices() {
    let (mut database, _write, _read, site) = site!("a_deadlock_is_tried_again_and_nobody_notices");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Contended", "Text.").await;
    let before = database.deadlocks().await;
    let mut other = database.connection().await;
    execute(&mut other, "BEGIN").await;
    // It has done more, so the site's transaction is the one that InnoDB gives up.
    for _ in 0..20 {
        execute(
            &mut other,
            "INSERT INTO comments (article_id, author_id, body) SELECT id, author_id, 'x' FROM articles",
        )
        .await;
    }
    execute(&mut other, "SELECT id FROM articles FOR UPDATE").await;
    let text = json!({"title": "Contended", "body": "Edited.", "version": 1});
    let edit = Request::new("PUT", &format!("/api/articles/{slug}")).token(&token);
    let edit = tokio::spawn(edit.header("idempotency-key", "k").json(&text).send(site.address));
    database.someone_waits_for_a_lock().await;
    // It waits for the article and holds its key; who holds the article now wants that key.
    execute(
        &mut other,
        "INSERT INTO idempotency (key_hash, fingerprint) SELECT \
         UNHEX(SHA2(CONCAT(UNHEX(LPAD(HEX(id), 16, '0')), 'k'), 256)), REPEAT('x', 32) FROM users WHERE name = 'author'",
    )
    .await;
    execute(&mut other, "ROLLBACK").await;
    let answer = edit.await.unwrap();
    assert_eq!((answer.status, answer.json()["version"].as_u64()), (200, Some(2)), "{}", answer.body);
    assert_eq!(database.deadlocks().await, before + 1, "there was one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_for_too_long_is_waited_for_again() {
    let Some(database) = Database::fresh("a_lock_that_is_held_for_too_long_is_waited_for_again").await else {
        return;
    };
    let (write, read) = (database.write_gateway().await, database.read_gateway().await);
    let mut config = database.config(&write, &read);
    config.database.write_timeout = Duration::from_secs(20);
    let site = Running::start(config).await.ready().await;
    site.add_user("author", false).await;
    let token = site.login("author").await;
    let slug = create(&site, &token, "Held", "Text.").await;
    let mut other = database.connection().await;
    execute(&mut other, "BEGIN").await;
    execute(&mut other, "SELECT id FROM articles FOR UPDATE").await;
    let text = json!({"title": "Held", "body": "Edited.", "version": 1});
    let edit = Request::new("PUT", &format!("/api/articles/{slug}")).token(&token).json(&text);
    // Longer than one attempt waits for a lock (5 s: error 1205).
    let (answer, ()) = tokio::join!(site.send(edit), async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        execute(&mut other, "ROLLBACK").await;
    });
    assert_eq!((answer.status, answer.json()["version"].as_u64()), (200, Some(2)), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_edits_of_one_version_one_is_saved_and_the_others_are_conflicts() {
    let (_database, _write, _read, site) =
        site!("of_many_edits_of_one_version_one_is_saved_and_the_others_are_conflicts");
    let token = site.login("author").await;
    let slug = create(&site, &token, "Popular", "Text.").await;
    let edits = (0..20).map(|n| {
        let text = json!({"title": "Popular", "body": format!("Text {n}."), "version": 1});
        Request::new("PUT", &format!("/api/articles/{slug}")).token(&token).json(&text).send(site.address)
    });
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(edits).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[409; 19][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wrote_sees_it_also_when_the_primary_changes_meanwhile() {
    let (mut database, write, _read, site) =
        site!("whoever_wrote_sees_it_also_when_the_primary_changes_meanwhile");
    if database.replica.is_none() {
        return eprintln!("SKIPPED: no TRIVET_TEST_MYSQL_REPLICA_URL");
    }
    let token = site.login("author").await;
    let slug = create(&site, &token, "Seen", "Text.").await;
    database.replica_catches_up().await;
    database.on_replica("STOP REPLICA SQL_THREAD").await;
    let path = format!("/api/articles/{slug}/comments");
    let answer = site.send(Request::new("POST", &path).token(&token).json(&json!({"body": "Mine."}))).await;
    let gtid = answer.header("trivet-gtid").unwrap().to_owned();
    // The replica does not have it and there is no primary: only waiting gives the right answer.
    write.hold();
    let reading = tokio::spawn(Request::new("GET", &path).header("trivet-gtid", &gtid).send(site.address));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    write.open();
    let answer = reading.await.unwrap();
    assert_eq!((answer.status, answer.json()["total"].as_u64()), (200, Some(1)), "{}", answer.body);
    database.on_replica("START REPLICA SQL_THREAD").await;
    database.replica_catches_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_other_sites_and_guessed_passwords_get_nowhere() {
    let (mut database, _write, _read, site) = site!("forms_of_other_sites_and_guessed_passwords_get_nowhere");
    let mut browser = site.browser("author").await;
    let csrf = browser.get("/write").await.field("csrf");
    let write = |csrf: &str| {
        Request::new("POST", "/write").form(&[("csrf", csrf), ("title", "T"), ("body", "Kept.")])
    };
    for (request, why) in [
        (write(""), "no token"),
        (write("x"), "a wrong token"),
        (write(&csrf).header("origin", "https://evil.example"), "a foreign origin"),
        (write(&csrf).header("origin", "null"), "a hidden origin"),
        (write(&csrf).header("sec-fetch-site", "cross-site"), "a foreign page without an origin"),
    ] {
        let answer = browser.send(request).await;
        assert_eq!(answer.status, 403, "{why}");
        assert_eq!(answer.field("body"), "Kept.", "{why}");
    }
    let mut other = site.browser("editor").await;
    assert_eq!(other.send(write(&csrf)).await.status, 403, "another session's token");
    let api = Request::new("POST", "/api/articles").json(&article("T", "x"));
    assert_eq!(browser.send(api.clone()).await.status, 403, "a cookie alone does not write through the API");
    let told = browser.get("/api/me").await.json()["csrf_token"].as_str().unwrap().to_owned();
    assert_eq!(browser.send(api.header("x-csrf-token", &told)).await.status, 201);
    assert_eq!(database.count("articles").await, 1);

    // Signing out ends the session in the database, not only in the browser.
    let before = browser.cookies.clone();
    assert_eq!(browser.submit("/sign-out", &[("csrf", &csrf)]).await.status, 303);
    browser.cookies.extend(before.into_iter().filter(|(n, _)| n == "trivet-session"));
    assert_eq!(browser.get("/api/me").await.status, 401);

    let login = |name: &str, password: &str, address: &str| {
        Request::new("POST", "/api/login")
            .json(&json!({"name": name, "password": password}))
            .header("x-forwarded-for", address)
    };
    let unknown = site.send(login("nobody", "wrong", "192.0.2.1")).await;
    for _ in 0..5 {
        let answer = site.send(login("author", "wrong", "192.0.2.1")).await;
        assert_eq!(
            (answer.status, &answer.body),
            (401, &unknown.body),
            "no telling whether the account exists"
        );
    }
    let answer = site.send(login("author", PASSWORD, "192.0.2.1")).await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 200);
    assert_eq!(
        site.send(login("author", PASSWORD, "192.0.2.2")).await.status,
        200,
        "the owner, from elsewhere"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_valid_on_every_node() {
    let (database, write, read, site) = site!("a_session_is_valid_on_every_node");
    let other = Running::start(database.config(&write, &read)).await.ready().await;
    let browser = site.browser("author").await;
    let mut moved = browser.moved_to(&other);
    assert_eq!(moved.get("/api/me").await.json()["name"], "author");
    let form = moved.get("/write").await;
    let fields =
        [("csrf", &*form.field("csrf")), ("once", &*form.field("once")), ("title", "Moved"), ("body", "x")];
    // The form came from one node and is sent to the other.
    let mut back = moved.moved_to(&site);
    assert_eq!(back.submit("/write", &fields).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_apps_start_at_once_on_an_empty_database_that_comes_late() {
    let Some(mut database) = Database::fresh("several_apps_start_at_once_on_an_empty_database").await else {
        return;
    };
    let (write, read) = (database.write_gateway().await, database.read_gateway().await);
    write.close();
    read.close();
    let mut sites = Vec::new();
    for _ in 0..4 {
        sites.push(Running::start(database.config(&write, &read)).await);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for site in &sites {
        assert_eq!(site.get("/healthz").await.status, 503, "it says so, rather than not answering");
        let answer = site.get("/").await;
        assert!(answer.status == 503 && answer.header("retry-after").is_some());
    }
    // A primary that died in the middle of the second migration.
    let name = database.name.clone();
    execute(
        &mut database.primary,
        &format!(
            "CREATE TABLE {name}._sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on \
             TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, \
             execution_time BIGINT NOT NULL); INSERT INTO {name}._sqlx_migrations VALUES (1, 'articles', NOW(), FALSE, \
             'x', -1); CREATE TABLE {name}.users (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, name \
             VARCHAR(40) NOT NULL, password_hash VARCHAR(255) NULL, is_editor BOOLEAN NOT NULL DEFAULT FALSE, created_at \
             DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), UNIQUE KEY users_name (name))"
        ),
    )
    .await;
    write.open();
    read.open();
    let mut ready = Vec::new();
    for site in sites {
        ready.push(site.ready().await);
    }
    let sql = format!("SELECT COUNT(*) FROM {name}._sqlx_migrations WHERE success");
    let applied: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut database.primary).await.unwrap();
    assert_eq!(applied, 3);
    for site in &ready {
        assert_eq!(site.get("/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_not_the_schema_yet_is_behind() {
    let Some(mut database) = Database::fresh("a_replica_that_has_not_the_schema_yet_is_behind").await else {
        return;
    };
    if database.replica.is_none() {
        return eprintln!("SKIPPED: no TRIVET_TEST_MYSQL_REPLICA_URL");
    }
    let (write, read) = (database.write_gateway().await, database.read_gateway().await);
    database.replica_catches_up().await;
    database.on_replica("STOP REPLICA SQL_THREAD").await;
    let site = Running::start(database.config(&write, &read)).await.ready().await;
    for path in ["/", "/api/articles", "/api/search?q=x"] {
        assert_eq!(site.get(path).await.status, 200, "{path}");
    }
    database.on_replica("START REPLICA SQL_THREAD").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_repeatable_and_all_or_nothing() {
    let (mut database, _write, _read, site) = site!("an_import_is_repeatable_and_all_or_nothing");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file(
        "one.md",
        "+++\ntitle = \"One\"\ndate = 2026-01-02\nauthor = \"Imported\"\ntags = [\"b\", \"a\"]\n+++\nText one.\n",
    );
    file("two.md", "+++\ntitle = \"Two\"\nauthor = \"author\"\n+++\nText two.\n");
    let run = async || import::write(&site.site.db, &import::read_folder(dir.path()).unwrap()).await.unwrap();
    assert_eq!(run().await, [Imported::Created, Imported::Created]);
    assert_eq!(run().await, [Imported::Unchanged, Imported::Unchanged]);
    file("two.md", "+++\ntitle = \"Two\"\nauthor = \"author\"\n+++\nText two, better.\n");
    assert_eq!(run().await, [Imported::Unchanged, Imported::Updated]);
    file("three.md", "+++\ntitle = \"Three\"\n+++\nText.\n");
    file("bad.md", "+++\ntitle = \"Bad\"\ndate = \"never\"\n+++\nText.\n");
    let mistakes = import::read_folder(dir.path()).unwrap_err().to_string();
    assert!(
        mistakes.ends_with("bad.md:3: date: \"never\" is no date; write 2026-11-22 or 2026-11-22T19:30:00Z"),
        "{mistakes}"
    );
    assert_eq!(database.count("articles").await, 2, "three.md was not imported either");
    database.replica_catches_up().await;
    let one = site.get("/api/articles/one").await.json();
    assert_eq!(
        (one["published_at"].as_str(), one["tags"].to_string().as_str()),
        (Some("2026-01-02T00:00:00Z"), "[\"a\",\"b\"]")
    );

    // The author of an import can be given a password; until then nobody can sign in as it.
    let login = Request::new("POST", "/api/login").json(&json!({"name": "imported", "password": ""}));
    assert_eq!(site.send(login).await.status, 401);
    site.add_user("Imported", false).await;
    site.login("imported").await;

    let samples =
        import::read_folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/articles"))).unwrap();
    assert!(samples.len() >= 12);
    assert!(import::write(&site.site.db, &samples).await.unwrap().iter().all(|i| *i == Imported::Created));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excerpt_is_found_anywhere_in_a_long_article_and_no_more_than_a_piece_is_loaded() {
    let (mut database, _write, _read, site) =
        site!("an_excerpt_is_found_anywhere_in_a_long_article_and_no_more_than_a_piece_is_loaded");
    let token = site.login("author").await;
    let filler =
        "All *work* and no [play](https://www.foobar.com/a-link-that-nobody-reads) makes. ".repeat(1100);
    let body = format!("Beginning here.\n\n{filler}\n\nThen a **quokka** came, in größer shoes.\n\n{filler}");
    let slug = create(&site, &token, "Marsupials", &body).await;
    create(&site, &token, "Short", "A quokka, and nothing else.").await;
    database.replica_catches_up().await;

    let excerpts = async |q: &str| {
        let found = site.get(&format!("/api/search?q={q}")).await.json();
        let items = found["items"].as_array().unwrap().iter();
        items.map(|item| item["excerpt"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut found = excerpts("Quokka").await;
    found.sort();
    assert_eq!(found[0], "A quokka, and nothing else.");
    assert!(
        found[1].starts_with("… ") && found[1].contains(" makes. Then a quokka came, in gr"),
        "{found:?}"
    );
    assert!(!found[1].contains("foobar"), "words, not markup: {found:?}");
    let page = site.get("/search?q=quokka+gr%C3%B6%C3%9Fer").await;
    assert!(
        page.body.contains("Then a <mark>quokka</mark> came, in <mark>größer</mark> shoes."),
        "{}",
        page.body
    );
    assert!(excerpts("marsupials").await[0].starts_with("Beginning here. All work"), "found by its title");
    assert!(site.get(&format!("/articles/{slug}")).await.text().contains("61 min read"));

    let search = Search { words: "quokka".into(), page: PageRequest { page: 1, size: 20 } };
    let loaded = site.site.db.read(&Freshness::Any, &search).await.unwrap();
    assert_eq!(loaded.items.len(), 2);
    for found in loaded.items {
        assert!(found.piece.chars().count() <= PIECE as usize, "{} characters", found.piece.len());
    }

    // An app of before this table edits beside us: beginnings until somebody makes up for it.
    let old = format!(
        "UPDATE {0}.articles SET version = version + 1, body = CONCAT('New *words*. ', body) WHERE slug = '{slug}'",
        database.name
    );
    database.on_primary(&old).await;
    database.replica_catches_up().await;
    let beginning =
        async || excerpts("quokka").await.iter().any(|e| e.starts_with("New words. Beginning here."));
    assert!(beginning().await);
    assert_eq!(texts::complete(&site.site.db).await.unwrap(), 1);
    database.replica_catches_up().await;
    assert!(!beginning().await && excerpts("quokka").await.iter().any(|e| e.contains("Then a quokka came")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_leaves_nothing_that_is_over_however_much_it_is() {
    let (mut database, _write, _read, site) = site!("a_sweep_leaves_nothing_that_is_over_however_much_it_is");
    let token = site.login("author").await;
    let (kept_sessions, kept_keys) = (database.count("sessions").await, database.count("idempotency").await);
    let name = database.name.clone();
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) SELECT";
    execute(&mut database.primary, "SET SESSION cte_max_recursion_depth = 2500").await;
    for rows in [
        format!(
            "INSERT INTO {name}.idempotency (key_hash, fingerprint, answer, created_at) {numbers}
             UNHEX(SHA2(i, 256)), UNHEX(SHA2(i, 256)), 'null', UTC_TIMESTAMP(6) - INTERVAL 25 HOUR FROM n"
        ),
        format!(
            "INSERT INTO {name}.sessions (token_hash, user_id, expires_at) {numbers}
             UNHEX(SHA2(i, 256)), (SELECT MIN(id) FROM {name}.users), UTC_TIMESTAMP(6) - INTERVAL 1 SECOND FROM n"
        ),
    ] {
        database.on_primary(&rows).await;
    }
    assert_eq!(sweep(&site.site.db).await.unwrap(), 5000);
    assert_eq!(database.count("idempotency").await, kept_keys, "younger than a day");
    assert_eq!(database.count("sessions").await, kept_sessions);
    let me = site.send(Request::new("GET", "/api/me").token(&token)).await;
    assert_eq!(me.status, 200, "who is signed in stays signed in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_was_begun() {
    let (mut database, _write, _read, site) = site!("a_stop_finishes_what_was_begun");
    let token = site.login("author").await;
    database.on_primary("SET GLOBAL super_read_only = ON").await;
    let request = Request::new("POST", "/api/articles").token(&token).json(&article("Last", "x"));
    let pending = tokio::spawn(request.send(site.address));
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.stop.send(trivet_base::process::Phase::Stopping).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let health = site.get("/healthz").await;
    assert_eq!(
        (health.status, health.header("connection")),
        (503, Some("close")),
        "still answers, and says that it goes"
    );
    assert_eq!(site.get("/").await.status, 200);
    database.on_primary("SET GLOBAL super_read_only = OFF").await;
    database.on_primary("SET GLOBAL read_only = OFF").await;
    assert_eq!(pending.await.unwrap().status, 201);
    tokio::time::timeout(Duration::from_secs(10), site.task).await.expect("stopped").unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(site.address).await.is_err(), "nobody listens any more");
}
