//! What an article, a comment and a name must be like. Forms, API and import share these.

use std::collections::BTreeMap;

use super::markdown::{self, Plain};
use crate::store::articles::Draft;

/// Field → what is wrong with it, in words for its author.
pub type Problems = BTreeMap<&'static str, String>;

/// Longest title, in characters (the column's width).
pub const TITLE: usize = 200;
pub const SUMMARY: usize = 500;
/// Longest article, in bytes of UTF-8.
pub const BODY: usize = 200_000;
/// Longest comment, in characters.
pub const COMMENT: usize = 5_000;
/// Longest slug; the column has room for a number behind it.
pub const SLUG: usize = 90;
/// Longest tag, and most tags.
pub const TAG: usize = 40;
/// Most tags of one article.
pub const TAGS: usize = 8;
/// Longest name of a user.
pub const NAME: usize = 40;
pub const PASSWORD: usize = 10;
/// Longest text to search for.
pub const QUERY: usize = 200;
/// A summary made from the first paragraph.
const MADE_SUMMARY: usize = 220;

/// An article as it was typed.
#[derive(Debug, Clone, Default)]
pub struct Typed<'a> {
    pub title: &'a str,
    /// May be empty.
    pub slug: &'a str,
    /// May be empty.
    pub summary: &'a str,
    /// Separated by commas; may be empty.
    pub tags: Vec<&'a str>,
    pub body: &'a str,
}

/// The checked article and its slug; the flag says that the author chose the slug.
pub fn article(typed: &Typed<'_>) -> Result<(Draft, String, bool), Problems> {
    let mut problems = Problems::new();
    let title = one_line(typed.title);
    if title.is_empty() {
        problems.insert("title", "An article needs a title.".into());
    } else if title.chars().count() > TITLE {
        problems.insert("title", format!("The title is longer than {TITLE} characters."));
    }
    let body = typed.body.replace("\r\n", "\n").replace('\0', "");
    if body.trim().is_empty() {
        problems.insert("body", "There is no text yet.".into());
    } else if body.len() > BODY {
        problems.insert("body", format!("The text is longer than {} kilobytes.", BODY / 1000));
    }
    let mut summary = one_line(typed.summary);
    if summary.chars().count() > SUMMARY {
        problems.insert("summary", format!("The summary is longer than {SUMMARY} characters."));
    } else if summary.is_empty() {
        summary = markdown::first_paragraph(&body, MADE_SUMMARY);
    }
    let chosen = !typed.slug.trim().is_empty();
    let slug = if chosen { typed.slug.trim().to_owned() } else { slug_of(&title) };
    if let Err(problem) = slug_is_good(&slug) {
        problems.insert("slug", problem);
    }
    let tags = tags(&typed.tags).unwrap_or_else(|problem| {
        problems.insert("tags", problem);
        Vec::new()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let plain = Plain::of(&body);
    Ok((Draft { title, summary, body, tags, plain }, slug, chosen))
}

/// The checked text of a comment.
pub fn comment(body: &str) -> Result<String, Problems> {
    let body = body.replace("\r\n", "\n").replace('\0', "");
    let problem = if body.trim().is_empty() {
        "There is no text yet.".to_owned()
    } else if body.chars().count() > COMMENT {
        format!("The comment is longer than {COMMENT} characters.")
    } else {
        return Ok(body.trim().to_owned());
    };
    Err([("body", problem)].into())
}

/// Control characters and line breaks become spaces.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Lower-case letters, digits and single hyphens.
pub fn slug_is_good(slug: &str) -> Result<(), String> {
    let parts_are_good = slug
        .split('-')
        .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    if slug.len() > SLUG {
        Err(format!("The address is longer than {SLUG} characters."))
    } else if parts_are_good {
        Ok(())
    } else {
        Err("The address may have lower-case letters, digits and single hyphens: when-a-node-dies.".into())
    }
}

/// A slug from a title; "article" when the title has no letter of the Latin alphabet.
pub fn slug_of(title: &str) -> String {
    let mut slug = String::new();
    for c in title.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            'ä' => slug.push_str("ae"),
            'ö' | 'ø' | 'œ' => slug.push_str("oe"),
            'ü' => slug.push_str("ue"),
            'ß' => slug.push_str("ss"),
            'à'..='å' => slug.push('a'),
            'ç' => slug.push('c'),
            'è'..='ë' => slug.push('e'),
            'ì'..='ï' => slug.push('i'),
            'ñ' => slug.push('n'),
            'ò'..='õ' => slug.push('o'),
            'ù'..='û' => slug.push('u'),
            // "don't" is one word.
            '\'' | '’' => {}
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    if slug.len() > SLUG {
        let cut = slug[..SLUG].rfind('-').unwrap_or(SLUG);
        slug.truncate(cut);
    }
    let slug = slug.trim_matches('-');
    if slug.is_empty() { "article".into() } else { slug.into() }
}

fn tags(typed: &[&str]) -> Result<Vec<String>, String> {
    let mut tags = Vec::new();
    for tag in typed {
        let tag = tag.trim().to_lowercase().replace(' ', "-");
        if tag.is_empty() || tags.contains(&tag) {
            continue;
        }
        if !tag_is_good(&tag) {
            return Err(format!("\"{tag}\" is no tag: letters, digits, dots and hyphens, at most {TAG}."));
        }
        tags.push(tag);
    }
    if tags.len() > TAGS {
        return Err(format!("More than {TAGS} tags."));
    }
    tags.sort();
    Ok(tags)
}

/// What a tag may consist of.
pub fn tag_is_good(tag: &str) -> bool {
    !tag.is_empty()
        && tag.chars().count() <= TAG
        && tag.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.'))
        && tag.chars().any(char::is_alphanumeric)
}

/// What the name of a user may consist of.
pub fn name_is_good(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty()
        || name.len() > NAME
        || !name.chars().all(good)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(format!(
            "\"{}\" is no user name: letters, digits, dots, hyphens and underscores, at most {NAME}, starting with a \
             letter or digit",
            name.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_and_a_text_are_enough() {
        let typed =
            Typed { title: " When  a\nnode dies ", body: "First *words*.\r\n\r\nMore.", ..Typed::default() };
        let (draft, slug, chosen) = article(&typed).unwrap();
        assert_eq!(
            (draft.title.as_str(), slug.as_str(), chosen),
            ("When a node dies", "when-a-node-dies", false)
        );
        assert_eq!(draft.summary, "First words.");
        assert_eq!(draft.body, "First *words*.\n\nMore.");
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let long = "x".repeat(SUMMARY + 1);
        let typed = Typed { slug: "Bad Slug", summary: &long, tags: vec!["a,b;"], ..Typed::default() };
        let problems = article(&typed).unwrap_err();
        assert_eq!(
            problems.keys().copied().collect::<Vec<_>>(),
            ["body", "slug", "summary", "tags", "title"]
        );
    }

    #[test]
    fn limits_are_of_characters_where_the_columns_are() {
        let title = "ü".repeat(TITLE);
        assert!(article(&Typed { title: &title, body: "x", slug: "s", ..Typed::default() }).is_ok());
        let title = "ü".repeat(TITLE + 1);
        assert!(article(&Typed { title: &title, body: "x", slug: "s", ..Typed::default() }).is_err());
        assert!(comment(&"ü".repeat(COMMENT)).is_ok());
        assert!(comment(&"ü".repeat(COMMENT + 1)).is_err());
        assert!(comment(" \n ").is_err());
    }

    #[test]
    fn slugs() {
        for (title, slug) in [
            ("When a node dies", "when-a-node-dies"),
            ("Don't panic: 3 rules!", "dont-panic-3-rules"),
            ("Größe & Übel", "groesse-uebel"),
            ("Café à la crème", "cafe-a-la-creme"),
            ("日本語", "article"),
            ("--", "article"),
        ] {
            assert_eq!(slug_of(title), slug);
            slug_is_good(slug).unwrap();
        }
        let long = slug_of(&"word ".repeat(100));
        assert!(long.len() <= SLUG && long.ends_with("word"));
        for bad in ["", "-a", "a-", "a--b", "A", "a/b", "ä", "a b", "..", &"a".repeat(SLUG + 1)] {
            assert!(slug_is_good(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_folded_sorted_and_few() {
        assert_eq!(
            tags(&["MySQL", " group replication ", "mysql", ""]).unwrap(),
            ["group-replication", "mysql"]
        );
        assert!(tags(&["a/b"]).is_err());
        assert!(tags(&["1", "2", "3", "4", "5", "6", "7", "8", "9"]).is_err());
    }

    #[test]
    fn names() {
        for good in ["editor", "Trivet", "a.b_c-d", "7"] {
            name_is_good(good).unwrap();
        }
        for bad in ["", ".a", "a b", "a@b", "ä", &"a".repeat(41), "a\n"] {
            assert!(name_is_good(bad).is_err(), "{bad:?}");
        }
    }
}
