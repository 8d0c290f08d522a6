use super::*;

fn text(document: &Document<'_>, key: &str) -> String {
    match &document.head[key].1 {
        Value::Text(t) => t.clone(),
        Value::List(l) => l.join("|"),
    }
}

#[test]
fn toml_between_plus_signs() {
    let d = parse("+++\ntitle = \"A: b\"\ndate = 2026-11-22\ntags = [\"a\", \"b\"]\n+++\n\n# Text\n+++\n")
        .unwrap();
    assert_eq!(text(&d, "title"), "A: b");
    assert_eq!(text(&d, "date"), "2026-11-22");
    assert_eq!(text(&d, "tags"), "a|b");
    assert_eq!(d.head["tags"].0, 4);
    assert_eq!(d.body, "# Text\n+++\n");
}

#[test]
fn yaml_between_hyphens() {
    let d = parse(
        "---\n# a comment\ntitle: \"A: \\\"b\\\"\" # why\nauthor: 'it''s me'\ndate: 2026-11-22\ntags: [a, \"b, c\"]\n\
         more:\n  - one\n- 'two'\nurl: https://www.foobar.com/x#y\n---\nText\n---\n",
    )
    .unwrap();
    assert_eq!(text(&d, "title"), "A: \"b\"");
    assert_eq!(text(&d, "author"), "it's me");
    assert_eq!(text(&d, "date"), "2026-11-22");
    assert_eq!(text(&d, "tags"), "a|b, c");
    assert_eq!(text(&d, "more"), "one|two");
    assert_eq!(text(&d, "url"), "https://www.foobar.com/x#y");
    assert_eq!(d.body, "Text\n---\n");
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_no_obstacle() {
    let d = parse("\u{feff}---\r\ntitle: A\r\n---\r\n\r\nText\r\n").unwrap();
    assert_eq!(text(&d, "title"), "A");
    assert_eq!(d.body, "Text\r\n");
}

#[test]
fn errors_carry_their_line() {
    for (file, line, reason) in [
        ("", 1, "must begin"),
        ("# Title\n", 1, "must begin"),
        ("---\ntitle: A\n", 1, "not closed"),
        ("+++\ntitle = \"A\"\ndate = yesterday\n+++\n", 3, ""),
        ("+++\nx = 1\n\n[nested]\ny = 1\n+++\n", 1, "nested"),
        ("---\ntitle: A\nnonsense\n---\n", 3, "key: value"),
        ("---\ntitle: A\ntitle: B\n---\n", 3, "twice"),
        ("---\ntitle: a: b\n---\n", 2, "in quotes"),
        ("---\ntitle:x\n---\n", 2, "space is missing"),
        ("---\nt: |\n  text\n---\n", 2, "not supported"),
        ("---\nt:\n  u: v\n---\n", 3, "nested"),
        ("---\n- a\n---\n", 2, "without a key"),
        ("---\ntags: [a, b\n---\n", 2, "not closed"),
        ("---\ntags: [a] b\n---\n", 2, "after the list"),
        ("---\ntitle: \"A\n---\n", 2, "quote is not closed"),
        ("---\ntitle: \"A\" B\n---\n", 2, "after the closing"),
        ("---\ntitle: \"\\x\"\n---\n", 2, "no escape"),
    ] {
        let e = parse(file).unwrap_err();
        assert_eq!(e.line, line, "{file:?}: {e}");
        assert!(e.reason.contains(reason), "{file:?}: {e}");
    }
}

#[test]
fn no_input_makes_it_panic() {
    // Every prefix of a file that uses everything, and every such prefix with one byte changed to a hard one.
    let file = "---\ntitle: \"A\\\"ü\" # c\nauthor: 'x''y'\ntags: [a, \"b\", 'c']\nmore:\n  - é\n---\nText";
    for (i, _) in file.char_indices() {
        let _ = parse(&file[..i]);
        for hard in ["\"", "'", "[", "]", "\\", ":", "-", "\n", "\0", "ü"] {
            let _ = parse(&format!("{}{hard}{}", &file[..i], &file[i..]));
        }
    }
}
