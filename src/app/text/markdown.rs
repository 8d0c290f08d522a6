//! Markdown to HTML that is safe to show.
//!
//! pulldown-cmark renders, raw HTML included; ammonia then lets through a list of elements and attributes and nothing
//! else. The Content-Security-Policy is the second line, not the first.

use std::borrow::Cow;
use std::sync::LazyLock;

use ammonia::{Builder, UrlRelative};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

fn options() -> Options {
    Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_SMART_PUNCTUATION
}

static ARTICLE: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut b = Builder::default();
    b.url_schemes(["http", "https", "mailto"].into())
        .link_rel(Some("noopener noreferrer"))
        .url_relative(UrlRelative::PassThrough)
        .rm_tags(["map", "area", "bdo", "hgroup", "header", "footer", "nav", "article", "aside"])
        .attribute_filter(|element, attribute, value| match (element, attribute) {
            // Pictures of other hosts would tell those hosts who reads what (and the policy forbids them).
            ("img", "src") => is_local(value).then_some(Cow::Borrowed(value)),
            // A page of ours must not be sent to `//elsewhere` by what looks like a path.
            (_, "href") if value.starts_with("//") || value.starts_with("/\\") => None,
            // Ammonia does not check its scheme, and no browser shows it.
            (_, "cite") => None,
            _ => Some(Cow::Borrowed(value)),
        });
    b
});

static COMMENT: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut b = Builder::default();
    b.tags(
        ["p", "br", "em", "strong", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a", "hr"].into(),
    )
    .tag_attributes([("a", ["href"].into()), ("ol", ["start"].into())].into())
    .generic_attributes(["lang"].into())
    .url_schemes(["http", "https", "mailto"].into())
    .url_relative(UrlRelative::Deny)
    .link_rel(Some("noopener noreferrer nofollow ugc"));
    b
});

fn is_local(url: &str) -> bool {
    let path = url.strip_prefix('/').unwrap_or(url);
    !path.starts_with(['/', '\\'])
        && !path.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'))
}

/// Which rules a text is shown by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Headings, pictures of this site, tables, and the harmless part of HTML.
    Article,
    /// Emphasis, lists, quotes, code and links; HTML is shown as it was typed.
    Comment,
}

/// The safe HTML of `markdown`.
pub fn render(profile: Profile, markdown: &str) -> String {
    let events = Parser::new_ext(markdown, options()).map(|event| match (profile, event) {
        (Profile::Comment, Event::Html(raw) | Event::InlineHtml(raw)) => Event::Text(raw),
        (_, Event::Start(Tag::Heading { level, id, classes, attrs })) => {
            Event::Start(Tag::Heading { level: below_the_title(level), id, classes, attrs })
        }
        (_, Event::End(TagEnd::Heading(level))) => Event::End(TagEnd::Heading(below_the_title(level))),
        (_, event) => event,
    });
    let mut out = String::with_capacity(markdown.len() * 3 / 2);
    html::push_html(&mut out, events);
    match profile {
        Profile::Article => ARTICLE.clean(&out).to_string(),
        Profile::Comment => COMMENT.clean(&out).to_string(),
    }
}

/// The page's only first-level heading is the article's title.
fn below_the_title(level: HeadingLevel) -> HeadingLevel {
    if level == HeadingLevel::H1 { HeadingLevel::H2 } else { level }
}

/// The words of a Markdown text without its markup, paragraphs separated by spaces.
pub fn plain_text(markdown: &str) -> String {
    let mut out = String::with_capacity(markdown.len());
    for event in shown(markdown) {
        match event {
            Event::Text(t) | Event::Code(t) => out.push_str(&t),
            Event::SoftBreak | Event::HardBreak | Event::End(TagEnd::TableCell) => out.push(' '),
            Event::End(
                TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::Item | TagEnd::CodeBlock | TagEnd::TableRow,
            ) => out.push(' '),
            _ => {}
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text without its markup, and its length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plain {
    /// What [`plain_text`] makes of it.
    pub text: String,
    /// How many words that are.
    pub words: u32,
}

impl Plain {
    /// The plain text of `markdown`.
    pub fn of(markdown: &str) -> Self {
        let text = plain_text(markdown);
        let words = u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX);
        Self { text, words }
    }
}

/// The events without what stands between `<script>` or `<style>` and its end, which is shown nowhere.
fn shown(markdown: &str) -> impl Iterator<Item = Event<'_>> {
    let mut hidden = false;
    Parser::new_ext(markdown, options()).filter(move |event| {
        if let Event::InlineHtml(tag) = event {
            let tag = tag.to_ascii_lowercase();
            let of = |start: &str| {
                ["script", "style"].iter().any(|name| tag.starts_with(&format!("{start}{name}")))
            };
            hidden = of("<") || (hidden && !of("</"));
        }
        !hidden
    })
}

/// The text of the first paragraph, shortened to about `longest` characters: a summary when the author gave none.
pub fn first_paragraph(markdown: &str, longest: usize) -> String {
    let mut text = String::new();
    let mut inside = false;
    for event in shown(markdown) {
        match event {
            Event::Start(Tag::Paragraph) => inside = true,
            Event::End(TagEnd::Paragraph) if !text.trim().is_empty() => break,
            Event::Text(t) | Event::Code(t) if inside => text.push_str(&t),
            Event::SoftBreak | Event::HardBreak if inside => text.push(' '),
            _ => {}
        }
    }
    super::excerpt::shorten(text.trim(), longest)
}

#[cfg(test)]
mod tests;
