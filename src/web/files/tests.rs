use std::time::{Duration, SystemTime};

use http::header::{
    ACCEPT_ENCODING, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};

use super::*;
use crate::store::tests::Site;

/// A site with a stylesheet of 2000 bytes that has coded forms, ten digits that have none, and a folder.
struct World {
    store: Store,
    _site: Site,
}

impl World {
    fn new() -> Self {
        let site = Site::new();
        site.write("a.css", "body { color: red } ".repeat(100))
            .write("ten.txt", "0123456789")
            .write("empty.txt", "");
        site.write("sub/index.html", "<p>").age("ten.txt", 1000).age("a.css", 1000);
        Self { store: site.store(), _site: site }
    }

    fn ask(&self, method: Method, target: &str, headers: &[(HeaderName, &str)]) -> Decision {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        answer(&self.store, &HeaderValue::from_static("public, max-age=60"), &method, target, &map)
    }

    fn reply(&self, method: Method, target: &str, headers: &[(HeaderName, &str)]) -> Reply {
        match self.ask(method, target, headers) {
            Decision::Reply(reply) => reply,
            other => panic!("{target}: {other:?}"),
        }
    }

    fn get(&self, target: &str, headers: &[(HeaderName, &str)]) -> Reply {
        self.reply(Method::GET, target, headers)
    }

    fn etag(&self, target: &str) -> String {
        self.get(target, &[]).header(ETAG).to_owned()
    }
}

impl Reply {
    fn header(&self, name: HeaderName) -> &str {
        self.headers.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v.to_str().unwrap())
    }

    fn text(&self) -> String {
        match &self.body {
            Body::Memory(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Body::Empty => String::new(),
            Body::Disk { .. } => panic!("on disk"),
        }
    }

    fn coding(&self) -> &str {
        self.header(CONTENT_ENCODING)
    }
}

fn date(ago: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(ago))
}

#[test]
fn a_file_comes_with_everything_a_cache_needs() {
    let world = World::new();
    let r = world.get("/ten.txt?v=2", &[]);
    assert_eq!((r.status, r.text().as_str()), (StatusCode::OK, "0123456789"));
    assert_eq!(r.header(CONTENT_TYPE), "text/plain; charset=utf-8");
    assert_eq!(r.header(CONTENT_LENGTH), "10");
    assert_eq!(r.header(CACHE_CONTROL), "public, max-age=60");
    assert_eq!(r.header(ACCEPT_RANGES), "bytes");
    assert_eq!(r.header(X_CONTENT_TYPE_OPTIONS), "nosniff");
    assert!(r.header(ETAG).starts_with('"') && !r.header(LAST_MODIFIED).is_empty());
    assert_eq!(r.header(VARY), "", "it has one form only");
}

#[test]
fn what_no_file_answers_goes_to_the_app() {
    let world = World::new();
    for target in
        ["/", "/none", "/ten.txt/", "/ten.txt%2F", "//ten.txt", "/TEN.txt", "/sub%2f", "/sub\\", "*"]
    {
        assert!(matches!(world.ask(Method::GET, target, &[]), Decision::App), "{target}");
    }
    assert!(matches!(world.ask(Method::POST, "/articles", &[]), Decision::App));
}

#[test]
fn a_path_that_tries_to_leave_is_refused() {
    let world = World::new();
    for target in ["/../ten.txt", "/sub/..%2Ften.txt", "/%2e%2e/ten.txt", "/ten.txt%00", "/%zz"] {
        assert!(matches!(world.ask(Method::GET, target, &[]), Decision::Refuse(_)), "{target}");
    }
}

#[test]
fn a_folder_redirects_to_its_slash_and_keeps_the_query() {
    let world = World::new();
    let r = world.get("/sub?x=1", &[]);
    assert_eq!((r.status, r.header(LOCATION)), (StatusCode::PERMANENT_REDIRECT, "/sub/?x=1"));
    assert_eq!(world.get("/sub/", &[]).text(), "<p>");
}

#[test]
fn rfc9110_9_3_2_head_has_the_fields_of_get_and_no_body() {
    let world = World::new();
    let (get, head) =
        (world.get("/ten.txt", &[]), world.reply(Method::HEAD, "/ten.txt", &[(RANGE, "bytes=0-1")]));
    assert_eq!(head.status, StatusCode::OK, "section 14.2: a range is for GET alone");
    assert_eq!(head.headers, get.headers);
    assert!(matches!(head.body, Body::Empty));
}

#[test]
fn rfc9110_15_5_6_other_methods_are_not_allowed_and_allow_says_which_are() {
    let world = World::new();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let r = world.reply(method, "/ten.txt", &[]);
        assert_eq!((r.status, r.header(ALLOW)), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, OPTIONS"));
    }
    let r = world.reply(Method::OPTIONS, "/ten.txt", &[]);
    assert_eq!((r.status, r.header(ALLOW)), (StatusCode::NO_CONTENT, "GET, HEAD, OPTIONS"));
}

#[test]
fn rfc9110_12_5_3_the_coding_follows_the_weights() {
    let world = World::new();
    let ten = ["", "gzip", "br"];
    for (accept, expected) in [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0.001, gzip;q=0", "br"),
        ("gzip;q=0", ""),
        ("identity, gzip;q=0.5", ""),
        ("identity;q=0.5, gzip;q=0.6", "gzip"),
        ("identity;q=0.3, gzip;q=0.1", ""),
        ("*", "br"),
        ("*;q=0.1, br;q=0", "gzip"),
        ("", ""),
        ("deflate", ""),
        ("gzip;q=2, br;q=x", ""),
        ("gzip ; q=1.000 , br;q=0.999", "gzip"),
        ("identity;q=0, gzip", "gzip"),
    ] {
        let r = world.get("/a.css", &[(ACCEPT_ENCODING, accept)]);
        assert_eq!((r.status, r.coding()), (StatusCode::OK, expected), "{accept}");
        assert_eq!(r.header(VARY), "accept-encoding", "{accept}");
        assert!(ten.contains(&r.coding()));
    }
    assert_eq!(world.get("/a.css", &[]).coding(), "");
    assert_eq!(world.get("/ten.txt", &[(ACCEPT_ENCODING, "gzip, br")]).coding(), "", "it has one form only");
    let split = world.get("/a.css", &[(ACCEPT_ENCODING, "br;q=0"), (ACCEPT_ENCODING, "gzip")]);
    assert_eq!(split.coding(), "gzip", "a list may come in several fields");
}

#[test]
fn rfc9110_12_5_3_ruling_out_every_form_is_406() {
    let world = World::new();
    for accept in ["identity;q=0", "*;q=0", "identity;q=0, deflate"] {
        assert_eq!(
            world.get("/a.css", &[(ACCEPT_ENCODING, accept)]).status,
            StatusCode::NOT_ACCEPTABLE,
            "{accept}"
        );
        let head = world.reply(Method::HEAD, "/ten.txt", &[(ACCEPT_ENCODING, accept)]);
        assert!(head.status == StatusCode::NOT_ACCEPTABLE && matches!(head.body, Body::Empty));
    }
    assert_eq!(world.get("/a.css", &[(ACCEPT_ENCODING, "*;q=0, gzip")]).coding(), "gzip");
}

#[test]
fn rfc9110_8_8_3_3_each_coding_has_its_own_tag() {
    let world = World::new();
    let tag = |accept| world.get("/a.css", &[(ACCEPT_ENCODING, accept)]).header(ETAG).to_owned();
    assert!(tag("br") != tag("gzip") && tag("gzip") != tag(""));
}

#[test]
fn rfc9110_13_1_2_if_none_match_compares_weakly_and_beats_the_date() {
    let world = World::new();
    let tag = world.etag("/ten.txt");
    for (field, expected) in [
        (tag.clone(), 304),
        (format!("W/{tag}"), 304),
        (format!("\"a,b\", {tag}"), 304),
        ("*".into(), 304),
        ("\"other\"".into(), 200),
        (tag.trim_matches('"').to_owned(), 200),
    ] {
        let r = world.get("/ten.txt", &[(IF_NONE_MATCH, &field)]);
        assert_eq!(r.status, expected, "{field}");
    }
    let r = world.get("/ten.txt", &[(IF_NONE_MATCH, "\"other\""), (IF_MODIFIED_SINCE, &date(0))]);
    assert_eq!(r.status, 200, "section 13.1.3: with If-None-Match, the date is ignored");
}

#[test]
fn rfc9110_15_4_5_a_304_repeats_what_a_200_would_have_told_a_cache() {
    let world = World::new();
    let full = world.get("/a.css", &[(ACCEPT_ENCODING, "br")]);
    let r = world.get("/a.css", &[(ACCEPT_ENCODING, "br"), (IF_NONE_MATCH, full.header(ETAG))]);
    assert_eq!((r.status, r.text().as_str()), (StatusCode::NOT_MODIFIED, ""));
    for name in [ETAG, CACHE_CONTROL, VARY, LAST_MODIFIED] {
        assert_eq!(r.header(name.clone()), full.header(name.clone()), "{name}");
    }
    assert_eq!(r.header(CONTENT_LENGTH), "");
}

#[test]
fn rfc9110_13_1_3_if_modified_since() {
    let world = World::new();
    let own = world.get("/ten.txt", &[]).header(LAST_MODIFIED).to_owned();
    for (field, expected) in [(own, 304), (date(10), 304), (date(2000), 200), ("yesterday".into(), 200)] {
        assert_eq!(world.get("/ten.txt", &[(IF_MODIFIED_SINCE, &field)]).status, expected, "{field}");
    }
}

#[test]
fn rfc9110_13_1_1_if_match_compares_strongly_and_goes_first() {
    let world = World::new();
    let tag = world.etag("/ten.txt");
    for (field, expected) in
        [(tag.clone(), 200), ("*".into(), 200), (format!("W/{tag}"), 412), ("\"other\"".into(), 412)]
    {
        assert_eq!(world.get("/ten.txt", &[(IF_MATCH, &field)]).status, expected, "{field}");
    }
    let both = world.get("/ten.txt", &[(IF_MATCH, "\"other\""), (IF_NONE_MATCH, &tag)]);
    assert_eq!(both.status, 412, "section 13.2.2: If-Match is looked at first");
    let r = world.get("/ten.txt", &[(IF_MATCH, &tag), (IF_UNMODIFIED_SINCE, &date(5000))]);
    assert_eq!(r.status, 200, "section 13.1.4: with If-Match, the date is ignored");
}

#[test]
fn rfc9110_13_1_4_if_unmodified_since() {
    let world = World::new();
    for (ago, expected) in [(10, 200), (5000, 412)] {
        assert_eq!(world.get("/ten.txt", &[(IF_UNMODIFIED_SINCE, &date(ago))]).status, expected);
    }
}

#[test]
fn rfc9110_14_1_2_a_single_range_is_a_206() {
    let world = World::new();
    for (range, content, told) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=5-", "56789", "bytes 5-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=9-99999999999999999999999", "9", "bytes 9-9/10"),
        ("BYTES=0-0", "0", "bytes 0-0/10"),
    ] {
        let r = world.get("/ten.txt", &[(RANGE, range)]);
        assert_eq!((r.status, r.text().as_str()), (StatusCode::PARTIAL_CONTENT, content), "{range}");
        assert_eq!(r.header(CONTENT_RANGE), told);
        assert_eq!(r.header(CONTENT_LENGTH), content.len().to_string());
        assert!(!r.header(ETAG).is_empty());
    }
}

#[test]
fn rfc9110_14_2_ranges_that_cannot_be_served_singly_are_ignored() {
    let world = World::new();
    for range in
        ["bytes=0-1,3-4", "lines=0-1", "bytes=3-1", "bytes=", "bytes=a-b", "bytes", "bytes=-", "bytes=+1-2"]
    {
        let r = world.get("/ten.txt", &[(RANGE, range)]);
        assert_eq!((r.status, r.text().as_str()), (StatusCode::OK, "0123456789"), "{range}");
    }
    assert_eq!(world.get("/empty.txt", &[(RANGE, "bytes=-5")]).status, 200);
}

#[test]
fn rfc9110_15_5_17_a_range_beyond_the_end_is_416_with_the_length() {
    let world = World::new();
    for range in ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=99999999999999999999999-"] {
        let r = world.get("/ten.txt", &[(RANGE, range)]);
        assert_eq!(
            (r.status, r.header(CONTENT_RANGE)),
            (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */10"),
            "{range}"
        );
    }
    assert_eq!(world.get("/empty.txt", &[(RANGE, "bytes=0-")]).status, 416);
}

#[test]
fn rfc9110_13_1_5_if_range_needs_a_strong_tag_or_the_exact_date() {
    let world = World::new();
    let r = world.get("/ten.txt", &[]);
    let (tag, modified) = (r.header(ETAG), r.header(LAST_MODIFIED));
    for (field, expected) in [
        (tag.to_owned(), 206),
        (modified.to_owned(), 206),
        (format!("W/{tag}"), 200),
        ("\"other\"".into(), 200),
        (date(10), 200),
        ("nonsense".into(), 200),
    ] {
        let r = world.get("/ten.txt", &[(RANGE, "bytes=0-1"), (IF_RANGE, &field)]);
        assert_eq!(r.status, expected, "{field}");
    }
}

#[test]
fn rfc9110_13_2_2_a_range_is_looked_at_last() {
    let world = World::new();
    let tag = world.etag("/ten.txt");
    assert_eq!(world.get("/ten.txt", &[(RANGE, "bytes=0-1"), (IF_NONE_MATCH, &tag)]).status, 304);
    assert_eq!(world.get("/ten.txt", &[(RANGE, "bytes=99-"), (IF_MATCH, "\"other\"")]).status, 412);
}

#[test]
fn a_range_is_of_the_coded_form_that_its_tag_names() {
    let world = World::new();
    let whole = world.get("/a.css", &[(ACCEPT_ENCODING, "gzip")]);
    let part = world.get("/a.css", &[(ACCEPT_ENCODING, "gzip"), (RANGE, "bytes=2-5")]);
    let (Body::Memory(whole_bytes), Body::Memory(part_bytes)) = (&whole.body, &part.body) else { panic!() };
    assert_eq!(part_bytes[..], whole_bytes[2..6]);
    assert_eq!((part.coding(), part.header(ETAG)), ("gzip", whole.header(ETAG)));
}
