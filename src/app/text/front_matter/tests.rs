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
fn windows_line_ends_and_a_byte_order_mark_are_no_obstacle() {
    let d = parse("\u{feff}+++\r\ntitle = 'A'\r\n+++\r\n\r\nText\r\n").unwrap();
    assert_eq!(text(&d, "title"), "A");
    assert_eq!(d.body, "Text\r\n");
}

#[test]
fn yaml_is_refused_with_what_to_write_instead() {
    let e = parse("---\ntitle: A\ntags: [a]\n---\nText\n").unwrap_err();
    assert_eq!(e.line, 1);
    assert!(e.reason.contains("YAML") && e.reason.contains("title = \""), "{e}");
}

#[test]
fn errors_carry_their_line() {
    for (file, line, reason) in [
        ("", 1, "must begin"),
        ("# Title\n", 1, "must begin"),
        ("+++\ntitle = \"A\"\n", 1, "not closed"),
        ("+++\ntitle = \"A\"\ndate = yesterday\n+++\n", 3, ""),
        ("+++\ntitle = \"A\"\ntitle = \"B\"\n+++\n", 3, "duplicate key"),
        ("+++\nx = 1\n\n[nested]\ny = 1\n+++\n", 1, "nested"),
    ] {
        let e = parse(file).unwrap_err();
        assert_eq!(e.line, line, "{file:?}: {e}");
        assert!(e.reason.contains(reason), "{file:?}: {e}");
    }
}

#[test]
fn no_input_makes_it_panic() {
    // Every prefix of a file, and every such prefix with one character put in that is a hard one.
    let file = "+++\ntitle = \"A\\\"ü\" # c\nauthor = 'x'\ntags = [\"a\", 'c']\n+++\nText";
    for (i, _) in file.char_indices() {
        let _ = parse(&file[..i]);
        for hard in ["\"", "'", "[", "]", "\\", "=", "+", "\n", "\0", "ü"] {
            let _ = parse(&format!("{}{hard}{}", &file[..i], &file[i..]));
        }
    }
}
