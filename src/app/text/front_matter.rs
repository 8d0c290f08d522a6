//! The head of an article's file: TOML between `+++` lines or YAML between `---` lines.
//!
//! Of YAML the part that front matter uses is read: `key: value` with plain, single- or double-quoted values, and lists
//! (`[a, b]`, or `- a` lines). What is beyond that is refused with its line, not guessed at.

use std::collections::BTreeMap;

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
    /// Line of the file.
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
    let fence = first.trim_end();
    if !matches!(fence, "+++" | "---") {
        return Error::at(1, "the file must begin with front matter: a line of +++ (TOML) or --- (YAML)");
    }
    let head_start = first.len();
    let mut at = head_start;
    for line in lines {
        if line.trim_end() == fence {
            let head = &text[head_start..at];
            let head = if fence == "+++" { toml_head(head)? } else { yaml_head(head)? };
            return Ok(Document { head, body: text[at + line.len()..].trim_start_matches(['\n', '\r']) });
        }
        at += line.len();
    }
    Error::at(1, format!("the front matter is not closed by another {fence}"))
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

fn yaml_head(text: &str) -> Result<BTreeMap<String, (usize, Value)>, Error> {
    let mut head: BTreeMap<String, (usize, Value)> = BTreeMap::new();
    // The key whose value may follow as `- item` lines.
    let mut open: Option<String> = None;
    for (i, raw) in text.lines().enumerate() {
        let line = i + 2;
        let content = raw.trim_end();
        if content.trim().is_empty() || content.trim_start().starts_with('#') {
            continue;
        }
        if content.contains('\t') && content.starts_with([' ', '\t']) {
            return Error::at(line, "a tab in the indentation");
        }
        let trimmed = content.trim_start();
        if let Some(item) = trimmed.strip_prefix("- ").or((trimmed == "-").then_some("")) {
            let Some(key) = &open else { return Error::at(line, "a list item without a key above it") };
            let item = yaml_scalar(item.trim(), line)?;
            if let Some((_, Value::List(items))) = head.get_mut(key) {
                items.push(item);
            }
            continue;
        }
        if content.starts_with(' ') {
            return Error::at(
                line,
                "nested or continued values are not supported; write the value on the key's line",
            );
        }
        let Some((key, value)) = content.split_once(':') else {
            return Error::at(line, "is not `key: value`");
        };
        let key = key.trim().trim_matches(['"', '\'']).to_owned();
        if !value.is_empty() && !value.starts_with(' ') {
            return Error::at(line, "a space is missing after the colon");
        }
        let value = value.trim();
        let parsed = if value.is_empty() {
            Value::List(Vec::new())
        } else if let Some(list) = value.strip_prefix('[') {
            Value::List(yaml_flow_list(list, line)?)
        } else {
            Value::Text(yaml_scalar(value, line)?)
        };
        open = value.is_empty().then(|| key.clone());
        if head.insert(key.clone(), (line, parsed)).is_some() {
            return Error::at(line, format!("{key} stands here twice"));
        }
    }
    Ok(head)
}

/// The items of `a, "b, c"]`.
fn yaml_flow_list(text: &str, line: usize) -> Result<Vec<String>, Error> {
    let mut items = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix(']') {
            return match after.trim() {
                "" => Ok(items),
                comment if comment.starts_with('#') => Ok(items),
                _ => Error::at(line, "text after the list's closing bracket"),
            };
        }
        let end = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => match quoted_end(rest, quote) {
                Some(end) => end,
                None => return Error::at(line, "a quote is not closed"),
            },
            Some(_) => rest.find([',', ']']).unwrap_or(rest.len()),
            None => return Error::at(line, "the list is not closed by ]"),
        };
        items.push(yaml_scalar(rest[..end].trim(), line)?);
        rest = rest[end..].trim_start();
        if let Some(after) = rest.strip_prefix(',') {
            rest = after.trim_start();
        } else if !rest.starts_with(']') {
            return Error::at(line, "the list is not closed by ]");
        }
    }
}

/// Where the quoted text at the beginning of `text` ends, its closing quote included.
fn quoted_end(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if c == '\\' && quote == '"' {
            chars.next();
        } else if c == quote {
            if quote == '\'' && chars.peek().is_some_and(|(_, next)| *next == '\'') {
                chars.next();
            } else {
                return Some(i + c.len_utf8());
            }
        }
    }
    None
}

fn yaml_scalar(text: &str, line: usize) -> Result<String, Error> {
    if let Some(quote @ ('"' | '\'')) = text.chars().next() {
        let Some(end) = quoted_end(text, quote) else { return Error::at(line, "a quote is not closed") };
        let rest = text[end..].trim();
        if !rest.is_empty() && !rest.starts_with('#') {
            return Error::at(line, "text after the closing quote");
        }
        let inner = &text[1..end - 1];
        return if quote == '\'' { Ok(inner.replace("''", "'")) } else { unescape(inner, line) };
    }
    if text.starts_with(['&', '*', '!', '|', '>', '%', '@', '`', '{', '[']) {
        return Error::at(
            line,
            "anchors, block texts and nested values are not supported; put the value in quotes",
        );
    }
    let text = text.split_once(" #").map_or(text, |(before, _)| before.trim_end());
    if text.contains(": ") || text.ends_with(':') {
        return Error::at(line, "a value with a colon must stand in quotes");
    }
    Ok(text.to_owned())
}

fn unescape(text: &str, line: usize) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some(c @ ('"' | '\\' | '/')) => out.push(c),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some(c) => return Error::at(line, format!("\\{c} is no escape that is known here")),
            None => return Error::at(line, "a backslash at the end"),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
