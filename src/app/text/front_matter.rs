//! The head of an article's file: TOML between `+++` lines.
//!
//! YAML between `---` lines, which other programs write, is refused in words. No library that reads it is both finished and
//! kept up, and reading the half of it that front matter usually has means to guess at the other half.

use std::collections::BTreeMap;

/// The line before and after the head.
const FENCE: &str = "+++";

/// A value of the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, a number or a date, as it was written.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

/// A head's entries, each with the line (from 1) where it stands, and the text after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a> {
    /// Key → line and value.
    pub head: BTreeMap<String, (usize, Value)>,
    /// The Markdown.
    pub body: &'a str,
}

/// What is wrong, and in which line of the file (from 1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Error {
    pub line: usize,
    /// The reason, in words.
    pub reason: String,
}

impl Error {
    fn at<T>(line: usize, reason: impl Into<String>) -> Result<T, Self> {
        Err(Self { line, reason: reason.into() })
    }
}

/// Splits a file into its head and its text.
pub fn parse(text: &str) -> Result<Document<'_>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    match first.trim_end() {
        FENCE => {}
        "---" => {
            return Error::at(
                1,
                "YAML front matter is not read; write it as TOML between lines of +++: title = \"…\", date = 2026-11-22, \
                 tags = [\"…\"]",
            );
        }
        _ => return Error::at(1, "the file must begin with front matter: TOML between two lines of +++"),
    }
    let head_start = first.len();
    let mut at = head_start;
    for line in lines {
        if line.trim_end() == FENCE {
            let head = toml_head(&text[head_start..at])?;
            return Ok(Document { head, body: text[at + line.len()..].trim_start_matches(['\n', '\r']) });
        }
        at += line.len();
    }
    Error::at(1, "the front matter is not closed by another +++")
}

fn line_of(text: &str, offset: usize) -> usize {
    // The opening fence is line 1.
    2 + text[..offset.min(text.len())].matches('\n').count()
}

fn toml_head(text: &str) -> Result<BTreeMap<String, (usize, Value)>, Error> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error {
        line: line_of(text, e.span().map_or(0, |s| s.start)),
        reason: e.message().replace('\n', " "),
    })?;
    let mut head = BTreeMap::new();
    for (key, value) in table {
        let line = text
            .lines()
            .position(|l| l.split('=').next().is_some_and(|k| k.trim().trim_matches(['"', '\'']) == key))
            .map_or(1, |i| i + 2);
        let scalar = |value: &toml::Value| match value {
            toml::Value::String(s) => Some(s.clone()),
            toml::Value::Integer(n) => Some(n.to_string()),
            toml::Value::Datetime(d) => Some(d.to_string()),
            _ => None,
        };
        let value = match &value {
            toml::Value::Array(items) => {
                items.iter().map(scalar).collect::<Option<Vec<_>>>().map(Value::List)
            }
            other => scalar(other).map(Value::Text),
        };
        match value {
            Some(value) => head.insert(key, (line, value)),
            None => return Error::at(line, format!("{key}: must be a text, a date or a list of texts")),
        };
    }
    Ok(head)
}

#[cfg(test)]
mod tests;
