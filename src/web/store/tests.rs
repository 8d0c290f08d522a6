use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;

use super::*;
use crate::config::Static;

pub(crate) struct Site {
    dir: tempfile::TempDir,
    pub config: Static,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("www");
        fs::create_dir(&root).unwrap();
        let config = Static {
            root,
            max_memory_file: ByteSize::kib(64),
            max_memory: ByteSize::mib(1),
            index: "index.html".into(),
            cache_control: "public".into(),
            compress: true,
        };
        Self { dir, config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.config.root.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub fn age(&self, name: &str, seconds: u64) -> &Self {
        let file = fs::File::options().write(true).open(self.path(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        self
    }

    pub fn load(&self) -> Loaded {
        load(&self.config, &Store::default()).unwrap()
    }

    pub fn store(&self) -> Store {
        self.load().store
    }
}

fn asset(store: &Store, path: &str) -> Arc<Asset> {
    match store.get(path) {
        Some(Entry::File(asset)) => asset.clone(),
        other => panic!("{path}: {other:?}"),
    }
}

fn bytes(form: &Form) -> Vec<u8> {
    match &form.content {
        Content::Memory(bytes) => bytes.to_vec(),
        Content::Disk(file) => {
            let mut all = Vec::new();
            file.open().unwrap().read_to_end(&mut all).unwrap();
            all
        }
    }
}

fn unbrotli(coded: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    brotli::BrotliDecompress(&mut &coded[..], &mut plain).unwrap();
    plain
}

fn ungzip(coded: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(coded).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn files_stand_under_their_paths_and_an_index_under_its_folder_too() {
    let site = Site::new();
    site.write("a.txt", "A").write("sub dir/index.html", "<p>").write("index.html", "<h1>");
    let store = site.store();
    assert_eq!(bytes(asset(&store, "/a.txt").identity()), b"A");
    assert_eq!(bytes(asset(&store, "/").identity()), b"<h1>");
    assert_eq!(bytes(asset(&store, "/index.html").identity()), b"<h1>");
    assert_eq!(bytes(asset(&store, "/sub dir/").identity()), b"<p>");
    assert!(matches!(store.get("/sub dir"), Some(Entry::Folder(to)) if to == "/sub%20dir/"));
    assert!(store.get("").is_none() && store.get("/none").is_none());
    assert_eq!(store.files(), 3);
}

#[test]
fn content_types_name_the_charset_only_of_text_that_is_utf8() {
    let site = Site::new();
    site.write("a.html", "ä").write("b.html", b"\xe4").write("c.png", "x").write("d.unknown-thing", "x");
    site.write("e.js", "1")
        .write("f.json", "{}")
        .write("g.svg", "<svg/>")
        .write("h.woff2", "x")
        .write("i.wasm", "x");
    let store = site.store();
    for (path, expected) in [
        ("/a.html", "text/html; charset=utf-8"),
        ("/b.html", "text/html"),
        ("/c.png", "image/png"),
        ("/d.unknown-thing", "application/octet-stream"),
        ("/e.js", "text/javascript; charset=utf-8"),
        ("/f.json", "application/json; charset=utf-8"),
        ("/g.svg", "image/svg+xml; charset=utf-8"),
        ("/h.woff2", "font/woff2"),
        ("/i.wasm", "application/wasm"),
    ] {
        assert_eq!(asset(&store, path).content_type, expected, "{path}");
    }
}

#[test]
fn text_gets_smaller_forms_that_decode_to_the_file_and_have_tags_of_their_own() {
    let site = Site::new();
    let text = "body { color: red } ".repeat(200);
    site.write("a.css", &text).write("a.png", &text).write("tiny.css", "a{}");
    let store = site.store();
    let css = asset(&store, "/a.css");
    assert_eq!(css.forms.len(), 3);
    assert_eq!(unbrotli(&bytes(css.form(Coding::Brotli).unwrap())), text.as_bytes());
    assert_eq!(ungzip(&bytes(css.form(Coding::Gzip).unwrap())), text.as_bytes());
    assert!(css.forms[1].content.len() <= css.forms[2].content.len());
    let tags: std::collections::HashSet<_> = css.forms.iter().map(|f| f.etag.clone()).collect();
    assert_eq!(tags.len(), 3, "RFC 9110 section 8.8.3.3");
    assert_eq!(asset(&store, "/a.png").forms.len(), 1, "what is compressed already is left alone");
    assert_eq!(asset(&store, "/tiny.css").forms.len(), 1, "not worth it");
}

#[test]
fn forms_beside_the_file_go_before_made_ones_unless_they_are_older() {
    let site = Site::new();
    let text = "x".repeat(1000);
    site.write("a.css", &text).write("a.css.br", "ready").write("a.css.zst", "ready too").age("a.css", 100);
    site.write("b.css", &text).write("b.css.br", "stale").age("b.css.br", 100);
    let store = site.store();
    let a = asset(&store, "/a.css");
    assert_eq!(bytes(a.form(Coding::Brotli).unwrap()), b"ready");
    assert_eq!(bytes(a.form(Coding::Zstd).unwrap()), b"ready too");
    assert_eq!(ungzip(&bytes(a.form(Coding::Gzip).unwrap())), text.as_bytes());
    let b = asset(&store, "/b.css");
    assert_eq!(unbrotli(&bytes(b.form(Coding::Brotli).unwrap())), text.as_bytes());
}

#[test]
fn nothing_is_compressed_when_that_is_switched_off() {
    let mut site = Site::new();
    site.config.compress = false;
    site.write("a.css", "x".repeat(1000));
    assert_eq!(asset(&site.store(), "/a.css").forms.len(), 1);
}

#[test]
fn links_inside_the_folder_work_and_links_that_leave_it_are_refused() {
    let site = Site::new();
    site.write("real/a.txt", "A");
    fs::write(site.dir.path().join("secret"), "S").unwrap();
    fs::create_dir(site.dir.path().join("secrets")).unwrap();
    fs::write(site.dir.path().join("secrets/x"), "S").unwrap();
    symlink("real/a.txt", site.path("link.txt")).unwrap();
    symlink("real", site.path("folder")).unwrap();
    symlink("../secret", site.path("out.txt")).unwrap();
    symlink("../secrets", site.path("out")).unwrap();
    symlink("/etc/passwd", site.path("passwd")).unwrap();
    symlink("nowhere", site.path("broken")).unwrap();
    symlink(".", site.path("loop")).unwrap();
    let Loaded { store, skipped, unreadable } = site.load();
    assert_eq!(bytes(asset(&store, "/link.txt").identity()), b"A");
    assert!(
        Arc::ptr_eq(&asset(&store, "/folder/a.txt"), &asset(&store, "/real/a.txt")),
        "one file, once in memory"
    );
    for path in ["/out.txt", "/out/x", "/passwd", "/broken", "/loop/real/a.txt"] {
        assert!(store.get(path).is_none(), "{path}");
    }
    assert_eq!(skipped.iter().filter(|s| s.contains("is a link that leaves")).count(), 3, "{skipped:?}");
    assert_eq!(unreadable, [""; 0]);
}

#[test]
fn the_folder_itself_may_be_a_link_which_a_reload_follows_anew() {
    let mut site = Site::new();
    site.write("release1/v.txt", "1").write("release2/v.txt", "2");
    symlink("release1", site.path("current")).unwrap();
    site.config.root = site.path("current");
    let first = site.store();
    assert_eq!(bytes(asset(&first, "/v.txt").identity()), b"1");
    fs::remove_file(&site.config.root).unwrap();
    symlink("release2", &site.config.root).unwrap();
    let second = load(&site.config, &first).unwrap().store;
    assert_eq!(bytes(asset(&second, "/v.txt").identity()), b"2");
}

#[test]
fn hidden_files_are_not_served_and_rfc8615_well_known_is() {
    let site = Site::new();
    site.write(".env", "S").write(".git/config", "S").write("a/.htpasswd", "S").write("a/.well-known/x", "S");
    site.write(".well-known/security.txt", "Contact:").write(".well-known/.hidden", "S");
    symlink(".env", site.path("env.txt")).unwrap();
    let store = site.store();
    assert!(store.get("/.well-known/security.txt").is_some());
    for path in
        ["/.env", "/.git/config", "/a/.htpasswd", "/a/.well-known/x", "/.well-known/.hidden", "/env.txt"]
    {
        assert!(store.get(path).is_none(), "{path}");
    }
}

#[test]
fn large_files_stay_on_disk_and_the_largest_do_when_memory_runs_out() {
    let mut site = Site::new();
    site.config.max_memory = ByteSize::b(100);
    site.write("small.bin", [1; 40]).write("middle.bin", [2; 60]).write("third.bin", [3; 61]);
    site.config.max_memory_file = ByteSize::b(64);
    site.write("large.bin", [4; 65]);
    let store = site.store();
    let in_memory = |path| matches!(asset(&store, path).identity().content, Content::Memory(_));
    assert_eq!(
        ["/small.bin", "/middle.bin", "/third.bin", "/large.bin"].map(in_memory),
        [true, true, false, false]
    );
    assert_eq!(store.memory(), 100);
    assert_eq!(bytes(asset(&store, "/large.bin").identity()), [4; 65]);
}

#[test]
fn a_large_file_that_was_replaced_is_not_sent_under_the_old_tag() {
    let mut site = Site::new();
    site.config.max_memory_file = ByteSize::b(0);
    site.write("large.bin", "old");
    let store = site.store();
    let Content::Disk(file) = asset(&store, "/large.bin").identity().content.clone() else { panic!() };
    fs::remove_file(site.path("large.bin")).unwrap();
    symlink("/etc/passwd", site.path("large.bin")).unwrap();
    assert_eq!(file.open().unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn the_same_bytes_have_the_same_tag_and_others_another() {
    let site = Site::new();
    site.write("a.txt", "one").write("b.txt", "one").write("c.txt", "two");
    let store = site.store();
    let tag = |path| asset(&store, path).identity().etag.clone();
    assert_eq!(tag("/a.txt"), tag("/b.txt"));
    assert_ne!(tag("/a.txt"), tag("/c.txt"));
    assert!(tag("/a.txt").to_str().unwrap().starts_with('"'), "strong");
}

#[test]
fn rfc9110_8_8_2_1_a_time_is_never_in_the_future_and_the_stores_no_time_is_not_told() {
    let site = Site::new();
    site.write("future", "x").write("store", "x").write("past", "x").age("past", 3600);
    let set = |name, time| {
        fs::File::options().write(true).open(site.path(name)).unwrap().set_modified(time).unwrap()
    };
    set("future", SystemTime::now() + Duration::from_secs(9999));
    set("store", SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let store = site.store();
    assert!(asset(&store, "/future").modified.unwrap() <= SystemTime::now());
    assert_eq!(asset(&store, "/store").modified, None);
    assert!(asset(&store, "/past").modified.unwrap() < SystemTime::now() - Duration::from_secs(3500));
}

#[test]
fn a_reload_takes_over_the_forms_of_what_did_not_change() {
    let site = Site::new();
    site.write("a.css", "x".repeat(1000)).write("b.css", "y".repeat(1000));
    let first = site.store();
    site.write("b.css", "z".repeat(1000)).write("c.css", "new");
    let second = load(&site.config, &first).unwrap().store;
    let pointer = |store: &Store, path| match &asset(store, path).form(Coding::Brotli).unwrap().content {
        Content::Memory(bytes) => bytes.as_ptr(),
        Content::Disk(_) => panic!(),
    };
    assert_eq!(pointer(&first, "/a.css"), pointer(&second, "/a.css"));
    assert_eq!(
        unbrotli(&bytes(asset(&second, "/b.css").form(Coding::Brotli).unwrap())),
        "z".repeat(1000).as_bytes()
    );
    assert!(second.get("/c.css").is_some());
    assert_eq!(first.memory() + 3, second.memory(), "counted once: b has the same size as before");
}

#[test]
fn a_missing_folder_is_named() {
    let mut site = Site::new();
    site.write("file", "x");
    site.config.root = site.dir.path().join("www/file");
    assert!(load(&site.config, &Store::default()).is_err(), "a file is no folder");
    site.config.root = Path::new("/nonexistent/www").into();
    let e = load(&site.config, &Store::default()).unwrap_err().to_string();
    assert!(e.starts_with("/nonexistent/www: "), "{e}");
}
